"""Ctrl-C, SIGTERM, a closed window: the first asks an answer to stop, the second leaves at once."""

import os
import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Self

from qwen35cli.errors import InterruptedByUser

Handler = Callable[[int, FrameType | None], None]
ENDING = tuple(  # what ends the program, not only an answer; Windows has no SIGHUP
    getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)
)
_leaving: list[Callable[[], None]] = []  # what a second signal has to do before it ends all


@contextmanager
def before_leaving(action: Callable[[], None]) -> Iterator[None]:
    """Have `action` done too if a second signal ends the program inside of the block."""
    _leaving.append(action)
    try:
        yield
    finally:
        _leaving.remove(action)


@contextmanager
def handled(numbers: Iterable[int], handler: Handler) -> Iterator[None]:
    """Have `handler` take these signals inside; those that are ignored stay so, as under nohup."""
    seen = [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, handler) for number in seen}
    try:
        yield
    finally:
        for number, old in reversed(before.items()):  # Ctrl-C raises only when all are
            if signal.getsignal(number) is not signal.SIG_IGN:  # the window is closing
                signal.signal(number, old)


@contextmanager
def held_off() -> Iterator[None]:
    """Drop them inside: the program is ending, and what takes a moment is put away before."""
    with handled((signal.SIGINT, *ENDING), lambda number, frame: None):
        yield


def _counts_once(number: int) -> None:
    """A window that closes sends SIGHUP from its shell and from its terminal: one is heard."""
    if number not in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


class Stop:
    """A flag, raised by a signal inside the `with` block and read between two tokens."""

    def __init__(self) -> None:
        self.requested = False
        self.leaving = False  # the program is to end, not only the answer
        self._handled = handled((signal.SIGINT, *ENDING), self._on_signal)

    def __enter__(self) -> Self:
        self._handled.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._handled.__exit__(kind, error, traceback)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        _counts_once(number)
        if self.requested:
            try:
                for action in _leaving:
                    action()
            finally:
                os._exit(InterruptedByUser.exit_code)
        self.requested = True
        self.leaving = number in ENDING


@contextmanager
def ending_as_interrupt() -> Iterator[None]:
    """Outside of an answer, SIGTERM and a closed window end the program the way Ctrl-C does."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        _counts_once(number)
        raise InterruptedByUser(signal.Signals(number).name)

    with handled(ENDING, interrupt):
        yield
