"""The user's own files: read within bounds, written whole, and what the disk refuses in words."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from qwen35cli.checkpoint.whole_file import whole_file
from qwen35cli.errors import Qwen35Error


def reason(error: Exception) -> str:
    """What was wrong, without the path."""
    return getattr(error, "strerror", None) or str(error)


def content(path: Path, most_bytes: int) -> bytes:
    """The bytes of a file.

    Raises:
        ValueError: it is larger than that, or no file but a pipe.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise ValueError("it is not a regular file")
    with path.open("rb") as file:
        data = file.read(most_bytes + 1)
    if len(data) > most_bytes:
        raise ValueError(f"it has more than {most_bytes // 2**20} MiB")
    return data


def write_private(path: Path, data: bytes) -> None:
    """Write a file that is whole or absent, and for its owner alone."""
    with whole_file(path) as file:
        Path(file.name).chmod(0o600)
        file.write(data)


def existing(path: Path) -> Path:
    """The path, or the nearest folder above it that is there."""
    while not path.exists():
        path = path.parent
    return path


def regular_files(folder: Path) -> list[Path]:
    """The regular files in a folder, which may be absent."""
    try:
        with os.scandir(folder) as found:
            return [Path(each) for each in found if each.is_file(follow_symlinks=False)]
    except FileNotFoundError:
        return []


@contextmanager
def disk_errors(doing: str, path: Path, hint: str = "") -> Iterator[None]:
    """Turns what the disk refuses into an error that says so: "could not `doing` `path`"."""
    try:
        yield
    except OSError as error:
        raise Qwen35Error(f"could not {doing} {path}: {reason(error)}", hint) from None
