// Our own exponential: libm's differ between systems in their last bit, and the reference forward pass must not.
#include "CKernels.h"
#include "scalar.h"

void ck_exp(float *values, size_t count) {
    for (size_t i = 0; i < count; i++) {
        double x = values[i];
        // e^x = 2^n e^r with |r| <= ln 2 / 2; beyond these bounds F32 is 0 or infinite.
        double bounded = x < -110 ? -110 : x > 90 ? 90 : x;
        double n = (bounded * 1.4426950408889634 + 6755399441055744.0) - 6755399441055744.0;
        double r = (bounded - n * 0x1.62e42fefa0000p-1) - n * 0x1.cf79abc9e3b3ap-40;
        // Taylor's series to r^13 / 13!, below 2^-55 here.
        double e = 1.0 / 6227020800;
        e = e * r + 1.0 / 479001600;
        e = e * r + 1.0 / 39916800;
        e = e * r + 1.0 / 3628800;
        e = e * r + 1.0 / 362880;
        e = e * r + 1.0 / 40320;
        e = e * r + 1.0 / 5040;
        e = e * r + 1.0 / 720;
        e = e * r + 1.0 / 120;
        e = e * r + 1.0 / 24;
        e = e * r + 1.0 / 6;
        e = e * r + 0.5;
        e = e * r + 1.0;
        e = e * r + 1.0;
        uint64_t power = (uint64_t)((int64_t)n + 1023) << 52;
        double scale;
        memcpy(&scale, &power, 8);
        float result = (float)(e * scale);
        values[i] = x != x ? values[i] : result;
    }
}
