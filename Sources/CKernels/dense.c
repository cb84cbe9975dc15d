#include "CKernels.h"
#include "scalar.h"

void ck_bf16_to_f32(const uint16_t *source, float *target, size_t count) {
    for (size_t i = 0; i < count; i++) target[i] = ck_from_bf16(source[i]);
}

void ck_f32_to_bf16(const float *source, uint16_t *target, size_t count) {
    for (size_t i = 0; i < count; i++) target[i] = ck_to_bf16(source[i]);
}

static float from_f16(uint16_t h) {
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, exponent = (h >> 10) & 31, mantissa = h & 0x3FF;
    if (exponent == 31) return ck_float(sign | 0x7F800000u | (mantissa << 13) | (mantissa ? 0x400000u : 0));
    if (exponent == 0) {
        float magnitude = (float)mantissa * 0x1p-24f;
        return sign ? -magnitude : magnitude;
    }
    return ck_float(sign | ((exponent + 112) << 23) | (mantissa << 13));
}

static uint16_t to_f16(float x) {
    uint32_t u = ck_bits(x), sign = (u >> 16) & 0x8000, m = u & 0x7FFFFFFFu;
    if (m > 0x7F800000u) return (uint16_t)(sign | 0x7E00 | ((m >> 13) & 0x3FF));
    if (m >= 0x477FF000u) return (uint16_t)(sign | 0x7C00);
    if (m < 0x38800000u) return (uint16_t)(sign | (uint32_t)lrintf(ck_float(m) * 0x1p24f));
    m += 0xFFFu + ((m >> 13) & 1);
    return (uint16_t)(sign | ((m >> 13) - (112u << 10)));
}

#if defined(__x86_64__)
CK_TARGET_AVX2 static size_t f16_to_f32_avx2(const uint16_t *s, float *t, size_t n) {
    size_t i = 0;
    for (; i + 8 <= n; i += 8) _mm256_storeu_ps(t + i, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(s + i))));
    return i;
}

CK_TARGET_AVX2 static size_t f32_to_f16_avx2(const float *s, uint16_t *t, size_t n) {
    size_t i = 0;
    for (; i + 8 <= n; i += 8)
        _mm_storeu_si128((__m128i *)(t + i), _mm256_cvtps_ph(_mm256_loadu_ps(s + i), _MM_FROUND_TO_NEAREST_INT));
    return i;
}
#endif

float ck_round_f16(float value) { return from_f16(to_f16(value)); }

void ck_f16_to_f32(int level, const uint16_t *source, float *target, size_t count) {
    size_t i = 0;
#if defined(__x86_64__)
    if (level >= CK_AVX2) i = f16_to_f32_avx2(source, target, count);
#endif
    (void)level;
    for (; i < count; i++) target[i] = from_f16(source[i]);
}

void ck_f32_to_f16(int level, const float *source, uint16_t *target, size_t count) {
    size_t i = 0;
#if defined(__x86_64__)
    if (level >= CK_AVX2) i = f32_to_f16_avx2(source, target, count);
#endif
    (void)level;
    for (; i < count; i++) target[i] = to_f16(source[i]);
}

void ck_f32_scale(float *values, size_t count, float scale) {
    for (size_t i = 0; i < count; i++) values[i] *= scale;
}

void ck_round_to_bf16(float *values, size_t count) {
    for (size_t i = 0; i < count; i++) values[i] = ck_round_bf16(values[i]);
}

void ck_quantize_activations(float *values, size_t count, float *scales) {
    for (size_t start = 0; start < count; start += 128) {
        size_t size = count - start < 128 ? count - start : 128;
        float amax = 1e-4f;
        for (size_t i = 0; i < size; i++) {
            float m = fabsf(values[start + i]);
            amax = m > amax ? m : amax;
        }
        float scale = amax / 448.0f;
        scales[start / 128] = scale;
        for (size_t i = 0; i < size; i++) values[start + i] = ck_from_e4m3(ck_to_e4m3(values[start + i] / scale));
    }
}

void ck_add_scaled(float *sum, size_t tokens, const float *token_scales, size_t stride, const float *scales, float *y, size_t y_stride,
                   size_t width) {
    for (size_t t = 0; t < tokens; t++) {
        for (size_t n = 0; n < width; n++) y[t * y_stride + n] += sum[t * CK_PANEL + n] * token_scales[t * stride] * scales[n];
        memset(sum + t * CK_PANEL, 0, CK_PANEL * sizeof(float));
    }
}
