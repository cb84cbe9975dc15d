// Codes of 1 to 8 bits laid one after another, and words of them turned over.
#include "CKernels.h"
#include "loops.h"

// MARK: Streams of bits

CK_INLINE void pack_loop(const uint8_t *codes, size_t count, int bits, uint8_t *target) {
    size_t i = 0;
    if (bits == 4) {
        for (; i + 2 <= count; i += 2) target[i / 2] = (uint8_t)(codes[i] | codes[i + 1] << 4);
    } else if (bits == 8) {
        memcpy(target, codes, count);
        return;
    }
    // Eight codes fill `bits` bytes; the last ones may fill fewer.
    for (; i < count; i += 8) {
        size_t some = count - i < 8 ? count - i : 8;
        uint64_t word = 0;
        for (size_t j = 0; j < some; j++) word |= (uint64_t)codes[i + j] << (j * (size_t)bits);
        for (size_t b = 0; b * 8 < some * (size_t)bits; b++) target[i * (size_t)bits / 8 + b] = (uint8_t)(word >> (8 * b));
    }
}

CK_INLINE void unpack_loop(const uint8_t *source, size_t count, int bits, uint8_t *codes) {
    size_t i = 0;
    if (bits == 4) {
        for (; i + 2 <= count; i += 2) { codes[i] = source[i / 2] & 15; codes[i + 1] = source[i / 2] >> 4; }
    } else if (bits == 8) {
        memcpy(codes, source, count);
        return;
    }
    uint8_t mask = (uint8_t)((1u << bits) - 1);
    for (; i < count; i += 8) {
        size_t some = count - i < 8 ? count - i : 8;
        uint64_t word = 0;
        for (size_t b = 0; b * 8 < some * (size_t)bits; b++) word |= (uint64_t)source[i * (size_t)bits / 8 + b] << (8 * b);
        for (size_t j = 0; j < some; j++) codes[i + j] = (uint8_t)(word >> (j * (size_t)bits)) & mask;
    }
}

#if defined(__x86_64__)
/// The place of byte b of each of eight codes' `bits` bytes in 64 bytes that hold eight to a code, or the other way.
CK_TARGET_AVX512 static inline __m512i spread(int bits, int gathers) {
    uint8_t places[64] = {0};
    for (int word = 0; word < 8; word++)
        for (int b = 0; b < bits; b++) {
            if (gathers) places[word * bits + b] = (uint8_t)(word * 8 + b);
            else places[word * 8 + b] = (uint8_t)(word * bits + b);
        }
    return _mm512_loadu_si512(places);
}

/// The lowest `count` of 64 bytes.
CK_TARGET_AVX512 static inline __mmask64 lowest(size_t count) { return count >= 64 ? ~0ull : (1ull << count) - 1; }

CK_TARGET_AVX512 static void pack_avx512(const uint8_t *codes, size_t count, int bits, uint8_t *target) {
    if (bits > 6) { pack_loop(codes, count, bits, target); return; }
    // Neighbours are joined twice by multiplying and adding, then the halves of eight by shifting.
    const __m512i pairs = _mm512_set1_epi16((short)(1 | 1 << (bits + 8)));
    const __m512i fours = _mm512_set1_epi32(1 | 1 << (2 * bits + 16));
    const __m512i low = _mm512_set1_epi64(0xFFFFFFFF), places = spread(bits, 1);
    const __m128i shift = _mm_cvtsi32_si128(32 - 4 * bits);
    size_t i = 0;
    for (; i + 64 <= count; i += 64) {
        __m512i v = _mm512_madd_epi16(_mm512_maddubs_epi16(_mm512_loadu_si512(codes + i), pairs), fours);
        v = _mm512_or_si512(_mm512_and_si512(v, low), _mm512_srl_epi64(_mm512_andnot_si512(low, v), shift));
        _mm512_mask_storeu_epi8(target + i / 8 * (size_t)bits, lowest(8 * (size_t)bits), _mm512_permutexvar_epi8(places, v));
    }
    pack_loop(codes + i, count - i, bits, target + i / 8 * (size_t)bits);
}

CK_TARGET_AVX512 static void unpack_avx512(const uint8_t *source, size_t count, int bits, uint8_t *codes) {
    if (bits == 8) { memcpy(codes, source, count); return; }
    uint64_t shifts = 0;
    for (int j = 0; j < 8; j++) shifts |= (uint64_t)(j * bits) << (8 * j);
    const __m512i places = spread(bits, 0), places_of_code = _mm512_set1_epi64((long long)shifts), mask = _mm512_set1_epi8((char)((1 << bits) - 1));
    size_t i = 0;
    for (; i + 64 <= count; i += 64) {
        __m512i v = _mm512_maskz_loadu_epi8(lowest(8 * (size_t)bits), source + i / 8 * (size_t)bits);
        v = _mm512_multishift_epi64_epi8(places_of_code, _mm512_permutexvar_epi8(places, v));
        _mm512_storeu_si512(codes + i, _mm512_and_si512(v, mask));
    }
    unpack_loop(source + i / 8 * (size_t)bits, count - i, bits, codes + i);
}
#endif

