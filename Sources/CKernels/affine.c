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

CK_INLINE void ranges_loop(
    const uint16_t *source, size_t stride, size_t rows, size_t groups, size_t size, uint16_t *least, uint16_t *greatest
) {
    for (size_t row = 0; row < rows; row++)
        for (size_t g = 0; g < groups; g++)
            range_loop(source + row * stride + g * size, size, least + row * groups + g, greatest + row * groups + g);
}

#if defined(__x86_64__)
/// The least of eight unsigned numbers.
CK_TARGET_AVX512 static inline uint16_t least_of_8(__m128i v) { return (uint16_t)_mm_extract_epi16(_mm_minpos_epu16(v), 0); }

/// Bits of negative numbers grow with their magnitude: taken as unsigned, the largest bits are the least number if one is negative; taken as signed,
/// they are the greatest if one is not.
CK_TARGET_AVX512 static inline __attribute__((always_inline)) void range_avx512(
    const uint16_t *source, size_t count, uint16_t *least, uint16_t *greatest
) {
    __m512i high = _mm512_setzero_si512(), low = _mm512_set1_epi16(-1), top = _mm512_set1_epi16(INT16_MIN);
    for (size_t i = 0; i < count; i += 32) {
        __m512i v = _mm512_loadu_si512(source + i);
        high = _mm512_max_epu16(high, v);
        low = _mm512_min_epu16(low, v);
        top = _mm512_max_epi16(top, v);
    }
    __m256i h = _mm256_max_epu16(_mm512_castsi512_si256(high), _mm512_extracti64x4_epi64(high, 1));
    __m256i l = _mm256_min_epu16(_mm512_castsi512_si256(low), _mm512_extracti64x4_epi64(low, 1));
    __m256i t = _mm256_max_epi16(_mm512_castsi512_si256(top), _mm512_extracti64x4_epi64(top, 1));
    __m128i h8 = _mm_max_epu16(_mm256_castsi256_si128(h), _mm256_extracti128_si256(h, 1));
    __m128i t8 = _mm_max_epi16(_mm256_castsi256_si128(t), _mm256_extracti128_si256(t, 1));
    uint16_t largest = (uint16_t)~(unsigned)least_of_8(_mm_xor_si128(h8, _mm_set1_epi16(-1)));
    uint16_t smallest = least_of_8(_mm_min_epu16(_mm256_castsi256_si128(l), _mm256_extracti128_si256(l, 1)));
    uint16_t topmost = least_of_8(_mm_xor_si128(t8, _mm_set1_epi16(0x7FFF))) ^ 0x7FFF;
    *least = largest >= 0x8000 ? largest : smallest;
    *greatest = topmost < 0x8000 ? topmost : smallest;
}

CK_TARGET_AVX512 static void ranges_avx512(
    const uint16_t *source, size_t stride, size_t rows, size_t groups, size_t size, uint16_t *least, uint16_t *greatest
) {
    if (size == 0 || size % 32 != 0) { ranges_loop(source, stride, rows, groups, size, least, greatest); return; }
    for (size_t row = 0; row < rows; row++)
        for (size_t g = 0; g < groups; g++) {
            const uint16_t *group = source + row * stride + g * size;
            // The first to read these values, in stretches too short for the processor to foresee the next row's.
            if (row + 2 < rows)
                for (size_t i = 0; i < size; i += 32) _mm_prefetch((const char *)(group + 2 * stride + i), _MM_HINT_T0);
            range_avx512(group, size, least + row * groups + g, greatest + row * groups + g);
        }
}
#endif

// MARK: Parameters

CK_INLINE void awq_parameters_loop(const uint16_t *least, const uint16_t *greatest, size_t count, float *scales, float *zeros) {
    const float smallest = to_f16(1e-5f);
    for (size_t i = 0; i < count; i++) {
        float low = to_f16(ck_from_bf16(least[i])), high = to_f16(ck_from_bf16(greatest[i]));
        float span = to_f16(high - low);
        span = span < smallest ? smallest : span;
        // What F16 cannot hold leaves no scale.
        float scale = to_f16(span / 15.0f);
        scales[i] = low - low == 0 ? scale : INFINITY;
        zeros[i] = clamp(-round_even(clamp(to_f16(low / scale), -4096.0f, 4096.0f)), 0.0f, 15.0f);
    }
}

