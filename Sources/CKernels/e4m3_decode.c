// A block has one scale, so a code's BF16 value takes one of 128 magnitudes: build them once, then look up bytes.
#include "CKernels.h"
#include "scalar.h"

/// A block's part of the scratch memory: 128 magnitudes, 32 bytes for nibble look-ups, and whether those may be used.
enum { NIBBLES = 128, USUAL = 144 };

static void build_table(float scale, uint16_t *table) {
    for (int code = 0; code < 128; code++) table[code] = ck_to_bf16(ck_from_e4m3((uint8_t)code) * scale);
}

static void decode_plain(const uint8_t *s, uint16_t *t, size_t n, const uint16_t *table) {
    for (size_t i = 0; i < n; i++) t[i] = (uint16_t)(table[s[i] & 0x7F] ^ ((s[i] & 0x80) << 8));
}

#if defined(__x86_64__) || defined(__aarch64__)
/// The rounded significand of a normal code depends on its 3 mantissa bits only, and the exponent adds, as long as neither
/// end leaves BF16's normal range. Fills 16 entries, low bytes and then high bytes: mantissa alone for subnormal codes,
/// 8 + mantissa for normal ones (less one exponent step, which the code's own exponent adds back).
static void build_nibbles(uint16_t *table) {
    uint8_t *bytes = (uint8_t *)(table + NIBBLES);
    table[USUAL] = table[8] >= 0x0080 && table[0x7E] < 0x7F80;
    for (int i = 0; i < 16; i++) {
        uint16_t v = i < 8 ? table[i] : (uint16_t)(table[i] - 0x80);
        bytes[i] = (uint8_t)v; bytes[16 + i] = (uint8_t)(v >> 8);
    }
}
#endif

#if defined(__x86_64__)
CK_TARGET_AVX2 static void decode_avx2(const uint8_t *s, uint16_t *t, size_t n, const uint16_t *table) {
    const __m256i low = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)(table + NIBBLES)));
    const __m256i high = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)(table + NIBBLES + 8)));
    const __m256i seven = _mm256_set1_epi8(7), eight = _mm256_set1_epi8(8), exponent = _mm256_set1_epi8(0x78);
    const __m256i magnitude = _mm256_set1_epi8(0x7F), zero = _mm256_setzero_si256(), nan = _mm256_set1_epi16(0x7FC0);
    const __m256i sign = _mm256_set1_epi8((char)0x80);
    size_t i = 0;
    for (; i + 32 <= n; i += 32) {
        // Order the 8-byte quarters 0 2 1 3 so that the in-lane unpacks below leave elements in order.
        __m256i v = _mm256_permute4x64_epi64(_mm256_loadu_si256((const __m256i *)(s + i)), 0xD8);
        __m256i e = _mm256_and_si256(v, exponent);
        __m256i index = _mm256_or_si256(_mm256_and_si256(v, seven), _mm256_min_epu8(e, eight));
        __m256i lo = _mm256_shuffle_epi8(low, index), hi = _mm256_shuffle_epi8(high, index);
        __m256i nans = _mm256_cmpeq_epi8(_mm256_and_si256(v, magnitude), magnitude);
        __m256i signs = _mm256_and_si256(v, sign);
        __m256i a = _mm256_add_epi16(_mm256_unpacklo_epi8(lo, hi), _mm256_slli_epi16(_mm256_unpacklo_epi8(e, zero), 4));
        __m256i b = _mm256_add_epi16(_mm256_unpackhi_epi8(lo, hi), _mm256_slli_epi16(_mm256_unpackhi_epi8(e, zero), 4));
        a = _mm256_blendv_epi8(a, nan, _mm256_unpacklo_epi8(nans, nans));
        b = _mm256_blendv_epi8(b, nan, _mm256_unpackhi_epi8(nans, nans));
        a = _mm256_xor_si256(a, _mm256_unpacklo_epi8(zero, signs));
        b = _mm256_xor_si256(b, _mm256_unpackhi_epi8(zero, signs));
        _mm256_storeu_si256((__m256i *)(t + i), a);
        _mm256_storeu_si256((__m256i *)(t + i + 16), b);
    }
    decode_plain(s + i, t + i, n - i, table);
}

/// vpermi2b looks 7-bit indices up in 128 bytes: a table's low and high bytes, two registers each.
CK_TARGET_AVX512 static inline void decode_64(const uint8_t *s, uint16_t *t, size_t left, const __m512i bytes[4]) {
    const __m512i sign = _mm512_set1_epi8((char)0x80), order = _mm512_set_epi64(7, 3, 6, 2, 5, 1, 4, 0);
    __mmask64 m = left >= 64 ? ~0ull : ((1ull << left) - 1);
    // Quarters in the order that the in-lane unpacks below undo.
    __m512i v = _mm512_permutexvar_epi64(order, _mm512_maskz_loadu_epi8(m, s));
    __m512i lo = _mm512_permutex2var_epi8(bytes[0], v, bytes[1]);
    __m512i hi = _mm512_xor_si512(_mm512_permutex2var_epi8(bytes[2], v, bytes[3]), _mm512_and_si512(v, sign));
    __m512i a = _mm512_unpacklo_epi8(lo, hi), b = _mm512_unpackhi_epi8(lo, hi);
    if (left >= 64) {
        _mm512_storeu_si512(t, a);
        _mm512_storeu_si512(t + 32, b);
    } else {
        _mm512_mask_storeu_epi16(t, (__mmask32)m, a);
        _mm512_mask_storeu_epi16(t + 32, (__mmask32)(m >> 32), b);
    }
}

