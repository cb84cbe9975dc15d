// Integer codes of compressed-tensors: quotient, sum and product are each rounded to BF16, as the library computes them.
#include "CKernels.h"
#include "scalar.h"

static inline int code_of(uint16_t w, float scale, float zero_point, int asymmetric, float least, float greatest) {
    float q = ck_round_bf16(ck_from_bf16(w) / scale);
    if (asymmetric) q = ck_round_bf16(q + zero_point);
    q = q < least ? least : q > greatest ? greatest : q;
    return (int)lrintf(q);
}

static void int4_encode_plain(const uint16_t *s, float scale, const int8_t *zero_point, size_t size, uint8_t *t) {
    float z = zero_point ? *zero_point : 0;
    for (size_t i = 0; i < size; i += 2) {
        int a = code_of(s[i], scale, z, zero_point != 0, -8, 7) + 8;
        int b = code_of(s[i + 1], scale, z, zero_point != 0, -8, 7) + 8;
        t[i / 2] = (uint8_t)(a | b << 4);
    }
}

#if defined(__x86_64__)
CK_TARGET_AVX2 static inline __m256 round_bf16_avx2(__m256 x) {
    __m256i u = _mm256_castps_si256(x);
    __m256i odd = _mm256_and_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(1));
    u = _mm256_add_epi32(u, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7FFF)));
    return _mm256_castsi256_ps(_mm256_and_si256(u, _mm256_set1_epi32((int)0xFFFF0000u)));
}

CK_TARGET_AVX2 static inline __m256i codes_avx2(__m128i v, __m256 reciprocal, __m256 zero_point, int asymmetric,
                                                __m256 least, __m256 greatest) {
    __m256 w = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(v), 16));
    __m256 q = round_bf16_avx2(_mm256_mul_ps(w, reciprocal));
    if (asymmetric) q = round_bf16_avx2(_mm256_add_ps(q, zero_point));
    return _mm256_cvtps_epi32(_mm256_min_ps(_mm256_max_ps(q, least), greatest));
}

CK_TARGET_AVX2 static void int4_encode_avx2(const uint16_t *s, float scale, const int8_t *zero_point, size_t size, uint8_t *t) {
    const __m256 reciprocal = _mm256_set1_ps(1.0f / scale), z = _mm256_set1_ps(zero_point ? *zero_point : 0);
    const __m256 least = _mm256_set1_ps(-8), greatest = _mm256_set1_ps(7);
    const __m256i eight = _mm256_set1_epi32(8);
    int asymmetric = zero_point != 0;
    size_t i = 0;
    for (; i + 16 <= size; i += 16) {
        __m256i a = codes_avx2(_mm_loadu_si128((const __m128i *)(s + i)), reciprocal, z, asymmetric, least, greatest);
        __m256i b = codes_avx2(_mm_loadu_si128((const __m128i *)(s + i + 8)), reciprocal, z, asymmetric, least, greatest);
        __m256i words = _mm256_packus_epi32(_mm256_add_epi32(a, eight), _mm256_add_epi32(b, eight));
        words = _mm256_permute4x64_epi64(words, 0xD8);
        __m128i bytes = _mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
        __m128i pairs = _mm_maddubs_epi16(bytes, _mm_set1_epi16(0x1001));
        _mm_storel_epi64((__m128i *)(t + i / 2), _mm_packus_epi16(pairs, pairs));
    }
    int4_encode_plain(s + i, scale, zero_point, size - i, t + i / 2);
}

CK_TARGET_AVX512 static inline __m512 round_bf16_avx512(__m512 x) {
    __m512i u = _mm512_castps_si512(x);
    __m512i odd = _mm512_and_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(1));
    u = _mm512_add_epi32(u, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7FFF)));
    return _mm512_castsi512_ps(_mm512_and_si512(u, _mm512_set1_epi32((int)0xFFFF0000u)));
}

/// Sixteen codes of words in the even (shift 16) or odd (mask) halves of 32-bit lanes.
CK_TARGET_AVX512 static inline __m512i codes_avx512(__m512i w, __m512 reciprocal, __m512 z, int asymmetric) {
    __m512 q = round_bf16_avx512(_mm512_mul_ps(_mm512_castsi512_ps(w), reciprocal));
    if (asymmetric) q = round_bf16_avx512(_mm512_add_ps(q, z));
    q = _mm512_min_ps(_mm512_max_ps(q, _mm512_set1_ps(-8)), _mm512_set1_ps(7));
    return _mm512_cvtps_epi32(q);
}

