// ggml's 4-bit codes of uneven steps: IQ4_NL (32 values, one scale) and IQ4_XS (256, a 6-bit scale for each 32).
#include "ggml_search.h"

static const int8_t steps[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

// MARK: Decoding

/// Steps of sixteen codes; a byte shuffle where the processor has one.
typedef lane_bytes (*look_up)(lane_bytes);

static inline lane_bytes look_up_plain(lane_bytes codes) {
    for (int j = 0; j < LANES; j++) codes[j] = (uint8_t)steps[codes[j]];
    return codes;
}

#if defined(__x86_64__)
CK_TARGET_AVX2 static inline lane_bytes look_up_avx2(lane_bytes codes) {
    return (lane_bytes)_mm_shuffle_epi8(_mm_loadu_si128((const __m128i *)(const void *)steps), (__m128i)codes);
}
#elif defined(__aarch64__)
static inline lane_bytes look_up_neon(lane_bytes codes) {
    return (lane_bytes)vqtbl1q_u8(vreinterpretq_u8_s8(vld1q_s8(steps)), (uint8x16_t)codes);
}
#endif

CK_BODY void put_steps(lane_bytes codes, float d, float *values, look_up look) {
    typedef int8_t lane_steps __attribute__((vector_size(16)));
    store_lanes(values, d * __builtin_convertvector(__builtin_convertvector((lane_steps)look(codes), lane_ints), lanes));
}

CK_BODY void group_values(const uint8_t *codes, float d, float *values, look_up look) {
    lane_bytes pairs = load_bytes(codes);
    put_steps(pairs & 15, d, values, look);
    put_steps(pairs >> 4, d, values + LANES, look);
}

CK_BODY void iq4_nl_decoder(const uint8_t *blocks, float *values, size_t count, look_up look) {
    for (size_t i = 0; i < count; i++, blocks += CK_GGML_IQ4_NL_BYTES) group_values(blocks + 2, half_at(blocks), values + i * 32, look);
}

CK_BODY void iq4_xs_decoder(const uint8_t *blocks, float *values, size_t count, look_up look) {
    for (size_t i = 0; i < count; i++, blocks += CK_GGML_IQ4_XS_BYTES) {
        float d = half_at(blocks);
        unsigned upper = word_at(blocks + 2);
        for (int group = 0; group < 8; group++) {
            int scale = (blocks[4 + group / 2] >> group % 2 * 4 & 15) | (int)((upper >> 2 * group) & 3) << 4;
            group_values(blocks + 8 + group * 16, d * (float)(scale - 32), values + i * 256 + group * 32, look);
        }
    }
}

#if defined(__x86_64__)
#define CK_IQ4_DECODER(TYPE)                                                                                                            \
    CK_TARGET_AVX512 static void TYPE##_decoder_avx512(const uint8_t *b, float *v, size_t n) { TYPE##_decoder(b, v, n, look_up_avx2); } \
    CK_TARGET_AVX2 static void TYPE##_decoder_avx2(const uint8_t *b, float *v, size_t n) { TYPE##_decoder(b, v, n, look_up_avx2); }     \
    void ck_ggml_decode_##TYPE(int level, const uint8_t *blocks, float *values, size_t count) {                                         \
        if (level == CK_AVX512) TYPE##_decoder_avx512(blocks, values, count);                                                           \
        else if (level == CK_AVX2) TYPE##_decoder_avx2(blocks, values, count);                                                          \
        else TYPE##_decoder(blocks, values, count, look_up_plain);                                                                      \
    }
#elif defined(__aarch64__)
#define CK_IQ4_DECODER(TYPE)                                                                                    \
    void ck_ggml_decode_##TYPE(int level, const uint8_t *blocks, float *values, size_t count) {                 \
        if (level == CK_NEON) TYPE##_decoder(blocks, values, count, look_up_neon);                              \
        else TYPE##_decoder(blocks, values, count, look_up_plain);                                              \
    }
#else
#define CK_IQ4_DECODER(TYPE)                                                                                    \
    void ck_ggml_decode_##TYPE(int level, const uint8_t *blocks, float *values, size_t count) {                 \
        (void)level;                                                                                            \
        TYPE##_decoder(blocks, values, count, look_up_plain);                                                   \
    }
#endif

CK_IQ4_DECODER(iq4_nl)
CK_IQ4_DECODER(iq4_xs)

// MARK: Encoding

/// Where the nearest step changes; what lies between two steps goes to the upper one. Near these, differences of F32 numbers are exact.
static const float middles[15] = {-115.5f, -93.5f, -74.0f, -57.0f, -42.0f, -28.5f, -16.0f, -4.5f, 7.0f, 19.0f, 31.5f, 45.5f, 61.0f, 79.0f, 101.0f};

/// The nearest step; the last for a NaN.
CK_BODY lanes nearest_step(lanes x) {
    lanes step = every((float)steps[15]);
    for (int k = 14; k >= 0; k--) step = pick(x < middles[k], every((float)steps[k]), step);
    return step;
}

CK_BODY lane_ints step_codes(lanes x) {
    lane_ints code = {0};
    for (int k = 0; k < 15; k++) code -= ~(x < middles[k]);
    return code;
}

