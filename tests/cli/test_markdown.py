"""Blocks, wrapping and the promises of the stream, with colour and without."""

import random

import pytest

from qwen35cli.cli.markdown import Markdown
from tests.cli.markdown_screen import OFF, SGR, marked, plain, render, screen

DOCUMENT = """\
# Title

A **bold** and *soft* word, `code`, ~~gone~~, [text](https://x.y/a_b) and snake_case.
中文**重要：**这是一个测试，标点。 👨‍👩‍👧 e\u0301

1. one
   ```python
   def f():
       '''two

       lines'''
   ```
2. two
   - [x] nested **item that is long enough to be wrapped at most of the widths here**

> quoted `text`
>
> > deeper

| a | b |
|:--|--:|
| **1** | 中 |
| x \\| y | 🙂 |

***
$$
x_1 * y_1
$$

    indented

never **closed
"""


# -- blocks ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "colored", "uncolored"),
    [
        ("word", "word\n", "word\n"),
        ("a\nb\n", "a\nb\n", "a\nb\n"),
        ("a\n\n\n\nb", "a\n\nb\n", "a\n\nb\n"),
        ("\n\na\n\n", "a\n", "a\n"),
        ("## A *b*\nc", "{2:## }{1:A }{1;3:b}\nc\n", "## A *b*\nc\n"),
        ("#", "{2:#}\n", "#\n"),
        ("#no", "#no\n", "#no\n"),
        ("####### no", "####### no\n", "####### no\n"),
        ("Title\n===", "Title\n===\n", "Title\n===\n"),
        ("- a\n* b\n+ c", "• a\n• b\n• c\n", "- a\n* b\n+ c\n"),
        ("- a\n  - b\n    - c\n- d", "• a\n  • b\n    • c\n• d\n", "- a\n  - b\n    - c\n- d\n"),
        ("9. a\n10) b", "9. a\n10) b\n", "9. a\n10) b\n"),
        ("1. a\n  - b", "1. a\n   • b\n", "1. a\n   - b\n"),
        ("1. a\n    - b", "1. a\n   • b\n", "1. a\n   - b\n"),
        ("1. a\n  - b\n    - c", "1. a\n   • b\n     • c\n", "1. a\n   - b\n     - c\n"),
        ("10. a\n   - b\n     c", "10. a\n    • b\n      c\n", "10. a\n    - b\n      c\n"),
        ("1.\n-\nx", "1.\n•\nx\n", "1.\n-\nx\n"),
        ("- a\n\n  b\n\nc", "• a\n\n  b\n\nc\n", "- a\n\n  b\n\nc\n"),
        ("- [ ] a\n- [x] b", "• [ ] a\n• [x] b\n", "- [ ] a\n- [x] b\n"),
        ("-no\n1.no", "-no\n1.no\n", "-no\n1.no\n"),
        ("> a\n>b\n>\n> > c\n\n> d", "{2:> }a\n{2:> }b\n{2:>}\n{2:> > }c\n\n{2:> }d\n", None),
        ("> - a\n>   b\nc", "{2:> }• a\n{2:> }  b\nc\n", "> - a\n>   b\nc\n"),
        ("a\n    b", "a\nb\n", "a\nb\n"),
        ("a\n\n    b\n\n\n    *c*\n\nd", "a\n\n    b\n\n\n    *c*\n\nd\n", None),
        ("<think>\n*a*\n</think>", "<think>\n{3:a}\n</think>\n", "<think>\n*a*\n</think>\n"),
        ("<!-- a -->\n&amp; &#27;", "<!-- a -->\n&amp; &#27;\n", "<!-- a -->\n&amp; &#27;\n"),
        ("[/b] :smile: [link=https://x]", "[/b] :smile: [link=https://x]\n", None),
        ("$$\na*b*c\n$$\n*d*", "$$\na*b*c\n$$\n{3:d}\n", "$$\na*b*c\n$$\n*d*\n"),
        ("$$\n*a\n\n*b*", "$$\n*a\n\n{3:b}\n", "$$\n*a\n\n*b*\n"),
        ("\\[ *a* \\]\n*b*", "\\[ *a* \\]\n{3:b}\n", "\\[ *a* \\]\n*b*\n"),
    ],
)
def test_a_block_is_shown(text, colored, uncolored):
    assert marked(text) == colored
    assert render(text, color=False) == (plain(text) if uncolored is None else uncolored)


@pytest.mark.parametrize("text", ["---", "***", "_ _ _", "- - -", " * * * *"])
def test_a_thematic_break_is_a_line(text):
    assert plain(f"a\n\n{text}\n\nb") == "a\n\n" + "─" * 40 + "\n\nb\n"
    assert plain(text, 20) == "─" * 20 + "\n"


