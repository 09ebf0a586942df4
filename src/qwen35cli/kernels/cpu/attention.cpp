// Causal attention of new tokens over a long cache: for a few, bound by reading the cache once.
//
// All query heads and tokens that share a key head meet a block of keys together. The cache is cut
// into spans for the threads; each span keeps a running softmax, and the spans are joined at the end.
// Of a prompt, a few tokens at a time do so, and these are spread over the threads instead.
// A block takes its keys from four places of the span, far apart: four streams of addresses, which the
// hardware prefetcher follows, as in linear.cpp.
//
// Of a few tokens each gets the same bits as if it had come alone: how its keys are cut up follows from
// their number, rounded down to whole blocks, and tokens whose numbers differ go separately.
//
// Rows of bf16 are widened without a shuffle: the even elements by a shift, the odd ones by a mask.
// Queries and sums are kept in that order (`arrange`).
#include <math.h>

#include <type_traits>

#include "ops.h"
#include "rows.h"

namespace {

constexpr long KEYS = 64;    // keys of a block: its scores stay in the cache
constexpr long STREAMS = 4;  // places that they come from
constexpr long TILE = 8;     // tokens that go together
constexpr long PAIR = 2 * W;

struct Pair {
    Vec low, high;
};

// 2 W elements of a row, in the order of `arrange`.
INLINE Pair load_pair(const float* p) { return {load(p), load(p + W)}; }

INLINE Pair load_pair(const bf16* p) {
    Bits both;
    memcpy(&both, p, sizeof both);
    return {(Vec)(both << 16), (Vec)(both & 0xffff0000u)};
}

INLINE Pair load_pair(const int8_t* p) {
#if defined(__AVX512F__)
    return {(Vec)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i*)p))),
            (Vec)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i*)(p + W))))};
#elif defined(__AVX2__)
    return {(Vec)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i*)p))),
            (Vec)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i*)(p + W))))};
#else
    Pair pair;
    for (int i = 0; i < W; i++) pair.low[i] = p[i], pair.high[i] = p[W + i];
    return pair;
#endif
}

constexpr bool interleaved(const bf16*) { return true; }
constexpr bool interleaved(const void*) { return false; }

// Where element d of a row stands among those that were loaded in pairs.
template <class Cached>
INLINE long place(long d, long Dh) {
    if (!interleaved((const Cached*)nullptr) || d >= Dh / PAIR * PAIR) return d;
    return d / PAIR * PAIR + d % 2 * W + d % PAIR / 2;
}

template <class Cached>
struct Rows {
    const Cached* codes;
    const bf16* scale;  // of each row, or null
};

struct Task {
    const float* q;  // [B, T, H, Dh]
    float *out, *scratch;
    long B, T, H, Dh, KV, S, batch_step, head_step;  // steps of keys and values; rows are contiguous
    long spans, tile, cut;                           // tokens that go together, and those of the first tile

    long tiles() const { return 1 + (T - cut + tile - 1) / tile; }
    long groups() const { return B * KV * tiles(); }
    // Per part: queries and sums [M, Dh], scores [M, KEYS], best and total [M].
    long scratch_floats() const { return H / KV * tile * (2 * Dh + KEYS + 2); }
};

// The queries that meet the same keys: those of a tile and a key head. Query m is head m / tokens of
// the share, token m % tokens of the tile.
struct Group {
    long b, head, first, tokens, M, past;  // past: keys that come before those of the first token

    Group(const Task& task, long index) {
        b = index / task.tiles() / task.KV, head = index / task.tiles() % task.KV;
        const long i = index % task.tiles(), left = i ? task.T - task.cut - (i - 1) * task.tile : task.cut;
        first = i ? task.T - left : 0;
        tokens = left < task.tile ? left : task.tile;
        M = task.H / task.KV * tokens;
        past = task.S - task.T + first;
    }
    long keys() const { return past + tokens; }
    long whole() const { return (past + 1) / KEYS * KEYS; }  // keys of all spans; the last takes the rest too
    long seen(long m) const { return past + m % tokens + 1; }  // keys that query m sees
    long row(const Task& task, long m) const {  // of q and out
        return (b * task.T + first + m % tokens) * task.H + head * (task.H / task.KV) + m / tokens;
    }
};