/// Whole groups; falls back group by group where the reciprocal is not exact.
CK_TARGET_AVX512 static void int4_encode_avx512(const uint16_t *s, const uint16_t *scales, const int8_t *zero_points, size_t groups,
                                                size_t size, uint8_t *t) {
    const __m512i odd_half = _mm512_set1_epi32((int)0xFFFF0000u), offset = _mm512_set1_epi32(0x88);
    float reciprocals[16];
    for (size_t g = 0; g < groups; g++) {
        if (g % 16 == 0) {
            // Sixteen reciprocals in one division.
            size_t left = groups - g;
            __mmask16 m = left >= 16 ? 0xFFFF : (__mmask16)((1u << left) - 1);
            __m512i bits = _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(m, scales + g)), 16);
            _mm512_storeu_ps(reciprocals, _mm512_div_ps(_mm512_set1_ps(1.0f), _mm512_castsi512_ps(bits)));
        }
        const int8_t *zero_point = zero_points ? zero_points + g : 0;
        const uint16_t *group = s + g * size;
        uint8_t *out = t + g * size / 2;
        if (!ck_reciprocal_is_exact(scales[g])) {
            int4_encode_plain(group, ck_from_bf16(scales[g]), zero_point, size, out);
            continue;
        }
        const __m512 reciprocal = _mm512_set1_ps(reciprocals[g % 16]), z = _mm512_set1_ps(zero_point ? *zero_point : 0);
        size_t i = 0;
        for (; i + 32 <= size; i += 32) {
            __m512i v = _mm512_loadu_si512(group + i);
            __m512i even = codes_avx512(_mm512_slli_epi32(v, 16), reciprocal, z, zero_point != 0);
            __m512i odd = codes_avx512(_mm512_and_si512(v, odd_half), reciprocal, z, zero_point != 0);
            // even + 8 in the low nibble, odd + 8 in the high one: the two stored neighbours of a byte.
            __m512i pair = _mm512_add_epi32(_mm512_add_epi32(even, _mm512_slli_epi32(odd, 4)), offset);
            _mm_storeu_si128((__m128i *)(out + i / 2), _mm512_cvtepi32_epi8(pair));
        }
        if (i < size) int4_encode_plain(group + i, ck_from_bf16(scales[g]), zero_point, size - i, out + i / 2);
    }
}
#endif

void ck_int4_encode(int level, const uint16_t *source, const uint16_t *scales, const int8_t *zero_points,
                    size_t groups, size_t size, uint8_t *target) {
#if defined(__x86_64__)
    if (level == CK_AVX512) {
        int4_encode_avx512(source, scales, zero_points, groups, size, target);
        return;
    }
#endif
    for (size_t g = 0; g < groups; g++) {
        const uint16_t *s = source + g * size;
        const int8_t *z = zero_points ? zero_points + g : 0;
        uint8_t *t = target + g * size / 2;
        float scale = ck_from_bf16(scales[g]);
#if defined(__x86_64__)
        if (level == CK_AVX2 && ck_reciprocal_is_exact(scales[g])) {
            int4_encode_avx2(s, scale, z, size, t);
            continue;
        }
#endif
        int4_encode_plain(s, scale, z, size, t);
    }
    (void)level;
}

/// A group has 16 possible values: build them, then look up.
static void int4_table(uint16_t scale, const int8_t *zero_point, uint16_t table[16]) {
    float s = ck_from_bf16(scale), z = zero_point ? *zero_point : 0;
    for (int code = 0; code < 16; code++) table[code] = ck_to_bf16(ck_round_bf16((float)(code - 8) - z) * s);
}

static void int4_decode_plain(const uint8_t *s, const uint16_t table[16], size_t size, uint16_t *t) {
    for (size_t i = 0; i < size; i += 2) {
        t[i] = table[s[i / 2] & 15];
        t[i + 1] = table[s[i / 2] >> 4];
    }
}

