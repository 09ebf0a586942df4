"""The gated delta rule over many tokens, and all of a DeltaNet layer around it between projections.

Five launches: convolution, norms and gates; for each chunk and head, all at once, the products of
its tokens and then the triangular inverse; the chunks in order, each program with a part of a state
in its registers; the gated norm. Scratch is 32 KiB a token of the 4B: 64 MiB for 2,048.

With bf16 activations every product runs on bf16 tensor cores and is still nearly one of float32.
Queries and keys stay as the convolution left them, exact in bf16; the factor that makes them of
unit length multiplies the result. What is float32, the state above all, is split in two bf16 that
together carry 16 bits. With float32 activations the products are three of tf32, no less exact.
"""

from functools import cache
from typing import Final

import torch
import triton
import triton.language as tl
from torch import Tensor

from qwen35cli.kernels import reference
from qwen35cli.kernels.operands import FEW, DeltaWeights, Replay, key_heads

from .kernel import Kernel

CHUNK: Final = 64
TOKENS: Final = 32  # of a program of the convolution
COLUMNS: Final = 32  # of the state in a program: 128 programs for the 4B
NORM_ROWS: Final = 16  # heads of a program of the gated norm

# The interpreter multiplies the bits of bf16 as if they were integers.
INTERPRETED = tl.constexpr(bool(triton.knobs.runtime.interpret))


def delta_chunk(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    beta: Tensor,
    state: Tensor,
    chunk: int = CHUNK,
) -> tuple[Tensor, Tensor]:
    """See `reference.delta_chunk`; q and k may also both be bf16. `chunk` is 16, 32 or 64."""
    B, T, G, K = q.shape
    H, V = v.shape[2:]
    assert T > 0 and q.shape == k.shape and g.shape == beta.shape == (B, T, H)
    assert g.dtype == beta.dtype == torch.float32
    scale = torch.ones(B, T, 2 * G, dtype=torch.float32, device=q.device)
    out = torch.empty(B, T, H, V, dtype=torch.float32, device=q.device)
    after = torch.empty_like(state)
    q, k, v, g, beta = (x.contiguous() for x in (q, k, v, g, beta))
    _through_chunks(q, k, v, scale, g, beta, state, after, out, chunk, G * K, H * V)
    return out, after


def delta_mix(
    qkv: Tensor,
    z: Tensor,
    a: Tensor,
    b: Tensor,
    weights: DeltaWeights,
    rows: Tensor,
    state: Tensor,
    replay: Replay | None = None,
) -> Tensor:
    """See `reference.delta_mix`, which takes few tokens, those for a log, and unusual widths."""
    if not _servable(qkv, z, a, b, weights, rows, state, replay):
        return reference.delta_mix(qkv, z, a, b, weights, rows, state, replay)
    B, T, C = qkv.shape
    H, K, V = state.shape[1:]
    G = key_heads(C, state)
    if replay is not None:
        reference.absorb(replay.past, replay.kept, rows, state)
    assert rows.is_contiguous() and state.is_contiguous() and weights.conv.is_contiguous()
    qkv, z, a, b = (_by_rows(x) for x in (qkv, z, a, b))
    mixed = torch.empty(B, T, C, dtype=qkv.dtype, device=qkv.device)
    scale = torch.empty(B, T, 2 * G, dtype=torch.float32, device=qkv.device)
    g, beta = (torch.empty(B, T, H, dtype=torch.float32, device=qkv.device) for _ in range(2))
    _convolve[(triton.cdiv(C, K) + 1, triton.cdiv(T, TOKENS), B)](
        qkv, a, b, weights.conv, weights.a_log, weights.dt_bias,
        rows, mixed, scale, g, beta,
        T, qkv.stride(1), a.stride(1), b.stride(1),
        C=C, G=G, H=H, K=K, WIDTH=weights.conv.shape[-1],
        HEADS=triton.next_power_of_2(H), TOKENS=TOKENS, num_warps=8,
    )  # fmt: skip
    out = torch.empty(B, T, H * V, dtype=qkv.dtype, device=qkv.device)
    q, k, v = mixed, mixed[..., G * K :], mixed[..., 2 * G * K :]
    _through_chunks(q, k, v, scale, g, beta, state, state, out, CHUNK, C, C)
    _gated_norm[(triton.cdiv(B * T * H, NORM_ROWS),)](
        out, z, weights.norm, B * T * H, z.stride(1),
        weights.eps, H=H, V=V, ROWS=NORM_ROWS, num_warps=4,
    )  # fmt: skip
    return out


