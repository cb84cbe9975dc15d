#include "CKernels.h"
#include "loops.h"

/// One code; `through_bf16` rounds the quotient to BF16 first.
static inline uint8_t code_of(uint16_t w, float scale, int through_bf16) {
    float q = ck_from_bf16(w) / scale;
    return ck_to_e4m3(through_bf16 ? ck_round_bf16(q) : q);
}

static void encode_plain(const uint16_t *s, uint8_t *t, size_t n, float scale, int through_bf16) {
    for (size_t i = 0; i < n; i++) t[i] = code_of(s[i], scale, through_bf16);
}

#if defined(__x86_64__)
/// A quotient's E4M3 code is a function of w's 7 mantissa bits plus 8 times its exponent, while the result is normal. Fills the
/// codes of all significands for exponents that cancel, by 128 true divisions: q lies in (0.5, 2), its code in 0...16.
static void build_significands(float scale, int through_bf16, uint8_t table[128]) {
    float significand = ck_float((ck_bits(scale) & 0x7FFFFFu) | 0x3F800000u);
    for (uint32_t m = 0; m < 128; m++) {
        float quotient = ck_float(0x3F800000u | (m << 16)) / significand;
        uint32_t q = ck_bits(through_bf16 ? ck_round_bf16(quotient) : quotient);
        q += 0x7FFFFu + ((q >> 20) & 1);
        table[m] = (uint8_t)((q >> 20) - (126u << 3));
    }
}

/// What to add to table entry and 8 * exponent: value = q * 2^(ew - es) with q's exponent field 126, 127 or 128.
static int code_bias(float scale) { return 8 * (6 - (int)(ck_bits(scale) >> 23)); }

/// The table rises by at most 8 over an octave of significands, so the code is its first entry plus how many of 8 thresholds
/// the mantissa has reached: byte comparisons, 32 values at a time. Quotients below E4M3's smallest normal are divided.
CK_TARGET_AVX2 static void encode_avx2(const uint16_t *s, size_t source_stride, uint8_t *t, size_t target_stride, size_t rows, size_t n,
                                       float scale, int through_bf16) {
    uint8_t table[128];
    build_significands(scale, through_bf16, table);
    __m256i reached[8];
    for (int k = 1; k <= 8; k++) {
        int m = 0;
        while (m < 128 && table[m] < table[0] + k) m++;
        reached[k - 1] = _mm256_set1_epi8((char)(m - 1));
    }
    const __m256i first = _mm256_set1_epi8((char)table[0]), bias = _mm256_set1_epi16((short)code_bias(scale));
    const __m256i mantissa = _mm256_set1_epi16(0x7F), exponent = _mm256_set1_epi16(0x7F80), magnitude = _mm256_set1_epi16(0x7FFF);
    const __m256i sign = _mm256_set1_epi16(0x80), eight = _mm256_set1_epi8(8), last = _mm256_set1_epi8(0x7E), none = _mm256_setzero_si256();
    for (size_t r = 0; r < rows; r++, s += source_stride, t += target_stride) {
        size_t i = 0;
        for (; i + 32 <= n; i += 32) {
            __m256i a = _mm256_loadu_si256((const __m256i *)(s + i)), b = _mm256_loadu_si256((const __m256i *)(s + i + 16));
            __m256i m = _mm256_packus_epi16(_mm256_and_si256(a, mantissa), _mm256_and_si256(b, mantissa));
            __m256i code = first;
            for (int k = 0; k < 8; k++) code = _mm256_sub_epi8(code, _mm256_cmpgt_epi8(m, reached[k]));
            // Exponents far outside saturate; they end up small or clamped either way.
            __m256i e = _mm256_packs_epi16(_mm256_add_epi16(_mm256_srli_epi16(_mm256_and_si256(a, exponent), 4), bias),
                                           _mm256_add_epi16(_mm256_srli_epi16(_mm256_and_si256(b, exponent), 4), bias));
            code = _mm256_adds_epi8(code, e);
            __m256i zero = _mm256_packs_epi16(_mm256_cmpeq_epi16(_mm256_and_si256(a, magnitude), none),
                                              _mm256_cmpeq_epi16(_mm256_and_si256(b, magnitude), none));
            __m256i small = _mm256_andnot_si256(zero, _mm256_cmpgt_epi8(eight, code));
            __m256i signs = _mm256_packus_epi16(_mm256_and_si256(_mm256_srli_epi16(a, 8), sign),
                                                _mm256_and_si256(_mm256_srli_epi16(b, 8), sign));
            code = _mm256_or_si256(_mm256_andnot_si256(zero, _mm256_min_epi8(code, last)), signs);
            _mm256_storeu_si256((__m256i *)(t + i), _mm256_permute4x64_epi64(code, 0xD8));
            uint32_t left = (uint32_t)_mm256_movemask_epi8(_mm256_permute4x64_epi64(small, 0xD8));
            while (__builtin_expect(left != 0, 0)) {
                unsigned k = (unsigned)__builtin_ctz(left);
                left &= left - 1;
                t[i + k] = code_of(s[i + k], scale, through_bf16);
            }
        }
        encode_plain(s + i, t + i, n - i, scale, through_bf16);
    }
}

