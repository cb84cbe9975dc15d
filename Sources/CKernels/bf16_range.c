// Ranges of BF16 values. Without its sign, a BF16 pattern is ordered like the number it stands for, so amax is an integer maximum.
#include "CKernels.h"
#include "scalar.h"

static uint16_t amax_plain(const uint16_t *s, size_t n) {
    uint16_t best = 0;
    for (size_t i = 0; i < n; i++) {
        uint16_t m = s[i] & 0x7FFF;
        if (m > best) best = m;
    }
    return best;
}

#if defined(__x86_64__)
CK_TARGET_AVX2 static inline uint16_t largest_of_8(__m128i v) {
    // minpos finds the smallest unsigned word; complementing twice makes it the largest.
    const __m128i ones = _mm_set1_epi16(-1);
    return (uint16_t)~(unsigned)_mm_extract_epi16(_mm_minpos_epu16(_mm_xor_si128(v, ones)), 0);
}

CK_TARGET_AVX2 static uint16_t amax_avx2(const uint16_t *s, size_t n) {
    const __m256i magnitude = _mm256_set1_epi16(0x7FFF);
    __m256i a = _mm256_setzero_si256(), b = a;
    size_t i = 0;
    for (; i + 32 <= n; i += 32) {
        a = _mm256_max_epu16(a, _mm256_and_si256(magnitude, _mm256_loadu_si256((const __m256i *)(s + i))));
        b = _mm256_max_epu16(b, _mm256_and_si256(magnitude, _mm256_loadu_si256((const __m256i *)(s + i + 16))));
    }
    a = _mm256_max_epu16(a, b);
    uint16_t best = largest_of_8(_mm_max_epu16(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1)));
    uint16_t rest = amax_plain(s + i, n - i);
    return rest > best ? rest : best;
}

CK_TARGET_AVX512 static uint16_t amax_avx512(const uint16_t *s, size_t stride, size_t rows, size_t n) {
    const __m512i magnitude = _mm512_set1_epi16(0x7FFF);
    __m512i a = _mm512_setzero_si512(), b = a;
    for (size_t r = 0; r < rows; r++, s += stride) {
        size_t i = 0;
        for (; i + 64 <= n; i += 64) {
            a = _mm512_max_epu16(a, _mm512_and_si512(magnitude, _mm512_loadu_si512(s + i)));
            b = _mm512_max_epu16(b, _mm512_and_si512(magnitude, _mm512_loadu_si512(s + i + 32)));
        }
        for (; i < n; i += 32) {
            size_t left = n - i;
            __mmask32 m = left >= 32 ? ~0u : (1u << left) - 1;
            a = _mm512_max_epu16(a, _mm512_and_si512(magnitude, _mm512_maskz_loadu_epi16(m, s + i)));
        }
    }
    a = _mm512_max_epu16(a, b);
    __m256i h = _mm256_max_epu16(_mm512_castsi512_si256(a), _mm512_extracti64x4_epi64(a, 1));
    return largest_of_8(_mm_max_epu16(_mm256_castsi256_si128(h), _mm256_extracti128_si256(h, 1)));
}

/// Groups of 32, the commonest, two at a time: one register each, halved until eight lanes of each are left.
CK_TARGET_AVX512 static void group32_amax_avx512(const uint16_t *s, size_t groups, uint16_t *amax) {
    const __m512i magnitude = _mm512_set1_epi16(0x7FFF);
    size_t g = 0;
    for (; g + 2 <= groups; g += 2, s += 64) {
        __m512i a = _mm512_and_si512(magnitude, _mm512_loadu_si512(s));
        __m512i b = _mm512_and_si512(magnitude, _mm512_loadu_si512(s + 32));
        __m512i halves = _mm512_max_epu16(_mm512_shuffle_i64x2(a, b, 0x44), _mm512_shuffle_i64x2(a, b, 0xEE));
        __m256i one = _mm512_castsi512_si256(halves), two = _mm512_extracti64x4_epi64(halves, 1);
        amax[g] = largest_of_8(_mm_max_epu16(_mm256_castsi256_si128(one), _mm256_extracti128_si256(one, 1)));
        amax[g + 1] = largest_of_8(_mm_max_epu16(_mm256_castsi256_si128(two), _mm256_extracti128_si256(two, 1)));
    }
    if (g < groups) amax[g] = amax_avx512(s, 0, 1, 32);
}

/// Groups of 16, four at a time: a quarter of a register each.
CK_TARGET_AVX512 static void group16_amax_avx512(const uint16_t *s, size_t groups, uint16_t *amax) {
    const __m512i magnitude = _mm512_set1_epi16(0x7FFF);
    size_t g = 0;
    for (; g + 4 <= groups; g += 4, s += 64) {
        __m512i a = _mm512_loadu_si512(s), b = _mm512_loadu_si512(s + 32);
        __m512i m = _mm512_max_epu16(_mm512_and_si512(magnitude, _mm512_shuffle_i64x2(a, b, 0x88)),
                                     _mm512_and_si512(magnitude, _mm512_shuffle_i64x2(a, b, 0xDD)));
        amax[g] = largest_of_8(_mm512_castsi512_si128(m));
        amax[g + 1] = largest_of_8(_mm512_extracti64x2_epi64(m, 1));
        amax[g + 2] = largest_of_8(_mm512_extracti64x2_epi64(m, 2));
        amax[g + 3] = largest_of_8(_mm512_extracti64x2_epi64(m, 3));
    }
    for (; g < groups; g++, s += 16) amax[g] = amax_avx512(s, 0, 1, 16);
}

