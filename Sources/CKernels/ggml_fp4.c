// ggml's blocks of E2M1 codes: MXFP4 (32 values, an E8M0 scale) and NVFP4 (4 groups of 16, an E4M3 scale without sign each). ggml doubles
// the codes to whole numbers and halves the scales.
#include "ggml_block.h"

/// Half of 2^(code - 127). 255 is no NaN here.
CK_BODY float half_e8m0(uint8_t code) { return ck_float(code < 2 ? 0x00200000u << code : (uint32_t)(code - 1) << 23); }

/// Half of the E4M3 value; NaN's code is zero, and the upper half, which no encoder writes, has the magnitudes of the lower one.
CK_BODY float half_ue4m3(uint8_t code) {
    if (code == 0x7F) return 0.0f;
    unsigned exponent = (code >> 3) & 15, mantissa = code & 7;
    return exponent ? ck_float((exponent + 119) << 23 | mantissa << 20) : (float)(int)mantissa * 0x1p-10f;
}

/// Twice the values of E2M1 codes: 0 1 2 3 4 6 8 12 and, with 8 more, their negatives. The code of negative zero loses its sign.
CK_BODY lanes doubled(lane_bytes codes) {
    lane_ints code = __builtin_convertvector(codes, lane_ints), m = code & 7;
    m -= (m > 4) + (m > 5) + 3 * (m > 6);
    lane_ints sign = code > 7;
    return __builtin_convertvector((m ^ sign) - sign, lanes);
}

CK_BODY void mxfp4_values(const uint8_t *block, float *values) {
    float d = half_e8m0(block[0]);
    lane_bytes pairs = load_bytes(block + 1);
    store_lanes(values, doubled(pairs & 15) * d);
    store_lanes(values + LANES, doubled(pairs >> 4) * d);
}

CK_BODY void nvfp4_values(const uint8_t *block, float *values) {
    for (int group = 0; group < 4; group++) {
        uint8_t codes[LANES];
        for (int j = 0; j < 8; j++) {
            codes[j] = block[4 + group * 8 + j] & 15;
            codes[8 + j] = block[4 + group * 8 + j] >> 4;
        }
        store_lanes(values + group * 16, doubled(load_bytes(codes)) * half_ue4m3(block[group]));
    }
}

CK_GGML_DECODER(mxfp4, CK_GGML_MXFP4_BYTES, CK_GGML_MXFP4_VALUES)
CK_GGML_DECODER(nvfp4, CK_GGML_NVFP4_BYTES, CK_GGML_NVFP4_VALUES)

// MARK: Encoding

/// The nearest code for scale `d`, the smaller magnitude in the middle of two and no negative zero.
CK_BODY lane_ints nearest_codes(lanes x, float d) {
    static const float middles[7] = {0.5f, 1.5f, 2.5f, 3.5f, 5.0f, 7.0f, 10.0f};
    lane_ints code = {0};
    for (int k = 0; k < 7; k++) code -= magnitude(x) > middles[k] * d;
    return code | (((x < 0.0f) & (code > 0)) & 8);
}

/// The same by comparing ggml's rounded differences one after another: where they lose the code's part, or a code's value is infinite, the
/// first code of the least difference is not the nearest.
CK_BODY lane_ints first_codes(lanes x, float d) {
    static const float twice[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};
    lane_ints code = {0};
    lanes least = magnitude(0.0f * d - x);
    for (int k = 1; k < 16; k++) {
        lanes miss = magnitude(twice[k] * d - x);
        lane_ints less = miss < least;
        least = pick(less, miss, least);
        code = (less & k) | (~less & code);
    }
    return code;
}

/// Whether differences are exact where two codes are equally near. The largest value is 12 to 16 d where the scale is its own.
CK_BODY int exact(float largest, float d) { return largest <= 1024.0f * d && d < 0x1p120f; }

