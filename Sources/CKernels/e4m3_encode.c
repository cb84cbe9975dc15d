#include "CKernels.h"
#include "scalar.h"

/// One code; `through_bf16` rounds the quotient to BF16 first.
static inline uint8_t code_of(uint16_t w, float scale, int through_bf16) {
    float q = ck_from_bf16(w) / scale;
    return ck_to_e4m3(through_bf16 ? ck_round_bf16(q) : q);
}

static void encode_plain(const uint16_t *s, uint8_t *t, size_t n, float scale, int through_bf16) {
    for (size_t i = 0; i < n; i++) t[i] = code_of(s[i], scale, through_bf16);
}

#if defined(__x86_64__)
/// Rounds eight finite F32 magnitudes of at most 448 to E4M3 codes in the low byte of each lane.
CK_TARGET_AVX2 static inline __m256i codes_avx2(__m256 magnitude) {
    __m256i u = _mm256_castps_si256(magnitude);
    __m256i odd = _mm256_and_si256(_mm256_srli_epi32(u, 20), _mm256_set1_epi32(1));
    __m256i normal = _mm256_srli_epi32(_mm256_add_epi32(u, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7FFFF))), 20);
    normal = _mm256_sub_epi32(normal, _mm256_set1_epi32(120 << 3));
    __m256i subnormal = _mm256_cvtps_epi32(_mm256_mul_ps(magnitude, _mm256_set1_ps(512.0f)));
    __m256i small = _mm256_castps_si256(_mm256_cmp_ps(magnitude, _mm256_set1_ps(0x1p-6f), _CMP_LT_OQ));
    return _mm256_blendv_epi8(normal, subnormal, small);
}

CK_TARGET_AVX2 static void encode_avx2(const uint16_t *s, uint8_t *t, size_t n, float scale) {
    const __m256 divisor = _mm256_set1_ps(scale), top = _mm256_set1_ps(448.0f);
    const __m256i magnitude = _mm256_set1_epi16(0x7FFF);
    size_t i = 0;
    for (; i + 16 <= n; i += 16) {
        __m256i v = _mm256_loadu_si256((const __m256i *)(s + i)), m = _mm256_and_si256(v, magnitude);
        __m256i w0 = _mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm256_castsi256_si128(m)), 16);
        __m256i w1 = _mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm256_extracti128_si256(m, 1)), 16);
        __m256i a = codes_avx2(_mm256_min_ps(_mm256_div_ps(_mm256_castsi256_ps(w0), divisor), top));
        __m256i b = codes_avx2(_mm256_min_ps(_mm256_div_ps(_mm256_castsi256_ps(w1), divisor), top));
        __m256i words = _mm256_permute4x64_epi64(_mm256_packus_epi32(a, b), 0xD8);
        __m256i signs = _mm256_and_si256(_mm256_srli_epi16(v, 8), _mm256_set1_epi16(0x80));
        words = _mm256_or_si256(words, signs);
        __m256i bytes = _mm256_permute4x64_epi64(_mm256_packus_epi16(words, words), 0xD8);
        _mm_storeu_si128((__m128i *)(t + i), _mm256_castsi256_si128(bytes));
    }
    encode_plain(s + i, t + i, n - i, scale, 0);
}

