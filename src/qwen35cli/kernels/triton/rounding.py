"""What kernels store of float32: the nearest bfloat16, in Triton's interpreter too."""

from typing import Final

import triton
import triton.language as tl

INTERPRETED: Final = tl.constexpr(bool(triton.knobs.runtime.interpret))


@triton.jit
def nearest(x, dtype: tl.constexpr):
    """float32 in `dtype`, of equally near values the even one. The interpreter cuts off instead."""
    if INTERPRETED:
        if dtype == tl.bfloat16:
            bits = x.to(tl.int32, bitcast=True)
            bits = (bits + 0x7FFF + ((bits >> 16) & 1)) & -0x10000
            x = bits.to(tl.float32, bitcast=True)
    return x.to(dtype)
