"""The norm over rows of any number: a program takes a few of them, or one."""

from typing import Final

import torch
import triton
import triton.language as tl
from torch import Tensor

from qwen35cli.kernels import reference

from .kernel import Kernel
from .rounding import nearest

ELEMENTS: Final = 2_048  # of a program, where rows are shorter
EACH: Final = 16  # of a thread


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """See `reference.rms_norm`."""
    D = x.shape[-1]
    assert weight.shape == (D,) and weight.is_contiguous()
    if x.dtype not in (torch.bfloat16, torch.float32) or not x.numel():
        return reference.rms_norm(x, weight, eps)
    flat = x.reshape(-1, D)
    if flat.stride(1) != 1:
        flat = flat.contiguous()
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    columns = triton.next_power_of_2(D)
    rows = max(ELEMENTS // columns, 1)
    _rms_norm[(triton.cdiv(len(flat), rows),)](
        flat,
        weight,
        out,
        len(flat),
        flat.stride(0),
        eps,
        D=D,
        ROWS=rows,
        COLUMNS=columns,
        num_warps=min(max(rows * columns // (32 * EACH), 1), 16),
    )
    return out


@Kernel
@triton.jit(do_not_specialize=["rows"])
def _rms_norm(
    x_ptr,  # (rows, D), rows `stride` apart
    weight_ptr,  # (D,) as an offset from one
    out_ptr,  # (rows, D)
    rows,
    stride,
    eps,
    D: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    column = tl.arange(0, COLUMNS)[None, :]
    there = (row < rows) & (column < D)
    x = tl.load(x_ptr + row * stride + column, mask=there, other=0.0).to(tl.float32)
    weight = tl.load(weight_ptr + column, mask=column < D, other=0.0).to(tl.float32)
    scale = tl.rsqrt(tl.sum(x * x, axis=1) / D + eps)[:, None]
    y = x * scale * (1.0 + weight)
    tl.store(out_ptr + row * D + column, nearest(y, out_ptr.dtype.element_ty), mask=there)
