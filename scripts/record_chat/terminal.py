"""A terminal with a program in it that is typed to by a script, and its screen."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path

import pexpect
import pyte

PATIENCE = 60  # seconds
KEY_S = 0.02  # between two keys
DIM, BLINK, NORMAL, STEADY = 2, 5, 22, 25
COLOURS = (38, 48)
BEHIND = {5: 1, 2: 3}  # numbers behind a colour's kind: of a palette, or red, green, blue


class Screen(pyte.Screen):
    """A screen that keeps what is dim, which pyte does not: here it has the mark of blinking."""

    def __init__(self, columns: int, lines: int, answer: Callable[[str], object]) -> None:
        """An empty screen.

        Args:
            answer: takes what the terminal says to the program: where its cursor is.
        """
        super().__init__(columns, lines)
        self._answer = answer

    def write_process_input(self, data: str) -> None:
        self._answer(data)

    def select_graphic_rendition(self, *attributes: int) -> None:
        super().select_graphic_rendition(*_dim_as_blinking(attributes))


def _dim_as_blinking(attributes: Iterable[int]) -> Iterator[int]:
    rest = iter(attributes)
    for attribute in rest:
        if attribute in COLOURS:
            kind = next(rest, 0)
            yield from (attribute, kind, *islice(rest, BEHIND.get(kind, 0)))
        elif attribute == NORMAL:
            yield from (NORMAL, STEADY)
        else:
            yield BLINK if attribute == DIM else attribute


class Terminal:
    """A program in a pseudo-terminal. It is answered where it asks for the cursor's place."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        folder: Path,
        environment: Mapping[str, str],
        columns: int,
        lines: int,
    ) -> None:
        """Start `command` in `folder`, with these variables alone."""
        self._program = pexpect.spawn(
            command[0],
            list(command[1:]),
            cwd=str(folder),
            env=dict(environment),
            dimensions=(lines, columns),
        )
        self._program.delaybeforesend = KEY_S
        self.screen = Screen(columns, lines, self._program.send)
        self._stream = pyte.ByteStream(self.screen)

    @property
    def line(self) -> str:
        """The line that the cursor is in."""
        return self.screen.display[self.screen.cursor.y].rstrip()

    def until(self, seen: Callable[[], bool]) -> None:
        """Take in what is written until `seen`.

        Raises:
            TimeoutError: that did not come; with the screen.
            pexpect.EOF: the program ended before.
        """
        end = time.monotonic() + PATIENCE
        while not seen():
            if time.monotonic() > end:
                shown = "\n".join(line.rstrip() for line in self.screen.display)
                raise TimeoutError(f"waited {PATIENCE} s; the screen:\n{shown.rstrip()}")
            try:
                self._stream.feed(self._program.read_nonblocking(65_536, timeout=0.5))
            except pexpect.TIMEOUT:
                continue

    def enter(self, text: str) -> None:
        """Type a line key by key, and Enter once it is shown."""
        for key in text:
            self._program.send(key)
        self.until(lambda: self.line.endswith(text))
        self._program.send("\r")

    def close(self) -> None:
        """End the program, if it still runs."""
        self._program.close(force=True)
