// F32 to Q2_K, Q4_K and Q5_K: groups of 16 or 32 values with a scale and a minimum each, which are codes of 4 or 6 bits themselves.
// Sixteen blocks are searched together: first their groups, a lane each; then, with importance, the scales of their scales.
#include "ggml_k.h"
#include "ggml_search.h"

enum { BATCH = LANES, GROUPS = 16 };

/// What the searches found for up to sixteen blocks: [group][block].
typedef struct { float scale[GROUPS][BATCH], least[GROUPS][BATCH], weight[GROUPS][BATCH], inverse[GROUPS][BATCH], base[GROUPS][BATCH]; } found;

CK_BODY void search_groups(const float *values, const float *importance, size_t start, size_t across, size_t count, int bits, found *all) {
    int size = bits == 2 ? 16 : 32, groups = 256 / size, together = LANES / groups, greatest = (1 << bits) - 1;
    float mean_squares[BATCH] = {0};
    if (importance) {
        const float *block[BATCH];
        for (size_t b = 0; b < BATCH; b++) block[b] = values + (b < count ? b : 0) * 256;
        lanes sums = sums_of_squares(block, 256);
        store_lanes(mean_squares, (bits == 2 ? sums : 2.0f * sums) / 256.0f);
    }
    for (size_t b = 0; b < count; b += (size_t)together) {
        const float *sources[LANES], *factors[LANES];
        float squares[LANES];
        for (size_t t = 0; t < LANES; t++) {
            size_t which = b + t / (size_t)groups < count ? b + t / (size_t)groups : b, offset = t % (size_t)groups * (size_t)size;
            sources[t] = values + which * 256 + offset;
            factors[t] = importance ? importance + (start + which) % across * 256 + offset : sources[t];
            squares[t] = mean_squares[which];
        }
        lanes x[32], weights[32], weight = every(0.0f);
        affine_fit fit;
        transpose_lanes(sources, size, x);
        if (importance) {
            transpose_lanes(factors, size, weights);
            for (int i = 0; i < size; i++) {
                weights[i] = weight_of(weights[i], load_lanes(squares), x[i]);
                weight += weights[i];
            }
            fit_affine(x, weights, size, greatest, -0.9f, 0.05f, 37, 0, &fit);
        } else if (bits == 2) {
            for (int i = 0; i < size; i++) weights[i] = magnitude(x[i]);
            fit_affine(x, weights, size, greatest, -0.5f, 0.1f, 16, 1, &fit);
        } else {
            lanes sum = every(0.0f);
            for (int i = 0; i < size; i++) sum += x[i] * x[i];
            lanes root = square_root(sum / 32.0f);
            for (int i = 0; i < size; i++) weights[i] = root + magnitude(x[i]);
            fit_affine(x, weights, size, greatest, bits == 4 ? -1.0f : -0.5f, 0.1f, bits == 4 ? 21 : 16, 0, &fit);
        }
        for (int t = 0; t < LANES && b + (size_t)(t / groups) < count; t++) {
            size_t which = b + (size_t)(t / groups);
            int group = t % groups;
            all->scale[group][which] = fit.scale[t];
            all->least[group][which] = fit.minimum[t];
            all->weight[group][which] = weight[t];
            all->inverse[group][which] = fit.inverse[t];
            all->base[group][which] = fit.base[t];
        }
    }
}

/// Codes of a block's scales or (with `sign` -1) minima, without importance: the largest one gets the greatest code.
CK_BODY float scale_codes(const float (*of)[BATCH], size_t b, int groups, float sign, int greatest, uint8_t *codes) {
    float most = 0.0f;
    for (int g = 0; g < groups; g++) if (sign * of[g][b] > most) most = sign * of[g][b];
    float inverse = most > 0.0f ? (float)greatest / most : 0.0f;
    for (int g = 0; g < groups; g++) {
        uint8_t code = (uint8_t)nearest_integer(inverse * (sign * of[g][b]));
        codes[g] = greatest == 63 && code > 63 ? 63 : code;
    }
    return most > 0.0f ? most / (float)greatest : 0.0f;
}

/// The values' codes for the scales as they will be read. Where a scale is zero, those of the search stay.
CK_BODY void value_codes(const float *values, size_t b, int bits, const found *all, float d, float m, const uint8_t *scales,
                         const uint8_t *minima, uint8_t *codes) {
    int size = bits == 2 ? 16 : 32;
    float greatest = (float)((1 << bits) - 1);
    for (int g = 0; g < 256 / size; g++) {
        float scale = d * (float)scales[g], least = m * (float)minima[g];
        for (int i = g * size; i < (g + 1) * size; i += LANES) {
            lanes x = one_nan(load_lanes(values + i));
            lanes code = scale != 0.0f ? nearest((x + least) / scale, 0.0f, greatest)
                                       : affine_code(x, every(all->inverse[g][b]), every(all->base[g][b]), (int)greatest);
            store_bytes(codes + i, bytes_of(code));
        }
    }
}

