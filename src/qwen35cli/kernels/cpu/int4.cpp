// y = x W^T for 4-bit weights, with the activations of 32 neighbours rounded to int8.
//
// 16 bytes of a row are 32 weights. Those of R rows are transposed in registers: each 32-bit lane is
// then a row, so that four activations, broadcast, serve R rows, and sums need no folding. Unpacked
// once, the codes meet all tokens of a chunk. The R rows lie a share of the part apart (see linear.cpp).
//
// Many tokens: the same sums in the same order, so the same bits. A piece of R rows is unpacked into
// the first-level cache and meets one chunk after the other there; the tokens that it meets fit into
// the second-level cache.
#include <stdlib.h>

#include "linear.h"

namespace {

struct View {
    const uint8_t* codes;
    const bf16* scale;
    long row_bytes;  // of codes in a row
    long scales;     // of a row
    long per_scale;  // groups of activations that share a scale of the weights
    long groups;     // of activations in a row
};

template <int T>
struct Tokens {
    static constexpr int value = T;
};

// Calls `work` with the tokens of a chunk, of which so many are left, as a constant.
template <class Work>
INLINE void of_chunk(long left, const Work& work) {
    static_assert(CHUNK == 8);
    switch (left) {
        case 1: work(Tokens<1>()); break;
        case 2: work(Tokens<2>()); break;
        case 3: work(Tokens<3>()); break;
        case 4: work(Tokens<4>()); break;
        case 5: work(Tokens<5>()); break;
        case 6: work(Tokens<6>()); break;
        case 7: work(Tokens<7>()); break;
        default: work(Tokens<8>());
    }
}

INLINE int32_t word(const uint8_t* p) {
    int32_t value;
    memcpy(&value, p, sizeof value);
    return value;
}

#if defined(__AVX2__)

constexpr int R = W;
constexpr long AHEAD_BYTES = 1024;  // of codes

#if defined(__AVX512BW__)
typedef __m512i Codes;
INLINE Codes low(Codes w) { return _mm512_and_si512(w, _mm512_set1_epi8(15)); }
INLINE Codes high(Codes w) { return low(_mm512_srli_epi16(w, 4)); }
INLINE Codes four(const int8_t* q) { return _mm512_set1_epi32(word((const uint8_t*)q)); }
INLINE Vec to_float(Codes v) { return (Vec)_mm512_cvtepi32_ps(v); }
INLINE Codes unpacklo32(Codes a, Codes b) { return _mm512_unpacklo_epi32(a, b); }
INLINE Codes unpackhi32(Codes a, Codes b) { return _mm512_unpackhi_epi32(a, b); }
INLINE Codes unpacklo64(Codes a, Codes b) { return _mm512_unpacklo_epi64(a, b); }
INLINE Codes unpackhi64(Codes a, Codes b) { return _mm512_unpackhi_epi64(a, b); }
INLINE Codes add16(Codes a, Codes b) { return _mm512_add_epi16(a, b); }
INLINE Codes add32(Codes a, Codes b) { return _mm512_add_epi32(a, b); }
INLINE Codes splat32(int32_t x) { return _mm512_set1_epi32(x); }
INLINE Codes pairs(Codes u, Codes s) { return _mm512_maddubs_epi16(u, s); }
INLINE Codes fours(Codes p) { return _mm512_madd_epi16(p, _mm512_set1_epi16(1)); }
// 16 bytes of rows 0, 4, 8 and 12 from `p` on, `step` bytes apart.
INLINE Codes every_fourth(const uint8_t* p, long step) {
    Codes v = _mm512_castsi128_si512(_mm_loadu_si128((const __m128i*)p));
    v = _mm512_inserti32x4(v, _mm_loadu_si128((const __m128i*)(p + 4 * step)), 1);
    v = _mm512_inserti32x4(v, _mm_loadu_si128((const __m128i*)(p + 8 * step)), 2);
    return _mm512_inserti32x4(v, _mm_loadu_si128((const __m128i*)(p + 12 * step)), 3);
}
#else
typedef __m256i Codes;
INLINE Codes low(Codes w) { return _mm256_and_si256(w, _mm256_set1_epi8(15)); }
INLINE Codes high(Codes w) { return low(_mm256_srli_epi16(w, 4)); }
INLINE Codes four(const int8_t* q) { return _mm256_set1_epi32(word((const uint8_t*)q)); }
INLINE Vec to_float(Codes v) { return (Vec)_mm256_cvtepi32_ps(v); }
INLINE Codes unpacklo32(Codes a, Codes b) { return _mm256_unpacklo_epi32(a, b); }
INLINE Codes unpackhi32(Codes a, Codes b) { return _mm256_unpackhi_epi32(a, b); }
INLINE Codes unpacklo64(Codes a, Codes b) { return _mm256_unpacklo_epi64(a, b); }
INLINE Codes unpackhi64(Codes a, Codes b) { return _mm256_unpackhi_epi64(a, b); }
INLINE Codes add16(Codes a, Codes b) { return _mm256_add_epi16(a, b); }
INLINE Codes add32(Codes a, Codes b) { return _mm256_add_epi32(a, b); }
INLINE Codes splat32(int32_t x) { return _mm256_set1_epi32(x); }
INLINE Codes pairs(Codes u, Codes s) { return _mm256_maddubs_epi16(u, s); }
INLINE Codes fours(Codes p) { return _mm256_madd_epi16(p, _mm256_set1_epi16(1)); }
// 16 bytes of rows 0 and 4 from `p` on, `step` bytes apart.
INLINE Codes every_fourth(const uint8_t* p, long step) {
    return _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_loadu_si128((const __m128i*)p)),
                                   _mm_loadu_si128((const __m128i*)(p + 4 * step)), 1);
}
#endif

