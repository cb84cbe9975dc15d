// Our own exponential: libm's differ between systems in their last bit, and the reference forward pass must not. The loops are
// written once and compiled for each instruction set; they hold IEEE operations only, so the bits stay.
#include "CKernels.h"
#include "scalar.h"

static inline __attribute__((always_inline)) float exponential(float value) {
    double x = value;
    // e^x = 2^n e^r with |r| <= ln 2 / 2; beyond these bounds F32 is 0 or infinite.
    double bounded = x < -110 ? -110 : x > 90 ? 90 : x;
    double shifted = bounded * 1.4426950408889634 + 6755399441055744.0;
    double n = shifted - 6755399441055744.0;
    double r = (bounded - n * 0x1.62e42fefa0000p-1) - n * 0x1.cf79abc9e3b3ap-40;
    // Taylor's series to r^13 / 13!, below 2^-55 here.
    double e = 1.0 / 6227020800;
    e = e * r + 1.0 / 479001600;
    e = e * r + 1.0 / 39916800;
    e = e * r + 1.0 / 3628800;
    e = e * r + 1.0 / 362880;
    e = e * r + 1.0 / 40320;
    e = e * r + 1.0 / 5040;
    e = e * r + 1.0 / 720;
    e = e * r + 1.0 / 120;
    e = e * r + 1.0 / 24;
    e = e * r + 1.0 / 6;
    e = e * r + 0.5;
    e = e * r + 1.0;
    e = e * r + 1.0;
    // The low bits of `shifted` are n; its exponent goes where F64 keeps its own.
    uint64_t power;
    memcpy(&power, &shifted, 8);
    power = (power + 1023) << 52;
    double scale;
    memcpy(&scale, &power, 8);
    float result = (float)(e * scale);
    return value != value ? value : result;
}

static inline __attribute__((always_inline)) void exp_loop(float *values, size_t count) {
    for (size_t i = 0; i < count; i++) values[i] = exponential(values[i]);
}

static inline __attribute__((always_inline)) void silu_loop(float *gate, const float *up, size_t count, int rounds) {
    if (rounds) {
        for (size_t i = 0; i < count; i++)
            gate[i] = ck_round_bf16(ck_round_bf16(gate[i] / (1.0f + exponential(-gate[i]))) * up[i]);
    } else {
        for (size_t i = 0; i < count; i++) gate[i] = gate[i] / (1.0f + exponential(-gate[i])) * up[i];
    }
}

static inline __attribute__((always_inline)) void softmax_loop(float *scores, size_t count, float scale, float sink, int rounds) {
    enum { LANES = 16 };
    float largest[LANES];
    for (size_t j = 0; j < LANES; j++) largest[j] = sink;
    size_t whole = count / LANES * LANES;
    for (size_t i = 0; i < count; i++) scores[i] *= scale;
    if (rounds)
        for (size_t i = 0; i < count; i++) scores[i] = ck_round_bf16(scores[i]);
    for (size_t i = 0; i < whole; i += LANES)
        for (size_t j = 0; j < LANES; j++) largest[j] = scores[i + j] > largest[j] ? scores[i + j] : largest[j];
    for (size_t i = whole; i < count; i++) largest[i - whole] = scores[i] > largest[i - whole] ? scores[i] : largest[i - whole];
    float greatest = sink;
    for (size_t j = 0; j < LANES; j++) greatest = largest[j] > greatest ? largest[j] : greatest;
    for (size_t i = 0; i < count; i++) scores[i] = exponential(scores[i] - greatest);
    double sums[LANES] = {0};
    for (size_t i = 0; i < whole; i += LANES)
        for (size_t j = 0; j < LANES; j++) sums[j] += (double)scores[i + j];
    for (size_t i = whole; i < count; i++) sums[i - whole] += (double)scores[i];
    double sum = sink > -INFINITY ? (double)exponential(sink - greatest) : sink == sink ? 0 : (double)sink;
    for (size_t j = 0; j < LANES; j++) sum += sums[j];
    float factor = (float)(1 / sum);
    for (size_t i = 0; i < count; i++) scores[i] *= factor;
}

#if defined(__x86_64__)
CK_TARGET_AVX512 static void exp_avx512(float *values, size_t count) { exp_loop(values, count); }
CK_TARGET_AVX2 static void exp_avx2(float *values, size_t count) { exp_loop(values, count); }
CK_TARGET_AVX512 static void softmax_avx512(float *scores, size_t count, float scale, float sink, int rounds) {
    softmax_loop(scores, count, scale, sink, rounds);
}
CK_TARGET_AVX2 static void softmax_avx2(float *scores, size_t count, float scale, float sink, int rounds) {
    softmax_loop(scores, count, scale, sink, rounds);
}
CK_TARGET_AVX512 static void silu_avx512(float *gate, const float *up, size_t count, int rounds) { silu_loop(gate, up, count, rounds); }
CK_TARGET_AVX2 static void silu_avx2(float *gate, const float *up, size_t count, int rounds) { silu_loop(gate, up, count, rounds); }
#endif

void ck_exp(int level, float *values, size_t count) {
#if defined(__x86_64__)
    if (level == CK_AVX512) { exp_avx512(values, count); return; }
    if (level == CK_AVX2) { exp_avx2(values, count); return; }
#endif
    (void)level;
    exp_loop(values, count);
}

void ck_softmax(int level, float *scores, size_t count, float scale, float sink, int rounds) {
#if defined(__x86_64__)
    if (level == CK_AVX512) { softmax_avx512(scores, count, scale, sink, rounds); return; }
    if (level == CK_AVX2) { softmax_avx2(scores, count, scale, sink, rounds); return; }
#endif
    (void)level;
    softmax_loop(scores, count, scale, sink, rounds);
}

void ck_silu_gate(int level, float *gate, const float *up, size_t count, int rounds) {
#if defined(__x86_64__)
    if (level == CK_AVX512) { silu_avx512(gate, up, count, rounds); return; }
    if (level == CK_AVX2) { silu_avx2(gate, up, count, rounds); return; }
#endif
    (void)level;
    silu_loop(gate, up, count, rounds);
}
