// A matrix product in F64, where cancellation leaves nothing of F32. Sums run over ascending k, one fused multiply-add each, in lanes of their own:
// the same bits at every level.
#include "CKernels.h"
#include "scalar.h"

enum { TILE_ROWS = 4, TILE_COLUMNS = 16 };

#define CK_BODY static inline __attribute__((always_inline))

CK_BODY void tile(const double *restrict a, size_t a_stride, const double *restrict b, size_t b_stride, double *restrict c, size_t c_stride,
                  size_t depth, size_t rows, size_t columns, double sign) {
    double sums[TILE_ROWS][TILE_COLUMNS] = {{0}};
    for (size_t k = 0; k < depth; k++)
        for (size_t i = 0; i < rows; i++)
            for (size_t j = 0; j < columns; j++) sums[i][j] = fma(a[k * a_stride + i], b[k * b_stride + j], sums[i][j]);
    for (size_t i = 0; i < rows; i++)
        for (size_t j = 0; j < columns; j++) c[i * c_stride + j] += sign * sums[i][j];
}

CK_BODY void double_product(const double *a, size_t a_stride, const double *b, size_t b_stride, double *c, size_t c_stride, size_t depth,
                            size_t rows, size_t columns, double sign) {
    for (size_t j = 0; j < columns; j += TILE_COLUMNS) {
        size_t width = columns - j < TILE_COLUMNS ? columns - j : TILE_COLUMNS;
        for (size_t i = 0; i < rows; i += TILE_ROWS) {
            size_t height = rows - i < TILE_ROWS ? rows - i : TILE_ROWS;
            if (width == TILE_COLUMNS && height == TILE_ROWS)
                tile(a + i, a_stride, b + j, b_stride, c + i * c_stride + j, c_stride, depth, TILE_ROWS, TILE_COLUMNS, sign);
            else
                tile(a + i, a_stride, b + j, b_stride, c + i * c_stride + j, c_stride, depth, height, width, sign);
        }
    }
}

#if defined(__x86_64__)
CK_TARGET_AVX512 static void double_product_avx512(const double *a, size_t a_stride, const double *b, size_t b_stride, double *c,
                                                   size_t c_stride, size_t depth, size_t rows, size_t columns, double sign) {
    double_product(a, a_stride, b, b_stride, c, c_stride, depth, rows, columns, sign);
}

CK_TARGET_AVX2 static void double_product_avx2(const double *a, size_t a_stride, const double *b, size_t b_stride, double *c, size_t c_stride,
                                               size_t depth, size_t rows, size_t columns, double sign) {
    double_product(a, a_stride, b, b_stride, c, c_stride, depth, rows, columns, sign);
}
#endif

void ck_double_product(int level, const double *a, size_t a_stride, const double *b, size_t b_stride, double *c, size_t c_stride, size_t depth,
                       size_t rows, size_t columns, double sign) {
#if defined(__x86_64__)
    if (level == CK_AVX512) return double_product_avx512(a, a_stride, b, b_stride, c, c_stride, depth, rows, columns, sign);
    if (level == CK_AVX2) return double_product_avx2(a, a_stride, b, b_stride, c, c_stride, depth, rows, columns, sign);
#endif
    (void)level;
    double_product(a, a_stride, b, b_stride, c, c_stride, depth, rows, columns, sign);
}
