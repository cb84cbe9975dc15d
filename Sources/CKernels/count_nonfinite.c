// Values that are NaN or infinite, by stored type. One loop a width, simple enough for the compiler to vectorise.
#include "CKernels.h"
#include "scalar.h"

size_t ck_bf16_count_nonfinite(const uint16_t *source, size_t count) { return ck_count_masked16(source, count, 0x7F80); }

size_t ck_count_masked8(const uint8_t *source, size_t count, uint8_t mask) {
    size_t found = 0;
    for (size_t i = 0; i < count; i++) found += (source[i] & mask) == mask;
    return found;
}

size_t ck_count_masked16(const uint16_t *source, size_t count, uint16_t mask) {
    size_t found = 0;
    for (size_t i = 0; i < count; i++) found += (source[i] & mask) == mask;
    return found;
}

size_t ck_count_masked32(const uint32_t *source, size_t count, uint32_t mask) {
    size_t found = 0;
    for (size_t i = 0; i < count; i++) found += (source[i] & mask) == mask;
    return found;
}

size_t ck_count_masked64(const uint64_t *source, size_t count, uint64_t mask) {
    size_t found = 0;
    for (size_t i = 0; i < count; i++) found += (source[i] & mask) == mask;
    return found;
}

size_t ck_count_above16(const uint16_t *source, size_t count, uint16_t limit) {
    size_t found = 0;
    for (size_t i = 0; i < count; i++) found += source[i] > limit;
    return found;
}

size_t ck_count_above32(const uint32_t *source, size_t count, uint32_t limit) {
    size_t found = 0;
    for (size_t i = 0; i < count; i++) found += source[i] > limit;
    return found;
}
