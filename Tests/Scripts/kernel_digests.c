// Prints a digest of what every kernel makes of the same inputs: a line "NAME DIGEST", at the level that the argument names (0 plain, 1 NEON, 2 AVX2,
// 3 AVX-512; without one, the levels of this processor are printed). Two machines or levels that differ in a line differ in a bit.
// Inputs are finite and made of whole numbers, so that no machine makes others. kernel_digests.py compiles and compares.
#include "CKernels.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { COUNT = 1 << 14 };

static uint64_t state;
static uint64_t next(void) {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
}

/// Normal in the middle, with exponents that reach far: a sum of whole numbers times a power of two.
static float number(void) {
    int sum = 0;
    for (int i = 0; i < 4; i++) sum += (int)(next() % 4097) - 2048;
    int exponent = next() % 16 == 0 ? (int)(next() % 24) - 12 : 0;
    float scale = exponent < 0 ? 1.0f / (float)(1 << -exponent) : (float)(1 << exponent);
    return (float)sum / 16384.0f * scale;
}

static uint16_t bits(float value) {
    uint16_t result;
    ck_f32_to_bf16(&value, &result, 1);
    return result;
}

static uint8_t codes[COUNT * 8], made[COUNT * 8];
static uint16_t bf16[COUNT], halves[COUNT], others[COUNT], out16[COUNT * 2], more16[COUNT];
static uint32_t words[COUNT];
static float floats[COUNT * 2], positive[COUNT], negative_or_not[COUNT], out[COUNT * 8], more[COUNT * 8], third[COUNT * 8];
static double doubles[COUNT], sums[COUNT];

static void inputs(void) {
    state = 88172645463325252ull;
    for (size_t i = 0; i < sizeof codes; i++) codes[i] = (uint8_t)(next() >> 20);
    for (size_t i = 0; i < COUNT; i++) {
        bf16[i] = bits(number());
        others[i] = next() % 4 ? bf16[i] : bits(number());
        halves[i] = (uint16_t)(next() >> 20) & 0xFBFF;
        words[i] = (uint32_t)(next() >> 20);
        positive[i] = (float)(next() % 4095 + 1) / 65536.0f;
        negative_or_not[i] = number();
        doubles[i] = (double)number() + (double)(next() % 1024) / 1073741824.0;
    }
    for (size_t i = 0; i < 2 * COUNT; i++) floats[i] = number();
    memset(bf16 + 256, 0, 256);
}

static const char *name = "";
static uint64_t digest;
static void begin(const char *kernel) {
    name = kernel;
    digest = 1469598103934665603ull;
}
static void add(const void *bytes, size_t size) {
    for (size_t i = 0; i < size; i++) digest = (digest ^ ((const uint8_t *)bytes)[i]) * 1099511628211ull;
}
static void end(void) { printf("%s %016llx\n", name, (unsigned long long)digest); }

/// Group sizes and counts with and without tails.
static const size_t sizes[][2] = {{1, 128}, {3, 32}, {5, 64}, {2, 128}, {7, 16}, {1, 2}, {9, 30}, {4, 96}};
#define EACH_SIZE for (size_t n = 0; n < sizeof sizes / sizeof *sizes; n++)
#define GROUPS sizes[n][0]
#define SIZE sizes[n][1]
#define TOTAL (sizes[n][0] * sizes[n][1])

static void eight_bits(int level) {
    begin("e4m3_decode");
    static uint16_t tables[CK_TABLE_WORDS * 64];
    for (size_t block = 24; block <= 128; block += 52) {
        size_t columns = 3 * block + 17;
        ck_e4m3_decode(level, codes, out16, 5, columns, block, positive, tables);
        add(out16, 5 * columns * 2);
    }
    end();
    begin("e4m3_encode");
    for (size_t columns = 1; columns < 200; columns += 37) {
        ck_e4m3_encode(level, bf16, 211, made, 203, 3, columns, positive[columns]);
        for (size_t row = 0; row < 3; row++) add(made + row * 203, columns);
    }
    end();
    begin("e4m3_encode_groups");
    for (size_t i = 0; i < 64; i++) more[i] = i % 2 ? 0.25f : 512.0f;
    ck_e4m3_encode_groups(level, bf16, 64, more, made);
    add(made, 64 * CK_MX_GROUP);
    end();
    begin("e4m3_encode_bf16_scale");
    ck_e4m3_encode_bf16_scale(level, bf16, bits(0.0078125f), 1003, made);
    add(made, 1003);
    end();
    begin("e2m1");
    EACH_SIZE for (int rule = CK_E2M1_DIVIDE; rule <= CK_E2M1_MULTIPLY_DOWN; rule++) {
        ck_e2m1_encode(level, bf16, GROUPS, SIZE, positive, rule, made);
        add(made, TOTAL / 2);
        ck_e2m1_decode(level, codes, GROUPS, SIZE, positive, rule == 0, out16);
        add(out16, TOTAL * 2);
    }
    end();
}

