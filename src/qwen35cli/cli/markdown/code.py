"""Colours for code, line by line as it is written."""

import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from .languages import LANGUAGES
from .page import Span

if TYPE_CHECKING:
    from pygments.lexer import Lexer
    from pygments.token import _TokenType

    _Token = tuple[int, _TokenType, str]

WINDOW = 1_200  # characters that are read again for each line, if the block can be read from there
LONGEST_WINDOW = 4_000  # characters, if not
LONGEST_LINE = 500  # characters; a longer line is left plain, and reading starts anew after it
MOST_LINES = 2_000  # of one block; what follows is plain

_TOP = re.compile(r"\n(?=[^\s)\]}])")  # the end of a line before one that is not indented

# Of the terminal's own colours those that are readable on dark and on light.
STYLES = {
    "Comment": "2",
    "Comment.Preproc": "35",
    "Keyword": "35",
    "Keyword.Constant": "36",
    "Operator.Word": "35",
    "Literal.String": "32",
    "Literal.Number": "36",
    "Name.Builtin": "36",
    "Name.Function": "1",
    "Name.Class": "1",
    "Name.Decorator": "35",
    "Name.Tag": "35",
    "Name.Attribute": "36",
    "Name.Variable": "36",
    "Generic.Deleted": "31",
    "Generic.Inserted": "32",
    "Generic.Heading": "1",
    "Generic.Subheading": "36",
    "Generic.Prompt": "2",
}


def highlighter(language: str) -> Callable[[str], list[Span]]:
    """A function that takes the lines of a block one by one, without newlines, and styles them."""
    lexer = _lexer(language)
    return Highlighter(lexer).line if lexer else lambda line: [Span(line)]


class Highlighter:
    """Reads the block so far again for each line, so that what spans lines is seen whole.

    Of a long block only the end is read, from a line on where a reader without the lines before
    sees the same; where there is none, from any line after LONGEST_WINDOW characters.
    """

    def __init__(self, lexer: "Lexer") -> None:
        self._lexer = lexer
        self._window = ""
        self._lines = 0
        self._next_cut = WINDOW  # length of the window from which to try to shorten it

    def line(self, text: str) -> list[Span]:
        """The next line, styled."""
        self._lines += 1
        if self._lines > MOST_LINES:
            return [Span(text)]
        if len(text) > LONGEST_LINE:
            self._cut(len(self._window))
            return [Span(text)]
        start = len(self._window)
        self._window += text + "\n"
        tokens = self._tokens(0)
        if "".join(value for _, _, value in tokens) != self._window:
            self._cut(len(self._window))
            return [Span(text)]  # a lexer that leaves something out
        if len(self._window) > self._next_cut:
            self._shorten(tokens)
        return [
            Span(shown, _style(kind))
            for at, kind, value in tokens
            if (shown := value[max(0, start - at) :].removesuffix("\n"))
        ]

    def _shorten(self, tokens: list["_Token"]) -> None:
        """Forget the first part of the window, if the rest reads alike without it."""
        top = _TOP.search(self._window, len(self._window) // 4)
        start = top.end() if top else self._window.find("\n", len(self._window) // 2) + 1
        if [token for token in tokens if token[0] >= start] == self._tokens(start):
            self._cut(start)
        elif len(self._window) > LONGEST_WINDOW:
            self._cut(len(self._window))
        else:
            self._next_cut = min(LONGEST_WINDOW, len(self._window) * 5 // 4)

    def _cut(self, start: int) -> None:
        self._window = self._window[start:]
        self._next_cut = WINDOW

    def _tokens(self, start: int) -> list["_Token"]:
        """The tokens of the window from `start` on, with their places in it."""
        tokens: list[_Token] = []
        for _, kind, value in self._lexer.get_tokens_unprocessed(self._window[start:]):
            tokens.append((start, kind, value))  # not all lexers count right
            start += len(value)
        return tokens


def _lexer(language: str) -> "Lexer | None":
    from pygments.lexers import get_lexer_by_name  # late: most answers hold no code
    from pygments.util import ClassNotFound

    try:
        lexer = get_lexer_by_name(language, handlecodeblocks=False) if language else None
    except ClassNotFound:
        return None
    return lexer if lexer and LANGUAGES.intersection(lexer.aliases) else None


def _style(kind: "_TokenType") -> str:
    return next((STYLES[name] for name in _names(str(kind)) if name in STYLES), "")


def _names(kind: str) -> Iterator[str]:
    """`Token.Name.Function.Magic`: that name without `Token`, then its parents."""
    name = kind.removeprefix("Token.")
    while name:
        yield name
        name = name.rpartition(".")[0]
