"""What `-o` names: a file that appears whole, or a pipe or device that is written to."""

import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TextIO

from qwen35cli.errors import Qwen35Error, UsageError

from . import signals


class AnswerFile:
    """The answer in a file that appears whole; what a cut answer left is in FILE.partial.

    Raises:
        UsageError: it cannot be written.
    """

    def __init__(self, path: Path, say: Callable[[str], None]) -> None:
        if path.is_dir():
            raise UsageError(
                f"{path} is a folder, the answer needs a file", f"-o {path}/answer.txt"
            )
        self._path = path
        self._say = say
        with _refusing(path):
            descriptor, name = tempfile.mkstemp(prefix=".qwen35-", dir=path.parent)
        self._temporary = Path(name)
        self._stream: IO[str] = os.fdopen(descriptor, "w", encoding="utf-8", newline="\n")

    def write(self, text: str) -> None:
        with self._named_errors():
            self._stream.write(text)

    def finish(self) -> None:
        """The answer is whole: let the file appear.

        Raises:
            Qwen35Error: it cannot.
        """
        with self._named_errors():
            self._close()
            self._temporary.chmod(_mode(self._path))
            self._temporary.replace(self._path)

    def break_off(self) -> None:
        """Keep what there is beside the place of the file. What cannot be kept is lost: the error
        that ends the answer is the one to be told of.
        """
        with signals.held_off():
            kept = self._set_aside()
        if kept is not None:
            self._say(f"the part so far is in {kept}")

    def _set_aside(self) -> Path | None:
        """Where the part is kept, if there is one."""
        with suppress(OSError):
            self._close()
        try:
            if not self._temporary.stat().st_size:
                self._temporary.unlink()
                return None
        except OSError:  # it went with its folder
            return None
        try:
            return self._temporary.replace(self._path.with_name(self._path.name + ".partial"))
        except OSError:  # too long a name, or that of a folder
            return self._temporary

    def _close(self) -> None:
        if self._stream.closed:
            return
        with self._stream:
            self._stream.flush()
            os.fsync(self._stream.fileno())

    @contextmanager
    def _named_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise Qwen35Error(f"could not write {self._path}: {error.strerror}") from None


def takes_a_stream(path: Path) -> bool:
    """Whether there is something at `path` that is written to, not replaced.

    Raises:
        UsageError: it cannot be looked at.
    """
    with _refusing(path), suppress(FileNotFoundError):
        there = path.stat()
        if stat.S_ISREG(there.st_mode):
            return _descriptor(path, there) is not None
        return not stat.S_ISDIR(there.st_mode)
    return False


def opened(path: Path) -> TextIO:
    """A stream into what is there, behind what it may hold.

    Raises:
        UsageError: it cannot be written.
    """
    with _refusing(path):
        open_here = _descriptor(path, path.stat())
        if open_here is None:
            descriptor = os.open(path, os.O_WRONLY | os.O_APPEND)
        else:  # a file would be opened at another place than where its writers are
            descriptor = os.dup(open_here)
    return os.fdopen(descriptor, "w", encoding="utf-8", newline="\n")


def _descriptor(path: Path, there: os.stat_result) -> int | None:
    """What this process has open by that name, such as `/dev/fd/3`, or as stdout or stderr."""
    if str(path.parent) in ("/dev/fd", "/proc/self/fd") and path.name.isdecimal():
        return int(path.name)
    for descriptor in (1, 2):
        with suppress(OSError):  # it is closed
            if os.path.samestat(there, os.fstat(descriptor)):
                return descriptor
    return None


@contextmanager
def _refusing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}", "-o FILE") from None


def _mode(path: Path) -> int:
    """The mode of the file that is replaced, or what a new file would get."""
    with suppress(OSError):
        return path.stat().st_mode & 0o777
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask
