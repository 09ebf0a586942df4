// Weights to codes and scales. What is computed stands in reference.py. The search for a scale is bound
// by arithmetic: W groups are searched at once, one in each lane, so nothing is summed across a vector
// and what is done once per group costs no more than what is done per weight.
#include <math.h>

#include "simd.h"
#include "threads.h"

namespace {

constexpr long LONGEST = 256;         // weights of a group
constexpr float SHIFT = 12582912.0f;  // 1.5 * 2^23: adding it rounds to the nearest integer, ties to even

INLINE Vec smaller(Vec a, Vec b) { return a < b ? a : b; }

INLINE Vec clamped(Vec v, float low, float high) { return smaller(larger(v, splat(low)), splat(high)); }

// bf16 bits, to the nearest, ties to even; finite numbers only.
INLINE Bits nearest_bf16(Vec v) {
    Bits bits = (Bits)v;
    return (bits + 0x7FFF + (bits >> 16 & 1)) >> 16;
}

// W groups side by side, each brought near 1 by a power of two, so that squares neither overflow nor
// vanish. `group` is even.
struct Groups {
    float x[LONGEST * W];  // weight k of the group in lane l: k * W + l
    long group;
    Vec high, low;   // largest and smallest weight, after scaling; zeros that pad count
    Vec unit, back;  // the power of two, and its inverse
    Vec squares;     // their sum

    // The next W groups of a row, of which `count` weights are left.
    template <class Stored>
    void read(const Stored* w, long count) {
        for (int l = 0; l < W; l++)
            for (long k = 0; k < group; k++) {
                long i = l * group + k;
                x[k * W + l] = i < count ? widen(w[i]) : 0.0f;
            }
        high = low = load(x);
        for (long k = 1; k < group; k++) {
            Vec v = load(x + k * W);
            high = larger(high, v), low = smaller(low, v);
        }
        Bits exponent = (Bits)larger(high, -low) << 1 >> 24;
        Bits field = exponent < 252 ? 253 - exponent : Bits{} + 1;
        unit = (Vec)(field << 23), back = (Vec)((254 - field) << 23);
        high *= unit, low *= unit, squares = Vec{};
        for (long k = 0; k < group; k++) {
            Vec v = load(x + k * W) * unit;
            store(x + k * W, v);
            squares += v * v;
        }
    }

    Vec largest() const { return larger(high, -low); }

    // The scale of least squared error for the codes that `value(x * inverse)` takes.
    template <class Value>
    Vec fitted(Vec inverse, const Value& value) const {
        Vec product[2] = {}, square[2] = {};
        for (long k = 0; k < group; k += 2)
            for (int j = 0; j < 2; j++) {
                Vec v = load(x + (k + j) * W), q = value(v * inverse);
                product[j] += v * q;
                square[j] += q * q;
            }
        return (product[0] + product[1]) / (square[0] + square[1]);
    }

    // The squared error with `scale`.
    template <class Value>
    Vec error(Vec scale, const Value& value) const {
        Vec errors[2] = {}, inverse = 1.0f / scale;
        for (long k = 0; k < group; k += 2)
            for (int j = 0; j < 2; j++) {
                Vec v = load(x + (k + j) * W), rest = v - value(v * inverse) * scale;
                errors[j] += rest * rest;
            }
        return errors[0] + errors[1];
    }
};

// -- int4 -----------------------------------------------------------------------------------------

struct Int4Value {
    Vec shifted(Vec v) const { return clamped(v, -8.0f, 7.0f) + SHIFT; }
    Vec operator()(Vec v) const { return shifted(v) - SHIFT; }
};

// The next W groups of a row: codes into `words`, of which `room` are left, and scales.
void int4_groups(const Groups& g, uint32_t* words, long room, bf16* scales, long count) {
    Int4Value value;
    Vec peak = g.high >= -g.low ? g.high : g.low, error = g.squares, best = {};
    Bits scale = nearest_bf16(splat(1.0f));
    for (int i = -9; i < 11; i++) {
        Vec trial = i < 10 ? g.fitted(-(8.0f + 0.1f * i) / peak, value) : g.largest() / 7.0f;
        Bits stored = nearest_bf16(trial * g.back);
        trial = (Vec)(stored << 16) * g.unit;
        Vec found = g.error(trial, value);
        auto better = found < error;  // never of zeros
        error = better ? found : error;
        best = better ? trial : best;
        scale = better ? stored : scale;
    }
    for (int l = 0; l < W && l < count; l++) scales[l] = scale[l];
    Vec inverse = best == 0.0f ? Vec{} : 1.0f / best;
    long per = g.group / 8;  // words of a group
    for (long i = 0; i < per; i++) {
        Bits word = {};
        for (int j = 0; j < 8; j++) {
            Bits q = (Bits)value.shifted(load(g.x + (8 * i + j) * W) * inverse);
            word |= ((q + 8) & 15) << 4 * j;
        }
        for (int l = 0; l < W; l++)
            if (l * per + i < room) words[l * per + i] = word[l];
    }
}

template <class Stored>
void int4_row(const Stored* w, uint32_t* packed, bf16* scale, long K, long group) {
    Groups g;
    g.group = group;
    long words = (K + 7) / 8, count = (K + group - 1) / group;
    for (long first = 0; first < count; first += W) {
        long k = first * group;
        g.read(w + k, K - k);
        int4_groups(g, packed + k / 8, words - k / 8, scale + first, count - first);
    }
}

// -- nf4 ------------------------------------------------------------------------------------------

struct NF4Value {
    float values[16], middles[15];

