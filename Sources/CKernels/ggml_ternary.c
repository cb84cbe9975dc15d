// ggml's ternary blocks of 256, to F32.
#include "ggml_block.h"

/// A byte is a fraction in base 3 (of 256): times 3^n its whole part falls off, times 3 once more the next digit is the whole part.
CK_BODY void digits(const uint8_t *restrict bytes, int count, int digit, float d, float *restrict values) {
    static const uint8_t powers[5] = {1, 3, 9, 27, 81};
    for (int i = 0; i < count; i++) {
        unsigned fraction = (uint8_t)(bytes[i] * powers[digit]);
        values[i] = (float)((int)(fraction * 3 >> 8) - 1) * d;
    }
}

CK_BODY void tq1_0_values(const uint8_t *restrict block, float *restrict values) {
    float d = half_at(block + 52);
    for (int n = 0; n < 5; n++) digits(block, 32, n, d, values + n * 32);
    for (int n = 0; n < 5; n++) digits(block + 32, 16, n, d, values + 160 + n * 16);
    for (int n = 0; n < 4; n++) digits(block + 48, 4, n, d, values + 240 + n * 4);
}

CK_BODY void tq2_0_values(const uint8_t *restrict block, float *restrict values) {
    float d = half_at(block + 64);
    for (int half = 0; half < 2; half++)
        for (int n = 0; n < 4; n++)
            for (int i = 0; i < 32; i++) values[half * 128 + n * 32 + i] = (float)((block[half * 32 + i] >> 2 * n & 3) - 1) * d;
}

CK_GGML_DECODER(tq1_0, CK_GGML_TQ1_0_BYTES, CK_GGML_TQ1_0_VALUES)
CK_GGML_DECODER(tq2_0, CK_GGML_TQ2_0_BYTES, CK_GGML_TQ2_0_VALUES)
