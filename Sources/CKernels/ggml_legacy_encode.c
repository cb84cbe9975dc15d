// F32 to ggml's blocks of 32 (see ggml_legacy.c). Without importance a block's scale is that of its largest value; sixteen values are a
// vector. With importance scales are searched for, sixteen blocks at a time.
#include "ggml_search.h"

// MARK: Ranges

/// Signed integers in the order of the numbers.
CK_BODY lane_ints order_of(lane_ints bits) { return bits ^ ((bits >> 31) & 0x7FFFFFFF); }

CK_BODY void range_of(const float *values, float *least, float *most) {
    lane_ints a = order_of((lane_ints)load_lanes(values)), b = order_of((lane_ints)load_lanes(values + LANES));
    int32_t low = __builtin_reduce_min(smaller_of(a, b)), high = __builtin_reduce_max(larger_of(a, b));
    *least = ck_float((uint32_t)(low ^ ((low >> 31) & 0x7FFFFFFF)));
    *most = ck_float((uint32_t)(high ^ ((high >> 31) & 0x7FFFFFFF)));
    // Of zeros with both signs, ggml takes the first.
    if (*least == 0.0f)
        for (int j = 0; j < 2 * LANES; j++)
            if (values[j] == 0.0f) {
                *least = values[j];
                break;
            }
}

// MARK: Codes

/// The whole part, at most `greatest`; 0 for what has none: where a scale's reciprocal is infinite or a value is, ggml's conversion
/// of infinity and NaN to a byte is 0 on x86-64, which is what its files hold.
CK_BODY lane_ints whole_part(lanes x, int greatest) {
    lanes inside = pick((x > 0.0f) & (x < 256.0f), x, every(0.0f));
    return smaller_of(__builtin_convertvector(inside, lane_ints), (lane_ints){0} + greatest);
}

CK_BODY uint32_t gather_bits(lane_ints bits) {
    const lane_ints places = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    return (uint32_t)__builtin_reduce_or(bits << places);
}

CK_BODY void put_codes(uint8_t *codes, lane_ints low, lane_ints high) {
    store_bytes(codes, __builtin_convertvector((low & 15) | (high & 15) << 4, lane_bytes));
}

CK_BODY void put_long(uint8_t *p, uint32_t v) { for (int i = 0; i < 4; i++) p[i] = (uint8_t)(v >> 8 * i); }

/// What a scale is divided by; a scale of zero makes every code the code of zero.
CK_BODY float reciprocal(float d) { return d != 0.0f ? 1.0f / d : 0.0f; }

CK_BODY void symmetric_block(const float *values, uint8_t *block, int bits) {
    float half = (float)(1 << (bits - 1));
    float d = first_largest(values) / -half, inverse = reciprocal(d);
    put_half(block, d);
    lane_ints low = whole_part(load_lanes(values) * inverse + (half + 0.5f), 2 * (int)half - 1);
    lane_ints high = whole_part(load_lanes(values + LANES) * inverse + (half + 0.5f), 2 * (int)half - 1);
    if (bits == 5) put_long(block + 2, gather_bits(low >> 4) | gather_bits(high >> 4) << 16);
    put_codes(block + (bits == 5 ? 6 : 2), low, high);
}

CK_BODY void affine_block(const float *values, uint8_t *block, int bits) {
    int greatest = (1 << bits) - 1;
    float least, most;
    range_of(values, &least, &most);
    float d = (most - least) / (float)greatest, inverse = reciprocal(d);
    put_half(block, d);
    put_half(block + 2, least);
    lane_ints low = whole_part((load_lanes(values) - least) * inverse + 0.5f, greatest);
    lane_ints high = whole_part((load_lanes(values + LANES) - least) * inverse + 0.5f, greatest);
    if (bits == 5) put_long(block + 4, gather_bits(low >> 4) | gather_bits(high >> 4) << 16);
    put_codes(block + (bits == 5 ? 8 : 4), low, high);
}

/// Rounds halves away from zero: adding the number below a half makes a half whole, and nothing less.
CK_BODY lane_ints round_away(lanes x) {
    lanes half = (lanes)(((lane_ints)x & INT32_MIN) | 0x3EFFFFFF);
    x = pick(magnitude(x) < 256.0f, x + half, every(0.0f));
    return __builtin_convertvector(x, lane_ints);
}

CK_BODY void q8_0_block(const float *values, uint8_t *block) {
    lane_ints a = (lane_ints)load_lanes(values) & 0x7FFFFFFF, b = (lane_ints)load_lanes(values + LANES) & 0x7FFFFFFF;
    float d = ck_float((uint32_t)__builtin_reduce_max(larger_of(a, b))) / 127.0f, inverse = reciprocal(d);
    put_half(block, d);
    store_bytes(block + 2, __builtin_convertvector(round_away(load_lanes(values) * inverse), lane_bytes));
    store_bytes(block + 2 + LANES, __builtin_convertvector(round_away(load_lanes(values + LANES) * inverse), lane_bytes));
}

