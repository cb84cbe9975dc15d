// Error sums with a fixed order of additions: sixteen lanes by index, joined at the end. Bits do not depend on the machine.
#include "CKernels.h"
#include "loops.h"

#if defined(__clang__)
// Everything below is inlined, so that no vector is ever passed in a way that depends on the instruction set.
#pragma clang diagnostic ignored "-Wpsabi"
#endif

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

static void join(const lanes *l, int is_whole, ck_error_sums *sums) {
    for (int i = 0; i < 16; i++) {
        sums->signal += l->signal[i];
        sums->noise += l->noise[i];
    }
    if (l->max_abs > sums->max_abs || l->max_abs != l->max_abs) sums->max_abs = l->max_abs;
    if (!is_whole) return;
    for (int i = 0; i < 16; i++) {
        sums->product += l->product[i];
        sums->candidate += l->candidate[i];
        sums->absolute += l->absolute[i];
    }
    sums->different += l->different;
}

typedef float floats __attribute__((vector_size(64)));
typedef double doubles __attribute__((vector_size(64)));
typedef uint16_t halves __attribute__((vector_size(32)));
typedef uint32_t words __attribute__((vector_size(64)));
typedef int32_t masks __attribute__((vector_size(64)));
typedef struct { doubles low, high; } pair;

CK_INLINE pair widen(floats x) {
    pair p = {__builtin_convertvector(__builtin_shufflevector(x, x, 0, 1, 2, 3, 4, 5, 6, 7), doubles),
              __builtin_convertvector(__builtin_shufflevector(x, x, 8, 9, 10, 11, 12, 13, 14, 15), doubles)};
    return p;
}

/// Products of these numbers have fewer bits than F64 holds, so that nothing depends on whether they are rounded before they are added.
CK_INLINE void accumulate(pair *sum, pair a, pair b) {
#pragma clang fp contract(fast)
    sum->low += a.low * b.low;
    sum->high += a.high * b.high;
}

CK_INLINE void put(double target[16], pair sum) { memcpy(target, &sum, sizeof sum); }

CK_INLINE floats magnitude(floats x) { return (floats)((words)x & 0x7FFFFFFFu); }

/// Sixteen values at a time, as far as all are finite; `done` gets how many that were. Without `is_whole` only signal, noise and the largest.
CK_INLINE void add_all(const uint16_t *reference, const uint16_t *candidate, size_t count, int is_whole, lanes *l, size_t *done) {
    pair signal = {{0}, {0}}, noise = signal, product = signal, other = signal, absolute = signal;
    floats largest = {0};
    masks different = {0};
    size_t i = 0;
    for (; i + 16 <= count; i += 16) {
        halves x, y;
        memcpy(&x, reference + i, sizeof x);
        memcpy(&y, candidate + i, sizeof y);
        if (__builtin_expect(__builtin_reduce_or(((x & 0x7F80) == 0x7F80) | ((y & 0x7F80) == 0x7F80)) != 0, 0)) break;
        floats r = (floats)(__builtin_convertvector(x, words) << 16), c = (floats)(__builtin_convertvector(y, words) << 16), d = r - c;
        pair a = widen(r), e = widen(d);
        accumulate(&signal, a, a);
        accumulate(&noise, e, e);
        floats m = magnitude(d);
        masks larger = m > largest;
        largest = (floats)((larger & (masks)m) | (~larger & (masks)largest));
        if (!is_whole) continue;
        pair b = widen(c), size = widen(m);
        accumulate(&product, a, b);
        accumulate(&other, b, b);
        absolute.low += size.low;
        absolute.high += size.high;
        different -= r != c;
    }
    put(l->signal, signal); put(l->noise, noise); put(l->product, product); put(l->candidate, other); put(l->absolute, absolute);
    for (int k = 0; k < 16; k++) {
        l->max_abs = largest[k] > l->max_abs ? largest[k] : l->max_abs;
        l->different += (size_t)different[k];
    }
    *done = i;
}

CK_INLINE void sums_loop(const uint16_t *reference, const uint16_t *candidate, size_t count, int is_whole, lanes *l, size_t *done) {
    // Two loops, so that neither asks in its midst.
    if (is_whole) add_all(reference, candidate, count, 1, l, done);
    else add_all(reference, candidate, count, 0, l, done);
}

CK_LEVELS(sums, (const uint16_t *reference, const uint16_t *candidate, size_t count, int is_whole, lanes *l, size_t *done),
          (reference, candidate, count, is_whole, l, done))

static void run_sums(int level, const uint16_t *reference, const uint16_t *candidate, size_t count, int is_whole, lanes *l, size_t *done) {
    CK_RUN(sums, (reference, candidate, count, is_whole, l, done))
}

static void bf16_sums(int level, const uint16_t *reference, const uint16_t *candidate, size_t count, int is_whole, ck_error_sums *sums) {
    lanes l;
    memset(&l, 0, sizeof l);
    size_t i = 0;
    run_sums(level, reference, candidate, count, is_whole, &l, &i);
    for (; i < count; i++) add(&l, i, ck_from_bf16(reference[i]), ck_from_bf16(candidate[i]));
    join(&l, is_whole, sums);
}

void ck_bf16_error(int level, const uint16_t *reference, const uint16_t *candidate, size_t count, ck_error_sums *sums) {
    bf16_sums(level, reference, candidate, count, 1, sums);
}

void ck_bf16_noise(int level, const uint16_t *reference, const uint16_t *candidate, size_t count, ck_error_sums *sums) {
    bf16_sums(level, reference, candidate, count, 0, sums);
}

void ck_f32_error(const float *reference, const float *candidate, size_t count, ck_error_sums *sums) {
    lanes l;
    memset(&l, 0, sizeof l);
    for (size_t i = 0; i < count; i++) add(&l, i, reference[i], candidate[i]);
    join(&l, 1, sums);
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
