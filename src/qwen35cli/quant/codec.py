"""Matrices to the tensors of a file and back, whatever the scheme."""

from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor

from qwen35cli.errors import ModelError
from qwen35cli.kernels import Kernels, reference
from qwen35cli.kernels.operands import NF4, Int4, Int8

from . import int4, int8, nf4
from .plan import Scheme

BLOCK_BYTES = 16 << 20  # of float32 weights that are quantized at once
LARGEST = 1e3  # magnitude of a weight that can be meant


def layout(shape: tuple[int, ...], scheme: Scheme) -> dict[str, Tensor]:
    """What a file holds for a matrix (N, K), on the meta device.

    The keys take the place of `weight` at the end of the matrix's name.
    """
    N, K = shape
    match scheme.kind:
        case "int4":
            return int4.layout((N, K), scheme.group)
        case "int8":
            return int8.layout((N, K))
        case "nf4":
            return nf4.layout((N, K), scheme.group)
        case "keep":
            raise ValueError("a tensor that is kept has no other layout")


def quantize_rows(
    blocks: Iterable[Tensor], shape: tuple[int, ...], scheme: Scheme, kernels: Kernels
) -> dict[str, Tensor]:
    """The tensors of `layout`, from successive blocks of rows (R, K), float32 or bf16, finite."""
    N, K = shape
    match scheme.kind:
        case "int4":
            return int4.encode(blocks, (N, K), scheme.group, kernels)
        case "int8":
            return int8.encode(blocks, (N, K), kernels)
        case "nf4":
            return nf4.encode(blocks, (N, K), scheme.group, kernels)
        case "keep":
            raise ValueError("a tensor that is kept is not quantized")


def quantize(weight: Tensor, scheme: Scheme, kernels: Kernels) -> dict[str, Tensor]:
    """The tensors of `layout` for `weight` (N, K), float32 or bf16, finite."""
    return quantize_rows(row_blocks(weight), tuple(weight.shape), scheme, kernels)


def operand(
    tensors: Mapping[str, Tensor], scheme: Scheme, shape: tuple[int, int]
) -> Int4 | Int8 | NF4:
    """What the ops multiply with, from the tensors of `layout`."""
    match scheme.kind:
        case "int4":
            return int4.operand(tensors, shape, scheme.group)
        case "int8":
            return int8.operand(tensors, shape)
        case "nf4":
            return nf4.operand(tensors, shape, scheme.group)
        case "keep":
            raise ValueError("a tensor that is kept is its own operand")


def dequantize(tensors: Mapping[str, Tensor], scheme: Scheme, shape: tuple[int, int]) -> Tensor:
    """(N, K) float32: the weights that the tensors of `layout` stand for."""
    return reference.dequantize(operand(tensors, scheme, shape))


def row_blocks(weight: Tensor) -> Iterator[Tensor]:
    """Blocks of rows of `weight` (N, K), as many at once as are quantized in bounded memory."""
    step = rows_at_once(weight.shape[1])
    return (weight[start : start + step] for start in range(0, len(weight), step))


def rows_at_once(width: int) -> int:
    """Rows of so many weights that make a block."""
    return max(1, BLOCK_BYTES // (4 * width))


def check_weight(name: str, tensor: Tensor, first: int = 0) -> None:
    """Refuse weights that cannot be meant: not finite, or larger than 1,000.

    Args:
        name: for the message.
        tensor: any shape; what holds no floats passes.
        first: index of the first row of `tensor`, where it is a block of rows.

    Raises:
        ModelError: with the index and value of the first such weight.
    """
    if not tensor.is_floating_point() or not tensor.numel():
        return
    low, high = torch.aminmax(tensor)
    if low >= -LARGEST and high <= LARGEST:  # false of NaN
        return
    bad = ~(tensor.float().abs() <= LARGEST)
    index = bad.nonzero()[0].tolist()
    value = float(tensor[tuple(index)])
    if index:
        index[0] += first
    raise ModelError(
        f"{name}{index} is {value:g}: no weight is that large, or not a number",
        "the file was damaged on its way: check its hash and fetch the checkpoint again",
    )
