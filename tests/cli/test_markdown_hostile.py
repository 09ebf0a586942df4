"""Text made to be slow or to be held for ever."""

import time

import pytest

from qwen35cli.cli.markdown import Markdown
from qwen35cli.cli.markdown.inline import Inline
from tests.cli.markdown_screen import plain, render

SIZE = 20_000
HOSTILE = {
    "word": "a" * SIZE,
    "stars": "*" * SIZE,
    "open stars": "*a " * (SIZE // 3),
    "open bold": "**b c " * (SIZE // 6),
    "mixed stars": "*a **b " * (SIZE // 7),
    "quotes": ">" * SIZE,
    "quotes apart": "> " * (SIZE // 2),
    "items": "- " * (SIZE // 2) + "x",
    "brackets": "[" * SIZE,
    "brackets apart": "[a " * (SIZE // 3),
    "images": "![" * (SIZE // 2),
    "open links": "[a](b " * (SIZE // 6),
    "ticks": "".join("`" * (n % 50 + 1) + "a " for n in range(SIZE // 25)),
    "tildes": "~~a " * (SIZE // 4),
    "formulas": "$\\{ " * (SIZE // 4),
    "backslashes": "\\" * SIZE,
    "accents": "\u0301" * SIZE,
    "families": "👨‍👩‍👧" * (SIZE // 5),
    "chinese": "中文" * (SIZE // 2),
    "blanks": " " * SIZE,
    "newlines": "\n" * SIZE,
    "rules": "- " * (SIZE // 2),
    "pipes": "|" * SIZE,
    "rows": "|a|b|\n" * (SIZE // 6),
    "columns": "|a" * 500 + "|\n" + "|-" * 500 + "|\n" + ("|a" * 500 + "|\n") * 10,
    "fence": "```" + "a" * SIZE,
    "numbers": "1. " * (SIZE // 3),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_text_is_neither_slow_nor_lost(name):
    text = HOSTILE[name]
    start = time.process_time()
    shown = plain(text)
    assert time.process_time() - start < 10
    for char in ("a", "x", "b", "中", "["):
        assert shown.count(char) >= text.count(char)


@pytest.mark.parametrize("name", [name for name in HOSTILE if name not in ("blanks", "newlines")])
def test_hostile_text_is_not_held(name):
    out = []
    markdown = Markdown(out.append, lambda: 80, color=True)
    markdown.feed(HOSTILE[name])
    written = len("".join(out))
    markdown.end()
    assert written or markdown.waiting is None
    if name != "columns":
        assert len("".join(out)) - written < 5000


@pytest.mark.parametrize("name", ["stars", "open stars", "mixed stars", "open links", "chinese"])
def test_each_character_is_parsed_a_few_times(name, monkeypatch):
    parsed = []
    parse = Inline._parse
    monkeypatch.setattr(
        Inline, "_parse", lambda self: parsed.append(len(self._held)) or parse(self)
    )
    render(HOSTILE[name])
    assert sum(parsed) < 12 * SIZE


def test_ten_thousand_quotes_are_a_few_and_text():
    assert plain(">" * 10_000).count(">") == 10_000
    assert plain("> " * 10_000, 10**6) == "> " * 9_999 + ">\n"
