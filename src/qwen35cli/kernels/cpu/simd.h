// One vector type for all instruction sets. The library is compiled once per set (setup.py), so the
// width follows from the compiler's flags; the arithmetic is written with GCC/Clang vector operators
// and becomes AVX-512, AVX2, SSE2 or NEON. `a += b * c` is contracted into a fused multiply-add.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
constexpr int W = 16;  // floats in a vector
#elif defined(__AVX2__)
constexpr int W = 8;
#else
constexpr int W = 4;  // SSE2 or NEON
#endif

typedef float Vec __attribute__((vector_size(4 * W)));
typedef uint32_t Bits __attribute__((vector_size(4 * W)));
typedef uint16_t Half __attribute__((vector_size(2 * W)));  // W bf16 values
typedef uint16_t bf16;

#define INLINE static inline __attribute__((always_inline))

INLINE Vec load(const float* p) {
    Vec v;
    memcpy(&v, p, sizeof v);
    return v;
}

// bf16 is the upper half of a float. (GCC 12 widens by __builtin_convertvector in four instructions.)
INLINE Vec load(const bf16* p) {
#if defined(__AVX512F__)
    return (Vec)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)p)), 16);
#elif defined(__AVX2__)
    return (Vec)_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)p)), 16);
#elif defined(__SSE2__)
    return (Vec)_mm_unpacklo_epi16(_mm_setzero_si128(), _mm_loadl_epi64((const __m128i*)p));
#else
    Half h;
    memcpy(&h, p, sizeof h);
    return (Vec)(__builtin_convertvector(h, Bits) << 16);
#endif
}

// a * b + c, rounded once where the CPU can, whatever the compiler makes of the expression around it.
INLINE Vec fused(Vec a, Vec b, Vec c) {
#if defined(__AVX512F__)
    return (Vec)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__FMA__)
    return (Vec)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#else
    return a * b + c;
#endif
}

INLINE float fused(float a, float b, float c) {
#if defined(__FMA__)
    return __builtin_fmaf(a, b, c);
#else
    return a * b + c;
#endif
}

INLINE void store(float* p, Vec v) { memcpy(p, &v, sizeof v); }

INLINE float widen(float x) { return x; }
INLINE float widen(int8_t x) { return x; }

INLINE float widen(bf16 x) {
    uint32_t bits = (uint32_t)x << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

INLINE Vec splat(float x) { return Vec{} + x; }

template <int LANES>
INLINE float sum(const float* lanes) {
    if constexpr (LANES == 1) {
        return lanes[0];
    } else {
        typedef float Part __attribute__((vector_size(2 * LANES)));
        Part low, high;
        memcpy(&low, lanes, sizeof low);
        memcpy(&high, lanes + LANES / 2, sizeof high);
        low += high;
        float folded[LANES / 2];
        memcpy(folded, &low, sizeof low);
        return sum<LANES / 2>(folded);
    }
}

INLINE float sum(Vec v) {
    float lanes[W];
    memcpy(lanes, &v, sizeof v);
    return sum<W>(lanes);
}

INLINE Vec larger(Vec a, Vec b) { return a > b ? a : b; }

INLINE float largest(Vec v) {
    float lanes[W], highest;
    memcpy(lanes, &v, sizeof v);
    highest = lanes[0];
    for (int i = 1; i < W; i++) highest = lanes[i] > highest ? lanes[i] : highest;
    return highest;
}

// e^x to 2 ulp for x <= 0; below -87 it is the smallest normal number, not zero.
INLINE Vec exp_of_negative(Vec x) {
    typedef int32_t Ints __attribute__((vector_size(4 * W)));
    x = larger(x, splat(-87.0f));
    Vec shifted = x * 1.44269504f + 12582912.0f;  // 1.5 * 2^23: the sum's low bits are round(x / ln 2)
    Vec n = shifted - 12582912.0f;
    Vec r = x - n * 0.693359375f + n * 2.12194440e-4f;  // ln 2 in two pieces
    Vec p = splat(1.9875691500e-4f);
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    return (Vec)((Ints)p + ((Ints)shifted << 23));  // the exponent grows by n; higher bits fall out
}

// x / (1 + e^-x), without a power that could overflow.
INLINE Vec silu(Vec x) {
    Vec small = exp_of_negative(x < 0.0f ? x : -x);
    return (x < 0.0f ? x * small : x) / (1.0f + small);
}

INLINE Vec sigmoid(Vec x) {
    Vec small = exp_of_negative(x < 0.0f ? x : -x);
    return (x < 0.0f ? small : splat(1.0f)) / (1.0f + small);
}

// The same for what is left of a row: the lanes that are missing hold zero.
INLINE Vec load_some(const float* p, long count) {
    if (count >= W) return load(p);
    Vec v = {};
    memcpy(&v, p, count * sizeof(float));
    return v;
}

INLINE void store_some(float* p, Vec v, long count) {
    if (count >= W)
        store(p, v);
    else
        memcpy(p, &v, count * sizeof(float));
}

// W floats, rounded to the nearest integers, halves to even.
INLINE void store_nearest(int32_t* p, Vec v) {
#if defined(__AVX512F__)
    _mm512_storeu_si512(p, _mm512_cvtps_epi32((__m512)v));
#elif defined(__AVX2__)
    _mm256_storeu_si256((__m256i*)p, _mm256_cvtps_epi32((__m256)v));
#elif defined(__SSE2__)
    _mm_storeu_si128((__m128i*)p, _mm_cvtps_epi32((__m128)v));
#else
    for (int i = 0; i < W; i++) p[i] = (int32_t)__builtin_rintf(v[i]);
#endif
}