// The sums of eight vectors.
INLINE void sums_of(const Vec* v, float* to) {
#if defined(__AVX2__) && !defined(__AVX512F__)
    __m256 a = _mm256_hadd_ps(_mm256_hadd_ps((__m256)v[0], (__m256)v[1]), _mm256_hadd_ps((__m256)v[2], (__m256)v[3]));
    __m256 b = _mm256_hadd_ps(_mm256_hadd_ps((__m256)v[4], (__m256)v[5]), _mm256_hadd_ps((__m256)v[6], (__m256)v[7]));
    _mm256_storeu_ps(to, _mm256_add_ps(_mm256_permute2f128_ps(a, b, 0x20), _mm256_permute2f128_ps(a, b, 0x31)));
#else
    for (int i = 0; i < 8; i++) to[i] = sum(v[i]);
#endif
}

// scores[m][r] = q[m] . keys[r] for M queries and R keys, `apart` elements from one another.
template <int R, int M, class Cached>
INLINE void score(const float* q, const Cached* keys, long apart, long Dh, float* scores) {
    Vec sums[8] = {};
    long d = 0;
    for (; d + PAIR <= Dh; d += PAIR) {
        Pair rows[R];
        for (int r = 0; r < R; r++) rows[r] = load_pair(keys + r * apart + d);
        for (int m = 0; m < M; m++) {
            Vec low = load(q + m * Dh + d), high = load(q + m * Dh + d + W);
            for (int r = 0; r < R; r++) sums[m * R + r] += rows[r].low * low;
            for (int r = 0; r < R; r++) sums[m * R + r] += rows[r].high * high;
        }
    }
    float totals[8];
    sums_of(sums, totals);
    for (int m = 0; m < M; m++)
        for (int r = 0; r < R; r++) {
            for (long i = d; i < Dh; i++) totals[m * R + r] += q[m * Dh + i] * widen(keys[r * apart + i]);
            scores[m * KEYS + r] = totals[m * R + r];
        }
}

// sums[m] += weights[m][r] * values[r] for M queries and R rows, given by their addresses.
template <int R, int M, class Cached>
INLINE void add_rows(const float* weights, const Cached* const* values, long Dh, float* sums) {
    long d = 0;
    for (; d + PAIR <= Dh; d += PAIR) {
        Vec low[M], high[M];
        for (int m = 0; m < M; m++) low[m] = load(sums + m * Dh + d), high[m] = load(sums + m * Dh + d + W);
        for (int r = 0; r < R; r++) {
            Pair row = load_pair(values[r] + d);
            for (int m = 0; m < M; m++) {
                low[m] += weights[m * KEYS + r] * row.low;
                high[m] += weights[m * KEYS + r] * row.high;
            }
        }
        for (int m = 0; m < M; m++) store(sums + m * Dh + d, low[m]), store(sums + m * Dh + d + W, high[m]);
    }
    for (; d < Dh; d++)
        for (int m = 0; m < M; m++)
            for (int r = 0; r < R; r++) sums[m * Dh + d] += weights[m * KEYS + r] * widen(values[r][d]);
}

// Key j of a block is row j / STREAMS of stream j % STREAMS; in the last block of a span, row j.
struct Block {
    long first, stride, keys;  // stride 0: one stream

    long key(long j) const { return stride ? first + j % STREAMS * stride + j / STREAMS : first + j; }
};

template <int M, class Cached>
void scores_of(const Block& block, long from, long to, const float* q, const Cached* keys, long Dh, float* scores) {
    long j = from, apart = (block.stride ? block.stride : 1) * Dh;
    for (; j + 2 <= to; j += 2) score<2, M>(q, keys + block.key(j) * Dh, apart, Dh, scores + j);
    for (; j < to; j++) score<1, M>(q, keys + block.key(j) * Dh, apart, Dh, scores + j);
}

