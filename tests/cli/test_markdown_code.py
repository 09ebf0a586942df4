"""Code blocks: as the model wrote them, in colour."""

import time

import pytest
from pygments.lexers import get_lexer_by_name

from qwen35cli.cli.markdown import Markdown, code
from qwen35cli.cli.markdown.code import Highlighter, highlighter
from qwen35cli.cli.markdown.languages import LANGUAGES
from tests.cli.markdown_screen import OFF, SGR, marked, plain, render

LONG = "x = '" + "a" * 200 + "'"


def test_code_is_never_wrapped_nor_padded():
    text = f"```python\n{LONG}\n\tif *a*:  \n\n    pass\n```\n"
    assert plain(text, 20) == render(text, 20, color=False) == text


def test_code_is_coloured_and_its_fences_are_dim():
    assert marked("```python\nreturn 'a'  # 1\n```") == (
        "{2:```python}\n{35:return} {32:'a'}  {2:# 1}\n{2:```}\n"
    )


@pytest.mark.parametrize(
    "info", ["", "text", "no-such-language", "[/b]", "{", "$(rm -rf ~)", "\\", ":", "../x"]
)
def test_an_unknown_language_is_plain(info):
    assert marked(f"```{info}\na = 'b'\n```") == f"{{2:```{info}}}\na = 'b'\n{{2:```}}\n"


@pytest.mark.parametrize("info", ["python", "py title=x", "{.python}", "Python", "python:a.py"])
def test_the_language_is_the_first_word(info):
    assert "\x1b[35mreturn" in render(f"```{info}\nreturn\n```")


def test_a_string_over_several_lines_is_a_string():
    shown = marked("```python\nx = '''a\nreturn b\n'''\nreturn\n```").split("\n")
    assert shown[2] == "{32:return b}"
    assert shown[4] == "{35:return}"


def test_lines_come_as_they_are_complete():
    out = []
    markdown = Markdown(out.append, lambda: 80, color=False)
    markdown.feed("```\na\nb")
    assert "".join(out) == "```\na\n"
    markdown.end()
    assert "".join(out) == "```\na\nb\n"


@pytest.mark.parametrize(
    "text",
    [
        "~~~\n```\n~~~\n",
        "````md\n```\na\n```\n````\n",
        "```\n~~~\n```\n",
        "```\n    ```\n```\n",
        "```\n# no *heading*\n- no item\n| a |\n|---|\n> no\n```\n",
        "```\nnot closed\n\n\n",
    ],
)
def test_what_is_inside_stays(text):
    assert plain(text) == text


def test_backticks_with_text_behind_are_no_fence():
    assert plain("```a``` b\n*c*") == "a b\nc\n"


def test_code_in_an_item_is_at_its_indent():
    text = "1. a\n   ```\n   b\n     c\nd\n\n   ```\n2. e\n"
    assert plain(text) == "1. a\n   ```\n   b\n     c\n   d\n\n   ```\n2. e\n"


def test_code_that_is_indented_less_than_its_item_keeps_its_shape():
    text = "10. a\n   ```\n   b:\n     c\n   ```\n"
    assert plain(text) == "10. a\n    ```\n    b:\n      c\n    ```\n"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (
            "a:\n    ```py\n      b*c*d\n    e\n    ```\n*f*",
            "a:\n```py\n  b*c*d\ne\n```\nf\n",
        ),
        (
            "> - a:\n>       ```\n>         b*c*d\n>       ```\n*f*",
            "> • a:\n>   ```\n>     b*c*d\n>   ```\nf\n",
        ),
    ],
)
def test_code_that_is_indented_a_lot_after_text_is_code(text, shown):
    assert plain(text) == shown


def test_code_in_a_quote_ends_with_it():
    assert plain("> ```\n> *a*\n*b*") == "> ```\n> *a*\nb\n"


@pytest.mark.parametrize("language", sorted(LANGUAGES))
def test_no_language_is_slow(language):
    assert highlighter(language).__name__ == "line"  # its lexer is there
    start = time.process_time()
    for opening in ("", '"', "'", "/*", "<a ", "$("):
        for pump in ("\\", " ", "a.", "(", "-a"):
            shown = highlighter(language)
            line = (opening + pump * 240)[:240]
            assert "".join(span.text for span in shown(line)) == line
            shown(line)
    assert time.process_time() - start < 10


def test_a_language_whose_lexer_can_be_made_slow_is_plain():
    line = '"' + "\\" * 400
    assert marked(f"```scala\n{line}\n```") == f"{{2:```scala}}\n{line}\n{{2:```}}\n"
    assert line in plain(f"````markdown\n```scala\n{line}\n```\n````")


def test_a_very_long_line_streams():
    out = []
    markdown = Markdown(out.append, lambda: 80, color=True)
    markdown.feed("```json\n" + "[1, " * 5000)
    assert len("".join(out)) > 15_000
    markdown.feed("\n```\n")
    assert plain("```json\n" + "[1, " * 5000 + "\n```") == SGR.sub("", "".join(out))


@pytest.mark.parametrize("language", ["python", "c", "html", "php", "rust", "yaml"])
def test_a_long_block_reads_like_a_short_one(language, monkeypatch):
    lines = {
        "python": ["def f(x):", "    '''a", "    return", "    '''", "    return x  # 1", ""],
        "c": ["/* a", " * int", " */", "int main(void) {", '  return "a"[0];', "}"],
        "html": ["<p class='a'>", "text", "<!-- b", "<i>", "-->", "</p>"],
        "php": ["<?php", "function f($a) {", "  return 'a';", "}", "/* if", "*/"],
        "rust": ["/* fn", "*/", "fn main() {", '  let s = "a', 'b";', "}"],
        "yaml": ["a: 1", "b: |", "  text: 2", "c:", "  - d", "e: 'f'"],
    }[language] * 12
    monkeypatch.setattr(code, "WINDOW", 10**6)
    whole = highlighter(language)
    expected = [whole(line) for line in lines]
    monkeypatch.setattr(code, "WINDOW", 100)
    part = highlighter(language)
    assert [part(line) for line in lines] == expected


def test_the_cost_of_a_line_is_bounded():
    lexer = get_lexer_by_name("python")
    read = []

    class Counting:
        def get_tokens_unprocessed(self, text):
            read.append(len(text))
            return lexer.get_tokens_unprocessed(text)

    shown = Highlighter(Counting())
    for number in range(300):
        shown.line(f"value_{number} = 'text' + str({number})")
    assert max(read) <= code.LONGEST_WINDOW + code.LONGEST_LINE + 1
    assert sum(read) < 300 * 2 * code.WINDOW
    read.clear()
    shown.line("'''")
    for number in range(300):
        shown.line(f"value_{number} = 'text' + str({number})")
    assert max(read) <= code.LONGEST_WINDOW + code.LONGEST_LINE + 1


def test_the_end_of_a_very_long_block_is_plain(monkeypatch):
    monkeypatch.setattr(code, "MOST_LINES", 2)
    assert render("```py\nreturn\nreturn\nreturn\n```").count("\x1b[35m") == 2


def test_every_line_ends_with_attributes_off():
    for line in render("```python\nx = '''\n\n'''\n```").split("\n"):
        assert not SGR.findall(line) or line.endswith(OFF)
