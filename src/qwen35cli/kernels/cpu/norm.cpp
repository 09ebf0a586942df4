// Root-mean-square norms of float32 rows: one pass for the mean square, one to scale.
#include "ops.h"
#include "rows.h"

namespace {

constexpr long PART = 16 << 10;  // floats per part: fewer are not worth a second thread

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