CK_TARGET_AVX512 static void decode_avx512(const uint8_t *s, uint16_t *t, size_t rows, size_t columns, size_t block_columns,
                                           uint16_t *tables) {
    size_t blocks = (columns + block_columns - 1) / block_columns;
    for (size_t block = 0; block < blocks; block++) {
        uint16_t *table = tables + block * CK_TABLE_WORDS;
        uint8_t split[256];
        for (int i = 0; i < 128; i++) {
            split[i] = (uint8_t)table[i];
            split[128 + i] = (uint8_t)(table[i] >> 8);
        }
        memcpy(table, split, 256);
    }
    for (size_t r = 0; r < rows; r++, s += columns, t += columns) {
        for (size_t block = 0; block < blocks; block++) {
            const uint16_t *table = tables + block * CK_TABLE_WORDS;
            const __m512i bytes[4] = {_mm512_loadu_si512(table), _mm512_loadu_si512(table + 32), _mm512_loadu_si512(table + 64),
                                      _mm512_loadu_si512(table + 96)};
            size_t begin = block * block_columns, end = begin + block_columns < columns ? begin + block_columns : columns;
            for (size_t i = begin; i < end; i += 64) decode_64(s + i, t + i, end - i, bytes);
        }
    }
}
#endif

#if defined(__aarch64__)
static void decode_neon(const uint8_t *s, uint16_t *t, size_t n, const uint16_t *table) {
    const uint8x16_t low = vld1q_u8((const uint8_t *)(table + NIBBLES)), high = vld1q_u8((const uint8_t *)(table + NIBBLES + 8));
    const uint16x8_t nan = vdupq_n_u16(0x7FC0);
    size_t i = 0;
    for (; i + 16 <= n; i += 16) {
        uint8x16_t v = vld1q_u8(s + i), e = vandq_u8(v, vdupq_n_u8(0x78));
        uint8x16_t index = vorrq_u8(vandq_u8(v, vdupq_n_u8(7)), vminq_u8(e, vdupq_n_u8(8)));
        uint8x16_t lo = vqtbl1q_u8(low, index), hi = vqtbl1q_u8(high, index);
        uint8x16_t nans = vceqq_u8(vandq_u8(v, vdupq_n_u8(0x7F)), vdupq_n_u8(0x7F));
        uint8x16_t signs = vandq_u8(v, vdupq_n_u8(0x80));
        uint16x8_t a = vaddq_u16(vreinterpretq_u16_u8(vzip1q_u8(lo, hi)), vshll_n_u8(vget_low_u8(e), 4));
        uint16x8_t b = vaddq_u16(vreinterpretq_u16_u8(vzip2q_u8(lo, hi)), vshll_n_u8(vget_high_u8(e), 4));
        a = vbslq_u16(vreinterpretq_u16_u8(vzip1q_u8(nans, nans)), nan, a);
        b = vbslq_u16(vreinterpretq_u16_u8(vzip2q_u8(nans, nans)), nan, b);
        vst1q_u16(t + i, veorq_u16(a, vshlq_n_u16(vmovl_u8(vget_low_u8(signs)), 8)));
        vst1q_u16(t + i + 8, veorq_u16(b, vshlq_n_u16(vmovl_u8(vget_high_u8(signs)), 8)));
    }
    decode_plain(s + i, t + i, n - i, table);
}
#endif

void ck_e4m3_decode(int level, const uint8_t *source, uint16_t *target, size_t rows, size_t columns, size_t block_columns,
                    const float *scales, uint16_t *tables) {
    size_t blocks = (columns + block_columns - 1) / block_columns;
    for (size_t block = 0; block < blocks; block++) build_table(scales[block], tables + block * CK_TABLE_WORDS);
#if defined(__x86_64__)
    if (level == CK_AVX512) {
        decode_avx512(source, target, rows, columns, block_columns, tables);
        return;
    }
#endif
#if defined(__x86_64__) || defined(__aarch64__)
    for (size_t block = 0; block < blocks; block++) build_nibbles(tables + block * CK_TABLE_WORDS);
#endif
    for (size_t r = 0; r < rows; r++) {
        for (size_t block = 0; block < blocks; block++) {
            const uint16_t *table = tables + block * CK_TABLE_WORDS;
            size_t begin = block * block_columns, width = columns - begin < block_columns ? columns - begin : block_columns;
            const uint8_t *s = source + r * columns + begin;
            uint16_t *t = target + r * columns + begin;
#if defined(__x86_64__)
            if (level == CK_AVX2 && table[USUAL]) { decode_avx2(s, t, width, table); continue; }
#elif defined(__aarch64__)
            if (level == CK_NEON && table[USUAL]) { decode_neon(s, t, width, table); continue; }
#endif
            decode_plain(s, t, width, table);
        }
    }
    (void)level;
}
