"""What torch's own ops give on a CPU: the backend of an install without a compiler."""

import torch
import torch.nn.functional as F
from torch import Tensor

from qwen35cli.kernels import reference

WIDENED_BYTES = 4 << 20  # of float32 weights at once: they stay in the cache until multiplied


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """See `reference.linear`. No whole copy of a bf16 `weight` is made for float32 `x`.

    One token is multiplied in bf16, so `x` is rounded; more tokens in float32, by blocks of rows.
    """
    if x.dtype != torch.float32 or weight.dtype != torch.bfloat16:
        return reference.linear(x, weight, bias)
    N, K = weight.shape
    rows = x.reshape(-1, K)  # (T, K)
    if len(rows) == 1:
        out = F.linear(rows.bfloat16(), weight).float()
    else:
        out = torch.empty(len(rows), N)
        block = max(1, WIDENED_BYTES // (4 * K))
        for start in range(0, N, block):
            stop = min(start + block, N)
            torch.mm(rows, weight[start:stop].float().T, out=out[:, start:stop])
    out = out if bias is None else out.add_(bias)
    return out.reshape(*x.shape[:-1], N)
