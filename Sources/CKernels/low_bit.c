// Codes of 2 to 8 bits and E2M1, as their peers compute them. The loops are written once and compiled for each instruction set; they
// hold IEEE operations and integers only, so the bits stay.
#include "CKernels.h"
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

// MARK: Ranges

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

// MARK: Integer codes

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

CK_INLINE uint16_t high_half(float x) { return (uint16_t)(ck_bits(to_bf16(x)) >> 16); }

CK_INLINE void affine_decode_loop(const uint8_t *codes, size_t count, float scale, float offset, int is_bias, int type, uint16_t *target) {
#define CK_DECODE(ROUND) \
    if (is_bias) for (size_t i = 0; i < count; i++) target[i] = high_half(ROUND(ROUND((float)codes[i] * scale) + offset)); \
    else for (size_t i = 0; i < count; i++) target[i] = high_half(ROUND(ROUND((float)codes[i] - offset) * scale));
    if (type == CK_TYPE_BF16) { CK_DECODE(to_bf16) }
    else if (type == CK_TYPE_F16) { CK_DECODE(to_f16) }
    else { CK_DECODE() }
#undef CK_DECODE
}

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

void ck_transpose_words(const uint32_t *source, size_t rows, size_t columns, uint32_t *target) {
    // Squares of 16 words are a cache line a side.
    for (size_t r = 0; r < rows; r += 16)
        for (size_t c = 0; c < columns; c += 16)
            for (size_t i = c; i < (c + 16 < columns ? c + 16 : columns); i++)
                for (size_t j = r; j < (r + 16 < rows ? r + 16 : rows); j++) target[i * rows + j] = source[j * columns + i];
}

/// Where in a word of AutoAWQ the code of channel 8 * word + c lies: the channels are packed in the order 0 2 4 6 1 3 5 7.
static const int awq_shift[8] = {0, 16, 4, 20, 8, 24, 12, 28};
enum { AWQ_BLOCK = 64 };

CK_INLINE void awq_pack_loop(const uint8_t *codes, size_t rows, size_t columns, uint32_t *words) {
    size_t across = rows / 8;
    uint32_t block[AWQ_BLOCK];
    for (size_t first = 0; first < columns; first += AWQ_BLOCK) {
        size_t width = columns - first < AWQ_BLOCK ? columns - first : AWQ_BLOCK;
        for (size_t w = 0; w < across; w++) {
            memset(block, 0, sizeof block);
            for (size_t c = 0; c < 8; c++) {
                const uint8_t *row = codes + (w * 8 + c) * columns + first;
                for (size_t k = 0; k < width; k++) block[k] |= (uint32_t)row[k] << awq_shift[c];
            }
            for (size_t k = 0; k < width; k++) words[(first + k) * across + w] = block[k];
        }
    }
}

CK_INLINE void awq_unpack_loop(const uint32_t *words, size_t rows, size_t columns, uint8_t *codes) {
    size_t across = rows / 8;
    uint32_t block[AWQ_BLOCK];
    for (size_t first = 0; first < columns; first += AWQ_BLOCK) {
        size_t width = columns - first < AWQ_BLOCK ? columns - first : AWQ_BLOCK;
        for (size_t w = 0; w < across; w++) {
            for (size_t k = 0; k < width; k++) block[k] = words[(first + k) * across + w];
            for (size_t c = 0; c < 8; c++) {
                uint8_t *row = codes + (w * 8 + c) * columns + first;
                for (size_t k = 0; k < width; k++) row[k] = (uint8_t)(block[k] >> awq_shift[c]) & 15;
            }
        }
    }
}

// MARK: E2M1

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

CK_INLINE void e2m1_encode_loop(const uint16_t *source, size_t count, float scale, int rule, uint8_t *target) {
    switch (rule) {
    case CK_E2M1_DIVIDE:
        for (size_t i = 0; i < count / 2; i++)
            target[i] = (uint8_t)(e2m1_even(ck_from_bf16(source[2 * i]) / scale) | e2m1_even(ck_from_bf16(source[2 * i + 1]) / scale) << 4);
        break;
    case CK_E2M1_MULTIPLY:
        for (size_t i = 0; i < count / 2; i++)
            target[i] = (uint8_t)(e2m1_even(to_bf16(ck_from_bf16(source[2 * i]) * scale))
                                  | e2m1_even(to_bf16(ck_from_bf16(source[2 * i + 1]) * scale)) << 4);
        break;
    default:
        for (size_t i = 0; i < count / 2; i++)
            target[i] = (uint8_t)(e2m1_down(ck_from_bf16(source[2 * i]) * scale) | e2m1_down(ck_from_bf16(source[2 * i + 1]) * scale) << 4);
    }
}

/// The value of a code: its exponent and mantissa bits as those of an F32, one exponent chosen so that nothing on the way is subnormal, which
/// some processors multiply a hundred times slower. The only subnormal of E2M1 is 0.5.
CK_INLINE float from_e2m1(uint32_t code) {
    uint32_t magnitude = code & 7;
    return ck_float(magnitude < 2 ? magnitude * 0x3F000000u : (magnitude << 22) + (126u << 23));
}

