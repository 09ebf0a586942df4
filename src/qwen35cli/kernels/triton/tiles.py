"""Matrices in tiles of 16 rows, as the tensor cores of a GPU take them: layout and products.

A warp multiplies 16 rows by up to 8 tokens, 32 inputs at a time (`mma.m16n8k16`, twice). The order
of inputs within such a step is free, as long as weights and activations agree on it, and so it is
chosen that each lane reads 16 bytes of either side and finds them in the right registers: lane
`4 r + c` holds rows r and r + 8 and inputs 8 c to 8 c + 7, or 16 c to 16 c + 15 of 8-bit codes.

Codes become bfloat16 without a conversion: put under the exponent of 128 a code of up to 7 bits is
128 more than it was, exactly. What is too much is taken out by the tensor cores too: of 4-bit codes
as the product of a constant with the same activations, of 8-bit ones together with their upper bit.
So weights are exact, sums are float32, and a token has the same bits however many are multiplied
with it.

int4 is laid out anew by `prepare`, in as many bytes: for tile i, block b of 128 inputs, half h, row
r, lane c and v in 0 to 3, word [i, b, h, 4 r + c, v] holds of row 16 i + 8 h + r in its nibbles s
and s + 4 the inputs 128 b + 32 s + 8 c + 4 (v & 1) + 2 (v >> 1) and the next. Scales stand as
[i, b, pair of groups, row, group of the pair], those of groups of 128 as [i, b, 0, row, 0]. int8
and bf16 are read as they lie in the file.
"""

from typing import Final

import triton
import triton.language as tl

from qwen35cli.kernels import reference
from qwen35cli.kernels.operands import Int4, Weight

TILE: Final = 16  # rows
BLOCK: Final = 128  # inputs of a block of int4


