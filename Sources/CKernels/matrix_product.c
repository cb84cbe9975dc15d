// y = x W^T in blocks of 24 tokens by 16 outputs. Every output is one chain of fused multiply-adds over ascending k that starts
// at zero, so its bits do not depend on vector width, threads or blocking. A chain may be laid down in y and taken up again.
#include "CKernels.h"
#include "scalar.h"

enum { PANEL = CK_PANEL, BLOCK = CK_TOKEN_BLOCK };

void ck_pack_tokens(int level, const float *x, size_t stride, size_t tokens, size_t depth, float *packed) {
    size_t k = 0;
    if (tokens == BLOCK) {
        // Squares of 16 words, of which two lie over each other.
        k = depth / 16 * 16;
        for (size_t t = 0; t < BLOCK; t += 8 + t)
            ck_turn_words(level, (const uint32_t *)(x + t * stride), stride, 16, k, (uint32_t *)(packed + t), BLOCK);
    }
    for (; k < depth; k++)
        for (size_t t = 0; t < BLOCK; t++) packed[k * BLOCK + t] = t < tokens ? x[t * stride + k] : 0.0f;
}

static void block_plain(const float *x, size_t tokens, const float *panel, size_t depth, float *y) {
    for (size_t t = 0; t < tokens; t++) {
        for (size_t n = 0; n < PANEL; n++) {
            float sum = y[t * PANEL + n];
            for (size_t k = 0; k < depth; k++) sum = fmaf(x[k * BLOCK + t], panel[k * PANEL + n], sum);
            y[t * PANEL + n] = sum;
        }
    }
}

#if defined(__clang__)
#define CK_UNROLL _Pragma("clang loop unroll(full)")
#else
#define CK_UNROLL _Pragma("GCC unroll 32")
#endif

#if defined(__x86_64__)
// One register of 16 outputs a token.
#define CK_BLOCK_AVX512(COUNT) \
    CK_TARGET_AVX512 static void block_##COUNT##_avx512(const float *x, const float *panel, size_t depth, float *y) { \
        __m512 a[COUNT]; \
        CK_UNROLL for (int t = 0; t < COUNT; t++) a[t] = _mm512_loadu_ps(y + t * PANEL); \
        for (size_t k = 0; k < depth; k++, x += BLOCK, panel += PANEL) { \
            __m512 p = _mm512_loadu_ps(panel); \
            CK_UNROLL for (int t = 0; t < COUNT; t++) a[t] = _mm512_fmadd_ps(_mm512_set1_ps(x[t]), p, a[t]); \
        } \
        CK_UNROLL for (int t = 0; t < COUNT; t++) _mm512_storeu_ps(y + t * PANEL, a[t]); \
    }

/// Twelve tokens by two panels: a token's value is loaded once for 32 outputs, so that loads are fewer than products.
CK_TARGET_AVX512 static void block_12_by_2_avx512(
    const float *x, const float *panel, const float *other, size_t depth, float *y, size_t y_stride, int continues
) {
    __m512 a[12], b[12];
    CK_UNROLL for (int t = 0; t < 12; t++) {
        a[t] = continues ? _mm512_loadu_ps(y + (size_t)t * y_stride) : _mm512_setzero_ps();
        b[t] = continues ? _mm512_loadu_ps(y + (size_t)t * y_stride + PANEL) : _mm512_setzero_ps();
    }
    for (size_t k = 0; k < depth; k++, x += BLOCK, panel += PANEL, other += PANEL) {
        __m512 p = _mm512_loadu_ps(panel), q = _mm512_loadu_ps(other);
        CK_UNROLL for (int t = 0; t < 12; t++) {
            __m512 v = _mm512_set1_ps(x[t]);
            a[t] = _mm512_fmadd_ps(v, p, a[t]);
            b[t] = _mm512_fmadd_ps(v, q, b[t]);
        }
    }
    CK_UNROLL for (int t = 0; t < 12; t++) {
        _mm512_storeu_ps(y + (size_t)t * y_stride, a[t]);
        _mm512_storeu_ps(y + (size_t)t * y_stride + PANEL, b[t]);
    }
}
CK_BLOCK_AVX512(24)
CK_BLOCK_AVX512(16)
CK_BLOCK_AVX512(8)
CK_BLOCK_AVX512(4)
CK_BLOCK_AVX512(2)
CK_BLOCK_AVX512(1)

// Two registers of 8 outputs a token, six tokens at most.
#define CK_BLOCK_AVX2(COUNT) \
    CK_TARGET_AVX2 static void block_##COUNT##_avx2(const float *x, const float *panel, size_t depth, float *y) { \
        __m256 a[COUNT], b[COUNT]; \
        CK_UNROLL for (int t = 0; t < COUNT; t++) { \
            a[t] = _mm256_loadu_ps(y + t * PANEL); \
            b[t] = _mm256_loadu_ps(y + t * PANEL + 8); \
        } \
        for (size_t k = 0; k < depth; k++, x += BLOCK, panel += PANEL) { \
            __m256 p = _mm256_loadu_ps(panel), q = _mm256_loadu_ps(panel + 8); \
            CK_UNROLL for (int t = 0; t < COUNT; t++) { \
                __m256 v = _mm256_broadcast_ss(x + t); \
                a[t] = _mm256_fmadd_ps(v, p, a[t]); \
                b[t] = _mm256_fmadd_ps(v, q, b[t]); \
            } \
        } \
        CK_UNROLL for (int t = 0; t < COUNT; t++) { \
            _mm256_storeu_ps(y + t * PANEL, a[t]); \
            _mm256_storeu_ps(y + t * PANEL + 8, b[t]); \
        } \
    }
