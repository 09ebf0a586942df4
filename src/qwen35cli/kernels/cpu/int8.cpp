// y = x W^T for 8-bit weights, with the activations of 256 neighbours rounded to int16: finer than
// bf16. Rows lie a share of the part apart, each one long stream (see linear.cpp).
#include "linear.h"

namespace {

constexpr bool WIDE = W == 16;  // then there are 32 registers, not 16

// Rows that T tokens are multiplied with at once: with more, the tokens come out of the first-level
// cache less often, with fewer, the sums stay in registers.
template <int T>
constexpr int ROWS = T <= 2 ? 4 : WIDE ? (T == 5 ? 3 : 4) : T == 3 ? 3 : 2;

#if defined(__AVX2__)

constexpr long AHEAD_BYTES = 1024;  // of a row

constexpr long STEP = 2 * W;  // weights in a vector

#if defined(__AVX512BW__)
typedef __m512i Ints;
INLINE Ints load16(const uint8_t* p) { return _mm512_cvtepu8_epi16(_mm256_loadu_si256((const __m256i*)p)); }
INLINE Ints load_ints(const void* p) { return _mm512_loadu_si512(p); }
INLINE Vec to_float(Ints v) { return (Vec)_mm512_cvtepi32_ps(v); }
#else
typedef __m256i Ints;
INLINE Ints load16(const uint8_t* p) { return _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i*)p)); }
INLINE Ints load_ints(const void* p) { return _mm256_loadu_si256((const __m256i*)p); }
INLINE Vec to_float(Ints v) { return (Vec)_mm256_cvtepi32_ps(v); }
#endif

// acc + the two products of 16-bit numbers in each 32-bit lane.
#if defined(__AVX512VNNI__) && defined(__AVX512BW__)
INLINE Ints dot2(Ints acc, Ints a, Ints b) { return _mm512_dpwssd_epi32(acc, a, b); }
#elif defined(__AVXVNNI__)
INLINE Ints dot2(Ints acc, Ints a, Ints b) { return _mm256_dpwssd_avx_epi32(acc, a, b); }
#elif defined(__AVX512BW__)
INLINE Ints dot2(Ints acc, Ints a, Ints b) { return _mm512_add_epi32(acc, _mm512_madd_epi16(a, b)); }
#else
INLINE Ints dot2(Ints acc, Ints a, Ints b) { return _mm256_add_epi32(acc, _mm256_madd_epi16(a, b)); }
#endif

// R rows of W, `stride` rows apart, against T tokens. Sums of a block stay below
// 256 / W * 255 * 32767 < 2^29 in a lane, the correction below half of that.
template <int R, int T>
void dots(const uint8_t* w, long pitch, long stride, const Block* x, long blocks, long K,
          const bf16* scale, float* y, long y_stride) {
    Vec sums[R][T] = {};
    for (long b = 0; b < blocks; b++) {
        const long whole = (K - b * BLOCK < BLOCK ? K - b * BLOCK : BLOCK) / STEP * STEP;
        const uint8_t* from = w + b * BLOCK;
        // Into the second-level cache: the hardware fetches less far ahead than several tokens take.
        // 10 -> 6.5 ms for four tokens and 65,536 rows of 2,560, on Zen 4.
        if (WIDE && T > 1)
            for (int r = 0; r < R; r++)
                for (long line = 0; line < BLOCK; line += 64)
                    __builtin_prefetch(from + r * stride * pitch + AHEAD_BYTES + line, 0, 2);
        Ints part[R][T];
        for (int t = 0; t < T; t++)
            for (int r = 0; r < R; r++) part[r][t] = load_ints(x[t * blocks + b].start);
        for (long k = 0; k < whole; k += STEP) {
            Ints row[R];
            for (int r = 0; r < R; r++) row[r] = load16(from + r * stride * pitch + k);
            for (int t = 0; t < T; t++) {
                Ints values = load_ints(x[t * blocks + b].q + k);
                for (int r = 0; r < R; r++) part[r][t] = dot2(part[r][t], row[r], values);
            }
        }
        for (int t = 0; t < T; t++)
            for (int r = 0; r < R; r++) sums[r][t] += to_float(part[r][t]) * x[t * blocks + b].scale;
    }
    for (int t = 0; t < T; t++)
        for (int r = 0; r < R; r++) {
            float total = sum(sums[r][t]);
            if (long left = K % STEP) {
                const Block& block = x[t * blocks + blocks - 1];
                int32_t rest = 0;
                for (long k = K - left; k < K; k++)
                    rest += (w[r * stride * pitch + k] - 128) * block.q[k % BLOCK];
                total += (float)rest * block.scale;
            }
            y[t * y_stride + r * stride] = total * widen(scale[r * stride]);
        }
}