// MARK: Turning words over

/// The square of 16 words, or less of it at the edges, whose first word is `source` and goes to `target`.
CK_INLINE void turn_square(const uint32_t *source, size_t columns, uint32_t *target, size_t rows, size_t height, size_t width) {
    for (size_t i = 0; i < width; i++)
        for (size_t j = 0; j < height; j++) target[i * rows + j] = source[j * columns + i];
}

CK_INLINE void turn_loop(const uint32_t *source, size_t source_stride, size_t rows, size_t columns, uint32_t *target, size_t target_stride) {
    for (size_t r = 0; r < rows; r += 16)
        for (size_t c = 0; c < columns; c += 16)
            turn_square(source + r * source_stride + c, source_stride, target + c * target_stride + r, target_stride,
                        rows - r < 16 ? rows - r : 16, columns - c < 16 ? columns - c : 16);
}

#if defined(__x86_64__)
/// Rows of 16 words become columns: neighbours by twos, by fours, and then quarters of the registers.
CK_TARGET_AVX512 static inline void turn16(const uint32_t *source, size_t source_stride, uint32_t *target, size_t target_stride) {
    __m512i a[16], b[16];
    for (int i = 0; i < 16; i++) a[i] = _mm512_loadu_si512(source + (size_t)i * source_stride);
    for (int i = 0; i < 16; i += 2) {
        b[i] = _mm512_unpacklo_epi32(a[i], a[i + 1]);
        b[i + 1] = _mm512_unpackhi_epi32(a[i], a[i + 1]);
    }
    for (int i = 0; i < 16; i += 4) {
        a[i] = _mm512_unpacklo_epi64(b[i], b[i + 2]);
        a[i + 1] = _mm512_unpackhi_epi64(b[i], b[i + 2]);
        a[i + 2] = _mm512_unpacklo_epi64(b[i + 1], b[i + 3]);
        a[i + 3] = _mm512_unpackhi_epi64(b[i + 1], b[i + 3]);
    }
    for (int i = 0; i < 4; i++) {
        b[i] = _mm512_shuffle_i32x4(a[i], a[i + 4], 0x88);
        b[i + 4] = _mm512_shuffle_i32x4(a[i], a[i + 4], 0xDD);
        b[i + 8] = _mm512_shuffle_i32x4(a[i + 8], a[i + 12], 0x88);
        b[i + 12] = _mm512_shuffle_i32x4(a[i + 8], a[i + 12], 0xDD);
    }
    for (int i = 0; i < 4; i++) {
        _mm512_storeu_si512(target + (size_t)i * target_stride, _mm512_shuffle_i32x4(b[i], b[i + 8], 0x88));
        _mm512_storeu_si512(target + (size_t)(i + 8) * target_stride, _mm512_shuffle_i32x4(b[i], b[i + 8], 0xDD));
        _mm512_storeu_si512(target + (size_t)(i + 4) * target_stride, _mm512_shuffle_i32x4(b[i + 4], b[i + 12], 0x88));
        _mm512_storeu_si512(target + (size_t)(i + 12) * target_stride, _mm512_shuffle_i32x4(b[i + 4], b[i + 12], 0xDD));
    }
}

CK_TARGET_AVX512 static void turn_avx512(
    const uint32_t *source, size_t source_stride, size_t rows, size_t columns, uint32_t *target, size_t target_stride
) {
    for (size_t r = 0; r < rows; r += 16)
        for (size_t c = 0; c < columns; c += 16) {
            const uint32_t *from = source + r * source_stride + c;
            uint32_t *to = target + c * target_stride + r;
            if (rows - r >= 16 && columns - c >= 16) turn16(from, source_stride, to, target_stride);
            else turn_square(from, source_stride, to, target_stride, rows - r < 16 ? rows - r : 16, columns - c < 16 ? columns - c : 16);
        }
}

CK_LEVEL_AVX2(turn, (const uint32_t *source, size_t source_stride, size_t rows, size_t columns, uint32_t *target, size_t target_stride),
              (source, source_stride, rows, columns, target, target_stride))
#endif

