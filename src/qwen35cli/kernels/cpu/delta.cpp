// A DeltaNet layer between its projections: convolution, SiLU, norms and gates, then the delta rule
// token by token, S = d S + k c^T with c = beta (v - d S^T k) and o = S^T q, and the gated norm.
//
// One part is a key head with its value heads: it needs no other part's channels, so one parallel
// region does it all. Columns of S do not meet, so a tile of columns goes through a block of tokens by
// itself and stays in the first-level cache. Writing the state for one token also gathers what the
// next token recalls: each token costs one pass over the tile, and one token alone reads the state
// from memory once.
//
// A step that may be taken back is not carried out: it leaves a log, and the next step begins with what
// is to stay of it. So the state is still read and written once, however many tokens go back.
#include <math.h>

#include "ops.h"
#include "rows.h"

namespace {

constexpr long TAPS = 4;            // width of the convolution
constexpr long SCRATCH = 24 << 10;  // floats on the stack of a part
constexpr long BLOCK = 32;          // tokens of a block
constexpr long LOGGED = 8;          // tokens of a log, at most
constexpr long TALLEST = 256;       // rows of a state
constexpr long TILE = TALLEST * 4 * W;

struct Layer {
    const float *qkv, *z, *a, *b;       // [B, T, C], [B, T, H, V], [B, T, H] twice
    const void *conv, *dt_bias;         // [C, TAPS], [H]; both bf16 or both float32
    const float *a_log, *norm;          // [H], [V]
    float *rows, *state, *y;            // [B, TAPS - 1, C], [B, H, K, V], [B, T, H, V]
    Log past, log;                      // carried out first, up to `kept` tokens; written instead, or null
    long kept, room;                    // room: tokens of a log
    long B, T, G, H, K, V;
    float eps;

