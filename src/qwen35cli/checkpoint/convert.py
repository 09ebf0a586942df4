"""A checkpoint's tensors as those of a quantized one: one at a time, in blocks of rows."""

import math
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from qwen35cli.errors import ModelError
from qwen35cli.kernels import Kernels
from qwen35cli.quant.codec import BLOCK_BYTES, check_weight, layout, quantize_rows, rows_at_once
from qwen35cli.quant.plan import Plan

from .folder import reading
from .header import Stored
from .opened import Checkpoint, file_schemes
from .strict_json import FETCH_AGAIN


def file_layout(checkpoint: Checkpoint, plan: Plan) -> dict[str, Tensor]:
    """Every tensor of the quantized file by name, on the meta device, in the order of conversion.

    Raises: as `file_schemes`.
    """
    result = {}
    for name, scheme in file_schemes(checkpoint, plan).items():
        stored = checkpoint.tensors[name]
        if scheme.kind == "keep":
            result[name] = torch.empty(stored.shape, dtype=stored.dtype, device="meta")
        else:
            result |= _named(name, layout(stored.shape, scheme))
    return result


def quantize_checkpoint(
    checkpoint: Checkpoint, plan: Plan, kernels: Kernels
) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Name of each tensor of `checkpoint` with the tensors of the quantized file that replace it.

    What is kept is kept to the bit. At most one tensor is held, and of one that is quantized only a
    block of rows and the codes.

    Raises:
        ModelError: a number is not finite or absurdly large; a file cannot be read. Also as
            `file_schemes`.
        UsageError: as `file_schemes`.
    """
    for name, scheme in file_schemes(checkpoint, plan).items():
        stored = checkpoint.tensors[name]
        if scheme.kind == "keep":
            yield name, {name: _kept(stored)}
        else:
            found = quantize_rows(_row_blocks(stored), stored.shape, scheme, kernels)
            yield name, _named(name, found)


def _named(name: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a matrix, by their names in the file."""
    return {name.removesuffix("weight") + suffix: tensor for suffix, tensor in tensors.items()}


def _kept(stored: Stored) -> Tensor:
    """The whole tensor, checked."""
    whole = torch.empty(stored.shape, dtype=stored.dtype)
    raw = whole.view(-1).view(torch.uint8) if whole.numel() else whole.view(-1)
    rest = math.prod(stored.shape[1:])
    start = 0
    for block in _blocks(stored, max(1, BLOCK_BYTES // max(1, rest * stored.dtype.itemsize))):
        part = block.view(-1).view(torch.uint8)
        raw[start : start + len(part)] = part
        start += len(part)
    return whole


def _row_blocks(stored: Stored) -> Iterator[Tensor]:
    """A matrix in blocks of rows (R, K), checked, float32 or bf16."""
    if not stored.dtype.is_floating_point or stored.dtype.itemsize == 1:
        raise ModelError(
            f"{stored.name} holds {stored.dtype}, no 16- or 32-bit numbers", FETCH_AGAIN
        )
    for block in _blocks(stored, rows_at_once(stored.shape[1])):
        yield block if block.dtype == torch.bfloat16 else block.float()


def _blocks(stored: Stored, rows: int) -> Iterator[Tensor]:
    """The tensor, so many of its rows at a time, read and checked. A scalar is one block.

    All blocks are the same memory: new memory costs more than reading the file.
    """
    count, *rest = stored.shape or (1,)
    memory = torch.empty(min(rows, count), *rest, dtype=stored.dtype)
    with reading(stored.path), stored.path.open("rb", buffering=0) as file:
        file.seek(stored.offset)
        for start in range(0, count if stored.nbytes else 0, rows):
            block = memory[: count - start]
            view = block.view(-1).view(torch.uint8).numpy()
            filled = 0
            while filled < len(view):
                read = file.readinto(view[filled:].data)
                if not read:
                    raise stored.cut_short()
                filled += read
            check_weight(stored.name, block if stored.shape else block[0], start)
            yield block
