"""Every op of the model in plain torch: the mathematics on a few pages, the judge of fast twins.

All of it runs on any device and dtype, and all but `delta_step` can be differentiated. Dtype
policy: statistics, gates, softmax and the whole delta rule are float32; results come back in the
dtype of the activations.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .operands import (
    FEW,
    NF4,
    AttentionMixer,
    BlockWeights,
    Candidates,
    Control,
    DeltaLog,
    DeltaMixer,
    DeltaWeights,
    DraftLoop,
    DraftWeights,
    Int4,
    Int8,
    Int8Rows,
    NoSteps,
    Replay,
    Rows,
    Stack,
    StepWeights,
    TokenStep,
    Weight,
)

KEY_BLOCK = 2_048  # keys scored at once in attention: bounds the scores, whatever the context
DELTA_CHUNK = 64  # tokens per chunk of the delta rule
# Of bitsandbytes: quantiles of a normal distribution, scaled to reach from -1 to 1.
NF4_TABLE = (
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453),
    *(-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0),
    *(0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
    *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
)


def linear(x: Tensor, weight: Weight, bias: Tensor | None = None) -> Tensor:
    """`x @ weight.T + bias`, with weights and bias taken in the dtype of `x`.

    Args:
        x: (..., D).
        weight: (N, D), any float dtype or quantized.
        bias: (N,) or None.

    Returns:
        (..., N) in the dtype of `x`.
    """
    if not isinstance(weight, Tensor):
        weight = dequantize(weight)
    return F.linear(x, weight.to(x.dtype), None if bias is None else bias.to(x.dtype))


def project(x: Tensor, weights: tuple[Weight, ...]) -> tuple[Tensor, ...]:
    """`linear` of one input with several matrices. (..., D) -> (..., N) each."""
    return tuple(linear(x, weight) for weight in weights)


def project_swiglu(x: Tensor, gate: Weight, up: Weight) -> Tensor:
    """`swiglu` of two projections of one input. (..., D) -> (..., N)."""
    return swiglu(linear(x, gate), linear(x, up))


def rows(weight: Weight, ids: Tensor) -> Tensor:
    """Rows of a matrix, as the embedding of tokens: (...) integers -> (..., K).

    Rows of a plain matrix keep its dtype; those of a quantized one are float32.
    """
    if isinstance(weight, Tensor):
        return F.embedding(ids, weight)
    if not isinstance(weight, Int8):
        raise TypeError(f"rows of {type(weight).__name__} cannot be looked up")
    flat = ids.flatten()
    part = Int8(weight.packed[flat], weight.scale[flat], (len(flat), weight.shape[1]))
    return dequantize(part).view(*ids.shape, -1)


def prepare(weight: Weight) -> Weight:
    """The layout a backend computes with, made once after loading; here that of the file."""
    return weight


def dequantize(weight: Int4 | Int8 | NF4) -> Tensor:
    """(N, K) float32, from the layout of the file."""
    N, K = weight.shape
    if isinstance(weight, NF4):
        codes = torch.stack([weight.packed >> 4, weight.packed & 15], dim=-1).flatten()[: N * K]
        blocks = torch.arange(N * K, device=codes.device) // weight.block
        return (weight.table[codes.long()] * weight.absmax[blocks]).view(N, K)
    if isinstance(weight, Int8):
        codes = unpack(weight.packed, 8)[:, :K]
        return (codes - 128).float() * weight.scale.float()
    codes = unpack(weight.packed, 4)[:, :K]
    scale = weight.scale.float().repeat_interleave(weight.group, dim=1)[:, :K]
    return (codes - 8).float() * scale


def rounded(x: Tensor, group: int, limit: int) -> Tensor:
    """What integer kernels make of activations: (..., K) float32 -> (..., K) float32.

    Each `group` neighbours become integers from -limit to limit times a scale. A group too small to
    be scaled becomes zero; one with a number that is not finite becomes NaN.
    """
    K = x.shape[-1]
    x = F.pad(x, (0, -K % group)).reshape(*x.shape[:-1], -1, group)
    most = x.abs().amax(-1, keepdim=True)
    most = most.masked_fill(most.isinf(), torch.nan)
    codes = (x * (torch.full_like(most, limit) / most)).round()
    kept = torch.where(most < 1e-30, 0.0, codes * (most / limit))
    return kept.flatten(-2)[..., :K]


def unpack(words: Tensor, bits: int) -> Tensor:
    """(N, W) int32 words -> (N, W * 32 / bits) int32 codes, the lowest bits first."""
    shifts = torch.arange(0, 32, bits, dtype=torch.int32, device=words.device)
    return ((words[..., None] >> shifts) & (2**bits - 1)).flatten(1)


def quantize_int4(w: Tensor, group: int) -> tuple[Tensor, Tensor]:
    """4-bit codes and a scale for each group, chosen for the least squared error.

    Twenty scales are tried: nineteen that map the element of largest magnitude to 7.1 ... 8.9 codes
    on the side that has eight, each then refined by least squares, and that of plain rounding. Each
    is judged as it will be read: rounded to bf16, with the codes that belong to it.

    Args:
        w: (R, K) float32 or bf16, finite; K may end within a group or a word.
        group: weights per scale.

    Returns:
        int32 (R, ceil(K / 8)) and bf16 (R, ceil(K / group)), as in `Int4`. Scales may be negative;
        a group of zeros has the scale 1.
    """
    R, K = w.shape
    x = F.pad(w.float(), (0, -K % group)).view(R, -1, group)
    x, unit, back = _unit_sized(x)
    high, low = x.amax(-1, keepdim=True), x.amin(-1, keepdim=True)
    peak = torch.where(high >= -low, high, low)
    error = x.square().sum(-1, keepdim=True)  # of zeros for codes, unless something is better
    scale, codes = torch.ones_like(peak), torch.zeros_like(x)
    for i in range(-9, 11):
        if i < 10:
            q = (x * (-(8 + 0.1 * i) / peak)).clamp(-8, 7).round()
            trial = (x * q).sum(-1, keepdim=True) / q.square().sum(-1, keepdim=True)
        else:
            trial = torch.maximum(high, -low) / 7
        stored = (trial * back).bfloat16().float()
        trial = stored * unit
        q = (x * (1 / trial)).clamp(-8, 7).round()
        trial_error = (x - trial * q).square().sum(-1, keepdim=True)
        better = trial_error < error  # never true of NaN, which is what zeros give
        error = torch.where(better, trial_error, error)
        scale = torch.where(better, stored, scale)
        codes = torch.where(better, q, codes)
    packed = pack(codes.view(R, -1)[:, :K].int() + 8, 4)
    return packed, scale.view(R, -1).bfloat16()


def quantize_int8(w: Tensor) -> tuple[Tensor, Tensor]:
    """8-bit codes and a scale for each row: its largest magnitude over 127, rounded to bf16.

    Args:
        w: (R, K) float32 or bf16, finite.

    Returns:
        int32 (R, ceil(K / 4)) and bf16 (R, 1), as in `Int8`. A row of zeros has the scale 1.
    """
    w = w.float()
    scale = (w.abs().amax(-1, keepdim=True) / 127).bfloat16()
    usable = scale.float() >= torch.finfo(torch.float32).tiny
    scale = torch.where(usable, scale, 1.0)
    codes = (w * (1 / scale.float())).clamp(-127, 127).round() * usable
    return pack(codes.int() + 128, 8), scale


def quantize_nf4(w: Tensor, block: int) -> tuple[Tensor, Tensor]:
    """Indices into the table of nf4, and for each block the factor of the least squared error.

    Tried are the largest magnitude, as bitsandbytes takes it, and fifteen factors from 0.7 to 1.05
    of it, each refined by least squares.

    Args:
        w: (R, K) float32 or bf16, finite. R * K is even; blocks run on over the ends of rows.
        block: weights per factor, even.

    Returns:
        uint8 (R * K / 2, 1) and float32 (ceil(R * K / block),), as in `NF4`. A block of zeros has
        the factor 0.
    """
    x = F.pad(w.float().flatten(), (0, -w.numel() % block)).view(-1, block)
    x, _, back = _unit_sized(x)
    table = torch.tensor(NF4_TABLE, device=w.device)
    middles = (table[1:] + table[:-1]) / 2
    peak = x.abs().amax(-1, keepdim=True)
    error = x.square().sum(-1, keepdim=True)
    factor = torch.zeros_like(peak)
    codes = torch.full_like(x, NF4_TABLE.index(0.0), dtype=torch.long)
    for i in range(16):
        trial = peak
        if i:
            q = table[torch.bucketize(x * (1 / (peak * (0.675 + 0.025 * i))), middles)]
            trial = (x * q).sum(-1, keepdim=True) / q.square().sum(-1, keepdim=True)
        index = torch.bucketize(x * (1 / trial), middles)
        trial_error = (x - trial * table[index]).square().sum(-1, keepdim=True)
        better = trial_error < error
        error = torch.where(better, trial_error, error)
        factor = torch.where(better, trial, factor)
        codes = torch.where(better, index, codes)
    codes = codes.flatten()[: w.numel()].view(-1, 2).byte()
    return codes[:, :1] << 4 | codes[:, 1:], (factor * back).flatten()


def _unit_sized(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Groups (..., g) times the power of two that brings each near 1; the powers, and back.

    Their squares then neither overflow nor vanish, whatever the weights.
    """
    exponent = x.abs().amax(-1, keepdim=True).view(torch.int32) >> 23
    field = (253 - exponent).clamp(1)
    unit, back = (field << 23).view(torch.float32), (254 - field << 23).view(torch.float32)
    return x * unit, unit, back