// acc + the four products of unsigned u and signed s in each 32-bit lane.
#if defined(__AVX512VNNI__) && defined(__AVX512BW__)
#define FUSED_DOT 1
INLINE Codes dot4(Codes acc, Codes u, Codes s) { return _mm512_dpbusd_epi32(acc, u, s); }
#elif defined(__AVXVNNI__)
#define FUSED_DOT 1
INLINE Codes dot4(Codes acc, Codes u, Codes s) { return _mm256_dpbusd_avx_epi32(acc, u, s); }
#else
#define FUSED_DOT 0
#endif

// 32 codes of R rows against 32 activations: R integer sums.
INLINE Codes dot32(const Codes (&c)[8], const Group& x) {
#if FUSED_DOT
    Codes first = splat32(x.start), second = splat32(0);
    for (int j = 0; j < 8; j += 2) {
        first = dot4(first, c[j], four(x.q + 4 * j));
        second = dot4(second, c[j + 1], four(x.q + 4 * j + 4));
    }
    return add32(first, second);
#else
    // 16 products per 16-bit lane: 16 * 15 * 127 = 30480 < 2^15.
    Codes sum = pairs(c[0], four(x.q));
    for (int j = 1; j < 8; j++) sum = add16(sum, pairs(c[j], four(x.q + 4 * j)));
    return add32(fours(sum), splat32(x.start));
#endif
}

// 16 bytes of R rows, `step` bytes apart -> eight vectors of four codes of each row.
INLINE void unpack(const uint8_t* p, long step, Codes (&c)[8]) {
    Codes a = every_fourth(p, step), b = every_fourth(p + step, step);
    Codes d = every_fourth(p + 2 * step, step), e = every_fourth(p + 3 * step, step);
    Codes ab = unpacklo32(a, b), de = unpacklo32(d, e);
    Codes AB = unpackhi32(a, b), DE = unpackhi32(d, e);
    Codes words[4] = {unpacklo64(ab, de), unpackhi64(ab, de), unpacklo64(AB, DE), unpackhi64(AB, DE)};
    for (int j = 0; j < 4; j++) {
        c[2 * j] = low(words[j]);
        c[2 * j + 1] = high(words[j]);
    }
}

