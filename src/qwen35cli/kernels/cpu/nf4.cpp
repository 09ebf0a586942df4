// y = x W^T for 4-bit indices into a table, in float32: the indices are looked up in registers.
#include "linear.h"

namespace {

struct View {
    const uint8_t* codes;
    const float *absmax, *table;
    long block, K;
};

// Index of the weight at `i`, counted over the flattened matrix: the high nibble comes first.
INLINE int index(const uint8_t* codes, long i) { return i & 1 ? codes[i / 2] & 15 : codes[i / 2] >> 4; }

#if defined(__AVX2__)

#if defined(__AVX512F__)
struct Table {
    __m512 values;
    explicit Table(const float* p) : values(_mm512_loadu_ps(p)) {}
    inline __attribute__((always_inline)) Vec look_up(const uint8_t* p) const {  // 16 indices
        int64_t bytes;
        memcpy(&bytes, p, sizeof bytes);
        __m512i pairs = _mm512_cvtepu8_epi64(_mm_set_epi64x(0, bytes));
        __m512i lanes = _mm512_or_si512(_mm512_srli_epi64(pairs, 4), _mm512_slli_epi64(pairs, 32));
        return (Vec)_mm512_permutexvar_ps(lanes, values);  // reads the lowest four bits
    }
};
#else
struct Table {
    __m256 lower, upper;
    explicit Table(const float* p) : lower(_mm256_loadu_ps(p)), upper(_mm256_loadu_ps(p + 8)) {}
    inline __attribute__((always_inline)) Vec look_up(const uint8_t* p) const {  // 8 indices
        int32_t bytes;
        memcpy(&bytes, p, sizeof bytes);
        __m256i lanes = _mm256_srlv_epi32(_mm256_set1_epi32(bytes), _mm256_setr_epi32(4, 0, 12, 8, 20, 16, 28, 24));
        __m256 which = _mm256_castsi256_ps(_mm256_slli_epi32(lanes, 28));  // bit 3 to the sign
        return (Vec)_mm256_blendv_ps(_mm256_permutevar8x32_ps(lower, lanes),
                                     _mm256_permutevar8x32_ps(upper, lanes), which);
    }
};
#endif

#else

struct Table {
    const float* values;
    explicit Table(const float* p) : values(p) {}
    inline __attribute__((always_inline)) Vec look_up(const uint8_t* p) const {
        Vec v;
        for (int i = 0; i < W; i++) v[i] = values[index(p, i)];
        return v;
    }
};

#endif

// R rows, `stride` apart, against T tokens; rows start with a block, and blocks are whole vectors.
template <int R, int T>
void aligned(const View& m, long row, long stride, const float* x, float* y, long y_stride) {
    Table table(m.table);
    const uint8_t* codes = m.codes + row * m.K / 2;
    const float* absmax = m.absmax + row * m.K / m.block;
    long code_step = stride * m.K / 2, block_step = stride * m.K / m.block;
    Vec sums[R][T] = {};
    for (long b = 0; b < m.K / m.block; b++) {
        Vec scale[R];
        for (int r = 0; r < R; r++) scale[r] = splat(absmax[b + r * block_step]);
        for (long k = b * m.block; k < (b + 1) * m.block; k += W) {
            Vec w[R];
            for (int r = 0; r < R; r++) w[r] = table.look_up(codes + k / 2 + r * code_step) * scale[r];
            for (int t = 0; t < T; t++) {
                Vec values = load(x + t * m.K + k);
                for (int r = 0; r < R; r++) sums[r][t] += w[r] * values;
            }
        }
    }
    for (int r = 0; r < R; r++)
        for (int t = 0; t < T; t++) y[t * y_stride + r * stride] = sum(sums[r][t]);
}

template <int R, int T>
void rows(const View& m, long first, long count, const float* x, float* y, long y_stride) {
    if (m.K % m.block || m.block % W || m.K % 2) {  // any shape, one weight at a time
        for (long n = 0; n < count; n++) {
            float sums[T] = {};
            for (long k = 0; k < m.K; k++) {
                long i = (first + n) * m.K + k;
                float w = m.table[index(m.codes, i)] * m.absmax[i / m.block];
                for (int t = 0; t < T; t++) sums[t] += w * x[t * m.K + k];
            }
            for (int t = 0; t < T; t++) y[t * y_stride + n] = sums[t];
        }
        return;
    }
    long stride = count / R;
    for (long n = 0; n < stride; n++) aligned<R, T>(m, first + n, stride, x, y + n, y_stride);
    for (long n = stride * R; n < count; n++) aligned<1, T>(m, first + n, 1, x, y + n, y_stride);
}

}  // namespace

void nf4_rows(const Matrix& m, const Input& in, long first, long count, float* y, long stride) {
    View view = {(const uint8_t*)m.codes, (const float*)m.scale, m.table, m.group, in.K};
    for (long t = 0, take; t < in.T; t += take, y += take * stride) {
        const float* x = in.x + t * in.K;
        long left = in.T - t;
        take = left == 5 || left == 6 ? 3 : left < 4 ? left : 4;
        switch (take) {
            case 1: rows<4, 1>(view, first, count, x, y, stride); break;
            case 2: rows<4, 2>(view, first, count, x, y, stride); break;
            case 3: rows<2, 3>(view, first, count, x, y, stride); break;
            case 4: rows<2, 4>(view, first, count, x, y, stride); break;
        }
    }
}