CK_INLINE void e2m1_decode_loop(const uint8_t *source, size_t count, float scale, int negative_zero, uint16_t *target) {
    // The smallest code that may carry a sign.
    uint32_t least = negative_zero ? 8 : 9;
    for (size_t i = 0; i < count / 2; i++) {
        uint32_t low = source[i] & 15, high = source[i] >> 4;
        target[2 * i] = (uint16_t)(high_half(from_e2m1(low) * scale) ^ (low >= least ? 0x8000 : 0));
        target[2 * i + 1] = (uint16_t)(high_half(from_e2m1(high) * scale) ^ (high >= least ? 0x8000 : 0));
    }
}

// MARK: Levels

#if defined(__x86_64__)
#define CK_LEVELS(NAME, PARAMETERS, ARGUMENTS) \
    CK_TARGET_AVX512 static void NAME##_avx512 PARAMETERS { NAME##_loop ARGUMENTS; } \
    CK_TARGET_AVX2 static void NAME##_avx2 PARAMETERS { NAME##_loop ARGUMENTS; }
#define CK_RUN(NAME, ARGUMENTS) \
    if (level == CK_AVX512) { NAME##_avx512 ARGUMENTS; return; } \
    if (level == CK_AVX2) { NAME##_avx2 ARGUMENTS; return; } \
    NAME##_loop ARGUMENTS;
#else
#define CK_LEVELS(NAME, PARAMETERS, ARGUMENTS)
#define CK_RUN(NAME, ARGUMENTS) (void)level; NAME##_loop ARGUMENTS;
#endif

CK_LEVELS(range, (const uint16_t *source, size_t count, uint16_t *least, uint16_t *greatest), (source, count, least, greatest))
CK_LEVELS(affine_encode, (const uint16_t *source, size_t count, float scale, float offset, float greatest, int rule, uint8_t *codes),
          (source, count, scale, offset, greatest, rule, codes))
CK_LEVELS(affine_decode, (const uint8_t *codes, size_t count, float scale, float offset, int is_bias, int type, uint16_t *target),
          (codes, count, scale, offset, is_bias, type, target))
CK_LEVELS(pack, (const uint8_t *codes, size_t count, int bits, uint8_t *target), (codes, count, bits, target))
CK_LEVELS(unpack, (const uint8_t *source, size_t count, int bits, uint8_t *codes), (source, count, bits, codes))
CK_LEVELS(awq_pack, (const uint8_t *codes, size_t rows, size_t columns, uint32_t *words), (codes, rows, columns, words))
CK_LEVELS(awq_unpack, (const uint32_t *words, size_t rows, size_t columns, uint8_t *codes), (words, rows, columns, codes))
CK_LEVELS(e2m1_encode, (const uint16_t *source, size_t count, float scale, int rule, uint8_t *target), (source, count, scale, rule, target))
CK_LEVELS(e2m1_decode, (const uint8_t *source, size_t count, float scale, int negative_zero, uint16_t *target),
          (source, count, scale, negative_zero, target))

void ck_bf16_range(int level, const uint16_t *source, size_t count, uint16_t *least, uint16_t *greatest) {
    CK_RUN(range, (source, count, least, greatest))
}

void ck_affine_encode(int level, const uint16_t *source, size_t count, float scale, float offset, float greatest, int rule, uint8_t *codes) {
    CK_RUN(affine_encode, (source, count, scale, offset, greatest, rule, codes))
}

void ck_affine_decode(int level, const uint8_t *codes, size_t count, float scale, float offset, int is_bias, int type, uint16_t *target) {
    CK_RUN(affine_decode, (codes, count, scale, offset, is_bias, type, target))
}

void ck_pack_codes(int level, const uint8_t *codes, size_t count, int bits, uint8_t *target) { CK_RUN(pack, (codes, count, bits, target)) }

void ck_unpack_codes(int level, const uint8_t *source, size_t count, int bits, uint8_t *codes) { CK_RUN(unpack, (source, count, bits, codes)) }

void ck_awq_pack(int level, const uint8_t *codes, size_t rows, size_t columns, uint32_t *words) { CK_RUN(awq_pack, (codes, rows, columns, words)) }

void ck_awq_unpack(int level, const uint32_t *words, size_t rows, size_t columns, uint8_t *codes) { CK_RUN(awq_unpack, (words, rows, columns, codes)) }

void ck_e2m1_encode(int level, const uint16_t *source, size_t count, float scale, int rule, uint8_t *target) {
    CK_RUN(e2m1_encode, (source, count, scale, rule, target))
}

void ck_e2m1_decode(int level, const uint8_t *source, size_t count, float scale, int negative_zero, uint16_t *target) {
    CK_RUN(e2m1_decode, (source, count, scale, negative_zero, target))
}
