"""Styles inside a line, and how long what is open is held."""

import pytest

from qwen35cli.cli.markdown import Markdown
from qwen35cli.cli.markdown.inline import LIMIT, Inline
from tests.cli.markdown_screen import marked, render


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("**a b** c", "{1:a b} c"),
        ("*a* _b_ __c__", "{3:a} {3:b} {1:c}"),
        ("***a***", "{3;1:a}"),
        ("**a *b* c**", "{1:a }{1;3:b}{1: c}"),
        ("~~a~~ ~b~", "{9:a} ~b~"),
        ("`a*b*` ``c`d``", "{36:a*b*} {36:c`d}"),
        ("**`a`**", "{1;36:a}"),
        ("snake_case_name a_b_ c__d__e", "snake_case_name a_b_ c__d__e"),
        ("2 * 3 * 4", "2 * 3 * 4"),
        ("2*3 = 6, 2*4 = 8", "2*3 = 6, 2*4 = 8"),
        ("2**3 = 8, 3**2 = 9, *4*", "2**3 = 8, 3**2 = 9, {3:4}"),
        ("a**b**c", "a{1:b}c"),
        ("** a**", "** a**"),
        ("**never", "**never"),
        ("`never *a*", "`never {3:a}"),
        ("*a **b*", "*a *{3:b}"),
        (r"\*a\* \`b\` c\d \\ \[x\] \{", r"*a* `b` c\d \\ \[x\] \{"),
        ("[text](https://x.y)", "{4:text}{2: (https://x.y)}"),
        ("[**b** c](u 'title') d", "{4;1:b}{4: c}{2: (u 'title')} d"),
        ("[a_b](x_(y)_z)", "{4:a_b}{2: (x_(y)_z)}"),
        ("[https://x.y](https://x.y)", "{4:https://x.y}"),
        ("![alt](a.png) ![](b.png)", "{4:alt}{2: (a.png)} {2:(b.png)}"),
        ("[![alt](a.png)](https://x.y)", "{4:alt}{4;2: (a.png)}{2: (https://x.y)}"),
        ("[a] [b][c] [d](e f", "[a] [b][c] [d](e f"),
        ("[x](javascript:alert)", "{4:x}{2: (javascript:alert)}"),
        ("[x](a&#x202e;b)", "{4:x}{2: (a&#x202e;b)}"),
        ("<b>*a*</b> <https://a_b_.c>", "<b>{3:a}</b> <https://a_b_.c>"),
        ("https://x.y/_a_/b__c__ _d_", "https://x.y/_a_/b__c__ {3:d}"),
        ("**https://x.y/_a_**", "{1:https://x.y/_a_}"),
        ("$x^*$ and $y^*$", "$x^*$ and $y^*$"),
        (r"$\{a, b\}$ \(c^*, d^*\)", r"$\{a, b\}$ \(c^*, d^*\)"),
        (r"a $x = \mathbf{x}_i + \sum_{j} y$ b", r"a $x = \mathbf{x}_i + \sum_{j} y$ b"),
        ("a $$ b *c* d $$ *e*", "a $$ b *c* d $$ {3:e}"),
        ("$5 and *a* $6", "$5 and {3:a} $6"),
        ("中文**重要：**这是", "中文{1:重要：}这是"),
        ("**“引用”**的", "{1:“引用”}的"),
        ("&lt;b&gt;", "&lt;b&gt;"),
    ],
)
def test_a_style_is_shown(text, shown):
    assert marked(text) == shown + "\n"
    assert render(text, color=False) == text + "\n"


def test_a_span_ends_with_its_line():
    assert marked("**a\nb** *c*") == "**a\nb** {3:c}\n"


def test_only_what_is_open_is_held():
    out = []
    markdown = Markdown(out.append, lambda: 80, color=True)
    markdown.feed("a **b** c **d e ")
    assert "".join(out).endswith(" c")
    markdown.feed("\n")
    assert "".join(out).endswith(" c **d e\n")


def test_prices_are_not_held():
    assert [span.text for span in Inline(color=True).feed("$5 ")] == ["$5 "]


def test_what_stays_open_is_given_up():
    inline = Inline(color=True)
    given = "".join(span.text for span in inline.feed("**a "))
    for _ in range(LIMIT):
        given += "".join(span.text for span in inline.feed("b "))
    assert given.startswith("**a b b")
    assert len(given) >= LIMIT


def test_without_colour_nothing_is_held():
    out = []
    Markdown(out.append, lambda: 80, color=False).feed("a **b ")
    assert "".join(out) == "a **b"