    Vec operator()(Vec v) const {
        Vec value = splat(values[0]);
        for (int j = 0; j < 15; j++) value = v > splat(middles[j]) ? splat(values[j + 1]) : value;
        return value;
    }
    Bits index(Vec v) const {
        Bits index = {};
        for (int j = 0; j < 15; j++) index -= (Bits)(v > splat(middles[j]));
        return index;
    }
};

// W blocks: codes into `bytes`, of which `room` are left, and factors.
void nf4_blocks(const NF4Value& value, const Groups& g, uint8_t* bytes, long room, float* factors,
                long count) {
    Vec peak = g.largest(), error = g.squares, best = {};
    for (int i = 0; i < 16; i++) {
        Vec trial = i ? g.fitted(1.0f / (peak * (0.675f + 0.025f * i)), value) : peak;
        Vec found = g.error(trial, value);
        auto better = found < error;
        error = better ? found : error;
        best = better ? trial : best;
    }
    Vec factor = best * g.back;
    for (int l = 0; l < W && l < count; l++) factors[l] = factor[l];
    Vec inverse = best == 0.0f ? Vec{} : 1.0f / best;
    long per = g.group / 2;  // bytes of a block
    for (long i = 0; i < per; i++) {
        Bits pair = value.index(load(g.x + 2 * i * W) * inverse) << 4 |
                    value.index(load(g.x + (2 * i + 1) * W) * inverse);
        for (int l = 0; l < W; l++)
            if (l * per + i < room) bytes[l * per + i] = pair[l];
    }
}

// -- int8 -----------------------------------------------------------------------------------------

template <class Stored>
void int8_row(const Stored* w, uint8_t* bytes, bf16* scale, long K) {
    Vec top = {};
    long k = 0;
    for (; k + W <= K; k += W) {
        Vec v = load(w + k);
        top = larger(top, larger(v, -v));
    }
    float most = largest(top);
    for (; k < K; k++) most = fabsf(widen(w[k])) > most ? fabsf(widen(w[k])) : most;
    bf16 stored = nearest_bf16(splat(most / 127.0f))[0];
    bool usable = widen(stored) >= 1.17549435e-38f;
    *scale = usable ? stored : 0x3F80;  // 1
    float inverse = usable ? 1.0f / widen(stored) : 0.0f;
    for (k = 0; k + W <= K; k += W) {
        Bits q = (Bits)(clamped(load(w + k) * inverse, -127.0f, 127.0f) + SHIFT);
        typedef uint8_t Bytes __attribute__((vector_size(W)));
        Bytes narrow = __builtin_convertvector(q + 128, Bytes);
        memcpy(bytes + k, &narrow, sizeof narrow);
    }
    for (; k < K; k++) {
        float v = widen(w[k]) * inverse;
        v = v < -127.0f ? -127.0f : v > 127.0f ? 127.0f : v;
        bytes[k] = (uint8_t)((int)((v + SHIFT) - SHIFT) + 128);
    }
    for (; k % 4; k++) bytes[k] = 128;
}

constexpr long PART = 64 << 10;  // weights per part

}  // namespace

// w [R, K], float32 or (halves) bf16; packed [R, ceil(K / 8)] words, scale [R, ceil(K / group)] bf16.
// `group` is a multiple of 8, up to LONGEST.
EXPORT void quantize_int4(ForkJoin fork_join, int threads, const void* w, uint32_t* packed, bf16* scale,
                          long R, long K, long group, int halves) {
    parallel(fork_join, threads, R, [=](long r) {
        uint32_t* words = packed + r * ((K + 7) / 8);
        bf16* scales = scale + r * ((K + group - 1) / group);
        if (halves)
            int4_row((const bf16*)w + r * K, words, scales, K, group);
        else
            int4_row((const float*)w + r * K, words, scales, K, group);
    });
}

// w [R, K], float32 or (halves) bf16; packed [R, ceil(K / 4)] words, scale [R] bf16.
EXPORT void quantize_int8(ForkJoin fork_join, int threads, const void* w, uint8_t* packed, bf16* scale,
                          long R, long K, int halves) {
    long part = (PART + K - 1) / K;
    parallel(fork_join, threads, (R + part - 1) / part, [=](long i) {
        long last = (i + 1) * part < R ? (i + 1) * part : R;
        for (long r = i * part; r < last; r++) {
            uint8_t* bytes = packed + r * ((K + 3) / 4 * 4);
            if (halves)
                int8_row((const bf16*)w + r * K, bytes, scale + r, K);
            else
                int8_row((const float*)w + r * K, bytes, scale + r, K);
        }
    });
}

// w [count], float32 or (halves) bf16, `count` even; table [16]; packed [count / 2] bytes, factor
// [ceil(count / block)]. `block` is even, up to LONGEST.
EXPORT void quantize_nf4(ForkJoin fork_join, int threads, const void* w, const float* values,
                         uint8_t* packed, float* factor, long count, long block, int halves) {
    NF4Value value;
    for (int j = 0; j < 16; j++) value.values[j] = values[j];
    for (int j = 0; j < 15; j++) value.middles[j] = (values[j] + values[j + 1]) / 2.0f;
    long blocks = (count + block - 1) / block, part = PART / block / W * W;
    parallel(fork_join, threads, (blocks + part - 1) / part, [&](long i) {
        Groups g;
        g.group = block;
        long last = (i + 1) * part < blocks ? (i + 1) * part : blocks;
        for (long b = i * part; b < last; b += W) {
            long first = b * block;
            if (halves)
                g.read((const bf16*)w + first, count - first);
            else
                g.read((const float*)w + first, count - first);
            nf4_blocks(value, g, packed + first / 2, (count - first) / 2, factor + b, last - b);
        }
    });
}
