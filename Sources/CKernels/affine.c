// Codes of a group with a scale and a zero point or a bias, as their peers compute them.
#include "CKernels.h"
#include "loops.h"

CK_INLINE void range_loop(const uint16_t *source, size_t count, uint16_t *least, uint16_t *greatest) {
    // Signed integers in the order of the numbers; a NaN lies outside the infinities.
    int16_t low = INT16_MAX, high = INT16_MIN;
    for (size_t i = 0; i < count; i++) {
        int16_t bits = (int16_t)source[i];
        int16_t key = (int16_t)(bits ^ ((bits >> 15) & 0x7FFF));
        low = key < low ? key : low;
        high = key > high ? key : high;
    }
    *least = (uint16_t)(low ^ ((low >> 15) & 0x7FFF));
    *greatest = (uint16_t)(high ^ ((high >> 15) & 0x7FFF));
}

// MARK: Encoding

CK_INLINE void affine_encode_loop(const uint16_t *source, size_t count, float scale, float offset, float greatest, int rule, uint8_t *codes) {
    switch (rule) {
    case CK_ZERO_POINT_F32:
        for (size_t i = 0; i < count; i++) {
            float quotient = clamp(ck_from_bf16(source[i]) / scale, -4096.0f, 4096.0f);
            codes[i] = (uint8_t)(int32_t)clamp(round_even(quotient) + offset, 0.0f, greatest);
        }
        break;
    case CK_ZERO_POINT_F16:
        for (size_t i = 0; i < count; i++) {
            float quotient = clamp(to_f16(to_f16(ck_from_bf16(source[i])) / scale), -4096.0f, 4096.0f);
            codes[i] = (uint8_t)(int32_t)clamp(round_even(quotient) + offset, 0.0f, greatest);
        }
        break;
    default:
        for (size_t i = 0; i < count; i++) {
            float quotient = clamp((ck_from_bf16(source[i]) - offset) / scale, -4096.0f, 4096.0f);
            codes[i] = (uint8_t)(int32_t)clamp(round_even(quotient), 0.0f, greatest);
        }
    }
}

#if defined(__x86_64__)
CK_TARGET_AVX512 static inline __m512 round_f16_avx512(__m512 x) {
    return _mm512_cvtph_ps(_mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}

CK_TARGET_AVX512 static inline __m512 round_bf16_avx512(__m512 x) {
    __m512i u = _mm512_castps_si512(x), odd = _mm512_and_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(1));
    __m512i r = _mm512_add_epi32(u, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7FFF)));
    r = _mm512_mask_or_epi32(r, _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q), u, _mm512_set1_epi32(0x400000));
    return _mm512_castsi512_ps(_mm512_and_si512(r, _mm512_set1_epi32((int)0xFFFF0000u)));
}

