"""What a terminal gets that a file does not, and how lines and pieces meet."""

import io

import pytest

from qwen35cli.cli.flags import ScreenFlags
from qwen35cli.cli.terminal import ERASE_LINE, Terminal
from tests.cli.markdown_screen import screen as on_screen


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def screen():
    return Screen()


@pytest.fixture
def terminal(screen):
    return Terminal(io.StringIO(), screen)


def test_thinking_is_dim_and_the_next_line_starts_anew(terminal, screen):
    terminal.thinking("a")
    terminal.thinking("b")
    terminal.say("said")
    assert screen.getvalue() == "\x1b[2ma\x1b[0m\x1b[2mb\x1b[0m\nsaid\n"


def test_thinking_that_ended_its_line_leaves_no_gap(terminal, screen):
    terminal.thinking("a\n")
    terminal.thinking("")
    terminal.say("said")
    assert screen.getvalue() == "\x1b[2ma\n\x1b[0msaid\n"


@pytest.mark.parametrize(("name", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_no_colour_where_it_is_not_wanted(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    screen = Screen()
    Terminal(io.StringIO(), screen).thinking("a")
    assert screen.getvalue() == "a"


def test_no_color_on_the_command_line(terminal, screen):
    terminal.configure(ScreenFlags(no_color=True))
    terminal.warn("odd", "even")
    assert screen.getvalue() == "warning: odd\nhint: even\n"


def test_the_words_of_a_warning_have_the_colour_of_any_others(terminal, screen):
    terminal.warn("yellow on white")
    assert screen.getvalue() == "\x1b[33mwarning:\x1b[0m yellow on white\n"


def test_a_status_is_replaced_by_what_comes_next(terminal, screen):
    terminal.status("loading")
    with terminal.sink(None) as sink:
        sink.write("answer")
    assert screen.getvalue() == f"{ERASE_LINE}\x1b[2mloading\x1b[0m{ERASE_LINE}"


@pytest.mark.parametrize("line", ["wide " * 20, "━" * 100])
def test_ctrl_c_behind_passing_lines_leaves_none_of_them(terminal, screen, monkeypatch, line):
    monkeypatch.setenv("COLUMNS", "40")
    terminal.passing([line, line])
    screen.write("^C")  # by the terminal itself
    terminal.say("interrupted")
    assert on_screen(screen.getvalue(), 40) == ["interrupted"]


@pytest.mark.parametrize("quiet", [True, False])
def test_a_file_gets_no_status_and_no_escapes(quiet):
    out, err = io.StringIO(), io.StringIO()
    terminal = Terminal(out, err)
    terminal.configure(ScreenFlags(quiet=quiet))
    terminal.status("loading")
    terminal.thinking("hm")
    terminal.note("noted")
    terminal.error("failed")
    said = "" if quiet else "noted\n"
    assert err.getvalue() == "hm\n" + said + "error: failed\n"


def test_untrusted_text_in_a_message_is_one_harmless_line(terminal, screen):
    terminal.configure(ScreenFlags(no_color=True))
    terminal.error("no file a\x1b[2J\nb")
    assert screen.getvalue() == "error: no file a\ufffd[2J b\n"
