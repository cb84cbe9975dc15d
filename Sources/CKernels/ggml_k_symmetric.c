// F32 to Q3_K and Q6_K: sixteen groups of 16 values with a signed scale each, a code of 6 or 8 bits. A lane searches for a group's scale;
// with importance, a lane also searches for the scale of a Q3_K block's scales, for sixteen blocks together.
#include "ggml_k.h"
#include "ggml_search.h"

enum { BATCH = LANES, GROUPS = 16 };

/// Q3_K without importance: the codes for the largest value, then each moved where that lowers the error.
CK_BODY lanes descend_groups(const lanes *x, lanes *codes) {
    lanes size = every(0.0f), most = every(0.0f), weights[16], wx[16], sum_xl = every(0.0f), sum_ll = every(0.0f);
    for (int i = 0; i < 16; i++) {
        lane_ints larger = magnitude(x[i]) > size;
        size = pick(larger, magnitude(x[i]), size);
        most = pick(larger, x[i], most);
    }
    lane_ints nothing = size < CK_NOTHING;
    lanes inverse = -4.0f / most;
    for (int i = 0; i < 16; i++) {
        weights[i] = x[i] * x[i];
        wx[i] = weights[i] * x[i];
        codes[i] = nearest(inverse * x[i], -4.0f, 3.0f);
        sum_xl += wx[i] * codes[i];
        sum_ll += weights[i] * codes[i] * codes[i];
    }
    for (int pass = 0; pass < DESCENTS; pass++)
        if (!descend(x, wx, weights, 16, -4.0f, 3.0f, 0, codes, &sum_xl, &sum_ll)) break;
    for (int i = 0; i < 16; i++) codes[i] = pick(nothing, every(0.0f), codes[i] + 4.0f);
    return pick(nothing | ~(sum_ll > 0.0f), every(0.0f), sum_xl / sum_ll);
}

/// The scale of largest magnitude, the first of those.
CK_BODY float largest_scale(const float *scales) {
    float size = 0.0f, most = 0.0f;
    for (int g = 0; g < GROUPS; g++)
        if (fabsf(scales[g]) > size) {
            size = fabsf(scales[g]);
            most = scales[g];
        }
    return most;
}

/// The values' codes for the scales as they will be read; where one is zero, those of the search stay.
CK_BODY void recode(const float *values, float d, const int *scales, int half, uint8_t *codes) {
    for (int g = 0; g < GROUPS; g++) {
        float scale = d * (float)scales[g];
        if (scale == 0.0f) continue;
        lanes code = nearest(one_nan(load_lanes(values + g * 16)) / scale, (float)-half, (float)(half - 1));
        store_bytes(codes + g * 16, bytes_of(code + (float)half));
    }
}

/// codes[t * 16 + i] = x[i][t]
CK_BODY void put_lanes(const lanes *x, uint8_t *codes) {
    for (int i = 0; i < 16; i++) {
        uint8_t row[LANES];
        store_bytes(row, bytes_of(x[i]));
        for (int t = 0; t < LANES; t++) codes[t * 16 + i] = row[t];
    }
}

CK_BODY void pack_q3_K(const float *values, uint8_t *block, uint16_t d, const uint8_t *scale_codes, uint8_t *codes) {
    int scales[GROUPS];
    if (scale_codes) q3_K_pack_scales(scale_codes, block + 96);
    else memset(block + 96, 0, 12);
    for (int g = 0; g < GROUPS; g++) scales[g] = q3_K_scale(block + 96, g);
    recode(values, from_half(d), scales, 4, codes);
    put_word(block + 108, d);
    for (int i = 0; i < 32; i++) {
        unsigned high = 0;
        for (int row = 0; row < 8; row++) high |= (unsigned)(codes[row * 32 + i] >> 2) << row;
        block[i] = (uint8_t)high;
    }
    for (int h = 0; h < 2; h++)
        for (int i = 0; i < 32; i++) {
            const uint8_t *c = codes + h * 128 + i;
            block[32 + h * 32 + i] = (uint8_t)((c[0] & 3) | (c[32] & 3) << 2 | (c[64] & 3) << 4 | (c[96] & 3) << 6);
        }
}

CK_BODY void group_sources(const float *values, const float **sources) {
    for (int t = 0; t < GROUPS; t++) sources[t] = values + t * 16;
}

CK_BODY void q3_K_plain_block(const float *values, uint8_t *block) {
    const float *sources[LANES];
    lanes x[16], found[16];
    float scales[GROUPS];
    uint8_t codes[256], scale_codes[GROUPS];
    group_sources(values, sources);
    transpose_lanes(sources, 16, x);
    store_lanes(scales, descend_groups(x, found));
    put_lanes(found, codes);
    float most = largest_scale(scales), inverse = -32.0f / most;
    for (int g = 0; g < GROUPS; g++) {
        int code = (int8_t)nearest_integer(inverse * scales[g]);
        scale_codes[g] = (uint8_t)((code < -32 ? -32 : code > 31 ? 31 : code) + 32);
    }
    if (most != 0.0f) pack_q3_K(values, block, to_half(1.0f / inverse), scale_codes, codes);
    else pack_q3_K(values, block, 0, NULL, codes);
}

