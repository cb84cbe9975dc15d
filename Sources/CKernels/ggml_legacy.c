// ggml's blocks of 32: an F16 scale, perhaps an F16 minimum, the fifth bits, then value j beside value j + 16 in a byte.
#include "ggml_block.h"

// MARK: Decoding

/// Values 0 ... 15 from the low nibbles, 16 ... 31 from the high ones.
CK_BODY void nibbles(const uint8_t *codes, lane_ints *low, lane_ints *high) {
    lane_bytes pairs = load_bytes(codes);
    *low = __builtin_convertvector(pairs & 15, lane_ints);
    *high = __builtin_convertvector(pairs >> 4, lane_ints);
}

CK_BODY lane_ints fifth_bits(uint32_t bits) {
    const lane_ints places = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    return (((lane_ints){0} + (int32_t)(bits & 0xFFFF)) >> places & 1) << 4;
}

CK_BODY lanes numbers(lane_ints x) { return __builtin_convertvector(x, lanes); }

CK_BODY void q4_0_values(const uint8_t *block, float *values) {
    float d = half_at(block);
    lane_ints low, high;
    nibbles(block + 2, &low, &high);
    store_lanes(values, numbers(low - 8) * d);
    store_lanes(values + LANES, numbers(high - 8) * d);
}

CK_BODY void q4_1_values(const uint8_t *block, float *values) {
    float d = half_at(block), m = half_at(block + 2);
    lane_ints low, high;
    nibbles(block + 4, &low, &high);
    store_lanes(values, numbers(low) * d + m);
    store_lanes(values + LANES, numbers(high) * d + m);
}

CK_BODY void q5_0_values(const uint8_t *block, float *values) {
    float d = half_at(block);
    uint32_t fifth = long_at(block + 2);
    lane_ints low, high;
    nibbles(block + 6, &low, &high);
    store_lanes(values, numbers((low | fifth_bits(fifth)) - 16) * d);
    store_lanes(values + LANES, numbers((high | fifth_bits(fifth >> 16)) - 16) * d);
}

CK_BODY void q5_1_values(const uint8_t *block, float *values) {
    float d = half_at(block), m = half_at(block + 2);
    uint32_t fifth = long_at(block + 4);
    lane_ints low, high;
    nibbles(block + 8, &low, &high);
    store_lanes(values, numbers(low | fifth_bits(fifth)) * d + m);
    store_lanes(values + LANES, numbers(high | fifth_bits(fifth >> 16)) * d + m);
}

CK_BODY void q8_0_values(const uint8_t *restrict block, float *restrict values) {
    float d = half_at(block);
    for (int j = 0; j < 32; j++) values[j] = (float)(int8_t)block[2 + j] * d;
}

CK_GGML_DECODER(q4_0, CK_GGML_Q4_0_BYTES, CK_GGML_Q4_0_VALUES)
CK_GGML_DECODER(q4_1, CK_GGML_Q4_1_BYTES, CK_GGML_Q4_1_VALUES)
CK_GGML_DECODER(q5_0, CK_GGML_Q5_0_BYTES, CK_GGML_Q5_0_VALUES)
CK_GGML_DECODER(q5_1, CK_GGML_Q5_1_BYTES, CK_GGML_Q5_1_VALUES)
CK_GGML_DECODER(q8_0, CK_GGML_Q8_0_BYTES, CK_GGML_Q8_0_VALUES)
