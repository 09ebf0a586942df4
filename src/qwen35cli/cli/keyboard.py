"""The keyboard while an answer is made: keys are not echoed, and wait for the next line."""

import contextlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from . import settings, signals

try:
    import termios
except ImportError:  # not on Windows, where nothing is echoed that is not read
    termios = None  # type: ignore[assignment]


@contextmanager
def typing_ahead() -> Iterator[None]:
    """Inside, keys wait as they were pressed, Enter among them; Ctrl-C still is a signal.

    A terminal that is read line by line afterwards, `TERM=dumb`, is left as it is.
    """
    if termios is None or not sys.stdin.isatty() or not settings.can_erase():
        yield
        return
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)

    def restore() -> None:
        with contextlib.suppress(termios.error, OSError):  # the terminal is gone
            termios.tcsetattr(descriptor, termios.TCSANOW, before)

    quiet = termios.tcgetattr(descriptor)
    quiet[0] &= ~termios.ICRNL  # Enter stays what the line editor takes for it
    quiet[3] &= ~(termios.ECHO | termios.ICANON)
    termios.tcsetattr(descriptor, termios.TCSANOW, quiet)
    try:
        with signals.before_leaving(restore):
            yield
    finally:
        restore()


def forget_typed() -> None:
    """Drop the keys that wait: they were not pressed for the question that comes."""
    if termios is not None and sys.stdin.isatty():
        termios.tcflush(sys.stdin.fileno(), termios.TCIFLUSH)
