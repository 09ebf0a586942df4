"""Folders of quantized weights, unopened: which were begun, who writes them, how one goes.

A folder grows beside its place as `NAME.partial-PID` and takes its name when it is whole; who
writes holds `.NAME.lock`. A folder that goes takes a name of that kind first: what a killed process
leaves of it is removed with the rest.
"""

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from qwen35cli.errors import Qwen35Error

from .private_files import disk_errors

FOLDER = "quantized"  # in the data folder
PARTIAL = re.compile(r"(.+)\.partial-(\d+)(-old)?")


def lock_file(target: Path) -> Path:
    """What is locked by who writes or removes `target`."""
    return target.with_name(f".{target.name}.lock")


def partial_of(target: Path) -> Path:
    """The folder in which this process lets `target` grow."""
    return target.with_name(f"{target.name}.partial-{os.getpid()}")


def partials(target: Path) -> Iterator[tuple[int, Path]]:
    """The partial folders of `target`, with the process that made each."""
    for path in sorted(target.parent.iterdir()):
        if (found := PARTIAL.fullmatch(path.name)) and found[1] == target.name:
            yield int(found[2]), path


def writer(target: Path) -> int | None:
    """The process that is writing `target` now, if it shows."""
    pid = next((pid for pid, _ in partials(target) if is_alive(pid)), None)
    return pid if pid is not None and is_locked(target) else None


def is_locked(target: Path) -> bool:
    """Whether somebody writes or removes `target` now; True where that cannot be told."""
    from filelock import FileLock, Timeout  # late: 50 ms

    if not lock_file(target).exists():
        return False
    try:
        with FileLock(lock_file(target), timeout=0):
            return False
    except (Timeout, OSError):
        return True


def is_alive(pid: int) -> bool:
    """Whether there is a process of this number; True where that cannot be told."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def busy(target: Path, hint: str) -> Qwen35Error:
    """The refusal to touch what another process writes."""
    pid = writer(target)
    who = "another qwen35" + (f" (pid {pid})" if pid else "")
    return Qwen35Error(f"{who} is quantizing to {target}", hint)


def remove(target: Path) -> None:
    """Remove a folder, with all that was begun of it.

    Raises:
        Qwen35Error: another process writes it, or it cannot be removed.
    """
    with _alone(target):
        gone = partial_of(target)
        target.rename(gone.with_name(f"{gone.name}-old"))
        _remove_begun(target)
    with suppress(OSError):  # it holds others
        target.parent.rmdir()


def remove_begun(target: Path) -> None:
    """Remove what was begun of a folder, and leave the whole one. Raises: as `remove`."""
    with _alone(target):
        _remove_begun(target)
    with suppress(OSError):  # it holds others
        target.parent.rmdir()


def _remove_begun(target: Path) -> None:
    for _, path in partials(target):  # of no running process: that would hold the lock
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


@contextmanager
def _alone(target: Path) -> Iterator[None]:
    """With the lock of who writes `target`."""
    from filelock import FileLock, Timeout  # late: 50 ms

    lock = FileLock(lock_file(target))
    with disk_errors("remove", target):
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise busy(target, "wait for it") from None
        try:
            yield
        finally:
            Path(lock.lock_file).unlink(missing_ok=True)  # who waits for it looks again
            lock.release()