// `count` <= 8 scales of eight rows, `step` apart -> to[scale][row], `width` apart.
INLINE void eight_scales(const bf16* p, long step, long count, bf16* to, long width) {
    if (count < 8) {
        for (long i = 0; i < count; i++)
            for (long r = 0; r < 8; r++) to[i * width + r] = p[r * step + i];
        return;
    }
    __m128i v[8], u[8];
    for (int r = 0; r < 8; r++) v[r] = _mm_loadu_si128((const __m128i*)(p + r * step));
    for (int r = 0; r < 4; r++) {  // rows r and r + 4 interleaved; three times that is a transposition
        u[2 * r] = _mm_unpacklo_epi16(v[r], v[r + 4]);
        u[2 * r + 1] = _mm_unpackhi_epi16(v[r], v[r + 4]);
    }
    for (int r = 0; r < 4; r++) {
        v[2 * r] = _mm_unpacklo_epi16(u[r], u[r + 4]);
        v[2 * r + 1] = _mm_unpackhi_epi16(u[r], u[r + 4]);
    }
    for (int r = 0; r < 4; r++) {
        _mm_storeu_si128((__m128i*)(to + 2 * r * width), _mm_unpacklo_epi16(v[r], v[r + 4]));
        _mm_storeu_si128((__m128i*)(to + (2 * r + 1) * width), _mm_unpackhi_epi16(v[r], v[r + 4]));
    }
}

// The same of the last group, of which the rows have `bytes`; activations behind them are zero.
INLINE void unpack_last(const uint8_t* p, long step, long bytes, Codes (&c)[8]) {
    uint8_t rest[R][16] = {};
    for (int r = 0; r < R; r++) memcpy(rest[r], p + r * step, bytes);
    unpack(rest[0], 16, c);
}

// Adds what a group of R rows gives with T tokens; weight_scale is that of each row.
template <int T>
INLINE void add(const Codes (&c)[8], const Group* x, Vec weight_scale, Vec (&sums)[T]) {
    for (int t = 0; t < T; t++) sums[t] += to_float(dot32(c, x[t])) * (weight_scale * x[t].scale);
}

template <int T>
INLINE void group(const uint8_t* codes, long step, const Group* x, Vec weight_scale, Vec (&sums)[T]) {
    Codes c[8];
    unpack(codes, step, c);
    add<T>(c, x, weight_scale, sums);
}

// The codes of eight scales, and four times as many scales now and then, into the second-level cache
// long before they are read: sixteen streams of each are more than the hardware prefetcher follows.
// Not nearer, where such streams meet in few sets. 23 -> 29 GB/s of 30 on Zen 4; of eight streams it
// only cost.
INLINE void fetch_ahead(const View& m, const uint8_t* codes, long code_step, const bf16* scale,
                        long scale_step) {
    if (R < 16) return;
    for (int r = 0; r < R; r++) {
        const uint8_t* from = codes + r * code_step + AHEAD_BYTES;
        for (long line = 0; line < 2 * m.per_scale; line++) __builtin_prefetch(from + 64 * line, 0, 2);
        if (scale) __builtin_prefetch((const uint8_t*)(scale + r * scale_step) + AHEAD_BYTES / 8, 0, 2);
    }
}