def pack(codes: Tensor, bits: int) -> Tensor:
    """(R, K) int32 codes -> (R, ceil(K * bits / 32)) words; the value zero pads the last."""
    per_word = 32 // bits
    codes = F.pad(codes, (0, -codes.shape[1] % per_word), value=1 << (bits - 1))
    shifts = torch.arange(0, 32, bits, dtype=torch.int32, device=codes.device)
    return (codes.view(len(codes), -1, per_word) << shifts).sum(-1, dtype=torch.int32)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Root-mean-square norm over the last axis, scaled by `1 + weight`.

    Args:
        x: (..., D), any float dtype; everything is computed in float32 and cast once.
        weight: (D,) offset from one, as the checkpoint stores it.
        eps: added to the mean square.

    Returns:
        (..., D) in the dtype of `x`.
    """
    x32 = x.float()
    scale = torch.rsqrt(x32.square().mean(-1, keepdim=True) + eps)
    return (x32 * scale * (1.0 + weight.float())).to(x.dtype)


def gated_rms_norm(x: Tensor, gate: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Norm over each delta head with a plain weight, then the SiLU gate.

    The normalised value is rounded to the dtype of `x` before the weight, as the reference does.

    Args:
        x, gate: (..., V).
        weight: (V,) the factor itself, not an offset.

    Returns:
        (..., V) in the dtype of `x`.
    """
    x32 = x.float()
    normed = (x32 * torch.rsqrt(x32.square().mean(-1, keepdim=True) + eps)).to(x.dtype)
    return (weight.float() * normed.float() * F.silu(gate.float())).to(x.dtype)


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Ordinary layer norm over the last axis, statistics in float32. (..., D) -> (..., D)."""
    return F.layer_norm(x.float(), x.shape[-1:], weight.float(), bias.float(), eps).to(x.dtype)


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """`silu(gate) * up`, element by element."""
    return F.silu(gate) * up


def gelu(x: Tensor) -> Tensor:
    """The exact (erf) GELU, of the vision merger."""
    return F.gelu(x)


def gelu_tanh(x: Tensor) -> Tensor:
    """The tanh approximation of GELU, of the vision blocks."""
    return F.gelu(x, approximate="tanh")


def rotary(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the leading dims of each head (rotate-half: dim i with dim i + R); the rest pass.

    Args:
        x: (B, T, H, Dh).
        cos, sin: (B, T, R) float32, R <= Dh / 2.

    Returns:
        (B, T, H, Dh) in the dtype of `x`; the rotation itself runs in float32.
    """
    half = cos.shape[-1]
    cos, sin = cos[:, :, None], sin[:, :, None]  # (B, T, 1, R)
    first, second = x[..., :half].float(), x[..., half : 2 * half].float()
    turned = torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)
    return torch.cat([turned.to(x.dtype), x[..., 2 * half :]], dim=-1)


