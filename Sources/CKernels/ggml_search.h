// The searches for scales that several of ggml's types share. Each lane searches for a group of values of its own, `x[i]` holding value i
// of all sixteen; what ggml adds up over a group is added up here in the same order, step by step.
#ifndef CK_GGML_SEARCH_H
#define CK_GGML_SEARCH_H

#include "ggml_block.h"

/// Below this a group counts as zeros.
#define CK_NOTHING 1e-15f

// MARK: A scale and a minimum

/// What a search found: value ~ scale * code + minimum, the codes being nearest(inverse * (value - base)). A flat lane has codes 0.
typedef struct { lanes scale, minimum, inverse, base; } affine_fit;

CK_BODY lanes affine_code(lanes x, lanes inverse, lanes base, int greatest) { return nearest(inverse * (x - base), 0.0f, (float)greatest); }

/// Tries `count` widths of the code range, first + step * i more than `greatest`; for the codes of each, the best scale and minimum follow
/// by least squares, and stay if the error falls. The range then begins at that minimum for the later tries, so they depend on each other.
CK_BODY void fit_affine(const lanes *x, const lanes *weights, int n, int greatest, float first, float step, int count, int absolute,
                        affine_fit *fit) {
    lanes least = x[0], most = x[0], sum_w = weights[0], sum_x = weights[0] * x[0];
    for (int i = 1; i < n; i++) {
        least = pick(x[i] < least, x[i], least);
        most = pick(x[i] > most, x[i], most);
        sum_w += weights[i];
        sum_x += weights[i] * x[i];
    }
    least = pick(least > 0.0f, every(0.0f), least);
    lane_ints flat = most <= least;
    lanes inverse = (float)greatest / (most - least), scale = 1.0f / inverse, base = least, chosen = inverse, best = every(0.0f);
    for (int i = 0; i < n; i++) {
        lanes miss = scale * affine_code(x[i], inverse, least, greatest) + least - x[i];
        best += weights[i] * (absolute ? magnitude(miss) : miss * miss);
    }
    for (int trial = 0; trial < count; trial++) {
        lanes codes[32];
        inverse = (first + step * (float)trial + (float)greatest) / (most - least);
        lanes sum_l = every(0.0f), sum_ll = every(0.0f), sum_xl = every(0.0f);
        for (int i = 0; i < n; i++) {
            lanes l = affine_code(x[i], inverse, least, greatest), wl = weights[i] * l;
            codes[i] = l;
            sum_l += wl;
            sum_ll += wl * l;
            sum_xl += wl * x[i];
        }
        lanes determinant = sum_w * sum_ll - sum_l * sum_l;
        lanes its_scale = (sum_w * sum_xl - sum_x * sum_l) / determinant, its_least = (sum_ll * sum_x - sum_l * sum_xl) / determinant;
        lane_ints above = its_least > 0.0f;
        its_scale = pick(above, sum_xl / sum_ll, its_scale);
        its_least = pick(above, every(0.0f), its_least);
        lanes error = every(0.0f);
        for (int i = 0; i < n; i++) {
            lanes miss = its_scale * codes[i] + its_least - x[i];
            error += weights[i] * (absolute ? magnitude(miss) : miss * miss);
        }
        lane_ints better = (determinant > 0.0f) & (error < best);
        best = pick(better, error, best);
        scale = pick(better, its_scale, scale);
        chosen = pick(better, inverse, chosen);
        base = pick(better, least, base);
        least = pick(better, its_least, least);
    }
    fit->scale = pick(flat, every(0.0f), scale);
    fit->minimum = least;
    fit->inverse = pick(flat, every(0.0f), chosen);
    fit->base = pick(flat, every(0.0f), base);
}

// MARK: A scale with a sign

/// The codes are nearest(inverse * value) + half, or all 0 where there is nothing.
typedef struct { lanes scale, inverse; lane_ints nothing; } symmetric_fit;

/// Tries the scale that takes the largest value to code -half and 18 around it: for the codes of each the best scale follows.
CK_BODY void fit_symmetric(const lanes *x, const lanes *weights, int n, int half, symmetric_fit *fit) {
    lanes size = every(0.0f), most = every(0.0f);
    lanes wx[32];
    for (int i = 0; i < n; i++) {
        lane_ints larger = magnitude(x[i]) > size;
        size = pick(larger, magnitude(x[i]), size);
        most = pick(larger, x[i], most);
        wx[i] = weights[i] * x[i];
    }
    fit->nothing = size < CK_NOTHING;
    lanes scale = every(0.0f), chosen = every(0.0f), best = every(0.0f);
    for (int trial = 0; trial < 19; trial++) {
        // 0 -9 ... -1 1 ... 9
        int offset = trial == 0 ? 0 : trial < 10 ? trial - 10 : trial - 9;
        lanes inverse = (trial ? -((float)half + 0.1f * (float)offset) : (float)-half) / most;
        lanes sum_xl = every(0.0f), sum_ll = every(0.0f);
        for (int i = 0; i < n; i++) {
            lanes l = nearest(inverse * x[i], (float)-half, (float)(half - 1));
            sum_xl += wx[i] * l;
            sum_ll += weights[i] * l * l;
        }
        if (trial == 0) {
            scale = pick(sum_ll != 0.0f, sum_xl / sum_ll, every(0.0f));
            chosen = inverse;
            best = scale * sum_xl;
        } else {
            lane_ints better = (sum_ll > 0.0f) & (sum_xl * sum_xl > best * sum_ll);
            lanes its_scale = sum_xl / sum_ll;
            scale = pick(better, its_scale, scale);
            chosen = pick(better, inverse, chosen);
            best = pick(better, its_scale * sum_xl, best);
        }
    }
    fit->scale = pick(fit->nothing, every(0.0f), scale);
    fit->inverse = chosen;
}

