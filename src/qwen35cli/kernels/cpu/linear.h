// What the files of the linear ops share: the matrices of a call, its input, and the input rounded to
// integers once for all of them.
#pragma once

#include "simd.h"
#include "threads.h"

enum Kind : long { BF16, INT4, INT8, NF4 };

// One matrix [N, K], in the layout of kernels/operands.py.
struct Matrix {
    long kind;
    const void* codes;   // bf16 weights or packed codes
    const void* scale;   // INT4: bf16 [N, K / group]; INT8: bf16 [N]; NF4: float32 of each block
    const float* table;  // NF4: 16 values
    long N;
    long group;  // INT4: weights of a scale; NF4: of a block
    float* y;    // [T, N]
};

// 32 activations of a token for INT4, as int8 times a scale. Their order is that in which the nibbles
// of 32-bit words come apart: of each eight 0, 2, 4, 6 and then 1, 3, 5, 7.
struct Group {
    int8_t q[32];
    float scale;
    int32_t start;  // -8 * the sum of q, since a code is a weight + 8
};
constexpr long GROUP = 32;

// 256 activations of a token for INT8, as int16 times a scale.
struct alignas(64) Block {
    int16_t q[256];
    int32_t start[W];  // -128 * what each lane of `dot2` adds up, since a code is a weight + 128
    float scale;
};
constexpr long BLOCK = 256;

constexpr int CHUNK = 8;  // tokens that a kernel takes in one pass over the weights

// The same T tokens in the forms that the kernels want; what no matrix of the call needs is null.
struct Input {
    const float* x;  // [T, K]
    Group* groups;   // [chunks of CHUNK tokens][ceil(K / 32)][tokens of the chunk]
    Block* blocks;   // [T][ceil(K / 256)]
    long T, K;
};

// Outputs [T, count] of the rows `first` to `first + count` of `m`, `stride` apart from token to token.
void int4_rows(const Matrix& m, const Input& in, long first, long count, float* y, long stride);
void int8_rows(const Matrix& m, const Input& in, long first, long count, float* y, long stride);
void nf4_rows(const Matrix& m, const Input& in, long first, long count, float* y, long stride);

// Rounds token `t`.
void round_groups(const Input& in, long t);
void round_blocks(const Input& in, long t);

// The largest magnitude of x[0, count); NaN where one of them is not finite.
INLINE float magnitude(const float* x, long count) {
    int32_t highest = 0;  // compared as integers: NaN > inf > all numbers
    for (long i = 0; i < count; i++) {
        int32_t bits;
        memcpy(&bits, x + i, sizeof bits);
        bits &= 0x7fffffff;
        highest = bits > highest ? bits : highest;
    }
    float value;
    if (highest >= 0x7f800000) highest = 0x7fc00000;
    memcpy(&value, &highest, sizeof value);
    return value;
}

// The scale that takes x[0, count) to integers up to `limit`, and its inverse. What is too small to be
// scaled becomes zero; what is not finite becomes NaN, and so do all outputs of the token.
struct Scaling {
    float scale, inverse;
};

INLINE Scaling scaling(const float* x, long count, float limit) {
    float most = magnitude(x, count);
    if (most != most) return {most, 0.0f};
    if (most < 1e-30f) return {0.0f, 0.0f};
    return {most / limit, limit / most};
}

// x[0, count) * inverse as integers; `count` is a multiple of W. An inverse of zero gives zeros, also
// where x is not finite.
INLINE void round_all(const float* x, long count, float inverse, int32_t* q) {
    if (inverse > 0.0f)
        for (long i = 0; i < count; i += W) store_nearest(q + i, load(x + i) * inverse);
    else
        memset(q, 0, count * sizeof *q);
}
