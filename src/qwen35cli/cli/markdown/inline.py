"""Styles inside a line: what CommonMark calls inline, as far as it is already certain."""

import re
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.rules_inline.state_inline import Scanned, StateInline
from markdown_it.token import Token

from qwen35cli.cli.width import is_cjk

from .page import Span, combine

LIMIT = 400  # characters that are held; then what is open is given up

_SPECIAL = re.compile(r"[*_~`\[\\$]")
_CLOSING = re.compile(r"[*_~`)\]$]")
_ESCAPABLE = frozenset("*_~`#+-.<>|!$")  # without the brackets of LaTeX, and its \\
_PUNCTUATION = frozenset("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~")
_CODE = re.compile(r"(?<!`)(`+)(?!`)(.+?)(?<!`)\1(?!`)")
_TICKS = re.compile("`+")
FORMULA = r"\$(?=[^\s$])(?:[^$\\]|\\.)*?(?<=\S)\$(?!\d)"  # within a line; prices are none
_MATH = re.compile(rf"\$\$.+?\$\$|{FORMULA}|\\\(.+?\\\)|\\\[.+?\\\]")
_MATH_OPEN = re.compile(r"\$\$|\$[^\s\d$]|\\[(\[]")
_ADDRESS = re.compile(r"://[^\s<>*`~\"\[\]()]*[^\s<>*`~\"\[\]()_]")

CODE = "36"
STYLES = {"strong": "1", "em": "3", "s": "9", "link": "4"}
DESTINATION = "2"


class Inline:
    """One line of text after another, as spans.

    What no later text can change is given at once; from the first marker that may still find
    its partner on, all is held: until it has found it, LIMIT is reached, or the line ends.
    Without colour the markers are the styles: the text is given as it is.
    """

    def __init__(self, *, color: bool) -> None:
        self._parser = _parser() if color else None
        self._held = ""
        self._before = ""  # the last character given
        self._closing = False  # something came since the last try that may close what is open
        self._next_try = 0  # length from which to try again, so that trying stays cheap

    def feed(self, text: str) -> list[Span]:
        """The spans that are certain after the next units of the line."""
        if self._parser is None:
            return [Span(text)]
        if not self._held and not _SPECIAL.search(text):
            return self._give([Span(text)], text)
        self._closing |= not self._held or bool(_CLOSING.search(text))
        self._held += text
        if len(self._held) >= LIMIT:
            return self.end()
        whole = self._held[-1] in " \t" or is_cjk(self._held[-1]) is not None
        if not whole or not self._closing or len(self._held) < self._next_try:
            return []
        spans, is_open = self._parse()
        if not is_open:
            return self._give(spans, self._held)
        self._closing = False
        self._next_try = len(self._held) * 5 // 4
        return []

    def end(self) -> list[Span]:
        """The spans of what is held, at the end of the line."""
        if not self._held:
            return []
        spans, _ = self._parse()
        return self._give(spans, self._held)

    def new_line(self) -> None:
        """Forget what came before."""
        self._before = ""

    def line(self, text: str) -> list[Span]:
        """The spans of a whole line, between others."""
        self.new_line()
        return self.feed(text) + self.end()

    def _give(self, spans: list[Span], text: str) -> list[Span]:
        self._before = text[-1:]
        self._held = ""
        self._closing = False
        self._next_try = 0
        return spans

    def _parse(self) -> tuple[list[Span], bool]:
        assert self._parser is not None
        env: dict[str, Any] = {}
        state = _State(self._before + self._held, self._parser, env, [])
        state.pos = len(self._before)
        self._parser.inline.tokenize(state)
        for rule in self._parser.inline.ruler2.getRules(""):
            rule(state)
        waits = any(mark.open and mark.end < 0 for mark in state.delimiters)
        return _spans(state.tokens), waits or "open" in env


class _State(StateInline):
    """Markers beside CJK open and close whatever punctuation is there: no blanks part words.

    Between two digits they are operators.
    """

    def scanDelims(self, start: int, canSplitWord: bool) -> Scanned:
        scanned = super().scanDelims(start, canSplitWord)
        end = start + scanned.length
        before = self.src[start - 1] if start else " "
        after = self.src[end] if end < self.posMax else " "
        if before.isdigit() and after.isdigit():
            return Scanned(False, False, scanned.length)
        if canSplitWord and (is_cjk(before) or is_cjk(after)):
            return Scanned(not after.isspace(), not before.isspace(), scanned.length)
        return scanned