static void integers(int level) {
    begin("ranges");
    EACH_SIZE {
        ck_bf16_group_amax(level, bf16, GROUPS, SIZE, out16);
        add(out16, GROUPS * 2);
        ck_bf16_group_range(level, bf16, GROUPS, SIZE, out16, more16);
        add(out16, GROUPS * 2), add(more16, GROUPS * 2);
        ck_bf16_ranges(level, bf16, TOTAL + 5, 3, GROUPS, SIZE, out16, more16);
        add(out16, 3 * GROUPS * 2), add(more16, 3 * GROUPS * 2);
        uint16_t amax = ck_bf16_amax(level, bf16, TOTAL + 3, 4, TOTAL);
        add(&amax, 2);
    }
    end();
    begin("int4_and_int8");
    EACH_SIZE {
        static int8_t zeros[COUNT];
        uint16_t least[64], greatest[64], scales[64];
        ck_bf16_group_range(level, bf16, GROUPS, SIZE, least, greatest);
        ck_bf16_asymmetric_parameters(least, greatest, GROUPS, scales, zeros);
        add(scales, GROUPS * 2), add(zeros, GROUPS);
        for (int asymmetric = 0; asymmetric < 2; asymmetric++) {
            ck_int4_encode(level, bf16, scales, asymmetric ? zeros : NULL, GROUPS, SIZE, made);
            add(made, TOTAL / 2);
            ck_int4_decode(level, codes, scales, asymmetric ? zeros : NULL, GROUPS, SIZE, out16);
            add(out16, TOTAL * 2);
        }
        ck_bf16_group_amax(level, bf16, GROUPS, SIZE, scales);
        ck_bf16_symmetric_scales(scales, GROUPS, 127.5f);
        add(scales, GROUPS * 2);
        ck_int8_encode(level, bf16, scales, GROUPS, SIZE, made);
        add(made, TOTAL);
        ck_int8_decode(level, codes, scales, GROUPS, SIZE, out16);
        add(out16, TOTAL * 2);
    }
    end();
    begin("affine");
    EACH_SIZE {
        uint16_t least[256], greatest[256];
        float scales[256], offsets[256];
        ck_bf16_ranges(level, bf16, TOTAL + 5, 3, GROUPS, SIZE, least, greatest);
        for (int rule = CK_ZERO_POINT_F32; rule <= CK_BIAS_F32; rule++) {
            if (rule == CK_ZERO_POINT_F32) ck_gptq_parameters(level, least, greatest, 3 * GROUPS, 15, n % 2 ? 8 : 0, scales, offsets);
            if (rule == CK_ZERO_POINT_F16) ck_awq_parameters(level, least, greatest, 3 * GROUPS, scales, offsets);
            if (rule == CK_BIAS_F32) ck_mlx_parameters(level, least, greatest, 3 * GROUPS, 15, scales, offsets);
            add(scales, 3 * GROUPS * 4), add(offsets, 3 * GROUPS * 4);
            ck_affine_encode(level, bf16, TOTAL + 5, 3, GROUPS, SIZE, scales, offsets, 15, rule, made);
            add(made, 3 * TOTAL);
            for (int type = CK_TYPE_F32; type <= CK_TYPE_F16; type++) {
                ck_affine_decode(level, codes, TOTAL, 0.0361328125f, rule == CK_BIAS_F32 ? -0.25f : 7, rule == CK_BIAS_F32, type, out16);
                add(out16, TOTAL * 2);
            }
        }
    }
    end();
    begin("packing");
    for (int width = 1; width <= 8; width++) {
        size_t count = 1000 + (size_t)width * 8;
        for (size_t i = 0; i < count; i++) made[i] = codes[i] & (uint8_t)((1 << width) - 1);
        ck_pack_codes(level, made, count, width, (uint8_t *)out);
        add(out, (count * (size_t)width + 7) / 8);
        ck_unpack_codes(level, codes, count, width, made);
        add(made, count);
    }
    ck_turn_words(level, words, 101, 37, 99, (uint32_t *)out, 41);
    for (size_t row = 0; row < 99; row++) add((uint32_t *)out + row * 41, 37 * 4);
    for (size_t i = 0; i < 4096; i++) made[i] = codes[i] & 15;
    ck_awq_pack(level, made, 40, 67, (uint32_t *)out, 5);
    add(out, 67 * 5 * 4);
    ck_awq_unpack(level, words, 40, 67, made);
    add(made, 40 * 67);
    for (int width = 2; width <= 4; width += 2) {
        ck_split_planes(level, codes, made, 1013, width);
        add(made, 1013 * (size_t)width);
        ck_join_planes(level, codes, made, 1013, width);
        add(made, 1013 * (size_t)width);
    }
    ck_shuffle(codes, made, 4095, 4);
    add(made, 4095);
    ck_unshuffle(codes, made, 4095, 4);
    add(made, 4095);
    end();
}