#if defined(__x86_64__)
/// A group's 16 values, their low and high bytes in a register each for byte shuffles. The scale is finite.
CK_TARGET_AVX2 static void int4_decode_avx2(const uint8_t *s, uint16_t scale, const int8_t *zero_point, size_t size, uint16_t *t) {
    const __m256 factor = _mm256_set1_ps(ck_from_bf16(scale)), zero = _mm256_set1_ps(zero_point ? *zero_point : 0);
    // Code less zero point is a small whole number: exact in BF16.
    __m256 first = _mm256_sub_ps(_mm256_setr_ps(-8, -7, -6, -5, -4, -3, -2, -1), zero);
    __m256 second = _mm256_sub_ps(_mm256_setr_ps(0, 1, 2, 3, 4, 5, 6, 7), zero);
    __m256i a16 = _mm256_srli_epi32(_mm256_castps_si256(round_bf16_avx2(_mm256_mul_ps(first, factor))), 16);
    __m256i b16 = _mm256_srli_epi32(_mm256_castps_si256(round_bf16_avx2(_mm256_mul_ps(second, factor))), 16);
    __m256i words = _mm256_permute4x64_epi64(_mm256_packus_epi32(a16, b16), 0xD8);
    __m256i lows = _mm256_and_si256(words, _mm256_set1_epi16(0xFF)), highs = _mm256_srli_epi16(words, 8);
    const __m128i low = _mm_packus_epi16(_mm256_castsi256_si128(lows), _mm256_extracti128_si256(lows, 1));
    const __m128i high = _mm_packus_epi16(_mm256_castsi256_si128(highs), _mm256_extracti128_si256(highs, 1));
    const __m128i nibble = _mm_set1_epi8(15);
    size_t i = 0;
    for (; i + 32 <= size; i += 32) {
        __m128i v = _mm_loadu_si128((const __m128i *)(s + i / 2));
        __m128i even = _mm_and_si128(v, nibble), odd = _mm_and_si128(_mm_srli_epi16(v, 4), nibble);
        __m128i a = _mm_unpacklo_epi8(even, odd), b = _mm_unpackhi_epi8(even, odd);
        __m128i la = _mm_shuffle_epi8(low, a), ha = _mm_shuffle_epi8(high, a);
        __m128i lb = _mm_shuffle_epi8(low, b), hb = _mm_shuffle_epi8(high, b);
        _mm_storeu_si128((__m128i *)(t + i), _mm_unpacklo_epi8(la, ha));
        _mm_storeu_si128((__m128i *)(t + i + 8), _mm_unpackhi_epi8(la, ha));
        _mm_storeu_si128((__m128i *)(t + i + 16), _mm_unpacklo_epi8(lb, hb));
        _mm_storeu_si128((__m128i *)(t + i + 24), _mm_unpackhi_epi8(lb, hb));
    }
    if (i < size) {
        uint16_t table[16];
        int4_table(scale, zero_point, table);
        int4_decode_plain(s + i / 2, table, size - i, t + i);
    }
}

/// A group's 16 values are computed in one register and looked up 32 at a time (vpermw).
CK_TARGET_AVX512 static void int4_decode_avx512(const uint8_t *s, const uint16_t *scales, const int8_t *zero_points, size_t groups,
                                                size_t size, uint16_t *t) {
    const __m512 codes = _mm512_setr_ps(-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7);
    const __m512i low = _mm512_set1_epi32(15);
    for (size_t g = 0; g < groups; g++, s += size / 2, t += size) {
        // Code less zero point is a small whole number: exact in BF16.
        __m512 difference = _mm512_sub_ps(codes, _mm512_set1_ps(zero_points ? zero_points[g] : 0));
        __m512 product = round_bf16_avx512(_mm512_mul_ps(difference, _mm512_set1_ps(ck_from_bf16(scales[g]))));
        __m256i words = _mm512_cvtepi32_epi16(_mm512_srli_epi32(_mm512_castps_si512(product), 16));
        __m512i table = _mm512_castsi256_si512(words);
        for (size_t i = 0; i < size; i += 32) {
            __m512i v = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(s + i / 2)));
            __m512i index = _mm512_or_si512(_mm512_and_si512(v, low), _mm512_slli_epi32(_mm512_srli_epi32(v, 4), 16));
            _mm512_storeu_si512(t + i, _mm512_permutexvar_epi16(index, table));
        }
    }
}

/// Infinite and NaN scales need the rounding that keeps NaN.
static int all_finite(const uint16_t *scales, size_t count) {
    unsigned found = 0;
    for (size_t i = 0; i < count; i++) found |= (scales[i] & 0x7F80) == 0x7F80;
    return !found;
}
#endif

