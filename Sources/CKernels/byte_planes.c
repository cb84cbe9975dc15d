// Byte planes of 2- and 4-byte floats: rotated left by one bit, so that the exponent fills the highest byte and the sign
// joins the mantissa, then split into one plane a byte. Also HDF5's shuffle filter, the same without the rotation.
#include "CKernels.h"
#include "scalar.h"

static inline uint16_t rotate16(uint16_t x, int by) { return (uint16_t)(x << by | x >> (16 - by)); }
static inline uint32_t rotate32(uint32_t x, int by) { return x << by | x >> (32 - by); }

#if defined(__x86_64__)
CK_TARGET_AVX2 static size_t split16_avx2(const uint8_t *source, uint8_t *planes, size_t count) {
    const __m256i low = _mm256_set1_epi16(0xFF);
    uint8_t *high_plane = planes, *low_plane = planes + count;
    size_t i = 0;
    for (; i + 32 <= count; i += 32) {
        __m256i a = _mm256_loadu_si256((const __m256i *)(source + 2 * i)), b = _mm256_loadu_si256((const __m256i *)(source + 2 * i + 32));
        a = _mm256_or_si256(_mm256_slli_epi16(a, 1), _mm256_srli_epi16(a, 15));
        b = _mm256_or_si256(_mm256_slli_epi16(b, 1), _mm256_srli_epi16(b, 15));
        __m256i high = _mm256_packus_epi16(_mm256_srli_epi16(a, 8), _mm256_srli_epi16(b, 8));
        __m256i rest = _mm256_packus_epi16(_mm256_and_si256(a, low), _mm256_and_si256(b, low));
        _mm256_storeu_si256((__m256i *)(high_plane + i), _mm256_permute4x64_epi64(high, 0xD8));
        _mm256_storeu_si256((__m256i *)(low_plane + i), _mm256_permute4x64_epi64(rest, 0xD8));
    }
    return i;
}

CK_TARGET_AVX2 static size_t join16_avx2(const uint8_t *planes, uint8_t *target, size_t count) {
    const uint8_t *high_plane = planes, *low_plane = planes + count;
    size_t i = 0;
    for (; i + 32 <= count; i += 32) {
        __m256i high = _mm256_permute4x64_epi64(_mm256_loadu_si256((const __m256i *)(high_plane + i)), 0xD8);
        __m256i rest = _mm256_permute4x64_epi64(_mm256_loadu_si256((const __m256i *)(low_plane + i)), 0xD8);
        __m256i a = _mm256_unpacklo_epi8(rest, high), b = _mm256_unpackhi_epi8(rest, high);
        a = _mm256_or_si256(_mm256_srli_epi16(a, 1), _mm256_slli_epi16(a, 15));
        b = _mm256_or_si256(_mm256_srli_epi16(b, 1), _mm256_slli_epi16(b, 15));
        _mm256_storeu_si256((__m256i *)(target + 2 * i), a);
        _mm256_storeu_si256((__m256i *)(target + 2 * i + 32), b);
    }
    return i;
}
#endif

void ck_split_planes(int level, const uint8_t *source, uint8_t *planes, size_t count, int width) {
    size_t i = 0;
    (void)level;
    if (width == 2) {
#if defined(__x86_64__)
        if (level >= CK_AVX2) i = split16_avx2(source, planes, count);
#endif
        for (; i < count; i++) {
            uint16_t x;
            memcpy(&x, source + 2 * i, 2);
            x = rotate16(x, 1);
            planes[i] = (uint8_t)(x >> 8);
            planes[count + i] = (uint8_t)x;
        }
        return;
    }
    for (; i < count; i++) {
        uint32_t x;
        memcpy(&x, source + 4 * i, 4);
        x = rotate32(x, 1);
        planes[i] = (uint8_t)(x >> 24);
        planes[count + i] = (uint8_t)(x >> 16);
        planes[2 * count + i] = (uint8_t)(x >> 8);
        planes[3 * count + i] = (uint8_t)x;
    }
}

void ck_join_planes(int level, const uint8_t *planes, uint8_t *target, size_t count, int width) {
    size_t i = 0;
    (void)level;
    if (width == 2) {
#if defined(__x86_64__)
        if (level >= CK_AVX2) i = join16_avx2(planes, target, count);
#endif
        for (; i < count; i++) {
            uint16_t x = rotate16((uint16_t)(planes[i] << 8 | planes[count + i]), 15);
            memcpy(target + 2 * i, &x, 2);
        }
        return;
    }
    for (; i < count; i++) {
        uint32_t x = (uint32_t)planes[i] << 24 | (uint32_t)planes[count + i] << 16 | (uint32_t)planes[2 * count + i] << 8 | planes[3 * count + i];
        x = rotate32(x, 31);
        memcpy(target + 4 * i, &x, 4);
    }
}

// HDF5's shuffle keeps bytes that do not fill an element at the end (hdf5:src/H5Zshuffle.c).
void ck_shuffle(const uint8_t *source, uint8_t *target, size_t size, size_t width) {
    size_t count = width ? size / width : 0;
    for (size_t byte = 0; byte < width; byte++)
        for (size_t i = 0; i < count; i++) target[byte * count + i] = source[i * width + byte];
    memcpy(target + count * width, source + count * width, size - count * width);
}

void ck_unshuffle(const uint8_t *source, uint8_t *target, size_t size, size_t width) {
    size_t count = width ? size / width : 0;
    for (size_t byte = 0; byte < width; byte++)
        for (size_t i = 0; i < count; i++) target[i * width + byte] = source[byte * count + i];
    memcpy(target + count * width, source + count * width, size - count * width);
}
