// Quantized rows as plain numbers: float32 for the embedding of tokens, bf16 for matrix units.
#include "linear.h"

namespace {

INLINE void put(float* to, float value) { *to = value; }

INLINE void put(bf16* to, float value) {  // to the nearest, halves to even; NaN stays NaN
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    bool nan = (bits & 0x7fffffff) > 0x7f800000;
    *to = (bf16)(nan ? 0x7fc0 : (bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

template <class Out>
void int8_row(const uint8_t* codes, float scale, Out* to, long K) {
    for (long k = 0; k < K; k++) put(to + k, (float)(codes[k] - 128) * scale);
}

template <class Out>
void int4_row(const uint8_t* codes, const bf16* scale, long group, Out* to, long K) {
    for (long begin = 0; begin < K; begin += group, scale++) {
        long end = begin + group < K ? begin + group : K;
        float by = widen(*scale);
        long pairs = (end - begin) / 2;
        const uint8_t* from = codes + begin / 2;  // a group is even
        for (long i = 0; i < pairs; i++) {
            put(to + begin + 2 * i, (float)((from[i] & 15) - 8) * by);
            put(to + begin + 2 * i + 1, (float)((from[i] >> 4) - 8) * by);
        }
        if ((end - begin) % 2) put(to + end - 1, (float)((from[pairs] & 15) - 8) * by);
    }
}

template <class Out>
void nf4_row(const uint8_t* codes, const float* absmax, const float* table, long block, long first,
             Out* to, long K) {
    for (long k = 0; k < K; k++) {
        long i = first + k;
        put(to + k, table[i & 1 ? codes[i / 2] & 15 : codes[i / 2] >> 4] * absmax[i / block]);
    }
}

}  // namespace

// Rows `first` to `first + count` of the quantized m [N, K] as bf16 [count, K].
EXPORT void widen_rows(ForkJoin fork_join, int threads, const Matrix* m, long first, long count, long K,
                       bf16* out) {
    parallel(fork_join, worth(threads, count * K), count, [=](long i) {
        long n = first + i;
        bf16* to = out + i * K;
        const uint8_t* codes = (const uint8_t*)m->codes;
        if (m->kind == INT8)
            int8_row(codes + n * ((K + 3) / 4 * 4), widen(((const bf16*)m->scale)[n]), to, K);
        else if (m->kind == INT4)
            int4_row(codes + n * ((K + 7) / 8 * 4), (const bf16*)m->scale + n * ((K + m->group - 1) / m->group),
                     m->group, to, K);
        else
            nf4_row(codes, (const float*)m->scale, m->table, m->group, n * K, to, K);
    });
}

// Rows `ids` of an INT8 matrix as float32 [count, K]; the index of the first id that is none, or -1.
EXPORT long look_up_int8(const uint8_t* codes, const bf16* scale, const int64_t* ids, float* out,
                         long count, long N, long K) {
    for (long i = 0; i < count; i++) {
        if (ids[i] < 0 || ids[i] >= N) return i;
        int8_row(codes + ids[i] * ((K + 3) / 4 * 4), widen(scale[ids[i]]), out + i * K, K);
    }
    return -1;
}
