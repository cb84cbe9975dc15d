// Scalar steps shared by the plain loops and by the vector loops' tails.
#ifndef CK_SCALAR_H
#define CK_SCALAR_H

// Products and sums round separately on every machine.
#pragma STDC FP_CONTRACT OFF

#include <math.h>
#include <stdint.h>
#include <string.h>

#if defined(__x86_64__)
#include <immintrin.h>
#define CK_TARGET_AVX2 __attribute__((target("avx2,fma,f16c,bmi2")))
#define CK_TARGET_AVX512 __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi,avx2,fma,f16c,bmi2")))
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

static inline uint32_t ck_bits(float x) { uint32_t u; memcpy(&u, &x, 4); return u; }
static inline float ck_float(uint32_t u) { float x; memcpy(&x, &u, 4); return x; }

static inline float ck_from_bf16(uint16_t h) { return ck_float((uint32_t)h << 16); }

/// Round to nearest even; a NaN keeps its sign and becomes quiet.
static inline uint16_t ck_to_bf16(float x) {
    uint32_t u = ck_bits(x);
    if ((u & 0x7FFFFFFFu) > 0x7F800000u) return (uint16_t)((u >> 16) | 0x0040u);
    return (uint16_t)((u + 0x7FFFu + ((u >> 16) & 1)) >> 16);
}

static inline float ck_round_bf16(float x) { return ck_from_bf16(ck_to_bf16(x)); }

/// E4M3 (fn) magnitude code to F32; 0x7F is NaN.
static inline float ck_from_e4m3(uint8_t code) {
    uint32_t exponent = (code >> 3) & 15, mantissa = code & 7;
    float magnitude;
    if ((code & 0x7F) == 0x7F) magnitude = ck_float(0x7FC00000u);
    else if (exponent == 0) magnitude = (float)mantissa * 0x1p-9f;
    else magnitude = ck_float(((exponent + 120) << 23) | (mantissa << 20));
    return code & 0x80 ? -magnitude : magnitude;
}

/// F32 to E4M3, clamped to +-448 first, then rounded to nearest even.
static inline uint8_t ck_to_e4m3(float x) {
    uint32_t u = ck_bits(x), sign = (u >> 24) & 0x80, m = u & 0x7FFFFFFFu;
    if (m > 0x7F800000u) return (uint8_t)(sign | 0x7F);
    if (m >= 0x43E00000u) return (uint8_t)(sign | 0x7E);
    if (m < 0x3C800000u) return (uint8_t)(sign | (uint32_t)lrintf(ck_float(m) * 512.0f));
    m += 0x7FFFFu + ((m >> 20) & 1);
    return (uint8_t)(sign | ((m >> 20) - (120u << 3)));
}

/// Whether w * (1 / scale), rounded to BF16, equals w / scale rounded to BF16 for every finite BF16 w that gives a
/// quotient of normal size: two 8-bit significands never make an exact 9-bit tie, and the nearest near-tie is 2^-17
/// away while the product errs by 2^-23. Outside these exponents the reciprocal or product may leave the normal range.
static inline int ck_reciprocal_is_exact(uint16_t scale) {
    uint32_t exponent = (scale >> 7) & 0xFF;
    return exponent > 27 && exponent < 227;
}

#endif
