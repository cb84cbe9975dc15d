// Inner loops whose speed Swift cannot promise. Every function takes the instruction-set level to run at, gives the same
// bits at each level, and never reads or writes outside the rectangle it is given. Callers check sizes; nothing here allocates.
//
// bf16 values travel as uint16_t bit patterns. A "stride" counts elements between the starts of two rows.
#ifndef CKERNELS_H
#define CKERNELS_H

#include <stddef.h>
#include <stdint.h>

#include "ggml_blocks.h"

/// Outputs in a panel of packed weights, tokens in a block of packed activations.
enum { CK_PANEL = 16, CK_TOKEN_BLOCK = 24 };

enum { CK_PLAIN = 0, CK_NEON = 1, CK_AVX2 = 2, CK_AVX512 = 3 };

/// The fastest level this processor runs. CK_AVX512 asks for F, BW, VL, DQ and VBMI.
int ck_best_level(void);

/// E4M3 codes times F32 scales, rounded to nearest even BF16: rows that share their scales, one scale for each
/// `block_columns` columns. `tables` is room for CK_TABLE_WORDS words a block.
enum { CK_TABLE_WORDS = 160 };
void ck_e4m3_decode(int level, const uint8_t *source, uint16_t *target, size_t rows, size_t columns, size_t block_columns,
                    const float *scales, uint16_t *tables);

/// E4M3 codes of F32(w) / scale (a true division), clamped to +-448, rounded to nearest even. Values must be finite.
void ck_e4m3_encode(int level, const uint16_t *source, size_t source_stride, uint8_t *target, size_t target_stride,
                    size_t rows, size_t columns, float scale);

/// E4M3 codes of F32(w) * factor, where a group's factor is a power of two, so that the product is exact or its code zero; at most 448, rounded to
/// nearest even.
enum { CK_MX_GROUP = 32 };
void ck_e4m3_encode_groups(int level, const uint16_t *source, size_t groups, const float *factors, uint8_t *target);

/// The largest magnitude as BF16 bits without the sign; 0x7F80 or more says that a value was not finite.
uint16_t ck_bf16_amax(int level, const uint16_t *source, size_t stride, size_t rows, size_t columns);

/// One amax (BF16 bits) for each group of `size` neighbours.
void ck_bf16_group_amax(int level, const uint16_t *source, size_t groups, size_t size, uint16_t *amax);

/// round_bf16(amax / half_range) in place; a zero becomes BF16's epsilon 2^-7 (compressed-tensors' rule).
void ck_bf16_symmetric_scales(uint16_t *amax, size_t groups, float half_range);

/// Least and greatest value of each group, both extended to include 0, as BF16 bits. Values are finite.
void ck_bf16_group_range(int level, const uint16_t *source, size_t groups, size_t size, uint16_t *least, uint16_t *greatest);

/// compressed-tensors' asymmetric 4-bit parameters, each step in BF16: scale = (greatest - least) / 15, zero point =
/// rint(clamp(-8 - least / scale, -8, 7)); an all-zero group gets 2^-7 and 0.
void ck_bf16_asymmetric_parameters(const uint16_t *least, const uint16_t *greatest, size_t groups, uint16_t *scales, int8_t *zero_points);

/// 4-bit codes rint(clamp(bf16(bf16(w / scale) + zero_point), -8, 7)) + 8, low nibble first. `zero_points` may be NULL.
/// `size` is even; values and scales are finite.
void ck_int4_encode(int level, const uint16_t *source, const uint16_t *scales, const int8_t *zero_points,
                    size_t groups, size_t size, uint8_t *target);

/// bf16(bf16(code - zero_point) * scale) of 4-bit codes stored with an offset of 8. `zero_points` may be NULL.
void ck_int4_decode(int level, const uint8_t *source, const uint16_t *scales, const int8_t *zero_points,
                    size_t groups, size_t size, uint16_t *target);

/// 8-bit codes rint(clamp(bf16(w / scale), -128, 127)) + 128.
void ck_int8_encode(int level, const uint16_t *source, const uint16_t *scales, size_t groups, size_t size, uint8_t *target);
void ck_int8_decode(int level, const uint8_t *source, const uint16_t *scales, size_t groups, size_t size, uint16_t *target);

/// E4M3 codes of clamp(bf16(w / scale), +-448): compressed-tensors' float-quantized arithmetic, in the weight's dtype.
void ck_e4m3_encode_bf16_scale(int level, const uint16_t *source, uint16_t scale, size_t count, uint8_t *target);

