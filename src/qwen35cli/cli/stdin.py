"""What stands at stdin: a terminal, something piped in, or nothing."""

import os
import stat
import sys

from qwen35cli.errors import UsageError

MAX_BYTES = 64 * 2**20


def is_terminal() -> bool:
    return sys.stdin is not None and sys.stdin.isatty()


def is_piped() -> bool:
    """Whether a pipe or file is there to be read; `/dev/null` and a closed stdin are not."""
    try:
        mode = os.fstat(sys.stdin.fileno()).st_mode
    except (AttributeError, OSError, ValueError):
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISREG(mode) or stat.S_ISSOCK(mode)


def read() -> bytes:
    """Everything that was piped in.

    Raises:
        UsageError: more than any context holds.
    """
    data = sys.stdin.buffer.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise UsageError(f"stdin holds more than {MAX_BYTES // 2**20} MiB", "pipe in less")
    return data


def reopen_terminal() -> None:
    """Put the terminal in the place of what was piped in.

    Raises:
        UsageError: there is none.
    """
    try:
        terminal = os.open("/dev/tty", os.O_RDONLY)
    except OSError:
        raise UsageError("there is no terminal to talk at", "leave out --interactive") from None
    os.dup2(terminal, 0)
    os.close(terminal)
    sys.stdin = os.fdopen(0, encoding="utf-8", closefd=False)
