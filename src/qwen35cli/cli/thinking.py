"""Ways of showing the thinking: all of it, its last lines until it is over, or how long it is."""

from typing import Protocol

from qwen35cli.app.turn import Thought

from .terminal import Terminal
from .wrap import rows

LINES = 6  # of the thinking that are seen at a time
TAIL = 4_000  # characters that are looked at for them


class Thinking(Protocol):
    """Shows one answer's thinking."""

    def piece(self, text: str) -> None:
        """A token, with the sanitised text that it completed."""

    def closed(self, thought: Thought) -> None:
        """It is over."""


class Streamed:
    """All of it, left on the screen."""

    def __init__(self, terminal: Terminal) -> None:
        self._terminal = terminal

    def piece(self, text: str) -> None:
        self._terminal.thinking(text)

    def closed(self, thought: Thought) -> None:
        self._terminal.note(spoken(thought))


class Counted:
    """Only how much there is, in a passing line."""

    def __init__(self, terminal: Terminal) -> None:
        self._terminal = terminal
        self._tokens = 0

    def piece(self, text: str) -> None:
        self._tokens += 1
        self._terminal.status(f"thinking · {self._tokens:,} tokens")

    def closed(self, thought: Thought) -> None:
        pass


class Window:
    """Its last lines, which make room for one when it is over."""

    def __init__(self, terminal: Terminal) -> None:
        self._terminal = terminal
        self._tail = ""

    def piece(self, text: str) -> None:
        if not text:
            return
        self._tail = (self._tail + text)[-TAIL:]
        room = max(1, self._terminal.err_columns - 1)
        lines = [row for line in self._tail.split("\n") for row in rows(line, room)]
        while lines and not lines[-1]:
            lines.pop()
        self._terminal.passing(lines[-LINES:] or [""])

    def closed(self, thought: Thought) -> None:
        self._terminal.note(spoken(thought))


def spoken(thought: Thought) -> str:
    """The line that closes the thinking."""
    return f"thought {thought.tokens:,} tokens, {thought.seconds:.1f} s"
