// AVX-512 on any x86-64 CPU, for tests: included before all else (-include), it replaces the
// intrinsics by SIMDe's. Defining the compiler's own macros last makes the kernels take their AVX-512
// branches while the compiler itself emits AVX2.
#pragma once
#include <immintrin.h>
#include <string.h>

#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx512.h>

// What SIMDe 0.7.4 lacks, after the pseudo code of Intel's manual.
#define CONVERT(name, From, from, To, to, count)                              \
    static inline To emulated_##name(From x) {                                \
        from in[count];                                                       \
        to out[count];                                                        \
        memcpy(in, &x, sizeof in);                                            \
        for (int i = 0; i < count; i++) out[i] = (to)in[i];                   \
        To y;                                                                 \
        memcpy(&y, out, sizeof y);                                            \
        return y;                                                             \
    }
CONVERT(cvtepu16_epi32, __m256i, uint16_t, simde__m512i, uint32_t, 16)
CONVERT(cvtepu8_epi64, __m128i, uint8_t, simde__m512i, uint64_t, 8)
CONVERT(cvtepi8_epi32, __m128i, int8_t, simde__m512i, int32_t, 16)
CONVERT(cvtepu8_epi16, __m256i, uint8_t, simde__m512i, uint16_t, 32)
CONVERT(cvtepi32_ps, simde__m512i, int32_t, simde__m512, float, 16)

static inline simde__m512i emulated_cvtps_epi32(simde__m512 x) {
    float in[16];
    int32_t out[16];
    memcpy(in, &x, sizeof in);
    for (int i = 0; i < 16; i++) out[i] = _mm_cvtss_si32(_mm_set_ss(in[i]));
    simde__m512i y;
    memcpy(&y, out, sizeof y);
    return y;
}

static inline simde__m512i emulated_madd_epi16(simde__m512i a, simde__m512i b) {
    int16_t s[32], t[32];
    int32_t sums[16];
    memcpy(s, &a, sizeof s);
    memcpy(t, &b, sizeof t);
    for (int i = 0; i < 16; i++) sums[i] = s[2 * i] * t[2 * i] + s[2 * i + 1] * t[2 * i + 1];
    simde__m512i y;
    memcpy(&y, sums, sizeof y);
    return y;
}

#undef _mm512_cvtepu16_epi32
#undef _mm512_cvtepu8_epi64
#undef _mm512_cvtepi8_epi32
#undef _mm512_cvtepu8_epi16
#undef _mm512_cvtepi32_ps
#undef _mm512_cvtps_epi32
#undef _mm512_madd_epi16
#define _mm512_cvtepu16_epi32 emulated_cvtepu16_epi32
#define _mm512_cvtepu8_epi64 emulated_cvtepu8_epi64
#define _mm512_cvtepi8_epi32 emulated_cvtepi8_epi32
#define _mm512_cvtepu8_epi16 emulated_cvtepu8_epi16
#define _mm512_cvtepi32_ps emulated_cvtepi32_ps
#define _mm512_cvtps_epi32 emulated_cvtps_epi32
#define _mm512_madd_epi16 emulated_madd_epi16

#define __AVX512F__ 1
#define __AVX512BW__ 1
#define __AVX512DQ__ 1
#define __AVX512VL__ 1
