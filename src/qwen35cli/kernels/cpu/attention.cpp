// Causal attention of a few new tokens over a long cache: bound by reading the cache once.
//
// All query heads and tokens that share a key head meet a block of keys together. The cache is cut
// into spans for the threads; each span keeps a running softmax, and the spans are joined at the end.
#include <math.h>

#include "simd.h"
#include "threads.h"

namespace {

constexpr long KEYS = 64;  // keys of a block: its scores and its values stay in the cache
constexpr long STEP = 8;   // keys scored by all queries before the next ones are touched

struct Task {
    const float* q;  // [B, T, H, Dh]
    float *out, *scratch;
    long B, T, H, Dh, KV, S, batch_step, head_step, row_step;  // steps of keys and values
    long spans, span;                                          // `span` keys each

    long queries() const { return H / KV * T; }  // that share a key head
    // Per part: queries and sums [M, Dh], scores [M, KEYS], best and total [M].
    long scratch_floats() const { return queries() * (2 * Dh + KEYS + 2); }
};

// scores[m][j] = q[m] . keys[j] for M queries and R keys.
template <int R, int M, class Cached>
void score(const float* q, const Cached* keys, long row_step, long Dh, float* scores) {
    Vec sums[R][M] = {};
    long d = 0;
    for (; d + W <= Dh; d += W) {
        Vec rows[R];
        for (int r = 0; r < R; r++) rows[r] = load(keys + r * row_step + d);
        for (int m = 0; m < M; m++) {
            Vec query = load(q + m * Dh + d);
            for (int r = 0; r < R; r++) sums[r][m] += rows[r] * query;
        }
    }
    for (int r = 0; r < R; r++)
        for (int m = 0; m < M; m++) {
            float total = sum(sums[r][m]);
            for (long i = d; i < Dh; i++) total += q[m * Dh + i] * widen(keys[r * row_step + i]);
            scores[m * KEYS + r] = total;
        }
}

template <int M, class Cached>
void scores_of(const float* q, const Cached* keys, long row_step, long Dh, long n, float* scores) {
    long j = 0;
    for (; j + 2 <= n; j += 2) score<2, M>(q, keys + j * row_step, row_step, Dh, scores + j);
    for (; j < n; j++) score<1, M>(q, keys + j * row_step, row_step, Dh, scores + j);
}

// sums[m] += sum over j of weights[m][j] * values[j], in tiles of two vectors of columns.
template <int M, class Cached>
void add_values(const float* weights, const Cached* values, long row_step, long Dh, long n, float* sums) {
    long d = 0;
    for (; d + 2 * W <= Dh; d += 2 * W) {
        Vec low[M], high[M];
        for (int m = 0; m < M; m++) low[m] = load(sums + m * Dh + d), high[m] = load(sums + m * Dh + d + W);
        for (long j = 0; j < n; j++) {
            Vec first = load(values + j * row_step + d), second = load(values + j * row_step + d + W);
            for (int m = 0; m < M; m++) {
                low[m] += weights[m * KEYS + j] * first;
                high[m] += weights[m * KEYS + j] * second;
            }
        }
        for (int m = 0; m < M; m++) store(sums + m * Dh + d, low[m]), store(sums + m * Dh + d + W, high[m]);
    }
    for (; d < Dh; d++)
        for (int m = 0; m < M; m++)
            for (long j = 0; j < n; j++) sums[m * Dh + d] += weights[m * KEYS + j] * widen(values[j * row_step + d]);
}

// Turns the scores of one query over the first `seen` of n keys into weights; the rest get zero.
// Returns the factor by which everything gathered before shrinks.
float soften(float* scores, long n, long seen, float* best, float* total) {
    if (seen <= 0) {
        for (long j = 0; j < n; j++) scores[j] = 0.0f;
        return 1.0f;
    }
    for (long j = seen; j < KEYS; j++) scores[j] = -INFINITY;
    Vec high = splat(*best), gathered = {};
    for (long j = 0; j < KEYS; j += W) high = larger(high, load(scores + j));
    float highest = largest(high);
    for (long j = 0; j < KEYS; j += W) store(scores + j, exp_of_negative(load(scores + j) - highest));
    for (long j = seen; j < KEYS; j++) scores[j] = 0.0f;
    for (long j = 0; j < KEYS; j += W) gathered += load(scores + j);
    float shrink = expf(*best - highest);
    *total = *total * shrink + sum(gathered);
    *best = highest;
    return shrink;
}

template <class Cached>
void run_span(const Task& task, const Cached* keys, const Cached* values, long part) {
    const long T = task.T, Dh = task.Dh, M = task.queries(), step = task.row_step;
    long group = part / task.spans, b = group / task.KV, head = group % task.KV;
    long start = part % task.spans * task.span;
    long stop = start + task.span < task.S ? start + task.span : task.S;
    keys += b * task.batch_step + head * task.head_step;
    values += b * task.batch_step + head * task.head_step;

    float* q = task.scratch + part * task.scratch_floats();
    float *sums = q + M * Dh, *scores = sums + M * Dh, *best = scores + M * KEYS, *total = best + M;
    float scale = 1.0f / sqrtf((float)Dh);
    for (long m = 0; m < M; m++) {  // m = head * T + token
        const float* from = task.q + ((b * T + m % T) * task.H + head * (M / T) + m / T) * Dh;
        for (long d = 0; d < Dh; d++) q[m * Dh + d] = from[d] * scale, sums[m * Dh + d] = 0.0f;
        best[m] = -INFINITY, total[m] = 0.0f;
    }

    for (long s = start; s < stop; s += KEYS) {
        long n = stop - s < KEYS ? stop - s : KEYS;
        const Cached *block = keys + s * step, *block_values = values + s * step;
        for (long j = 0; j < n; j += STEP) {
            long count = n - j < STEP ? n - j : STEP, m = 0;
            for (long i = j; i < j + count; i++)  // the values arrive while the keys are scored
                for (long d = 0; d < Dh; d += 64 / (long)sizeof(Cached))
                    __builtin_prefetch(block_values + i * step + d, 0, 2);
            for (; m + 4 <= M; m += 4)
                scores_of<4>(q + m * Dh, block + j * step, step, Dh, count, scores + m * KEYS + j);
            for (; m < M; m++)
                scores_of<1>(q + m * Dh, block + j * step, step, Dh, count, scores + m * KEYS + j);
        }
        for (long m = 0; m < M; m++) {
            long seen = task.S - T + m % T + 1 - s;
            float shrink = soften(scores + m * KEYS, n, seen < n ? seen : n, best + m, total + m);
            if (shrink != 1.0f)
                for (long d = 0; d < Dh; d++) sums[m * Dh + d] *= shrink;
        }
        long m = 0;
        for (; m + 4 <= M; m += 4) add_values<4>(scores + m * KEYS, block_values, step, Dh, n, sums + m * Dh);
        for (; m < M; m++) add_values<1>(scores + m * KEYS, block_values, step, Dh, n, sums + m * Dh);
    }
}

// Joins the spans of one key head.
void join(const Task& task, long group) {
    const long T = task.T, Dh = task.Dh, M = task.queries(), size = task.scratch_floats();
    float* first = task.scratch + group * task.spans * size;
    for (long m = 0; m < M; m++) {
        float* out = task.out + ((group / task.KV * T + m % T) * task.H + group % task.KV * (M / T) + m / T) * Dh;
        float highest = -INFINITY, all = 0.0f;
        const long best = M * (2 * Dh + KEYS) + m, total = best + M;  // where they lie in the scratch
        for (long i = 0; i < task.spans; i++) highest = fmaxf(highest, first[i * size + best]);
        for (long d = 0; d < Dh; d++) out[d] = 0.0f;
        for (long i = 0; i < task.spans; i++) {
            float share = expf(first[i * size + best] - highest);
            const float* sums = first + i * size + (M + m) * Dh;
            all += share * first[i * size + total];
            for (long d = 0; d < Dh; d++) out[d] += share * sums[d];
        }
        for (long d = 0; d < Dh; d++) out[d] /= all;
    }
}

template <class Cached>
void attend(ForkJoin fork_join, int threads, const Task& task, const Cached* keys, const Cached* values) {
    parallel(fork_join, threads, task.B * task.KV * task.spans,
             [&](long part) { run_span(task, keys, values, part); });
    for (long group = 0; group < task.B * task.KV; group++) join(task, group);
}

}  // namespace