// R rows from `row` on, `step` apart, against T tokens; sums[t] holds the R outputs.
template <int T>
INLINE void strip(const View& m, long row, long step, const Group* x, Vec (&sums)[T]) {
    const uint8_t* codes = m.codes + row * m.row_bytes;
    const bf16* scale = m.scale + row * m.scales;
    const long code_step = step * m.row_bytes, scale_step = step * m.scales;
    const long whole = m.row_bytes / 16;  // groups that end within the row
    for (int t = 0; t < T; t++) sums[t] = splat(0.0f);
    long g = 0;
    for (long s = 0; s < m.scales; s += 8) {
        const long count = m.scales - s < 8 ? m.scales - s : 8;
        fetch_ahead(m, codes, code_step, s % 32 ? nullptr : scale + s, scale_step);
        bf16 scales[8][R];
        for (int r = 0; r < R; r += 8)
            eight_scales(scale + s + r * scale_step, scale_step, count, &scales[0][r], R);
        if (m.per_scale == 1 && g + count <= whole) {  // nearly always: no loops within
            for (long i = 0; i < count; i++, codes += 16, x += T)
                group<T>(codes, code_step, x, load(scales[i]), sums);
            g += count;
            continue;
        }
        for (long i = 0; i < count; i++) {
            const long last = g + m.per_scale < m.groups ? g + m.per_scale : m.groups;
            for (; g < last; g++, codes += 16, x += T)
                if (g < whole) {
                    group<T>(codes, code_step, x, load(scales[i]), sums);
                } else {
                    Codes c[8];
                    unpack_last(codes, code_step, m.row_bytes - 16 * g, c);
                    add<T>(c, x, load(scales[i]), sums);
                }
        }
    }
}

constexpr long PIECE = 8;               // groups that are unpacked at once
constexpr long NEAR_BYTES = 384 << 10;  // of activations that stay in the second-level cache

struct Piece {
    Codes codes[PIECE][8];
    Vec scales[PIECE];
    long count;  // groups

    // Groups `first` and following of R rows from `row` on, `step` apart.
    void read(const View& m, long row, long step, long first) {
        const long left = m.groups - first;
        count = left < PIECE ? left : PIECE;
        for (long i = 0; i < count; i++) {
            const long g = first + i;
            const uint8_t* from = m.codes + row * m.row_bytes + 16 * g;
            if (16 * (g + 1) <= m.row_bytes)
                unpack(from, step * m.row_bytes, codes[i]);
            else
                unpack_last(from, step * m.row_bytes, m.row_bytes - 16 * g, codes[i]);
            bf16 scale[R];
            for (int r = 0; r < R; r++) scale[r] = m.scale[(row + r * step) * m.scales + g / m.per_scale];
            scales[i] = load(scale);
        }
    }

    // Adds what it gives with T tokens.
    template <int T>
    void meet(const Group* x, float* sums) const {
        Vec total[T];
        for (int t = 0; t < T; t++) total[t] = load(sums + t * R);
        for (long i = 0; i < count; i++, x += T) add<T>(codes[i], x, scales[i], total);
        for (int t = 0; t < T; t++) store(sums + t * R, total[t]);
    }
};

// R rows from `row` on, `step` apart, against the tokens `first` to `first + tokens`.
void strip_of_many(const View& m, const Input& in, long row, long step, long first, long tokens,
                   float* sums) {
    memset(sums, 0, tokens * R * sizeof(float));
    Piece piece;
    for (long g = 0; g < m.groups; g += PIECE) {
        piece.read(m, row, step, g);
        for (long t = first; t < first + tokens; t += CHUNK) {
            float* to = sums + (t - first) * R;
            const Group* x = in.groups + t * m.groups;
            of_chunk(in.T - t, [&](auto n) { piece.meet<n.value>(x + n.value * g, to); });
        }
    }
}

void rows_of_many(const View& m, const Input& in, long first, long count, float* y, long stride) {
    const long apart = count / R, near = NEAR_BYTES / (m.groups * (long)sizeof(Group)) / CHUNK * CHUNK;
    const long most = near > CHUNK ? near : CHUNK;
    float* sums = (float*)malloc(most * R * sizeof(float));
    for (long t = 0; t < in.T; t += most) {
        const long tokens = in.T - t < most ? in.T - t : most;
        for (long n = 0; n < apart; n++) {
            strip_of_many(m, in, first + n, apart, t, tokens, sums);
            for (long i = 0; i < tokens; i++)
                for (int r = 0; r < R; r++) y[(t + i) * stride + n + r * apart] = sums[i * R + r];
        }
        for (long n = apart * R; n < count; n++) {
            strip_of_many(m, in, first + n, 0, t, tokens, sums);  // one row in all lanes
            for (long i = 0; i < tokens; i++) y[(t + i) * stride + n] = sums[i * R];
        }
    }
    free(sums);
}