template <int M, class Cached>
void values_of(const Block& block, long from, long to, const float* weights, const Cached* values, long Dh, float* sums) {
    const Cached* rows[8];
    long j = from;
    for (; j + 8 <= to; j += 8) {
        for (long r = 0; r < 8; r++) rows[r] = values + block.key(j + r) * Dh;
        add_rows<8, M>(weights + j, rows, Dh, sums);
    }
    for (; j < to; j++) {
        rows[0] = values + block.key(j) * Dh;
        add_rows<1, M>(weights + j, rows, Dh, sums);
    }
}

// Turns the scores of one query into weights; those of keys it does not see are -inf and get zero.
// Returns the factor by which everything gathered before shrinks.
float soften(float* scores, long n, bool masked, float* best, float* total) {
    long padded = (n + W - 1) / W * W;
    for (long j = n; j < padded; j++) scores[j] = -INFINITY;
    Vec high = splat(*best), gathered = {};
    for (long j = 0; j < padded; j += W) high = larger(high, load(scores + j));
    float highest = largest(high);
    if (highest == -INFINITY) {
        for (long j = 0; j < n; j++) scores[j] = 0.0f;
        return 1.0f;
    }
    for (long j = 0; j < padded; j += W) {
        Vec score = load(scores + j), weight = exp_of_negative(score - highest);
        if (masked || j + W > n) weight = score > -INFINITY ? weight : Vec{};
        store(scores + j, weight);
        gathered += weight;
    }
    float shrink = expf(*best - highest);
    *total = *total * shrink + sum(gathered);
    *best = highest;
    return shrink;
}

template <class Cached>
void run_block(long Dh, const Group& group, const Block& block, Rows<Cached> keys, Rows<Cached> values, const float* q,
               float* sums, float* scores, float* best, float* total) {
    const long M = group.M, n = block.keys;
    const long step = 8;  // keys that all queries meet before the next ones are touched
    for (long j = 0; j < n; j += step) {
        long end = j + step < n ? j + step : n, m = 0;
        for (long i = j; i < end; i++)  // the values arrive while the keys are scored
            for (long d = 0; d < Dh; d += 64 / (long)sizeof(Cached))
                __builtin_prefetch(values.codes + block.key(i) * Dh + d, 0, 2);
        for (; m + 4 <= M; m += 4) scores_of<4>(block, j, end, q + m * Dh, keys.codes, Dh, scores + m * KEYS);
        for (; m < M; m++) scores_of<1>(block, j, end, q + m * Dh, keys.codes, Dh, scores + m * KEYS);
    }
    float key_scale[KEYS], value_scale[KEYS];
    if (keys.scale)
        for (long j = 0; j < n; j++) {
            key_scale[j] = widen(keys.scale[block.key(j)]);
            value_scale[j] = widen(values.scale[block.key(j)]);
        }
    bool masked = block.key(n - 1) > group.past;
    for (long m = 0; m < M; m++) {
        float* row = scores + m * KEYS;
        if (keys.scale)
            for (long j = 0; j < n; j++) row[j] *= key_scale[j];
        if (masked)
            for (long j = 0; j < n; j++)
                if (block.key(j) >= group.seen(m)) row[j] = -INFINITY;
        float shrink = soften(row, n, masked, best + m, total + m);
        if (shrink != 1.0f)
            for (long d = 0; d < Dh; d++) sums[m * Dh + d] *= shrink;
        if (keys.scale)
            for (long j = 0; j < n; j++) row[j] *= value_scale[j];
    }
    for (long j = 0; j < n; j += step) {
        long end = j + step < n ? j + step : n, m = 0;
        for (; m + 4 <= M; m += 4) values_of<4>(block, j, end, scores + m * KEYS, values.codes, Dh, sums + m * Dh);
        for (; m < M; m++) values_of<1>(block, j, end, scores + m * KEYS, values.codes, Dh, sums + m * Dh);
    }
}

