"""Twins of some ops for training: whole sequences from an empty state, differentiable, and fast.

The weights that come out are judged on the package's own kernels; these only have to agree.
"""

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from qwen35cli.kernels import Kernels, reference, select
from qwen35cli.kernels.operands import DeltaWeights, Replay

CHUNK = 32  # tokens per chunk of the delta rule


def training_kernels() -> Kernels:
    """The reference, with attention and the delta rule replaced."""
    return replace(
        select(torch.device("cpu"), "reference"),
        description="training on a CPU",
        attention=attention,
        segment_attention=segment_attention,
        delta_mix=delta_mix,
    )


def attention(q: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Causal attention over one whole sequence; see `kernels.reference.attention`."""
    share = q.shape[2] // keys.shape[1]
    keys, values = (x.repeat_interleave(share, dim=1) for x in (keys, values))
    return F.scaled_dot_product_attention(
        q.transpose(1, 2), keys, values, is_causal=True
    ).transpose(1, 2)


def segment_attention(q: Tensor, k: Tensor, v: Tensor, segments: tuple[int, ...]) -> Tensor:
    """Attention inside each picture, for pictures of one size; see the reference."""
    q, k, v = (x.unflatten(0, (len(segments), -1)).transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(0, 1)


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
    """A DeltaNet layer over whole sequences; see the reference. `rows` and `state` stay empty."""
    H, K, V = state.shape[1:]
    keys = (qkv.shape[2] - H * V) // 2
    q, k, v = causal_conv(qkv, weights.conv).split([keys, keys, H * V], dim=-1)
    q = reference.l2_norm(q.unflatten(-1, (-1, K))) * K**-0.5
    k = reference.l2_norm(k.unflatten(-1, (-1, K)))
    g, beta = reference.delta_gates(a, b, weights.a_log, weights.dt_bias)
    y = delta_chunk(q, k, v.unflatten(-1, (H, V)), g, beta)
    z = z.unflatten(-1, (H, V))
    return reference.gated_rms_norm(y, z, weights.norm, weights.eps).flatten(2)


def causal_conv(x: Tensor, weight: Tensor) -> Tensor:
    """Depthwise convolution over time from nothing, then SiLU; see the reference."""
    T, width = x.shape[1], weight.shape[-1]
    taps = weight[:, 0].unbind(-1)
    padded = F.pad(x, (0, 0, width - 1, 0))
    mixed = padded[:, :T] * taps[0]
    for j in range(1, width):
        mixed = torch.addcmul(mixed, padded[:, j : j + T], taps[j])
    return F.silu(mixed)


class _Inverse(torch.autograd.Function):
    """(I + A)^-1 of strictly lower triangular A."""

    @staticmethod
    def forward(ctx, lower: Tensor) -> Tensor:
        eye = torch.eye(lower.shape[-1]).expand_as(lower)
        inverse = torch.linalg.solve_triangular(lower, eye, upper=False, unitriangular=True)
        ctx.save_for_backward(inverse)
        return inverse

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        (inverse,) = ctx.saved_tensors
        turned = inverse.transpose(-1, -2)
        return -(turned @ grad @ turned)


def delta_chunk(q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor) -> Tensor:
    """The gated delta rule from an empty state; see the reference. The state is not returned."""
    B, T, G, K = q.shape
    H, V = v.shape[2:]
    C = min(CHUNK, T)
    n = -(-T // C)
    share = H // G

    def chunked(x: Tensor) -> Tensor:  # (B, T, heads, ...) -> (B, n, heads, C, ...)
        if n * C != T:
            x = F.pad(x, [0, 0] * (x.dim() - 2) + [0, n * C - T])
        return x.unflatten(1, (n, C)).transpose(2, 3)

    q, k, v = chunked(q), chunked(k), chunked(v)
    beta = chunked(beta)[..., None]  # (B, n, H, C, 1)
    total = chunked(g).cumsum(-1)  # (B, n, H, C)
    above = torch.ones(C, C, dtype=torch.bool).triu(1)
    difference = total[..., :, None] - total[..., None, :]
    decay = torch.exp(difference.masked_fill(above, -torch.inf))
    keys_keys = k @ k.transpose(-1, -2)
    queries_keys = q @ k.transpose(-1, -2)
    if share > 1:
        keys_keys, queries_keys, q, k = (
            x.repeat_interleave(share, dim=2) for x in (keys_keys, queries_keys, q, k)
        )
    queries_keys = queries_keys * decay
    inverse = _Inverse.apply((beta * keys_keys * decay).tril(-1))
    grown = torch.exp(total)[..., None]
    right = torch.cat([v, grown * k], dim=-1)
    u, w = (inverse @ (beta * right)).split([V, K], dim=-1)
    if n == 1:
        out = queries_keys @ u
        return out.transpose(2, 3).flatten(1, 2)[:, :T]
    q = q * grown
    last = total[..., -1:]
    k = (k * torch.exp(last - total)[..., None]).transpose(-1, -2)
    kept = torch.exp(last)[..., None]
    memory = k[:, 0] @ u[:, 0]
    outputs = [queries_keys[:, 0] @ u[:, 0]]
    for i in range(1, n):
        new = torch.baddbmm(
            u[:, i].flatten(0, 1), w[:, i].flatten(0, 1), memory.flatten(0, 1), alpha=-1
        ).unflatten(0, (B, H))
        outputs.append(q[:, i] @ memory + queries_keys[:, i] @ new)
        if i + 1 < n:
            memory = kept[:, i] * memory + k[:, i] @ new
    out = torch.stack(outputs, dim=1)  # (B, n, H, C, V)
    return out.transpose(2, 3).flatten(1, 2)[:, :T]