/// The same with a table look-up (vpermi2b) in place of the comparisons.
CK_TARGET_AVX512 static void encode_avx512(const uint16_t *s, size_t source_stride, uint8_t *t, size_t target_stride,
                                           size_t rows, size_t n, float scale, int through_bf16) {
    uint8_t table[128];
    build_significands(scale, through_bf16, table);
    const __m512i t0 = _mm512_loadu_si512(table), t1 = _mm512_loadu_si512(table + 64);
    const __m512i bias = _mm512_set1_epi16((short)code_bias(scale));
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

/// Whether the vector loops may run: the scale positive, normal, and large enough that a subnormal w gives no normal code.
static int is_usual(float scale) {
    uint32_t exponent = ck_bits(scale) >> 23;
    return exponent >= 16 && exponent < 255;
}

static void encode(int level, const uint16_t *source, size_t source_stride, uint8_t *target, size_t target_stride, size_t rows,
                   size_t columns, float scale, int through_bf16) {
#if defined(__x86_64__)
    if (level == CK_AVX512 && is_usual(scale)) {
        encode_avx512(source, source_stride, target, target_stride, rows, columns, scale, through_bf16);
        return;
    }
    if (level == CK_AVX2 && is_usual(scale)) {
        encode_avx2(source, source_stride, target, target_stride, rows, columns, scale, through_bf16);
        return;
    }
#endif
    (void)level;
    for (size_t r = 0; r < rows; r++)
        encode_plain(source + r * source_stride, target + r * target_stride, columns, scale, through_bf16);
}

void ck_e4m3_encode(int level, const uint16_t *source, size_t source_stride, uint8_t *target, size_t target_stride,
                    size_t rows, size_t columns, float scale) {
    encode(level, source, source_stride, target, target_stride, rows, columns, scale, 0);
}

void ck_e4m3_encode_bf16_scale(int level, const uint16_t *source, uint16_t scale, size_t count, uint8_t *target) {
    encode(level, source, 0, target, 0, 1, count, ck_from_bf16(scale), 1);
}

// MARK: Groups whose scales are powers of two

/// The nearest code, 448 at most; no branches, so that the loops stay vectors.
CK_INLINE uint8_t nearest_e4m3(float q) {
    uint32_t u = ck_bits(q), m = u & 0x7FFFFFFFu;
    uint32_t normal = ((m + 0x7FFFFu + ((m >> 20) & 1)) >> 20) - (120u << 3);
    // Below 2^-6 the codes are multiples of 2^-9, the distance of F32 numbers from 2^14 on.
    uint32_t subnormal = ck_bits(ck_float(m) + 16384.0f) - ck_bits(16384.0f);
    uint32_t code = m < 0x3C800000u ? subnormal : normal;
    code = code < 0x7Eu ? code : 0x7Eu;
    return (uint8_t)(code | (u >> 24 & 0x80u));
}

CK_INLINE void encode_groups_loop(const uint16_t *source, size_t groups, const float *factors, uint8_t *target) {
    for (size_t g = 0; g < groups; g++)
        for (size_t i = g * CK_MX_GROUP; i < (g + 1) * CK_MX_GROUP; i++) target[i] = nearest_e4m3(ck_from_bf16(source[i]) * factors[g]);
}

CK_LEVELS(encode_groups, (const uint16_t *source, size_t groups, const float *factors, uint8_t *target), (source, groups, factors, target))

void ck_e4m3_encode_groups(int level, const uint16_t *source, size_t groups, const float *factors, uint8_t *target) {
    CK_RUN(encode_groups, (source, groups, factors, target))
}
