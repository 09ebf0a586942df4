"""How thinking is shown, on an emulated terminal."""

import io
from itertools import pairwise

import pyte
import pytest

from qwen35cli.app.turn import Thought
from qwen35cli.cli.terminal import Terminal
from qwen35cli.cli.thinking import LINES, Counted, Streamed, Window, spoken
from tests.cli.markdown_screen import screen


class Tty(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def columns(monkeypatch):
    def columns(count):
        monkeypatch.setenv("COLUMNS", str(count))
        monkeypatch.setenv("LINES", "24")

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    columns(40)
    return columns


def shown(way, *pieces, thought=None, budget=None, columns=40):
    """What is on the screen after the pieces, and then the end where there is one."""
    stream = Tty()
    terminal = Terminal(stream, stream)
    view = way(terminal, budget)
    terminal.say("before")
    for piece in pieces:
        view.piece(piece)
    if thought is not None:
        view.closed(thought)
        terminal.say("after")
    return screen(stream.getvalue(), columns)


DONE = Thought(612, 9.84)


def test_streamed_it_stays(columns):
    assert shown(Streamed, "One", " two.\nThree", thought=DONE) == [
        *("before", "One two.", "Three", "thought 612 tokens, 9.8 s", "after"),
    ]


def test_in_a_window_its_last_lines_are_seen_until_it_is_over(columns):
    text = "".join(f"line {i}\n" for i in range(20))
    for size in (1, 5, len(text)):
        pieces = [text[at : at + size] for at in range(0, len(text), size)]
        assert shown(Window, *pieces) == ["before", *(f"line {i}" for i in range(14, 20))]
        assert shown(Window, *pieces, thought=DONE) == [
            *("before", "thought 612 tokens, 9.8 s", "after"),
        ]


@pytest.mark.parametrize("count", [2, 3, 7, 20, 80])
def test_a_window_never_takes_more_than_its_rows(columns, count):
    columns(count)
    text = "a long sentence 日本語 with👍 wide characters and averyveryverylongword\n\n\n" * 3
    rows = shown(Window, *text, columns=count)
    assert rows[0] == "before"[:count]
    assert len(rows) <= LINES + 1 + len("before") // count
    assert "before"[:count] in rows


@pytest.mark.parametrize("lines", [1, 3, 6])
def test_on_a_low_terminal_no_row_of_a_window_scrolls_away(columns, lines, monkeypatch):
    monkeypatch.setenv("LINES", str(lines))
    stream = Tty()
    window = Window(Terminal(stream, stream))
    for number in range(40):
        window.piece(f"line {number}\n")
    emulator = pyte.HistoryScreen(40, lines)
    pyte.Stream(emulator).feed(stream.getvalue().replace("\n", "\r\n"))
    assert not emulator.history.top
    assert emulator.display[-1].rstrip() == "line 39"


def test_a_line_without_an_end_moves_row_by_row(columns, monkeypatch):
    drawn = []
    terminal = Terminal(Tty(), Tty())
    monkeypatch.setattr(terminal, "passing", drawn.append)
    window = Window(terminal)
    for number in range(3_000):  # 390 rows
        window.piece(f"{number} ")
    assert sum(before[0] != after[0] for before, after in pairwise(drawn)) < 430


def test_what_completes_no_text_draws_nothing(columns):
    assert shown(Window, "", "") == ["before"]


def test_hidden_it_is_counted(columns):
    assert shown(Counted, "secret", "", "words") == ["before", "thinking · 3 tokens"]
    assert shown(Counted, "secret", thought=DONE) == ["before", "after"]


@pytest.mark.parametrize("way", [Streamed, Window, Counted])
def test_what_closed_it_is_said_where_it_was_not_the_model(columns, way):
    columns(100)
    rows = shown(way, "x", thought=Thought(80, 1.0, "budget"), budget=64, columns=100)
    assert rows[-2] == "thinking closed at its budget (64) · 80 tokens, 1.0 s"
    rows = shown(way, "x", thought=Thought(80, 1.0, "loop"), columns=100)
    assert rows[-2] == "thinking closed: it was repeating itself · 80 tokens, 1.0 s"


def test_the_line_that_closes_it():
    assert spoken(Thought(1_612, 9.84)) == "thought 1,612 tokens, 9.8 s"
    over = Thought(4_130, 60.0, "budget")
    assert spoken(over, 4_096) == "thinking closed at its budget (4,096) · 4,130 tokens, 60.0 s"
    assert spoken(over) == "thinking closed at its budget · 4,130 tokens, 60.0 s"
    assert spoken(Thought(200, 1.0, "budget"), 4_096) == (
        "thinking closed at what the context leaves for it · 200 tokens, 1.0 s"
    )


@pytest.mark.parametrize("xterm", [False, True])
def test_passing_lines_go_in_a_window_that_became_narrower(monkeypatch, columns, xterm):
    for name in ("XTERM_VERSION", "TMUX"):
        monkeypatch.delenv(name, raising=False)
    if xterm:
        monkeypatch.setenv("XTERM_VERSION", "XTerm(390)")
    stream = Tty()
    terminal = Terminal(stream, stream)
    terminal.say("before")
    terminal.passing(["a" * 39, "日本語" * 5, "", "c" * 20])
    wide = stream.getvalue()
    columns(20)
    terminal.say("after")
    # On a screen that was so narrow from the start, lines are as one that wraps anew shows them.
    narrow = 60 if xterm else 20
    assert screen(wide, narrow)[0] == "before"
    assert screen(stream.getvalue(), narrow) == ["before", "after"]


def test_a_file_gets_no_passing_lines(monkeypatch):
    stream = io.StringIO()
    for way in (Window, Counted):
        view = way(Terminal(stream, stream))
        view.piece("some thought")
    assert stream.getvalue() == ""
