"""Quantized matrices as bfloat16 again, a range of rows at a time, to be multiplied by torch.

A thread reads neighbouring words and makes of them the pieces of 16 bytes that it writes. Codes
become floats without a conversion: put under an exponent they are too large by a known sum.
"""

from typing import Final, TypeGuard

import torch
import triton
import triton.language as tl
from torch import Tensor

from qwen35cli.kernels.operands import Int4, Int8, Weight

from .kernel import Kernel
from .rounding import nearest
from .tiles import BLOCK, TILE, is_tiled

BLOCKS: Final = 4  # of 128 inputs and 16 rows, in a program for int4
CODES: Final = 4_096  # of a row, in a program for int8
WARPS: Final = 4


def widenable(weight: Weight) -> TypeGuard[Int4 | Int8]:
    """Whether `widen` takes a matrix: int4 in tiles, or int8 whose rows are whole pieces."""
    if isinstance(weight, Int4):
        return is_tiled(weight)
    return isinstance(weight, Int8) and weight.shape[1] % 8 == 0


def widen(weight: Int4 | Int8, out: Tensor, first: int = 0) -> None:
    """Write rows of a matrix, from `first` on: those of `reference.dequantize`, rounded once.

    Args:
        weight: as `widenable` says.
        out: (rows, K) bf16; of int4 `first` and rows are multiples of 16.
    """
    (N, K), count = weight.shape, len(out)
    assert widenable(weight) and 0 <= first <= first + count <= N and out.shape == (count, K)
    assert out.dtype == torch.bfloat16 and out.is_contiguous()
    for x in (weight.packed, weight.scale):
        assert x.is_contiguous()
    if isinstance(weight, Int4):
        assert first % TILE == 0 == count % TILE
        part = slice(first // TILE, (first + count) // TILE)
        parts = triton.cdiv(K, BLOCKS * BLOCK)
        _widen_int4[(count // TILE * parts,)](
            weight.packed[part],
            weight.scale[part],
            out,
            K=K,
            GROUP=weight.group,
            PARTS=parts,
            BLOCKS=BLOCKS,
            num_warps=WARPS,
        )
    else:
        parts = triton.cdiv(K, CODES)
        _widen_int8[(count * parts,)](
            weight.packed[first : first + count],
            weight.scale[first : first + count],
            out,
            K=K,
            PARTS=parts,
            CODES=min(CODES, triton.next_power_of_2(K)),
            num_warps=WARPS,
        )


@Kernel
@triton.jit
def _widen_int4(
    packed_ptr,  # (N / 16, K / 128, 2, 32, 4) int32, see `tiles`
    scale_ptr,  # (N / 16, K / 128, pairs of groups, 16, groups of a pair) bf16
    out_ptr,  # (N, K)
    K: tl.constexpr,
    GROUP: tl.constexpr,
    PARTS: tl.constexpr,  # of a tile's inputs, each for a program
    BLOCKS: tl.constexpr,
):
    """16 rows of up to BLOCKS * 128 inputs."""
    SIDE: tl.constexpr = 1 if GROUP == 128 else 2
    tile = (tl.program_id(0) // PARTS).to(tl.int64)
    start = tl.program_id(0) % PARTS * BLOCKS
    packed_ptr += tile * (K * 2) + start * 256
    scale_ptr += tile * (K // GROUP * 16) + start * (128 // GROUP * 16)
    out_ptr += tile * (K * 16) + start * 128
    piece = tl.arange(0, BLOCKS * 64)  # block, half, r, c
    block, row, c = piece // 64, piece // 4 % 16, piece % 4
    there = (start + block < K // 128)[:, None]
    where = piece[:, None] * 4 + tl.arange(0, 4)[None, :]
    words = tl.load(packed_ptr + where, mask=there, eviction_policy="evict_first")
    scale_ptr += (block * (128 // GROUP * 16) + row * SIDE)[:, None]
    scales = (tl.load(scale_ptr, mask=there),)
    for group in tl.static_range(1, 128 // GROUP):
        at = group // SIDE * (16 * SIDE) + group % SIDE
        scales = scales + (tl.load(scale_ptr + at, mask=there),)
    out_ptr += (row * K + block * 128 + c * 8)[:, None] + tl.arange(0, 8)[None, :]
    for step in tl.static_range(4):
        # 128 + code, as bfloat16 in both halves
        pairs = ((words >> (4 * step)) & 0x000F000F) | 0x43004300
        low = (pairs << 16).to(tl.float32, bitcast=True)
        high = (pairs & -0x10000).to(tl.float32, bitcast=True)
        scale = scales[step * 32 // GROUP].to(tl.float32)
        values = (tl.join(low, high) - 136.0) * scale[:, :, None]
        values = tl.reshape(values, (BLOCKS * 64, 2, 2, 2))  # v1, v0, low or high
        values = tl.reshape(tl.permute(values, (0, 2, 1, 3)), (BLOCKS * 64, 8))
        out = nearest(values, out_ptr.dtype.element_ty)
        tl.store(out_ptr + step * 32, out, mask=there)


@Kernel
@triton.jit
def _widen_int8(
    packed_ptr,  # (N, K / 4) int32
    scale_ptr,  # (N,) bf16
    out_ptr,  # (N, K)
    K: tl.constexpr,
    PARTS: tl.constexpr,
    CODES: tl.constexpr,
):
    """Up to CODES inputs of a row."""
    row = (tl.program_id(0) // PARTS).to(tl.int64)
    start = tl.program_id(0) % PARTS * CODES
    piece = tl.arange(0, CODES // 8)[:, None]  # of 8 codes
    there = start + piece * 8 < K
    packed_ptr += row * (K // 4) + start // 4
    words = tl.load(
        packed_ptr + piece * 2 + tl.arange(0, 2)[None, :],
        mask=there,
        eviction_policy="evict_first",
    )
    scale = tl.load(scale_ptr + row).to(tl.float32)
    even = tl.join(words & 255, (words >> 16) & 255)
    odd = tl.join((words >> 8) & 255, (words >> 24) & 255)
    codes = tl.reshape(tl.join(even, odd), (CODES // 8, 8)) | 0x4B000000  # 2**23 + code
    values = (codes.to(tl.float32, bitcast=True) - 8_388_736.0) * scale
    out_ptr += row * K + start
    out = nearest(values, out_ptr.dtype.element_ty)
    tl.store(out_ptr + piece * 8 + tl.arange(0, 8)[None, :], out, mask=there)
