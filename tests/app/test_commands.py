import pytest

from qwen35cli.app.commands import BY_NAME, COMMANDS, help_lines, parse
from qwen35cli.errors import UsageError


@pytest.mark.parametrize(
    ("line", "name", "rest"),
    [
        ("/help", "/help", ""),
        ("/?", "/help", ""),
        ("  /quit ", "/exit", ""),
        ("/image ./a b/c.png", "/image", "./a b/c.png"),
        ("/system Be brief.\nAnd kind.", "/system", "Be brief.\nAnd kind."),
        ("/system\nBe brief.", "/system", "Be brief."),
        ("/set\ttemp  0.5", "/set", "temp  0.5"),
    ],
)
def test_a_known_first_word_is_a_command(line, name, rest):
    command, argument = parse(line)
    assert (command.name, argument) == (name, rest)


@pytest.mark.parametrize(
    "line",
    [
        *("hi", "", "  ", "1/2", "/home/me/cat.jpg what is this?", "/tmp/a.png", "a /help"),
        *("/no_think Why?", "Why? /no_think", "what does\n/help do?"),
    ],
)
def test_other_lines_are_messages(line):
    assert parse(line) is None


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        ("/hlep", "did you mean /help?"),
        ("/xyz is it?", "/help lists the commands"),
        ("/", "/help"),
        ("/HELP", "/help"),
        ("/no_think", "/think off"),
        ("/no_thnik", "did you mean"),
    ],
)
def test_an_unknown_command_is_never_a_message(line, hint):
    with pytest.raises(UsageError, match="nothing was sent") as caught:
        parse(line)
    assert hint in caught.value.hint


def test_a_long_word_is_not_repeated_whole():
    with pytest.raises(UsageError) as caught:
        parse("/" + "x" * 100_000)
    assert len(caught.value.message) < 100


def test_names_are_one_command_each():
    spelled = [name for command in COMMANDS for name in (command.name, *command.aliases)]
    assert len(spelled) == len(set(spelled)) == len(BY_NAME)
    assert all(name.startswith("/") for name in spelled)


def test_help_names_every_command_and_alias():
    lines = help_lines()
    assert max(map(len, lines)) < 80
    shown = "\n".join(lines)
    for command in COMMANDS:
        for text in (f"{command.name} {command.argument}".strip(), command.help, *command.aliases):
            assert text in shown


def test_help_for_one_command():
    assert help_lines("undo") == help_lines("/undo")
    assert help_lines("undo") == ["/undo [N]", "take back the last turn, or the last N"]
    assert help_lines("quit") == help_lines("exit")
    assert help_lines("exit")[-1] == "also /quit, /bye"
    assert len(help_lines("think")) == 3
    with pytest.raises(UsageError, match="there is no command nope"):
        help_lines("nope")
