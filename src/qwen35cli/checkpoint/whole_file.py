"""Files that are complete or absent: written beside their place, flushed, then renamed."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO


@dataclass(frozen=True, slots=True)
class Entry:
    """A file as it was written."""

    size: int
    sha256: str


@contextmanager
def whole_file(path: Path, *, durable: bool = True) -> Iterator[BinaryIO]:
    """A file to write that takes its name when complete, and `durable`, when on the disk."""
    partial = path.with_name(f"{path.name}.partial-{os.getpid()}")
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            if durable:
                os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    if durable:
        sync_folder(path.parent)


def write_json(path: Path, value: object) -> None:
    """Write `value` as indented JSON, as the whole file or not at all.

    What stands for a byte of a file name that is no UTF-8, JSON has as an escape.
    """
    with whole_file(path) as file:
        text = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
        file.write(text.encode(errors="backslashreplace"))


def sync_folder(folder: Path) -> None:
    """Have the names in `folder` on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
