// y = x W^T for float32 activations and bf16 weights, sums in float32.
//
// A few tokens: bound by memory. Every weight is read once and widened in registers. The R rows that
// are multiplied together lie a share of the part apart, not side by side: each is then one long
// stream of addresses, which the hardware prefetcher follows across rows (22 -> 30 GB/s measured on
// Zen 3; software prefetch only cost).
//
// Many tokens: bound by arithmetic. The same products, four tokens at a time, over parts that stay in
// the second-level cache until all tokens have met them. Neither widening blocks of weights for a
// float32 GEMM nor cutting K into blocks was faster.
#include "simd.h"
#include "threads.h"

namespace {

constexpr long STREAMED_BYTES = 768 << 10;  // weights of a part that is read once
constexpr long CACHED_BYTES = 192 << 10;    // weights of a part that is read once per four tokens
constexpr long ROWS = 12;                   // a part is a multiple of every R used below

// R rows of W, `stride` rows apart, against T rows of x. The R * T sums stay in registers.
template <int R, int T>
void dots(const bf16* w, long stride, const float* x, float* y, long N, long K) {
    Vec sums[R][T] = {};
    long k = 0;
    for (; k + W <= K; k += W) {
        Vec rows[R];
        for (int r = 0; r < R; r++) rows[r] = load(w + r * stride * K + k);
        for (int t = 0; t < T; t++) {
            Vec values = load(x + t * K + k);
            for (int r = 0; r < R; r++) sums[r][t] += rows[r] * values;
        }
    }
    for (int r = 0; r < R; r++)
        for (int t = 0; t < T; t++) {
            float total = sum(sums[r][t]);
            for (long j = k; j < K; j++) total += widen(w[r * stride * K + j]) * x[t * K + j];
            y[t * N + r * stride] = total;
        }
}

// `count` rows of W against T rows of x.
template <int R, int T>
void rows(const bf16* w, long count, const float* x, float* y, long N, long K) {
    long stride = count / R;
    for (long n = 0; n < stride; n++) dots<R, T>(w + n * K, stride, x, y + n, N, K);
    for (long n = stride * R; n < count; n++) dots<1, T>(w + n * K, 1, x, y + n, N, K);
}

}  // namespace

// w [N, K] bf16, x [T, K], y [T, N]; all contiguous.
EXPORT void linear(ForkJoin fork_join, int threads, const bf16* w, const float* x, float* y, long T,
                   long N, long K) {
    long part = (T <= 4 ? STREAMED_BYTES : CACHED_BYTES) / (2 * K) / ROWS * ROWS;
    long even = (N / (4 * threads) + ROWS - 1) / ROWS * ROWS;  // small matrices: parts for all
    if (part > even) part = even;
    if (part < ROWS) part = ROWS;
    parallel(fork_join, worth(threads, T * N * K), (N + part - 1) / part, [=](long i) {
        long n = i * part, count = N - n < part ? N - n : part;
        for (long t = 0, take; t < T; t += take) {
            const float* from = x + t * K;
            float* to = y + t * N + n;
            long left = T - t;
            take = left == 5 || left == 6 ? 3 : left < 4 ? left : 4;  // 3 + 3 beats 4 + 2
            switch (take) {
                case 1: rows<4, 1>(w + n * K, count, from, to, N, K); break;
                case 2: rows<4, 2>(w + n * K, count, from, to, N, K); break;
                case 3: rows<3, 3>(w + n * K, count, from, to, N, K); break;
                case 4: rows<3, 4>(w + n * K, count, from, to, N, K); break;
            }
        }
    });
}