def test_escapes_are_those_of_weights_and_colours():
    assert render("# A") == f"\x1b[2m# {OFF}\x1b[1mA{OFF}\n"
    assert render("**a b** c") == f"\x1b[1ma{OFF}\x1b[1m b{OFF} c\n"


# -- wrapping -------------------------------------------------------------------------------------


def test_words_wrap_at_the_width():
    assert plain("aaaa bbbb cccc dddd eeee ffff", 20) == "aaaa bbbb cccc dddd\neeee ffff\n"
    assert plain("aaaa bbbb cccc ddddd", 20) == "aaaa bbbb cccc ddddd\n"


def test_wrapped_items_and_quotes_hang():
    assert plain("10. aaaa bbbb cccc dddd", 12) == "10. aaaa\n    bbbb\n    cccc\n    dddd\n"
    assert plain("> - aaaa bbbb cccc", 12) == "> • aaaa\n>   bbbb\n>   cccc\n"
    assert plain("## aaaa bbbb cccc", 12) == "## aaaa bbbb\n   cccc\n"


def test_a_long_word_is_never_broken_and_stands_alone():
    address = "https://example.org/" + "a" * 30
    assert plain(f"see {address} now", 20) == f"see\n{address}\nnow\n"
    assert plain(f"- {address}, b", 20) == f"• {address},\n  b\n"


def test_a_long_word_streams():
    out = []
    Markdown(out.append, lambda: 20, color=True).feed("a" * 5000)
    assert len("".join(out)) >= 4800


def test_cjk_breaks_between_characters_but_not_before_a_full_stop():
    assert plain("一二三四五六七", 8) == "一二三四\n五六七\n"
    assert plain("一二三四。五六七", 8) == "一二三\n四。五六\n七\n"
    assert plain("一二（三四五", 7) == "一二\n（三四\n五\n"
    assert plain("word一二三四", 8) == "word一二\n三四\n"


@pytest.mark.parametrize("cluster", ["👨‍👩‍👧", "👍🏽", "❤️", "🇩🇪", "e\u0301", "한"])
def test_a_cluster_is_measured_whole(cluster):
    wide = 1 if cluster == "e\u0301" else 2
    text = f"{cluster} {cluster} {cluster}"
    assert plain(text, 3 * wide + 2) == text + "\n"
    assert plain(text, 3 * wide + 1) == f"{cluster} {cluster}\n{cluster}\n"


def test_blanks_inside_a_line_stay_and_those_at_its_ends_go():
    assert plain("a  b   \n  c") == "a  b\nc\n"


def test_the_width_is_asked_for_at_each_line():
    out, widths = [], iter([9, 9, 19, *[14] * 9])
    markdown = Markdown(out.append, lambda: next(widths), color=False)
    markdown.feed("aaaa bbbb cccc dddd eeee ffff gggg\n")
    assert "".join(out) == "aaaa bbbb\ncccc dddd\neeee ffff gggg\n"


def test_a_resize_changes_only_what_follows():
    out, columns = [], 20
    markdown = Markdown(out.append, lambda: columns, color=False)
    markdown.feed("aaaa bbbb cccc dddd eeee\n")
    before = "".join(out)
    columns = 10
    markdown.feed("aaaa bbbb cccc\n---\n| a | b |\n|---|---|\n| cccccc | dddddd |\n\n")
    assert before == "aaaa bbbb cccc dddd\neeee\n"
    assert "".join(out)[len(before) :] == (
        "aaaa bbbb\ncccc\n" + "─" * 10 + "\na: cccccc\nb: dddddd\n"
    )


@pytest.mark.parametrize("columns", [20, 40, 80, 200])
def test_no_line_of_text_is_wider_than_the_terminal(columns):
    text = DOCUMENT.replace("https://x.y/a_b", "x.y")  # a long word may be wider
    shown = plain(text.replace(" 👨‍👩‍👧 e\u0301", ""), columns)  # unknown to this emulator
    assert "\n".join(screen(shown, columns)) + "\n" == shown


@pytest.mark.parametrize("columns", [0, 1, 2])
def test_no_width_is_too_small(columns):
    letters = [char for char in plain(DOCUMENT, columns) if char.isalnum()]
    assert {"T", "中", "q"} <= set(letters)


# -- the stream -----------------------------------------------------------------------------------


@pytest.mark.parametrize("color", [True, False])
@pytest.mark.parametrize("columns", [20, 40, 80, 200])
def test_every_cut_gives_the_same(columns, color):
    whole = render(DOCUMENT, columns, color=color)
    for size in (1, 2, 3, 5, 8, 13):
        assert render(DOCUMENT, columns, color=color, size=size) == whole