    long share() const { return H / G; }                       // value heads of a key head
    long channels() const { return 2 * K + share() * V; }      // of a part
    long floats() const { return channels() + 2 * share(); }   // of a token: q, k, values, g, beta
};

struct Head {  // one value head over a block of tokens; `_step` is the distance between two tokens
    const float *q, *k, *v, *decay, *beta;
    float *state, *out, *corrections;  // corrections: or null, and then the state moves on
    long T, K, V, step, out_step;
    const float *past_k, *past_d, *past_decay;  // of `kept` tokens, `past_step` and `out_step` apart
    long kept, past_step;
};

INLINE float load_as(const float* p, float) { return *p; }
INLINE Vec load_as(const float* p, Vec) { return load(p); }
INLINE void store_as(float* p, float v) { *p = v; }
INLINE void store_as(float* p, Vec v) { store(p, v); }
INLINE float splat_as(float x, float) { return x; }
INLINE Vec splat_as(float x, Vec) { return splat(x); }

// What a token does to a number of the state: the same bits wherever it is done.
template <class Lane>
INLINE Lane updated(Lane s, float decay, float key, Lane correction) {
    return fused(s, splat_as(decay, Lane{}), splat_as(key, Lane{}) * correction);
}

// C lanes (vectors or single floats) of columns, starting at `column`. Rows of the state lie a power of
// two apart and would push each other out of the cache: between tokens the tile is kept elsewhere.
template <class Lane, int C>
void columns(const Head& h, long column) {
    constexpr long width = sizeof(Lane) / sizeof(float);
    const long K = h.K, V = h.V;
    float* state = h.state + column;
    alignas(64) float tile[TILE];

    Lane recalled[C] = {};
    for (long i = 0; i < K; i++)
        for (int c = 0; c < C; c++) {
            Lane s = load_as(state + i * V + c * width, Lane{});
            for (long j = 0; j < h.kept; j++)
                s = updated(s, h.past_decay[j], h.past_k[j * h.past_step + i],
                            load_as(h.past_d + j * h.out_step + column + c * width, Lane{}));
            if (h.kept) store_as(state + i * V + c * width, s);
            recalled[c] += h.k[i] * s;
            store_as(tile + (i * C + c) * width, s);
        }

    for (long t = 0; t < h.T; t++) {
        const float *q = h.q + t * h.step, *k = h.k + t * h.step;
        const float* next_k = t + 1 < h.T ? k + h.step : k;  // of the last token: gathered in vain
        float decay = h.decay[t * h.step], beta = h.beta[t * h.step];
        Lane correction[C], out[C] = {}, next[C] = {};
        for (int c = 0; c < C; c++) {
            Lane value = load_as(h.v + t * h.step + column + c * width, Lane{});
            correction[c] = (value - decay * recalled[c]) * beta;
        }
        if (t + 1 < h.T)
            for (long i = 0; i < K; i++)
                for (int c = 0; c < C; c++) {
                    float* at = tile + (i * C + c) * width;
                    Lane s = updated(load_as(at, Lane{}), decay, k[i], correction[c]);
                    store_as(at, s);
                    out[c] += q[i] * s;
                    next[c] += next_k[i] * s;
                }
        else
            for (long i = 0; i < K; i++) {
                // The columns to the right come next; past the last ones, the head that follows.
                __builtin_prefetch(state + i * V + C * width, 1, 3);
                if (C * width > 16) __builtin_prefetch(state + i * V + C * width + 16, 1, 3);
                float key = k[i], query = q[i];
                for (int c = 0; c < C; c++) {
                    Lane s = updated(load_as(tile + (i * C + c) * width, Lane{}), decay, key, correction[c]);
                    if (!h.corrections) store_as(state + i * V + c * width, s);
                    out[c] += query * s;
                }
            }
        for (int c = 0; c < C; c++) {
            store_as(h.out + t * h.out_step + column + c * width, out[c]);
            if (h.corrections) store_as(h.corrections + t * h.out_step + column + c * width, correction[c]);
            recalled[c] = next[c];
        }
    }
}

void remember(const Head& h) {
    long column = 0;
    for (; column + 4 * W <= h.V; column += 4 * W) columns<Vec, 4>(h, column);
    for (; column + W <= h.V; column += W) columns<Vec, 1>(h, column);
    for (; column < h.V; column++) columns<float, 1>(h, column);
}

// Taps of `count` channels, one row of `taps` per tap.
template <class Stored>
void read_taps(const Stored* conv, long count, float* taps, long step) {
    for (long c = 0; c < count; c++)
        for (long j = 0; j < TAPS; j++) taps[j * step + c] = widen(conv[c * TAPS + j]);
}

// One token of `count` channels: `now[j]` is the input under tap j.
void convolve(const float* const* now, const float* taps, long step, long count, float* out) {
    for (long c = 0; c < count; c += W) {
        long n = count - c < W ? count - c : W;
        Vec mixed = {};
        for (long j = 0; j < TAPS; j++) mixed += load_some(taps + j * step + c, n) * load_some(now[j] + c, n);
        store_some(out + c, silu(mixed), n);
    }
}

void scale_to_length(float* x, long K, float length) {
    float scale = length / sqrtf(sum_of_squares(x, K) + 1e-6f);
    for (long i = 0; i < K; i++) x[i] *= scale;
}

float softplus(float x) { return x > 20.0f ? x : log1pf(expf(x)); }

template <class Stored>
void run(const Layer& l, long b, long group) {
    const long T = l.T, K = l.K, V = l.V, share = l.share(), n = l.channels(), step = l.floats();
    const long C = 2 * l.G * K + l.H * V, head = group * share;
    const long from[3] = {group * K, (l.G + group) * K, 2 * l.G * K + head * V};  // q, k, values
    const long count[3] = {K, K, share * V}, to[3] = {0, K, 2 * K};
    const float* x = l.qkv + b * T * C;
    float* rows = l.rows + b * (TAPS - 1) * C;
    const float* past_x = l.kept ? l.past.inputs + b * l.room * C : nullptr;
    float* log_x = l.log.inputs ? l.log.inputs + b * l.room * C : nullptr;
    alignas(64) float scratch[SCRATCH];
    float *taps = scratch, *tokens = scratch + TAPS * n;
    long room = (SCRATCH - TAPS * n) / step, block = room < BLOCK ? room : BLOCK;

    // The last inputs, oldest first: a row only moves to an earlier place.
    auto move_on = [&](const float* inputs, long tokens) {
        for (int s = 0; s < 3; s++)
            for (long j = 0; j < TAPS - 1; j++) {
                long at = tokens + j - (TAPS - 1);
                const float* last = (at < 0 ? rows + (TAPS - 1 + at) * C : inputs + at * C) + from[s];
                memcpy(rows + j * C + from[s], last, count[s] * sizeof(float));
            }
    };
    if (l.kept) move_on(past_x, l.kept);
    if (log_x && log_x != x)
        for (int s = 0; s < 3; s++)
            for (long t = 0; t < T; t++)
                memcpy(log_x + t * C + from[s], x + t * C + from[s], count[s] * sizeof(float));

    for (int s = 0; s < 3; s++) read_taps((const Stored*)l.conv + from[s] * TAPS, count[s], taps + to[s], n);
    for (long start = 0; start < T; start += block) {
        long here = T - start < block ? T - start : block;
        for (long i = 0; i < here; i++) {
            long t = start + i, gates = (b * T + t) * l.H + head;
            float *q = tokens + i * step, *k = q + K, *decay = q + n, *beta = decay + share;
            for (int s = 0; s < 3; s++) {
                const float* now[TAPS];
                for (long j = 0; j < TAPS; j++) {
                    long at = t + j - (TAPS - 1);
                    now[j] = (at < 0 ? rows + (TAPS - 1 + at) * C : x + at * C) + from[s];
                }
                convolve(now, taps + to[s], n, count[s], q + to[s]);
            }
            scale_to_length(q, K, 1.0f / sqrtf((float)K));
            scale_to_length(k, K, 1.0f);
            for (long h = 0; h < share; h++) {
                float bias = widen(((const Stored*)l.dt_bias)[head + h]);
                float g = -expf(l.a_log[head + h]) * softplus(l.a[gates + h] + bias);
                if (l.log.g) l.log.g[(b * l.room + t) * l.H + head + h] = g;
                decay[h] = expf(g);
                beta[h] = 1.0f / (1.0f + expf(-l.b[gates + h]));
            }
            if (l.log.k) memcpy(l.log.k + ((b * l.room + t) * l.G + group) * K, k, K * sizeof(float));
        }
        for (long h = 0; h < share; h++) {
            long first = ((b * T + start) * l.H + head + h) * V, kept = start ? 0 : l.kept;
            float past_decay[LOGGED];
            for (long j = 0; j < kept; j++) past_decay[j] = expf(l.past.g[(b * l.room + j) * l.H + head + h]);
            remember({tokens, tokens + K, tokens + 2 * K + h * V, tokens + n + h, tokens + n + share + h,
                      l.state + (b * l.H + head + h) * K * V, l.y + first,
                      l.log.d ? l.log.d + (b * l.room * l.H + head + h) * V : nullptr, here, K, V, step, l.H * V,
                      kept ? l.past.k + (b * l.room * l.G + group) * K : nullptr,
                      kept ? l.past.d + (b * l.room * l.H + head + h) * V : nullptr, past_decay, kept, l.G * K});
            for (long i = 0; i < here; i++) {
                long at = first + i * l.H * V;
                gated_norm(l.y + at, l.z + at, l.norm, l.y + at, V, l.eps);
            }
        }
    }
    if (!log_x) move_on(x, T);
}

}  // namespace

