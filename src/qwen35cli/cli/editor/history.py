"""The messages of earlier runs, in a file that several programs may write at once."""

import os
from collections.abc import Callable, Iterable
from datetime import datetime
from pathlib import Path

from filelock import FileLock
from prompt_toolkit.history import History

from qwen35cli.app.private_files import reason, write_private

CAP_BYTES = 2 * 2**20
KEPT_BYTES = CAP_BYTES // 2  # what a file that grew past its cap is cut down to
LOCK_S = 2.0
APPENDING = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_BINARY", 0)
_HEAD = b"\n# "  # begins an entry; its lines begin with "+"


class Messages(History):
    """Whole messages, the newest first. One that begins with a blank is not kept.

    `problem` says why the file is not used, once it is not; what was sent in this run is kept in
    memory all the same.
    """

    def __init__(self, path: Path | None, expand: Callable[[str], str]) -> None:
        super().__init__()
        self.problem = ""
        self._expand = expand
        self._path = path
        self._entries: list[str] = []
        if path is not None:
            try:
                self._path = path.resolve()  # a link stays a link when the file is replaced
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self._entries = _read(self._path)
            except (OSError, RuntimeError) as error:
                self._give_up(error)

    def load_history_strings(self) -> Iterable[str]:
        return reversed(self._entries)

    def append_string(self, string: str) -> None:
        if string.startswith((" ", "\t")):
            return
        string = self._expand(string)
        if self._entries[-1:] != [string]:
            super().append_string(string)

    def store_string(self, string: str) -> None:
        self._entries.append(string)
        if self._path is None:
            return
        try:
            _append(self._path, string)
        except (OSError, NotImplementedError) as error:  # the second: no locks on this disk
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        self.problem = f"messages are not kept for later runs: {self._path}: {reason(error)}"
        self._path = None


def _read(path: Path) -> list[str]:
    """The entries, oldest first; what is not one is passed over.

    Raises:
        OSError: it cannot be read.
    """
    if not path.exists():
        return []
    if not path.is_file():
        raise OSError("not a file")
    path.chmod(0o600)
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 2 * CAP_BYTES))
        data = file.read()
    entries: list[str] = []
    lines: list[bytes] = []
    for line in (*_newest(data, CAP_BYTES).split(b"\n"), b""):
        if line.startswith(b"+"):
            lines.append(line[1:])
        elif lines:
            entries.append(b"\n".join(lines).decode("utf-8", "surrogateescape"))
            lines = []
    return entries


def _append(path: Path, entry: str) -> None:
    """Add an entry with one write; drop the oldest from a file that has grown past its cap.

    One that is larger than the cap itself is passed over.
    """
    lines = "".join(f"+{line}\n" for line in entry.split("\n"))
    data = f"\n# {datetime.now().astimezone():%Y-%m-%d %H:%M:%S}\n{lines}".encode(
        "utf-8", "surrogateescape"
    )
    if len(data) > CAP_BYTES:
        return
    with FileLock(path.with_name(f".{path.name}.lock"), timeout=LOCK_S, mode=0o600):
        with os.fdopen(os.open(path, APPENDING, 0o600), "ab", buffering=0) as file:
            file.write(data)
            grown = file.tell() > CAP_BYTES
        if grown:
            write_private(path, _newest(path.read_bytes(), KEPT_BYTES))


def _newest(data: bytes, size: int) -> bytes:
    """The newest whole entries of at most `size` bytes together; one at least."""
    if len(data) <= size:
        return data
    start = data.find(_HEAD, len(data) - size)
    return data[start if start >= 0 else max(0, data.rfind(_HEAD)) :]
