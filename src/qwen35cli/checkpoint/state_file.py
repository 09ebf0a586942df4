"""Saved state as one safetensors file, whose metadata says what it belongs to and holds its hash.

It is a cache: written whole or not at all, but not forced to the disk; a power cut may leave a file
that the hash gives away.
"""

import hashlib
import os
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from .header import Stored, read_header_and_metadata
from .whole_file import whole_file
from .write import header, in_order, tensor_bytes

UNKNOWN = "0" * 64  # where the hash will stand, once the tensors were written


class DamagedStateError(Exception):
    """The file is not what was written."""


@dataclass(frozen=True, slots=True, weakref_slot=True, eq=False)
class StateFile:
    """An opened file of saved state. Tensors are read when asked for; none is mapped.

    What another program puts in its place meanwhile is another file: this one is read to its end.

    Attributes:
        metadata: as it was written; what it belongs to.
    """

    path: Path
    metadata: Mapping[str, str]
    tensors: Mapping[str, Stored]
    descriptor: int

    def __post_init__(self) -> None:
        weakref.finalize(self, os.close, self.descriptor)

    @property
    def replaced(self) -> bool:
        """Whether another file stands in its place now, or none."""
        return not _is_at(self.descriptor, self.path)

    def fetch(self, name: str) -> Tensor:
        """The tensor called `name`, in memory of its own.

        Raises:
            KeyError: there is none.
            DamagedStateError: the file was cut short.
        """
        stored = self.tensors[name]
        tensor = torch.empty(stored.shape, dtype=stored.dtype)
        if stored.nbytes:
            with self._opened() as file:
                file.seek(stored.offset)
                view = tensor.view(-1).view(torch.uint8).numpy().data
                if file.readinto(view) != stored.nbytes:
                    raise DamagedStateError(f"{self.path} was cut short")
        return tensor

    def check(self) -> None:
        """Compare the tensors with the hash.

        Raises:
            DamagedStateError: they differ.
        """
        first = min(stored.offset for stored in self.tensors.values())
        with self._opened() as file:
            file.seek(first)
            digest = hashlib.file_digest(file, "sha256")
        if digest.hexdigest() != self.metadata.get("sha256"):
            raise DamagedStateError(f"{self.path} is not what was written")

    def _opened(self) -> BufferedReader:
        return os.fdopen(self.descriptor, "rb", closefd=False)


def write_state(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> int:
    """Write `tensors`, one in memory at a time; gives the size of the file.

    Raises:
        OSError: it cannot be written; what was there before stays.
    """
    layout = in_order(tensors)
    begin = header(layout, {**metadata, "sha256": UNKNOWN})
    digest = hashlib.sha256()
    with whole_file(path, durable=False) as file:
        os.fchmod(file.fileno(), 0o600)
        file.write(begin)
        for tensor in layout.values():
            data = tensor_bytes(tensor)
            digest.update(data)
            file.write(data)
        size = file.tell()
        _put_hash(file, begin, digest)
    return size


def _put_hash(file: BinaryIO, begin: bytes, digest: Any) -> None:
    file.seek(begin.index(UNKNOWN.encode()))
    file.write(digest.hexdigest().encode())


def open_state(path: Path) -> StateFile:
    """Read what a file says of itself.

    Raises:
        ModelError: it is not a safetensors file, or cut short.
        OSError: it cannot be read.
    """
    while True:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            tensors, metadata = read_header_and_metadata(path)
            same = _is_at(descriptor, path)  # else its header may be that of another one
        except BaseException:
            os.close(descriptor)
            raise
        if same:
            by_name = {tensor.name: tensor for tensor in tensors}
            return StateFile(path, metadata, by_name, descriptor)
        os.close(descriptor)


def _is_at(descriptor: int, path: Path) -> bool:
    """Whether the file at `path` is the one that is open."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