// Shapes as in Layer, all contiguous; logs have room for `room` tokens. The first `kept` tokens of `past`
// are carried out on `rows` and `state`, and so are the T new ones, unless there is a `log` for them.
// `half`: whether conv and dt_bias are bf16.
EXPORT void delta_mix(ForkJoin fork_join, int threads, const float* qkv, const float* z, const float* a,
                      const float* b, const void* conv, const void* dt_bias, const float* a_log,
                      const float* norm, float* rows, float* state, float* y, const Log* past, const Log* log,
                      long kept, long room, long B, long T, long G, long H, long K, long V, float eps, int half) {
    Layer layer = {qkv, z, a, b, conv, dt_bias, a_log, norm, rows, state, y, past ? *past : Log{}, log ? *log : Log{},
                   kept, room, B, T, G, H, K, V, eps};
    parallel(fork_join, worth(threads, 4 * B * T * H * K * V), B * G, [&](long i) {
        half ? run<bf16>(layer, i / G, i % G) : run<float>(layer, i / G, i % G);
    });
}

// Whether heads of this size fit into what `delta_mix` keeps on the stack.
EXPORT int delta_fits(long G, long H, long K, long V) {
    Layer layer = {};
    layer.G = G, layer.H = H, layer.K = K, layer.V = V;
    return K <= TALLEST && TAPS * layer.channels() + LOGGED * layer.floats() <= SCRATCH;
}