// How many spans S keys are cut into, and the floats of scratch that `attention` needs with them.
EXPORT long attention_spans(int threads, long B, long KV, long S) {
    long wanted = (4 * threads + B * KV - 1) / (B * KV), most = (S + 255) / 256;
    return wanted < most ? wanted : most;
}

EXPORT long attention_scratch(long spans, long B, long T, long H, long Dh, long KV) {
    Task task = {};
    task.T = T, task.H = H, task.Dh = Dh, task.KV = KV;
    return B * KV * spans * task.scratch_floats();
}

// q, out [B, T, H, Dh] contiguous; keys, values [B, KV, S, Dh] with the given steps, rows contiguous,
// bf16 where `half` is set and float32 where not.
EXPORT void attention(ForkJoin fork_join, int threads, const float* q, const void* keys, const void* values,
                      float* out, float* scratch, long spans, long B, long T, long H, long Dh, long KV,
                      long S, long batch_step, long head_step, long row_step, int half) {
    long span = (S + spans - 1) / spans;
    span = (span + KEYS - 1) / KEYS * KEYS;
    spans = (S + span - 1) / span;  // rounding up may leave the last ones without keys
    Task task = {q, out, scratch, B, T, H, Dh, KV, S, batch_step, head_step, row_step, spans, span};
    if (half)
        attend(fork_join, threads, task, (const bf16*)keys, (const bf16*)values);
    else
        attend(fork_join, threads, task, (const float*)keys, (const float*)values);
}