def qk_norm_rotary(
    q: Tensor,
    k: Tensor,
    q_weight: Tensor,
    k_weight: Tensor,
    eps: float,
    cos: Tensor,
    sin: Tensor,
) -> tuple[Tensor, Tensor]:
    """`rms_norm` of each head of queries and keys, then `rotary`.

    Args:
        q: (B, T, H, Dh). k: (B, T, KV, Dh).
        q_weight, k_weight: (Dh,) offsets from one.
        cos, sin: (B, T, R) float32.
    """
    q, k = rms_norm(q, q_weight, eps), rms_norm(k, k_weight, eps)
    return rotary(q, cos, sin), rotary(k, cos, sin)


def store_rows(x: Tensor, rows: Rows, start: int) -> None:
    """Write keys or values of T tokens into a cache, from token `start` on.

    In 8 bits the scale of a row is its largest magnitude / 127, rounded to bf16; the codes follow
    from the rounded scale.

    Args:
        x: (B, T, KV, Dh).
        rows: with room for S >= start + T tokens.
    """
    x, stop = x.transpose(1, 2), start + x.shape[1]
    if isinstance(rows, Tensor):
        rows[:, :, start:stop] = x
        return
    scale = (x.float().abs().amax(-1) / 127).bfloat16()
    step = scale.float()[..., None]
    codes = torch.where(step > 0, x.float() / step, 0.0).round().clamp(-127, 127)
    rows.codes[:, :, start:stop] = codes.to(torch.int8)
    rows.scale[:, :, start:stop] = scale


