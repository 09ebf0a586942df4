"""Ways of showing the thinking: all of it, its last lines until it is over, or how long it is."""

import shutil
from abc import ABC, abstractmethod

from qwen35cli.app.turn import Thought

from .terminal import Terminal
from .wrap import rows

LINES = 6  # of the thinking that are seen at a time, on a terminal that has as many
TAIL = 4_000  # characters that are looked at for them, and half as many at least


class Thinking(ABC):
    """Shows one answer's thinking; `budget`: tokens that it may take, None for no limit."""

    def __init__(self, terminal: Terminal, budget: int | None = None) -> None:
        self._terminal = terminal
        self._budget = budget

    @abstractmethod
    def piece(self, text: str) -> None:
        """A token, with the sanitised text that it completed."""

    def closed(self, thought: Thought) -> None:
        """It is over."""
        self._terminal.note(spoken(thought, self._budget))


class Streamed(Thinking):
    """All of it, left on the screen."""

    def piece(self, text: str) -> None:
        self._terminal.thinking(text)


class Counted(Thinking):
    """Only how much there is, in a passing line; what ended it, where that was not the model."""

    _tokens = 0

    def piece(self, text: str) -> None:
        self._tokens += 1
        self._terminal.status(f"thinking · {self._tokens:,} tokens")

    def closed(self, thought: Thought) -> None:
        if thought.closed_by != "model":
            super().closed(thought)


class Window(Thinking):
    """Its last lines, which make room for one when it is over."""

    _tail = ""

    def piece(self, text: str) -> None:
        if not text:
            return
        self._tail += text
        if len(self._tail) > TAIL:  # by half, as each cut inside a line wraps it anew
            self._tail = self._tail[-TAIL // 2 :]
        room = self._terminal.passing_columns
        lines = [row for line in self._tail.split("\n") for row in rows(line, room)]
        while lines and not lines[-1]:
            lines.pop()
        most = max(1, min(LINES, shutil.get_terminal_size().lines))  # none scrolls away
        self._terminal.passing(lines[-most:] or [""])


def spoken(thought: Thought, budget: int | None = None) -> str:
    """The line that closes the thinking; `budget`: tokens that were asked for."""
    much = f"{thought.tokens:,} tokens, {thought.seconds:.1f} s"
    if thought.closed_by == "loop":
        return f"thinking closed: it was repeating itself · {much}"
    if thought.closed_by != "budget":
        return f"thought {much}"
    if budget is None:
        return f"thinking closed at its budget · {much}"
    if thought.tokens < budget:
        return f"thinking closed at what the context leaves for it · {much}"
    return f"thinking closed at its budget ({budget:,}) · {much}"
