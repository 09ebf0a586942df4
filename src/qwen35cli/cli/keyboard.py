"""The keyboard while nobody reads it: keys are not echoed, and wait for the next line."""

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from . import settings, signals

try:
    import termios
except ImportError:  # not on Windows, where nothing is echoed that is not read
    termios = None  # type: ignore[assignment]

GONE = (OSError,) if termios is None else (OSError, termios.error)  # what a closed terminal raises


def reads_keys() -> bool:
    """Whether a line is read key by key and drawn by us; otherwise the terminal itself does that,
    and no output is one, or it knows plain lines only."""
    streams = (sys.stderr, sys.stdout)
    drawn = any(stream is not None and stream.isatty() for stream in streams)
    return drawn and settings.can_erase()


@contextmanager
def typing_ahead(continued: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Inside, keys wait as they were pressed, Enter among them; Ctrl-C still is a signal.

    A terminal that is read line by line afterwards is left as it is.

    Args:
        continued: called after Ctrl-Z and `fg`, when the shell has used keyboard and screen.
    """
    if termios is None or not sys.stdin.isatty() or not reads_keys():
        yield
        return
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)

    def restore() -> None:
        with contextlib.suppress(*GONE):
            termios.tcsetattr(descriptor, termios.TCSANOW, before)

    def on_continue(number: int, frame: object) -> None:
        with contextlib.suppress(*GONE):  # a window that closes sends this signal too
            if os.tcgetpgrp(descriptor) == os.getpgrp():  # else it is another's
                termios.tcsetattr(descriptor, termios.TCSANOW, quiet)
        continued()

    quiet = termios.tcgetattr(descriptor)
    quiet[0] &= ~termios.ICRNL  # Enter stays what the line editor takes for it
    quiet[3] &= ~(termios.ECHO | termios.ICANON)
    termios.tcsetattr(descriptor, termios.TCSANOW, quiet)
    try:
        with signals.before_leaving(restore), signals.handled([signal.SIGCONT], on_continue):
            yield
    finally:
        restore()


@contextmanager
def lent() -> Iterator[None]:
    """Inside, whole lines are read and shown again, as another program or a question expects."""
    if termios is None or not sys.stdin.isatty():
        yield
        return
    descriptor = sys.stdin.fileno()
    before, cooked = termios.tcgetattr(descriptor), termios.tcgetattr(descriptor)
    cooked[0] |= termios.ICRNL
    cooked[3] |= termios.ECHO | termios.ICANON
    termios.tcsetattr(descriptor, termios.TCSANOW, cooked)
    try:
        with signals.handled([signal.SIGCONT], lambda number, frame: None):
            yield
    finally:
        with contextlib.suppress(*GONE):
            termios.tcsetattr(descriptor, termios.TCSANOW, before)


def forget_typed() -> None:
    """Drop the keys that wait: they were not pressed for the question that comes."""
    if termios is not None and sys.stdin.isatty():
        termios.tcflush(sys.stdin.fileno(), termios.TCIFLUSH)