CK_TARGET_AVX512 static inline __attribute__((always_inline)) __m512i affine_codes(__m512 w, __m512 scale, __m512 offset, __m512 greatest, int rule) {
    if (rule == CK_ZERO_POINT_F16) w = round_f16_avx512(w);
    if (rule == CK_BIAS_F32) w = _mm512_sub_ps(w, offset);
    __m512 q = _mm512_div_ps(w, scale);
    if (rule == CK_ZERO_POINT_F16) q = round_f16_avx512(q);
    // The second operand for a NaN, as the plain loop has it.
    q = _mm512_min_ps(_mm512_max_ps(q, _mm512_set1_ps(-4096)), _mm512_set1_ps(4096));
    q = _mm512_roundscale_ps(q, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    if (rule != CK_BIAS_F32) q = _mm512_add_ps(q, offset);
    return _mm512_cvttps_epi32(_mm512_min_ps(_mm512_max_ps(q, _mm512_setzero_ps()), greatest));
}

CK_TARGET_AVX512 static inline __attribute__((always_inline)) void affine_encode_rule(
    const uint16_t *source, size_t count, float scale, float offset, float greatest, int rule, uint8_t *codes
) {
    const __m512 s = _mm512_set1_ps(scale), o = _mm512_set1_ps(offset), g = _mm512_set1_ps(greatest);
    const __m512i high = _mm512_set1_epi32((int)0xFFFF0000u);
    size_t i = 0;
    for (; i + 32 <= count; i += 32) {
        // The codes of even values in the low byte of each pair, of odd ones in the high byte.
        __m512i v = _mm512_loadu_si512(source + i);
        __m512i a = affine_codes(_mm512_castsi512_ps(_mm512_slli_epi32(v, 16)), s, o, g, rule);
        __m512i b = affine_codes(_mm512_castsi512_ps(_mm512_and_si512(v, high)), s, o, g, rule);
        _mm256_storeu_si256((__m256i *)(codes + i), _mm512_cvtepi32_epi16(_mm512_or_si512(a, _mm512_slli_epi32(b, 8))));
    }
    affine_encode_loop(source + i, count - i, scale, offset, greatest, rule, codes + i);
}

CK_TARGET_AVX512 static void affine_encode_avx512(
    const uint16_t *source, size_t count, float scale, float offset, float greatest, int rule, uint8_t *codes
) {
    if (rule == CK_ZERO_POINT_F32) affine_encode_rule(source, count, scale, offset, greatest, CK_ZERO_POINT_F32, codes);
    else if (rule == CK_ZERO_POINT_F16) affine_encode_rule(source, count, scale, offset, greatest, CK_ZERO_POINT_F16, codes);
    else affine_encode_rule(source, count, scale, offset, greatest, CK_BIAS_F32, codes);
}
#endif

// MARK: Decoding

CK_INLINE void affine_decode_loop(const uint8_t *codes, size_t count, float scale, float offset, int is_bias, int type, uint16_t *target) {
#define CK_DECODE(ROUND) \
    if (is_bias) for (size_t i = 0; i < count; i++) target[i] = high_half(ROUND(ROUND((float)codes[i] * scale) + offset)); \
    else for (size_t i = 0; i < count; i++) target[i] = high_half(ROUND(ROUND((float)codes[i] - offset) * scale));
    if (type == CK_TYPE_BF16) { CK_DECODE(to_bf16) }
    else if (type == CK_TYPE_F16) { CK_DECODE(to_f16) }
    else { CK_DECODE() }
#undef CK_DECODE
}

#if defined(__x86_64__)
CK_TARGET_AVX512 static inline __m512 round_type_avx512(__m512 x, int type) {
    return type == CK_TYPE_BF16 ? round_bf16_avx512(x) : type == CK_TYPE_F16 ? round_f16_avx512(x) : x;
}

/// The BF16 values of sixteen codes.
CK_TARGET_AVX512 static inline __m256i affine_values(__m512 codes, __m512 scale, __m512 offset, int is_bias, int type) {
    __m512 x = is_bias ? _mm512_add_ps(round_type_avx512(_mm512_mul_ps(codes, scale), type), offset)
                       : _mm512_mul_ps(round_type_avx512(_mm512_sub_ps(codes, offset), type), scale);
    x = round_bf16_avx512(round_type_avx512(x, type));
    return _mm512_cvtepi32_epi16(_mm512_srli_epi32(_mm512_castps_si512(x), 16));
}

/// Codes below 32 have their values looked up, as soon as there are more of them than values.
CK_TARGET_AVX512 static void affine_decode_avx512(const uint8_t *codes, size_t count, float scale, float offset, int is_bias, int type, uint16_t *target) {
    const __m512 s = _mm512_set1_ps(scale), o = _mm512_set1_ps(offset);
    size_t i = 0;
    if (count >= 64) {
        const __m512 first = _mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
        const __m256i low = affine_values(first, s, o, is_bias, type), high = affine_values(_mm512_add_ps(first, _mm512_set1_ps(16)), s, o, is_bias, type);
        const __m512i table = _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1), others = _mm512_set1_epi8((char)0xE0);
        for (; i + 64 <= count; i += 64) {
            __m512i v = _mm512_loadu_si512(codes + i);
            if (__builtin_expect(_mm512_test_epi8_mask(v, others), 0)) break;
            _mm512_storeu_si512(target + i, _mm512_permutexvar_epi16(_mm512_cvtepu8_epi16(_mm512_castsi512_si256(v)), table));
            _mm512_storeu_si512(target + i + 32, _mm512_permutexvar_epi16(_mm512_cvtepu8_epi16(_mm512_extracti64x4_epi64(v, 1)), table));
        }
    }
    for (; i + 16 <= count; i += 16) {
        __m512 c = _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(codes + i))));
        _mm256_storeu_si256((__m256i *)(target + i), affine_values(c, s, o, is_bias, type));
    }
    affine_decode_loop(codes + i, count - i, scale, offset, is_bias, type, target + i);
}
#endif

CK_LEVELS(range, (const uint16_t *source, size_t count, uint16_t *least, uint16_t *greatest), (source, count, least, greatest))
CK_LEVEL_AVX2(affine_encode, (const uint16_t *source, size_t count, float scale, float offset, float greatest, int rule, uint8_t *codes),
              (source, count, scale, offset, greatest, rule, codes))
CK_LEVEL_AVX2(affine_decode, (const uint8_t *codes, size_t count, float scale, float offset, int is_bias, int type, uint16_t *target),
              (codes, count, scale, offset, is_bias, type, target))

void ck_bf16_range(int level, const uint16_t *source, size_t count, uint16_t *least, uint16_t *greatest) {
    CK_RUN(range, (source, count, least, greatest))
}

void ck_affine_encode(int level, const uint16_t *source, size_t count, float scale, float offset, float greatest, int rule, uint8_t *codes) {
    CK_RUN(affine_encode, (source, count, scale, offset, greatest, rule, codes))
}

void ck_affine_decode(int level, const uint8_t *codes, size_t count, float scale, float offset, int is_bias, int type, uint16_t *target) {
    CK_RUN(affine_decode, (codes, count, scale, offset, is_bias, type, target))
}
