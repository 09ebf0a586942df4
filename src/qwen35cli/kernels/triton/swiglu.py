"""`silu(gate) * up` in one launch, rounded once."""

from typing import Final

import torch
import triton
import triton.language as tl
from torch import Tensor

from qwen35cli.kernels import reference

from .kernel import Kernel
from .rounding import nearest

ELEMENTS: Final = 2_048  # of a program
WARPS: Final = 4


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """See `reference.swiglu`; computed in float32."""
    assert gate.shape == up.shape and gate.dtype == up.dtype
    if gate.dtype not in (torch.bfloat16, torch.float32) or not gate.numel():
        return reference.swiglu(gate, up)
    gate, up = gate.contiguous(), up.contiguous()
    out = torch.empty_like(gate)
    count = gate.numel()
    _swiglu[(triton.cdiv(count, ELEMENTS),)](
        gate, up, out, count, ELEMENTS=ELEMENTS, num_warps=WARPS
    )
    return out


@Kernel
@triton.jit
def _swiglu(gate_ptr, up_ptr, out_ptr, count, ELEMENTS: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * ELEMENTS + tl.arange(0, ELEMENTS)
    gate = tl.load(gate_ptr + at, mask=at < count).to(tl.float32)
    up = tl.load(up_ptr + at, mask=at < count).to(tl.float32)
    small = tl.exp(-tl.abs(gate))  # at most 1, whatever the gate
    y = gate * (tl.where(gate < 0, small, 1.0) / (1.0 + small)) * up
    tl.store(out_ptr + at, nearest(y, out_ptr.dtype.element_ty), mask=at < count)
