// The gated delta rule, token by token: S = d S + k c^T with c = beta (v - d S^T k), then o = S^T q.
//
// Columns of S do not meet, so a tile of columns goes through all tokens by itself and stays in the
// first-level cache. Writing the state for one token also gathers what the next token recalls: each
// token costs one pass over the tile, and one token alone reads the state from memory once.
#include <math.h>

#include "simd.h"
#include "threads.h"

namespace {

struct Head {  // one head of one sequence; `_step` is the distance between two tokens
    const float *q, *k, *v, *g, *beta, *before;
    float *after, *out, *corrections;  // corrections: of the only token, or null
    long T, K, V, key_step, value_step, gate_step;
};

INLINE float load_as(const float* p, float) { return *p; }
INLINE Vec load_as(const float* p, Vec) { return load(p); }
INLINE void store_as(float* p, float v) { *p = v; }
INLINE void store_as(float* p, Vec v) { store(p, v); }

// C lanes (vectors or single floats) of columns, starting at `column`.
template <class Lane, int C>
void columns(const Head& h, long column) {
    constexpr long width = sizeof(Lane) / sizeof(float);
    const float* from = h.before + column;
    float* to = h.after + column;

    Lane recalled[C] = {};
    for (long i = 0; i < h.K; i++)
        for (int c = 0; c < C; c++) recalled[c] += h.k[i] * load_as(from + i * h.V + c * width, Lane{});

    for (long t = 0; t < h.T; t++) {
        const float *q = h.q + t * h.key_step, *k = h.k + t * h.key_step;
        const float* next_k = t + 1 < h.T ? k + h.key_step : k;  // of the last token: gathered in vain
        float decay = expf(h.g[t * h.gate_step]), beta = h.beta[t * h.gate_step];
        Lane correction[C], out[C] = {}, next[C] = {};
        for (int c = 0; c < C; c++) {
            Lane value = load_as(h.v + t * h.value_step + column + c * width, Lane{});
            correction[c] = (value - decay * recalled[c]) * beta;
        }
        for (long i = 0; i < h.K; i++)
            for (int c = 0; c < C; c++) {
                Lane s = load_as(from + i * h.V + c * width, Lane{}) * decay + k[i] * correction[c];
                store_as(to + i * h.V + c * width, s);
                out[c] += q[i] * s;
                next[c] += next_k[i] * s;
            }
        for (int c = 0; c < C; c++) {
            store_as(h.out + t * h.value_step + column + c * width, out[c]);
            if (h.corrections) store_as(h.corrections + column + c * width, correction[c]);
            recalled[c] = next[c];
        }
        from = to;
    }
}

}  // namespace

// q, k [B, T, G, K], v and out [B, T, H, V], g and beta [B, T, H], states [B, H, K, V]; contiguous.
// `before` and `after` may be the same. corrections [B, H, V] or null, for T = 1.
EXPORT void delta(ForkJoin fork_join, int threads, const float* q, const float* k, const float* v,
                  const float* g, const float* beta, const float* before, float* after, float* out,
                  float* corrections, long B, long T, long G, long H, long K, long V) {
    parallel(fork_join, worth(threads, 4 * B * T * H * K * V), B * H, [=](long i) {
        long b = i / H, h = i % H;
        long keys = (b * T * G + h / (H / G)) * K, values = (b * T * H + h) * V, gates = b * T * H + h;
        Head head = {q + keys, k + keys, v + values, g + gates, beta + gates, before + i * K * V,
                     after + i * K * V, out + values, corrections ? corrections + i * V : nullptr,
                     T, K, V, G * K, H * V, H};
        long column = 0;
        for (; column + 4 * W <= V; column += 4 * W) columns<Vec, 4>(head, column);
        for (; column + W <= V; column += W) columns<Vec, 1>(head, column);
        for (; column < V; column++) columns<float, 1>(head, column);
    });
}
