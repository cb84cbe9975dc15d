// What the kernels of ggml's block types share: numbers in two bytes, sixteen lanes, and one loop compiled for each instruction set.
#ifndef CK_GGML_BLOCK_H
#define CK_GGML_BLOCK_H

#include "CKernels.h"
#include "scalar.h"

#define CK_BODY static inline __attribute__((always_inline))

#if defined(__clang__)
// Everything below is inlined, so that no vector is ever passed in a way that depends on the instruction set.
#pragma clang diagnostic ignored "-Wpsabi"
#endif

// MARK: Little-endian fields

CK_BODY uint16_t word_at(const uint8_t *p) { return (uint16_t)(p[0] | p[1] << 8); }
CK_BODY uint32_t long_at(const uint8_t *p) { return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24; }
CK_BODY void put_word(uint8_t *p, uint16_t v) { p[0] = (uint8_t)v; p[1] = (uint8_t)(v >> 8); }

/// F16 bits as F32. All NaNs become the one that x86-64 makes itself: which of two different ones an operation passes on depends on
/// the order in which a compiler writes its operands.
CK_BODY float from_half(uint16_t h) {
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, m = (uint32_t)(h & 0x7FFF) << 13;
    if (m > 0x0F800000u) return ck_float(0xFFC00000u);
    if (m == 0x0F800000u) return ck_float(sign | 0x7F800000u);
    if (m < 0x00800000u) return ck_float(sign | ck_bits((float)(m >> 13) * 0x1p-24f));
    return ck_float(sign | (m + 0x38000000u));
}

/// Nearest even F16, infinite from 65520 on. Processors differ in the sign of a NaN that they make; ggml's files have that of x86-64.
CK_BODY uint16_t to_half(float x) {
    uint32_t u = ck_bits(x), m = u & 0x7FFFFFFFu;
    uint16_t sign = (uint16_t)((u >> 16) & 0x8000u);
    if (m > 0x7F800000u) return 0xFE00u;
    if (m >= 0x477FF000u) return (uint16_t)(sign | 0x7C00u);
    // Below 2^-14 the codes are multiples of 2^-24, the distance of F32 numbers between 0.5 and 1.
    if (m < 0x38800000u) return (uint16_t)(sign | (ck_bits(ck_float(m) + 0.5f) - 0x3F000000u));
    return (uint16_t)(sign | ((m + 0xFFFu + ((m >> 13) & 1) - 0x38000000u) >> 13));
}

CK_BODY float half_at(const uint8_t *p) { return from_half(word_at(p)); }
CK_BODY void put_half(uint8_t *p, float x) { put_word(p, to_half(x)); }

// MARK: Lanes

// Sixteen lanes are one AVX-512 register, two of AVX2 or four of NEON. A lane mostly holds a block of its own: then the terms of each
// sum come in ggml's order, whatever the register's width.
enum { LANES = 16 };
typedef float lanes __attribute__((vector_size(64)));
typedef int32_t lane_ints __attribute__((vector_size(64)));
typedef uint32_t lane_words __attribute__((vector_size(64)));
typedef uint8_t lane_bytes __attribute__((vector_size(16)));

CK_BODY lanes every(float x) { return (lanes){0} + x; }
CK_BODY lanes load_lanes(const float *p) { lanes v; memcpy(&v, p, sizeof v); return v; }
CK_BODY void store_lanes(float *p, lanes v) { memcpy(p, &v, sizeof v); }
CK_BODY lanes pick(lane_ints mask, lanes yes, lanes no) { return (lanes)((mask & (lane_ints)yes) | (~mask & (lane_ints)no)); }
CK_BODY lanes magnitude(lanes x) { return (lanes)((lane_ints)x & 0x7FFFFFFF); }
CK_BODY int any(lane_ints mask) { return __builtin_reduce_or(mask) != 0; }

CK_BODY lanes square_root(lanes x) {
#if __has_builtin(__builtin_elementwise_sqrt)
    return __builtin_elementwise_sqrt(x);
#else
    for (int t = 0; t < LANES; t++) x[t] = __builtin_sqrtf(x[t]);
    return x;
#endif
}

/// The integer that ggml takes for the nearest, within [low, high]: adding 1.5 * 2^23 rounds to even in the lower 23 bits, and what
/// lies beyond +-2^22 (or is a NaN) wraps around there as it does in ggml, so that every input gives a code.
CK_BODY lanes nearest(lanes x, float low, float high) {
    lanes y = x + 12582912.0f;
    y = (lanes)(((lane_ints)y & 0x007FFFFF) | 0x4B000000);
    y = pick(y < 12582912.0f + low, every(12582912.0f + low), y);
    y = pick(y > 12582912.0f + high, every(12582912.0f + high), y);
    return y - 12582912.0f;
}

