"""What slash commands are made of; `test_repl_commands.py` types each."""

from types import SimpleNamespace

import pytest

from qwen35cli.app.commands import BY_NAME, COMMANDS, parse
from qwen35cli.app.question import Question
from qwen35cli.cli import report, slash
from qwen35cli.errors import UsageError


def test_every_command_does_something_and_completes():
    names = {command.name for command in COMMANDS}
    assert {*slash.ACTIONS, "/exit"} == names
    offered = slash.completions(SimpleNamespace())
    assert offered.keys() == BY_NAME.keys()
    assert offered["/?"] is offered["/help"]
    assert list(offered["/help"]("")) == [
        name.removeprefix("/") for name in BY_NAME if name in names
    ]
    assert "last" in offered["/think"]("")
    assert list(offered["/edit"]("")) == ["answer"]
    assert offered["/clear"] is None


def test_a_command_that_takes_nothing_says_so():
    taking = {"/help", "/image", "/read", "/system", "/think", "/set", "/show", "/undo", "/edit"}
    taking |= {"/save", "/load", "/cc"}
    for command in COMMANDS:
        if command.name in taking:
            assert command.argument
            continue
        with pytest.raises(UsageError, match=f"^{command.name} takes nothing$"):
            slash.run(SimpleNamespace(), command, "x")
    assert slash.run(SimpleNamespace(), *parse("/bye")) is False


@pytest.mark.parametrize(
    ("text", "blocks"),
    [
        ("no code", []),
        ("`inline`", []),
        ("```\na\n```", ["a\n"]),
        ("```python\nif x:\n    y\n```\n\ntext\n\n~~~\nb\n~~~\n", ["if x:\n    y\n", "b\n"]),
        ("````\n```\ninner\n```\n````", ["```\ninner\n```\n"]),
        ("- item\n\n  ```sh\n  ls\n  ```\n", ["ls\n"]),
        ("text\n\n    indented\n", ["indented\n"]),
        ("```\ncut off", ["cut off"]),
        ("```\n```", [""]),
        ("<details>\n<summary>More</summary>\n```py\na\n```\n</details>", ["a\n"]),
    ],
)
def test_blocks_of_code(text, blocks):
    assert slash.code_blocks(text) == blocks


@pytest.mark.parametrize(("text", "count"), [("", 1), ("1", 1), ("12", 12), ("9999", 9_999)])
def test_counts(text, count):
    assert slash._count(text, "/undo 2") == count


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "two", "10000", "9" * 5_000, "²"])
def test_what_is_no_count(text):
    with pytest.raises(UsageError, match="is not a number from 1 on") as caught:
        slash._count(text, "/undo 2")
    assert caught.value.hint == "/undo 2"
    assert len(caught.value.message) < 80


def test_a_question_is_told_in_one_line():
    picture = SimpleNamespace(name="cat.png")
    question = Question((picture, "what\n\n is   this"))
    assert report.title(question) == "[cat.png]what is this"
    assert report.title(Question(("word " * 50,)), 20) == "word word word word…"