// How many of at most `most` spans so many keys are cut into.
long spans_of(long most, long keys) {
    long wanted = (keys + 255) / 256;
    return wanted < 1 ? 1 : wanted < most ? wanted : most;
}

template <class Cached>
void run_span(const Task& task, Rows<Cached> keys, Rows<Cached> values, long index, long part, float* q) {
    const Group group(task, index);
    const long Dh = task.Dh, M = group.M, whole = group.whole(), spans = spans_of(task.spans, whole);
    const long span = (whole + spans - 1) / spans, end = part == spans - 1 ? group.keys() : 0;
    long start = part * span, stop = start + span < whole ? start + span : whole;
    long at = group.b * task.batch_step + group.head * task.head_step;
    keys.codes += at, values.codes += at;
    if (keys.scale) keys.scale += at / Dh, values.scale += at / Dh;

    float *sums = q + M * Dh, *scores = sums + M * Dh, *best = scores + M * KEYS, *total = best + M;
    float scale = 1.0f / sqrtf((float)Dh);
    for (long m = 0; m < M; m++) {
        const float* from = task.q + group.row(task, m) * Dh;
        for (long d = 0; d < Dh; d++) q[m * Dh + place<Cached>(d, Dh)] = from[d] * scale, sums[m * Dh + d] = 0.0f;
        best[m] = -INFINITY, total[m] = 0.0f;
    }
    if (part >= spans) return;  // another group has more keys

    auto run = [&](const Block& block) {
        run_block(Dh, group, block, keys, values, q, sums, scores, best, total);
    };
    long stride = (stop - start) / STREAMS, length = KEYS / STREAMS;
    for (long i = 0; i < stride; i += length) {
        long count = stride - i < length ? stride - i : length;
        run({start + i, stride, count * STREAMS});
    }
    long left = start + stride * STREAMS;
    if (left < stop) run({left, 0, stop - left});
    for (long i = whole; i < end; i += KEYS) run({i, 0, end - i < KEYS ? end - i : KEYS});
}

// Joins the spans of one group.
template <class Cached>
void join(const Task& task, long index, float* first) {
    const Group group(task, index);
    const long Dh = task.Dh, M = group.M, size = task.scratch_floats();
    for (long m = 0; m < M; m++) {
        float* out = task.out + group.row(task, m) * Dh;
        float *joined = first + (M + m) * Dh, highest = -INFINITY, all = 0.0f;
        const long best = M * (2 * Dh + KEYS) + m, total = best + M;  // where they lie in the scratch
        for (long i = 0; i < task.spans; i++) highest = fmaxf(highest, first[i * size + best]);
        for (long i = 0; i < task.spans; i++) {
            float share = expf(first[i * size + best] - highest);
            const float* sums = first + i * size + (M + m) * Dh;
            all += share * first[i * size + total];
            if (i == 0)
                for (long d = 0; d < Dh; d++) joined[d] *= share;
            else
                for (long d = 0; d < Dh; d++) joined[d] += share * sums[d];
        }
        float inverse = 1.0f / all;
        for (long d = 0; d < Dh; d++) out[d] = joined[place<Cached>(d, Dh)] * inverse;
    }
}

long parts_of(int threads, long groups) { return groups < 8 * threads ? groups : 8 * threads; }

template <class Cached>
void attend(ForkJoin fork_join, int threads, const Task& task, Rows<Cached> keys, Rows<Cached> values) {
    const long products = task.B * task.T * task.H * task.Dh, size = task.scratch_floats(), spans = task.spans;
    if (spans == 1) {  // enough groups for all threads: what a part has done is joined at once
        const long groups = task.groups(), parts = parts_of(threads, groups);
        parallel(fork_join, worth(threads, 2 * task.S * products), parts, [&](long part) {
            for (long i = part; i < groups; i += parts) {
                run_span(task, keys, values, i, 0, task.scratch + part * size);
                join<Cached>(task, i, task.scratch + part * size);
            }
        });
        return;
    }
    parallel(fork_join, worth(threads, 2 * task.S * products), task.groups() * spans, [&](long part) {
        run_span(task, keys, values, part / spans, part % spans, task.scratch + part * size);
    });
    parallel(fork_join, worth(threads, 4 * spans * products), task.groups(),
             [&](long i) { join<Cached>(task, i, task.scratch + i * spans * size); });
}

