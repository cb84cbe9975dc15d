// ggml's block types (GGUF tensors), to and from F32, byte for byte what ggml makes of them.
//
// A tensor is rows of blocks; each block holds 32, 64 or 256 neighbours of one row and the scales they share. `level` is one of CK_PLAIN,
// CK_NEON, CK_AVX2, CK_AVX512; the bytes are the same at each level. Nothing is allocated and no state is kept, so that any number of
// threads may encode at once. Callers check sizes:
//
// - decoding reads count * CK_GGML_*_BYTES bytes and writes count * CK_GGML_*_VALUES floats. Any bytes decode, to something.
// - encoding reads rows * columns floats and writes rows * columns / CK_GGML_*_VALUES * CK_GGML_*_BYTES bytes; `columns` divides by
//   CK_GGML_*_VALUES. `importance` is NULL or holds `columns` weights, one for each column, for all rows. Values that are NaN or
//   infinite give blocks without meaning, but never anything outside the buffers.
//
// Blocks and values need no alignment beyond their element's and do not overlap.
#ifndef CK_GGML_BLOCKS_H
#define CK_GGML_BLOCKS_H

#include <stddef.h>
#include <stdint.h>

/// Bytes and values of a block.
enum {
    CK_GGML_Q4_0_BYTES = 18, CK_GGML_Q4_0_VALUES = 32,
    CK_GGML_Q4_1_BYTES = 20, CK_GGML_Q4_1_VALUES = 32,
    CK_GGML_Q5_0_BYTES = 22, CK_GGML_Q5_0_VALUES = 32,
    CK_GGML_Q5_1_BYTES = 24, CK_GGML_Q5_1_VALUES = 32,
    CK_GGML_Q8_0_BYTES = 34, CK_GGML_Q8_0_VALUES = 32,
    CK_GGML_Q2_K_BYTES = 84, CK_GGML_Q2_K_VALUES = 256,
    CK_GGML_Q3_K_BYTES = 110, CK_GGML_Q3_K_VALUES = 256,
    CK_GGML_Q4_K_BYTES = 144, CK_GGML_Q4_K_VALUES = 256,
    CK_GGML_Q5_K_BYTES = 176, CK_GGML_Q5_K_VALUES = 256,
    CK_GGML_Q6_K_BYTES = 210, CK_GGML_Q6_K_VALUES = 256,
    CK_GGML_IQ4_NL_BYTES = 18, CK_GGML_IQ4_NL_VALUES = 32,
    CK_GGML_IQ4_XS_BYTES = 136, CK_GGML_IQ4_XS_VALUES = 256,
    CK_GGML_MXFP4_BYTES = 17, CK_GGML_MXFP4_VALUES = 32,
    CK_GGML_NVFP4_BYTES = 36, CK_GGML_NVFP4_VALUES = 64,
    CK_GGML_TQ1_0_BYTES = 54, CK_GGML_TQ1_0_VALUES = 256,
    CK_GGML_TQ2_0_BYTES = 66, CK_GGML_TQ2_0_VALUES = 256,
    CK_GGML_IQ1_S_BYTES = 50, CK_GGML_IQ1_S_VALUES = 256,
    CK_GGML_IQ1_M_BYTES = 56, CK_GGML_IQ1_M_VALUES = 256,
    CK_GGML_IQ2_XXS_BYTES = 66, CK_GGML_IQ2_XXS_VALUES = 256,
    CK_GGML_IQ2_XS_BYTES = 74, CK_GGML_IQ2_XS_VALUES = 256,
    CK_GGML_IQ2_S_BYTES = 82, CK_GGML_IQ2_S_VALUES = 256,
    CK_GGML_IQ3_XXS_BYTES = 98, CK_GGML_IQ3_XXS_VALUES = 256,
    CK_GGML_IQ3_S_BYTES = 110, CK_GGML_IQ3_S_VALUES = 256,
};

/// Blocks of 32 with an F16 scale: signed 4-bit codes; unsigned ones and an F16 minimum; the same with 5 bits; signed bytes.
void ck_ggml_decode_q4_0(int level, const uint8_t *blocks, float *values, size_t count);
void ck_ggml_decode_q4_1(int level, const uint8_t *blocks, float *values, size_t count);
void ck_ggml_decode_q5_0(int level, const uint8_t *blocks, float *values, size_t count);
void ck_ggml_decode_q5_1(int level, const uint8_t *blocks, float *values, size_t count);
void ck_ggml_decode_q8_0(int level, const uint8_t *blocks, float *values, size_t count);

