// Root-mean-square norms of float32 rows: one pass for the mean square, one to scale.
#include <math.h>

#include "simd.h"
#include "threads.h"

namespace {

constexpr long PART = 16 << 10;  // floats per part: fewer are not worth a second thread

INLINE float inverse_rms(const float* x, long D, float eps) {
    Vec sums[4] = {};
    long i = 0;
    for (; i + 4 * W <= D; i += 4 * W)
        for (int j = 0; j < 4; j++) {
            Vec v = load(x + i + j * W);
            sums[j] += v * v;
        }
    float total = sum((sums[0] + sums[1]) + (sums[2] + sums[3]));
    for (; i < D; i++) total += x[i] * x[i];
    return 1.0f / sqrtf(total / D + eps);
}

}  // namespace

// y = x / rms(x) * (1 + w); x and y [rows, D], w [D] bf16.
EXPORT void rms_norm(ForkJoin fork_join, int threads, const float* x, const bf16* w, float* y,
                     long rows, long D, float eps) {
    long part = (PART + D - 1) / D;
    parallel(fork_join, threads, (rows + part - 1) / part, [=](long i) {
        long last = (i + 1) * part < rows ? (i + 1) * part : rows;
        for (long row = i * part; row < last; row++) {
            const float* from = x + row * D;
            float* to = y + row * D;
            float scale = inverse_rms(from, D, eps);
            long j = 0;
            for (; j + W <= D; j += W) store(to + j, load(from + j) * scale * (1.0f + load(w + j)));
            for (; j < D; j++) to[j] = from[j] * scale * (1.0f + widen(w[j]));
        }
    });
}

// y = w * x / rms(x) * silu(gate); x, gate and y [rows, D], w [D] float32.
EXPORT void gated_rms_norm(ForkJoin fork_join, int threads, const float* x, const float* gate,
                           const float* w, float* y, long rows, long D, float eps) {
    long part = (PART + D - 1) / D;
    parallel(fork_join, threads, (rows + part - 1) / part, [=](long i) {
        long last = (i + 1) * part < rows ? (i + 1) * part : rows;
        for (long row = i * part; row < last; row++) {
            const float *from = x + row * D, *gates = gate + row * D;
            float* to = y + row * D;
            float scale = inverse_rms(from, D, eps);
            for (long j = 0; j < D; j += W) {
                long n = D - j < W ? D - j : W;
                Vec normed = load_some(from + j, n) * scale;
                store_some(to + j, load_some(w + j, n) * normed * silu(load_some(gates + j, n)), n);
            }
        }
    });
}