// A row into the cache. Int8: the scale is rounded first, and the codes follow from it.
INLINE void put(const float* x, float* to, bf16*, long Dh) { memcpy(to, x, Dh * sizeof(float)); }

INLINE bf16 narrow(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return 0x7fc0;  // not a number
    return (bits + 0x7fffu + (bits >> 16 & 1)) >> 16;
}

INLINE void put(const float* x, bf16* to, bf16*, long Dh) {
    for (long d = 0; d < Dh; d++) to[d] = narrow(x[d]);
}

INLINE void put(const float* x, int8_t* to, bf16* scale, long Dh) {
    float most = 0.0f;
    for (long d = 0; d < Dh; d++) most = fabsf(x[d]) > most ? fabsf(x[d]) : most;
    *scale = narrow(most / 127.0f);
    float step = widen(*scale);
    for (long d = 0; d < Dh; d++) {
        float code = step > 0.0f ? rintf(x[d] / step) : 0.0f;
        to[d] = (int8_t)(code > 127.0f ? 127.0f : code < -127.0f ? -127.0f : code);
    }
}

template <class Cached>
void put_all(ForkJoin fork_join, int threads, const float* x, Cached* to, bf16* scale, long B, long T, long KV,
             long Dh, long batch_step, long head_step, long start) {
    parallel(fork_join, worth(threads, 8 * B * T * KV * Dh), B * T, [=](long i) {
        for (long h = 0; h < KV; h++) {
            long at = i / T * batch_step + h * head_step + (start + i % T) * Dh;
            put(x + (i * KV + h) * Dh, to + at, scale ? scale + at / Dh : nullptr, Dh);
        }
    });
}

template <class Stored>
INLINE void norm_and_turn(const float* x, const Stored* weight, float eps, const float* cos, const float* sin,
                          long R, float* y, long Dh) {
    float scale = inverse_rms(x, Dh, eps);
    long d = 0;
    for (; d + W <= Dh; d += W) store(y + d, load(x + d) * scale * (1.0f + load(weight + d)));
    for (; d < Dh; d++) y[d] = x[d] * scale * (1.0f + widen(weight[d]));
    for (long i = 0; i < R; i++) {
        float first = y[i], second = y[R + i];
        y[i] = first * cos[i] - second * sin[i];
        y[R + i] = second * cos[i] + first * sin[i];
    }
}

template <class Stored>
void norm_rotary(ForkJoin fork_join, int threads, const float* q, const float* k, const Stored* q_weight,
                 const Stored* k_weight, float eps, const float* cos, const float* sin, float* q_out,
                 float* k_out, long tokens, long H, long KV, long Dh, long R, long q_head, long q_token) {
    parallel(fork_join, worth(threads, 8 * tokens * H * Dh), tokens, [=](long t) {
        for (long h = 0; h < H; h++)
            norm_and_turn(q + t * q_token + h * q_head, q_weight, eps, cos + t * R, sin + t * R, R,
                          q_out + (t * H + h) * Dh, Dh);
        for (long h = 0; h < KV; h++)
            norm_and_turn(k + (t * KV + h) * Dh, k_weight, eps, cos + t * R, sin + t * R, R,
                          k_out + (t * KV + h) * Dh, Dh);
    });
}

}  // namespace

// How many spans S keys are cut into, and the floats of scratch that `attention` needs with them.
EXPORT long attention_spans(int threads, long B, long T, long KV, long S) {
    return T > TILE ? 1 : spans_of((8 * threads + B * KV - 1) / (B * KV), S / KEYS * KEYS);
}