void ck_turn_words(int level, const uint32_t *source, size_t source_stride, size_t rows, size_t columns, uint32_t *target, size_t target_stride) {
    CK_RUN(turn, (source, source_stride, rows, columns, target, target_stride))
}

// MARK: AutoAWQ's words

/// Where in a word of AutoAWQ the code of channel 8 * word + c lies: the channels are packed in the order 0 2 4 6 1 3 5 7.
static const int awq_shift[8] = {0, 16, 4, 20, 8, 24, 12, 28};
/// Words and columns that are turned over at once: 16 KB.
enum { AWQ_WORDS = 16, AWQ_COLUMNS = 256 };

/// Words of eight rows each, [word][column].
CK_INLINE void awq_join_loop(const uint8_t *codes, size_t stride, size_t words, size_t columns, uint32_t *joined) {
    for (size_t w = 0; w < words; w++) {
        const uint8_t *row = codes + w * 8 * stride;
        uint32_t *target = joined + w * AWQ_COLUMNS;
        for (size_t k = 0; k < columns; k++) {
            uint32_t word = 0;
            for (size_t c = 0; c < 8; c++) word |= (uint32_t)row[c * stride + k] << awq_shift[c];
            target[k] = word;
        }
    }
}

CK_INLINE void awq_part_loop(const uint32_t *joined, size_t words, size_t columns, uint8_t *codes, size_t stride) {
    for (size_t w = 0; w < words; w++) {
        const uint32_t *source = joined + w * AWQ_COLUMNS;
        uint8_t *row = codes + w * 8 * stride;
        for (size_t c = 0; c < 8; c++)
            for (size_t k = 0; k < columns; k++) row[c * stride + k] = (uint8_t)(source[k] >> awq_shift[c]) & 15;
    }
}

CK_LEVELS(awq_join, (const uint8_t *codes, size_t stride, size_t words, size_t columns, uint32_t *joined), (codes, stride, words, columns, joined))
CK_LEVELS(awq_part, (const uint32_t *joined, size_t words, size_t columns, uint8_t *codes, size_t stride), (joined, words, columns, codes, stride))

static void awq_join(int level, const uint8_t *codes, size_t stride, size_t words, size_t columns, uint32_t *joined) {
    CK_RUN(awq_join, (codes, stride, words, columns, joined))
}

static void awq_part(int level, const uint32_t *joined, size_t words, size_t columns, uint8_t *codes, size_t stride) {
    CK_RUN(awq_part, (joined, words, columns, codes, stride))
}

void ck_awq_pack(int level, const uint8_t *codes, size_t rows, size_t columns, uint32_t *words, size_t stride) {
    uint32_t joined[AWQ_WORDS * AWQ_COLUMNS];
    size_t across = rows / 8;
    for (size_t first = 0; first < columns; first += AWQ_COLUMNS) {
        size_t width = columns - first < AWQ_COLUMNS ? columns - first : AWQ_COLUMNS;
        for (size_t w = 0; w < across; w += AWQ_WORDS) {
            size_t some = across - w < AWQ_WORDS ? across - w : AWQ_WORDS;
            awq_join(level, codes + w * 8 * columns + first, columns, some, width, joined);
            ck_turn_words(level, joined, AWQ_COLUMNS, some, width, words + first * stride + w, stride);
        }
    }
}

void ck_awq_unpack(int level, const uint32_t *words, size_t rows, size_t columns, uint8_t *codes) {
    uint32_t joined[AWQ_WORDS * AWQ_COLUMNS];
    size_t across = rows / 8;
    for (size_t first = 0; first < columns; first += AWQ_COLUMNS) {
        size_t width = columns - first < AWQ_COLUMNS ? columns - first : AWQ_COLUMNS;
        for (size_t w = 0; w < across; w += AWQ_WORDS) {
            size_t some = across - w < AWQ_WORDS ? across - w : AWQ_WORDS;
            ck_turn_words(level, words + first * across + w, across, width, some, joined, AWQ_COLUMNS);
            awq_part(level, joined, some, width, codes + w * 8 * columns + first, columns);
        }
    }
}

CK_LEVEL_AVX2(pack, (const uint8_t *codes, size_t count, int bits, uint8_t *target), (codes, count, bits, target))
CK_LEVEL_AVX2(unpack, (const uint8_t *source, size_t count, int bits, uint8_t *codes), (source, count, bits, codes))

void ck_pack_codes(int level, const uint8_t *codes, size_t count, int bits, uint8_t *target) { CK_RUN(pack, (codes, count, bits, target)) }

void ck_unpack_codes(int level, const uint8_t *source, size_t count, int bits, uint8_t *codes) { CK_RUN(unpack, (source, count, bits, codes)) }
