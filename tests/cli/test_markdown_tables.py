"""Tables: held, aligned by display width, folded or listed where they do not fit."""

import pytest

from qwen35cli.cli.markdown import Markdown
from qwen35cli.cli.markdown.tables import MOST_ROWS
from qwen35cli.cli.width import width
from tests.cli.markdown_screen import marked, plain, render

SMALL = "| Name | Age |\n|:-----|----:|\n| Anna | 12 |\n| Bo | 5 |\n"


def test_a_table_is_aligned():
    assert plain(SMALL) == "Name │ Age\n─────┼────\nAnna │  12\nBo   │   5\n"
    assert marked(SMALL).startswith("{1:Name}{2: │ }{1:Age}\n{2:─────┼────}\nAnna{2: │ } 12\n")
    assert render(SMALL, color=False) == plain(SMALL)


def test_the_middle_is_the_middle():
    assert plain("|a|\n|:-:|\n|bbb|\n|cc|") == " a\n───\nbbb\ncc\n"


def test_cells_have_styles_and_width_without_them():
    text = "| a | b |\n|---|---|\n| **bold** | `x \\| y` |\n| 中文 | 🙂👨‍👩‍👧 |\n"
    assert plain(text) == ("a    │ b\n─────┼──────\nbold │ x | y\n中文 │ 🙂👨‍👩‍👧\n")
    assert "{1:bold}" in marked(text) and "{36:x | y}" in marked(text)
    assert "**bold** │ `x | y`\n" in render(text, color=False)


@pytest.mark.parametrize(
    ("text", "row"),
    [
        ("|a|b|\n|-|-|\n|`x|y`|z|", "x|y │ z"),  # a pipe in code, where that gives two cells
        ("|a|b|\n|-|-|\n|$P(A|B)$|$5|", "$P(A|B)$ │ $5"),  # and in a formula
        ("|a|b|\n|-|-|\n|$5|$6|7|", "$5 │ $6 │ 7"),
        ("|a|b|\n|-|-|\n|1|", "1 │"),
        ("|a|b|\n|-|-|\n|1|2|3|", "1 │ 2 │ 3"),
        ("|a|b|\n|-|-|\n||2|", "  │ 2"),
    ],
)
def test_rows_are_parted(text, row):
    assert plain(text).split("\n")[2] == row


def test_a_tab_in_a_cell_is_one_blank_and_folds_nothing():
    assert plain("| a | b |\n|---|---|\n| x\ty | z |") == "a   │ b\n────┼──\nx y │ z\n"


def test_a_wide_table_folds_its_widest_cells():
    text = "| k | long |\n|---|---|\n| a | " + "word " * 12 + "|\n| b | c |\n"
    lines = plain(text, 40).split("\n")[:-1]
    assert lines == [
        "k │ long",
        "━━┿" + "━" * 37,
        "a │ word word word word word word word",
        "  │ word word word word word",
        "──┼" + "─" * 37,
        "b │ c",
    ]


def test_a_cell_whose_word_does_not_fit_makes_a_list():
    address = "https://example.org/" + "x" * 30
    text = f"| name | url |\n|---|---|\n| a | {address} |\n| b | |\n"
    assert plain(text, 40) == f"name: a\nurl:\n  {address}\n\nname: b\nurl:\n"
    assert marked(text, 40).startswith("{1:name: }a\n")


def test_a_narrow_terminal_gets_a_list():
    assert plain("| name | text |\n|---|---|\n| a | one two three four |\n", 20) == (
        "name: a\ntext: one two three\n  four\n"
    )


@pytest.mark.parametrize("columns", [20, 40, 80, 200])
def test_no_line_is_wider_than_the_terminal(columns):
    row = "| **many** words in a cell | 中文和更多的文字在这里 | 12 | `code` 🙂 and *more* |\n"
    text = "| one | two | three | four |\n|--|:-:|--:|--|\n" + row * 3
    assert max(map(width, plain(text, columns).split("\n"))) <= columns


def test_a_table_is_held_until_its_end():
    out = []
    markdown = Markdown(out.append, lambda: 80, color=False)
    markdown.feed("text\n| a | b |\n")
    assert (markdown.waiting, markdown.midline) == ("table", False)
    markdown.feed("|---|---|\n| c | d |\n")
    assert (markdown.waiting, "".join(out)) == ("table", "text\n")
    markdown.feed("\n")
    assert markdown.waiting is None
    assert "".join(out) == "text\na │ b\n──┼──\nc │ d\n"


def test_a_long_table_is_written_with_the_widths_so_far():
    out = []
    markdown = Markdown(out.append, lambda: 80, color=False)
    markdown.feed("| a | b |\n|---|---|\n" + "| cc | d |\n" * (MOST_ROWS - 1))
    assert not out
    markdown.feed("| cc | d |\n")
    assert (markdown.waiting, "".join(out).count("\n")) == (None, MOST_ROWS + 2)
    markdown.feed("| cc dd | e |\n")
    assert "".join(out).endswith("cc │ e\ndd │\n")
    markdown.end()
    assert "".join(out).endswith("cc │ e\ndd │\n")


def test_text_ends_a_table():
    assert plain(SMALL + "text").endswith("Bo   │   5\ntext\n")
    assert plain(SMALL + "- item").endswith("Bo   │   5\n• item\n")


def test_a_table_in_an_item_and_in_a_quote():
    assert plain("- a\n\n  |b|c|\n  |-|-|\n  |d|e|\n") == "• a\n\n  b │ c\n  ──┼──\n  d │ e\n"
    assert plain("> |b|c|\n> |-|-|\n> |d|e|\n") == "> b │ c\n> ──┼──\n> d │ e\n"


@pytest.mark.parametrize(
    "text", ["| a | b |\n", "| a |\n| b |\n| c |\n", "|\n", "|x\ny\n", "a | b\n--- | ---\nc | d\n"]
)
def test_what_is_no_table_is_text(text):
    assert plain(text) == text


def test_a_header_alone_is_a_table():
    assert plain("| a | b |\n|---|---|\n") == "a │ b\n──┼──\n"
    assert plain("| aaaaa bbbbb | ccccc |\n|---|---|\n", 10) == "aaaaa\n  bbbbb:\nccccc:\n"