CK_BODY void q3_K_searched(const float *values, const float *importance, uint8_t *blocks, size_t rows, size_t columns) {
    size_t across = columns / 256, total = rows * across;
    for (size_t start = 0; start < total; start += BATCH, values += BATCH * 256, blocks += BATCH * CK_GGML_Q3_K_BYTES) {
        size_t count = total - start < BATCH ? total - start : BATCH;
        const float *block[BATCH];
        for (size_t b = 0; b < BATCH; b++) block[b] = values + (b < count ? b : 0) * 256;
        float mean_squares[BATCH], scale[GROUPS][BATCH] = {{0}}, weight[GROUPS][BATCH] = {{0}};
        uint8_t codes[BATCH][256];
        store_lanes(mean_squares, 2.0f * sums_of_squares(block, 256) / 256.0f);
        for (size_t b = 0; b < count; b++) {
            const float *sources[LANES];
            lanes x[16], weights[16], sum = every(0.0f);
            symmetric_fit fit;
            group_sources(block[b], sources);
            transpose_lanes(sources, 16, x);
            group_sources(importance + (start + b) % across * 256, sources);
            transpose_lanes(sources, 16, weights);
            for (int i = 0; i < 16; i++) {
                weights[i] = weight_of(weights[i], every(mean_squares[b]), x[i]);
                sum += weights[i];
            }
            fit_symmetric(x, weights, 16, 4, &fit);
            for (int i = 0; i < 16; i++) x[i] = symmetric_code(x[i], fit.inverse, fit.nothing, 4);
            put_lanes(x, codes[b]);
            for (int g = 0; g < GROUPS; g++) {
                scale[g][b] = fit.scale[g];
                weight[g][b] = sum[g];
            }
        }
        lanes scales[GROUPS], weights[GROUPS];
        symmetric_fit fit;
        for (int g = 0; g < GROUPS; g++) {
            scales[g] = load_lanes(scale[g]);
            weights[g] = load_lanes(weight[g]);
        }
        fit_symmetric(scales, weights, GROUPS, 32, &fit);
        uint8_t scale_codes[GROUPS][BATCH];
        for (int g = 0; g < GROUPS; g++) store_bytes(scale_codes[g], bytes_of(symmetric_code(scales[g], fit.inverse, fit.nothing, 32)));
        for (size_t b = 0; b < count; b++) {
            uint8_t its[GROUPS];
            for (int g = 0; g < GROUPS; g++) its[g] = scale_codes[g][b];
            pack_q3_K(block[b], blocks + b * CK_GGML_Q3_K_BYTES, to_half(fit.scale[b]), its, codes[b]);
        }
    }
}

CK_BODY void q3_K_encoder(const float *values, const float *importance, uint8_t *blocks, size_t rows, size_t columns) {
    if (importance) q3_K_searched(values, importance, blocks, rows, columns);
    else for (size_t i = 0; i < rows * (columns / 256); i++) q3_K_plain_block(values + i * 256, blocks + i * CK_GGML_Q3_K_BYTES);
}

CK_BODY void q6_K_block(const float *values, const float *importance, uint8_t *block) {
    const float *sources[LANES];
    lanes x[16], weights[16];
    symmetric_fit fit;
    group_sources(values, sources);
    transpose_lanes(sources, 16, x);
    if (importance) {
        group_sources(importance, sources);
        transpose_lanes(sources, 16, weights);
    } else {
        for (int i = 0; i < 16; i++) weights[i] = x[i] * x[i];
    }
    fit_symmetric(x, weights, 16, 32, &fit);
    float found[GROUPS];
    store_lanes(found, fit.scale);
    float most = largest_scale(found);
    if (fabsf(most) < CK_NOTHING) {
        memset(block, 0, CK_GGML_Q6_K_BYTES);
        return;
    }
    float inverse = -128.0f / most;
    uint16_t d = to_half(1.0f / inverse);
    int scales[GROUPS], zero = 0;
    for (int g = 0; g < GROUPS; g++) {
        int code = nearest_integer(inverse * found[g]);
        scales[g] = (int8_t)(code < 127 ? code : 127);
        block[192 + g] = (uint8_t)scales[g];
        zero |= from_half(d) * (float)scales[g] == 0.0f;
    }
    uint8_t codes[256];
    if (zero) {
        for (int i = 0; i < 16; i++) x[i] = symmetric_code(x[i], fit.inverse, fit.nothing, 32);
        put_lanes(x, codes);
    }
    recode(values, from_half(d), scales, 32, codes);
    put_word(block + 208, d);
    for (int h = 0; h < 2; h++)
        for (int i = 0; i < 32; i++) {
            const uint8_t *c = codes + h * 128 + i;
            block[h * 64 + i] = (uint8_t)((c[0] & 15) | c[64] << 4);
            block[h * 64 + 32 + i] = (uint8_t)((c[32] & 15) | c[96] << 4);
            block[128 + h * 32 + i] = (uint8_t)(c[0] >> 4 | c[32] >> 4 << 2 | c[64] >> 4 << 4 | c[96] >> 4 << 6);
        }
}

CK_BODY void q6_K_encoder(const float *values, const float *importance, uint8_t *blocks, size_t rows, size_t columns) {
    size_t across = columns / 256;
    if (importance)
        for (size_t i = 0; i < rows * across; i++) q6_K_block(values + i * 256, importance + i % across * 256, blocks + i * CK_GGML_Q6_K_BYTES);
    else
        for (size_t i = 0; i < rows * across; i++) q6_K_block(values + i * 256, NULL, blocks + i * CK_GGML_Q6_K_BYTES);
}

CK_GGML_ENCODER(q3_K)
CK_GGML_ENCODER(q6_K)