CK_BLOCK_AVX2(6)
CK_BLOCK_AVX2(3)
CK_BLOCK_AVX2(1)

static void block_avx512(const float *x, size_t tokens, const float *panel, size_t depth, float *y) {
    if (tokens > 16) block_24_avx512(x, panel, depth, y);
    else if (tokens > 8) block_16_avx512(x, panel, depth, y);
    else if (tokens > 4) block_8_avx512(x, panel, depth, y);
    else if (tokens > 2) block_4_avx512(x, panel, depth, y);
    else if (tokens > 1) block_2_avx512(x, panel, depth, y);
    else block_1_avx512(x, panel, depth, y);
}

static void block_avx2(const float *x, size_t tokens, const float *panel, size_t depth, float *y) {
    size_t t = 0;
    for (; t + 3 < tokens; t += 6) block_6_avx2(x + t, panel, depth, y + t * PANEL);
    for (; t + 1 < tokens; t += 3) block_3_avx2(x + t, panel, depth, y + t * PANEL);
    for (; t < tokens; t++) block_1_avx2(x + t, panel, depth, y + t * PANEL);
}
#endif

#if defined(__aarch64__)
static void block_4_neon(const float *x, const float *panel, size_t depth, float *y) {
    float32x4_t a[4][4];
    for (int t = 0; t < 4; t++)
        for (int n = 0; n < 4; n++) a[t][n] = vld1q_f32(y + t * PANEL + 4 * n);
    for (size_t k = 0; k < depth; k++, x += BLOCK, panel += PANEL) {
        for (int n = 0; n < 4; n++) {
            float32x4_t p = vld1q_f32(panel + 4 * n);
            for (int t = 0; t < 4; t++) a[t][n] = vfmaq_n_f32(a[t][n], p, x[t]);
        }
    }
    for (int t = 0; t < 4; t++)
        for (int n = 0; n < 4; n++) vst1q_f32(y + t * PANEL + 4 * n, a[t][n]);
}
#endif

/// Adds to a block of tokens by one panel.
static void block_product(int level, const float *packed, size_t tokens, const float *panel, size_t depth, float *block) {
#if defined(__x86_64__)
    if (level == CK_AVX512) block_avx512(packed, tokens, panel, depth, block);
    else if (level == CK_AVX2) block_avx2(packed, tokens, panel, depth, block);
    else block_plain(packed, tokens, panel, depth, block);
#elif defined(__aarch64__)
    if (level == CK_NEON)
        for (size_t t = 0; t < tokens; t += 4) block_4_neon(packed + t, panel, depth, block + t * PANEL);
    else
        block_plain(packed, tokens, panel, depth, block);
#else
    (void)level;
    block_plain(packed, tokens, panel, depth, block);
#endif
}

/// At most one panel, in a block of its own: rows and columns beyond the matrix are computed and dropped.
static void panel_product(
    int level, const float *packed, size_t tokens, const float *panel, size_t depth, float *y, size_t y_stride, size_t width, int continues
) {
    if (continues && tokens == BLOCK && width == PANEL && y_stride == PANEL) return block_product(level, packed, tokens, panel, depth, y);
    float block[BLOCK * PANEL];
    memset(block, 0, sizeof block);
    for (size_t t = 0; continues && t < tokens; t++) memcpy(block + t * PANEL, y + t * y_stride, width * sizeof(float));
    block_product(level, packed, tokens, panel, depth, block);
    for (size_t t = 0; t < tokens; t++) memcpy(y + t * y_stride, block + t * PANEL, width * sizeof(float));
}

void ck_matrix_product(int level, const float *packed, size_t tokens, const float *panels, size_t panel_stride, size_t depth, float *y,
                       size_t y_stride, size_t width, int continues) {
    size_t first = 0;
#if defined(__x86_64__)
    for (; level == CK_AVX512 && tokens > BLOCK - 4 && first + 2 * PANEL <= width; first += 2 * PANEL, panels += 2 * panel_stride)
        for (size_t t = 0; t < BLOCK; t += BLOCK / 2) {
            const float *x = packed + t;
            if (t + BLOCK / 2 <= tokens) {
                block_12_by_2_avx512(x, panels, panels + panel_stride, depth, y + t * y_stride + first, y_stride, continues);
                continue;
            }
            float block[BLOCK / 2 * 2 * PANEL];
            size_t left = tokens - t;
            memset(block, 0, sizeof block);
            for (size_t i = 0; continues && i < left; i++)
                memcpy(block + i * 2 * PANEL, y + (t + i) * y_stride + first, 2 * PANEL * sizeof(float));
            block_12_by_2_avx512(x, panels, panels + panel_stride, depth, block, 2 * PANEL, continues);
            for (size_t i = 0; i < left; i++) memcpy(y + (t + i) * y_stride + first, block + i * 2 * PANEL, 2 * PANEL * sizeof(float));
        }
#endif
    for (; first < width; first += PANEL, panels += panel_stride)
        panel_product(level, packed, tokens, panels, depth, y + first, y_stride, width - first < PANEL ? width - first : PANEL, continues);
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
