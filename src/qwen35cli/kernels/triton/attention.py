"""Attention of a prompt: torch's flash attention over blocks of the past, joined in float32.

The new tokens see each other causally, and every token of the past. So the past needs no mask, and
the query heads that share a key head are rows of one product with it: keys are never repeated.
"""

from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor

from qwen35cli.kernels import reference
from qwen35cli.kernels.operands import Int8Rows, Rows

BLOCK: Final = 16_384  # keys of the past at once: bounds what 8-bit rows take in bf16

# q, k, v (B, H, T, Dh) and whether causal -> (B, H, T, Dh) and the logarithm of the sum of
# exponentials (B, H, T) float32
Flash = Callable[[Tensor, Tensor, Tensor, bool], tuple[Tensor, Tensor]]


def attention(q: Tensor, keys: Rows, values: Rows) -> Tensor:
    """See `reference.attention`, which it is on a CPU and for anything but queries in bf16."""
    if q.device.type != "cuda" or q.dtype != torch.bfloat16:
        return reference.attention(q, keys, values)
    return joined(q, keys, values, flash, BLOCK)


def flash(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> tuple[Tensor, Tensor]:
    """Torch's own kernel, on CUDA only, scaled by Dh ** -0.5."""
    op = torch.ops.aten._scaled_dot_product_flash_attention
    out, logsumexp, *_ = op(q, k, v, 0.0, causal, False)
    return out, logsumexp


def joined(q: Tensor, keys: Rows, values: Rows, flash: Flash, block: int) -> Tensor:
    """`reference.attention` by a function that knows one block of keys at a time.

    Args:
        block: keys of the past at once.
    """
    B, T, H, Dh = q.shape
    KV, S = (keys if isinstance(keys, Tensor) else keys.codes).shape[1:3]
    queries = q.transpose(1, 2)  # (B, H, T, Dh)
    k, v = (_widened(rows, S - T, S, q.dtype) for rows in (keys, values))
    k, v = (x.repeat_interleave(H // KV, dim=1) for x in (k, v))
    out, weight = flash(queries, k, v, True)
    if S == T:
        return out.transpose(1, 2)
    shape = (B, KV, H // KV * T, Dh)
    queries = queries.reshape(shape)
    out, weight = out.reshape(shape).float(), weight.reshape(shape[:3])
    for start in range(0, S - T, block):
        stop = min(start + block, S - T)
        k, v = (_widened(rows, start, stop, q.dtype) for rows in (keys, values))
        part, part_weight = flash(queries, k, v, False)
        total = torch.logaddexp(weight, part_weight)
        out *= torch.exp(weight - total)[..., None]
        out += part * torch.exp(part_weight - total)[..., None]
        weight = total
    return out.view(B, H, T, Dh).transpose(1, 2).to(q.dtype)


def _widened(rows: Rows, start: int, stop: int, dtype: torch.dtype) -> Tensor:
    """Some tokens of cached rows in `dtype`, rounded once: (B, KV, stop - start, Dh)."""
    if isinstance(rows, Int8Rows):
        return rows.codes[:, :, start:stop].to(dtype).mul_(rows.scale[:, :, start:stop, None])
    return rows[:, :, start:stop].to(dtype)