/// Tiles of groups: `groups` runs of `size` values in each of `rows` rows that lie `stride` values apart. What belongs to groups is [rows][groups].

/// Least and greatest of each group, as BF16 bits; a value that is not finite is among them if there is any.
void ck_bf16_ranges(
    int level, const uint16_t *source, size_t stride, size_t rows, size_t groups, size_t size, uint16_t *least, uint16_t *greatest);

/// AutoAWQ's scales (in F16; infinite where F16 has no room) and zero points of what groups span.
void ck_awq_parameters(int level, const uint16_t *least, const uint16_t *greatest, size_t count, float *scales, float *zeros);
/// GPTQModel's, in F32, for 0 ... codes; `middle` is the zero point of symmetric ones, 0 for others.
void ck_gptq_parameters(
    int level, const uint16_t *least, const uint16_t *greatest, size_t count, float codes, float middle, float *scales, float *zeros);
/// MLX's scales and biases, in F32, for 0 ... bins.
void ck_mlx_parameters(int level, const uint16_t *least, const uint16_t *greatest, size_t count, float bins, float *scales, float *biases);

/// Codes [rows][groups * size], clamped to 0 ... greatest and rounded to nearest even: rint(w / scale) + offset in F32 or with every step
/// rounded to F16, or rint((w - offset) / scale). Values, scales and offsets are finite; zero points are codes.
enum { CK_ZERO_POINT_F32 = 0, CK_ZERO_POINT_F16 = 1, CK_BIAS_F32 = 2 };
void ck_affine_encode(
    int level, const uint16_t *source, size_t stride, size_t rows, size_t groups, size_t size, const float *scales, const float *offsets,
    float greatest, int rule, uint8_t *codes);

/// (code - offset) * scale, or code * scale + offset if the offset is a bias, each step rounded to `type`, then to BF16.
enum { CK_TYPE_F32 = 0, CK_TYPE_BF16 = 1, CK_TYPE_F16 = 2 };
void ck_affine_decode(int level, const uint8_t *codes, size_t count, float scale, float offset, int is_bias, int type, uint16_t *target);

/// Codes of 1 to 8 bits laid one after another, lowest bits first; `target` gets every byte that a code touches.
void ck_pack_codes(int level, const uint8_t *codes, size_t count, int bits, uint8_t *target);
void ck_unpack_codes(int level, const uint8_t *source, size_t count, int bits, uint8_t *codes);

/// Words turned over: target[c * target_stride + r] = source[r * source_stride + c].
void ck_turn_words(int level, const uint32_t *source, size_t source_stride, size_t rows, size_t columns, uint32_t *target, size_t target_stride);

/// 4-bit codes [rows][columns] to and from AutoAWQ's words [columns][rows / 8], the words' rows `stride` apart; rows divide by 8.
void ck_awq_pack(int level, const uint8_t *codes, size_t rows, size_t columns, uint32_t *words, size_t stride);
void ck_awq_unpack(int level, const uint32_t *words, size_t rows, size_t columns, uint8_t *codes);

/// E2M1 codes, two to a byte, the even one low, of groups of `size` neighbours with a scale each: of w / scale, ties to even; of
/// round_bf16(w * scale), ties to even; or of w * scale, ties to the smaller magnitude and without negative zero. `size` is even, values are finite.
enum { CK_E2M1_DIVIDE = 0, CK_E2M1_MULTIPLY = 1, CK_E2M1_MULTIPLY_DOWN = 2 };
void ck_e2m1_encode(int level, const uint16_t *source, size_t groups, size_t size, const float *scales, int rule, uint8_t *target);

/// round_bf16(code * scale) of E2M1 codes; the code of negative zero keeps its sign or not.
void ck_e2m1_decode(int level, const uint8_t *source, size_t groups, size_t size, const float *scales, int negative_zero, uint16_t *target);

void ck_bf16_to_f32(const uint16_t *source, float *target, size_t count);
void ck_f32_to_bf16(const float *source, uint16_t *target, size_t count);
/// The nearest F16 as F32; infinite beyond 65504 + 16.
float ck_round_f16(float value);
void ck_f16_to_f32(int level, const uint16_t *source, float *target, size_t count);
void ck_f32_to_f16(int level, const float *source, uint16_t *target, size_t count);

/// Multiplies F32 values in place.
void ck_f32_scale(float *values, size_t count, float scale);

/// Rounds F32 values to BF16 in place.
void ck_round_to_bf16(float *values, size_t count);

