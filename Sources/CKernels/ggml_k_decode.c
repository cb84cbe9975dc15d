// ggml's K types, from blocks of 256 to F32.
#include "ggml_block.h"
#include "ggml_k.h"

CK_BODY void q2_K_values(const uint8_t *restrict block, float *restrict values) {
    const uint8_t *codes = block + 16;
    float d = half_at(block + 80), m = half_at(block + 82);
    for (int group = 0; group < 16; group++) {
        float scale = d * (float)(block[group] & 15), least = m * (float)(block[group] >> 4);
        const uint8_t *q = codes + group / 8 * 32 + group % 2 * 16;
        int shift = group / 2 % 4 * 2;
        for (int i = 0; i < 16; i++) values[group * 16 + i] = scale * (float)((q[i] >> shift) & 3) - least;
    }
}

CK_BODY void q3_K_values(const uint8_t *restrict block, float *restrict values) {
    const uint8_t *high = block, *codes = block + 32;
    float d = half_at(block + 108);
    for (int group = 0; group < 16; group++) {
        float scale = d * (float)q3_K_scale(block + 96, group);
        const uint8_t *q = codes + group / 8 * 32 + group % 2 * 16, *h = high + group % 2 * 16;
        int shift = group / 2 % 4 * 2, bit = group / 2;
        for (int i = 0; i < 16; i++) values[group * 16 + i] = scale * (float)(((q[i] >> shift) & 3) + ((h[i] >> bit) & 1) * 4 - 4);
    }
}

CK_BODY void q4_K_values(const uint8_t *restrict block, float *restrict values) {
    float d = half_at(block), m = half_at(block + 2);
    const uint8_t *codes = block + 16;
    for (int pair = 0; pair < 4; pair++, codes += 32, values += 64) {
        float scale = d * (float)k_scale(block + 4, 2 * pair), least = m * (float)k_minimum(block + 4, 2 * pair);
        for (int i = 0; i < 32; i++) values[i] = scale * (float)(codes[i] & 15) - least;
        scale = d * (float)k_scale(block + 4, 2 * pair + 1), least = m * (float)k_minimum(block + 4, 2 * pair + 1);
        for (int i = 0; i < 32; i++) values[32 + i] = scale * (float)(codes[i] >> 4) - least;
    }
}

CK_BODY void q5_K_values(const uint8_t *restrict block, float *restrict values) {
    float d = half_at(block), m = half_at(block + 2);
    const uint8_t *fifth = block + 16, *codes = block + 48;
    for (int pair = 0; pair < 4; pair++, codes += 32, values += 64) {
        float scale = d * (float)k_scale(block + 4, 2 * pair), least = m * (float)k_minimum(block + 4, 2 * pair);
        for (int i = 0; i < 32; i++) values[i] = scale * (float)((codes[i] & 15) + ((fifth[i] >> 2 * pair) & 1) * 16) - least;
        scale = d * (float)k_scale(block + 4, 2 * pair + 1), least = m * (float)k_minimum(block + 4, 2 * pair + 1);
        for (int i = 0; i < 32; i++) values[32 + i] = scale * (float)((codes[i] >> 4) + ((fifth[i] >> (2 * pair + 1)) & 1) * 16) - least;
    }
}

CK_BODY void q6_K_values(const uint8_t *restrict block, float *restrict values) {
    float d = half_at(block + 208);
    for (int group = 0; group < 16; group++) {
        float scale = d * (float)(int8_t)block[192 + group];
        // A half of 128 values: 64 bytes of lower nibbles (values 0 to 63 in the low ones), 32 bytes of four upper pairs of bits.
        int quarter = group / 2 % 4, column = group % 2 * 16;
        const uint8_t *low = block + group / 8 * 64 + quarter % 2 * 32 + column, *high = block + 128 + group / 8 * 32 + column;
        int nibble = quarter / 2 * 4, pair = quarter * 2;
        for (int i = 0; i < 16; i++)
            values[group * 16 + i] = scale * (float)((((low[i] >> nibble) & 15) | ((high[i] >> pair) & 3) << 4) - 32);
    }
}

CK_GGML_DECODER(q2_K, CK_GGML_Q2_K_BYTES, CK_GGML_Q2_K_VALUES)
CK_GGML_DECODER(q3_K, CK_GGML_Q3_K_BYTES, CK_GGML_Q3_K_VALUES)
CK_GGML_DECODER(q4_K, CK_GGML_Q4_K_BYTES, CK_GGML_Q4_K_VALUES)
CK_GGML_DECODER(q5_K, CK_GGML_Q5_K_BYTES, CK_GGML_Q5_K_VALUES)
CK_GGML_DECODER(q6_K, CK_GGML_Q6_K_BYTES, CK_GGML_Q6_K_VALUES)