static void floating(int level) {
    begin("types");
    ck_bf16_to_f32(bf16, out, 1003), add(out, 1003 * 4);
    ck_f32_to_bf16(floats, out16, 1003), add(out16, 1003 * 2);
    ck_f16_to_f32(level, halves, out, 1003), add(out, 1003 * 4);
    ck_f32_to_f16(level, floats, out16, 1003), add(out16, 1003 * 2);
    memcpy(out, floats, sizeof floats);
    ck_f32_scale(out, 1003, 0.3f), ck_round_to_bf16(out, 501), add(out, 1003 * 4);
    memcpy(out, floats, sizeof floats);
    ck_quantize_activations(out, 1024, more), add(out, 1024 * 4), add(more, 8 * 4);
    size_t counts[] = {ck_bf16_count_nonfinite(halves, 1003), ck_count_masked8(codes, 1003, 0x78), ck_count_masked16(halves, 1003, 0x7C00),
                       ck_count_masked32(words, 1003, 0x700000), ck_count_above16(halves, 1003, 0x7000), ck_count_above32(words, 1003, 1u << 30)};
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
        uint64_t count = counts[i];
        add(&count, 8);
    }
    end();
    begin("errors");
    ck_error_sums error = {0};
    ck_bf16_error(level, bf16, others, 1003, &error);
    ck_bf16_noise(level, bf16, others, 1003, &error);
    ck_f32_error(floats, negative_or_not, 1003, &error);
    double figures[] = {error.signal, error.noise, error.product, error.candidate, error.absolute, error.max_abs, (double)error.different,
                        ck_bf16_lost(bf16, others, 1024, 32, 0), ck_f32_lost(floats, negative_or_not, 1024, 32, 0),
                        (double)ck_f32_apart(floats, negative_or_not, 1003, 0.01f, 1e-3f),
                        ck_squared_error(level, bf16, 211, others, 3, 200, NULL), ck_squared_error(level, bf16, 211, others, 3, 200, positive)};
    add(figures, sizeof figures);
    end();
    begin("functions");
    for (size_t i = 0; i < 1003; i++) out[i] = floats[i] * 20;
    ck_exp(level, out, 1003), add(out, 1003 * 4);
    for (int rounds = 0; rounds < 2; rounds++) {
        memcpy(out, floats, sizeof floats);
        ck_softmax(level, out, 333, 0.7f, 0.1f, rounds), add(out, 333 * 4);
        memcpy(out, floats, sizeof floats);
        ck_silu_gate(level, out, negative_or_not, 1003, rounds), add(out, 1003 * 4);
    }
    end();
}