CK_BODY void affine_blocks(const float *values, const float *importance, uint8_t *blocks, size_t rows, size_t columns, int bits) {
    size_t across = columns / 256, total = rows * across;
    size_t bytes = bits == 2 ? CK_GGML_Q2_K_BYTES : bits == 4 ? CK_GGML_Q4_K_BYTES : CK_GGML_Q5_K_BYTES;
    int groups = bits == 2 ? 16 : 8, greatest = bits == 2 ? 15 : 63;
    for (size_t start = 0; start < total; start += BATCH, values += BATCH * 256) {
        size_t count = total - start < BATCH ? total - start : BATCH;
        found all = {0};
        search_groups(values, importance, start, across, count, bits, &all);

        lanes scale_code[GROUPS], minimum_code[GROUPS], scale = every(0.0f), minimum = every(0.0f);
        if (importance) {
            lanes scales[GROUPS], minima[GROUPS], weights[GROUPS];
            for (int g = 0; g < groups; g++) {
                scales[g] = load_lanes(all.scale[g]);
                minima[g] = -load_lanes(all.least[g]);
                weights[g] = load_lanes(all.weight[g]);
            }
            scale = fit_scales(scales, weights, groups, greatest, scale_code);
            minimum = fit_scales(minima, weights, groups, greatest, minimum_code);
        }

        for (size_t b = 0; b < count; b++, blocks += bytes) {
            uint8_t scales[GROUPS], minima[GROUPS], codes[256];
            float d, m;
            if (importance) {
                d = scale[b];
                m = minimum[b];
                for (int g = 0; g < groups; g++) {
                    scales[g] = (uint8_t)(int)scale_code[g][b];
                    minima[g] = (uint8_t)(int)minimum_code[g][b];
                    if (bits == 5 && scales[g] > 63) scales[g] = 63;
                    if (bits == 5 && minima[g] > 63) minima[g] = 63;
                }
            } else {
                d = scale_codes(all.scale, b, groups, 1.0f, greatest, scales);
                m = scale_codes(all.least, b, groups, -1.0f, greatest, minima);
            }
            uint16_t halves[2] = {to_half(d), to_half(m)};
            if (bits == 2) {
                for (int g = 0; g < groups; g++) {
                    blocks[g] = (uint8_t)(scales[g] | minima[g] << 4);
                    scales[g] = blocks[g] & 15;
                    minima[g] = blocks[g] >> 4;
                }
            } else {
                k_pack_scales(scales, minima, blocks + 4);
                for (int g = 0; g < groups; g++) {
                    scales[g] = (uint8_t)k_scale(blocks + 4, g);
                    minima[g] = (uint8_t)k_minimum(blocks + 4, g);
                }
            }
            put_word(blocks + (bits == 2 ? 80 : 0), halves[0]);
            put_word(blocks + (bits == 2 ? 82 : 2), halves[1]);
            value_codes(values + b * 256, b, bits, &all, from_half(halves[0]), from_half(halves[1]), scales, minima, codes);

            if (bits == 2) {
                for (int h = 0; h < 2; h++)
                    for (int i = 0; i < 32; i++) {
                        const uint8_t *c = codes + h * 128 + i;
                        blocks[16 + h * 32 + i] = (uint8_t)(c[0] | c[32] << 2 | c[64] << 4 | c[96] << 6);
                    }
            } else {
                uint8_t *low = blocks + bytes - 128;
                for (int pair = 0; pair < 4; pair++)
                    for (int i = 0; i < 32; i++)
                        low[pair * 32 + i] = (uint8_t)((codes[pair * 64 + i] & 15) | codes[pair * 64 + 32 + i] << 4);
                if (bits == 5)
                    for (int i = 0; i < 32; i++) {
                        unsigned fifth = 0;
                        for (int g = 0; g < 8; g++) fifth |= (unsigned)(codes[g * 32 + i] >> 4) << g;
                        blocks[16 + i] = (uint8_t)fifth;
                    }
            }
        }
    }
}

#define CK_AFFINE_ENCODER(TYPE, BITS)                                                                                         \
    CK_BODY void TYPE##_encoder(const float *values, const float *importance, uint8_t *blocks, size_t rows, size_t columns) { \
        if (importance) affine_blocks(values, importance, blocks, rows, columns, BITS);                                       \
        else affine_blocks(values, NULL, blocks, rows, columns, BITS);                                                        \
    }                                                                                                                         \
    CK_GGML_ENCODER(TYPE)

CK_AFFINE_ENCODER(q2_K, 2)
CK_AFFINE_ENCODER(q4_K, 4)
CK_AFFINE_ENCODER(q5_K, 5)