EXPORT long attention_scratch(int threads, long spans, long B, long T, long H, long Dh, long KV) {
    Task task = {};
    task.B = B, task.T = T, task.H = H, task.Dh = Dh, task.KV = KV, task.tile = T < TILE ? T : TILE;
    task.cut = T > TILE ? TILE : 1;  // as many tiles as there can be
    return (spans == 1 ? parts_of(threads, task.groups()) : task.groups() * spans) * task.scratch_floats();
}

// q, out [B, T, H, Dh] contiguous; keys, values [B, KV, S, Dh] with the given steps, rows contiguous, of
// `size` bytes per element: 4 float32, 2 bf16, 1 int8. The scales of int8 are [B, KV, S], with steps
// Dh times smaller.
EXPORT void attention(ForkJoin fork_join, int threads, const float* q, const void* keys, const void* values,
                      const bf16* key_scale, const bf16* value_scale, float* out, float* scratch, long spans,
                      long B, long T, long H, long Dh, long KV, long S, long batch_step, long head_step,
                      int size) {
    long tile = T < TILE ? T : TILE, same = KEYS - (S - T + 1) % KEYS;  // tokens until another block is whole
    Task task = {q, out, scratch, B, T, H, Dh, KV, S, batch_step, head_step, spans, tile,
                 T > TILE || T < same ? tile : same};
    auto run = [&](auto* codes) {
        using Cached = decltype(codes);
        attend(fork_join, threads, task, Rows<std::remove_const_t<std::remove_pointer_t<Cached>>>{codes, key_scale},
               {(Cached)values, value_scale});
    };
    if (size == 4) run((const float*)keys);
    if (size == 2) run((const bf16*)keys);
    if (size == 1) run((const int8_t*)keys);
}

// x [B, T, KV, Dh] into rows `start` and following of a cache as `attention` reads it.
EXPORT void store_rows(ForkJoin fork_join, int threads, const float* x, void* to, bf16* scale, long B, long T,
                       long KV, long Dh, long batch_step, long head_step, long start, int size) {
    auto run = [&](auto* codes) {
        put_all(fork_join, threads, x, codes, scale, B, T, KV, Dh, batch_step, head_step, start);
    };
    if (size == 4) run((float*)to);
    if (size == 2) run((bf16*)to);
    if (size == 1) run((int8_t*)to);
}

// Norm of each head of q and k with weights [Dh], then the rotation of the first 2 R dims by cos and sin
// [tokens, R]. q [tokens, H, Dh] has steps, all else is contiguous. `half`: whether weights are bf16.
EXPORT void qk_norm_rotary(ForkJoin fork_join, int threads, const float* q, const float* k,
                           const void* q_weight, const void* k_weight, float eps, const float* cos,
                           const float* sin, float* q_out, float* k_out, long tokens, long H, long KV,
                           long Dh, long R, long q_head, long q_token, int half) {
    auto run = [&](auto* weight) {
        norm_rotary(fork_join, threads, q, k, weight, (decltype(weight))k_weight, eps, cos, sin, q_out, k_out,
                    tokens, H, KV, Dh, R, q_head, q_token);
    };
    if (half)
        run((const bf16*)q_weight);
    else
        run((const float*)q_weight);
}

// y = x * sigmoid(gate), head by head; x and y [tokens, H, Dh], gate with steps.
EXPORT void sigmoid_gate(ForkJoin fork_join, int threads, const float* x, const float* gate, float* y,
                         long tokens, long H, long Dh, long gate_head, long gate_token) {
    parallel(fork_join, worth(threads, 16 * tokens * H * Dh), tokens, [=](long t) {
        for (long h = 0; h < H; h++) {
            const float *from = x + (t * H + h) * Dh, *gates = gate + t * gate_token + h * gate_head;
            float* to = y + (t * H + h) * Dh;
            for (long d = 0; d < Dh; d += W) {
                long n = Dh - d < W ? Dh - d : W;
                store_some(to + d, load_some(from + d, n) * sigmoid(load_some(gates + d, n)), n);
            }
        }
    });
}
