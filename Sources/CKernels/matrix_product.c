// y = x W^T in panels of 16 outputs. Every output is one chain of fused multiply-adds over ascending k that starts at zero, so
// its bits do not depend on vector width, threads or blocking. A chain may be laid down in y and taken up again.
#include "CKernels.h"
#include "scalar.h"

enum { PANEL = CK_PANEL };

static void product_plain(const float *x, size_t x_stride, size_t tokens, const float *panel, size_t depth, float *y, size_t y_stride,
                          size_t width) {
    for (size_t t = 0; t < tokens; t++) {
        for (size_t n = 0; n < width; n++) {
            float sum = y[t * y_stride + n];
            for (size_t k = 0; k < depth; k++) sum = fmaf(x[t * x_stride + k], panel[k * PANEL + n], sum);
            y[t * y_stride + n] = sum;
        }
    }
}

#if defined(__x86_64__)
/// Six tokens by sixteen outputs: twelve accumulators of eight.
CK_TARGET_AVX2 static void product_6_avx2(const float *x, size_t x_stride, const float *panel, size_t depth, float *y, size_t y_stride) {
    __m256 a[6], b[6];
    for (int t = 0; t < 6; t++) {
        a[t] = _mm256_loadu_ps(y + (size_t)t * y_stride);
        b[t] = _mm256_loadu_ps(y + (size_t)t * y_stride + 8);
    }
    for (size_t k = 0; k < depth; k++) {
        __m256 p = _mm256_loadu_ps(panel + k * PANEL), q = _mm256_loadu_ps(panel + k * PANEL + 8);
        for (int t = 0; t < 6; t++) {
            __m256 v = _mm256_broadcast_ss(x + (size_t)t * x_stride + k);
            a[t] = _mm256_fmadd_ps(v, p, a[t]);
            b[t] = _mm256_fmadd_ps(v, q, b[t]);
        }
    }
    for (int t = 0; t < 6; t++) {
        _mm256_storeu_ps(y + (size_t)t * y_stride, a[t]);
        _mm256_storeu_ps(y + (size_t)t * y_stride + 8, b[t]);
    }
}

CK_TARGET_AVX2 static void product_1_avx2(const float *x, const float *panel, size_t depth, float *y) {
    __m256 a = _mm256_loadu_ps(y), b = _mm256_loadu_ps(y + 8);
    for (size_t k = 0; k < depth; k++) {
        __m256 v = _mm256_broadcast_ss(x + k);
        a = _mm256_fmadd_ps(v, _mm256_loadu_ps(panel + k * PANEL), a);
        b = _mm256_fmadd_ps(v, _mm256_loadu_ps(panel + k * PANEL + 8), b);
    }
    _mm256_storeu_ps(y, a);
    _mm256_storeu_ps(y + 8, b);
}

#define CK_PRODUCT_AVX512(COUNT)                                                                                                  \
    CK_TARGET_AVX512 static void product_##COUNT##_avx512(const float *x, size_t x_stride, const float *panel, size_t depth, float *y, \
                                                          size_t y_stride) {                                                     \
        __m512 a[COUNT];                                                                                                          \
        for (int t = 0; t < COUNT; t++) a[t] = _mm512_loadu_ps(y + (size_t)t * y_stride);                                         \
        for (size_t k = 0; k < depth; k++) {                                                                                      \
            __m512 p = _mm512_loadu_ps(panel + k * PANEL);                                                                        \
            for (int t = 0; t < COUNT; t++) a[t] = _mm512_fmadd_ps(_mm512_set1_ps(x[(size_t)t * x_stride + k]), p, a[t]);          \
        }                                                                                                                         \
        for (int t = 0; t < COUNT; t++) _mm512_storeu_ps(y + (size_t)t * y_stride, a[t]);                                         \
    }
CK_PRODUCT_AVX512(24)
CK_PRODUCT_AVX512(8)
CK_PRODUCT_AVX512(4)
CK_PRODUCT_AVX512(1)
#endif

#if defined(__aarch64__)
static void product_4_neon(const float *x, size_t x_stride, const float *panel, size_t depth, float *y, size_t y_stride) {
    float32x4_t a[4][4];
    for (int t = 0; t < 4; t++)
        for (int n = 0; n < 4; n++) a[t][n] = vld1q_f32(y + (size_t)t * y_stride + 4 * n);
    for (size_t k = 0; k < depth; k++) {
        for (int n = 0; n < 4; n++) {
            float32x4_t p = vld1q_f32(panel + k * PANEL + 4 * n);
            for (int t = 0; t < 4; t++) a[t][n] = vfmaq_n_f32(a[t][n], p, x[(size_t)t * x_stride + k]);
        }
    }
    for (int t = 0; t < 4; t++)
        for (int n = 0; n < 4; n++) vst1q_f32(y + (size_t)t * y_stride + 4 * n, a[t][n]);
}
#endif