def test_every_single_cut_gives_the_same():
    whole = render(DOCUMENT)
    for at in range(len(DOCUMENT)):
        out = []
        markdown = Markdown(out.append, lambda: 80, color=True)
        markdown.feed(DOCUMENT[:at])
        markdown.feed("")
        markdown.feed(DOCUMENT[at:])
        markdown.end()
        assert "".join(out) == whole, at


def test_every_end_is_at_the_start_of_a_line_with_attributes_off():
    for end in range(1, len(DOCUMENT)):
        shown = render(DOCUMENT[:end], 40)
        assert shown.endswith("\n") or not DOCUMENT[:end].strip()
        for line in shown.split("\n"):
            codes = SGR.findall(line)
            assert not codes or codes[-1] == OFF


def test_each_write_leaves_the_attributes_off():
    out = []
    markdown = Markdown(out.append, lambda: 40, color=True)
    for char in DOCUMENT:
        markdown.feed(char)
    markdown.end()
    for text in out:
        codes = SGR.findall(text)
        assert codes[1::2] == [OFF] * (len(codes) // 2)
        assert len(codes) % 2 == 0


def test_nothing_of_nothing():
    assert render("") == render("\n \n") == ""


def test_text_comes_word_by_word():
    out = []
    markdown = Markdown(out.append, lambda: 80, color=True)
    markdown.feed("one tw")
    assert "".join(out) == "one"
    markdown.feed("o **th")
    assert "".join(out) == "one two"
    markdown.feed("ree** ")
    assert "".join(out) == f"one two \x1b[1mthree{OFF}"
    assert markdown.midline
    markdown.feed("\n")
    assert not markdown.midline


def test_an_item_starts_with_its_first_word():
    out = []
    markdown = Markdown(out.append, lambda: 80, color=True)
    markdown.feed("- **a** b")
    assert "".join(out) == f"• \x1b[1ma{OFF}"


@pytest.mark.parametrize(
    ("before", "text", "shown"),
    [
        ("", "*a*", "a\n"),
        ("a\n\n", "*b*", "b\n"),
        ("```py\nx = 1\n", "# *y*\n\n  z\n```\n*a*", "# *y*\n\n  z\n```\na\n"),
        ("```py\nx =", " a*b*c\n```\n*a*", " a*b*c\n```\na\n"),
        ("- a\n  - b\n", "  - *c*\nd", "  • c\nd\n"),
        ("| long | b |\n|---|---|\n| 1 | 2 |\n", "| 3 | *4* |\n\nc", "3    │ 4\n\nc\n"),
        ("a *b", "c* d", "c* d\n"),
    ],
)
def test_an_answer_goes_on_in_what_it_was_cut_in(before, text, shown):
    out = []
    markdown = Markdown(out.append, lambda: 80, color=True)
    markdown.follow(before)
    assert out == []
    markdown.feed(text)
    markdown.end()
    assert SGR.sub("", "".join(out)) == shown


def test_nothing_after_what_was_cut_is_nothing():
    for before in (DOCUMENT, DOCUMENT[:200], "| a |", "| a |\n|---|", "```\n", "> - "):
        out = []
        markdown = Markdown(out.append, lambda: 80, color=True)
        markdown.follow(before)
        markdown.end()
        assert out == []


# -- any document ---------------------------------------------------------------------------------

# fmt: off
PIECES = [
    "**", "*", "_", "__", "~~", "`", "``", "```", "[", "](", "]", "(", ")", "![",
    "http://a_b.c/_d_", "<b>", "\\", "$", "|", "-", "1.", ">", "#", "+", "|---|", "---", "word",
    "中文", "，", "🙂", "👨‍👩‍👧", "é", "e\u0301", "\u200b", "\\*", "\\[", "[a](b)", "**b**", "`c`",
    " ", "\n", "\n\n", "    ", "\t", "~~~\n", "```py\n", "$$\n", "| a | b |\n", "|-|-|\n",
]
# fmt: on


@pytest.mark.parametrize("seed", range(150))
def test_any_document_keeps_its_letters_its_order_and_its_cuts(seed):
    rng = random.Random(seed)
    text = "".join(rng.choice(PIECES) + rng.choice(["", " "]) for _ in range(rng.randrange(60)))
    columns, color = rng.choice([5, 20, 40, 80, 200]), rng.random() < 0.7
    shown = render(text, columns, color=color)
    assert render(text, columns, color=color, size=1) == shown
    assert render(text, columns, color=color, size=rng.randrange(2, 9)) == shown
    bare = SGR.sub("", shown)
    assert "\x1b" not in bare
    before, after = ([char for char in t if char.isalnum()] for t in (text, bare))
    if "|" in text:  # folded cells stand side by side
        assert all(after.count(char) >= before.count(char) for char in set(before))
    else:
        assert after == before
