// y = x W^T for float32 activations and any weights; here the loops over bf16 weights, sums in float32,
// and what spreads the rows of all matrices of a call over the threads.
//
// A few tokens: bound by memory. Every weight is read once and widened in registers. The R rows that
// are multiplied together lie a share of the part apart, not side by side: each is then one long
// stream of addresses, which the hardware prefetcher follows across rows (22 -> 30 GB/s measured on
// Zen 3; software prefetch only cost).
//
// Many tokens: bound by arithmetic. The same products, four tokens at a time, over parts that stay in
// the second-level cache until all tokens have met them. Neither widening blocks of weights for a
// float32 GEMM nor cutting K into blocks was faster.
#include <stdlib.h>

#include "ops.h"

namespace {

constexpr long STREAMED_BYTES = 1024 << 10;  // weights of a part that is read once
constexpr long CACHED_BYTES = 192 << 10;    // weights of a part that is read once per few tokens

// R rows of W, `stride` rows apart, against T rows of x. The R * T sums stay in registers.
template <int R, int T>
void dots(const bf16* w, long stride, const float* x, float* y, long y_stride, long K) {
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
            y[t * y_stride + r * stride] = total;
        }
}

// `count` rows of W against T rows of x.
template <int R, int T>
void rows(const bf16* w, long count, const float* x, float* y, long y_stride, long K) {
    long stride = count / R;
    for (long n = 0; n < stride; n++) dots<R, T>(w + n * K, stride, x, y + n, y_stride, K);
    for (long n = stride * R; n < count; n++) dots<1, T>(w + n * K, 1, x, y + n, y_stride, K);
}

void bf16_rows(const Matrix& m, const Input& in, long first, long count, float* y, long stride) {
    const bf16* w = (const bf16*)m.codes + first * in.K;
    for (long t = 0, take; t < in.T; t += take, y += take * stride) {
        const float* x = in.x + t * in.K;
        long left = in.T - t;
        take = left == 5 || left == 6 ? 3 : left < 4 ? left : 4;  // 3 + 3 beats 4 + 2
        switch (take) {
            case 1: rows<4, 1>(w, count, x, y, stride, in.K); break;
            case 2: rows<4, 2>(w, count, x, y, stride, in.K); break;
            case 3: rows<3, 3>(w, count, x, y, stride, in.K); break;
            case 4: rows<3, 4>(w, count, x, y, stride, in.K); break;
        }
    }
}

void some_rows(const Matrix& m, const Input& in, long first, long count, float* y, long stride) {
    switch (m.kind) {
        case BF16: bf16_rows(m, in, first, count, y, stride); break;
        case INT4: int4_rows(m, in, first, count, y, stride); break;
        case INT8: int8_rows(m, in, first, count, y, stride); break;
        case NF4: nf4_rows(m, in, first, count, y, stride); break;
    }
}

long row_bytes(const Matrix& m, long K) {
    switch (m.kind) {
        case BF16: return 2 * K;
        case INT8: return K;
        default: return K / 2 + 2 * K / m.group + 1;
    }
}

// Rows that all kernels divide evenly into streams: a part is a multiple of it.
long unit(const Matrix& m) { return m.kind == INT4 ? 2 * W : 12; }

long lesser(long a, long b) { return a < b ? a : b; }
long ceiling(long a, long b) { return (a + b - 1) / b; }

}  // namespace

// y = x W^T for `count` matrices [N, K] and one input x [T, K]; all contiguous. With `swiglu` there are
// two, of one shape, and the y of the first becomes silu(its y) * y of the second.
EXPORT void project(ForkJoin fork_join, int threads, const Matrix* matrices, long count, const float* x,
                    long T, long K, int swiglu) {
    bool groups = false, blocks = false;
    long bytes = 0, products = 0;
    for (long i = 0; i < count; i++) {
        groups |= matrices[i].kind == INT4;
        blocks |= matrices[i].kind == INT8;
        bytes += matrices[i].N * row_bytes(matrices[i], K);
        products += T * matrices[i].N * K;
    }
    threads = worth(threads, products);

    Input in = {x, nullptr, nullptr, T, K};
    if (groups) in.groups = (Group*)malloc(T * ceiling(K, GROUP) * sizeof(Group));
    if (blocks) in.blocks = (Block*)aligned_alloc(64, T * ceiling(K, BLOCK) * sizeof(Block));
    auto round = [=](long t) {
        if (groups) round_groups(in, t);
        if (blocks) round_blocks(in, t);
    };
    if (groups || blocks) parallel(fork_join, T < CHUNK ? 1 : threads, T, round);

    // Small parts where the whole is small, so that all threads have some.
    long target = lesser(T <= CHUNK ? STREAMED_BYTES : CACHED_BYTES, bytes / (8 * threads));
    auto rows_of_part = [=](const Matrix& m) {
        long rows = unit(m), each = (swiglu ? 2 : 1) * row_bytes(m, K);
        if (swiglu && unit(matrices[1]) != rows) rows *= unit(matrices[1]);
        return target / (each * rows) > 1 ? target / (each * rows) * rows : rows;
    };
    if (swiglu) {
        const Matrix &gate = matrices[0], &up = matrices[1];
        long N = gate.N, part = rows_of_part(gate);
        parallel(fork_join, threads, ceiling(N, part), [=](long i) {
            long n = i * part, rows = lesser(N - n, part);
            float* other = (float*)malloc(T * rows * sizeof(float));
            some_rows(gate, in, n, rows, gate.y + n, N);
            some_rows(up, in, n, rows, other, rows);
            for (long t = 0; t < T; t++)
                for (long j = 0; j < rows; j += W) {
                    float* y = gate.y + t * N + n + j;
                    long some = lesser(rows - j, W);
                    store_some(y, silu(load_some(y, some)) * load_some(other + t * rows + j, some), some);
                }
            free(other);
        });
    } else {
        long parts = 0;
        for (long i = 0; i < count; i++) parts += ceiling(matrices[i].N, rows_of_part(matrices[i]));
        parallel(fork_join, threads, parts, [=](long i) {
            const Matrix* m = matrices;
            long part = rows_of_part(*m);
            for (; i >= ceiling(m->N, part); part = rows_of_part(*m)) {
                i -= ceiling(m->N, part);
                m++;
            }
            long n = i * part;
            some_rows(*m, in, n, lesser(m->N - n, part), m->y + n, m->N);
        });
    }
    free(in.groups);
    free(in.blocks);
}
