// All blocks of the text model for the few tokens of a decode step, and all drafts of a round, one op
// after the other without going back to Python, which costs a tenth of a token's time there.
#include <math.h>

#include "ops.h"

namespace {

constexpr long MOST_CANDIDATES = 16;  // matrices

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

// What the MTP layer has besides its block. The y of `fc` is room for one token.
struct Drafter {
    Matrix embedding, fc;
    const bf16 *embedding_norm, *hidden_norm, *norm;
    float *joined, *hidden;  // room for 2 D and for D
};

// Rows of the output head, and the ids that they stand for: from `first` on, or those listed.
struct Candidates {
    Matrix rows;
    long first;
    const int64_t* ids;
};

void look_up(const Matrix& m, int64_t id, float* x, long D) {
    if (m.kind == INT8)
        look_up_int8((const uint8_t*)m.codes, (const bf16*)m.scale, &id, x, 1, m.N, D);
    else
        for (long i = 0; i < D; i++) x[i] = widen(((const bf16*)m.codes)[id * D + i]);
}

// The id of the highest logit; the first of them where several are equal.
int64_t likeliest(const Candidates* candidates, long count) {
    float highest = -INFINITY;
    int64_t id = candidates->ids ? candidates->ids[0] : candidates->first;
    for (const Candidates* c = candidates; c < candidates + count; c++)
        for (long i = 0; i < c->rows.N; i++)
            if (c->rows.y[i] > highest) {
                highest = c->rows.y[i];
                id = c->ids ? c->ids[i] : c->first + i;
            }
    return id;
}

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

// Drafts `count` tokens after `token`, one after the other, and puts them into `drafts`. `hidden` [D] is
// the target's state of the token before; `start` tokens are in the layer's cache, and `count` more will
// be. cos, sin [count, R]; the embedding is BF16 or INT8; `spans` and `scratch` serve `attention` up to
// the last draft.
EXPORT void draft(ForkJoin fork_join, int threads, const Drafter* drafter, const Layer* layer,
                  const Shape* shape, const Candidates* candidates, long candidate_count, long token,
                  const float* hidden, const float* cos, const float* sin, long spans, float* scratch,
                  long count, long start, float eps, int64_t* drafts) {
    const Drafter& d = *drafter;
    const long D = shape->D;
    float* x = d.fc.y;
    Matrix heads[MOST_CANDIDATES];
    for (long i = 0; i < candidate_count; i++) heads[i] = candidates[i].rows;
    for (long i = 0; i < count; i++, cos += shape->R, sin += shape->R, hidden = d.hidden) {
        look_up(d.embedding, i ? drafts[i - 1] : token, x, D);
        rms_norm(fork_join, threads, x, d.embedding_norm, d.joined, 1, D, eps);
        rms_norm(fork_join, threads, hidden, d.hidden_norm, d.joined + D, 1, D, eps);
        project(fork_join, threads, &d.fc, 1, d.joined, 1, 2 * D, 0);
        long needed = attention_spans(threads, 1, 1, shape->KV, start + i + 1);
        blocks(fork_join, threads, layer, 1, shape, x, cos, sin, needed < spans ? needed : spans, scratch,
               nullptr, nullptr, 0, 1, start + i, eps);
        rms_norm(fork_join, threads, x, d.norm, d.hidden, 1, D, eps);
        project(fork_join, threads, heads, candidate_count, d.hidden, 1, D, 0);
        drafts[i] = likeliest(candidates, candidate_count);
    }
}
