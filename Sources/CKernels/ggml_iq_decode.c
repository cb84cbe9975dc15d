// ggml's types of one to three bits, to F32: a code names a point of a grid, the signs come from elsewhere. Coordinates become values by
// arithmetic rather than by look-up, so that the loops are vectors.
#include "ggml_block.h"
#include "ggml_grids.h"

/// Seven signs are stored, the eighth makes their number even.
CK_BODY unsigned even_signs(uint32_t seven) { return (seven & 127) | (unsigned)__builtin_parity(seven & 127) << 7; }

/// The magnitudes of IQ2's coordinates 0, 1, 2 are 8, 25, 43.
CK_BODY void iq2_point(unsigned point, unsigned signs, float scale, float *restrict values) {
    for (unsigned j = 0; j < 8; j++) {
        unsigned c = (point >> 2 * j) & 3;
        values[j] = scale * (float)(int)(8 + 17 * c + (c >> 1)) * ((signs >> j) & 1 ? -1.0f : 1.0f);
    }
}

CK_BODY void iq2_xxs_values(const uint8_t *restrict block, float *restrict values) {
    float d = half_at(block);
    for (int group = 0; group < 8; group++) {
        const uint8_t *points = block + 2 + group * 8;
        uint32_t rest = long_at(points + 4);
        float scale = d * (0.5f + (float)(rest >> 28)) * 0.25f;
        for (int l = 0; l < 4; l++) iq2_point(ck_grid_iq2_xxs[points[l]], even_signs(rest >> 7 * l), scale, values + group * 32 + l * 8);
    }
}

CK_BODY void iq2_xs_values(const uint8_t *restrict block, float *restrict values) {
    float d = half_at(block);
    for (int i = 0; i < 32; i++) {
        float scale = d * (0.5f + (float)(block[66 + i / 4] >> i % 4 / 2 * 4 & 15)) * 0.25f;
        uint32_t code = word_at(block + 2 + i * 2);
        iq2_point(ck_grid_iq2_xs[code & 511], even_signs(code >> 9), scale, values + i * 8);
    }
}

CK_BODY void iq2_s_values(const uint8_t *restrict block, float *restrict values) {
    float d = half_at(block);
    const uint8_t *points = block + 2, *signs = block + 34, *upper = block + 66, *scales = block + 74;
    for (int i = 0; i < 32; i++) {
        float scale = d * (0.5f + (float)(scales[i / 4] >> i % 4 / 2 * 4 & 15)) * 0.25f;
        unsigned code = points[i] | (unsigned)(upper[i / 4] >> i % 4 * 2 & 3) << 8;
        iq2_point(ck_grid_iq2_s[code], signs[i], scale, values + i * 8);
    }
}

/// IQ3_XXS's magnitudes are 4, 12, ..., 52, 62 for the coordinates 0 ... 7.
CK_BODY void iq3_xxs_values(const uint8_t *restrict block, float *restrict values) {
    float d = half_at(block);
    const uint8_t *points = block + 2;
    for (int group = 0; group < 8; group++) {
        uint32_t rest = long_at(block + 66 + group * 4);
        float scale = d * (0.5f + (float)(rest >> 28)) * 0.5f;
        for (int l = 0; l < 4; l++) {
            unsigned signs = even_signs(rest >> 7 * l), at = (unsigned)(group * 8 + l * 2);
            uint32_t both = ck_grid_iq3_xxs[points[at]] | (uint32_t)ck_grid_iq3_xxs[points[at + 1]] << 12;
            float *eight = values + group * 32 + l * 8;
            for (unsigned j = 0; j < 8; j++) {
                unsigned c = (both >> 3 * j) & 7;
                eight[j] = scale * (float)(int)(4 + 8 * c + (c == 7 ? 2 : 0)) * ((signs >> j) & 1 ? -1.0f : 1.0f);
            }
        }
    }
}

