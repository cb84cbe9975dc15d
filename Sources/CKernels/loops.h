// For loops that are written once and compiled for each instruction set; they hold IEEE operations and integers only, so the bits stay.
#ifndef CK_LOOPS_H
#define CK_LOOPS_H

#include "scalar.h"

#define CK_INLINE static inline __attribute__((always_inline))

/// Adding and taking away 1.5 * 2^23 rounds to nearest even, within +-2^22.
CK_INLINE float round_even(float x) { return (x + 12582912.0f) - 12582912.0f; }

/// `low` for a NaN.
CK_INLINE float clamp(float x, float low, float high) { x = x > low ? x : low; return x < high ? x : high; }

CK_INLINE float to_bf16(float x) {
    uint32_t u = ck_bits(x);
    uint32_t rounded = (u + 0x7FFFu + ((u >> 16) & 1)) & 0xFFFF0000u;
    uint32_t quiet = (u | 0x00400000u) & 0xFFFF0000u;
    return ck_float((u & 0x7FFFFFFFu) > 0x7F800000u ? quiet : rounded);
}

/// The nearest F16 as F32, infinite beyond 65504, with F16's subnormals; no branches, so that the loops stay vectors.
CK_INLINE float to_f16(float x) {
    uint32_t u = ck_bits(x), sign = u & 0x80000000u, m = u & 0x7FFFFFFFu;
    uint32_t normal = (m + 0xFFFu + ((m >> 13) & 1)) & ~0x1FFFu;
    normal = normal > 0x477FE000u ? 0x7F800000u : normal;
    // Below 2^-14 the codes are multiples of 2^-24, the distance of F32 numbers between 0.5 and 1.
    uint32_t subnormal = ck_bits((ck_float(m) + 0.75f) - 0.75f);
    uint32_t r = m < 0x38800000u ? subnormal : normal;
    r = m > 0x7F800000u ? 0x7FC00000u : r;
    return ck_float(r | sign);
}

CK_INLINE uint16_t high_half(float x) { return (uint16_t)(ck_bits(to_bf16(x)) >> 16); }

#if defined(__x86_64__)
#define CK_LEVELS(NAME, PARAMETERS, ARGUMENTS) \
    CK_TARGET_AVX512 static void NAME##_avx512 PARAMETERS { NAME##_loop ARGUMENTS; } \
    CK_TARGET_AVX2 static void NAME##_avx2 PARAMETERS { NAME##_loop ARGUMENTS; }
#define CK_LEVEL_AVX2(NAME, PARAMETERS, ARGUMENTS) \
    CK_TARGET_AVX2 static void NAME##_avx2 PARAMETERS { NAME##_loop ARGUMENTS; }
#define CK_RUN(NAME, ARGUMENTS) \
    if (level == CK_AVX512) { NAME##_avx512 ARGUMENTS; return; } \
    if (level == CK_AVX2) { NAME##_avx2 ARGUMENTS; return; } \
    NAME##_loop ARGUMENTS;
#else
#define CK_LEVELS(NAME, PARAMETERS, ARGUMENTS)
#define CK_LEVEL_AVX2(NAME, PARAMETERS, ARGUMENTS)
#define CK_RUN(NAME, ARGUMENTS) (void)level; NAME##_loop ARGUMENTS;
#endif

#endif
