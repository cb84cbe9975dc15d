// What quantizers do for every weight: sums of a group's errors, and rounding with error feedback over blocks of 16 rows. All
// additions have a fixed order; the loops run over independent lanes, so the bits are those of the plain loop at every level.
#include "CKernels.h"
#include "scalar.h"

enum { LANES = 16, ROWS = CK_PANEL };

#define CK_BODY static inline __attribute__((always_inline))

/// A value of each of the rows. A type and not an array: of two nested loops the compiler must not take the outer one for its lanes.
typedef float row_values __attribute__((vector_size(ROWS * sizeof(float)), aligned(4)));

/// target[j] += sign * value * factors[j * step] for j < count.
CK_BODY void add_products(float *targets, const float *values, const float *factors, size_t step, size_t count, float sign) {
    row_values *target = (row_values *)targets, value = *(const row_values *)values;
    for (size_t j = 0; j < count; j++) {
        row_values factor = (row_values){0} + sign * factors[j * step];
        target[j] = __builtin_elementwise_fma(value, factor, target[j]);
    }
}

/// The code of no number is 0: where a scale is 0 all codes mean the same.
CK_BODY float nearest_code(float value, float greatest) {
    float code = rintf(value);
    code = code > 0.0f ? code : 0.0f;
    return code > greatest ? greatest : code;
}

CK_BODY void grid_sums(const float *weights, const float *importance, size_t count, float scale, float bias, float greatest, float *sums) {
    float lanes[6][LANES] = {{0}};
    float inverse = 1.0f / scale;
    for (size_t start = 0; start < count; start += LANES) {
        size_t width = count - start < LANES ? count - start : LANES;
        float w[LANES] = {0}, h[LANES] = {0};
        // A copy of known size is a register's load, and not a call.
        if (width == LANES) {
            memcpy(w, weights + start, sizeof w);
            memcpy(h, importance + start, sizeof h);
        } else {
            memcpy(w, weights + start, width * sizeof(float));
            memcpy(h, importance + start, width * sizeof(float));
        }
        for (int i = 0; i < LANES; i++) {
            float code = nearest_code((w[i] - bias) * inverse, greatest);
            float error = w[i] - fmaf(scale, code, bias);
            float weighted = h[i] * code;
            lanes[0][i] = fmaf(h[i] * error, error, lanes[0][i]);
            lanes[1][i] = fmaf(weighted, w[i], lanes[1][i]);
            lanes[2][i] = fmaf(weighted, code, lanes[2][i]);
            lanes[3][i] += weighted;
            lanes[4][i] = fmaf(h[i], w[i], lanes[4][i]);
            lanes[5][i] += h[i];
        }
    }
    for (int sum = 0; sum < 6; sum++) {
        float total = 0.0f;
        for (int i = 0; i < LANES; i++) total += lanes[sum][i];
        sums[sum] = total;
    }
}

/// The first of those sums for many scales at once, a scale in each lane: values go to sums of their own as above, and these are added in that order.
CK_BODY void grid_errors(const float *weights, const float *importance, size_t count, const float *scales, const float *biases, size_t candidates,
                         float greatest, float *errors) {
    for (size_t first = 0; first < candidates; first += LANES) {
        size_t width = candidates - first < LANES ? candidates - first : LANES;
        float scale[LANES], bias[LANES], inverse[LANES], sums[LANES][LANES] = {{0}}, total[LANES] = {0};
        for (size_t c = 0; c < LANES; c++) {
            scale[c] = scales[first + (c < width ? c : 0)];
            bias[c] = biases[first + (c < width ? c : 0)];
            inverse[c] = 1.0f / scale[c];
        }
        for (size_t i = 0; i < count; i++) {
            float w = weights[i], h = importance[i], *sum = sums[i % LANES];
            for (int c = 0; c < LANES; c++) {
                float error = w - fmaf(scale[c], nearest_code((w - bias[c]) * inverse[c], greatest), bias[c]);
                sum[c] = fmaf(h * error, error, sum[c]);
            }
        }
        for (int i = 0; i < LANES; i++)
            for (int c = 0; c < LANES; c++) total[c] += sums[i][c];
        memcpy(errors + first, total, width * sizeof(float));
    }
}