/// DeepSeek's activation quantization of one row, in place: for each 128 values scale = max(amax, 1e-4) / 448 and value =
/// E4M3(x / scale); the scales go to `scales`, the codes' values stay in `values`.
void ck_quantize_activations(float *values, size_t count, float *scales);

/// y[t][n] += sum[t][n] * token_scales[t * stride] * scales[n] for n < width, in this order; clears `sum`.
void ck_add_scaled(float *sum, size_t tokens, const float *token_scales, size_t stride, const float *scales, float *y, size_t y_stride,
                   size_t width);

/// How many BF16 values are infinite or NaN.
size_t ck_bf16_count_nonfinite(const uint16_t *source, size_t count);

/// How many values have all bits of `mask` set: the exponent of NaN and infinity in the type's own place.
size_t ck_count_masked8(const uint8_t *source, size_t count, uint8_t mask);
size_t ck_count_masked16(const uint16_t *source, size_t count, uint16_t mask);
size_t ck_count_masked32(const uint32_t *source, size_t count, uint32_t mask);
size_t ck_count_masked64(const uint64_t *source, size_t count, uint64_t mask);

/// How many values are, as unsigned numbers, above `limit`: negative floating numbers are above every positive one.
size_t ck_count_above16(const uint16_t *source, size_t count, uint16_t limit);
size_t ck_count_above32(const uint32_t *source, size_t count, uint32_t limit);

/// Adds up one row: sums of reference^2, (reference - candidate)^2, reference * candidate, candidate^2 and |reference - candidate|
/// in F64, the largest
/// |reference - candidate| and how many values differ. Element i goes to lane i mod 16 and the lanes are joined in order, so
/// the bits are the same at every level. Two NaNs count as equal.
typedef struct { double signal, noise, product, candidate, absolute; float max_abs; size_t different; } ck_error_sums;
void ck_bf16_error(int level, const uint16_t *reference, const uint16_t *candidate, size_t count, ck_error_sums *sums);
/// Signal, noise and the largest difference of the same, for half of the work.
void ck_bf16_noise(int level, const uint16_t *reference, const uint16_t *candidate, size_t count, ck_error_sums *sums);
void ck_f32_error(const float *reference, const float *candidate, size_t count, ck_error_sums *sums);

/// Groups of `group` neighbours of which nothing is left: the cosine of the reference's and the candidate's is 0.3 at most, as where the
/// candidate holds zeros or another group. Of such the sum of (reference - candidate)^2: returns the largest or `lost`, whichever is larger; NaN where a sum is none.
float ck_bf16_lost(const uint16_t *reference, const uint16_t *candidate, size_t count, size_t group, float lost);
float ck_f32_lost(const float *reference, const float *candidate, size_t count, size_t group, float lost);

/// How many values are further apart than |reference| * step or `smallest`, whichever is larger. Two NaNs are not apart.
size_t ck_f32_apart(const float *reference, const float *candidate, size_t count, float step, float smallest);

/// Up to 24 tokens as packed[k][t]; missing tokens are zero.
void ck_pack_tokens(int level, const float *x, size_t stride, size_t tokens, size_t depth, float *packed);

/// y[t][n] starts at zero, or `continues`, with packed[k][t] * panel[k][n] for ascending k, each step one fused multiply-add; t < `tokens` <= 24. The
/// panels of 16 outputs each that `width` outputs are in lie `panel_stride` apart.
void ck_matrix_product(int level, const float *packed, size_t tokens, const float *panels, size_t panel_stride, size_t depth, float *y,
                       size_t y_stride, size_t width, int continues);

/// c[i][j] += sign * (the sum of a[k][i] b[k][j] over ascending k < `depth`, from zero), in F64; i < `rows`, j < `columns`.
void ck_double_product(int level, const double *a, size_t a_stride, const double *b, size_t b_stride, double *c, size_t c_stride, size_t depth,
                       size_t rows, size_t columns, double sign);

/// Scores of one query, scaled by `scale` (and `rounds` to BF16), become e^(s - m) / sum over `count` of them and the sink, m being the largest
/// of all; a sink of -infinity is none. The sum is in F64 by 16 lanes. A NaN makes all NaN.
void ck_softmax(int level, float *scores, size_t count, float scale, float sink, int rounds);

/// Packs up to 16 rows of `depth` values as panel[k][n]; missing rows are zero.
void ck_pack_bf16_panel(int level, const uint16_t *rows, size_t stride, size_t count, size_t depth, float *panel);
void ck_pack_f32_panel(const float *rows, size_t stride, size_t count, size_t depth, float *panel);