def _servable(
    qkv: Tensor,
    z: Tensor,
    a: Tensor,
    b: Tensor,
    weights: DeltaWeights,
    rows: Tensor,
    state: Tensor,
    replay: Replay | None,
) -> bool:
    K, V = state.shape[2:]
    taps = weights.conv.shape[-1]
    return (
        qkv.shape[1] > FEW
        and taps - 1 <= FEW
        and (replay is None or replay.log is None)
        and qkv.dtype in (torch.bfloat16, torch.float32)
        and all(x.dtype.itemsize <= 4 for x in (z, a, b, rows, weights.conv, weights.norm))
        and state.dtype == torch.float32
        and _fits(K, V)
    )


def _fits(K: int, V: int) -> bool:
    """Whether the tensor cores take such heads, and their chunks go into shared memory."""
    return K in (16, 32, 64, 128) and V in (16, 32, 64, 128)


def _by_rows(x: Tensor) -> Tensor:
    """(B, T, N) with neighbours in memory along N, and batches T rows apart; a copy if need be."""
    B, T, _ = x.shape
    return x if x.stride(2) == 1 and (B == 1 or x.stride(0) == T * x.stride(1)) else x.contiguous()


def _through_chunks(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: Tensor,
    g: Tensor,
    beta: Tensor,
    state: Tensor,
    after: Tensor,
    out: Tensor,
    chunk: int,
    key_stride: int,
    value_stride: int,
) -> None:
    """The delta rule over all tokens; `scale` (B, T, 2 G) multiplies queries, then keys.

    Tokens are `key_stride` apart in q and k, `value_stride` in v. `after` may be `state`.
    """
    B, T, H = g.shape
    K, V = state.shape[2:]
    assert chunk in (16, 32, 64) and q.dtype == k.dtype and _fits(K, V)
    assert state.dtype == torch.float32 and state.is_contiguous()
    split = q.dtype == torch.bfloat16
    chunks = triton.cdiv(T, chunk)
    square = (B * H * chunks, chunk, chunk)
    # As bf16 the same bytes are two planes of a square: high parts, then low parts.
    inverse, scores = (torch.empty(square, dtype=torch.float32, device=q.device) for _ in range(2))
    factors = torch.empty(B * H * chunks, 5, chunk, dtype=torch.float32, device=q.device)
    parts = [x.view(torch.bfloat16) if split else x for x in (inverse, scores)]
    G = scale.shape[2] // 2
    _score[(chunks, H, B)](
        q, k, scale, g, beta, inverse, parts[1], factors, T,
        G=G, H=H, K=K, STRIDE=key_stride, CHUNK=chunk, SPLIT=split, num_warps=8,
    )  # fmt: skip
    # With so few registers all 1,024 programs of 2,048 tokens run at once.
    _solve[(chunks * H * B,)](
        inverse, parts[0], factors, CHUNK=chunk, SPLIT=split, num_warps=2, maxnreg=128,
    )  # fmt: skip
    columns = min(COLUMNS, V)
    _carry[(V // columns, H, B)](
        q, k, v, *parts, factors, state, after, out, T,
        G=G, H=H, K=K, V=V, STRIDE=key_stride, V_STRIDE=value_stride,
        CHUNK=chunk, COLUMNS=columns, SPLIT=split, STAGES=_stages(q), num_warps=4,
    )  # fmt: skip


def _stages(q: Tensor) -> int:
    return stages(q.dtype, _shared_memory(q.device.index)) if q.device.type == "cuda" else 1


def stages(dtype: torch.dtype, room: int) -> int:
    """Chunks in flight in `_carry`, by the bytes of shared memory that a program may have: 3 take
    218 KiB, 2 take 149, 1 takes 80."""
    if dtype != torch.bfloat16:
        return 1
    return 3 if room >= 220 * 1024 else 2 if room >= 150 * 1024 else 1


@cache
def _shared_memory(device: int) -> int:
    """Bytes that a program may have."""
    properties = triton.runtime.driver.active.utils.get_device_properties(device)
    return int(properties["max_shared_mem"])


@triton.jit
def _halves(x, SPLIT: tl.constexpr):
    """Two bf16 that add up to 16 bits of float32; without SPLIT, x twice."""
    if SPLIT:
        high = x.to(tl.bfloat16)
        return high, (x - high.to(tl.float32)).to(tl.bfloat16)
    else:
        return x, x


@triton.jit
def _dot(a, b, sums):
    """`sums + a @ b`: exact products of bf16, or of float32 as three of tf32."""
    if INTERPRETED:
        return tl.dot(a.to(tl.float32), b.to(tl.float32), sums)
    elif a.dtype == tl.bfloat16:
        return tl.dot(a, b, sums)
    else:
        return tl.dot(a, b, sums, input_precision="tf32x3")


@triton.jit
def _exact_dot(a, high, low, sums, SPLIT: tl.constexpr):
    """`a` is exact, the other factor in halves."""
    if SPLIT:
        sums = _dot(a, low, sums)
    return _dot(a, high, sums)


@triton.jit
def _split_dot(a_high, a_low, high, low, sums, SPLIT: tl.constexpr):
    """Both are in halves; the product of the low ones is too small to count."""
    if SPLIT:
        sums = _dot(a_low, high, sums)
        sums = _dot(a_high, low, sums)
    return _dot(a_high, high, sums)


@triton.jit
def _softplus(x):
    """Accurate also where it is small: then log(1 + y) must not lose y."""
    y = tl.exp(-tl.abs(x))
    one = 1.0 + y
    small = tl.where(one == 1.0, y, tl.log(one) * (y / tl.where(one == 1.0, 1.0, one - 1.0)))
    return tl.maximum(x, 0.0) + small


@triton.jit
def _gates(
    a_ptr,
    b_ptr,
    a_log_ptr,
    dt_bias_ptr,
    g_ptr,
    beta_ptr,
    row,
    there,
    a_stride,
    b_stride,
    H: tl.constexpr,
    HEADS: tl.constexpr,
):
    """`reference.delta_gates` of all heads of some tokens."""
    head = tl.arange(0, HEADS)
    known = head < H
    there = there[:, None] & known[None, :]
    a = tl.load(a_ptr + row[:, None] * a_stride + head[None, :], mask=there, other=0.0)
    b = tl.load(b_ptr + row[:, None] * b_stride + head[None, :], mask=there, other=0.0)
    dt_bias = tl.load(dt_bias_ptr + head, mask=known, other=0.0).to(tl.float32)
    rate = tl.exp(tl.load(a_log_ptr + head, mask=known, other=0.0).to(tl.float32))
    g = -rate[None, :] * _softplus(a.to(tl.float32) + dt_bias[None, :])
    where = row[:, None] * H + head[None, :]
    tl.store(g_ptr + where, g, mask=there)
    b = b.to(tl.float32)
    y = tl.exp(-tl.abs(b))  # at most 1
    tl.store(beta_ptr + where, tl.where(b >= 0, 1.0, y) / (1.0 + y), mask=there)


@Kernel
@triton.jit(do_not_specialize=["T"])
def _convolve(
    x_ptr,  # (B, T, C), rows x_stride apart
    a_ptr,  # (B, T, H), and so b
    b_ptr,
    conv_ptr,  # (C, 1, WIDTH)
    a_log_ptr,  # (H,)
    dt_bias_ptr,
    rows_ptr,  # (B, WIDTH - 1, C), replaced by the last of x
    mixed_ptr,  # (B, T, C)
    scale_ptr,  # (B, T, 2 G) what makes queries and keys of unit length, queries times K ** -0.5
    g_ptr,  # (B, T, H)
    beta_ptr,
    T,
    x_stride,
    a_stride,
    b_stride,
    C: tl.constexpr,
    G: tl.constexpr,
    H: tl.constexpr,
    K: tl.constexpr,
    WIDTH: tl.constexpr,
    HEADS: tl.constexpr,
    TOKENS: tl.constexpr,
):
    """A program takes K channels: a head, if they are queries or keys. The last takes the gates."""
    part, block, batch = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    token = block * TOKENS + tl.arange(0, TOKENS)
    row = batch * T + token
    if part == tl.num_programs(0) - 1:
        _gates(
            a_ptr, b_ptr, a_log_ptr, dt_bias_ptr, g_ptr, beta_ptr,
            row, token < T, a_stride, b_stride, H, HEADS,
        )  # fmt: skip
    else:
        channel = part * K + tl.arange(0, K)
        known = channel < C
        mixed = tl.zeros((TOKENS, K), dtype=tl.float32)
        if block == 0:
            for tap in tl.static_range(WIDTH - 1):
                at = rows_ptr + (batch * (WIDTH - 1) + token[:, None] + tap) * C + channel[None, :]
                there = (token < WIDTH - 1 - tap)[:, None] & known[None, :]
                x = tl.load(at, mask=there, other=0.0).to(x_ptr.dtype.element_ty).to(tl.float32)
                weight = tl.load(conv_ptr + channel * WIDTH + tap, mask=known, other=0.0)
                mixed += x * weight.to(tl.float32)[None, :]
            tl.debug_barrier()  # all have read what is now replaced
            for tap in tl.static_range(WIDTH - 1):
                last = (batch * T + T - (WIDTH - 1) + tap) * x_stride
                x = tl.load(x_ptr + last + channel, mask=known, other=0.0)
                at = rows_ptr + (batch * (WIDTH - 1) + tap) * C + channel
                tl.store(at, x.to(rows_ptr.dtype.element_ty), mask=known)
        for tap in tl.static_range(WIDTH):
            source = token + (tap - (WIDTH - 1))
            there = ((source >= 0) & (source < T))[:, None] & known[None, :]
            at = (batch * T + source)[:, None] * x_stride + channel[None, :]
            x = tl.load(x_ptr + at, mask=there, other=0.0).to(tl.float32)
            weight = tl.load(conv_ptr + channel * WIDTH + tap, mask=known, other=0.0)
            mixed += x * weight.to(tl.float32)[None, :]
        mixed = (mixed * tl.sigmoid(mixed)).to(mixed_ptr.dtype.element_ty)
        there = (token < T)[:, None] & known[None, :]
        tl.store(mixed_ptr + row[:, None] * C + channel[None, :], mixed, mask=there)
        if part < 2 * G:
            squares = tl.sum(mixed.to(tl.float32) * mixed.to(tl.float32), axis=1)
            scale = 1.0 / tl.sqrt(squares + 1e-6)
            scale *= tl.where(part < G, K**-0.5, 1.0)
            tl.store(scale_ptr + row * (2 * G) + part, scale, mask=token < T)


@Kernel
@triton.jit(do_not_specialize=["T"])
def _score(
    q_ptr,  # (B, T, G, K), tokens STRIDE apart, and so k
    k_ptr,
    scale_ptr,  # (B, T, 2 G)
    g_ptr,  # (B, T, H)
    beta_ptr,
    system_ptr,  # (B, H, chunks, CHUNK, CHUNK) float32
    scores_ptr,  # (B, H, chunks, 2 if SPLIT, CHUNK, CHUNK)
    factors_ptr,  # (B, H, chunks, 5, CHUNK)
    T,
    G: tl.constexpr,
    H: tl.constexpr,
    K: tl.constexpr,
    STRIDE: tl.constexpr,
    CHUNK: tl.constexpr,
    SPLIT: tl.constexpr,
):
    """Of a chunk and a head: products of its tokens, with G the log decay since the chunk began.

    `system` is the transpose of L, L = beta_i exp(G_i - G_j) k_i k_j for i > j; `scores` are
    exp(G_i - G_j) q_i k_j for i >= j. `factors` are exp(G) for keys and for queries and
    exp(G_end - G) for keys, times what makes their rows of unit length; beta;
    and exp(G_end).
    """
    chunk, head, batch = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    unit = (batch * H + head) * tl.num_programs(0) + chunk
    PLANES: tl.constexpr = 2 if SPLIT else 1
    SQUARE: tl.constexpr = CHUNK * CHUNK
    system_ptr += unit * SQUARE
    scores_ptr += unit * PLANES * SQUARE
    factors_ptr += unit * 5 * CHUNK

    place = tl.arange(0, CHUNK)
    token = chunk * CHUNK + place
    there = token < T
    row = batch * T + token
    key_head = head // (H // G)
    g = tl.load(g_ptr + row * H + head, mask=there, other=0.0)
    beta = tl.load(beta_ptr + row * H + head, mask=there, other=0.0)
    q_scale = tl.load(scale_ptr + row * (2 * G) + key_head, mask=there, other=0.0)
    k_scale = tl.load(scale_ptr + row * (2 * G) + G + key_head, mask=there, other=0.0)
    total = tl.cumsum(g, 0)
    end = tl.sum(tl.where(place == CHUNK - 1, total, 0.0), 0)  # a sum of g would round otherwise
    tl.store(factors_ptr + place, tl.exp(total) * k_scale)
    tl.store(factors_ptr + CHUNK + place, tl.exp(total) * q_scale)
    tl.store(factors_ptr + 2 * CHUNK + place, tl.exp(end - total) * k_scale)
    tl.store(factors_ptr + 3 * CHUNK + place, beta)
    tl.store(factors_ptr + 4 * CHUNK + place, tl.exp(end) + tl.zeros_like(g))

    i, j = place[:, None], place[None, :]
    square = i * CHUNK + j
    # Exponents are masked before exp: on the other side they are positive and would overflow.
    apart = total[:, None] - total[None, :]
    at = row[:, None] * STRIDE + key_head * K
    scores = _products(q_ptr + at, k_ptr + at, there, K, CHUNK, SPLIT)
    scores *= q_scale[:, None] * k_scale[None, :]
    scores *= tl.exp(tl.where(i >= j, apart, float("-inf")))
    high, low = _halves(scores, SPLIT)
    tl.store(scores_ptr + square, high)
    if SPLIT:
        tl.store(scores_ptr + SQUARE + square, low)
    system = _products(k_ptr + at, k_ptr + at, there, K, CHUNK, SPLIT)
    system *= k_scale[:, None] * (beta * k_scale)[None, :]
    system *= tl.exp(tl.where(i < j, -apart, float("-inf")))
    tl.store(system_ptr + square, system)


@triton.jit
def _products(q_ptr, k_ptr, there, K: tl.constexpr, CHUNK: tl.constexpr, SPLIT: tl.constexpr):
    """q k^T of the tokens of a chunk, (CHUNK, CHUNK) float32; the pointers are those of rows."""
    STEP: tl.constexpr = K if SPLIT else 16  # float32 would fill the registers
    products = tl.zeros((CHUNK, CHUNK), dtype=tl.float32)
    for start in range(0, K, STEP):
        key = start + tl.arange(0, STEP)[None, :]
        q = tl.load(q_ptr + key, mask=there[:, None], other=0.0)
        k = tl.load(k_ptr + key, mask=there[:, None], other=0.0)
        products = _dot(q, tl.trans(k), products)
    return products


@Kernel
@triton.jit
def _solve(
    system_ptr,  # (units, CHUNK, CHUNK) float32
    inverse_ptr,  # (units, 2 if SPLIT, CHUNK, CHUNK): the same memory
    factors_ptr,  # (units, 5, CHUNK)
    CHUNK: tl.constexpr,
    SPLIT: tl.constexpr,
):
    """(1 + L)^-1 diag(beta), from what `_score` left."""
    unit = tl.program_id(0).to(tl.int64)
    PLANES: tl.constexpr = 2 if SPLIT else 1
    SQUARE: tl.constexpr = CHUNK * CHUNK
    system_ptr += unit * SQUARE
    inverse_ptr += unit * PLANES * SQUARE
    place = tl.arange(0, CHUNK)
    beta = tl.load(factors_ptr + unit * 5 * CHUNK + 3 * CHUNK + place)

    # Blocks of 16 on the diagonal, all at once: a thread solves for a column of its block, from the
    # top. Lines are tensors of their own, so that each thread has all lines of its column.
    first_ptr = system_ptr + place // 16 * (16 * CHUNK + 16)
    solved = (tl.where(place % 16 == 0, 1.0, 0.0),)
    for line in tl.static_range(1, 16):
        value = tl.where(place % 16 == line, 1.0, 0.0)
        for above in tl.static_range(line):
            value -= tl.load(first_ptr + above * CHUNK + line) * solved[above]
        solved = solved + (value,)
    tl.debug_barrier()
    for line in tl.static_range(16):
        tl.store(system_ptr + (place // 16 * 16 + line) * CHUNK + place, solved[line])
    tl.debug_barrier()
    if CHUNK >= 32:
        _merge(system_ptr, 16, CHUNK)
    if CHUNK >= 64:
        _merge(system_ptr, 32, CHUNK)

    i, j = place[:, None], place[None, :]
    square = i * CHUNK + j
    solved = tl.load(system_ptr + square, mask=i >= j, other=0.0) * beta[None, :]
    tl.debug_barrier()  # all have read what is now replaced
    high, low = _halves(solved, SPLIT)
    tl.store(inverse_ptr + square, high)
    if SPLIT:
        tl.store(inverse_ptr + SQUARE + square, low)


@triton.jit
def _merge(system_ptr, SIZE: tl.constexpr, CHUNK: tl.constexpr):
    """From the inverses of neighbouring blocks on the diagonal, A and D: -D L A between them."""
    i, j = tl.arange(0, SIZE)[:, None], tl.arange(0, SIZE)[None, :]
    zeros = tl.zeros((SIZE, SIZE), dtype=tl.float32)
    for pair in tl.static_range(CHUNK // (2 * SIZE)):
        corner = system_ptr + pair * 2 * SIZE * (CHUNK + 1)
        upper = tl.load(corner + i * CHUNK + j, mask=i >= j, other=0.0)
        between = tl.load(corner + j * CHUNK + SIZE + i)
        lower = tl.load(corner + SIZE * (CHUNK + 1) + i * CHUNK + j, mask=i >= j, other=0.0)
        merged = _dot(lower, _dot(between, upper, zeros), zeros)
        tl.store(corner + SIZE * CHUNK + i * CHUNK + j, -merged)
    tl.debug_barrier()


@Kernel
@triton.jit(do_not_specialize=["T"])
def _carry(
    q_ptr,  # (B, T, G, K), tokens STRIDE apart, and so k
    k_ptr,
    v_ptr,  # (B, T, H, V), tokens V_STRIDE apart
    inverse_ptr,  # as `_solve` leaves it
    scores_ptr,  # these two as `_score` does
    factors_ptr,
    state_ptr,  # (B, H, K, V)
    after_ptr,  # may be state_ptr
    out_ptr,  # (B, T, H, V)
    T,
    G: tl.constexpr,
    H: tl.constexpr,
    K: tl.constexpr,
    V: tl.constexpr,
    STRIDE: tl.constexpr,
    V_STRIDE: tl.constexpr,
    CHUNK: tl.constexpr,
    COLUMNS: tl.constexpr,
    SPLIT: tl.constexpr,
    STAGES: tl.constexpr,
):
    """The chunks in order, for some columns of the state of a head."""
    part, head, batch = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    chunks = tl.cdiv(T, CHUNK)
    PLANES: tl.constexpr = 2 if SPLIT else 1
    SQUARE: tl.constexpr = CHUNK * CHUNK
    place, column = tl.arange(0, CHUNK), part * COLUMNS + tl.arange(0, COLUMNS)
    key = tl.arange(0, K)
    square = place[:, None] * CHUNK + place[None, :]
    none = tl.zeros((CHUNK, COLUMNS), dtype=tl.float32)

    unit = batch * H + head
    where = unit * K * V + key[:, None] * V + column[None, :]
    state = tl.load(state_ptr + where)
    unit *= chunks
    inverse_ptr += unit * PLANES * SQUARE
    scores_ptr += unit * PLANES * SQUARE
    factors_ptr += unit * 5 * CHUNK
    keys = batch * T * STRIDE + head // (H // G) * K + key[None, :]
    values = batch * T * V_STRIDE + head * V + column[None, :]
    outputs = batch * T * H * V + head * V + column[None, :]
    for chunk in tl.range(chunks, num_stages=STAGES):
        token = (chunk * CHUNK + place).to(tl.int64)[:, None]
        there = token < T
        k = tl.load(k_ptr + keys + token * STRIDE, mask=there, other=0.0)
        q = tl.load(q_ptr + keys + token * STRIDE, mask=there, other=0.0)
        v = tl.load(v_ptr + values + token * V_STRIDE, mask=there, other=0.0)
        inverse = inverse_ptr + chunk * PLANES * SQUARE + square
        scores = scores_ptr + chunk * PLANES * SQUARE + square
        inverse_high, scores_high = tl.load(inverse), tl.load(scores)
        if SPLIT:
            inverse_low, scores_low = tl.load(inverse + SQUARE), tl.load(scores + SQUARE)
        else:
            inverse_low, scores_low = inverse_high, scores_high
        factors = factors_ptr + chunk * 5 * CHUNK + place
        k_start, q_start = tl.load(factors), tl.load(factors + CHUNK)
        k_end = tl.load(factors + 2 * CHUNK)
        end = tl.load(factors_ptr + chunk * 5 * CHUNK + 4 * CHUNK)

        high, low = _halves(state, SPLIT)
        recalled = _exact_dot(k, high, low, none, SPLIT)
        y = _exact_dot(q, high, low, none, SPLIT) * q_start[:, None]
        high, low = _halves(v.to(tl.float32) - recalled * k_start[:, None], SPLIT)
        new = _split_dot(inverse_high, inverse_low, high, low, none, SPLIT)
        high, low = _halves(new * k_end[:, None], SPLIT)
        state = _exact_dot(tl.trans(k), high, low, state * end, SPLIT)
        high, low = _halves(new, SPLIT)
        y = _split_dot(scores_high, scores_low, high, low, y, SPLIT)
        at = out_ptr + outputs + token * (H * V)
        tl.store(at, y.to(out_ptr.dtype.element_ty), mask=there)
    tl.store(after_ptr + where, state)


@Kernel
@triton.jit(do_not_specialize=["heads"])
def _gated_norm(
    y_ptr,  # (B, T, H, V), replaced by the result
    z_ptr,  # (B, T, H, V), tokens z_stride apart
    weight_ptr,  # (V,)
    heads,
    z_stride,
    eps,
    H: tl.constexpr,
    V: tl.constexpr,
    ROWS: tl.constexpr,
):
    head = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, V)
    there = (head < heads)[:, None]
    at = y_ptr + head[:, None] * V + column[None, :]
    gates = z_ptr + (head // H * z_stride + head % H * V)[:, None] + column[None, :]
    y = tl.load(at, mask=there, other=0.0).to(tl.float32)
    z = tl.load(gates, mask=there, other=0.0).to(tl.float32)
    weight = tl.load(weight_ptr + column).to(tl.float32)
    y *= (1.0 / tl.sqrt(tl.sum(y * y, axis=1) / V + eps))[:, None]
    y = y.to(y_ptr.dtype.element_ty).to(tl.float32) * weight[None, :]
    tl.store(at, (y * (z * tl.sigmoid(z))).to(y_ptr.dtype.element_ty), mask=there)
