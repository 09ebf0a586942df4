"""From the text of an answer, as it comes, to the lines of a terminal."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from . import blocks, code
from .blocks import Container, Item, Line, Wait
from .inline import Inline
from .page import Page, Span, bare, combine, measure
from .tables import Table, is_delimiter
from .units import Units

JUDGED = 1_000  # characters of a line that may pass before it is known what it starts
LONGEST_LINE = 4_000  # characters of a line that is needed whole
RULE = 40  # columns of a thematic break
DIM = "2"
BOLD = "1"


@dataclass(frozen=True, slots=True)
class Fence:
    """A block whose lines are shown as they are, until one that ends it."""

    end: re.Pattern[str]
    indent: int  # blanks before its first line, which its lines lose
    prefix: list[Span]  # of its containers
    style: Callable[[str], list[Span]]
    frame: str  # the style of its first and last line
    blank_ends: bool


class Markdown:
    """Append-only: what was written is never touched again.

    Only SGR escapes are written, each closed before its newline and at the end of each write, and
    none without `color`. The output depends on the text and the widths asked for, not on how the
    text was cut.
    """

    def __init__(
        self, write: Callable[[str], None], columns: Callable[[], int], *, color: bool
    ) -> None:
        """Render one answer.

        Args:
            write: takes what is to be appended.
            columns: the width of the terminal, asked for at each line.
            color: escapes for colours and weights; without, the markers of the text stay.
        """
        self._color = color
        self._muted = False
        self._page = Page(lambda text: None if self._muted else write(text), columns, color=color)
        self._inline = Inline(color=color)
        self._units = Units()
        self._line = ""  # of a line that is not judged yet
        self._whole = False  # it is needed whole
        self._run: Callable[[str], None] | None = None  # takes the rest of a line that was judged
        self._base = ""  # the style of its text
        self._containers: tuple[Container, ...] = ()
        self._paragraph = False  # the last line was text
        self._fence: Fence | None = None
        self._head: Line | None = None  # a line that is a table's header if its delimiter follows
        self._table: Table | None = None
        self._table_prefixes: tuple[list[Span], list[Span]] = ([], [])
        self._begun = False  # there was a line that is not blank
        self._blanks = 0  # blank lines since the last that is not
        self._indented = False  # that was indented code

    @property
    def waiting(self) -> str | None:
        """`table` while one is held back: the cursor is then at the start of a line."""
        return "table" if self._head or (self._table and not self._table.written) else None

    @property
    def midline(self) -> bool:
        """The cursor is behind something."""
        return self._page.midline

    def follow(self, text: str) -> None:
        """Go on behind `text`, sanitised, which is on the screen: in its code, list or table."""
        self._muted = True
        self.feed(text)
        self._end_of_line()
        if self._table:
            self._write_table(self._table)
        else:
            self._end_table()
        self._blanks = 0
        self._muted = False

    def feed(self, text: str) -> None:
        """Write what is certain after the next piece: sanitised text, cut anywhere."""
        for unit in self._units.feed(text):
            self._unit(unit)

    def end(self) -> None:
        """Write the rest; the cursor is then at the start of a line, and the answer is over."""
        self._end_of_line()
        self._end_table()

    def _end_of_line(self) -> None:
        for unit in self._units.end():
            self._unit(unit)
        if self._line or self._run:
            self._unit("\n")

    # -- a line, unit by unit ---------------------------------------------------------------------

    def _unit(self, unit: str) -> None:
        body = unit.removesuffix("\n")
        complete = body != unit
        if self._run:
            self._run(body)
        else:
            self._line += body
            self._judge(complete)
        if complete:
            self._end_line()

    def _end_line(self) -> None:
        if self._run == self._raw:
            self._page.line([])
            self._run = None
        elif self._run:
            self._end_text()
        self._line = ""
        self._whole = False

    def _judge(self, complete: bool) -> None:
        patient = len(self._line) < (LONGEST_LINE if self._whole or self._fence else JUDGED)
        if patient and not complete and (self._whole or self._fence):
            return
        if self._fence and self._fenced(self._fence, complete):
            return
        line = blocks.read(
            self._line,
            self._containers,
            complete=complete,
            patient=patient,
            paragraph=self._paragraph,
        )
        if isinstance(line, Wait):
            self._whole = line is Wait.LINE
        else:
            self._open(line)

    # -- what a line starts -----------------------------------------------------------------------

    def _open(self, line: Line) -> None:
        if self._head or self._table:
            if line.kind == "row" and line.containers == self._containers and not line.opened:
                self._row(line)
                return
            self._end_table()
        if line.kind == "blank":
            self._remember_blank(line)
            return
        self._write_blanks(line)
        self._containers = line.containers
        self._paragraph = line.kind == "text"
        self._indented = line.kind == "indented"
        if line.kind == "row":
            self._head = line
        elif line.kind in ("fence", "math"):
            self._open_fence(line)
        else:
            self._show(line)

    def _show(self, line: Line) -> None:
        first, rest = self._prefixes(line)
        if line.kind == "rule":
            width = max(3, min(RULE, self._page.columns - measure(first)))
            self._page.line([*first, Span("─" * width, DIM)])
        elif line.kind == "indented":
            self._page.line([*first, Span(line.text)])
        else:
            text = line.text.lstrip(" \t")
            self._base = ""
            if line.kind == "heading":
                marks, text = text.split(maxsplit=1) if " " in text.rstrip() else (text.strip(), "")
                first = [*first, Span(marks + " ", DIM)]
                rest = [*rest, Span(" " * (len(marks) + 1))]
                self._base = BOLD
            self._page.begin(first, rest)
            self._inline.new_line()
            self._run = self._text
            self._text(text)

    def _text(self, text: str) -> None:
        self._page.text(self._styled(self._inline.feed(text)))

    def _end_text(self) -> None:
        self._page.text(self._styled(self._inline.end()))
        self._page.end_line()
        self._run = None

    def _styled(self, spans: Sequence[Span]) -> list[Span]:
        return [Span(text, combine(self._base, style)) for text, style in spans]

    # -- blocks -----------------------------------------------------------------------------------

    def _open_fence(self, line: Line) -> None:
        first, rest = self._prefixes(line)
        text = line.text.lstrip(" ")
        indent = len(line.text) - len(text)
        plain: Callable[[str], list[Span]] = lambda line: [Span(line)]  # noqa: E731
        if line.kind == "math":
            end = re.escape(blocks.math_end(line.text) or "")
            self._fence = Fence(re.compile(f".*{end}.*"), indent, rest, plain, "", blank_ends=True)
        else:
            marks = re.match("`+|~+", text)
            assert marks is not None
            end = f" {{0,{max(3, indent)}}}{marks[0][0]}{{{len(marks[0])},}}[ \t]*"
            language = re.split(r"[\s{}:,.]+", text[marks.end() :].strip("{}. \t"), maxsplit=1)[0]
            style = code.highlighter(language) if self._color else plain
            self._fence = Fence(re.compile(end), indent, rest, style, DIM, blank_ends=False)
        self._page.line([*first, Span(text, self._fence.frame)])

    def _fenced(self, fence: Fence, complete: bool) -> bool:
        """Show a line of the open block; False where it is not in it."""
        text = blocks.verbatim(self._line, self._containers)
        if text is None or (complete and fence.blank_ends and not text.strip()):
            self._fence = None
            return False
        inside = blocks.cut(text, fence.indent)
        if not complete:
            self._page.raw([*fence.prefix, Span(inside)])
            self._run = self._raw
        elif fence.end.fullmatch(text):
            self._fence = None
            self._page.line([*fence.prefix, Span(text.strip(" \t"), fence.frame)])
        elif inside:
            self._page.line([*fence.prefix, *fence.style(inside)])
        else:
            fence.style(inside)
            self._page.line(bare(fence.prefix))
        return True

    def _raw(self, text: str) -> None:
        self._page.raw([Span(text)])

    def _row(self, line: Line) -> None:
        if self._table:
            self._table.add(line.text)
            if self._table.written or self._table.full:
                self._write_table(self._table)
        elif self._head and is_delimiter(line.text):
            self._table = Table(self._head.text, line.text, self._inline, color=self._color)
            self._table_prefixes = self._prefixes(self._head)
            self._head = None
        else:
            self._end_table()
            self._head = line

    def _end_table(self) -> None:
        """The table is over, or what could have been its header is none."""
        if self._table and not (self._table.written and self._table.empty):
            self._write_table(self._table)
        if self._head:
            self._show(replace(self._head, kind="text"))
            self._end_text()
        self._table = self._head = None

    def _write_table(self, table: Table) -> None:
        first, rest = self._table_prefixes
        room = self._page.columns - measure(rest)
        for spans in table.lines(max(1, room)):
            self._page.line([*first, *spans] if spans else bare(first))
            first = rest
        self._table_prefixes = (rest, rest)

    def _remember_blank(self, line: Line) -> None:
        """Open quotes end, list items do not; the line is written when something follows."""
        self._containers = line.containers
        self._paragraph = False
        self._blanks += 1

    def _write_blanks(self, line: Line) -> None:
        """One blank line, however many there were; all of them inside indented code."""
        kept = line.containers[: len(line.containers) - line.opened]
        _, prefix = self._prefixes(Line(kept, 0, "blank", ""))
        for _ in range(self._blanks if self._indented and line.kind == "indented" else 1):
            if self._blanks and self._begun:
                self._page.line(bare(prefix))
        self._blanks = 0
        self._begun = True

    def _prefixes(self, line: Line) -> tuple[list[Span], list[Span]]:
        """What is before a line, and before those that it wraps into."""
        first: list[Span] = []
        rest: list[Span] = []
        old = len(line.containers) - line.opened
        for number, container in enumerate(line.containers):
            if isinstance(container, Item):
                bullet = self._color and container.marker in ("-", "*", "+")
                marker = Span(("•" if bullet else container.marker) + " ")
                rest.append(Span(" " * len(marker.text)))
                first.append(marker if number >= old else rest[-1])
            else:
                first.append(Span("> ", DIM))
                rest.append(Span("> ", DIM))
        return first, rest
