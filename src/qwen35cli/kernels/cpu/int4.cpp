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

// 16 bytes of R rows, `step` bytes apart -> four vectors of a 32-bit word of each row.
INLINE void words_of(const uint8_t* p, long step, Codes (&words)[4]) {
    Codes a = every_fourth(p, step), b = every_fourth(p + step, step);
    Codes d = every_fourth(p + 2 * step, step), e = every_fourth(p + 3 * step, step);
    Codes ab = unpacklo32(a, b), de = unpacklo32(d, e);
    Codes AB = unpackhi32(a, b), DE = unpackhi32(d, e);
    words[0] = unpacklo64(ab, de);
    words[1] = unpackhi64(ab, de);
    words[2] = unpacklo64(AB, DE);
    words[3] = unpackhi64(AB, DE);
}

// The same of rows that have but `bytes` left, of which zeros make 16.
void words_of_end(const uint8_t* p, long step, long bytes, Codes (&words)[4]) {
    uint8_t rest[R][16] = {};
    for (int r = 0; r < R; r++) memcpy(rest[r], p + r * step, bytes);
    words_of(rest[0], 16, words);
}

INLINE void words_within(const uint8_t* p, long step, long bytes, Codes (&words)[4]) {
    if (bytes >= 16)
        words_of(p, step, words);
    else
        words_of_end(p, step, bytes, words);
}

// Words -> eight vectors of four codes of each row.
INLINE void unpack(const Codes (&words)[4], Codes (&c)[8]) {
    for (int j = 0; j < 4; j++) {
        c[2 * j] = low(words[j]);
        c[2 * j + 1] = high(words[j]);
    }
}

// Scale i of each row, from the words of eight.
INLINE Vec scale_of(const Codes (&words)[4], int i) {
    const Bits two = (Bits)words[i / 2];
    return (Vec)(i % 2 ? two & 0xffff0000 : two << 16);
}

// Adds what a group of R rows gives with T tokens; weight_scale is that of each row.
template <int T>
INLINE void add(const Codes (&c)[8], const Group* x, Vec weight_scale, Vec (&sums)[T]) {
    for (int t = 0; t < T; t++) sums[t] += to_float(dot32(c, x[t])) * (weight_scale * x[t].scale);
}

template <int T>
INLINE void group(const Codes (&words)[4], const Group* x, Vec weight_scale, Vec (&sums)[T]) {
    Codes c[8];
    unpack(words, c);
    add<T>(c, x, weight_scale, sums);
}

// Lines of the `eighth` of R rows that is given into the second-level cache, long before they are read:
// sixteen streams of codes and of scales are more than the hardware prefetcher follows. Not nearer,
// where such streams meet in few sets; not all rows at once, which holds up the loads behind (35 -> 41
// GB/s on Zen 4, 22 without any). Of eight streams it only cost.
INLINE void fetch(const uint8_t* p, long step, long eighth, int lines) {
    if (R < 16) return;
    p += eighth * R / 8 * step;
    for (int r = 0; r < R / 8; r++, p += step)
        for (int line = 0; line < lines; line++) __builtin_prefetch(p + 64 * line, 0, 2);
}

// R rows from `row` on, `step` apart, against T tokens; sums[t] holds the R outputs.
template <int T>
INLINE void strip(const View& m, long row, long step, const Group* x, Vec (&sums)[T]) {
    const uint8_t* codes = m.codes + row * m.row_bytes;
    const uint8_t* scale = (const uint8_t*)(m.scale + row * m.scales);
    const long code_step = step * m.row_bytes, scale_step = 2 * step * m.scales;
    const long whole = m.row_bytes / 16;  // groups that end within the row
    for (int t = 0; t < T; t++) sums[t] = splat(0.0f);
    long g = 0;
    for (long s = 0; s < m.scales; s += 8, scale += 16) {
        Codes words[4], scales[4];
        words_within(scale, scale_step, 2 * (m.scales - s), scales);
        if (m.per_scale == 1 && g + 8 <= whole) {  // nearly always: no loops within
            const uint8_t* later = codes + AHEAD_BYTES;
            for (int i = 0; i < 8; i++, codes += 16, x += T) {
                fetch(later, code_step, i, 2);
                if (s % 32 == 0) fetch(scale + AHEAD_BYTES / 8, scale_step, i, 1);
                words_of(codes, code_step, words);
                group<T>(words, x, scale_of(scales, i), sums);
            }
            g += 8;
            continue;
        }
        for (int i = 0; i < 8; i++) {
            const Vec by = scale_of(scales, i);
            const long last = g + m.per_scale < m.groups ? g + m.per_scale : m.groups;
            if (s % 32 == 0) fetch(scale + AHEAD_BYTES / 8, scale_step, i, 1);
            for (; g < last; g++, codes += 16, x += T) {
                fetch(codes - g % 8 * 16 + AHEAD_BYTES, code_step, g % 8, 2);
                words_within(codes, code_step, m.row_bytes - 16 * g, words);
                group<T>(words, x, by, sums);
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
        const uint8_t* from = m.codes + row * m.row_bytes + 16 * first;
        const long left = m.groups - first, bytes = m.row_bytes - 16 * first;
        const long scale = row * m.scales + first / m.per_scale;
        const long scale_bytes = 2 * (m.scales - first / m.per_scale);
        Codes words[4];
        Vec by[8];
        words_within((const uint8_t*)(m.scale + scale), 2 * step * m.scales, scale_bytes, words);
        for (int i = 0; i < 8; i++) by[i] = scale_of(words, i);
        count = left < PIECE ? left : PIECE;
        for (long i = 0; i < count; i++) {
            words_within(from + 16 * i, step * m.row_bytes, bytes - 16 * i, words);
            unpack(words, codes[i]);
            scales[i] = by[i / m.per_scale];
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
