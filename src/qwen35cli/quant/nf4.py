"""nf4 in a file: the tensors that bitsandbytes 0.50 writes, with double quantization.

For `X.weight` (N, K), of which every `block` weights share a factor, counted over the flat matrix:

weight                              uint8 (N * K / 2, 1), the first weight in the HIGH four bits
weight.absmax                       uint8 (blocks,): indices of the factors, less their mean
weight.quant_map                    float32 (16,)
weight.nested_absmax                float32 (ceil(blocks / 256),): factors of the factors
weight.nested_quant_map             float32 (256,)
weight.quant_state.bitsandbytes__nf4    uint8: JSON, here padded with blanks to 256 bytes

bitsandbytes is imported to write, never to read.
"""

import json
import logging
import math
import sys
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from qwen35cli.kernels import Kernels
from qwen35cli.kernels.operands import NF4
from qwen35cli.kernels.reference import NF4_TABLE

from .plan import NESTED, NOTE_BYTES

NOTE = "weight.quant_state.bitsandbytes__nf4"


def layout(shape: tuple[int, int], block: int) -> dict[str, Tensor]:
    """What a file holds for a matrix, on the meta device."""
    count = shape[0] * shape[1]
    blocks = -(-count // block)
    with torch.device("meta"):
        return {
            "weight": torch.empty(count // 2, 1, dtype=torch.uint8),
            "weight.absmax": torch.empty(blocks, dtype=torch.uint8),
            "weight.quant_map": torch.empty(16),
            "weight.nested_absmax": torch.empty(-(-blocks // NESTED)),
            "weight.nested_quant_map": torch.empty(NESTED),
            NOTE: torch.empty(NOTE_BYTES, dtype=torch.uint8),
        }


def encode(
    blocks: Iterable[Tensor], shape: tuple[int, int], block: int, kernels: Kernels
) -> dict[str, Tensor]:
    """The tensors of `layout` from successive blocks of rows (R, K), float32 or bf16.

    Codes are chosen for the factors before these are quantized in turn, which costs 0.01 dB.
    """
    packed, factors, left = [], [], torch.empty(0)
    for rows in blocks:
        flat = torch.cat([left, rows.flatten().float()])
        whole = flat.numel() // block * block
        flat, left = flat[:whole], flat[whole:]
        if whole:
            codes, absmax = kernels.quantize_nf4(flat[None], block)
            packed.append(codes)
            factors.append(absmax)
    if left.numel():
        codes, absmax = kernels.quantize_nf4(left[None], block)
        packed.append(codes)
        factors.append(absmax)
    return {"weight": torch.cat(packed)} | _state(torch.cat(factors), shape, block)


def operand(tensors: Mapping[str, Tensor], shape: tuple[int, int], block: int) -> NF4:
    """What the ops multiply with: the factors as float32.

    Raises:
        ValueError: the note disagrees with `shape` or `block`, or is none.
    """
    note = _note(tensors[NOTE])
    expected = {
        "quant_type": "nf4",
        "blocksize": block,
        "shape": list(shape),
        "nested_blocksize": NESTED,
        "nested_dtype": "float32",
    }
    for key, value in expected.items():
        if note.get(key) != value:
            raise ValueError(f"{key} is {str(note.get(key))[:40]}, it must be {value}")
    offset = note.get("nested_offset")
    if not isinstance(offset, int | float) or isinstance(offset, bool) or not math.isfinite(offset):
        raise ValueError(f"nested_offset is {str(offset)[:40]}, it must be a number")
    table = tensors["weight.nested_quant_map"]
    nested = tensors["weight.nested_absmax"].repeat_interleave(NESTED)
    codes = tensors["weight.absmax"].int()
    absmax = table[codes] * nested[: len(codes)] + offset
    return NF4(tensors["weight"], absmax, tensors["weight.quant_map"], shape, block)


def _note(tensor: Tensor) -> dict[str, Any]:
    try:
        note = json.loads(bytes(tensor.tolist()))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not JSON: {str(error)[:80]}") from None
    if not isinstance(note, dict):
        raise ValueError(f"a JSON {type(note).__name__}, no object")
    return note


def _state(factors: Tensor, shape: tuple[int, int], block: int) -> dict[str, Tensor]:
    """All but the codes: the factors (blocks,) float32, quantized by bitsandbytes."""
    functional = _bitsandbytes()
    offset = factors.mean()
    absmax, nested = functional.quantize_blockwise(factors - offset, blocksize=NESTED)
    state = functional.QuantState(
        absmax=absmax,
        shape=torch.Size(shape),
        code=torch.tensor(NF4_TABLE),
        blocksize=block,
        quant_type="nf4",
        dtype=torch.bfloat16,
        offset=offset,
        state2=nested,
    )
    tensors = {f"weight.{name}": tensor for name, tensor in state.as_dict(packed=True).items()}
    text = bytes(tensors[NOTE].tolist()).ljust(NOTE_BYTES)
    assert len(text) == NOTE_BYTES
    tensors[NOTE] = torch.tensor(list(text), dtype=torch.uint8)
    return tensors


def _bitsandbytes() -> Any:
    """Its functions. The import is slow, warns, and would fetch native code from the Hub."""
    logger = logging.getLogger("bitsandbytes")
    level, absent = logger.level, "kernels" not in sys.modules
    logger.setLevel(logging.ERROR)
    if absent:
        sys.modules["kernels"] = None  # type: ignore[assignment]  # an import of it then fails
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import bitsandbytes.functional
    finally:
        logger.setLevel(level)
        if absent:
            del sys.modules["kernels"]
    return bitsandbytes.functional
