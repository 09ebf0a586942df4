"""Rows of 8-bit codes in a file: the `pack-quantized` layout of compressed-tensors.

For `X.weight` (N, K): `weight_packed` int32 (N, ceil(K / 4)), four codes of value + 128 per word,
the first in the lowest bits; `weight_scale` bf16 (N, 1); `weight_shape` int64 [N, K].
"""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from qwen35cli.kernels import Kernels
from qwen35cli.kernels.operands import Int8


def layout(shape: tuple[int, int]) -> dict[str, Tensor]:
    """What a file holds for a matrix, on the meta device."""
    N, K = shape
    return {
        "weight_packed": torch.empty(N, -(-K // 4), dtype=torch.int32, device="meta"),
        "weight_scale": torch.empty(N, 1, dtype=torch.bfloat16, device="meta"),
        "weight_shape": torch.empty(2, dtype=torch.int64, device="meta"),
    }


def encode(
    blocks: Iterable[Tensor],
    shape: tuple[int, int],
    kernels: Kernels,
    device: torch.device | str = "cpu",
) -> dict[str, Tensor]:
    """The tensors of `layout` from successive blocks of rows (R, K), float32 or bf16."""
    found = {name: torch.empty_like(meta, device=device) for name, meta in layout(shape).items()}
    start = 0
    for rows in blocks:
        stop = start + len(rows)
        packed, scale = kernels.quantize_int8(rows)
        found["weight_packed"][start:stop], found["weight_scale"][start:stop] = packed, scale
        start = stop
    assert start == shape[0]
    found["weight_shape"] = torch.tensor(shape, device=device)
    return found


def operand(tensors: Mapping[str, Tensor], shape: tuple[int, int]) -> Int8:
    """What the ops multiply with."""
    return Int8(tensors["weight_packed"], tensors["weight_scale"], shape)
