// Error sums with a fixed order of additions: sixteen lanes by index, joined at the end. Bits do not depend on the machine.
#include "CKernels.h"
#include "scalar.h"

typedef struct { double signal[16], noise[16], product[16], candidate[16], absolute[16]; float max_abs; size_t different; } lanes;

static inline void add(lanes *l, size_t i, float r, float c) {
    // Equal values, two infinities and two NaNs among them, differ by nothing.
    int same = r == c || (r != r && c != c);
    float d = same ? 0.0f : r - c;
    double a = r == r ? r : 0, b = c == c ? c : 0, e = d;
    l->signal[i & 15] += a * a;
    l->noise[i & 15] += e * e;
    l->product[i & 15] += a * b;
    l->candidate[i & 15] += b * b;
    l->absolute[i & 15] += fabs(e);
    if (fabsf(d) > l->max_abs || d != d) l->max_abs = fabsf(d);
    l->different += !same;
}

static void join(const lanes *l, ck_error_sums *sums) {
    for (int i = 0; i < 16; i++) {
        sums->signal += l->signal[i];
        sums->noise += l->noise[i];
        sums->product += l->product[i];
        sums->candidate += l->candidate[i];
        sums->absolute += l->absolute[i];
    }
    if (l->max_abs > sums->max_abs || l->max_abs != l->max_abs) sums->max_abs = l->max_abs;
    sums->different += l->different;
}

#if defined(__x86_64__)
typedef struct { __m512d low, high; } pair;

CK_TARGET_AVX512 static inline pair widen(__m512 x) {
    pair p = {_mm512_cvtps_pd(_mm512_castps512_ps256(x)), _mm512_cvtps_pd(_mm512_extractf32x8_ps(x, 1))};
    return p;
}

CK_TARGET_AVX512 static inline void accumulate(pair *sum, pair a, pair b) {
    sum->low = _mm512_add_pd(sum->low, _mm512_mul_pd(a.low, b.low));
    sum->high = _mm512_add_pd(sum->high, _mm512_mul_pd(a.high, b.high));
}

CK_TARGET_AVX512 static inline void put(double target[16], pair sum) {
    _mm512_storeu_pd(target, sum.low);
    _mm512_storeu_pd(target + 8, sum.high);
}

/// As far as all values are finite; returns how many elements it has added.
CK_TARGET_AVX512 static size_t add_avx512(const uint16_t *reference, const uint16_t *candidate, size_t count, lanes *l) {
    const __m512i exponent = _mm512_set1_epi32(0x7F800000);
    pair signal = {_mm512_setzero_pd(), _mm512_setzero_pd()}, noise = signal, product = signal, other = signal, absolute = signal;
    __m512 largest = _mm512_setzero_ps();
    size_t i = 0, different = 0;
    for (; i + 16 <= count; i += 16) {
        __m512i u = _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(reference + i))), 16);
        __m512i v = _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(candidate + i))), 16);
        __mmask16 odd = _mm512_cmpeq_epi32_mask(_mm512_and_si512(u, exponent), exponent)
                      | _mm512_cmpeq_epi32_mask(_mm512_and_si512(v, exponent), exponent);
        if (__builtin_expect(odd, 0)) break;
        __m512 r = _mm512_castsi512_ps(u), c = _mm512_castsi512_ps(v), d = _mm512_sub_ps(r, c);
        pair a = widen(r), b = widen(c), e = widen(d);
        accumulate(&signal, a, a);
        accumulate(&noise, e, e);
        accumulate(&product, a, b);
        accumulate(&other, b, b);
        absolute.low = _mm512_add_pd(absolute.low, _mm512_abs_pd(e.low));
        absolute.high = _mm512_add_pd(absolute.high, _mm512_abs_pd(e.high));
        largest = _mm512_max_ps(largest, _mm512_abs_ps(d));
        different += (size_t)__builtin_popcount(_mm512_cmp_ps_mask(r, c, _CMP_NEQ_OQ));
    }
    put(l->signal, signal); put(l->noise, noise); put(l->product, product); put(l->candidate, other); put(l->absolute, absolute);
    l->max_abs = _mm512_reduce_max_ps(largest);
    l->different = different;
    return i;
}
#endif

void ck_bf16_error(int level, const uint16_t *reference, const uint16_t *candidate, size_t count, ck_error_sums *sums) {
    lanes l;
    memset(&l, 0, sizeof l);
    size_t i = 0;
#if defined(__x86_64__)
    if (level == CK_AVX512) i = add_avx512(reference, candidate, count, &l);
#endif
    (void)level;
    for (; i < count; i++) add(&l, i, ck_from_bf16(reference[i]), ck_from_bf16(candidate[i]));
    join(&l, sums);
}

void ck_f32_error(const float *reference, const float *candidate, size_t count, ck_error_sums *sums) {
    lanes l;
    memset(&l, 0, sizeof l);
    for (size_t i = 0; i < count; i++) add(&l, i, reference[i], candidate[i]);
    join(&l, sums);
}

/// Sums over a group of at most `count` values in eight lanes, which the compiler adds side by side.
#define LOST(WIDEN) \
    for (size_t start = 0; start < count; start += group) { \
        size_t end = start + group < count ? start + group : count, i = start; \
        float signal[8] = {0}, noise[8] = {0}, both[8] = {0}, other[8] = {0}, r = 0, n = 0, p = 0, c = 0; \
        for (; i + 8 <= end; i += 8) \
            for (int k = 0; k < 8; k++) { \
                float a = WIDEN(reference[i + k]), b = WIDEN(candidate[i + k]), d = a - b; \
                signal[k] += a * a; \
                other[k] += b * b; \
                both[k] += a * b; \
                noise[k] += d * d; \
            } \
        for (; i < end; i++) { \
            float a = WIDEN(reference[i]), b = WIDEN(candidate[i]), d = a - b; \
            signal[0] += a * a; \
            other[0] += b * b; \
            both[0] += a * b; \
            noise[0] += d * d; \
        } \
        for (int k = 0; k < 8; k++) { r += signal[k]; n += noise[k]; p += both[k]; c += other[k]; } \
        /* Not a number is not below, and stays. */ \
        if (!(p > 0.3f * sqrtf(r) * sqrtf(c)) && n != 0 && (!(n <= lost) || lost != lost)) lost = lost != lost ? lost : n; \
    } \
    return lost;

static inline float itself(float x) { return x; }

float ck_bf16_lost(const uint16_t *reference, const uint16_t *candidate, size_t count, size_t group, float lost) {
    LOST(ck_from_bf16)
}

float ck_f32_lost(const float *reference, const float *candidate, size_t count, size_t group, float lost) { LOST(itself) }

size_t ck_f32_apart(const float *reference, const float *candidate, size_t count, float step, float smallest) {
    size_t apart = 0;
    for (size_t i = 0; i < count; i++) {
        float r = reference[i], c = candidate[i], room = fabsf(r) * step;
        if (room < smallest) room = smallest;
        int same = r == c || (r != r && c != c);
        apart += !same && !(fabsf(r - c) <= room && room < INFINITY);
    }
    return apart;
}