/// floor(log2f(x)) of a positive number, log2f being rounded to nearest: just below a power of two 2^n that logarithm is n already, for
/// 2^s ln 2 units of the last place (of 24 bits) when the numbers below n are 2^(s-23) apart.
CK_BODY int floor_log2(float x) {
    uint32_t u = ck_bits(x), m = (u & 0x007FFFFF) | 0x00800000;
    int exponent = (int)(u >> 23) - 127;
    if (u < 0x00800000) {
        int shift = __builtin_clz(u) - 8;
        m = u << shift;
        exponent = -126 - shift;
    }
    uint32_t missing = 0x01000000 - m;
    if (missing > 128) return exponent;
    int n = exponent + 1, size = n < 0 ? -n : n;
    if (size < 2) return exponent;
    int s = 31 - __builtin_clz((unsigned)size);
    if (n > 0 && (size & (size - 1)) == 0) s--;
    return missing <= (45426u << s) >> 16 ? n : exponent;
}

CK_BODY void mxfp4_block(const float *values, uint8_t *block) {
    lanes low = load_lanes(values), high = load_lanes(values + LANES);
    float largest = fabsf(first_largest(values));
    // The smallest values' exponents wrap around, and infinity has none.
    uint8_t code = largest > 0.0f && largest <= 0x1.FFFFFEp127f ? (uint8_t)(floor_log2(largest) + 125) : 0;
    float d = half_e8m0(code);
    block[0] = code;
    lane_ints a, b;
    if (exact(largest, d)) {
        a = nearest_codes(low, d);
        b = nearest_codes(high, d);
    } else {
        a = first_codes(low, d);
        b = first_codes(high, d);
    }
    store_bytes(block + 1, __builtin_convertvector(a | b << 4, lane_bytes));
}

/// The E4M3 code of a scale; halves of the last place round up, and from 248 on it is 448's.
CK_BODY uint8_t scale_code(float x) {
    if (!(x > 0.0f)) return 0;
    if (x > 448.0f) x = 448.0f;
    if (x < 0x1p-6f) {
        int code = (int)(x * 512.0f + 0.5f);
        return (uint8_t)(code > 7 ? 7 : code);
    }
    uint32_t code = ((ck_bits(x) + 0x80000u) >> 20) - (120u << 3);
    return (uint8_t)(code >= 0x78 ? 0x7E : code);
}

CK_BODY void nvfp4_block(const float *values, uint8_t *block) {
    for (int group = 0; group < 4; group++) {
        lanes x = load_lanes(values + group * 16);
        lane_ints sizes = (lane_ints)x & 0x7FFFFFFF;
        float largest = ck_float((uint32_t)__builtin_reduce_max(sizes & (sizes <= 0x7F800000)));
        uint8_t code = scale_code(largest / 6.0f), codes[LANES];
        float d = half_ue4m3(code);
        block[group] = code;
        store_bytes(codes, __builtin_convertvector(exact(largest, d) ? nearest_codes(x, d) : first_codes(x, d), lane_bytes));
        for (int j = 0; j < 8; j++) block[4 + group * 8 + j] = (uint8_t)(codes[j] | codes[8 + j] << 4);
    }
}

CK_BODY void mxfp4_encoder(const float *values, const float *importance, uint8_t *blocks, size_t rows, size_t columns) {
    (void)importance;
    for (size_t i = 0; i < rows * (columns / 32); i++) mxfp4_block(values + i * 32, blocks + i * CK_GGML_MXFP4_BYTES);
}

CK_BODY void nvfp4_encoder(const float *values, const float *importance, uint8_t *blocks, size_t rows, size_t columns) {
    (void)importance;
    for (size_t i = 0; i < rows * (columns / 64); i++) nvfp4_block(values + i * 64, blocks + i * CK_GGML_NVFP4_BYTES);
}

CK_GGML_ENCODER(mxfp4)
CK_GGML_ENCODER(nvfp4)