#else

constexpr long STEP = BLOCK + 1;  // no lanes: nothing to correct

template <int R, int T>
void dots(const uint8_t* w, long pitch, long stride, const Block* x, long blocks, long K,
          const bf16* scale, float* y, long y_stride) {
    float sums[R][T] = {};
    for (long b = 0; b < blocks; b++, w += BLOCK) {
        long count = K - b * BLOCK < BLOCK ? K - b * BLOCK : BLOCK;
        for (int r = 0; r < R; r++) {
            int16_t row[BLOCK];
            for (long k = 0; k < count; k++) row[k] = (int16_t)(w[r * stride * pitch + k] - 128);
            for (int t = 0; t < T; t++) {
                const Block& block = x[t * blocks + b];
                int32_t total = 0;  // 256 * 128 * 32767 < 2^31
                for (long k = 0; k < count; k++) total += row[k] * block.q[k];
                sums[r][t] += (float)total * block.scale;
            }
        }
    }
    for (int r = 0; r < R; r++)
        for (int t = 0; t < T; t++) y[t * y_stride + r * stride] = sums[r][t] * widen(scale[r * stride]);
}

#endif

// `count` rows, `stride` apart in groups of R; each group, in the first-level cache, meets all tokens.
template <int R, int T>
void group(const uint8_t* w, long pitch, long stride, const Block* x, long blocks, long K,
           const bf16* scale, float* y, long y_stride, long tokens) {
    for (long t = 0; t < tokens; t += T)
        dots<R, T>(w, pitch, stride, x + t * blocks, blocks, K, scale, y + t * y_stride, y_stride);
}

template <int T>
void rows(const uint8_t* w, long pitch, long count, const Block* x, long blocks, long K,
          const bf16* scale, float* y, long y_stride, long tokens) {
    constexpr int R = ROWS<T>;
    long stride = count / R, n = 0;
    for (; n < stride; n++)
        group<R, T>(w + n * pitch, pitch, stride, x, blocks, K, scale + n, y + n, y_stride, tokens);
    for (n = stride * R; n < count; n++)
        group<1, T>(w + n * pitch, pitch, 1, x, blocks, K, scale + n, y + n, y_stride, tokens);
}

}  // namespace

void round_blocks(const Input& in, long t) {
    long blocks = (in.K + BLOCK - 1) / BLOCK;
    for (long b = 0; b < blocks; b++) {
        const float* x = in.x + t * in.K + b * BLOCK;
        long count = in.K - b * BLOCK < BLOCK ? in.K - b * BLOCK : BLOCK;
        float padded[BLOCK];
        if (count < BLOCK) {
            memset(padded, 0, sizeof padded);
            memcpy(padded, x, count * sizeof(float));
            x = padded;
        }
        Block& to = in.blocks[t * blocks + b];
        Scaling by = scaling(x, BLOCK, 32767.0f);
        int32_t q[BLOCK];
        round_all(x, BLOCK, by.inverse, q);
        for (int i = 0; i < BLOCK; i++) to.q[i] = (int16_t)q[i];
        for (int lane = 0; lane < W; lane++) to.start[lane] = 0;
        for (long k = 0; k + STEP <= count; k += STEP)
            for (int lane = 0; lane < W; lane++)
                to.start[lane] -= 128 * (to.q[k + 2 * lane] + to.q[k + 2 * lane + 1]);
        to.scale = by.scale;
    }
}

void int8_rows(const Matrix& m, const Input& in, long first, long count, float* y, long stride) {
    long pitch = (in.K + 3) / 4 * 4, blocks = (in.K + BLOCK - 1) / BLOCK, K = in.K;
    const uint8_t* w = (const uint8_t*)m.codes + first * pitch;
    const bf16* scale = (const bf16*)m.scale + first;
    for (long t = 0, take; t < in.T; t += take, y += take * stride) {
        const Block* x = in.blocks + t * blocks;
        long left = in.T - t;
        take = left >= 8 ? 8 : left == 5 && !WIDE ? 3 : left == 7 ? 4 : left;
        switch (take) {
            case 1: rows<1>(w, pitch, count, x, blocks, K, scale, y, stride, 1); break;
            case 2: rows<2>(w, pitch, count, x, blocks, K, scale, y, stride, 2); break;
            case 5: rows<5>(w, pitch, count, x, blocks, K, scale, y, stride, 5); break;
            case 3: case 6: rows<3>(w, pitch, count, x, blocks, K, scale, y, stride, take); break;
            default: rows<4>(w, pitch, count, x, blocks, K, scale, y, stride, take);
        }
    }
}