CK_BODY int nearest_integer(float x) { return (int)(ck_bits(x + 12582912.0f) & 0x007FFFFF) - 0x00400000; }

/// Whole numbers of 0 ... 255 as bytes.
CK_BODY lane_bytes bytes_of(lanes x) { return __builtin_convertvector(__builtin_convertvector(x, lane_ints), lane_bytes); }
CK_BODY void store_bytes(uint8_t *p, lane_bytes v) { memcpy(p, &v, sizeof v); }
CK_BODY lane_bytes load_bytes(const uint8_t *p) { lane_bytes v; memcpy(&v, p, sizeof v); return v; }

/// NaNs all become the one that processors make themselves, so that it does not matter which of two an operation passes on.
CK_BODY lanes one_nan(lanes x) { return pick(x == x, x, every(ck_float(0x7FC00000u))); }

/// x[i][t] = source[t][i] for i < n.
CK_BODY void transpose_lanes(const float *const *source, int n, lanes *x) {
    for (int i = 0; i < n; i++) {
        float column[LANES];
        for (int t = 0; t < LANES; t++) column[t] = source[t][i];
        x[i] = one_nan(load_lanes(column));
    }
}

// MARK: Blocks of 32

CK_BODY lane_ints larger_of(lane_ints a, lane_ints b) { lane_ints m = a > b; return (m & a) | (~m & b); }
CK_BODY lane_ints smaller_of(lane_ints a, lane_ints b) { lane_ints m = a < b; return (m & a) | (~m & b); }

/// The value of largest magnitude, the first of those; NaNs are passed over.
CK_BODY float first_largest(const float *values) {
    lane_ints a = (lane_ints)load_lanes(values), b = (lane_ints)load_lanes(values + LANES);
    a &= (a & 0x7FFFFFFF) <= 0x7F800000;
    b &= (b & 0x7FFFFFFF) <= 0x7F800000;
    // As signed integers positive numbers are in order; with the other sign negative ones are.
    int32_t positive = __builtin_reduce_max(larger_of(a, b)), negative = __builtin_reduce_max(larger_of(a ^ INT32_MIN, b ^ INT32_MIN));
    uint32_t bits = positive > negative ? (uint32_t)positive : (uint32_t)negative | 0x80000000u;
    if (positive != negative) return ck_float(bits);
    // Both signs, or zeros only.
    for (int j = 0; positive && j < 2 * LANES; j++)
        if ((ck_bits(values[j]) & 0x7FFFFFFF) == (uint32_t)positive) return values[j];
    return 0.0f;
}

// MARK: Levels

#if defined(__x86_64__)
#define CK_LEVELS(NAME, PARAMETERS, ARGUMENTS)                                    \
    CK_TARGET_AVX512 static void NAME##_avx512 PARAMETERS { NAME ARGUMENTS; }     \
    CK_TARGET_AVX2 static void NAME##_avx2 PARAMETERS { NAME ARGUMENTS; }         \
    static void NAME##_plain PARAMETERS { NAME ARGUMENTS; }
#define CK_RUN(NAME, ARGUMENTS)                           \
    if (level == CK_AVX512) NAME##_avx512 ARGUMENTS;      \
    else if (level == CK_AVX2) NAME##_avx2 ARGUMENTS;     \
    else NAME##_plain ARGUMENTS
#else
#define CK_LEVELS(NAME, PARAMETERS, ARGUMENTS)
#define CK_RUN(NAME, ARGUMENTS) (void)level; NAME ARGUMENTS
#endif

/// ck_ggml_decode_TYPE from TYPE_values, which decodes one block.
#define CK_GGML_DECODER(TYPE, BYTES, VALUES)                                                                        \
    CK_BODY void TYPE##_decoder(const uint8_t *blocks, float *values, size_t count) {                               \
        for (size_t i = 0; i < count; i++) TYPE##_values(blocks + i * (BYTES), values + i * (VALUES));              \
    }                                                                                                               \
    CK_LEVELS(TYPE##_decoder, (const uint8_t *blocks, float *values, size_t count), (blocks, values, count))        \
    void ck_ggml_decode_##TYPE(int level, const uint8_t *blocks, float *values, size_t count) {                     \
        CK_RUN(TYPE##_decoder, (blocks, values, count));                                                            \
    }

/// ck_ggml_encode_TYPE from TYPE_encoder, which encodes rows.
#define CK_GGML_ENCODER(TYPE)                                                                                       \
    CK_LEVELS(TYPE##_encoder, (const float *values, const float *importance, uint8_t *blocks, size_t rows, size_t columns), \
              (values, importance, blocks, rows, columns))                                                          \
    void ck_ggml_encode_##TYPE(int level, const float *values, const float *importance, uint8_t *blocks, size_t rows, size_t columns) { \
        CK_RUN(TYPE##_encoder, (values, importance, blocks, rows, columns));                                        \
    }

#endif
