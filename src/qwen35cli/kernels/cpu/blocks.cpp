// All blocks of the text model for the few tokens of a decode step, one op after the other without
// going back to Python, which costs a tenth of a token's time there.
#include "ops.h"

namespace {

enum Mixer : long { DELTA, ATTENTION };

// One block of the model. Matrices hold where their results go; no address changes between steps.
struct Layer {
    long mixer;
    const bf16 *norm, *post_norm;
    Matrix in[4];  // DELTA: qkv, z, a, b; ATTENTION: q with its gates, k, v
    Matrix out, gate, up, down;
    union {
        struct {
            const void *conv, *dt_bias;
            const float *a_log, *norm;
            float *rows, *state;
            long half;  // whether conv and dt_bias are bf16
        } delta;
        struct {
            const void *q_norm, *k_norm;
            void *keys, *values;
            bf16 *key_scale, *value_scale;
            long half;  // whether the norms are bf16
        } attention;
    };
};

// What all blocks have in common: sizes, and room for the results that have no matrix to name it.
struct Shape {
    long D, inner;           // widths of the model and the MLP
    long G, H, K, V;         // delta: key heads, value heads, their widths
    long heads, KV, Dh, R;   // attention: query and key heads, their width, rotated pairs
    long head_step, size;    // between heads of the cache; bytes of an element
    float *normed, *mixed, *queries, *keys;
};

struct Step {
    ForkJoin fork_join;
    int threads;
    const Shape& shape;
    float* x;
    const float *cos, *sin;
    long spans;  // of `attention`
    float* scratch;
    long T, start, kept;
    float eps;

    void norm(const bf16* weight) const {
        rms_norm(fork_join, threads, x, weight, shape.normed, T, shape.D, eps);
    }

    // x += from W^T
    void add(const Matrix& m, const float* from, long K) const {
        project(fork_join, threads, &m, 1, from, T, K, 0);
        for (long i = 0; i < T * shape.D; i++) x[i] += m.y[i];
    }

    void delta(const Layer& b, const Log* past, const Log* log) const {
        const Shape& s = shape;
        Matrix in[4] = {b.in[0], b.in[1], b.in[2], b.in[3]};
        if (log) in[0].y = log->inputs;
        project(fork_join, threads, in, 4, s.normed, T, s.D, 0);
        delta_mix(fork_join, threads, in[0].y, in[1].y, in[2].y, in[3].y, b.delta.conv, b.delta.dt_bias,
                  b.delta.a_log, b.delta.norm, b.delta.rows, b.delta.state, s.mixed, past, log, kept, T, 1, T, s.G,
                  s.H, s.K, s.V, eps, (int)b.delta.half);
        add(b.out, s.mixed, s.H * s.V);
    }

    void attend(const Layer& b) const {
        const Shape& s = shape;
        const auto& a = b.attention;
        project(fork_join, threads, b.in, 3, s.normed, T, s.D, 0);
        const float *q = b.in[0].y, *gate = q + s.Dh;
        long head = 2 * s.Dh, token = s.heads * head, S = start + T;
        qk_norm_rotary(fork_join, threads, q, b.in[1].y, a.q_norm, a.k_norm, eps, cos, sin, s.queries, s.keys,
                       T, s.heads, s.KV, s.Dh, s.R, head, token, (int)a.half);
        store_rows(fork_join, threads, s.keys, a.keys, a.key_scale, 1, T, s.KV, s.Dh, s.KV * s.head_step,
                   s.head_step, start, (int)s.size);
        store_rows(fork_join, threads, b.in[2].y, a.values, a.value_scale, 1, T, s.KV, s.Dh,
                   s.KV * s.head_step, s.head_step, start, (int)s.size);
        attention(fork_join, threads, s.queries, a.keys, a.values, a.key_scale, a.value_scale, s.mixed, scratch,
                  spans, 1, T, s.heads, s.Dh, s.KV, S, s.KV * s.head_step, s.head_step, (int)s.size);
        sigmoid_gate(fork_join, threads, s.mixed, gate, s.mixed, T, s.heads, s.Dh, head, token);
        add(b.out, s.mixed, s.heads * s.Dh);
    }
};

}  // namespace

// x [T, D] goes through `count` blocks, in place; `start` tokens are in their caches. cos, sin [T, R].
// `spans` and `scratch`: see `attention`. `past`, `kept` and `logs`: see `delta_mix`; one log for each
// DELTA block, in their order, or null.
EXPORT void blocks(ForkJoin fork_join, int threads, const Layer* layers, long count, const Shape* shape,
                   float* x, const float* cos, const float* sin, long spans, float* scratch, const Log* past,
                   const Log* logs, long kept, long T, long start, float eps) {
    Step step = {fork_join, threads, *shape, x, cos, sin, spans, scratch, T, start, kept, eps};
    for (long i = 0; i < count; i++) {
        const Layer& b = layers[i];
        step.norm(b.norm);
        if (b.mixer == ATTENTION)
            step.attend(b);
        else
            step.delta(b, past ? past++ : nullptr, logs ? logs++ : nullptr);
        step.norm(b.post_norm);
        Matrix both[2] = {b.gate, b.up};
        project(fork_join, threads, both, 2, shape->normed, T, shape->D, 1);
        step.add(b.down, b.gate.y, shape->inner);
    }
}
