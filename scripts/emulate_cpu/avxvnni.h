// AVX-VNNI on a CPU with AVX2, after the pseudo code of Intel's manual; see avx512.h.
#pragma once
#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#define DOT(name, a_type, b_type, count)                                                \
    static inline __m256i emulated_##name(__m256i sums, __m256i a, __m256i b) {         \
        a_type s[count];                                                                \
        b_type t[count];                                                                \
        int32_t out[8];                                                                 \
        memcpy(s, &a, sizeof s);                                                        \
        memcpy(t, &b, sizeof t);                                                        \
        memcpy(out, &sums, sizeof out);                                                 \
        for (int i = 0; i < count; i++) out[i * 8 / count] += (int32_t)s[i] * t[i];     \
        memcpy(&sums, out, sizeof sums);                                                \
        return sums;                                                                    \
    }
DOT(dpbusd, uint8_t, int8_t, 32)
DOT(dpwssd, int16_t, int16_t, 16)
#define _mm256_dpbusd_avx_epi32 emulated_dpbusd
#define _mm256_dpwssd_avx_epi32 emulated_dpwssd

#define __AVXVNNI__ 1
