"""Locks between programs: one has a session open, and one at a time gives a name."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from qwen35cli.errors import Qwen35Error, UsageError

from .private_files import disk_errors

if TYPE_CHECKING:
    from filelock import BaseFileLock

NAMING_S = 10.0  # patience with another program that gives a name just now


def session_lock(id: str, path: Path) -> "BaseFileLock":
    """The lock of the session with this id, held, with this process named in it.

    Raises:
        UsageError: another program has the session open.
        OSError: there is no place for the file, or none that can be written.
    """
    from filelock import FileLock, Timeout  # late: 50 ms

    lock = FileLock(path, timeout=0, mode=0o600, thread_local=False)
    try:
        lock.acquire()
    except Timeout:
        raise UsageError(
            f"session {id} is open in another qwen35{_holder(path)}",
            "leave it there first; --session NAME takes another",
        ) from None
    try:
        path.write_text(str(os.getpid()))
    except BaseException:
        lock.release()
        raise
    return lock


@contextmanager
def naming_lock(path: Path) -> Iterator[None]:
    """Alone among the programs that give a name.

    Raises:
        Qwen35Error: another one does not finish, or the file cannot be written.
    """
    from filelock import FileLock, Timeout  # late: 50 ms

    lock = FileLock(path, timeout=NAMING_S, mode=0o600, thread_local=False)
    with disk_errors("lock", path):
        try:
            lock.acquire()
        except Timeout:
            raise Qwen35Error(f"another qwen35 holds {path}", "try again") from None
    try:
        yield
    finally:
        lock.release()


def _holder(path: Path) -> str:
    """Which process a lock names, in words; nothing where it has not written that yet."""
    with suppress(OSError, ValueError):
        return f" (pid {int(path.read_text()[:20])})"
    return ""
