"""Write styled text line by line, wrapped between words at the width the terminal has then."""

import re
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from typing import NamedTuple

from qwen35cli.cli.width import clusters, joined, may_break, width

_PARTS = re.compile(r"[ \t]+|[^ \t]+")
_LONGEST_WORD = 1000  # characters; a longer one is not waited for, whatever its width
SGR = re.compile("\x1b\\[[0-9;]*m")


class Span(NamedTuple):
    """Text of one style: the numbers of an SGR sequence, as `1` or `1;3`; empty for none."""

    text: str
    style: str = ""


def combine(*styles: str) -> str:
    """Several styles at once."""
    return ";".join(dict.fromkeys(code for style in styles for code in style.split(";") if code))


def plain(text: str) -> str:
    """`text` without its styles."""
    return SGR.sub("", text)


def measure(spans: Iterable[Span]) -> int:
    """Columns that `spans` take on one line."""
    return sum(width(text) for text, _ in spans)


class Page:
    """Lines of text, the first with one prefix and those it wraps into with another.

    Each write leaves the attributes off. A word is written once its end is known, or once it is
    wider than a line: it then starts a line, is never broken, and nothing follows it there.
    """

    def __init__(
        self, write: Callable[[str], None], columns: Callable[[], int], *, color: bool
    ) -> None:
        self._write = write
        self._ask = columns
        self._color = color
        self._columns = 1  # of the terminal, when the current line began
        self._first: Sequence[Span] = ()
        self._rest: Sequence[Span] = ()
        self._begun = False  # the first prefix is out
        self._used = 0  # columns of the current line
        self._gap: tuple[int, str] = (0, "")  # blanks before the next word, and their style
        self._word: list[Span] = []  # what of the word is not out yet
        self._last = ""  # the last cluster of the word
        self._size = 0  # characters of the word
        self._width = 0  # columns of the word
        self._overlong = False  # the word is wider than a line, and its start is out
        self._full = False  # such a word ended on the current line
        self.midline = False  # the cursor is behind something

    @property
    def columns(self) -> int:
        """The width of the terminal now, at least 1."""
        return max(1, self._ask())

    def begin(self, first: Sequence[Span] = (), rest: Sequence[Span] = ()) -> None:
        """Start a line of text; its prefix is written with its first word."""
        self._first, self._rest = first, rest
        self._columns = self.columns
        self._begun = self._full = False
        self._gap = (0, "")

    def text(self, spans: Iterable[Span]) -> None:
        """Go on with the line of text; no newlines."""
        for span in spans:
            for part in _PARTS.findall(span.text):
                if part[0] in " \t":
                    self._end_word()
                    self._gap = (self._gap[0] + len(part), span.style)
                else:
                    self._add(part, span.style)

    def end_line(self) -> None:
        """The line of text is over."""
        self._end_word()
        if not self._begun:
            self._emit(bare(self._first))
        self._emit([], "\n")

    def line(self, spans: Iterable[Span]) -> None:
        """A whole line as it is, however wide."""
        self._emit(spans, "\n")

    def raw(self, spans: Iterable[Span]) -> None:
        """Part of a line, as it is."""
        self._emit(spans)

    def _add(self, part: str, style: str) -> None:
        for cluster in clusters(part):
            if self._last and may_break(self._last, cluster) and not joined(self._last, cluster):
                self._end_word()
            self._word.append(Span(cluster, style))
            self._last = cluster
            self._size += len(cluster)
            self._width += width(cluster)
            if self._overlong:
                self._emit(self._word)
                self._word.clear()
            elif self._width > self._columns - measure(self._rest) or self._size > _LONGEST_WORD:
                self._place(fresh=True)
                self._overlong = True

    def _end_word(self) -> None:
        if self._word:
            self._place()
        self._full |= self._overlong
        self._overlong = False
        self._last = ""
        self._size = self._width = 0

    def _place(self, *, fresh: bool = False) -> None:
        """Write the word: here, or on a new line where it does not fit or is to be alone."""
        gap, style = self._gap
        before: list[Span] = []
        start = ""
        if not self._begun:
            self._used = measure(self._first)
            before = list(self._first)
        elif fresh or self._full or self._used + gap + self._width > self._columns:
            start = "\n"
            self._columns = self.columns
            self._used = measure(self._rest)
            self._full = False
            before = list(self._rest)
        else:
            self._used += gap
            before = [Span(" " * gap, style)]
        self._begun = True
        self._used += self._width
        self._gap = (0, "")
        self._emit([*before, *self._word], start=start)
        self._word.clear()

    def _emit(self, spans: Iterable[Span], end: str = "", *, start: str = "") -> None:
        text = start + self._painted(spans) + end
        if text:
            self._write(text)
            self.midline = not text.endswith("\n")

    def _painted(self, spans: Iterable[Span]) -> str:
        out = []
        for style, group in groupby(spans, key=lambda span: span.style):
            text = "".join(text for text, _ in group)
            out.append(f"\x1b[{style}m{text}\x1b[0m" if style and text and self._color else text)
        return "".join(out)


def bare(prefix: Sequence[Span]) -> list[Span]:
    """A prefix before nothing: without the blanks at its end."""
    spans = list(prefix)
    while spans and not spans[-1].text.strip(" "):
        spans.pop()
    if spans:
        spans[-1] = Span(spans[-1].text.rstrip(" "), spans[-1].style)
    return spans