void ck_int4_decode(int level, const uint8_t *source, const uint16_t *scales, const int8_t *zero_points,
                    size_t groups, size_t size, uint16_t *target) {
#if defined(__x86_64__)
    if (level == CK_AVX512 && size % 32 == 0 && all_finite(scales, groups)) {
        int4_decode_avx512(source, scales, zero_points, groups, size, target);
        return;
    }
#endif
    for (size_t g = 0; g < groups; g++) {
        const int8_t *z = zero_points ? zero_points + g : 0;
#if defined(__x86_64__)
        if (level >= CK_AVX2 && (scales[g] & 0x7F80) != 0x7F80) {
            int4_decode_avx2(source + g * size / 2, scales[g], z, size, target + g * size);
            continue;
        }
#endif
        uint16_t table[16];
        int4_table(scales[g], z, table);
        int4_decode_plain(source + g * size / 2, table, size, target + g * size);
    }
    (void)level;
}

static void int8_encode_plain(const uint16_t *s, float scale, size_t size, uint8_t *t) {
    for (size_t i = 0; i < size; i++) t[i] = (uint8_t)(code_of(s[i], scale, 0, 0, -128, 127) + 128);
}

#if defined(__x86_64__)
CK_TARGET_AVX2 static void int8_encode_avx2(const uint16_t *s, float scale, size_t size, uint8_t *t) {
    const __m256 reciprocal = _mm256_set1_ps(1.0f / scale), zero = _mm256_setzero_ps();
    const __m256 least = _mm256_set1_ps(-128), greatest = _mm256_set1_ps(127);
    const __m256i offset = _mm256_set1_epi32(128);
    size_t i = 0;
    for (; i + 16 <= size; i += 16) {
        __m256i a = codes_avx2(_mm_loadu_si128((const __m128i *)(s + i)), reciprocal, zero, 0, least, greatest);
        __m256i b = codes_avx2(_mm_loadu_si128((const __m128i *)(s + i + 8)), reciprocal, zero, 0, least, greatest);
        __m256i words = _mm256_packus_epi32(_mm256_add_epi32(a, offset), _mm256_add_epi32(b, offset));
        words = _mm256_permute4x64_epi64(words, 0xD8);
        __m128i bytes = _mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
        _mm_storeu_si128((__m128i *)(t + i), bytes);
    }
    int8_encode_plain(s + i, scale, size - i, t + i);
}

CK_TARGET_AVX2 static size_t int8_decode_avx2(const uint8_t *s, float scale, size_t size, uint16_t *t) {
    const __m256 factor = _mm256_set1_ps(scale);
    size_t i = 0;
    for (; i + 8 <= size; i += 8) {
        __m256i code = _mm256_sub_epi32(_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(s + i))), _mm256_set1_epi32(128));
        __m256i u = _mm256_castps_si256(round_bf16_avx2(_mm256_mul_ps(_mm256_cvtepi32_ps(code), factor)));
        u = _mm256_srli_epi32(u, 16);
        _mm_storeu_si128((__m128i *)(t + i), _mm_packus_epi32(_mm256_castsi256_si128(u), _mm256_extracti128_si256(u, 1)));
    }
    return i;
}
#endif

void ck_int8_encode(int level, const uint16_t *source, const uint16_t *scales, size_t groups, size_t size, uint8_t *target) {
    for (size_t g = 0; g < groups; g++) {
        float scale = ck_from_bf16(scales[g]);
#if defined(__x86_64__)
        if (level >= CK_AVX2 && ck_reciprocal_is_exact(scales[g])) {
            int8_encode_avx2(source + g * size, scale, size, target + g * size);
            continue;
        }
#endif
        int8_encode_plain(source + g * size, scale, size, target + g * size);
    }
    (void)level;
}

void ck_int8_decode(int level, const uint8_t *source, const uint16_t *scales, size_t groups, size_t size, uint16_t *target) {
    for (size_t g = 0; g < groups; g++) {
        const uint8_t *s = source + g * size;
        uint16_t *t = target + g * size;
        float scale = ck_from_bf16(scales[g]);
        size_t i = 0;
#if defined(__x86_64__)
        // Finite scales only: an infinite one makes NaN of code 0, which the vector rounding does not preserve.
        if (level >= CK_AVX2 && (scales[g] & 0x7F80) != 0x7F80) i = int8_decode_avx2(s, scale, size, t);
#endif
        for (; i < size; i++) t[i] = ck_to_bf16((float)(s[i] - 128) * scale);
    }
    (void)level;
}