/// One code of such a fit.
CK_BODY lanes symmetric_code(lanes x, lanes inverse, lane_ints nothing, int half) {
    return pick(nothing, every(0.0f), nearest(inverse * x, (float)-half, (float)(half - 1)) + (float)half);
}

// MARK: Coordinate descent

/// One pass over the codes: each moves to the code that is best for the others' scale if that raises sum_xl^2 / sum_ll, which the squared
/// error falls with. Codes are kept in a byte: `byte` says that a negative one wraps around. Returns whether any moved.
CK_BODY int descend(const lanes *x, const lanes *wx, const lanes *weights, int n, float low, float high, int byte, lanes *codes, lanes *sum_xl,
                    lanes *sum_ll) {
    lane_ints moved = {0};
    for (int i = 0; i < n; i++) {
        lanes xl = *sum_xl - wx[i] * codes[i], ll = *sum_ll - weights[i] * codes[i] * codes[i];
        lane_ints valid = byte ? (xl > 0.0f) & (ll > 0.0f) : xl > 0.0f;
        lanes l = nearest(x[i] * ll / xl, low, high);
        lane_ints other = l != codes[i];
        xl += wx[i] * l;
        ll += weights[i] * l * l;
        if (!byte) valid &= ll > 0.0f;
        lane_ints better = valid & other & (xl * xl * *sum_ll > *sum_xl * *sum_xl * ll);
        lanes kept = byte ? __builtin_convertvector(__builtin_convertvector(l, lane_ints) & 255, lanes) : l;
        codes[i] = pick(better, kept, codes[i]);
        *sum_xl = pick(better, xl, *sum_xl);
        *sum_ll = pick(better, ll, *sum_ll);
        moved |= better;
    }
    return any(moved);
}

enum { DESCENTS = 5, LOWEST = -0x400000 };

/// The scales of a block's groups as codes 0 ... greatest of one scale, which is returned. A negative scale's code wraps around.
CK_BODY lanes fit_scales(const lanes *x, const lanes *weights, int n, int greatest, lanes *codes) {
    lanes most = every(0.0f), wx[16];
    for (int i = 0; i < n; i++) {
        most = pick(most > x[i], most, x[i]);
        wx[i] = weights[i] * x[i];
    }
    lane_ints nothing = most < CK_NOTHING;
    lanes best = every(0.0f), chosen = every(0.0f);
    for (int trial = 0; trial < 9; trial++) {
        // 0 -4 ... -1 1 ... 4
        int offset = trial == 0 ? 0 : trial < 5 ? trial - 5 : trial - 4;
        lanes inverse = (trial ? 0.1f * (float)offset + (float)greatest : (float)greatest) / most, scale = 1.0f / inverse, error = every(0.0f);
        for (int i = 0; i < n; i++) {
            lanes l = nearest(inverse * x[i], LOWEST, trial ? (float)greatest : (float)-(LOWEST + 1));
            if (trial == 0) l = __builtin_convertvector(__builtin_convertvector(l, lane_ints) & 255, lanes);
            lanes miss = x[i] - scale * l;
            error += weights[i] * miss * miss;
        }
        lane_ints better = error < best;
        if (trial == 0) better = ~(lane_ints){0};
        best = pick(better, error, best);
        chosen = pick(better, inverse, chosen);
    }
    lanes sum_xl = every(0.0f), sum_ll = every(0.0f);
    for (int i = 0; i < n; i++) {
        lanes l = nearest(chosen * x[i], LOWEST, (float)greatest);
        codes[i] = __builtin_convertvector(__builtin_convertvector(l, lane_ints) & 255, lanes);
        sum_xl += wx[i] * l;
        sum_ll += weights[i] * l * l;
    }
    for (int pass = 0; pass < DESCENTS; pass++)
        if (!descend(x, wx, weights, n, LOWEST, (float)greatest, 1, codes, &sum_xl, &sum_ll)) break;
    for (int i = 0; i < n; i++) codes[i] = pick(nothing, every(0.0f), codes[i]);
    return pick(nothing | ~(sum_ll > 0.0f), every(0.0f), sum_xl / sum_ll);
}

// MARK: Weights

/// Importance times the root of a mean square plus the value's own.
CK_BODY lanes weight_of(lanes importance, lanes mean_square, lanes x) { return importance * square_root(mean_square + x * x); }

/// Sums of squares of `n` values each, one after another.
CK_BODY lanes sums_of_squares(const float *const *source, size_t n) {
    lanes sum = every(0.0f);
    for (size_t i = 0; i < n; i++) {
        float column[LANES];
        for (int t = 0; t < LANES; t++) column[t] = source[t][i];
        lanes x = load_lanes(column);
        sum += x * x;
    }
    return one_nan(sum);
}

#endif
