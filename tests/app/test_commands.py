import pytest

from qwen35cli.app.commands import help_lines, parse
from qwen35cli.errors import UsageError


@pytest.mark.parametrize(
    ("line", "name", "rest"),
    [
        ("/help", "/help", ""),
        ("/?", "/help", ""),
        ("  /quit ", "/exit", ""),
        ("/image ./a b/c.png", "/image", "./a b/c.png"),
    ],
)
def test_a_known_first_word_is_a_command(line, name, rest):
    command, argument = parse(line)
    assert (command.name, argument) == (name, rest)


@pytest.mark.parametrize("line", ["hi", "", "1/2", "/home/me/cat.jpg what is this?", "a /help"])
def test_other_lines_are_messages(line):
    assert parse(line) is None


@pytest.mark.parametrize(
    ("line", "hint"),
    [("/hlep", "did you mean /help?"), ("/xyz is it?", "/help lists the commands"), ("/", "/help")],
)
def test_an_unknown_command_is_never_a_message(line, hint):
    with pytest.raises(UsageError, match="nothing was sent") as caught:
        parse(line)
    assert hint in caught.value.hint


def test_help_names_every_command_and_alias():
    shown = "\n".join(help_lines())
    for name in ("/image PATH…", "/clear", "/help", "/?", "/exit", "/quit", "/bye"):
        assert name in shown