/// e^x in place, from IEEE F64 operations only: the same bits on every machine; off by less than 0.501 units of F32.
void ck_exp(int level, float *values, size_t count);

/// gate = silu(gate) * up with silu(x) = x / (1 + e^-x); `rounds` to BF16 after each of the two steps.
void ck_silu_gate(int level, float *gate, const float *up, size_t count, int rounds);

/// Rounds weights to codes c = clamp(rint((w - bias) / scale), 0, greatest) and sums over the group, h being the importance: h e^2
/// with e = w - (scale c + bias), h c w, h c^2, h c, h w, h.
void ck_grid_sums(int level, const float *weights, const float *importance, size_t count, float scale, float bias, float greatest, float *sums);

/// The first of those sums, the error, for each of some scales and biases.
void ck_grid_errors(int level, const float *weights, const float *importance, size_t count, const float *scales, const float *biases,
                    size_t candidates, float greatest, float *errors);

/// Those codes.
void ck_nearest_codes(int level, const float *weights, size_t count, float scale, float bias, float greatest, uint8_t *codes);

/// The squared differences of two blocks of BF16 values, each times its column's importance (NULL: 1), added up in F64 in lanes of a fixed order.
double ck_squared_error(int level, const uint16_t *values, size_t stride, const uint16_t *decoded, size_t rows, size_t columns,
                        const float *importance);

/// Rounds `width` columns of CK_PANEL rows one after another. Everything is [column][row]; `values` are the targets, and
/// the error of each column against `weights`, times feedback[column][later], is added to the targets of later columns. The squared
/// miss of every target, times the column's importance, is added to the row's loss. Scales and biases are [group][row], `groups` the columns' groups.
void ck_feedback_round(int level, float *values, const float *weights, const float *feedback, size_t stride, size_t width,
                       const float *scales, const float *biases, const uint32_t *groups, float greatest, const float *importance, float *losses,
                       float *errors, uint8_t *codes);

/// Solves x factor^T = x in place for CK_PANEL rows, `x` being [column][row] and `factor` upper triangular.
void ck_solve_rows(int level, float *x, const float *factor, size_t stride, size_t width);

/// The first `count` columns of `depth` rows as packed[k][t], t < width; missing columns are zero.
void ck_pack_columns(const float *x, size_t stride, size_t depth, size_t count, size_t width, float *packed);

/// Splits `count` floats of `width` 2 or 4 bytes into byte planes, the exponent's first (see byte_planes.c), and back.
void ck_split_planes(int level, const uint8_t *source, uint8_t *planes, size_t count, int width);
void ck_join_planes(int level, const uint8_t *planes, uint8_t *target, size_t count, int width);

/// HDF5's shuffle filter over elements of `width` bytes, and back.
void ck_shuffle(const uint8_t *source, uint8_t *target, size_t size, size_t width);
void ck_unshuffle(const uint8_t *source, uint8_t *target, size_t size, size_t width);

/// Makes the C library keep freed memory for the next allocation (mallopt, which Glibc's Swift module does not show).
void ck_keep_freed_memory(void);
/// One arena for all threads: what one freed serves the others. Before the first thread begins.
void ck_share_freed_memory(void);

/// Processors that this process may use: by affinity and by the quota of its container.
int ck_processor_count(void);

/// The largest resident set of this program so far, in bytes; 0 where the system does not say. (getrusage counts what the process was before exec.)
int64_t ck_peak_resident(void);

/// Bytes of memory that the quota of the container grants; 0 for no limit.
int64_t ck_memory_limit(void);

/// Copies bytes between files inside the kernel (copy_file_range, which Glibc's Swift module does not show).
/// Returns how many were copied, 0 at the end of the file, or -1 where the system or the file system cannot.
int64_t ck_copy_range(int from, int64_t from_offset, int to, int64_t to_offset, size_t count);

/// Makes a file share all blocks of another (FICLONE); nonzero where the system or the file system cannot.
int ck_clone_file(int from, int to);

/// The number of the type of the file system that holds a path (statfs, linux/magic.h); 0 where it cannot be had.
uint32_t ck_file_system_type(const char *path);

/// Whether some bytes of a file were never written, so that they are zeros; 0 where the system or the file system does not say.
int ck_is_hole(int file, int64_t offset, int64_t count);

/// Gives the blocks of some bytes of a file back, so that they are zeros; nonzero where the system or the file system cannot.
int ck_punch_hole(int file, int64_t offset, int64_t count);

#endif