static void products(int level) {
    begin("matrix_product");
    for (size_t tokens = 1; tokens <= CK_TOKEN_BLOCK; tokens++)
        for (size_t width = 1; width <= 48; width += 1 + tokens % 5) {
            size_t depth = 1 + tokens * 7 % 40;
            ck_pack_tokens(level, floats, 61, tokens, depth, more);
            add(more, depth * CK_TOKEN_BLOCK * 4);
            for (size_t panel = 0; panel < 3; panel++) {
                if (panel == 1) ck_pack_bf16_panel(level, bf16, 50, 13, depth, third + panel * 700);
                else ck_pack_f32_panel(negative_or_not + panel * 900, 50, CK_PANEL, depth, third + panel * 700);
            }
            memcpy(out, floats, sizeof floats);
            ck_matrix_product(level, more, tokens, third, 700, depth, out, 53, width, tokens % 2);
            for (size_t t = 0; t < tokens; t++) add(out + t * 53, width * 4);
        }
    // Whole blocks of one panel, whose sums lie as they are computed.
    memcpy(out, floats, sizeof floats);
    ck_matrix_product(level, floats + 1000, CK_TOKEN_BLOCK, negative_or_not, 0, 77, out, CK_PANEL, CK_PANEL, 1);
    add(out, CK_TOKEN_BLOCK * CK_PANEL * 4);
    memcpy(out, floats, sizeof floats), memcpy(more, negative_or_not, sizeof negative_or_not);
    ck_add_scaled(out, 7, positive, 3, positive + 100, more, 51, 29);
    add(more, 51 * 7 * 4);
    ck_pack_columns(floats, 67, 9, 19, 24, out), add(out, 9 * 24 * 4);
    end();
    begin("double_product");
    for (size_t rows = 1; rows < 10; rows++) {
        memset(sums, 0, sizeof sums);
        ck_double_product(level, doubles, 11, doubles + 500, 40, sums, 39, 20 + rows, rows, 16 + rows * 2, rows % 2 ? 1 : -1);
        add(sums, 39 * rows * 8);
    }
    end();
    begin("quantizers");
    EACH_SIZE {
        float found[8] = {0};
        ck_grid_sums(level, floats, positive, TOTAL, 0.03f, -0.2f, 15, found), add(found, 6 * 4);
        for (size_t i = 0; i < 21; i++) more[i] = -0.01f * (float)i;
        ck_grid_errors(level, floats, positive, TOTAL, positive, more, 21, 15, out), add(out, 21 * 4);
        ck_nearest_codes(level, floats, TOTAL, 0.03f, -0.2f, 15, made), add(made, TOTAL);
    }
    enum { WIDTH = 43 };
    uint32_t groups[WIDTH];
    for (uint32_t i = 0; i < WIDTH; i++) groups[i] = i * 5 % 11;
    float losses[CK_PANEL] = {0};
    memcpy(out, floats, sizeof floats);
    for (size_t i = 0; i < 11 * CK_PANEL; i++) more[i] = positive[i] + 0.05f;
    for (size_t i = 0; i < WIDTH * WIDTH; i++) third[i] = floats[i] * 0.1f;
    ck_feedback_round(level, out, floats, third, WIDTH, WIDTH, more, negative_or_not, groups, 15, positive, losses, out + 8192, made);
    add(out, WIDTH * CK_PANEL * 4), add(out + 8192, WIDTH * CK_PANEL * 4), add(losses, sizeof losses), add(made, WIDTH * CK_PANEL);
    for (size_t i = 0; i < WIDTH; i++) third[i * WIDTH + i] = positive[i] + 1;
    ck_solve_rows(level, out, third, WIDTH, WIDTH), add(out, WIDTH * CK_PANEL * 4);
    end();
}

#define DECODE(TYPE)                                                                             \
    begin("ggml_decode_" #TYPE);                                                                 \
    ck_ggml_decode_##TYPE(level, codes, out, 24);                                                \
    for (size_t i = 0; i < 24 * 256; i++) out[i] = out[i] == out[i] ? out[i] : 1.0f;             \
    add(out, 24 * 32 * 4);                                                                       \
    end();
#define ENCODE(TYPE)                                                                             \
    begin("ggml_encode_" #TYPE);                                                                 \
    memset(made, 0, sizeof made);                                                                \
    ck_ggml_encode_##TYPE(level, floats, NULL, made, 5, 512), add(made, 5 * 512);                \
    ck_ggml_encode_##TYPE(level, floats, positive, made, 5, 512), add(made, 5 * 512);            \
    end();

static void ggml(int level) {
    memset(out, 0, sizeof out);
    DECODE(q4_0) DECODE(q4_1) DECODE(q5_0) DECODE(q5_1) DECODE(q8_0) DECODE(q2_K) DECODE(q3_K) DECODE(q4_K) DECODE(q5_K) DECODE(q6_K)
    DECODE(iq4_nl) DECODE(iq4_xs) DECODE(mxfp4) DECODE(nvfp4) DECODE(tq1_0) DECODE(tq2_0) DECODE(iq1_s) DECODE(iq1_m) DECODE(iq2_xxs)
    DECODE(iq2_xs) DECODE(iq2_s) DECODE(iq3_xxs) DECODE(iq3_s)
    ENCODE(q4_0) ENCODE(q4_1) ENCODE(q5_0) ENCODE(q5_1) ENCODE(q8_0) ENCODE(q2_K) ENCODE(q3_K) ENCODE(q4_K) ENCODE(q5_K) ENCODE(q6_K)
    ENCODE(iq4_nl) ENCODE(iq4_xs) ENCODE(mxfp4) ENCODE(nvfp4)
}

int main(int argc, char **argv) {
    if (argc < 2) {
        int best = ck_best_level();
        printf("%s\n", best == CK_AVX512 ? "0 2 3" : best == CK_AVX2 ? "0 2" : best == CK_NEON ? "0 1" : "0");
        return 0;
    }
    int level = atoi(argv[1]);
    inputs();
    eight_bits(level);
    integers(level);
    floating(level);
    products(level);
    ggml(level);
    return 0;
}
