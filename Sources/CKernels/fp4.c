// E2M1 codes of groups that have one scale each.
#include "CKernels.h"
#include "loops.h"

// MARK: Encoding

CK_INLINE uint8_t e2m1_even(float x) {
    float m = fabsf(x);
    uint8_t code = (uint8_t)((m > 0.25f) + (m >= 0.75f) + (m > 1.25f) + (m >= 1.75f) + (m > 2.5f) + (m >= 3.5f) + (m > 5.0f));
    return (uint8_t)(code | (x < 0.0f ? 8 : 0));
}

CK_INLINE uint8_t e2m1_down(float x) {
    float m = fabsf(x);
    uint8_t code = (uint8_t)((m > 0.25f) + (m > 0.75f) + (m > 1.25f) + (m > 1.75f) + (m > 2.5f) + (m > 3.5f) + (m > 5.0f));
    return (uint8_t)(code | (x < 0.0f && code ? 8 : 0));
}

CK_INLINE void e2m1_encode_loop(const uint16_t *source, size_t groups, size_t size, const float *scales, int rule, uint8_t *target) {
    for (size_t g = 0; g < groups; g++, source += size, target += size / 2) {
        float scale = scales[g];
        switch (rule) {
        case CK_E2M1_DIVIDE:
            for (size_t i = 0; i < size / 2; i++)
                target[i] = (uint8_t)(e2m1_even(ck_from_bf16(source[2 * i]) / scale) | e2m1_even(ck_from_bf16(source[2 * i + 1]) / scale) << 4);
            break;
        case CK_E2M1_MULTIPLY:
            for (size_t i = 0; i < size / 2; i++)
                target[i] = (uint8_t)(e2m1_even(to_bf16(ck_from_bf16(source[2 * i]) * scale))
                                      | e2m1_even(to_bf16(ck_from_bf16(source[2 * i + 1]) * scale)) << 4);
            break;
        default:
            for (size_t i = 0; i < size / 2; i++)
                target[i] = (uint8_t)(e2m1_down(ck_from_bf16(source[2 * i]) * scale) | e2m1_down(ck_from_bf16(source[2 * i + 1]) * scale) << 4);
        }
    }
}

#if defined(__x86_64__)
/// What a magnitude divided by the scale must exceed (or, for every second code of an even rule, reach) for each code, and in the last place for a
/// sign. A quotient is rounded to F32 before it is compared, so the limits lie half a unit of F32 beyond the numbers themselves; where the scale is
/// a power of two nothing is rounded that matters. Each times a scale is exact in F64.
static const double e2m1_limits[3][8] = {
    {0.25 + 0x1p-26, 0.75 - 0x1p-25, 1.25 + 0x1p-24, 1.75 - 0x1p-24, 2.5 + 0x1p-23, 3.5 - 0x1p-23, 5 + 0x1p-22, 0x1p-150},
    {0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5, 0x1p-134},
    {0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5, 0.25},
};