template <int T>
void rows(const View& m, const Group* x, long first, long count, float* y, long stride) {
    long apart = count / R;
    Vec sums[T];
    for (long n = 0; n < apart; n++) {
        strip<T>(m, first + n, apart, x, sums);
        for (int t = 0; t < T; t++)
            for (int r = 0; r < R; r++) y[t * stride + n + r * apart] = sums[t][r];
    }
    for (long n = apart * R; n < count; n++) {
        strip<T>(m, first + n, 0, x, sums);  // one row in all lanes
        for (int t = 0; t < T; t++) y[t * stride + n] = sums[t][0];
    }
}

#else

// One row after the other; the compiler makes vectors of the inner loop.
template <int T>
void rows(const View& m, const Group* x, long first, long count, float* y, long stride) {
    for (long n = 0; n < count; n++) {
        const uint8_t* codes = m.codes + (first + n) * m.row_bytes;
        const bf16* scale = m.scale + (first + n) * m.scales;
        float sums[T] = {};
        for (long g = 0; g < m.groups; g++) {
            uint8_t bytes[16] = {};
            memcpy(bytes, codes + 16 * g, 16 * (g + 1) <= m.row_bytes ? 16 : m.row_bytes - 16 * g);
            int8_t w[32];
            for (int j = 0; j < 4; j++)
                for (int i = 0; i < 4; i++) {
                    w[8 * j + i] = (int8_t)((bytes[4 * j + i] & 15) - 8);
                    w[8 * j + 4 + i] = (int8_t)((bytes[4 * j + i] >> 4) - 8);
                }
            float weight_scale = widen(scale[g / m.per_scale]);
            for (int t = 0; t < T; t++) {
                const Group& group = x[g * T + t];
                int32_t total = 0;
                for (int i = 0; i < 32; i++) total += w[i] * group.q[i];
                sums[t] += (float)total * (weight_scale * group.scale);
            }
        }
        for (int t = 0; t < T; t++) y[t * stride + n] = sums[t];
    }
}

#endif

}  // namespace

void round_groups(const Input& in, long t) {
    long groups = (in.K + GROUP - 1) / GROUP;
    long before = t / CHUNK * CHUNK, tokens = in.T - before < CHUNK ? in.T - before : CHUNK;
    Group* to = in.groups + before * groups + (t - before);
    for (long g = 0; g < groups; g++, to += tokens) {
        const float* x = in.x + t * in.K + g * GROUP;
        float padded[GROUP] = {};
        if (in.K - g * GROUP < GROUP) {
            memcpy(padded, x, (in.K - g * GROUP) * sizeof(float));
            x = padded;
        }
        Scaling by = scaling(x, GROUP, 127.0f);
        int32_t q[GROUP], total = 0;
        round_all(x, GROUP, by.inverse, q);
        for (int i = 0; i < GROUP; i++) total += q[i];
        for (int j = 0; j < GROUP; j += 8)
            for (int i = 0; i < 4; i++) {
                to->q[j + i] = (int8_t)q[j + 2 * i];
                to->q[j + 4 + i] = (int8_t)q[j + 2 * i + 1];
            }
        to->scale = by.scale;
        to->start = -8 * total;
    }
}

void int4_rows(const Matrix& m, const Input& in, long first, long count, float* y, long stride) {
    long groups = (in.K + GROUP - 1) / GROUP;
    View view = {(const uint8_t*)m.codes,
                 (const bf16*)m.scale,
                 (in.K + 7) / 8 * 4,
                 (in.K + m.group - 1) / m.group,
                 m.group / GROUP,
                 groups};
#if defined(__AVX2__)
    if (in.T > CHUNK) return rows_of_many(view, in, first, count, y, stride);
#endif
    for (long t = 0; t < in.T; t += CHUNK, y += CHUNK * stride) {
        const Group* x = in.groups + t * groups;
        of_chunk(in.T - t, [&](auto n) { rows<n.value>(view, x, first, count, y, stride); });
    }
}
