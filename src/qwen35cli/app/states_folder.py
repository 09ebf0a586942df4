"""The files with saved state, unopened: which there are, and how many must go for the room."""

import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol, TypeVar

from .private_files import disk_errors, regular_files
from .quantized_folder import PARTIAL

WRITING_S = 600  # a file that nobody wrote to for so long is left over, whoever has its pid now


@dataclass(frozen=True, slots=True)
class SavedState:
    """A file with the state of a model after some tokens; to lose it costs time only."""

    path: Path
    nbytes: int
    used: datetime


class Sized(Protocol):
    """What takes room on the disk."""

    @property
    def nbytes(self) -> int: ...


Item = TypeVar("Item", bound=Sized)


def saved_states(folder: Path) -> list[SavedState]:
    """The files with state in the cache, oldest use first.

    Raises:
        Qwen35Error: the folder cannot be read.
    """
    found = []
    with disk_errors("read", folder):
        for path in regular_files(folder):
            if path.suffix == ".safetensors":
                with suppress(FileNotFoundError):  # removed just now
                    info = path.lstat()
                    used = datetime.fromtimestamp(info.st_mtime, UTC)
                    found.append(SavedState(path, info.st_size, used))
    return sorted(found, key=lambda state: (state.used, state.path.name))


def remove_state(state: SavedState) -> None:
    """Remove the file of a state, unless it is gone.

    Raises:
        Qwen35Error: it cannot be removed.
    """
    with disk_errors("remove", state.path):
        state.path.unlink(missing_ok=True)


def remove_left_over(folder: Path) -> None:
    """Remove what processes began to save that were killed.

    Raises:
        Qwen35Error: the folder cannot be read, or a file cannot be removed.
    """
    with disk_errors("tidy", folder):
        for path in regular_files(folder):
            if PARTIAL.fullmatch(path.name):
                with suppress(FileNotFoundError):  # removed, or complete, just now
                    if time.time() - path.lstat().st_mtime >= WRITING_S:
                        path.unlink()


def over(items: Iterable[Item], nbytes: int) -> list[Item]:
    """The first of the items that together take at least so many bytes."""
    taken: list[Item] = []
    for item in items:
        if nbytes <= 0:
            break
        taken.append(item)
        nbytes -= item.nbytes
    return taken