def prepare(weight: Weight) -> Weight:
    """int4 in tiles, where its shape is a multiple of theirs; everything else as it is."""
    if not isinstance(weight, Int4) or not tileable(weight.shape):
        return weight
    N, K = weight.shape
    codes = reference.unpack(weight.packed, 4).view(N // TILE, 2, 8, K // BLOCK, 4, 4, 2, 2, 2)
    codes = codes.permute(0, 3, 1, 2, 5, 7, 6, 8, 4)  # tile block h r c v1 v0 klow s
    packed = reference.pack(codes.reshape(-1, 8), 4)
    side = 1 if weight.group == BLOCK else 2  # groups in a word of scales
    scale = weight.scale.view(N // TILE, TILE, K // BLOCK, -1, side).permute(0, 2, 3, 1, 4)
    shape = (N // TILE, K // BLOCK, 2, 32, 4)
    return Int4(packed.view(shape), scale.contiguous(), weight.shape, weight.group)


def tileable(shape: tuple[int, int]) -> bool:
    """Whether a matrix (N, K) consists of whole tiles."""
    return shape[0] % TILE == 0 and shape[1] % BLOCK == 0


def is_tiled(weight: Int4) -> bool:
    return weight.packed.dim() == 5


def natural(weight: Int4) -> Int4:
    """The layout of the file again: the inverse of `prepare`."""
    N, K = weight.shape
    codes = reference.unpack(weight.packed.view(-1, 1), 4)
    codes = codes.view(N // TILE, K // BLOCK, 2, 8, 4, 2, 2, 2, 4)
    codes = codes.permute(0, 2, 3, 1, 8, 4, 6, 5, 7)  # tile h r block s c v0 v1 klow
    packed = reference.pack(codes.reshape(N, K), 4)
    scale = weight.scale.permute(0, 3, 1, 2, 4).reshape(N, K // weight.group)
    return Int4(packed, scale, weight.shape, weight.group)


# -- what the kernels are made of: S is the number of warps, which share the inputs of a tile -----

INTERPRETED: Final = tl.constexpr(triton.knobs.runtime.interpret)
ONCE: Final = tl.constexpr("evict_first")  # weights are read once a step: others may stay


@triton.jit
def dot(a, b, total):
    """`tl.dot` of bfloat16; Triton's interpreter would multiply the bit patterns."""
    if INTERPRETED:
        return tl.dot(a.to(tl.float32), b.to(tl.float32), total)
    else:
        return tl.dot(a, b, total)


@triton.jit
def spread(words):
    """(S, 16, 16) int32 words of two bfloat16 each, the first in the low half -> (S, 16, 32)."""
    low = (words & 0xFFFF).to(tl.int16).to(tl.bfloat16, bitcast=True)
    high = (words >> 16).to(tl.int16).to(tl.bfloat16, bitcast=True)
    return tl.reshape(tl.join(low, high), (words.shape[0], 16, 32))


@triton.jit
def nibbles(words, magic, shift: tl.constexpr):
    """The codes in bits `shift` and 16 + `shift` of words, 128 more: (S, 16, 16) -> (S, 16, 32).

    `magic`, 128 twice in bfloat16, is an argument of the kernel: a register, so that masking and
    setting the exponent are one instruction.
    """
    return spread(((words >> shift) & 0x000F000F) | magic)


@triton.jit
def lower_bits(words, magic):
    """The lower 7 bits of the codes in bytes 0 and 2 of words, 128 more."""
    return spread((words & 0x007F007F) | magic)


@triton.jit
def upper_bit(words, minus128):
    """What those still lack: 128 and the offset of the code, less the upper bit: -128 or -256."""
    return spread((~words & 0x00800080) | minus128)


@triton.jit
def constant(words, word):
    """A tile of two bfloat16, `word`, made of codes as `nibbles` makes its own, so that it gets the
    same layout. That nothing is left of them is seen only when layouts have been chosen.
    """
    return spread(((words << 16) << 16) | word)


@triton.jit
def lanes(S: tl.constexpr):
    """Of all lanes their warp, and r and c of 4 r + c: three of (32 S,).

    What they read is a tensor of two dimensions with theirs first, so that there is one way to deal
    it out, in every version of Triton.
    """
    lane = tl.arange(0, 32 * S)
    return lane // 32, lane // 4 % 8, lane % 4


@triton.jit
def inputs(
    x_ptr, piece, K, T: tl.constexpr, S: tl.constexpr, SHARE: tl.constexpr, STRIDE: tl.constexpr
):
    """Pointers to the activations of a warp's first step, (32 S, 8): lane 4 t + c reads 8 of token
    t at `STRIDE` c. For tokens past T the last one is read again, which costs nothing.
    """
    warp, t, c = lanes(S)
    columns = (piece * S + warp) * SHARE + c * STRIDE
    where = tl.minimum(t, T - 1) * K + columns
    return x_ptr + where[:, None] + tl.arange(0, 8)[None, :]


@triton.jit
def by_halves(x, S: tl.constexpr):
    """Activations of `inputs` for int4 and bf16: (32 S, 8) -> (S, 32, 8)."""
    x = tl.permute(tl.reshape(x, (S, 8, 4, 2, 2, 2)), (0, 4, 2, 3, 5, 1))
    return tl.reshape(x, (S, 32, 8))


@triton.jit
def by_bytes(x, S: tl.constexpr):
    """Activations of `inputs` for int8, whose pairs are bytes 0 and 2, 1 and 3 of a word."""
    x = tl.permute(tl.reshape(x, (S, 8, 4, 2, 2, 2)), (0, 5, 2, 3, 4, 1))
    return tl.reshape(x, (S, 32, 8))


@triton.jit
def head_factor(
    squares_ptr, piece, start, T: tl.constexpr, S: tl.constexpr, SHARE: tl.constexpr,
    HEADS: tl.constexpr, WIDTH: tl.constexpr, PARTS: tl.constexpr, eps,
):  # fmt: skip
    """One over the root mean square of the head that each warp's input `start` lies in: (S, 1, 8).

    squares_ptr: (8, HEADS, PARTS) float32 sums of squares over parts of a head of `WIDTH`.
    """
    heads = ((piece * S + tl.arange(0, S)) * SHARE + start) // WIDTH
    tokens = tl.minimum(tl.arange(0, 8), T - 1)
    where = squares_ptr + (tokens[None, :] * HEADS + heads[:, None]) * PARTS
    total = tl.load(where)
    for part in tl.static_range(1, PARTS):
        total += tl.load(where + part)
    return (1.0 / tl.sqrt(total / WIDTH + eps))[:, None, :]


@triton.jit
def fetch_early(ptrs, BYTES: tl.constexpr, COUNT: tl.constexpr):
    """Have the first `COUNT` lanes of each warp ask for so many bytes from their (32 S,) `ptrs` on,
    multiples of 16, to come into the L2 cache: weights, while the launch before still runs."""
    lane = tl.arange(0, ptrs.shape[0]) % 32
    tl.inline_asm_elementwise(
        """{
        .reg .pred p;
        setp.lt.s32 p, $2, $3;
        @p cp.async.bulk.prefetch.L2.global [$1], $4;
        mov.b32 $0, 0;
        }""",
        "=r,l,r,r,r",
        [ptrs.to(tl.int64, bitcast=True), lane, COUNT, BYTES],
        dtype=tl.int32,
        is_pure=False,
        pack=1,
    )


@triton.jit
def wait(PDL: tl.constexpr):
    """Go on once the launch before has ended, and let the next one start to fetch its weights.

    What is read ahead of it was written no later than by the launch before that, which has ended.
    Where it ever changes it is read past the L1 cache (`.cg`): that may hold what was there before,
    and only behind the wait is it sure to be new.
    """
    if PDL:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()


@triton.jit
def norm_squares(norm_ptr, K: tl.constexpr, T: tl.constexpr, NORMED: tl.constexpr):
    """Sums of squares of each token's tiles, T of (NORMED,), fetched long before they are used."""
    squares = (tl.zeros((16,), dtype=tl.float32),)
    if NORMED:
        tiles = tl.arange(0, NORMED)
        known = tiles < K // 16
        squares = (tl.load(norm_ptr + tiles, mask=known, other=0.0),)
        for t in tl.static_range(1, T):
            more = tl.load(norm_ptr + t * (K // 16) + tiles, mask=known, other=0.0)
            squares = squares + (more,)
    return squares


@triton.jit
def reciprocal(squares, eps, K: tl.constexpr, T: tl.constexpr):
    """One over the root mean square of each token: (8,) float32."""
    tokens = tl.arange(0, 8)
    factor = tl.zeros((8,), dtype=tl.float32)
    for t in tl.static_range(T):
        factor = tl.where(tokens == t, 1.0 / tl.sqrt(tl.sum(squares[t]) / K + eps), factor)
    return factor


@triton.jit
def upper(word):
    """The second of two bfloat16 in an int32."""
    return (word & -65536).to(tl.float32, bitcast=True)


@triton.jit
def lower(word):
    """The first of two bfloat16 in an int32."""
    return (word << 16).to(tl.float32, bitcast=True)


@triton.jit
def int4_block(word_ptrs, scale_ptrs, block, GROUP: tl.constexpr):
    """What a block of a tile takes: words of both halves, scales of up to two pairs of groups."""
    PAIRS: tl.constexpr = 2 if GROUP == 32 else 1
    top = tl.load(word_ptrs + block * 256, eviction_policy=ONCE)
    bottom = tl.load(word_ptrs + block * 256 + 128, eviction_policy=ONCE)
    scales = tl.load(scale_ptrs + block * (16 * PAIRS))
    if GROUP == 32:
        return top, bottom, scales, tl.load(scale_ptrs + block * 32 + 16)
    else:
        return top, bottom, scales, scales


@triton.jit
def int4_part(part, block, GROUP: tl.constexpr, step: tl.constexpr):
    """Products of a step times the scales of its rows."""
    if GROUP == 128:
        scale = block[2].to(tl.float32)
    elif step * 32 // GROUP % 2:
        scale = upper(block[2 + step * 32 // (2 * GROUP)])
    else:
        scale = lower(block[2 + step * 32 // (2 * GROUP)])
    return part * scale[:, :, None]


@triton.jit
def int4_words(block, S: tl.constexpr):
    """Words of a block as a tile: (S, 16, 16), rows: half, r; words: v1, c, v0."""
    words = tl.reshape(tl.join(block[0], block[1]), (S, 8, 4, 2, 2, 2))
    return tl.reshape(tl.permute(words, (0, 5, 1, 3, 2, 4)), (S, 16, 16))


@triton.jit
def int4_chunk(ptrs, scale_ptrs, chunk, AHEAD: tl.constexpr, GROUP: tl.constexpr):
    """`AHEAD` blocks, fetched at once."""
    blocks = (int4_block(ptrs, scale_ptrs, chunk, GROUP),)
    for ahead in tl.static_range(1, AHEAD):
        blocks = blocks + (int4_block(ptrs, scale_ptrs, chunk + ahead, GROUP),)
    return blocks


@triton.jit
def int4_tiles(
    x_ptr, first_ptr, first_scale_ptr, second_ptr, second_scale_ptr, magic, minus136,
    squares_ptr, eps, piece, norm_ptr,
    K: tl.constexpr, GROUP: tl.constexpr, TILES: tl.constexpr, T: tl.constexpr, S: tl.constexpr,
    AHEAD: tl.constexpr, EARLY: tl.constexpr, PDL: tl.constexpr, SPLIT: tl.constexpr,
    NORMED: tl.constexpr, HEADS: tl.constexpr, WIDTH: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    """Products of one or two tiles in int4 with 8 tokens, for the share of each warp.

    Of the inputs `SPLIT` programs take a piece each, and the warps of each a share of that. The
    weights of `AHEAD` blocks are fetched at once, and `EARLY` more into the L2 cache before the
    wait. Two of (S, 16, 8).
    """
    SHARE: tl.constexpr = K // (S * SPLIT)
    BLOCKS: tl.constexpr = SHARE // 128
    SCALES: tl.constexpr = 16 if GROUP == 128 else 16 * 64 // GROUP
    start = (piece * S + tl.arange(0, S)) * BLOCKS
    warp, r, c = lanes(S)
    where = (piece * S + warp) * (BLOCKS * 256) + (4 * r + c) * 4
    where = where[:, None] + tl.arange(0, 4)[None, :]  # (32 S, 4)
    scale_where = start[:, None] * SCALES + tl.arange(0, 16)[None, :]
    a_ptrs, a_scales = first_ptr + where, first_scale_ptr + scale_where
    b_ptrs, b_scales = second_ptr + where, second_scale_ptr + scale_where
    x_ptrs = inputs(x_ptr, piece, K, T, S, SHARE, 8)
    nothing = tl.zeros((S, 16, 8), dtype=tl.float32)
    first, second = nothing, nothing
    factor = tl.full((S, 1, 8), 1.0, dtype=tl.float32)
    a = int4_chunk(a_ptrs, a_scales, 0, AHEAD, GROUP)
    b = a
    if TILES == 2:
        b = int4_chunk(b_ptrs, b_scales, 0, AHEAD, GROUP)
    if EARLY:
        later = (piece * S + warp) * BLOCKS + AHEAD
        for tile in tl.static_range(TILES):
            words_ptr = first_ptr if tile == 0 else second_ptr
            scales_ptr = first_scale_ptr if tile == 0 else second_scale_ptr
            fetch_early(words_ptr + later * 256, EARLY * 1024, 1)
            fetch_early(scales_ptr + later * SCALES, EARLY * (32 * 128 // GROUP), 1)
    minus = constant(int4_words(a[0], S), minus136)
    wait(PDL)
    squares = norm_squares(norm_ptr, K, T, NORMED)
    for chunk in tl.range(0, BLOCKS, AHEAD):
        tl.debug_barrier()  # else the assembler moves each load to where it is used
        for ahead in tl.static_range(AHEAD):
            block = chunk + ahead
            a_words = int4_words(a[ahead], S)
            if TILES == 2:
                b_words = int4_words(b[ahead], S)
            for step in tl.static_range(4):
                x = by_halves(tl.load(x_ptrs + (block * 128 + step * 32)), S)
                shift = dot(minus, x, nothing)
                if HEADS:
                    if step * 32 % WIDTH == 0:
                        factor = head_factor(
                            squares_ptr, piece, block * 128 + step * 32,
                            T, S, SHARE, HEADS, WIDTH, PARTS, eps,
                        )  # fmt: skip
                part = dot(nibbles(a_words, magic, 4 * step), x, shift)
                first += int4_part(part * factor if HEADS else part, a[ahead], GROUP, step)
                if TILES == 2:
                    part = dot(nibbles(b_words, magic, 4 * step), x, shift)
                    second += int4_part(part * factor if HEADS else part, b[ahead], GROUP, step)
        if chunk + AHEAD < BLOCKS:
            a = int4_chunk(a_ptrs, a_scales, chunk + AHEAD, AHEAD, GROUP)
            if TILES == 2:
                b = int4_chunk(b_ptrs, b_scales, chunk + AHEAD, AHEAD, GROUP)
    return first, second, squares


@triton.jit
def int8_block(ptrs, block, K: tl.constexpr):
    """What 64 inputs of a tile take: words of both halves, (32 S, 4) each."""
    top = tl.load(ptrs + block * 16, eviction_policy=ONCE)
    return top, tl.load(ptrs + block * 16 + 2 * K, eviction_policy=ONCE)


@triton.jit
def int8_pairs(block, step: tl.constexpr, S: tl.constexpr):
    """Words of 32 of them, each with itself a byte down, in the order of `by_bytes`."""
    words = tl.reshape(tl.join(block[0], block[1]), (S, 8, 4, 2, 2, 2))  # S r c step v half
    first, second = tl.split(tl.permute(words, (0, 5, 1, 2, 4, 3)))  # S half r c v
    words = first if step == 0 else second
    words = tl.permute(tl.join(words, words >> 8), (0, 1, 2, 5, 3, 4))
    return tl.reshape(words, (S, 16, 16))


@triton.jit
def int8_chunk(ptrs, chunk, AHEAD: tl.constexpr, K: tl.constexpr):
    """`AHEAD` blocks, fetched at once."""
    blocks = (int8_block(ptrs, chunk, K),)
    for ahead in tl.static_range(1, AHEAD):
        blocks = blocks + (int8_block(ptrs, chunk + ahead, K),)
    return blocks


@triton.jit
def int8_tiles(
    x_ptr, first_ptr, first_scale_ptr, second_ptr, second_scale_ptr, magic, minus128,
    squares_ptr, eps, piece, norm_ptr,
    K: tl.constexpr, TILES: tl.constexpr, T: tl.constexpr, S: tl.constexpr,
    AHEAD: tl.constexpr, EARLY: tl.constexpr, PDL: tl.constexpr, SPLIT: tl.constexpr,
    NORMED: tl.constexpr, HEADS: tl.constexpr, WIDTH: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    """The same of 8-bit codes, K / 4 words a row, as they lie in the file; a block has 64."""
    SHARE: tl.constexpr = K // (S * SPLIT)
    BLOCKS: tl.constexpr = SHARE // 64
    warp, r, c = lanes(S)
    where = r * (K // 4) + (piece * S + warp) * (SHARE // 4) + c * 4
    where = where[:, None] + tl.arange(0, 4)[None, :]  # (32 S, 4)
    a_ptrs, b_ptrs = first_ptr + where, second_ptr + where
    scales = tl.arange(0, 16)[None, :] + tl.zeros((S, 1), dtype=tl.int32)
    a_scale = tl.load(first_scale_ptr + scales).to(tl.float32)[:, :, None]
    b_scale = a_scale
    if TILES == 2:
        b_scale = tl.load(second_scale_ptr + scales).to(tl.float32)[:, :, None]
    x_ptrs = inputs(x_ptr, piece, K, T, S, SHARE, 16)
    nothing = tl.zeros((S, 16, 8), dtype=tl.float32)
    first, second = nothing, nothing
    a_low, a_high, b_low, b_high = nothing, nothing, nothing, nothing
    a = int8_chunk(a_ptrs, 0, AHEAD, K)
    b = a
    if TILES == 2:
        b = int8_chunk(b_ptrs, 0, AHEAD, K)
    if EARLY:
        later = tl.arange(0, 32 * S) % 16 * (K // 4)
        later += (piece * S + warp) * (SHARE // 4) + AHEAD * 16
        for tile in tl.static_range(TILES):
            fetch_early((first_ptr if tile == 0 else second_ptr) + later, EARLY * 64, 16)
    wait(PDL)
    squares = norm_squares(norm_ptr, K, T, NORMED)
    for chunk in tl.range(0, BLOCKS, AHEAD):
        tl.debug_barrier()  # else the assembler moves each load to where it is used
        for ahead in tl.static_range(AHEAD):
            block = chunk + ahead
            if HEADS:
                a_low, a_high, b_low, b_high = nothing, nothing, nothing, nothing
            for step in tl.static_range(2):
                x = by_bytes(tl.load(x_ptrs + (block * 64 + step * 8)), S)
                pairs = int8_pairs(a[ahead], step, S)
                a_low = dot(lower_bits(pairs, magic), x, a_low)
                a_high = dot(upper_bit(pairs, minus128), x, a_high)
                if TILES == 2:
                    pairs = int8_pairs(b[ahead], step, S)
                    b_low = dot(lower_bits(pairs, magic), x, b_low)
                    b_high = dot(upper_bit(pairs, minus128), x, b_high)
            if HEADS:
                factor = head_factor(
                    squares_ptr, piece, block * 64, T, S, SHARE, HEADS, WIDTH, PARTS, eps
                )
                first += (a_low + a_high) * factor
                if TILES == 2:
                    second += (b_low + b_high) * factor
        if chunk + AHEAD < BLOCKS:
            a = int8_chunk(a_ptrs, chunk + AHEAD, AHEAD, K)
            if TILES == 2:
                b = int8_chunk(b_ptrs, chunk + AHEAD, AHEAD, K)
    if not HEADS:
        first, second = a_low + a_high, b_low + b_high
    return first * a_scale, second * b_scale, squares


@triton.jit
def plain_block(ptrs, block, K: tl.constexpr):
    """What 32 inputs of a tile take: words of both halves, (32 S, 4) each."""
    top = tl.load(ptrs + block * 16, eviction_policy=ONCE)
    return top, tl.load(ptrs + block * 16 + 4 * K, eviction_policy=ONCE)


@triton.jit
def plain_weight(block, S: tl.constexpr):
    """The same as a tile: (S, 16, 32)."""
    words = tl.reshape(tl.join(block[0], block[1]), (S, 8, 4, 2, 2, 2))  # S r c v0 v1 half
    return spread(tl.reshape(tl.permute(words, (0, 5, 1, 4, 2, 3)), (S, 16, 16)))


@triton.jit
def plain_chunk(ptrs, chunk, AHEAD: tl.constexpr, K: tl.constexpr):
    """`AHEAD` blocks, fetched at once."""
    blocks = (plain_block(ptrs, chunk, K),)
    for ahead in tl.static_range(1, AHEAD):
        blocks = blocks + (plain_block(ptrs, chunk + ahead, K),)
    return blocks


@triton.jit
def plain_tiles(
    x_ptr, first_ptr, second_ptr, squares_ptr, eps, piece, norm_ptr,
    K: tl.constexpr, TILES: tl.constexpr, T: tl.constexpr, S: tl.constexpr,
    AHEAD: tl.constexpr, EARLY: tl.constexpr, PDL: tl.constexpr, SPLIT: tl.constexpr,
    NORMED: tl.constexpr, HEADS: tl.constexpr, WIDTH: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    """The same of bf16 rows of K; a block has 32."""
    SHARE: tl.constexpr = K // (S * SPLIT)
    BLOCKS: tl.constexpr = SHARE // 32
    warp, r, c = lanes(S)
    where = r * (K // 2) + (piece * S + warp) * (SHARE // 2) + c * 4
    where = where[:, None] + tl.arange(0, 4)[None, :]  # (32 S, 4)
    a_ptrs = first_ptr.to(tl.pointer_type(tl.int32)) + where  # two weights in a word
    b_ptrs = second_ptr.to(tl.pointer_type(tl.int32)) + where
    x_ptrs = inputs(x_ptr, piece, K, T, S, SHARE, 8)
    nothing = tl.zeros((S, 16, 8), dtype=tl.float32)
    first, second = nothing, nothing
    a = plain_chunk(a_ptrs, 0, AHEAD, K)
    b = a
    if TILES == 2:
        b = plain_chunk(b_ptrs, 0, AHEAD, K)
    if EARLY:
        later = tl.arange(0, 32 * S) % 16 * K + (piece * S + warp) * SHARE + AHEAD * 32
        for tile in tl.static_range(TILES):
            fetch_early((first_ptr if tile == 0 else second_ptr) + later, EARLY * 64, 16)
    wait(PDL)
    squares = norm_squares(norm_ptr, K, T, NORMED)
    for chunk in tl.range(0, BLOCKS, AHEAD):
        tl.debug_barrier()  # else the assembler moves each load to where it is used
        for ahead in tl.static_range(AHEAD):
            block = chunk + ahead
            x = by_halves(tl.load(x_ptrs + block * 32), S)
            if HEADS:
                factor = head_factor(
                    squares_ptr, piece, block * 32, T, S, SHARE, HEADS, WIDTH, PARTS, eps
                )
                first += dot(plain_weight(a[ahead], S), x, nothing) * factor
                if TILES == 2:
                    second += dot(plain_weight(b[ahead], S), x, nothing) * factor
            else:
                first = dot(plain_weight(a[ahead], S), x, first)
                if TILES == 2:
                    second = dot(plain_weight(b[ahead], S), x, second)
        if chunk + AHEAD < BLOCKS:
            a = plain_chunk(a_ptrs, chunk + AHEAD, AHEAD, K)
            if TILES == 2:
                b = plain_chunk(b_ptrs, chunk + AHEAD, AHEAD, K)
    return first, second, squares


@triton.jit
def tiles_product(
    x_ptr, first_ptr, first_scale_ptr, first_tile, second_ptr, second_scale_ptr, second_tile,
    magic, minus128, minus136, squares_ptr, eps, piece, norm_ptr,
    K: tl.constexpr, BITS: tl.constexpr, GROUP: tl.constexpr, TILES: tl.constexpr,
    T: tl.constexpr, S: tl.constexpr, AHEAD: tl.constexpr, EARLY: tl.constexpr,
    PDL: tl.constexpr, SPLIT: tl.constexpr,
    NORMED: tl.constexpr, HEADS: tl.constexpr, WIDTH: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    """Products of one or two tiles with 8 tokens, for the share of each warp: two of (S, 16, 8).

    `first_tile`, `second_tile`: which tiles of the matrices at the pointers, int64.
    """
    if BITS == 4:
        WORDS: tl.constexpr = K * 2  # of a tile
        SCALES: tl.constexpr = K // 8 if GROUP == 128 else K // (2 * GROUP) * 16
        return int4_tiles(
            x_ptr, first_ptr + first_tile * WORDS, first_scale_ptr + first_tile * SCALES,
            second_ptr + second_tile * WORDS, second_scale_ptr + second_tile * SCALES,
            magic, minus136, squares_ptr, eps, piece, norm_ptr,
            K, GROUP, TILES, T, S, AHEAD, EARLY, PDL, SPLIT, NORMED, HEADS, WIDTH, PARTS,
        )  # fmt: skip
    elif BITS == 8:
        return int8_tiles(
            x_ptr, first_ptr + first_tile * (4 * K), first_scale_ptr + first_tile * 16,
            second_ptr + second_tile * (4 * K), second_scale_ptr + second_tile * 16,
            magic, minus128, squares_ptr, eps, piece, norm_ptr,
            K, TILES, T, S, AHEAD, EARLY, PDL, SPLIT, NORMED, HEADS, WIDTH, PARTS,
        )  # fmt: skip
    else:
        return plain_tiles(
            x_ptr, first_ptr + first_tile * (16 * K), second_ptr + second_tile * (16 * K),
            squares_ptr, eps, piece, norm_ptr,
            K, TILES, T, S, AHEAD, EARLY, PDL, SPLIT, NORMED, HEADS, WIDTH, PARTS,
        )  # fmt: skip