CK_TARGET_AVX512 static void group_amax_avx512(const uint16_t *s, size_t groups, size_t size, uint16_t *amax) {
    if (size == 32) { group32_amax_avx512(s, groups, amax); return; }
    if (size == 16) { group16_amax_avx512(s, groups, amax); return; }
    for (size_t g = 0; g < groups; g++) amax[g] = amax_avx512(s + g * size, 0, 1, size);
}

CK_TARGET_AVX2 static void group_amax_avx2(const uint16_t *s, size_t groups, size_t size, uint16_t *amax) {
    for (size_t g = 0; g < groups; g++) amax[g] = amax_avx2(s + g * size, size);
}
#endif

uint16_t ck_bf16_amax(int level, const uint16_t *source, size_t stride, size_t rows, size_t columns) {
#if defined(__x86_64__)
    if (level == CK_AVX512) return amax_avx512(source, stride, rows, columns);
#endif
    uint16_t best = 0;
    for (size_t r = 0; r < rows; r++) {
        const uint16_t *row = source + r * stride;
#if defined(__x86_64__)
        uint16_t m = level == CK_AVX2 ? amax_avx2(row, columns) : amax_plain(row, columns);
#else
        uint16_t m = amax_plain(row, columns);
#endif
        if (m > best) best = m;
    }
    (void)level;
    return best;
}

void ck_bf16_group_amax(int level, const uint16_t *source, size_t groups, size_t size, uint16_t *amax) {
#if defined(__x86_64__)
    if (level == CK_AVX512) { group_amax_avx512(source, groups, size, amax); return; }
    if (level == CK_AVX2) { group_amax_avx2(source, groups, size, amax); return; }
#endif
    (void)level;
    for (size_t g = 0; g < groups; g++) amax[g] = amax_plain(source + g * size, size);
}

void ck_bf16_symmetric_scales(uint16_t *amax, size_t groups, float half_range) {
    for (size_t g = 0; g < groups; g++) {
        uint16_t scale = ck_to_bf16(ck_from_bf16(amax[g]) / half_range);
        amax[g] = scale == 0 ? 0x3C00 : scale;
    }
}

/// BF16 bits as an integer of the same order (and back: the map is its own inverse).
static inline int16_t ordered(uint16_t bits) { return (int16_t)(bits ^ ((uint16_t)((int16_t)bits >> 15) & 0x7FFF)); }

static void group_range_plain(const uint16_t *s, size_t size, uint16_t *least, uint16_t *greatest) {
    int16_t low = 0, high = 0;
    for (size_t i = 0; i < size; i++) {
        int16_t v = ordered(s[i]);
        low = v < low ? v : low;
        high = v > high ? v : high;
    }
    *least = low == -1 ? 0 : ordered((uint16_t)low);  // -0 counts as 0
    *greatest = (uint16_t)high;
}

#if defined(__x86_64__)
CK_TARGET_AVX2 static void group_range_avx2(const uint16_t *s, size_t groups, size_t size, uint16_t *least, uint16_t *greatest) {
    const __m256i magnitude = _mm256_set1_epi16(0x7FFF);
    for (size_t g = 0; g < groups; g++, s += size) {
        __m256i low = _mm256_setzero_si256(), high = low;
        for (size_t i = 0; i < size; i += 16) {
            __m256i v = _mm256_loadu_si256((const __m256i *)(s + i));
            v = _mm256_xor_si256(v, _mm256_and_si256(_mm256_srai_epi16(v, 15), magnitude));
            low = _mm256_min_epi16(low, v);
            high = _mm256_max_epi16(high, v);
        }
        __m128i l = _mm_min_epi16(_mm256_castsi256_si128(low), _mm256_extracti128_si256(low, 1));
        __m128i h = _mm_max_epi16(_mm256_castsi256_si128(high), _mm256_extracti128_si256(high, 1));
        // minpos is unsigned: move the signed order up by 2^15.
        l = _mm_minpos_epu16(_mm_xor_si128(l, _mm_set1_epi16((short)0x8000)));
        uint16_t lowest = (uint16_t)(_mm_extract_epi16(l, 0) ^ 0x8000);
        least[g] = lowest == 0xFFFF ? 0 : (uint16_t)ordered(lowest);
        greatest[g] = largest_of_8(h);
    }
}
#endif

void ck_bf16_group_range(int level, const uint16_t *source, size_t groups, size_t size, uint16_t *least, uint16_t *greatest) {
#if defined(__x86_64__)
    if (level >= CK_AVX2 && size % 16 == 0) {
        group_range_avx2(source, groups, size, least, greatest);
        return;
    }
#endif
    (void)level;
    for (size_t g = 0; g < groups; g++) group_range_plain(source + g * size, size, least + g, greatest + g);
}

void ck_bf16_asymmetric_parameters(const uint16_t *least, const uint16_t *greatest, size_t groups, uint16_t *scales, int8_t *zero_points) {
    for (size_t g = 0; g < groups; g++) {
        float minimum = ck_from_bf16(least[g]);
        float span = ck_round_bf16(ck_from_bf16(greatest[g]) - minimum);
        uint16_t scale = ck_to_bf16(span / 15.0f);
        float zero = ck_round_bf16(-8.0f - ck_round_bf16(minimum / ck_from_bf16(scale)));
        // 0 / 0 is NaN, which the library's cast to an integer makes 0.
        zero = zero != zero ? 0.0f : zero;
        zero = zero < -8.0f ? -8.0f : zero > 7.0f ? 7.0f : zero;
        scales[g] = scale == 0 ? 0x3C00 : scale;
        // Adding and taking away 1.5 * 2^23 rounds to nearest even.
        zero_points[g] = (int8_t)((zero + 12582912.0f) - 12582912.0f);
    }
}
