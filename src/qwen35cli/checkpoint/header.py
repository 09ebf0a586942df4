"""The header of a safetensors file, checked down to the last byte; no tensor is read.

The format: 8 bytes with the length of the header, little-endian; the header, a JSON object with
dtype, shape and byte range of each tensor; the data.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from qwen35cli.errors import ModelError

from .names import TENSOR_NAME
from .strict_json import FETCH_AGAIN, parse_object

DTYPES = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I16": torch.int16,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I32": torch.int32,
    "F32": torch.float32,
    "I64": torch.int64,
    "F64": torch.float64,
}
SPELLING = {dtype: name for name, dtype in DTYPES.items()}

MAX_HEADER_BYTES = 4 * 2**20  # the 27B, in one file, takes 0.2
MAX_NAME = 256
MAX_DIMENSIONS = 8


@dataclass(frozen=True, slots=True)
class Stored:
    """A tensor in a file: what it is, and where it begins."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    path: Path
    offset: int  # from the start of the file

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def read_header(path: Path) -> list[Stored]:
    """The tensors of a file, in the order of their bytes, which they cover without gap or overlap.

    Raises:
        ModelError: the header is not what the format asks for, or disagrees with the file's size.
    """
    return read_headers(path)[0]


def read_headers(path: Path) -> tuple[list[Stored], dict[str, str]]:
    """The same, with the file's metadata."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or not 2 <= length <= min(size - 8, MAX_HEADER_BYTES):
            raise ModelError(
                f"{path}: a header of {length:,} bytes in a file of {size:,}; "
                f"at most {MAX_HEADER_BYTES:,} are allowed",
                FETCH_AGAIN,
            )
        text = file.read(length)
    if not text.startswith(b"{"):
        raise ModelError(f"{path}: the header does not begin with {{", FETCH_AGAIN)
    entries = parse_object(text, f"{path}: the header")
    metadata = entries.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise ModelError(f"{path}: __metadata__ is not an object of strings", FETCH_AGAIN)
    begin = 8 + length
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
    if len(name) > MAX_NAME or not TENSOR_NAME.fullmatch(name):
        raise ModelError(f"{where} is not a tensor name", FETCH_AGAIN)
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise ModelError(f"{where} needs dtype, shape and data_offsets, no more", FETCH_AGAIN)
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise ModelError(f"{where} has the unknown dtype {str(dtype)[:40]!r}", FETCH_AGAIN)
    if not _sizes(shape) or len(shape) > MAX_DIMENSIONS:
        raise ModelError(f"{where} has the shape {str(shape)[:80]}", FETCH_AGAIN)
    if not _sizes(offsets) or len(offsets) != 2:
        raise ModelError(f"{where} has the data_offsets {str(offsets)[:80]}", FETCH_AGAIN)
    stored = Stored(name, DTYPES[dtype], tuple(shape), path, data + offsets[0])
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