CK_BODY void nearest_codes(const float *weights, size_t count, float scale, float bias, float greatest, uint8_t *codes) {
    float inverse = 1.0f / scale;
    for (size_t i = 0; i < count; i++) codes[i] = (uint8_t)nearest_code((weights[i] - bias) * inverse, greatest);
}

CK_BODY void feedback_round(float *restrict values, const float *restrict weights, const float *restrict feedback, size_t stride, size_t width,
                            const float *restrict scales, const float *restrict biases, const uint32_t *restrict groups, float greatest,
                            const float *restrict importance, float *restrict losses, float *restrict errors, uint8_t *restrict codes) {
    float loss[ROWS];
    memcpy(loss, losses, sizeof loss);
    for (size_t i = 0; i < width; i++) {
        const float *v = values + i * ROWS, *s = scales + groups[i] * (size_t)ROWS, *b = biases + groups[i] * (size_t)ROWS;
        const float *w = weights + i * ROWS;
        float e[ROWS];
        uint8_t c[ROWS];
        for (int t = 0; t < ROWS; t++) {
            float code = nearest_code((v[t] - b[t]) / s[t], greatest);
            float value = fmaf(s[t], code, b[t]), miss = v[t] - value;
            loss[t] = fmaf(importance[i] * miss, miss, loss[t]);
            c[t] = (uint8_t)code;
            e[t] = w[t] - value;
        }
        memcpy(codes + i * ROWS, c, sizeof c);
        memcpy(errors + i * ROWS, e, sizeof e);
        add_products(values + (i + 1) * ROWS, e, feedback + i * stride + i + 1, 1, width - i - 1, 1.0f);
    }
    memcpy(losses, loss, sizeof loss);
}

CK_BODY void solve_rows(float *x, const float *factor, size_t stride, size_t width) {
    for (size_t c = width; c-- > 0;) {
        float diagonal = factor[c * stride + c];
        float *solved = x + c * ROWS;
        for (int t = 0; t < ROWS; t++) solved[t] /= diagonal;
        add_products(x, solved, factor + c, stride, c, -1.0f);
    }
}

CK_BODY void squared_error(const uint16_t *values, size_t stride, const uint16_t *decoded, size_t rows, size_t columns, const float *importance,
                           double *error) {
    double lanes[LANES] = {0};
    for (size_t row = 0; row < rows; row++) {
        const uint16_t *v = values + row * stride, *d = decoded + row * columns;
        for (size_t start = 0; start < columns; start += LANES) {
            size_t width = columns - start < LANES ? columns - start : LANES;
            uint16_t a[LANES] = {0}, b[LANES] = {0};
            float h[LANES];
            for (int i = 0; i < LANES; i++) h[i] = 1.0f;
            memcpy(a, v + start, width * sizeof(uint16_t));
            memcpy(b, d + start, width * sizeof(uint16_t));
            if (importance) memcpy(h, importance + start, width * sizeof(float));
            for (int i = 0; i < LANES; i++) {
                double miss = ck_from_bf16(a[i]) - ck_from_bf16(b[i]);
                lanes[i] += miss * miss * h[i];
            }
        }
    }
    *error = 0.0;
    for (int i = 0; i < LANES; i++) *error += lanes[i];
}

#if defined(__x86_64__)
#define CK_DISPATCH(NAME, PARAMETERS, ARGUMENTS)                                                  \
    CK_TARGET_AVX512 static void NAME##_avx512 PARAMETERS { NAME ARGUMENTS; }                     \
    CK_TARGET_AVX2 static void NAME##_avx2 PARAMETERS { NAME ARGUMENTS; }                         \
    static void NAME##_plain PARAMETERS { NAME ARGUMENTS; }