void ck_matrix_product(int level, const float *x, size_t x_stride, size_t tokens, const float *panel, size_t depth, float *y,
                       size_t y_stride, size_t width) {
    size_t t = 0;
    if (width == PANEL) {
#if defined(__x86_64__)
        if (level == CK_AVX512) {
            for (; t + 24 <= tokens; t += 24) product_24_avx512(x + t * x_stride, x_stride, panel, depth, y + t * y_stride, y_stride);
            for (; t + 8 <= tokens; t += 8) product_8_avx512(x + t * x_stride, x_stride, panel, depth, y + t * y_stride, y_stride);
            for (; t + 4 <= tokens; t += 4) product_4_avx512(x + t * x_stride, x_stride, panel, depth, y + t * y_stride, y_stride);
            for (; t < tokens; t++) product_1_avx512(x + t * x_stride, x_stride, panel, depth, y + t * y_stride, y_stride);
        } else if (level == CK_AVX2) {
            for (; t + 6 <= tokens; t += 6) product_6_avx2(x + t * x_stride, x_stride, panel, depth, y + t * y_stride, y_stride);
            for (; t < tokens; t++) product_1_avx2(x + t * x_stride, panel, depth, y + t * y_stride);
        }
#elif defined(__aarch64__)
        if (level == CK_NEON)
            for (; t + 4 <= tokens; t += 4) product_4_neon(x + t * x_stride, x_stride, panel, depth, y + t * y_stride, y_stride);
#endif
    }
    (void)level;
    product_plain(x + t * x_stride, x_stride, tokens - t, panel, depth, y + t * y_stride, y_stride, width);
}

#if defined(__x86_64__)
/// Eight rows of eight BF16 values become eight columns of F32: widen, then transpose by halves.
CK_TARGET_AVX2 static void pack_8x8_avx2(const uint16_t *rows, size_t stride, float *panel) {
    __m256 r[8], s[8];
    for (int n = 0; n < 8; n++)
        r[n] = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(rows + (size_t)n * stride))), 16));
    for (int n = 0; n < 8; n += 2) {
        s[n] = _mm256_unpacklo_ps(r[n], r[n + 1]);
        s[n + 1] = _mm256_unpackhi_ps(r[n], r[n + 1]);
    }
    for (int n = 0; n < 8; n += 4) {
        r[n] = _mm256_shuffle_ps(s[n], s[n + 2], 0x44);
        r[n + 1] = _mm256_shuffle_ps(s[n], s[n + 2], 0xEE);
        r[n + 2] = _mm256_shuffle_ps(s[n + 1], s[n + 3], 0x44);
        r[n + 3] = _mm256_shuffle_ps(s[n + 1], s[n + 3], 0xEE);
    }
    for (int k = 0; k < 4; k++) {
        _mm256_storeu_ps(panel + k * PANEL, _mm256_permute2f128_ps(r[k], r[k + 4], 0x20));
        _mm256_storeu_ps(panel + (k + 4) * PANEL, _mm256_permute2f128_ps(r[k], r[k + 4], 0x31));
    }
}
#endif

void ck_pack_bf16_panel(int level, const uint16_t *rows, size_t stride, size_t count, size_t depth, float *panel) {
    size_t k = 0;
#if defined(__x86_64__)
    if (count == PANEL && level >= CK_AVX2) {
        for (; k + 8 <= depth; k += 8) {
            pack_8x8_avx2(rows + k, stride, panel + k * PANEL);
            pack_8x8_avx2(rows + 8 * stride + k, stride, panel + k * PANEL + 8);
        }
    }
#endif
    (void)level;
    for (; k < depth; k++)
        for (size_t n = 0; n < PANEL; n++) panel[k * PANEL + n] = n < count ? ck_from_bf16(rows[n * stride + k]) : 0.0f;
}

void ck_pack_f32_panel(const float *rows, size_t stride, size_t count, size_t depth, float *panel) {
    for (size_t k = 0; k < depth; k++)
        for (size_t n = 0; n < PANEL; n++) panel[k * PANEL + n] = n < count ? rows[n * stride + k] : 0.0f;
}