// MARK: Searches

CK_BODY void searched_rows(const float *values, const float *importance, uint8_t *blocks, size_t rows, size_t columns, int bits, int affine) {
    size_t across = columns / 32, bytes = (affine ? 4u : 2u) + (bits == 5 ? 4u : 0u) + 16u;
    int greatest = (1 << bits) - 1, half = 1 << (bits - 1);
    for (size_t first = 0; first < rows; first += LANES) {
        size_t some = rows - first < LANES ? rows - first : LANES;
        const float *row[LANES];
        for (size_t t = 0; t < LANES; t++) row[t] = values + (first + (t < some ? t : 0)) * columns;
        float mean_squares[LANES];
        store_lanes(mean_squares, sums_of_squares(row, columns) / (float)columns);
        for (size_t start = 0; start < some * across; start += LANES) {
            size_t count = some * across - start < LANES ? some * across - start : LANES;
            const float *sources[LANES], *factors[LANES];
            float squares[LANES];
            for (size_t t = 0; t < LANES; t++) {
                size_t index = start + (t < count ? t : 0);
                sources[t] = values + first * columns + index * 32;
                factors[t] = importance + index % across * 32;
                squares[t] = mean_squares[index / across];
            }
            lanes x[32], weights[32], scale, least = every(0.0f), codes[32];
            transpose_lanes(sources, 32, x);
            transpose_lanes(factors, 32, weights);
            for (int i = 0; i < 32; i++) weights[i] = weight_of(weights[i], load_lanes(squares), x[i]);
            if (affine) {
                affine_fit fit;
                fit_affine(x, weights, 32, greatest, -0.9f, 0.05f, 37, 0, &fit);
                for (int i = 0; i < 32; i++) codes[i] = affine_code(x[i], fit.inverse, fit.base, greatest);
                scale = fit.scale;
                least = fit.minimum;
            } else {
                symmetric_fit fit;
                fit_symmetric(x, weights, 32, half, &fit);
                for (int i = 0; i < 32; i++) codes[i] = symmetric_code(x[i], fit.inverse, fit.nothing, half);
                scale = fit.scale;
            }
            uint8_t nibbles[16][LANES];
            lane_words fifth = {0};
            for (int j = 0; j < 16; j++) {
                lane_ints low = __builtin_convertvector(codes[j], lane_ints), high = __builtin_convertvector(codes[j + 16], lane_ints);
                put_codes(nibbles[j], low, high);
                fifth |= (lane_words)(low >> 4) << j | (lane_words)(high >> 4) << (j + 16);
            }
            for (size_t t = 0; t < count; t++) {
                uint8_t *block = blocks + (first * across + start + t) * bytes;
                put_half(block, scale[t]);
                if (affine) put_half(block + 2, least[t]);
                if (bits == 5) put_long(block + (affine ? 4 : 2), fifth[t]);
                for (int j = 0; j < 16; j++) block[bytes - 16 + (size_t)j] = nibbles[j][t];
            }
        }
    }
}

#define CK_LEGACY_ENCODER(TYPE, BLOCK, BITS, AFFINE, BYTES)                                                                      \
    CK_BODY void TYPE##_encoder(const float *values, const float *importance, uint8_t *blocks, size_t rows, size_t columns) {    \
        if (importance) searched_rows(values, importance, blocks, rows, columns, BITS, AFFINE);                                  \
        else for (size_t i = 0; i < rows * (columns / 32); i++) BLOCK(values + i * 32, blocks + i * (BYTES), BITS);              \
    }                                                                                                                            \
    CK_GGML_ENCODER(TYPE)

CK_LEGACY_ENCODER(q4_0, symmetric_block, 4, 0, CK_GGML_Q4_0_BYTES)
CK_LEGACY_ENCODER(q4_1, affine_block, 4, 1, CK_GGML_Q4_1_BYTES)
CK_LEGACY_ENCODER(q5_0, symmetric_block, 5, 0, CK_GGML_Q5_0_BYTES)
CK_LEGACY_ENCODER(q5_1, affine_block, 5, 1, CK_GGML_Q5_1_BYTES)

CK_BODY void q8_0_encoder(const float *values, const float *importance, uint8_t *blocks, size_t rows, size_t columns) {
    (void)importance;
    for (size_t i = 0; i < rows * (columns / 32); i++) q8_0_block(values + i * 32, blocks + i * CK_GGML_Q8_0_BYTES);
}
CK_GGML_ENCODER(q8_0)