/// A quotient's E4M3 code is a function of w's 7 mantissa bits plus 8 times its exponent, while the result is normal:
/// 128 divisions a block fill a byte table (vpermi2b), everything else is integer arithmetic. Quotients below E4M3's
/// smallest normal (and there only) are divided one by one.
CK_TARGET_AVX512 static void encode_avx512(const uint16_t *s, size_t source_stride, uint8_t *t, size_t target_stride,
                                           size_t rows, size_t n, float scale, int through_bf16) {
    uint32_t scale_bits = ck_bits(scale);
    int scale_exponent = (int)(scale_bits >> 23);
    float significand = ck_float((scale_bits & 0x7FFFFFu) | 0x3F800000u);
    uint8_t table[128];
    for (uint32_t m = 0; m < 128; m++) {
        float quotient = ck_float(0x3F800000u | (m << 16)) / significand;  // in (0.5, 2)
        uint32_t q = ck_bits(through_bf16 ? ck_round_bf16(quotient) : quotient);
        q += 0x7FFFFu + ((q >> 20) & 1);
        table[m] = (uint8_t)((q >> 20) - (126u << 3));
    }
    const __m512i t0 = _mm512_loadu_si512(table), t1 = _mm512_loadu_si512(table + 64);
    // value = q * 2^(ew - es) with q's exponent field 126 or 127 (or 128): code = table + 8 * (ew - es + 126 - 120).
    const __m512i bias = _mm512_set1_epi16((short)(8 * (6 - scale_exponent)));
    const __m512i first_normal = _mm512_set1_epi16(8), last = _mm512_set1_epi16(0x7E);
    const __m512i exponent_mask = _mm512_set1_epi16(0x7F80), byte_mask = _mm512_set1_epi16(0xFF);
    const __m512i sign = _mm512_set1_epi16(0x80), magnitude = _mm512_set1_epi16(0x7FFF);
    for (size_t r = 0; r < rows; r++, s += source_stride, t += target_stride) {
        for (size_t i = 0; i < n; i += 32) {
            size_t left = n - i;
            __mmask32 m = left >= 32 ? ~0u : (1u << left) - 1;
            __m512i v = _mm512_maskz_loadu_epi16(m, s + i);
            __m512i base = _mm512_and_si512(_mm512_permutex2var_epi8(t0, v, t1), byte_mask);
            __m512i eight_e = _mm512_srli_epi16(_mm512_and_si512(v, exponent_mask), 4);
            __m512i code = _mm512_add_epi16(_mm512_add_epi16(base, eight_e), bias);
            __mmask32 nonzero = _mm512_test_epi16_mask(v, magnitude);
            __mmask32 small = _mm512_cmplt_epi16_mask(code, first_normal) & nonzero & m;
            code = _mm512_maskz_min_epi16(nonzero, code, last);
            code = _mm512_or_si512(code, _mm512_and_si512(_mm512_srli_epi16(v, 8), sign));
            _mm512_mask_cvtepi16_storeu_epi8(t + i, m, code);
            while (__builtin_expect(small != 0, 0)) {
                unsigned k = (unsigned)__builtin_ctz(small);
                small &= small - 1;
                t[i + k] = code_of(s[i + k], scale, through_bf16);
            }
        }
    }
}
#endif

void ck_e4m3_encode(int level, const uint16_t *source, size_t source_stride, uint8_t *target, size_t target_stride,
                    size_t rows, size_t columns, float scale) {
#if defined(__x86_64__)
    // Positive, normal, and large enough that a subnormal w gives no normal code; otherwise the plain loop.
    uint32_t exponent = ck_bits(scale) >> 23;
    int usual = exponent >= 16 && exponent < 255;
    if (level == CK_AVX512 && usual) {
        encode_avx512(source, source_stride, target, target_stride, rows, columns, scale, 0);
        return;
    }
    if (level >= CK_AVX2 && usual) {
        for (size_t r = 0; r < rows; r++)
            encode_avx2(source + r * source_stride, target + r * target_stride, columns, scale);
        return;
    }
#endif
    (void)level;
    for (size_t r = 0; r < rows; r++)
        encode_plain(source + r * source_stride, target + r * target_stride, columns, scale, 0);
}

#if defined(__x86_64__)
CK_TARGET_AVX2 static void encode_bf16_scale_avx2(const uint16_t *s, float divisor, size_t n, uint8_t *t) {
    const __m256 reciprocal = _mm256_set1_ps(1.0f / divisor), top = _mm256_set1_ps(448.0f);
    const __m256i half = _mm256_set1_epi32(0x7FFF), one = _mm256_set1_epi32(1);
    const __m256i high = _mm256_set1_epi32((int)0xFFFF0000u);
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        __m128i v = _mm_loadu_si128((const __m128i *)(s + i));
        __m256i w = _mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_and_si128(v, _mm_set1_epi16(0x7FFF))), 16);
        __m256i q = _mm256_castps_si256(_mm256_mul_ps(_mm256_castsi256_ps(w), reciprocal));
        __m256i odd = _mm256_and_si256(_mm256_srli_epi32(q, 16), one);
        q = _mm256_and_si256(_mm256_add_epi32(q, _mm256_add_epi32(odd, half)), high);
        __m256i code = codes_avx2(_mm256_min_ps(_mm256_castsi256_ps(q), top));
        __m128i words = _mm_packus_epi32(_mm256_castsi256_si128(code), _mm256_extracti128_si256(code, 1));
        words = _mm_or_si128(words, _mm_and_si128(_mm_srli_epi16(v, 8), _mm_set1_epi16(0x80)));
        _mm_storel_epi64((__m128i *)(t + i), _mm_packus_epi16(words, words));
    }
    encode_plain(s + i, t + i, n - i, divisor, 1);
}
#endif

void ck_e4m3_encode_bf16_scale(int level, const uint16_t *source, uint16_t scale, size_t count, uint8_t *target) {
#if defined(__x86_64__)
    if (level == CK_AVX512 && ck_reciprocal_is_exact(scale)) {
        encode_avx512(source, 0, target, 0, 1, count, ck_from_bf16(scale), 1);
        return;
    }
    if (level >= CK_AVX2 && ck_reciprocal_is_exact(scale)) {
        encode_bf16_scale_avx2(source, ck_from_bf16(scale), count, target);
        return;
    }
#endif
    (void)level;
    encode_plain(source, target, count, ck_from_bf16(scale), 1);
}