def _parser() -> MarkdownIt:
    """CommonMark's emphasis and strikethrough, with our own rules for what is shown as it is."""
    parser = MarkdownIt("zero").enable(["strikethrough", "emphasis"])
    rules = parser.inline.ruler
    for name, rule in (
        ("math", _math),
        ("escape", _escape),
        ("code", _code),
        ("address", _address),
        ("link", _link),
    ):
        rules.before("strikethrough", f"our_{name}", rule)
    return parser


def _spans(tokens: list[Token]) -> list[Span]:
    found: list[Span] = []
    styles: list[str] = []
    for token in tokens:
        kind = token.type.removesuffix("_open").removesuffix("_close")
        if token.nesting > 0:
            styles.append(STYLES[kind])
        elif token.nesting < 0:
            styles.pop()
        if token.content:
            style = {"code_inline": CODE, "destination": DESTINATION}.get(token.type, "")
            found.append(Span(token.content, combine(*styles, style)))
    return found


def _math(state: StateInline, silent: bool) -> bool:
    if state.src[state.pos] not in "$\\":
        return False
    if match := _MATH.match(state.src, state.pos, state.posMax):
        return _literal(state, match[0], silent)
    if _MATH_OPEN.match(state.src, state.pos, state.posMax):
        state.env["open"] = True
    return False


def _escape(state: StateInline, silent: bool) -> bool:
    if state.src[state.pos] != "\\" or state.pos + 1 >= state.posMax:
        return False
    after = state.src[state.pos + 1]
    if after not in _PUNCTUATION:
        return False
    if not silent:
        state.pending += after if after in _ESCAPABLE else "\\" + after
    state.pos += 2
    return True


def _code(state: StateInline, silent: bool) -> bool:
    if state.src[state.pos] != "`":
        return False
    match = _CODE.match(state.src, state.pos, state.posMax)
    if match is None:
        state.env["open"] = True
        ticks = _TICKS.match(state.src, state.pos, state.posMax)
        assert ticks is not None
        return _literal(state, ticks[0], silent)
    if not silent:
        content = match[2]
        if content[0] == content[-1] == " " and content.strip(" "):
            content = content[1:-1]
        state.push("code_inline", "code", 0).content = content
    state.pos = match.end()
    return True


def _address(state: StateInline, silent: bool) -> bool:
    """The rest of a bare URL: its underscores are no emphasis."""
    if state.src[state.pos] != ":":
        return False
    match = _ADDRESS.match(state.src, state.pos, state.posMax)
    return match is not None and _literal(state, match[0], silent)


def _link(state: StateInline, silent: bool) -> bool:
    """`[text](destination)` and the same of a picture: the text, then the destination."""
    start = state.pos
    if state.src[start] == "!" and state.src[start + 1 : start + 2] == "[":
        start += 1
    elif state.src[start] != "[":
        return False
    close = state.md.helpers.parseLinkLabel(state, start, True)
    if close < 0:
        state.env["open"] = True
        return False
    if state.src[close + 1 : close + 2] != "(":
        return False
    end = _destination_end(state, close + 2)
    if end is None:
        if ")" not in state.src[close + 2 : state.posMax]:
            state.env["open"] = True
        return False
    if not silent:
        label, destination = state.src[start + 1 : close], state.src[close + 2 : end]
        _push_link(state, start + 1, close, "" if label == destination else destination)
    state.pos = end + 1
    return True


def _push_link(state: StateInline, start: int, end: int, destination: str) -> None:
    maximum = state.posMax
    state.push("link_open", "a", 1)
    state.pos, state.posMax = start, end
    state.md.inline.tokenize(state)
    state.posMax = maximum
    state.push("link_close", "a", -1)
    if destination:
        lead = " " if end > start else ""
        state.push("destination", "", 0).content = f"{lead}({destination})"


def _destination_end(state: StateInline, start: int) -> int | None:
    """Where the parenthesis after a destination, and perhaps a title, is."""

    def skip(position: int) -> int:
        while position < state.posMax and state.src[position] in " \t":
            position += 1
        return position

    helpers = state.md.helpers
    position = skip(start)
    destination = helpers.parseLinkDestination(state.src, position, state.posMax)
    if destination.ok:
        position = destination.pos
    after = skip(position)
    if after > position:
        title = helpers.parseLinkTitle(state.src, after, state.posMax)
        after = skip(title.pos) if title.ok else after
    return after if state.src[after : after + 1] == ")" and after < state.posMax else None


def _literal(state: StateInline, text: str, silent: bool) -> bool:
    if not silent:
        state.pending += text
    state.pos += len(text)
    return True
