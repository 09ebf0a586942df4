"""Every op of the model in plain torch: the mathematics on a few pages, the judge of fast twins.

All of it runs on any device and dtype, and all but `delta_step` can be differentiated. Dtype
policy: statistics, gates, softmax and the whole delta rule are float32; results come back in the
dtype of the activations.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

KEY_BLOCK = 2_048  # keys scored at once in attention: bounds the scores, whatever the context
DELTA_CHUNK = 64  # tokens per chunk of the delta rule


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`x @ weight.T + bias`, with weights and bias taken in the dtype of `x`.

    Args:
        x: (..., D).
        weight: (N, D), any float dtype.
        bias: (N,) or None.

    Returns:
        (..., N) in the dtype of `x`.
    """
    return F.linear(x, weight.to(x.dtype), None if bias is None else bias.to(x.dtype))


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


def attention(q: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Causal attention of the newest tokens over everything cached, scaled by Dh ** -0.5.

    Keys are taken in blocks with a running softmax, so no tensor grows with T x S.

    Args:
        q: (B, T, H, Dh) queries of the last T of S positions.
        keys, values: (B, KV, S, Dh), any float dtype; query head h reads head h // (H / KV).

    Returns:
        (B, T, H, Dh) in the dtype of `q`; softmax and sums are float32.
    """
    B, T, H, Dh = q.shape
    KV, S = keys.shape[1:3]
    queries = (q.float() * Dh**-0.5).transpose(1, 2).reshape(B, KV, H // KV * T, Dh)
    reach = torch.arange(S - T, S, device=q.device).repeat(H // KV)[
        :, None
    ]  # last key each may see
    best = torch.full((B, KV, H // KV * T, 1), -torch.inf, device=q.device)
    total = torch.zeros_like(best)
    out = torch.zeros_like(queries)
    for start in range(0, S, KEY_BLOCK):
        stop = min(start + KEY_BLOCK, S)
        scores = queries @ keys[:, :, start:stop].float().transpose(2, 3)  # (B, KV, H/KV*T, block)
        if stop > S - T + 1:
            columns = torch.arange(start, stop, device=q.device)
            scores = scores.masked_fill(columns > reach, -torch.inf)
        # Key 0 is in the first block, and every query sees it: `best` is finite from there on.
        higher = torch.maximum(best, scores.amax(-1, keepdim=True))
        weights = torch.exp(scores - higher)
        shrink = torch.exp(best - higher)
        total = total * shrink + weights.sum(-1, keepdim=True)
        out = out * shrink + weights @ values[:, :, start:stop].float()
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
        `state = exp(g) * state + k d^T`, which `DeltaCache.rollback` can repeat.

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