/// The K types: 256 values in groups of 16 (2, 3 and 6 bits) or 32 (4 and 5), whose scales (2, 4 and 5 bits: and minima) are themselves
/// codes of the block's F16 scales.
void ck_ggml_decode_q2_K(int level, const uint8_t *blocks, float *values, size_t count);
void ck_ggml_decode_q3_K(int level, const uint8_t *blocks, float *values, size_t count);
void ck_ggml_decode_q4_K(int level, const uint8_t *blocks, float *values, size_t count);
void ck_ggml_decode_q5_K(int level, const uint8_t *blocks, float *values, size_t count);
void ck_ggml_decode_q6_K(int level, const uint8_t *blocks, float *values, size_t count);

/// 4-bit codes into a table of sixteen uneven steps: blocks of 32 with an F16 scale, or eight groups of 32 with 6-bit scales.
void ck_ggml_decode_iq4_nl(int level, const uint8_t *blocks, float *values, size_t count);
void ck_ggml_decode_iq4_xs(int level, const uint8_t *blocks, float *values, size_t count);

/// E2M1 codes: 32 with an E8M0 scale, or four groups of 16 with an unsigned E4M3 scale each. The scale of a whole NVFP4 tensor is a
/// tensor of its own and not applied here.
void ck_ggml_decode_mxfp4(int level, const uint8_t *blocks, float *values, size_t count);
void ck_ggml_decode_nvfp4(int level, const uint8_t *blocks, float *values, size_t count);

/// Codes -1, 0, 1 and (with 2 bits each) 2: five to a byte, or four.
void ck_ggml_decode_tq1_0(int level, const uint8_t *blocks, float *values, size_t count);
void ck_ggml_decode_tq2_0(int level, const uint8_t *blocks, float *values, size_t count);

/// Eight (IQ1, IQ2) or four (IQ3) values at a time, as points of a grid with signs of their own.
void ck_ggml_decode_iq1_s(int level, const uint8_t *blocks, float *values, size_t count);
void ck_ggml_decode_iq1_m(int level, const uint8_t *blocks, float *values, size_t count);
void ck_ggml_decode_iq2_xxs(int level, const uint8_t *blocks, float *values, size_t count);
void ck_ggml_decode_iq2_xs(int level, const uint8_t *blocks, float *values, size_t count);
void ck_ggml_decode_iq2_s(int level, const uint8_t *blocks, float *values, size_t count);
void ck_ggml_decode_iq3_xxs(int level, const uint8_t *blocks, float *values, size_t count);
void ck_ggml_decode_iq3_s(int level, const uint8_t *blocks, float *values, size_t count);

/// Without importance the scale is what the largest value asks for. With it, scales near that one are tried (and minima, for the types
/// that have some) and the one of least weighted squared error is taken; a value's weight also grows with its size against its row.
void ck_ggml_encode_q4_0(int level, const float *values, const float *importance, uint8_t *blocks, size_t rows, size_t columns);
void ck_ggml_encode_q4_1(int level, const float *values, const float *importance, uint8_t *blocks, size_t rows, size_t columns);
void ck_ggml_encode_q5_0(int level, const float *values, const float *importance, uint8_t *blocks, size_t rows, size_t columns);
void ck_ggml_encode_q5_1(int level, const float *values, const float *importance, uint8_t *blocks, size_t rows, size_t columns);

/// `importance` changes nothing.
void ck_ggml_encode_q8_0(int level, const float *values, const float *importance, uint8_t *blocks, size_t rows, size_t columns);

/// The scales of groups are searched for either way; with importance the scales of those scales are, too.
void ck_ggml_encode_q2_K(int level, const float *values, const float *importance, uint8_t *blocks, size_t rows, size_t columns);
void ck_ggml_encode_q3_K(int level, const float *values, const float *importance, uint8_t *blocks, size_t rows, size_t columns);
void ck_ggml_encode_q4_K(int level, const float *values, const float *importance, uint8_t *blocks, size_t rows, size_t columns);
void ck_ggml_encode_q5_K(int level, const float *values, const float *importance, uint8_t *blocks, size_t rows, size_t columns);
void ck_ggml_encode_q6_K(int level, const float *values, const float *importance, uint8_t *blocks, size_t rows, size_t columns);
void ck_ggml_encode_iq4_nl(int level, const float *values, const float *importance, uint8_t *blocks, size_t rows, size_t columns);
void ck_ggml_encode_iq4_xs(int level, const float *values, const float *importance, uint8_t *blocks, size_t rows, size_t columns);

/// `importance` changes nothing.
void ck_ggml_encode_mxfp4(int level, const float *values, const float *importance, uint8_t *blocks, size_t rows, size_t columns);
void ck_ggml_encode_nvfp4(int level, const float *values, const float *importance, uint8_t *blocks, size_t rows, size_t columns);

#endif