/// A lane is a candidate here: lane 0 the scale that takes the largest value to the first step, lanes 1 ... 15 this step -7 ... +7 more. For
/// the codes of each the best scale follows by least squares.
CK_BODY float search_scale(const float *values, const float *weights) {
    float most = first_largest(values);
    if (fabsf(most) < CK_NOTHING) return 0.0f;
    const lanes ends = {-127.0f, -134.0f, -133.0f, -132.0f, -131.0f, -130.0f, -129.0f, -128.0f,
                        -127.0f, -126.0f, -125.0f, -124.0f, -123.0f, -122.0f, -121.0f, -120.0f};
    lanes inverse = ends / most, sum_qx = every(0.0f), sum_qq = every(0.0f);
    inverse[0] = 1.0f / (-most / -127.0f);
    for (int j = 0; j < 32; j++) {
        lanes q = nearest_step(inverse * values[j]), wq = weights[j] * q;
        sum_qx += wq * values[j];
        sum_qq += wq * q;
    }
    float qx[LANES], qq[LANES];
    store_lanes(qx, sum_qx);
    store_lanes(qq, sum_qq);
    float scale = qq[0] > 0.0f ? qx[0] / qq[0] : 0.0f, best = scale * qx[0];
    for (int t = 1; t < LANES; t++)
        if (qq[t] > 0.0f && qx[t] * qx[t] > best * qq[t]) {
            scale = qx[t] / qq[t];
            best = scale * qx[t];
        }
    return scale;
}

CK_BODY float search_group(const float *values, const float *importance, float mean_square) {
    float weights[32];
    for (int j = 0; j < 32; j += LANES) {
        lanes x = load_lanes(values + j);
        store_lanes(weights + j, importance ? weight_of(load_lanes(importance + j), every(mean_square), x) : x * x);
    }
    return search_scale(values, weights);
}

CK_BODY void put_group(const float *values, float inverse, uint8_t *codes) {
    lane_ints low = step_codes(load_lanes(values) * inverse), high = step_codes(load_lanes(values + LANES) * inverse);
    store_bytes(codes, __builtin_convertvector(low | high << 4, lane_bytes));
}

/// Twice the mean square of each of up to sixteen blocks.
CK_BODY void mean_squares(const float *values, size_t count, size_t size, float *squares) {
    const float *block[LANES];
    for (size_t b = 0; b < LANES; b++) block[b] = values + (b < count ? b : 0) * size;
    store_lanes(squares, sums_of_squares(block, size) * (2.0f / (float)size));
}

CK_BODY void iq4_nl_rows(const float *values, const float *importance, uint8_t *blocks, size_t rows, size_t columns) {
    size_t across = columns / 32, total = rows * across;
    for (size_t start = 0; start < total; start += LANES) {
        size_t count = total - start < LANES ? total - start : LANES;
        float squares[LANES] = {0};
        if (importance) mean_squares(values, count, 32, squares);
        for (size_t b = 0; b < count; b++, values += 32, blocks += CK_GGML_IQ4_NL_BYTES) {
            float scale = search_group(values, importance ? importance + (start + b) % across * 32 : NULL, squares[b]);
            put_half(blocks, scale);
            put_group(values, scale != 0.0f ? 1.0f / scale : 0.0f, blocks + 2);
        }
    }
}

CK_BODY void iq4_xs_rows(const float *values, const float *importance, uint8_t *blocks, size_t rows, size_t columns) {
    size_t across = columns / 256, total = rows * across;
    for (size_t start = 0; start < total; start += LANES) {
        size_t count = total - start < LANES ? total - start : LANES;
        float squares[LANES] = {0};
        if (importance) mean_squares(values, count, 256, squares);
        for (size_t b = 0; b < count; b++, values += 256, blocks += CK_GGML_IQ4_XS_BYTES) {
            const float *factors = importance ? importance + (start + b) % across * 256 : NULL;
            float scales[8], size = 0.0f, most = 0.0f;
            for (int g = 0; g < 8; g++) {
                scales[g] = search_group(values + g * 32, factors ? factors + g * 32 : NULL, squares[b]);
                if (fabsf(scales[g]) > size) {
                    size = fabsf(scales[g]);
                    most = scales[g];
                }
            }
            float d = -most / 32.0f, inverse = d != 0.0f ? 1.0f / d : 0.0f;
            unsigned upper = 0;
            put_half(blocks, d);
            for (int g = 0; g < 8; g++) {
                int code = nearest_integer(inverse * scales[g]);
                code = code < -32 ? -32 : code > 31 ? 31 : code;
                float scale = d * (float)code;
                put_group(values + g * 32, scale != 0.0f ? 1.0f / scale : 0.0f, blocks + 8 + g * 16);
                uint8_t nibble = (uint8_t)((code + 32) & 15);
                blocks[4 + g / 2] = g % 2 ? (uint8_t)(blocks[4 + g / 2] | nibble << 4) : nibble;
                upper |= (unsigned)((code + 32) >> 4) << 2 * g;
            }
            put_word(blocks + 2, (uint16_t)upper);
        }
    }
}

#define CK_IQ4_ENCODER(TYPE)                                                                                                  \
    CK_BODY void TYPE##_encoder(const float *values, const float *importance, uint8_t *blocks, size_t rows, size_t columns) { \
        if (importance) TYPE##_rows(values, importance, blocks, rows, columns);                                               \
        else TYPE##_rows(values, NULL, blocks, rows, columns);                                                                \
    }                                                                                                                         \
    CK_GGML_ENCODER(TYPE)

CK_IQ4_ENCODER(iq4_nl)
CK_IQ4_ENCODER(iq4_xs)
