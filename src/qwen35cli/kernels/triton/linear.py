"""Products of many tokens: tiles of a matrix are widened to bfloat16, and torch multiplies these.

A tile is multiplied while it is still in the L2 cache, and its room used again for the next, so
that no matrix ever stands there whole. What the kernel does not widen, and all weights of float32
activations, go through the reference by blocks of rows.
"""

from collections.abc import Iterator
from math import gcd
from typing import Final

import torch
from torch import Tensor

from qwen35cli.kernels import reference
from qwen35cli.kernels.operands import NF4, Int4, Int8, Weight

from . import tiles
from .swiglu import swiglu
from .widen import widen, widenable

TILE_BYTES: Final = 32 << 20  # of widened rows at most
ROWS: Final = 256  # a tile has a multiple of these, which is what cuBLAS divides best
BLOCK_WEIGHTS: Final = 1 << 22  # that the reference widens at once; it takes some 40 bytes for each


def linear(x: Tensor, weight: Weight, bias: Tensor | None = None) -> Tensor:
    """See `reference.linear`; besides the result it takes `TILE_BYTES`, whatever the matrix."""
    if isinstance(weight, Tensor):
        return reference.linear(x, weight, bias)
    N, K = weight.shape
    tokens = x.reshape(-1, K)
    out = torch.empty(len(tokens), N, dtype=x.dtype, device=x.device)
    for first, rows in _widened(weight, x.dtype):
        part = out[:, first : first + len(rows)]
        if bias is None:
            torch.mm(tokens, rows.T, out=part)
        else:
            added = bias[first : first + len(rows)].to(x.dtype)
            torch.addmm(added, tokens, rows.T, out=part)
    return out.view(*x.shape[:-1], N)


def project(x: Tensor, weights: tuple[Weight, ...]) -> tuple[Tensor, ...]:
    """See `reference.project`."""
    return tuple(linear(x, weight) for weight in weights)


def project_swiglu(x: Tensor, gate: Weight, up: Weight) -> Tensor:
    """See `reference.project_swiglu`."""
    return swiglu(linear(x, gate), linear(x, up))


def _widened(weight: Int4 | Int8 | NF4, dtype: torch.dtype) -> Iterator[tuple[int, Tensor]]:
    """Rows of a matrix in `dtype`, some at a time, each with the number of the first.

    They are to be used before the next are asked for, whose place they may leave.
    """
    N, K = weight.shape
    if dtype == torch.bfloat16 and widenable(weight):
        count = _tile(N, K)
        room = torch.empty(count, K, dtype=dtype, device=weight.packed.device)
        for first in range(0, N, count):
            rows = room[: min(count, N - first)]
            widen(weight, rows, first)
            yield first, rows
    else:
        count = _block(weight)
        for first in range(0, N, count):
            part = _rows(weight, first, min(first + count, N))
            yield first, reference.dequantize(part).to(dtype)


def _tile(N: int, K: int) -> int:
    """Rows of a tile: as few tiles as there can be, of much the same size."""
    most = max(TILE_BYTES // (2 * K * ROWS), 1) * ROWS
    each = -(-N // -(-N // most))
    return min(-(-each // ROWS) * ROWS, N)


def _block(weight: Int4 | Int8 | NF4) -> int:
    """Rows of a block, no fewer than may be taken apart: whole tiles, blocks and bytes of codes."""
    K = weight.shape[1]
    whole = tiles.TILE
    if isinstance(weight, NF4):
        whole = 2 * weight.block // gcd(K, 2 * weight.block)
    return max(BLOCK_WEIGHTS // (K * whole), 1) * whole


def _rows(weight: Int4 | Int8 | NF4, first: int, stop: int) -> Int4 | Int8 | NF4:
    """Rows from `first`, a multiple of what `_block` counts in, in the layout of the file."""
    K, shape = weight.shape[1], (stop - first, weight.shape[1])
    if isinstance(weight, NF4):
        codes = weight.packed[first * K // 2 : -(-stop * K // 2)]
        absmax = weight.absmax[first * K // weight.block : -(-stop * K // weight.block)]
        return NF4(codes, absmax, weight.table, shape, weight.block)
    if isinstance(weight, Int8):
        return Int8(weight.packed[first:stop], weight.scale[first:stop], shape)
    if not tiles.is_tiled(weight):
        return Int4(weight.packed[first:stop], weight.scale[first:stop], shape, weight.group)
    part = slice(first // tiles.TILE, stop // tiles.TILE)
    return tiles.natural(Int4(weight.packed[part], weight.scale[part], shape, weight.group))