/// IQ3_S's are the odd numbers.
CK_BODY void iq3_s_values(const uint8_t *restrict block, float *restrict values) {
    float d = half_at(block);
    const uint8_t *points = block + 2, *ninth = block + 66, *signs = block + 74, *scales = block + 106;
    for (int i = 0; i < 32; i++) {
        float scale = d * (float)(1 + 2 * (scales[i / 8] >> i / 4 % 2 * 4 & 15));
        unsigned high = (unsigned)ninth[i / 4] >> i % 4 * 2;
        uint32_t both = ck_grid_iq3_s[points[2 * i] | (high & 1) << 8] | (uint32_t)ck_grid_iq3_s[points[2 * i + 1] | (high & 2) << 7] << 12;
        for (unsigned j = 0; j < 8; j++)
            values[i * 8 + (int)j] = scale * (float)(int)(1 + 2 * ((both >> 3 * j) & 7)) * ((signs[i] >> j) & 1 ? -1.0f : 1.0f);
    }
}

/// Two points of IQ1: their coordinates -1, 0, 1 are shifted by an eighth, up or (the flag) down.
CK_BODY void iq1_points(unsigned code, int down, unsigned other_code, int other_down, float scale, float *values) {
    const lane_words places = {0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30};
    const lane_ints second = {0, 0, 0, 0, 0, 0, 0, 0, -1, -1, -1, -1, -1, -1, -1, -1};
    uint32_t both = ck_grid_iq1[code] | (uint32_t)ck_grid_iq1[other_code] << 16;
    lanes coordinates = __builtin_convertvector((lane_ints)(((lane_words){0} + both) >> places & 3) - 1, lanes);
    lanes shift = pick(second, every(other_down ? -0.125f : 0.125f), every(down ? -0.125f : 0.125f));
    store_lanes(values, scale * (coordinates + shift));
}

CK_BODY void iq1_s_values(const uint8_t *restrict block, float *restrict values) {
    float d = half_at(block);
    for (int group = 0; group < 8; group++) {
        const uint8_t *points = block + 2 + group * 4;
        unsigned rest = word_at(block + 34 + group * 2);
        float scale = d * (float)(int)(2 * ((rest >> 12) & 7) + 1);
        int down = (rest & 0x8000) != 0;
        for (int l = 0; l < 4; l += 2)
            iq1_points(points[l] | ((rest >> 3 * l) & 7) << 8, down, points[l + 1] | ((rest >> (3 * l + 3)) & 7) << 8, down, scale,
                       values + group * 32 + l * 8);
    }
}

/// The block's scale is spread over the upper nibbles of four words, which hold four 3-bit scales each below.
CK_BODY void iq1_m_values(const uint8_t *restrict block, float *restrict values) {
    const uint8_t *upper = block + 32, *scales = block + 48;
    unsigned spread = 0;
    for (int w = 0; w < 4; w++) spread |= (unsigned)(word_at(scales + 2 * w) >> 12) << 4 * w;
    float d = from_half((uint16_t)spread);
    for (int i = 0; i < 16; i++) {
        float scale = d * (float)(2 * (word_at(scales + i / 4 * 2) >> i % 4 * 3 & 7) + 1);
        unsigned high = upper[i];
        iq1_points(block[2 * i] | (high & 7) << 8, (high & 8) != 0, block[2 * i + 1] | (high & 0x70) << 4, (high & 0x80) != 0, scale,
                   values + i * 16);
    }
}

CK_GGML_DECODER(iq1_s, CK_GGML_IQ1_S_BYTES, CK_GGML_IQ1_S_VALUES)
CK_GGML_DECODER(iq1_m, CK_GGML_IQ1_M_BYTES, CK_GGML_IQ1_M_VALUES)
CK_GGML_DECODER(iq2_xxs, CK_GGML_IQ2_XXS_BYTES, CK_GGML_IQ2_XXS_VALUES)
CK_GGML_DECODER(iq2_xs, CK_GGML_IQ2_XS_BYTES, CK_GGML_IQ2_XS_VALUES)
CK_GGML_DECODER(iq2_s, CK_GGML_IQ2_S_BYTES, CK_GGML_IQ2_S_VALUES)
CK_GGML_DECODER(iq3_xxs, CK_GGML_IQ3_XXS_BYTES, CK_GGML_IQ3_XXS_VALUES)
CK_GGML_DECODER(iq3_s, CK_GGML_IQ3_S_BYTES, CK_GGML_IQ3_S_VALUES)
