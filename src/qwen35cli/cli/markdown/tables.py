"""Tables, aligned by what a terminal shows of their cells."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Literal

from qwen35cli.cli.width import width

from .inline import FORMULA, Inline
from .page import Page, Span, combine, measure, plain

NARROW = 40  # columns below which a table that does not fit is not folded but listed
MOST_ROWS = 200  # rows that are held before the first is written
MOST_TEXT = 64_000  # characters that are held

DIM = "2"
BOLD = "1"
GAP = " │ "
THIN = ("─", "─┼─")
HEAVY = ("━", "━┿━")

Align = Literal["left", "center", "right"]
_DELIMITER = re.compile(r"\|?[ \t]*:?-+:?[ \t]*(?:\|[ \t]*:?-+:?[ \t]*)*\|?[ \t]*")
_PIPES = re.compile(r"\\.|\|")
_CODE = r"(?<!`)(`+)(?!`).+?(?<!`)\1(?!`)"
_PIPES_AND_LITERALS = re.compile(rf"\\.|{_CODE}|{FORMULA}|\|")


def is_delimiter(line: str) -> bool:
    """Whether `line` is what makes the row above it the header of a table."""
    return _DELIMITER.fullmatch(line.strip()) is not None and "|" in line


def alignments(line: str) -> list[Align]:
    """What the colons of a delimiter row ask for."""

    def align(cell: str) -> Align:
        if cell.endswith(":"):
            return "center" if cell.startswith(":") and len(cell) > 1 else "right"
        return "left"

    return [align(cell) for cell in cells(line, 0)]


def cells(line: str, expected: int) -> list[str]:
    """The cells of a row. Pipes in code or a formula part them only where `expected` come of it."""
    found = _split(line, _PIPES)
    if 0 < expected < len(found):
        found = _split(line, _PIPES_AND_LITERALS)
    return found


def _split(line: str, pattern: re.Pattern[str]) -> list[str]:
    text = line.strip().replace("\t", " ")  # as wide as a page shows it
    found = [""]
    end = 0
    for match in pattern.finditer(text):
        found[-1] += text[end : match.start()]
        end = match.end()
        if match[0] == "|":
            found.append("")
        else:
            found[-1] += match[0].replace("\\|", "|")
    found[-1] += text[end:]
    if not found[0].strip():
        del found[0]
    if len(found) > 1 and not found[-1].strip():
        del found[-1]
    return [cell.strip() for cell in found]


@dataclass(frozen=True, slots=True)
class Grid:
    """Widths for the columns of a table that fits."""

    widths: tuple[int, ...]
    ruled: bool  # a line between the rows, as some cells take several


class Table:
    """The rows of one table: held, then written; rows that come later are written at once."""

    def __init__(self, header: str, delimiter: str, inline: Inline, *, color: bool) -> None:
        self._inline = inline
        self._color = color
        self._aligns = alignments(delimiter)
        self._header = self._cells(header)
        self._rows: list[list[str]] = []
        self._size = 0
        self._layout: Grid | None = None  # None: listed
        self.written = False

    @property
    def full(self) -> bool:
        """No more is to be held."""
        return len(self._rows) >= MOST_ROWS or self._size >= MOST_TEXT

    @property
    def empty(self) -> bool:
        """Nothing is held."""
        return not self._rows

    def add(self, line: str) -> None:
        """Hold a row."""
        self._rows.append(self._cells(line))
        self._size += len(line)

    def lines(self, columns: int) -> Iterator[list[Span]]:
        """What is held, laid out for `columns`; later rows in the same way."""
        first = not self.written
        rows, self._rows, self._size = self._rows, [], 0
        if first:
            self._pad(rows)
            self._layout = self._fit([self._header, *rows], columns)
            self.written = True
            if self._layout:
                yield from self._grid(self._layout, self._header, BOLD)
                yield _rule(self._layout, HEAVY if self._layout.ruled else THIN)
        for number, row in enumerate(rows):
            if self._layout:
                if self._layout.ruled and not (first and number == 0):
                    yield _rule(self._layout, THIN)
                yield from self._grid(self._layout, row)
            else:
                if not (first and number == 0):
                    yield []
                yield from self._list(row, columns)
        if first and not rows and not self._layout:
            yield from self._list([""] * len(self._header), columns)

    def _cells(self, line: str) -> list[str]:
        return cells(line, len(self._aligns))

    def _pad(self, rows: list[list[str]]) -> None:
        """As many columns as the longest row has."""
        count = max(len(self._aligns), *(len(row) for row in [self._header, *rows]))
        self._header += [""] * (count - len(self._header))
        self._aligns += ["left"] * (count - len(self._aligns))

    def _fit(self, rows: list[list[str]], columns: int) -> Grid | None:
        count = len(self._header)
        natural, least = [1] * count, [1] * count
        for number, row in enumerate(rows):
            for at, cell in enumerate(row):
                if not cell:
                    continue
                spans = self._spans(cell, BOLD if number == 0 else "")
                natural[at] = max(natural[at], measure(spans))
                least[at] = max(least[at], *map(width, map(plain, self._fold(spans, 1))))
        room = columns - len(GAP) * (count - 1)
        if sum(natural) <= room:
            return Grid(tuple(natural), ruled=False)
        if columns < NARROW or sum(least) > room:
            return None
        return Grid(_share(natural, least, room), ruled=True)

    def _grid(self, grid: Grid, row: Sequence[str], base: str = "") -> Iterator[list[Span]]:
        """One row, over as many lines as its longest cell takes."""
        row = _as_many(row, len(grid.widths))
        folded = [
            self._fold(self._spans(cell, base), columns)
            for cell, columns in zip(row, grid.widths, strict=True)
        ]
        for line in zip_longest(*folded, fillvalue=""):
            out: list[Span] = []
            for text, columns, align in zip(line, grid.widths, self._aligns, strict=True):
                if out:
                    out.append(Span(GAP, DIM))
                spare = max(0, columns - width(plain(text)))
                left = {"left": 0, "right": spare, "center": spare // 2}[align]
                out += [Span(" " * left), Span(text), Span(" " * (spare - left))]
            while out and not out[-1].text.strip(" "):
                out.pop()
            if out and out[-1].text == GAP:
                out[-1] = Span(GAP.rstrip(), DIM)
            yield out

    def _list(self, row: Sequence[str], columns: int) -> Iterator[list[Span]]:
        """One row as lines `header: cell`."""
        for header, cell in zip(self._header, _as_many(row, len(self._header)), strict=True):
            spans = self._spans(header, BOLD)
            if spans:
                spans.append(Span(": " if cell else ":", BOLD))
            spans += self._spans(cell, "")
            if spans:
                for text in self._fold(spans, columns, [Span("  ")]):
                    yield [Span(text)]

    def _spans(self, cell: str, base: str) -> list[Span]:
        return [Span(text, combine(base, style)) for text, style in self._inline.line(cell)]

    def _fold(self, spans: Sequence[Span], columns: int, rest: Sequence[Span] = ()) -> list[str]:
        """The lines of one cell, with their escapes."""
        if not spans:
            return [""]
        out: list[str] = []
        page = Page(out.append, lambda: columns, color=self._color)
        page.begin((), rest)
        page.text(spans)
        page.end_line()
        return "".join(out).split("\n")[:-1]


def _rule(grid: Grid, marks: tuple[str, str]) -> list[Span]:
    line, cross = marks
    return [Span(cross.join(line * columns for columns in grid.widths), DIM)]


def _as_many(row: Sequence[str], count: int) -> list[str]:
    """`row` with `count` cells; what is too many goes to the last."""
    if len(row) > count:
        return [*row[: count - 1], " | ".join(row[count - 1 :])]
    return [*row, *[""] * (count - len(row))]


def _share(natural: Sequence[int], least: Sequence[int], room: int) -> tuple[int, ...]:
    """Widths that fill `room`: the widest columns give, none below what it needs at least."""

    def widths(cap: int) -> tuple[int, ...]:
        return tuple(max(low, min(high, cap)) for high, low in zip(natural, least, strict=True))

    cap = max(range(1, room + 1), key=lambda cap: (sum(widths(cap)) <= room, cap))
    found = list(widths(cap))
    for at, high in enumerate(natural):  # what one more column each would overrun
        if sum(found) < room and found[at] < high:
            found[at] += 1
    return tuple(found)