#define CK_CALL(NAME, ARGUMENTS)                          \
    if (level == CK_AVX512) NAME##_avx512 ARGUMENTS;      \
    else if (level == CK_AVX2) NAME##_avx2 ARGUMENTS;     \
    else NAME##_plain ARGUMENTS
#else
#define CK_DISPATCH(NAME, PARAMETERS, ARGUMENTS)
#define CK_CALL(NAME, ARGUMENTS) (void)level; NAME ARGUMENTS
#endif

CK_DISPATCH(grid_sums, (const float *weights, const float *importance, size_t count, float scale, float bias, float greatest, float *sums),
            (weights, importance, count, scale, bias, greatest, sums))
CK_DISPATCH(grid_errors,
            (const float *weights, const float *importance, size_t count, const float *scales, const float *biases, size_t candidates,
             float greatest, float *errors),
            (weights, importance, count, scales, biases, candidates, greatest, errors))
CK_DISPATCH(nearest_codes, (const float *weights, size_t count, float scale, float bias, float greatest, uint8_t *codes),
            (weights, count, scale, bias, greatest, codes))
CK_DISPATCH(feedback_round,
            (float *values, const float *weights, const float *feedback, size_t stride, size_t width, const float *scales, const float *biases,
             const uint32_t *groups, float greatest, const float *importance, float *losses, float *errors, uint8_t *codes),
            (values, weights, feedback, stride, width, scales, biases, groups, greatest, importance, losses, errors, codes))
CK_DISPATCH(solve_rows, (float *x, const float *factor, size_t stride, size_t width), (x, factor, stride, width))
CK_DISPATCH(squared_error,
            (const uint16_t *values, size_t stride, const uint16_t *decoded, size_t rows, size_t columns, const float *importance, double *error),
            (values, stride, decoded, rows, columns, importance, error))

void ck_grid_sums(int level, const float *weights, const float *importance, size_t count, float scale, float bias, float greatest, float *sums) {
    CK_CALL(grid_sums, (weights, importance, count, scale, bias, greatest, sums));
}

void ck_grid_errors(int level, const float *weights, const float *importance, size_t count, const float *scales, const float *biases,
                    size_t candidates, float greatest, float *errors) {
    CK_CALL(grid_errors, (weights, importance, count, scales, biases, candidates, greatest, errors));
}

void ck_nearest_codes(int level, const float *weights, size_t count, float scale, float bias, float greatest, uint8_t *codes) {
    CK_CALL(nearest_codes, (weights, count, scale, bias, greatest, codes));
}

void ck_feedback_round(int level, float *values, const float *weights, const float *feedback, size_t stride, size_t width,
                       const float *scales, const float *biases, const uint32_t *groups, float greatest, const float *importance, float *losses,
                       float *errors, uint8_t *codes) {
    CK_CALL(feedback_round, (values, weights, feedback, stride, width, scales, biases, groups, greatest, importance, losses, errors, codes));
}

void ck_solve_rows(int level, float *x, const float *factor, size_t stride, size_t width) { CK_CALL(solve_rows, (x, factor, stride, width)); }

double ck_squared_error(int level, const uint16_t *values, size_t stride, const uint16_t *decoded, size_t rows, size_t columns,
                        const float *importance) {
    double error;
    CK_CALL(squared_error, (values, stride, decoded, rows, columns, importance, &error));
    return error;
}

void ck_pack_columns(const float *x, size_t stride, size_t depth, size_t count, size_t width, float *packed) {
    for (size_t k = 0; k < depth; k++) {
        memcpy(packed + k * width, x + k * stride, count * sizeof(float));
        for (size_t t = count; t < width; t++) packed[k * width + t] = 0.0f;
    }
}
