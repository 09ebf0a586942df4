"""What a line starts: quotes, list items, headings, fences, rules, rows of tables."""

import re
from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import Literal

DEEPEST = 10  # nested quotes and items; markers beyond are text

Kind = Literal["blank", "text", "heading", "rule", "fence", "math", "indented", "row"]


class Wait(Enum):
    """A line that cannot be judged yet."""

    MORE = auto()  # its next characters may decide
    LINE = auto()  # it is needed whole


@dataclass(frozen=True, slots=True)
class Quote:
    """A block quote."""


@dataclass(frozen=True, slots=True)
class Item:
    """A list item: its marker as written, and two columns of the text around it."""

    marker: str
    marked: int  # where the marker stood
    content: int  # where its content starts


Container = Quote | Item


@dataclass(frozen=True, slots=True)
class Line:
    """What a line is: the containers it is in, how many of them it opens, and the rest of it."""

    containers: tuple[Container, ...]
    opened: int
    kind: Kind
    text: str


_QUOTE = re.compile(" *> ?")
_ITEM = re.compile(r" *([-*+]|\d{1,9}[.)])(?=[ \t]|$)")
_RULE = re.compile(r" {0,3}([-*_])(?:[ \t]*\1){2,}[ \t]*")
_RULE_SO_FAR = re.compile(r" {0,3}([-*_])(?:[ \t]*\1)*[ \t]*")
_HEADING = re.compile(r" {0,3}#{1,6}(?:[ \t]+|$)")
_FENCE = re.compile(r" *(?:`{3,}[^`]*|~{3,}.*)")  # after text with any indent
_FENCE_SO_FAR = re.compile(r" *(?:```|~~~)")
_MATH = re.compile(r" {0,3}(\$\$|\\\[|\\begin\{)")
_CLOSES = {"$$": "$$", "\\[": "\\]", "\\begin{": "\\end{"}


def read(
    text: str,
    containers: tuple[Container, ...],
    *,
    complete: bool,
    patient: bool,
    paragraph: bool,
) -> Line | Wait:
    """Judge a line, or what is there of it.

    Args:
        text: the line without its newline.
        containers: what the lines before left open.
        complete: the newline has come.
        patient: what cannot be judged yet may be waited for; otherwise it is text.
        paragraph: the line before was text; an indented line then goes on with it.
    """
    rest = _indented(text)
    kept: list[Container] = []
    narrowed: list[Container] = []  # the same, with their content where this line has it
    for container in containers:
        inner = _inside(rest, container)
        if inner is None:
            break
        kept.append(container)
        narrowed.append(_narrowed(container, rest))
        rest = inner
    paragraph = paragraph and len(kept) == len(containers)
    opened = 0
    while rest.strip() and len(kept) < DEEPEST:
        if _indent(rest) >= 4 and not paragraph:
            break
        if _RULE_SO_FAR.fullmatch(rest) and (not complete or _RULE.fullmatch(rest)):
            break
        found = _container(rest)
        if found is None:
            break
        container, rest = found
        kept.append(container)
        opened += 1
        paragraph = False
    kind = _kind(rest, complete=complete, paragraph=paragraph)
    if isinstance(kind, Wait) and not patient:
        kind = "text"
    if isinstance(kind, Wait):
        return kind
    if kind == "blank" and any(isinstance(new, Item) for new in kept[len(kept) - opened :]):
        kind = "text"  # an empty item
    if kind == "heading":
        rest = rest.lstrip(" ")
    if opened or kind in ("fence", "math"):  # the lines after it are indented as it is
        kept[: len(narrowed)] = narrowed
    return Line(tuple(kept), opened, kind, rest)


def verbatim(text: str, containers: tuple[Container, ...]) -> str | None:
    """A line of a fenced block without what its containers take; None where a quote ends.

    A line that is indented less than its list item stays in the block.
    """
    for container in containers:
        if isinstance(container, Item):
            text = cut(text, container.content)
        elif match := _QUOTE.match(text):
            text = text[match.end() :]
        else:
            return None
    return text


def cut(text: str, columns: int) -> str:
    """`text` without its first `columns`, as far as they are blank; tabs stop at every fourth."""
    at = column = 0
    while column < columns and text[at : at + 1] in ("\t", " "):
        column += 4 - column % 4 if text[at] == "\t" else 1
        at += 1
    return " " * (column - columns) + text[at:]


def math_end(text: str) -> str | None:
    """What ends the block of mathematics that `text` starts; None where it starts none."""
    match = _MATH.match(text)
    assert match is not None
    end = _CLOSES[match[1]]
    return None if end in text[match.end() :] else end


def _kind(text: str, *, complete: bool, paragraph: bool) -> Kind | Wait:
    if not text.strip():
        return "blank" if complete else Wait.MORE
    if _indent(text) >= 4 and not paragraph:
        return "indented" if complete else Wait.LINE
    if _RULE.fullmatch(text) if complete else _RULE_SO_FAR.fullmatch(text):
        return "rule" if complete else Wait.MORE
    if _HEADING.match(text):
        return "heading"
    if _FENCE.fullmatch(text) if complete else _FENCE_SO_FAR.match(text):
        return "fence" if complete else Wait.LINE
    if text.lstrip(" ").startswith("|"):
        return "row" if complete else Wait.LINE
    if _MATH.match(text):
        return ("math" if math_end(text) else "text") if complete else Wait.LINE
    return "text"


def _container(text: str) -> tuple[Container, str] | None:
    """The quote or item that `text` opens, and its content."""
    if match := _QUOTE.match(text):
        return Quote(), _indented(text[match.end() :])
    match = _ITEM.match(text)
    if match is None:
        return None
    rest = _indented(text[match.end() :])
    gap = _indent(rest) if rest.strip() else 1
    gap = gap if gap < 5 else 1
    marked = _indent(text)
    return Item(match[1], marked, marked + len(match[1]) + gap), rest[gap:]


def _inside(text: str, container: Container) -> str | None:
    """The content of a line in `container`; None where the line ends it."""
    if isinstance(container, Quote):
        match = _QUOTE.match(text)
        return _indented(text[match.end() :]) if match and _indent(text) < 4 else None
    if not text.strip():
        return text[container.content :]
    indent = _indent(text)
    if indent < min(container.content, container.marked + 2):
        return None
    return text[min(indent, container.content) :]


def _narrowed(container: Container, text: str) -> Container:
    """`container` as it is for what a line in it starts, which may be indented less than it."""
    if isinstance(container, Item) and text.strip() and _indent(text) < container.content:
        return replace(container, content=_indent(text))
    return container


def _indented(text: str) -> str:
    """`text` with blanks for the tabs before its first other character."""
    rest = text.lstrip(" \t")
    return text[: len(text) - len(rest)].expandtabs(4) + rest


def _indent(text: str) -> int:
    return len(text) - len(text.lstrip(" "))
