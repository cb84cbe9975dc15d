// How the K types pack the 6-bit scales of their groups into 12 bytes.
#ifndef CK_GGML_K_H
#define CK_GGML_K_H

#include "ggml_block.h"

/// Eight scales and eight minima. The first four of each have bytes of their own; the upper two bits of those hold the upper bits of
/// the last four, whose lower nibbles share the last four bytes.
CK_BODY int k_scale(const uint8_t *packed, int group) {
    return group < 4 ? packed[group] & 63 : (packed[group + 4] & 15) | packed[group - 4] >> 6 << 4;
}

CK_BODY int k_minimum(const uint8_t *packed, int group) {
    return group < 4 ? packed[group + 4] & 63 : packed[group + 4] >> 4 | packed[group] >> 6 << 4;
}

CK_BODY void k_pack_scales(const uint8_t *scales, const uint8_t *minima, uint8_t *packed) {
    for (int g = 0; g < 4; g++) {
        packed[g] = (uint8_t)(scales[g] | scales[g + 4] >> 4 << 6);
        packed[g + 4] = (uint8_t)(minima[g] | minima[g + 4] >> 4 << 6);
        packed[g + 8] = (uint8_t)((scales[g + 4] & 15) | (minima[g + 4] & 15) << 4);
    }
}

/// Sixteen scales less 32: lower nibbles in eight bytes, upper pairs of bits in the last four.
CK_BODY int q3_K_scale(const uint8_t *packed, int group) {
    return ((packed[group % 8] >> group / 8 * 4 & 15) | (packed[8 + group % 4] >> group / 4 * 2 & 3) << 4) - 32;
}

/// `codes` are the scales plus 32.
CK_BODY void q3_K_pack_scales(const uint8_t *codes, uint8_t *packed) {
    for (int g = 0; g < 8; g++) packed[g] = (uint8_t)((codes[g] & 15) | (codes[g + 8] & 15) << 4);
    for (int g = 0; g < 4; g++)
        packed[8 + g] = (uint8_t)(codes[g] >> 4 | codes[g + 4] >> 4 << 2 | codes[g + 8] >> 4 << 4 | codes[g + 12] >> 4 << 6);
}

#endif
