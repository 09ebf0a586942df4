"""The recording in the README is of the session that is typed, and of the program as it is."""

import re

import pytest
from rich.text import Text

from scripts.record_chat import terminal
from scripts.record_chat.__main__ import COMMAND, PICTURE, SESSION, record
from scripts.record_chat.drawing import rows, spoken, svg

CLASS = r'<text class="chat-(r\d+)"[^>]*>{}</text>'


@pytest.fixture
def run(tmp_path):
    started = []

    def run(*command, columns=40):
        started.append(
            terminal.Terminal(
                command,
                folder=tmp_path,
                environment={"PATH": "/usr/bin:/bin"},
                columns=columns,
                lines=10,
            )
        )
        return started[-1]

    yield run
    for each in started:
        each.close()


def rules(picture, text):
    """How a run of text is drawn."""
    name = re.search(CLASS.format(text), picture)[1]
    return re.search(rf"\.chat-{name} {{ (.*) }}", picture)[1]


def test_what_stands_on_the_screen_is_drawn_as_it_stands_there(run):
    shown = run(
        "printf",
        r"gone\r\033[K\033[2mdim\033[0m \033[1;31mbold\033[22m red\033[0m\n"
        r"\033[38;5;2mpalette\033[0m \033[38;2;2;2;5mexact\033[0m "
        r"\033[2;3mpale\033[22m slanted\033[0m <\n"
        "end",
    )
    shown.until(lambda: shown.line == "end")
    drawn = rows(shown.screen)
    assert [row.plain for row in drawn] == ["dim bold red", "palette exact pale slanted <", "end"]
    picture = svg(drawn, 40, "")
    assert rules(picture, "dim") == "fill: #92999f"
    assert rules(picture, "bold") == "fill: #ff7b72;font-weight: bold"
    assert rules(picture, "&#160;red") == "fill: #ff7b72"
    assert rules(picture, "palette") == "fill: #00cd00"
    assert rules(picture, "exact") == "fill: #020205"
    assert rules(picture, "pale") == "fill: #92999f;font-style: italic;"
    assert rules(picture, "&#160;slanted") == "fill: #e6edf3;font-style: italic;"
    assert rules(picture, ".*end") == "fill: #e6edf3"
    assert "gone" not in picture


def test_lines_are_typed_and_the_terminal_says_where_its_cursor_is(run):
    shell = run("sh", "-c", r"printf 'a\033[6n'; IFS= read -r line; echo; echo got $line | cat -v")
    shell.until(lambda: shell.line.endswith("R"))  # the echo of the terminal's own answer
    shell.enter("typed")
    shell.until(lambda: "got" in shell.screen.display[2])
    assert shell.screen.display[2].rstrip() == "got ^[[1;2Rtyped"


def test_who_waits_in_vain_sees_the_screen(run, monkeypatch):
    monkeypatch.setattr(terminal, "PATIENCE", 1)
    shown = run("sh", "-c", "echo here; sleep 10")
    with pytest.raises(TimeoutError, match=r"waited 1 s; the screen:\nhere$"):
        shown.until(lambda: shown.line == "there")


def test_timings_are_not_compared():
    lines = [Text(">>> a < b"), Text("0.12 s", "dim"), Text("  Yes."), Text(), Text("No.", "bold")]
    assert spoken(svg(lines, 40, "chat")) == ["chat", ">>> a < b", "Yes.", "No."]


def test_the_recording_needs_nothing_from_elsewhere():
    picture = PICTURE.read_text()
    assert re.findall(r"\w+://[^\"]*", picture) == ["http://www.w3.org/2000/svg"]
    assert not re.search(r"<(script|image|foreignObject)|@(import|font-face)", picture)
    assert not re.search("/(tmp|home|root|work|Users)/", picture)


def test_the_recording_is_of_this_session_and_this_program():
    shown = spoken(PICTURE.read_text())
    typed = [line.removeprefix(">>> ") for line in shown if line.startswith(">>> ")]
    assert typed == list(SESSION)
    assert f"$ {COMMAND}" in shown
    assert spoken(record()) == shown, "run: python -m scripts.record_chat"