CK_INLINE void gptq_parameters_loop(
    const uint16_t *least, const uint16_t *greatest, size_t count, float codes, float middle, float *scales, float *zeros
) {
    for (size_t i = 0; i < count; i++) {
        float low = ck_from_bf16(least[i]), high = ck_from_bf16(greatest[i]);
        low = low < 0 ? low : 0.0f;
        high = high > 0 ? high : 0.0f;
        if (middle > 0) {
            high = -low > high ? -low : high;
            low = low < 0 ? -high : low;
        }
        int is_zero = low == 0 && high == 0;
        low = is_zero ? -1.0f : low;
        high = is_zero ? 1.0f : high;
        scales[i] = (high - low) / codes;
        float zero = round_even(clamp(-low / scales[i], -4096.0f, 4096.0f));
        zero = middle > 0 ? middle : zero;
        zeros[i] = zero < codes ? zero : codes;
    }
}

CK_INLINE void mlx_parameters_loop(const uint16_t *least, const uint16_t *greatest, size_t count, float bins, float *scales, float *biases) {
    for (size_t i = 0; i < count; i++) {
        float low = ck_from_bf16(least[i]), high = ck_from_bf16(greatest[i]);
        int is_low_larger = fabsf(low) > fabsf(high);
        float scale = (high - low) / bins;
        scale = scale > 1e-7f ? scale : 1e-7f;
        scale = is_low_larger ? scale : -scale;
        float edge = is_low_larger ? low : high;
        // Where all values are alike the quotient may be larger than what round_even rounds, and is whole then.
        float quotient = edge / scale, zero = fabsf(quotient) < 0x1p22f ? round_even(quotient) : rintf(quotient);
        scales[i] = zero != 0 ? edge / zero : scale;
        biases[i] = zero != 0 ? edge : 0.0f;
    }
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

CK_INLINE void affine_tile_loop(
    const uint16_t *source, size_t stride, size_t rows, size_t groups, size_t size, const float *scales, const float *offsets, float greatest,
    int rule, uint8_t *codes
) {
    for (size_t row = 0; row < rows; row++)
        for (size_t g = 0; g < groups; g++)
            affine_encode_loop(source + row * stride + g * size, size, scales[row * groups + g], offsets[row * groups + g], greatest, rule,
                               codes + (row * groups + g) * size);
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

/// The same with a product in place of the quotient, which is off by less than 2^-22 of itself; `doubt` gets the lanes in which that might matter.
///
/// A code changes only where a quotient crosses the middle between two whole numbers. Quotients beyond +-512 are clamped either way, so within 2^-13
/// of a middle there is doubt. Rounded to F16 before, it is where the quotient lies so close to a place at which that rounding jumps, which are
/// only those within an F16 step of the middle: 2^-6 below 32, beyond which four bits are clamped.
CK_TARGET_AVX512 static inline __attribute__((always_inline)) __m512i likely_codes(
    __m512 w, __m512 reciprocal, __m512 offset, __m512 greatest, int rule, __mmask16 *doubt
) {
    if (rule == CK_ZERO_POINT_F16) w = round_f16_avx512(w);
    if (rule == CK_BIAS_F32) w = _mm512_sub_ps(w, offset);
    __m512 q = _mm512_mul_ps(w, reciprocal);
    __m512 whole = _mm512_roundscale_ps(q, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    const float near = rule == CK_ZERO_POINT_F16 ? 0.5f - 0x1p-6f : 0.5f - 0x1p-12f;
    __mmask16 middle = _mm512_cmp_ps_mask(_mm512_abs_ps(_mm512_sub_ps(q, whole)), _mm512_set1_ps(near), _CMP_NLT_UQ);
    if (rule == CK_ZERO_POINT_F16) {
        __m512i rest = _mm512_and_si512(_mm512_castps_si512(q), _mm512_set1_epi32(0x1FFF));
        middle = _mm512_mask_cmple_epu32_mask(middle, _mm512_sub_epi32(rest, _mm512_set1_epi32(0x0FF8)), _mm512_set1_epi32(16));
        whole = _mm512_roundscale_ps(round_f16_avx512(q), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    }
    *doubt = (__mmask16)(*doubt | middle);
    if (rule != CK_BIAS_F32) whole = _mm512_add_ps(whole, offset);
    return _mm512_cvttps_epi32(_mm512_min_ps(_mm512_max_ps(whole, _mm512_setzero_ps()), greatest));
}

CK_TARGET_AVX512 static inline __attribute__((always_inline)) void affine_encode_rule(
    const uint16_t *source, size_t count, float scale, float offset, float greatest, int rule, uint8_t *codes
) {
    const __m512 s = _mm512_set1_ps(scale), o = _mm512_set1_ps(offset), g = _mm512_set1_ps(greatest), r = _mm512_set1_ps(1 / scale);
    const __m512i high = _mm512_set1_epi32((int)0xFFFF0000u);
    // Where neither the reciprocal nor a quotient that counts leaves the normal numbers, and F16's clamp is that of four bits.
    const int is_plain = fabsf(scale) > 0x1p-100f && fabsf(scale) < 0x1p100f && (rule != CK_ZERO_POINT_F16 || greatest <= 15);
    size_t i = 0;
    for (; i + 32 <= count; i += 32) {
        // The codes of even values in the low byte of each pair, of odd ones in the high byte.
        __m512i v = _mm512_loadu_si512(source + i), a, b;
        __m512 even = _mm512_castsi512_ps(_mm512_slli_epi32(v, 16)), odd = _mm512_castsi512_ps(_mm512_and_si512(v, high));
        __mmask16 doubt = is_plain ? 0 : 0xFFFF;
        if (is_plain) {
            a = likely_codes(even, r, o, g, rule, &doubt);
            b = likely_codes(odd, r, o, g, rule, &doubt);
        }
        if (__builtin_expect(doubt != 0, 0)) {
            a = affine_codes(even, s, o, g, rule);
            b = affine_codes(odd, s, o, g, rule);
        }
        _mm256_storeu_si256((__m256i *)(codes + i), _mm512_cvtepi32_epi16(_mm512_or_si512(a, _mm512_slli_epi32(b, 8))));
    }
    affine_encode_loop(source + i, count - i, scale, offset, greatest, rule, codes + i);
}

CK_TARGET_AVX512 static inline __attribute__((always_inline)) void affine_tile_rule(
    const uint16_t *source, size_t stride, size_t rows, size_t groups, size_t size, const float *scales, const float *offsets, float greatest,
    int rule, uint8_t *codes
) {
    for (size_t row = 0; row < rows; row++)
        for (size_t g = 0; g < groups; g++)
            affine_encode_rule(source + row * stride + g * size, size, scales[row * groups + g], offsets[row * groups + g], greatest, rule,
                               codes + (row * groups + g) * size);
}

CK_TARGET_AVX512 static void affine_tile_avx512(
    const uint16_t *source, size_t stride, size_t rows, size_t groups, size_t size, const float *scales, const float *offsets, float greatest,
    int rule, uint8_t *codes
) {
    if (rule == CK_ZERO_POINT_F32) affine_tile_rule(source, stride, rows, groups, size, scales, offsets, greatest, CK_ZERO_POINT_F32, codes);
    else if (rule == CK_ZERO_POINT_F16) affine_tile_rule(source, stride, rows, groups, size, scales, offsets, greatest, CK_ZERO_POINT_F16, codes);
    else affine_tile_rule(source, stride, rows, groups, size, scales, offsets, greatest, CK_BIAS_F32, codes);
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
CK_TARGET_AVX512 static inline __attribute__((always_inline)) __m256i affine_values(__m512 codes, __m512 scale, __m512 offset, int is_bias, int type) {
    __m512 x = is_bias ? _mm512_add_ps(round_type_avx512(_mm512_mul_ps(codes, scale), type), offset)
                       : _mm512_mul_ps(round_type_avx512(_mm512_sub_ps(codes, offset), type), scale);
    x = round_bf16_avx512(round_type_avx512(x, type));
    return _mm512_cvtepi32_epi16(_mm512_srli_epi32(_mm512_castps_si512(x), 16));
}

/// Codes below 32 have their values looked up, as soon as there are more of them than values.
CK_TARGET_AVX512 static inline __attribute__((always_inline)) void affine_decode_type(
    const uint8_t *codes, size_t count, float scale, float offset, int is_bias, int type, uint16_t *target
) {
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

CK_TARGET_AVX512 static void affine_decode_avx512(const uint8_t *codes, size_t count, float scale, float offset, int is_bias, int type, uint16_t *target) {
    if (is_bias) {
        if (type == CK_TYPE_BF16) affine_decode_type(codes, count, scale, offset, 1, CK_TYPE_BF16, target);
        else if (type == CK_TYPE_F16) affine_decode_type(codes, count, scale, offset, 1, CK_TYPE_F16, target);
        else affine_decode_type(codes, count, scale, offset, 1, CK_TYPE_F32, target);
    } else {
        if (type == CK_TYPE_BF16) affine_decode_type(codes, count, scale, offset, 0, CK_TYPE_BF16, target);
        else if (type == CK_TYPE_F16) affine_decode_type(codes, count, scale, offset, 0, CK_TYPE_F16, target);
        else affine_decode_type(codes, count, scale, offset, 0, CK_TYPE_F32, target);
    }
}
#endif

CK_LEVEL_AVX2(ranges, (const uint16_t *source, size_t stride, size_t rows, size_t groups, size_t size, uint16_t *least, uint16_t *greatest),
              (source, stride, rows, groups, size, least, greatest))
CK_LEVEL_AVX2(affine_tile, (const uint16_t *source, size_t stride, size_t rows, size_t groups, size_t size, const float *scales,
                            const float *offsets, float greatest, int rule, uint8_t *codes),
              (source, stride, rows, groups, size, scales, offsets, greatest, rule, codes))
CK_LEVEL_AVX2(affine_decode, (const uint8_t *codes, size_t count, float scale, float offset, int is_bias, int type, uint16_t *target),
              (codes, count, scale, offset, is_bias, type, target))

CK_LEVELS(awq_parameters, (const uint16_t *least, const uint16_t *greatest, size_t count, float *scales, float *zeros),
          (least, greatest, count, scales, zeros))
CK_LEVELS(gptq_parameters, (const uint16_t *least, const uint16_t *greatest, size_t count, float codes, float middle, float *scales, float *zeros),
          (least, greatest, count, codes, middle, scales, zeros))
CK_LEVELS(mlx_parameters, (const uint16_t *least, const uint16_t *greatest, size_t count, float bins, float *scales, float *biases),
          (least, greatest, count, bins, scales, biases))

void ck_awq_parameters(int level, const uint16_t *least, const uint16_t *greatest, size_t count, float *scales, float *zeros) {
    CK_RUN(awq_parameters, (least, greatest, count, scales, zeros))
}

void ck_gptq_parameters(
    int level, const uint16_t *least, const uint16_t *greatest, size_t count, float codes, float middle, float *scales, float *zeros
) {
    CK_RUN(gptq_parameters, (least, greatest, count, codes, middle, scales, zeros))
}

void ck_mlx_parameters(int level, const uint16_t *least, const uint16_t *greatest, size_t count, float bins, float *scales, float *biases) {
    CK_RUN(mlx_parameters, (least, greatest, count, bins, scales, biases))
}

void ck_bf16_ranges(
    int level, const uint16_t *source, size_t stride, size_t rows, size_t groups, size_t size, uint16_t *least, uint16_t *greatest
) {
    CK_RUN(ranges, (source, stride, rows, groups, size, least, greatest))
}

void ck_affine_encode(
    int level, const uint16_t *source, size_t stride, size_t rows, size_t groups, size_t size, const float *scales, const float *offsets,
    float greatest, int rule, uint8_t *codes
) {
    CK_RUN(affine_tile, (source, stride, rows, groups, size, scales, offsets, greatest, rule, codes))
}

void ck_affine_decode(int level, const uint8_t *codes, size_t count, float scale, float offset, int is_bias, int type, uint16_t *target) {
    CK_RUN(affine_decode, (codes, count, scale, offset, is_bias, type, target))
}
