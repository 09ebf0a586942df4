"""Ctrl-C and SIGTERM while an answer is made: the first asks to stop, the second leaves at once."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any, Self

from qwen35cli.errors import InterruptedByUser

SIGNALS = (signal.SIGINT, signal.SIGTERM)
_leaving: list[Callable[[], None]] = []  # what a second signal has to do before it ends all


@contextmanager
def before_leaving(action: Callable[[], None]) -> Iterator[None]:
    """Have `action` done too if a second signal ends the program inside of the block."""
    _leaving.append(action)
    try:
        yield
    finally:
        _leaving.remove(action)


class Stop:
    """A flag, raised by a signal inside the `with` block and read between two tokens."""

    def __init__(self) -> None:
        self.requested = False
        self.leaving = False  # SIGTERM ends the program too, not only the answer
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        for number in SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup: stays ignored
                self._before[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            for action in _leaving:
                action()
            os._exit(InterruptedByUser.exit_code)
        self.requested = True
        self.leaving = number == signal.SIGTERM


@contextmanager
def sigterm_as_interrupt() -> Iterator[None]:
    """Outside of an answer, SIGTERM ends the program the way Ctrl-C does."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise InterruptedByUser("SIGTERM")

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