def _widened(rows: Rows, start: int, stop: int) -> Tensor:
    """Tokens `start` to `stop` of cached rows, float32."""
    if isinstance(rows, Tensor):
        return rows[:, :, start:stop].float()
    return rows.codes[:, :, start:stop].float() * rows.scale[:, :, start:stop, None].float()


def sigmoid_gate(x: Tensor, gate: Tensor) -> Tensor:
    """`x * sigmoid(gate)`, both (B, T, H, Dh)."""
    return x * torch.sigmoid(gate)


def attention(q: Tensor, keys: Rows, values: Rows) -> Tensor:
    """Causal attention of the newest tokens over everything cached, scaled by Dh ** -0.5.

    Keys are taken in blocks with a running softmax, so no tensor grows with T x S.

    Args:
        q: (B, T, H, Dh) queries of the last T of S positions.
        keys, values: (B, KV, S, Dh), also in 8 bits; query head h reads head h // (H / KV).

    Returns:
        (B, T, H, Dh) in the dtype of `q`; softmax and sums are float32.
    """
    B, T, H, Dh = q.shape
    KV, S = (keys if isinstance(keys, Tensor) else keys.codes).shape[1:3]
    queries = (q.float() * Dh**-0.5).transpose(1, 2).reshape(B, KV, H // KV * T, Dh)
    reach = torch.arange(S - T, S, device=q.device).repeat(H // KV)[
        :, None
    ]  # last key each may see
    best = torch.full((B, KV, H // KV * T, 1), -torch.inf, device=q.device)
    total = torch.zeros_like(best)
    out = torch.zeros_like(queries)
    for start in range(0, S, KEY_BLOCK):
        stop = min(start + KEY_BLOCK, S)
        scores = queries @ _widened(keys, start, stop).transpose(2, 3)  # (B, KV, H/KV*T, block)
        if stop > S - T + 1:
            columns = torch.arange(start, stop, device=q.device)
            scores = scores.masked_fill(columns > reach, -torch.inf)
        # Key 0 is in the first block, and every query sees it: `best` is finite from there on.
        higher = torch.maximum(best, scores.amax(-1, keepdim=True))
        weights = torch.exp(scores - higher)
        shrink = torch.exp(best - higher)
        total = total * shrink + weights.sum(-1, keepdim=True)
        out = out * shrink + weights @ _widened(values, start, stop)
        best = higher
    out = (out / total).reshape(B, H, T, Dh).transpose(1, 2)
    return out.to(q.dtype)


def segment_attention(q: Tensor, k: Tensor, v: Tensor, segments: tuple[int, ...]) -> Tensor:
    """Bidirectional attention inside each run of rows, scaled by Dh ** -0.5.

    Args:
        q, k, v: (N, H, Dh).
        segments: lengths that sum to N: the frames of all pictures, one after the other.

    Returns:
        (N, H, Dh) in the dtype of `q`.
    """
    outputs, start = [], 0
    for length in segments:
        queries, keys, values = (x[None, start : start + length].transpose(1, 2) for x in (q, k, v))
        out = F.scaled_dot_product_attention(queries, keys, values)  # (1, H, n, Dh)
        outputs.append(out[0].transpose(0, 1))
        start += length
    return torch.cat(outputs)


def causal_conv(x: Tensor, weight: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Causal depthwise convolution over time, then SiLU.

    Args:
        x: (B, T, C) new rows.
        weight: (C, 1, W); the last tap multiplies the current row.
        rows: (B, W - 1, C) the rows before `x`, oldest first; zeros at the start of a sequence.

    Returns:
        (B, T, C), and the last W - 1 rows of the input, to carry on with.
    """
    T = x.shape[1]
    joined = torch.cat([rows.to(x.dtype), x], dim=1)  # (B, W - 1 + T, C)
    taps = weight[:, 0].to(x.dtype).unbind(-1)
    mixed = sum((tap * joined[:, j : j + T] for j, tap in enumerate(taps)), torch.zeros_like(x))
    return F.silu(mixed), joined[:, T:]


def l2_norm(x: Tensor) -> Tensor:
    """Each head divided by its length, in float32; 1e-6 is added to the sum of squares."""
    x = x.float()
    return x * torch.rsqrt(x.square().sum(-1, keepdim=True) + 1e-6)


def delta_gates(a: Tensor, b: Tensor, a_log: Tensor, dt_bias: Tensor) -> tuple[Tensor, Tensor]:
    """Decay and write strength of the delta rule.

    Args:
        a, b: (..., H) the two scalar projections of each value head.
        a_log, dt_bias: (H,).

    Returns:
        g: (..., H) float32, logarithm of the decay, <= 0.
        beta: (..., H) float32 in (0, 1).
    """
    g = -torch.exp(a_log.float()) * F.softplus(a.float() + dt_bias.float())
    return g, torch.sigmoid(b.float())


def delta_step(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """One token of the gated delta rule; `state` is updated in place.

    Args:
        q, k: (B, G, K) float32, of unit length, q scaled by K ** -0.5; value head h uses head
            h // (H / G).
        v: (B, H, V).
        g, beta: (B, H) float32, log decay and write strength.
        state: (B, H, K, V) float32, contiguous.

    Returns:
        (B, H, V) float32 outputs, and (B, H, V) float32 corrections d: the step was
        `state = exp(g) * state + k d^T`, which `absorb` can repeat.

    Source: Gated Delta Networks, arXiv:2412.06464.
    """
    share = v.shape[1] // q.shape[1]
    q, k = (heads.repeat_interleave(share, dim=1) for heads in (q, k))
    state.mul_(torch.exp(g)[..., None, None])
    recalled = (k[:, :, None] @ state)[:, :, 0]
    correction = (v.float() - recalled) * beta[..., None]
    state.add_(k[..., None] * correction[:, :, None])
    return (q[:, :, None] @ state)[:, :, 0], correction


def delta_chunk(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    beta: Tensor,
    state: Tensor,
    chunk: int = DELTA_CHUNK,
) -> tuple[Tensor, Tensor]:
    """The gated delta rule over T tokens, a chunk at a time: equal to T calls of `delta_step`.

    Args:
        q, k: (B, T, G, K) float32, of unit length, q scaled by K ** -0.5.
        v: (B, T, H, V).
        g, beta: (B, T, H) float32.
        state: (B, H, K, V) float32, left as it is.
        chunk: tokens per chunk at most; any size gives the same result but for rounding.

    Returns:
        (B, T, H, V) float32 outputs, and the state after the last token.

    Source: arXiv:2412.06464, section 3.3 (the WY form with decay).
    """
    B, T, G, K = q.shape
    H, V = v.shape[2:]
    n = -(-T // chunk)
    C = -(-T // n)

    def chunked(x: Tensor) -> Tensor:  # (B, T, heads, ...) -> (B, heads, n, C, ...); zeros pad
        x = F.pad(x.float().transpose(1, 2), [0, 0] * (x.dim() - 3) + [0, n * C - T])
        return x.reshape(B, x.shape[1], n, C, *x.shape[3:])

    q, k, v, g, beta = chunked(q), chunked(k), chunked(v), chunked(g), chunked(beta)
    total = g.cumsum(-1)  # (B, H, n, C): log decay since the chunk began
    # The exponent is masked before exp: above the diagonal it is positive and would overflow.
    above = torch.ones(C, C, dtype=torch.bool, device=q.device).triu(1)
    decay = torch.exp((total[..., :, None] - total[..., None, :]).masked_fill(above, -torch.inf))

    share = H // G
    keys_keys = (k @ k.transpose(-1, -2)).repeat_interleave(share, dim=1)  # (B, H, n, C, C)
    queries_keys = (q @ k.transpose(-1, -2)).repeat_interleave(share, dim=1) * decay
    q, k = q.repeat_interleave(share, dim=1), k.repeat_interleave(share, dim=1)
    lower = (beta[..., None] * keys_keys * decay).tril(-1)
    right = torch.cat([beta[..., None] * v, (beta * torch.exp(total))[..., None] * k], dim=-1)
    solved = torch.linalg.solve_triangular(
        lower + torch.eye(C, device=q.device), right, upper=False, unitriangular=True
    )
    u, w = solved.split([V, K], dim=-1)  # (B, H, n, C, V), (B, H, n, C, K)
    q = q * torch.exp(total)[..., None]
    k = k * torch.exp(total[..., -1:] - total)[..., None]
    kept = torch.exp(total[..., -1])[..., None, None]  # (B, H, n, 1, 1)

    outputs = []
    for i in range(n):
        new = u[:, :, i] - w[:, :, i] @ state  # the corrections d of all C tokens
        outputs.append(q[:, :, i] @ state + queries_keys[:, :, i] @ new)
        state = kept[:, :, i] * state + k[:, :, i].transpose(-1, -2) @ new
    out = torch.stack(outputs, dim=2).reshape(B, H, n * C, V)[:, :, :T]
    return out.transpose(1, 2), state


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
    """Everything in a DeltaNet layer between its projections, over T tokens.

    Convolution and SiLU; queries, keys and values; gates; the delta rule; the gated norm.

    Args:
        qkv: (B, T, C) inputs of the convolution: G query heads and G key heads of K channels, then
            H value heads of V. Value head h uses key head h // (H / G).
        z: (B, T, H * V) the gate of the norm.
        a, b: (B, T, H) the two scalar projections of each value head.
        rows: (B, W - 1, C) the inputs before these, oldest first; updated in place.
        state: (B, H, K, V) float32, contiguous; updated in place.
        replay: what is carried out on `rows` and `state` before; with a log in it, the T tokens are
            written there and carried out by a later call, or not at all.

    Returns:
        (B, T, H * V) in the dtype of `qkv`.
    """
    B, T, C = qkv.shape
    H, K, V = state.shape[1:]
    keys = (C - H * V) // 2
    log = None
    if replay is not None:
        absorb(replay.past, replay.kept, rows, state)
        log = replay.log
    mixed, last = causal_conv(qkv, weights.conv, rows)
    q, k, v = mixed[..., :keys], mixed[..., keys : 2 * keys], mixed[..., 2 * keys :]
    q = l2_norm(q.reshape(B, T, -1, K)) * K**-0.5  # (B, T, G, K)
    k = l2_norm(k.reshape(B, T, -1, K))
    v = v.reshape(B, T, H, V)
    g, beta = delta_gates(a, b, weights.a_log, weights.dt_bias)  # (B, T, H)
    if T > 1 and log is None:
        # A copy, for gradients: the chunks need the state as it was.
        y, after = delta_chunk(q, k, v, g, beta, state.clone())
        state.copy_(after)
    else:
        moving = state if log is None else state.clone()
        steps = [
            delta_step(q[:, t], k[:, t], v[:, t], g[:, t], beta[:, t], moving) for t in range(T)
        ]
        y = torch.stack([y for y, _ in steps], dim=1)
        if log is not None:
            d = torch.stack([d for _, d in steps], dim=1)
            for part, value in zip((log.inputs, log.k, log.d, log.g), (qkv, k, d, g), strict=True):
                part[:, :T] = value
    if log is None:
        rows.copy_(last)
    y = gated_rms_norm(y.to(qkv.dtype), z.reshape(B, T, H, V), weights.norm, weights.eps)
    return y.flatten(2)


def absorb(log: DeltaLog, tokens: int, rows: Tensor, state: Tensor) -> None:
    """Carry out the first `tokens` of a log: the order and precision are those of `delta_step`.

    Args:
        rows: (B, W - 1, C), updated in place.
        state: (B, H, K, V) float32, updated in place.
    """
    if not tokens:
        return
    rows.copy_(torch.cat([rows, log.inputs[:, :tokens]], dim=1)[:, tokens:])
    share = log.d.shape[2] // log.k.shape[2]
    for t in range(tokens):
        keys = log.k[:, t].repeat_interleave(share, dim=1)  # (B, H, K)
        state.mul_(torch.exp(log.g[:, t])[..., None, None])
        state.add_(keys[..., None] * log.d[:, t, :, None])


# ---------------------------------------------------------------------------- all blocks at once


def op_by_op(blocks: tuple[BlockWeights, ...]) -> Stack | None:
    """What a backend says that has no `stack`: the model goes through its blocks itself."""
    return None


def stack(blocks: tuple[BlockWeights, ...]) -> Stack:
    """All blocks of a model, one after the other: what `Block` and its mixers do, without modules.

    Every cache has room for what is appended; the caller moves their lengths.
    """

    def run(
        x: Tensor, cos: Tensor, sin: Tensor, start: int, replays: Sequence[Replay] | None
    ) -> Tensor:
        left = iter(replays or ())
        for block in blocks:
            normed, mixer = rms_norm(x, block.norm, block.eps), block.mixer
            if isinstance(mixer, DeltaMixer):
                qkv, z, a, b = project(normed, mixer.project)
                memory = mixer.rows, mixer.state, next(left, None)
                y = delta_mix(qkv, z, a, b, mixer.weights, *memory)
            else:
                q, k, v = project(normed, mixer.project)
                y = attend(q, k, v, mixer, block.eps, cos, sin, start)
            x = x + linear(y, mixer.out)
            normed = rms_norm(x, block.post_norm, block.eps)
            x = x + linear(project_swiglu(normed, block.gate, block.up), block.down)
        return x

    return run


class token_step:
    """Steps of a whole model that find all that changes in `Control`: see `operands.TokenStep`."""

    def __init__(self, weights: StepWeights) -> None:
        self.weights = weights
        self.stack = stack(weights.blocks)
        self.last: Tensor | None = None

    def __call__(self, control: Control, tokens: int) -> Tensor:
        w = self.weights
        start, delta, kept, parity, _ = control.numbers[:5].tolist()
        x = rows(w.embedding, control.ids[None, :tokens]).to(w.norm.dtype)
        cos, sin = text_angles(start + delta, tokens, w.frequencies, w.magnitude)
        logs = [b.mixer.logs for b in w.blocks if isinstance(b.mixer, DeltaMixer)]
        replays = [
            Replay(one_log(both, parity), kept, one_log(both, 1 - parity))
            for both in logs
            if both is not None
        ]
        x = self.stack(x, cos, sin, start, replays)
        self.last = rms_norm(x, w.norm, w.eps)
        return linear(self.last[0], w.head).float()

    def hidden(self, tokens: int) -> Tensor:
        assert self.last is not None
        return self.last

    def tensors(self) -> list[Tensor]:
        return []


def no_steps(weights: StepWeights) -> TokenStep | NoSteps:
    """What a backend says that has no `token_step`."""
    return NoSteps()


def one_log(both: DeltaLog, which: int) -> DeltaLog:
    """One of the two logs of a delta layer, without a copy."""
    return DeltaLog(both.inputs[which], both.k[which], both.d[which], both.g[which])


def draft_by_draft(weights: DraftWeights) -> DraftLoop | None:
    """What a backend says that has no `draft_loop`: the drafter goes from draft to draft itself."""
    return None


class draft_loop:
    """All drafts of a round, without modules: see `operands.DraftLoop`."""

    pairs = FEW

    def __init__(self, weights: DraftWeights) -> None:
        self.weights = weights
        self.block = stack((weights.block,))

    def __call__(
        self,
        ids: Sequence[int],
        hidden: Tensor,
        position: int,
        start: int,
        count: int,
        candidates: Sequence[Candidates],
    ) -> list[int]:
        w, drafts = self.weights, list(ids)
        new = drafts  # whose pairs have no keys yet
        for _ in range(count):
            embeds = rows(w.embedding, torch.tensor([new], device=hidden.device)).to(hidden.dtype)
            x = linear(joined(embeds, hidden, w.embedding_norm, w.hidden_norm, w.eps), w.fc)
            angles = text_angles(position, len(new), w.frequencies, w.magnitude)
            x = self.block(x, *angles, start, None)
            position, start = position + len(new), start + len(new)
            hidden = rms_norm(x[:, -1:], w.norm, w.eps)
            logits = torch.cat([linear(hidden[0, 0], each.rows) for each in candidates])
            choices = torch.cat([_ids(each) for each in candidates])
            drafts.append(int(choices[logits.argmax().cpu()]))
            new = drafts[-1:]
        return drafts[len(ids) :]


def joined(
    embeds: Tensor, hidden: Tensor, embedding_norm: Tensor, hidden_norm: Tensor, eps: float
) -> Tensor:
    """What `fc` of the MTP layer takes, (..., 2 D): embeddings and states (..., D), each normed."""
    parts = rms_norm(embeds, embedding_norm, eps), rms_norm(hidden, hidden_norm, eps)
    return torch.cat(parts, dim=-1)


def text_angles(
    position: int, count: int, frequencies: Tensor, magnitude: float
) -> tuple[Tensor, Tensor]:
    """Cosines and sines of tokens of text from `position` on, (1, count, R): `Rotary` of them."""
    positions = torch.arange(position, position + count, device=frequencies.device)
    angles = positions[None, :, None].float() * frequencies
    return angles.cos() * magnitude, angles.sin() * magnitude


def _ids(candidates: Candidates) -> Tensor:
    if candidates.ids is not None:
        return candidates.ids
    return torch.arange(candidates.first, candidates.first + candidates.rows.shape[0])


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mixer: AttentionMixer,
    eps: float,
    cos: Tensor,
    sin: Tensor,
    start: int,
) -> Tensor:
    """Everything in an attention layer between its projections; the keys go behind `start`.

    Args:
        q: (B, T, 2 * H * Dh) queries, each head followed by its gate.
        k, v: (B, T, KV * Dh).

    Returns:
        (B, T, H * Dh).
    """
    B, T, _ = q.shape
    q, gate = q.view(B, T, mixer.heads, -1).chunk(2, dim=-1)
    k, v = (y.view(B, T, -1, q.shape[-1]) for y in (k, v))
    q, k = qk_norm_rotary(q, k, mixer.q_norm, mixer.k_norm, eps, cos, sin)
    store_rows(k, mixer.keys, start)
    store_rows(v, mixer.values, start)
    y = attention(q, until(mixer.keys, start + T), until(mixer.values, start + T))
    return sigmoid_gate(y, gate).flatten(2)


def until(rows: Rows, end: int) -> Rows:
    """The first `end` rows of each head, without a copy."""
    if isinstance(rows, Tensor):
        return rows[:, :, :end]
    return Int8Rows(rows.codes[:, :, :end], rows.scale[:, :, :end])


# ------------------------------------------------------------------------------ the next token


def sample_step(
    logits: Tensor,
    options: Tensor,
    seen: Tensor,
    uniforms: Tensor,
    control: Tensor,
    ids: Tensor,
    ring: Tensor,
    vocab_size: int,
    tokens: int,
) -> None:
    """Choose the next token as `engine.sampling.Sampler` does, of equal logits the lowest id first,
    and move on to the next step. All that it tells is written in place.

    Args:
        logits: (V,) float32 of the last position; ids from `vocab_size` on are never drawn.
        options: (6,) float32: temperature (0 is argmax), top_p, min_p, presence_penalty,
            repetition_penalty, top_k (0 keeps all).
        seen: (V,) uint8, 1 where a token was generated; that of the drawn token is set, unless its
            ring says -1.
        uniforms: (N,) float32 in [0, 1): draw number n takes that at n % N.
        control: (5,) int32: start, delta, kept, parity, drawn; all but delta move on.
        ids: (T,) integers; the first becomes the token.
        ring: (R,) int32; that at drawn % R becomes the token, or -1 where the best logit is no
            finite number: whichever token is chosen then, the step behind it can be run.
        tokens: of this step.
    """
    temperature, top_p, min_p, presence, repetition, top_k = options
    start, _, _, parity, drawn = control.tolist()
    values = logits[:vocab_size]
    less = torch.where(values > 0, values / repetition, values * repetition) - presence
    values = torch.where(seen[:vocab_size] != 0, less, values)
    best, order = values.sort(descending=True, stable=True)
    count = 1 if temperature == 0 else int(top_k) or vocab_size
    best, order = best[:count], order[:count]
    index = 0
    if temperature != 0:
        share = torch.softmax(best / temperature, dim=-1)
        before = share.cumsum(-1) - share
        keep = (before < top_p) & (share >= min_p * share[0])
        keep[0] = True
        weights = (share * keep).cumsum(-1)
        point = uniforms[drawn % len(uniforms)] * weights[-1]
        index = min(int((weights <= point).sum()), int(keep.nonzero()[-1]))
    token = int(order[index])
    finite = bool(best[0].isfinite())
    if finite:
        seen[token] = 1
    ids[0] = token
    ring[drawn % len(ring)] = token if finite else -1
    moved = start + tokens, int(control[1]), tokens, parity ^ 1, drawn + 1
    control.copy_(torch.tensor(moved, dtype=torch.int32))