/// The least magnitude of a BF16 number, as bits, that has at least each code; twice in each word. Magnitudes are ordered like their bits, so that
/// codes are found by comparing integers.
CK_TARGET_AVX512 static inline __m256i e2m1_least(double scale, __m512d limits, __mmask8 reached) {
    __m512d limit = _mm512_mul_pd(_mm512_set1_pd(scale), limits);
    // To reach a limit is to exceed the number before it.
    reached &= _mm512_cmp_pd_mask(limit, _mm512_setzero_pd(), _CMP_GT_OQ);
    limit = _mm512_castsi512_pd(_mm512_mask_sub_epi64(_mm512_castpd_si512(limit), reached, _mm512_castpd_si512(limit), _mm512_set1_epi64(1)));
    __m256i bits = _mm256_castps_si256(_mm512_cvt_roundpd_ps(limit, _MM_FROUND_TO_ZERO | _MM_FROUND_NO_EXC));
    bits = _mm256_add_epi32(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    return _mm256_or_si256(bits, _mm256_slli_epi32(bits, 16));
}

/// The same of two scales in normal range, in F32: wherever a product is not next to a BF16 number, its error cannot matter.
CK_TARGET_AVX512 static inline __m512i e2m1_least_of_two(const float scales[2], __m512 limits, const double exact[8], __mmask8 reached) {
    __m512 scale = _mm512_mask_mov_ps(_mm512_set1_ps(scales[0]), 0xFF00, _mm512_set1_ps(scales[1]));
    __m512i bits = _mm512_castps_si512(_mm512_mul_ps(scale, limits)), low = _mm512_set1_epi32(0xFFFF);
    __mmask16 near = _mm512_cmple_epu32_mask(_mm512_and_si512(_mm512_add_epi32(bits, _mm512_set1_epi32(4)), low), _mm512_set1_epi32(8));
    // The last limit is 0 in F32: below 2^16 every number but zero has a quotient that is none.
    if (__builtin_expect(near & 0x7F7F, 0) || !(scales[0] > 0x1p-100f && scales[0] < 0x1p16f && scales[1] > 0x1p-100f && scales[1] < 0x1p16f)) {
        __m512d precise = _mm512_loadu_pd(exact);
        return _mm512_inserti64x4(_mm512_castsi256_si512(e2m1_least(scales[0], precise, reached)), e2m1_least(scales[1], precise, reached), 1);
    }
    bits = _mm512_add_epi32(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    return _mm512_or_si512(bits, _mm512_slli_epi32(bits, 16));
}

/// A register's 32 values, with the word of each limit at `first` (of its lower half) and `second`.
CK_TARGET_AVX512 static inline __attribute__((always_inline)) void e2m1_codes(
    const uint16_t *source, __m512i least, int first, int second, uint8_t *target
) {
    __m512i v = _mm512_loadu_si512(source), m = _mm512_and_si512(v, _mm512_set1_epi16(0x7FFF)), code = _mm512_setzero_si512();
    const __m512i one = _mm512_set1_epi16(1);
#define CK_LEAST(N) _mm512_permutexvar_epi32(_mm512_mask_set1_epi32(_mm512_set1_epi32(first + N), 0xFF00, second + N), least)
#define CK_COUNT(N) code = _mm512_mask_add_epi16(code, _mm512_cmpge_epu16_mask(m, CK_LEAST(N)), code, one);
    CK_COUNT(0) CK_COUNT(1) CK_COUNT(2) CK_COUNT(3) CK_COUNT(4) CK_COUNT(5) CK_COUNT(6)
    __mmask32 negative = _mm512_mask_cmpge_epu16_mask(_mm512_movepi16_mask(v), m, CK_LEAST(7));
#undef CK_COUNT
#undef CK_LEAST
    code = _mm512_mask_add_epi16(code, negative, code, _mm512_set1_epi16(8));
    code = _mm512_or_si512(code, _mm512_srli_epi32(code, 12));
    _mm_storeu_si128((__m128i *)target, _mm512_cvtepi32_epi8(code));
}

CK_TARGET_AVX512 static void e2m1_encode_avx512(const uint16_t *source, size_t groups, size_t size, const float *scales, int rule, uint8_t *target) {
    const double *exact = e2m1_limits[rule];
    const __m512d precise = _mm512_loadu_pd(exact);
    const __m512 limits = _mm512_broadcast_f32x8(_mm512_cvtpd_ps(precise));
    const __mmask8 reached = rule == CK_E2M1_MULTIPLY_DOWN ? 0 : 0x2A;
    const __m512i unmoved = _mm512_broadcast_i64x4(e2m1_least(1, precise, reached));
    size_t g = 0;
    if (size != 16 && size % 32) { e2m1_encode_loop(source, groups, size, scales, rule, target); return; }
    for (; g + 2 <= groups; g += 2, source += 2 * size, target += size) {
        int isPlain = 1;
        __m512i least;
        if (rule == CK_E2M1_DIVIDE) {
            isPlain = scales[g] >= 0 && scales[g + 1] >= 0;
            least = e2m1_least_of_two(scales + g, limits, exact, reached);
        } else {
            // Multiplying by a power of two moves the limits by as many exponents; from 1 on every number but zero keeps a sign.
            uint32_t low = ck_bits(scales[g]), high = ck_bits(scales[g + 1]);
            if (((low | high) & 0x807FFFFF) == 0 && low - 0x3F800000 <= 124u << 23 && high - 0x3F800000 <= 124u << 23) {
                __m512i moved = _mm512_mask_set1_epi32(_mm512_set1_epi32((int)((low - 0x3F800000) >> 16)), 0xFF00, (int)((high - 0x3F800000) >> 16));
                moved = _mm512_or_si512(moved, _mm512_slli_epi32(moved, 16));
                least = _mm512_mask_sub_epi32(unmoved, rule == CK_E2M1_MULTIPLY ? 0x7F7F : 0xFFFF, unmoved, moved);
            } else {
                isPlain = 0;
                least = unmoved;
            }
        }
        if (__builtin_expect(!isPlain, 0)) { e2m1_encode_loop(source, 2, size, scales + g, rule, target); continue; }
        if (size == 16) { e2m1_codes(source, least, 0, 8, target); continue; }
        for (size_t i = 0; i < size; i += 32) e2m1_codes(source + i, least, 0, 0, target + i / 2);
        for (size_t i = size; i < 2 * size; i += 32) e2m1_codes(source + i, least, 8, 8, target + i / 2);
    }
    e2m1_encode_loop(source, groups - g, size, scales + g, rule, target);
}
#endif

// MARK: Decoding

/// The value of a code: its exponent and mantissa bits as those of an F32, one exponent chosen so that nothing on the way is subnormal, which
/// some processors multiply a hundred times slower. The only subnormal of E2M1 is 0.5.
CK_INLINE float from_e2m1(uint32_t code) {
    uint32_t magnitude = code & 7;
    return ck_float(magnitude < 2 ? magnitude * 0x3F000000u : (magnitude << 22) + (126u << 23));
}

CK_INLINE void e2m1_decode_loop(const uint8_t *source, size_t groups, size_t size, const float *scales, int negative_zero, uint16_t *target) {
    // The smallest code that may carry a sign.
    uint32_t least = negative_zero ? 8 : 9;
    for (size_t g = 0; g < groups; g++, source += size / 2, target += size) {
        float scale = scales[g];
        for (size_t i = 0; i < size / 2; i++) {
            uint32_t low = source[i] & 15, high = source[i] >> 4;
            target[2 * i] = (uint16_t)(high_half(from_e2m1(low) * scale) ^ (low >= least ? 0x8000 : 0));
            target[2 * i + 1] = (uint16_t)(high_half(from_e2m1(high) * scale) ^ (high >= least ? 0x8000 : 0));
        }
    }
}

#if defined(__x86_64__)
/// The values of two groups' codes are a register's words, and codes are places in it.
CK_TARGET_AVX512 static void e2m1_decode_avx512(const uint8_t *source, size_t groups, size_t size, const float *scales, int negative_zero, uint16_t *target) {
    if (size != 16 && size % 32) { e2m1_decode_loop(source, groups, size, scales, negative_zero, target); return; }
    const __m512 values = _mm512_setr_ps(0, 0.5f, 1, 1.5f, 2, 3, 4, 6, 0, 0.5f, 1, 1.5f, 2, 3, 4, 6);
    const __m512i halves = _mm512_setr_epi64(0, 1, 0, 1, 2, 3, 2, 3);
    __m512i signs = _mm512_maskz_set1_epi16(0xFF00FF00u, (short)0x8000);
    if (!negative_zero) signs = _mm512_maskz_mov_epi16(0xFE00FE00u, signs);
    const __m512i low = _mm512_set1_epi32(15), high = _mm512_set1_epi32(15 << 16), second = _mm512_set1_epi16(size == 16 ? 16 : 0);
    size_t step = size == 16 ? 2 : 1, g = 0;
    for (; g + step <= groups; g += step, source += step * size / 2, target += step * size) {
        __m512 scale = _mm512_set1_ps(scales[g]);
        if (step == 2) scale = _mm512_mask_mov_ps(scale, 0xFF00, _mm512_set1_ps(scales[g + 1]));
        __m512 product = _mm512_mul_ps(values, scale);
        __m512i u = _mm512_castps_si512(product), odd = _mm512_and_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(1));
        __m512i rounded = _mm512_srli_epi32(_mm512_add_epi32(u, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7FFF))), 16);
        __mmask16 none = _mm512_cmp_ps_mask(product, product, _CMP_UNORD_Q);
        rounded = _mm512_mask_or_epi32(rounded, none, _mm512_srli_epi32(u, 16), _mm512_set1_epi32(0x40));
        __m512i table = _mm512_xor_si512(_mm512_permutexvar_epi64(halves, _mm512_castsi256_si512(_mm512_cvtepi32_epi16(rounded))), signs);
        for (size_t i = 0; i < step * size; i += 32) {
            __m512i v = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(source + i / 2)));
            v = _mm512_or_si512(_mm512_and_si512(v, low), _mm512_and_si512(_mm512_slli_epi32(v, 12), high));
            v = _mm512_mask_or_epi32(v, 0xFF00, v, second);
            _mm512_storeu_si512(target + i, _mm512_permutexvar_epi16(v, table));
        }
    }
    e2m1_decode_loop(source, groups - g, size, scales + g, negative_zero, target);
}
#endif

CK_LEVEL_AVX2(e2m1_encode, (const uint16_t *source, size_t groups, size_t size, const float *scales, int rule, uint8_t *target),
              (source, groups, size, scales, rule, target))
CK_LEVEL_AVX2(e2m1_decode, (const uint8_t *source, size_t groups, size_t size, const float *scales, int negative_zero, uint16_t *target),
              (source, groups, size, scales, negative_zero, target))

void ck_e2m1_encode(int level, const uint16_t *source, size_t groups, size_t size, const float *scales, int rule, uint8_t *target) {
    CK_RUN(e2m1_encode, (source, groups, size, scales, rule, target))
}

void ck_e2m1_decode(int level, const uint8_t *source, size_t groups, size_t size, const float *scales, int negative_zero, uint16_t *target) {
    CK_RUN(e2m1_decode, (source, groups, size, scales, negative_zero, target))
}
