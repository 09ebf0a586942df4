// What several ops do with one row of floats.
#pragma once

#include <math.h>

#include "simd.h"

INLINE float sum_of_squares(const float* x, long D) {
    Vec sums[4] = {};
    long i = 0;
    for (; i + 4 * W <= D; i += 4 * W)
        for (int j = 0; j < 4; j++) {
            Vec v = load(x + i + j * W);
            sums[j] += v * v;
        }
    float total = sum((sums[0] + sums[1]) + (sums[2] + sums[3]));
    for (; i < D; i++) total += x[i] * x[i];
    return total;
}

INLINE float inverse_rms(const float* x, long D, float eps) {
    return 1.0f / sqrtf(sum_of_squares(x, D) / D + eps);
}

// y = w * x / rms(x) * silu(gate); x and y may be the same.
INLINE void gated_norm(const float* x, const float* gate, const float* w, float* y, long D, float eps) {
    float scale = inverse_rms(x, D, eps);
    for (long j = 0; j < D; j += W) {
        long n = D - j < W ? D - j : W;
        Vec normed = load_some(x + j, n) * scale;
        store_some(y + j, load_some(w + j, n) * normed * silu(load_some(gate + j, n)), n);
    }
}
