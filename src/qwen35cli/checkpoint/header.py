"""The header of a safetensors file, checked down to the last byte; no tensor is read.

Free of torch, until somebody asks for the dtype of a tensor.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from qwen35cli.errors import ModelError

from .names import is_tensor_name
from .raw_header import raw_header
from .strict_json import FETCH_AGAIN

if TYPE_CHECKING:
    import torch

ITEMSIZE: Final[Mapping[str, int]] = {  # bytes of a number, by what the format calls it
    "BOOL": 1,
    "U8": 1,
    "I8": 1,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "I16": 2,
    "F16": 2,
    "BF16": 2,
    "I32": 4,
    "F32": 4,
    "I64": 8,
    "F64": 8,
}

MAX_DIMENSIONS = 8


@dataclass(frozen=True, slots=True)
class Stored:
    """A tensor in a file: what it is, and where it begins."""

    name: str
    spelling: str  # of its dtype, a key of `ITEMSIZE`
    shape: tuple[int, ...]
    path: Path
    offset: int  # from the start of the file

    @property
    def itemsize(self) -> int:
        return ITEMSIZE[self.spelling]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.itemsize

    @property
    def dtype(self) -> "torch.dtype":
        from .dtypes import DTYPES  # late: it imports torch

        return DTYPES[self.spelling]

    def cut_short(self) -> ModelError:
        """What to say where the file ends within the tensor, though its header was right."""
        return ModelError(
            f"{self.path} ends within {self.name}: it was cut short since it was opened",
            FETCH_AGAIN,
        )


def read_header(path: Path) -> list[Stored]:
    """The tensors of a file, in the order of their bytes, which they cover without gap or overlap.

    Raises:
        ModelError: the header is not what the format asks for, or disagrees with the file's size.
    """
    return read_header_and_metadata(path)[0]


def read_header_and_metadata(path: Path) -> tuple[list[Stored], dict[str, str]]:
    """The same, with the file's metadata."""
    raw = raw_header(path)
    entries, metadata, begin, size = raw.entries, raw.metadata, raw.begin, raw.size
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise ModelError(f"{path}: __metadata__ is not an object of strings", FETCH_AGAIN)
    tensors = sorted(
        (_stored(path, name, entry, begin) for name, entry in entries.items()),
        key=lambda tensor: (tensor.offset, tensor.nbytes),
    )
    for tensor in tensors:
        if tensor.offset != begin:
            fault = "hole" if tensor.offset > begin else "overlap"
            raise ModelError(
                f"{path}: {fault} before {tensor.name}: it begins at byte {tensor.offset:,}, "
                f"the tensors before it end at {begin:,}",
                FETCH_AGAIN,
            )
        begin += tensor.nbytes
    if begin != size:
        raise ModelError(
            f"{path} has {size:,} bytes, its header describes {begin:,}: "
            + ("cut short" if size < begin else "trailing bytes"),
            FETCH_AGAIN,
        )
    return tensors, metadata


def _stored(path: Path, name: str, entry: Any, data: int) -> Stored:
    """One entry of the header; `data` is where the byte ranges count from."""
    where = f"{path}: {name[:80]!r}"
    if not is_tensor_name(name):
        raise ModelError(f"{where} is not a tensor name", FETCH_AGAIN)
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise ModelError(f"{where} needs dtype, shape and data_offsets, no more", FETCH_AGAIN)
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in ITEMSIZE:
        raise ModelError(f"{where} has the unknown dtype {str(dtype)[:40]!r}", FETCH_AGAIN)
    if not _sizes(shape) or len(shape) > MAX_DIMENSIONS:
        raise ModelError(f"{where} has the shape {str(shape)[:80]}", FETCH_AGAIN)
    if not _sizes(offsets) or len(offsets) != 2:
        raise ModelError(f"{where} has the data_offsets {str(offsets)[:80]}", FETCH_AGAIN)
    stored = Stored(name, dtype, tuple(shape), path, data + offsets[0])
    if offsets[1] - offsets[0] != stored.nbytes:
        raise ModelError(
            f"{where} has {offsets[1] - offsets[0]:,} bytes, "
            f"{dtype} {list(shape)} takes {stored.nbytes:,}",
            FETCH_AGAIN,
        )
    return stored


def _sizes(value: Any) -> bool:
    """Whether it is a list of whole numbers from 0 to what a file can hold."""
    return isinstance(value, list) and all(type(n) is int and 0 <= n < 2**63 for n in value)
