"""Writing checkpoints: the Hugging Face layout, every file complete or absent.

`config.json` comes last, so a folder that has one has the rest.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from .dtypes import SPELLING
from .names import CONFIG, INDEX, SHARD, SINGLE
from .whole_file import Entry, whole_file, write_json

ALIGNMENT = 8  # of the tensor data in the file
# What is written at once. Linux keeps such blocks of a file in huge pages where the file system can
# (ext4 from 6.16 on), from which weights are read faster when they are mapped.
BLOCK = 2 << 20


def write_checkpoint(
    folder: Path,
    state: Mapping[str, Tensor],
    config: Mapping[str, Any],
    shard_bytes: int | None = None,
) -> None:
    """Write `state`, under its checkpoint names, and `config` into `folder`, which is made.

    Without `shard_bytes` it is one file without an index; with it, shards of at most so many bytes
    (or one tensor, where that is larger).
    """
    sizes = {name: tensor.nbytes for name, tensor in state.items()}
    shards = [list(state)] if shard_bytes is None else split(sizes, shard_bytes)
    write_shards(folder, shards, state, state.__getitem__)
    write_json(folder / CONFIG, config)


def write_shards(
    folder: Path,
    shards: Sequence[Sequence[str]],
    layout: Mapping[str, Tensor],
    fetch: Callable[[str], Tensor],
) -> None:
    """Write the named tensors of each shard, then the index where there are several shards.

    Args:
        folder: made where absent; the config is not written here.
        shards: tensor names, file by file.
        layout: shape and dtype by name; the tensors may be on the meta device.
        fetch: gives the values; asked once per tensor, in the order of the file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if len(shards) == 1:
        write_tensors(folder / SINGLE, {name: layout[name] for name in shards[0]}, fetch)
        (folder / INDEX).unlink(missing_ok=True)  # of an older, sharded version
        return
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        file = SHARD.format(number=number, count=len(shards))
        write_tensors(folder / file, {name: layout[name] for name in shard}, fetch)
        weight_map |= dict.fromkeys(shard, file)
    write_index(folder, weight_map, sum(int(layout[name].nbytes) for name in weight_map))


def write_index(folder: Path, weight_map: Mapping[str, str], nbytes: int) -> None:
    """Write which tensor is in which file, and what all take."""
    index = {"metadata": {"total_size": nbytes}, "weight_map": dict(sorted(weight_map.items()))}
    write_json(folder / INDEX, index)


def write_tensors(path: Path, layout: Mapping[str, Tensor], fetch: Callable[[str], Tensor]) -> None:
    """Write one safetensors file, one tensor in memory at a time. See `write_shards`."""
    layout = in_order(layout)
    with streamed(path, layout) as stream:
        for name in layout:
            stream.write(name, fetch(name))


def in_order(layout: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same in the order of the original files: wide formats first, then by name."""
    return {n: layout[n] for n in sorted(layout, key=lambda name: (-layout[name].itemsize, name))}


class TensorStream:
    """The tensors of one safetensors file, in the order of its layout; made by `streamed`."""

    def __init__(self, file: BinaryIO, layout: Mapping[str, Tensor]) -> None:
        self._file = file
        self._expected = list(layout.items())[::-1]
        self._digest = hashlib.sha256()
        self._size = 0
        self._begun = bytearray()  # the block that is not full yet
        self._append(header(layout))

    def write(self, name: str, tensor: Tensor) -> None:
        """Append `tensor`, which must be the next of the layout."""
        expected, meta = self._expected.pop()
        if (name, tensor.shape, tensor.dtype) != (expected, meta.shape, meta.dtype):
            raise ValueError(
                f"{name} {tensor.shape} {tensor.dtype}, laid out is "
                f"{expected} {meta.shape} {meta.dtype}"
            )
        self._append(tensor_bytes(tensor))

    def entry(self) -> Entry:
        """Size and hash of the whole file."""
        if self._expected:
            raise ValueError(f"{self._expected[-1][0]} was not written")
        return Entry(self._size, self._digest.hexdigest())

    def finish(self) -> None:
        """Write what is left. To be called once, behind the last tensor."""
        self.entry()  # raises where a tensor is missing
        self._file.write(self._begun)

    def _append(self, data: bytes | memoryview) -> None:
        self._digest.update(data)
        self._size += len(data)
        data = memoryview(data)
        room = -len(self._begun) % BLOCK
        self._begun += data[:room]
        if len(self._begun) == BLOCK:
            self._file.write(self._begun)
            self._begun.clear()
        rest = data[room:]
        whole = len(rest) // BLOCK * BLOCK
        self._file.write(rest[:whole])
        self._begun += rest[whole:]


@contextmanager
def streamed(path: Path, layout: Mapping[str, Tensor]) -> Iterator[TensorStream]:
    """A safetensors file that is written tensor by tensor, as they come, and hashed meanwhile.

    Args:
        path: the file that appears when the block ends, unless it ends with an error.
        layout: shape and dtype by name, in the order in which the tensors will come.
    """
    with whole_file(path) as file:
        stream = TensorStream(file, layout)
        yield stream
        stream.finish()


def header(layout: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> bytes:
    """How a safetensors file begins whose tensors follow in the order of `layout`."""
    entries: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    offset = 0
    for name, meta in layout.items():
        span = [offset, offset := offset + meta.nbytes]
        entries[name] = {
            "dtype": SPELLING[meta.dtype],
            "shape": list(meta.shape),
            "data_offsets": span,
        }
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    return len(text).to_bytes(8, "little") + text


def tensor_bytes(tensor: Tensor) -> memoryview:
    """The numbers of a tensor as they stand in a file."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data


def split(sizes: Mapping[str, int], shard_bytes: int) -> list[list[str]]:
    """Names in the order of their `sizes`, cut where a shard would pass `shard_bytes`."""
    shards: list[list[str]] = []
    room = 0
    for name, nbytes in sizes.items():
        if not shards or nbytes > room:
            shards.append([])
            room = shard_bytes
        shards[-1].append(name)
        room -= nbytes
    return shards
