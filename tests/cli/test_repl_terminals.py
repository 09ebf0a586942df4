"""What a chat sends to terminals of all kinds and sizes, and what an answer cannot do to them."""

import json
import os
import re
import shlex
import signal

import pytest

from qwen35cli.app.commands import help_lines
from tests import fakes
from tests.cli.chats import (
    CTRL_C,
    CTRL_D,
    CTRL_J,
    ESCAPE,
    PLACEHOLDER,
    WHOLE,
    Chat,
    scripted_line,
    with_script,
)
from tests.cli.test_repl_commands import OVERHEAD, counted

THOUGHT = "Let me see what there is to say about it, and how to say that. One line may do."
ANSWER = """\
# Title

Some **bold** words, 日本語 and `code`, in one paragraph that is longer than forty columns.

| name | what it is |
|---|---|
| 👍🏽 | a thumb |

```python
def double(x):
    return 2 * x
```

- one
- two
"""
TURN = [THOUGHT, "</think>", "\n\n", ANSWER]


def words(rows):
    return " ".join(rows).split()


# -- sizes ------------------------------------------------------------------------------------


@pytest.mark.parametrize("columns", [20, 40, 80, 200])
def test_narrow_and_wide(tmp_path, columns):
    turns = [[THOUGHT, fakes.WAIT, "|"], TURN]
    with with_script(tmp_path, turns, "-n", thinking=True, columns=columns) as chat:
        chat.send("one")
        chat.sees("do.")
        passing = chat.screen()
        above = next(i for i, row in enumerate(passing) if row.startswith(">>> one"))
        assert 1 <= len(passing) - above - 1 <= 6
        assert all(len(row) < columns for row in passing[above + 1 :])
        assert words(passing[above + 1 :])[-3:] == ["line", "may", "do."]
        chat.interrupt()
        rows = chat.ready()
        assert rows[0] == "(interrupted)"  # where the thinking stood
        assert words(rows)[1:5] == ["cached", "0", "·", "new"]

        rows = chat.say("two")
        assert words(rows)[:3] == ["thought", str(len(THOUGHT)), "tokens,"]
        told = rows[next(i for i, row in enumerate(rows) if row == "# Title") :]
        assert words(told[1:])[:3] == ["Some", "bold", "words,"]
        table = told.index("name │ what it is")
        assert told[table + 1 : table + 3] == ["─────┼───────────", "👍🏽   │ a thumb"]
        assert "    return 2 * x" in told
        assert "• two" in told
        assert chat.foreign() == []


def test_help_is_broken_between_words(tmp_path):
    with with_script(tmp_path, [], "-n", columns=40) as chat:
        rows = chat.say("/help think")
        assert max(map(len, rows)) < 40
        assert " ".join(rows) == " ".join(help_lines("think"))


def test_a_terminal_that_changes_its_size(tmp_path):
    many = " ".join(f"word{i}" for i in range(40))
    turns = [["Begun. ", fakes.WAIT, "|", many], [many], ["Short."]]
    with with_script(tmp_path, turns, "-n", columns=80) as chat:
        chat.send("one")
        chat.sees("Begun.")
        chat.resize(40)
        chat.interrupt()
        assert chat.ready()[0].startswith("Begun.")

        rows = chat.say("two")
        assert all(len(row) <= 40 for row in rows)
        assert words(rows)[:40] == many.split()

        chat.ready(again=True)
        chat.type("a message that is longer than the thirty columns there will be")
        chat.sees("be")
        chat.resize(30)
        shown = [row for row in chat.screen() if row]
        assert shown[-3:] == [
            ">>> a message that is longer t",
            "han the thirty columns there w",
            "ill be",
        ]
        chat.resize(100)
        assert chat.screen()[-1] == (
            ">>> a message that is longer than the thirty columns there will be"
        )
        rows = chat.enter()
        assert rows[0] == "Short."
        assert chat.leave() == 0


def test_keys_during_an_answer_wait_unseen(tmp_path):
    with with_script(tmp_path, [["First."], ["Second."]], "-n") as chat:
        chat.ready(again=True)
        (tmp_path / "hold-prompt").touch()
        chat.send("one")
        chat.sees("reading")
        chat.type("typed\nahead\r")
        (tmp_path / "hold-prompt").unlink()
        chat.sees("Second.")
        chat.ready()
        assert [row for row in chat.rows()[3:-1] if not row.startswith("cached")] == [
            ">>> one",
            "First.",
            ">>> typed",
            "ahead",
            "Second.",
        ]


def test_keys_during_a_command_wait_unseen(tmp_path):
    with with_script(tmp_path, [["First."], ["Second."]], "-n") as chat:
        (tmp_path / "hold-answer").touch()
        chat.say("one")
        chat.send("/undo")
        chat.sees("reading the last answer")
        chat.type("typed ahead\r")
        (tmp_path / "hold-answer").unlink()
        chat.sees("Second.")
        chat.ready()
        assert [row for row in chat.rows()[5:-1] if not row.startswith("cached")] == [
            ">>> /undo",
            "took back 1 turn: one",
            "0 turns left",
            ">>> typed ahead",
            "Second.",
        ]


def test_an_editor_gets_the_terminal_as_it_was(tmp_path):
    look = tmp_path / "look"
    look.write_text(f"#!/bin/sh\nkill -CONT $PPID\nsleep 0.2\nstty -a >{tmp_path}/modes\n")
    look.chmod(0o700)
    with with_script(tmp_path, [["First."], ["Second."]], "-n", EDITOR=str(look)) as chat:
        chat.say("one")
        assert chat.say("/edit")[:2] == ["one", "Second."]
    assert {"icrnl", "icanon", "echo"} <= set((tmp_path / "modes").read_text().split())


def test_stopped_and_continued_while_it_answers(tmp_path):
    thought = "A line.\n" * 5
    turns = [[thought, fakes.WAIT, "</think>", "\n\n", "Done."]]
    with with_script(tmp_path, turns, "-n", thinking=True) as chat:
        chat.send("one")
        chat.until(lambda: chat._read() and "\n".join(chat.screen()).count("A line.") == 5, "lines")
        chat.signal(signal.SIGSTOP)
        chat.modes(quiet=False)  # as a shell does
        chat._stream.feed("\r\n" + "the shell\r\n" * 6)
        os.kill(chat.pid, signal.SIGCONT)
        chat.until(lambda: chat._read() and chat.modes(), "no echo")
        chat.interrupt()
        assert chat.ready().count("the shell") == 6


# -- kinds ------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["NO_COLOR", "--color never"])
def test_without_colour(tmp_path, how):
    arguments = how.split() if how.startswith("-") else ()
    variables = {} if arguments else {"NO_COLOR": "1"}
    with with_script(tmp_path, [TURN], "-n", *arguments, thinking=True, **variables) as chat:
        rows = chat.say("one")
        assert "Some **bold** words, 日本語 and `code`," in " ".join(rows)
        chat.say("/hlep")
        colours = {escape for escape in ESCAPE.findall(chat.raw) if escape.endswith("m")}
        assert colours <= {"\x1b[0m", "\x1b[0;1m", "\x1b[0;2m"}  # the prompt is bold
        assert chat.leave() == 0


def test_a_dumb_terminal_gets_plain_lines(tmp_path):
    turns = [TURN, ["\x1b[31mred\x07 "]]
    with with_script(tmp_path, turns, "-n", thinking=True, TERM="dumb") as chat:
        chat.sees(">>> ")
        chat.type("one\r")
        chat.sees(f"{THOUGHT}\nthought ")
        chat.sees("Some **bold** words")
        chat.sees(">>> ")
        chat.type("/hlep\r")
        chat.sees("error: unknown command /hlep; nothing was sent\nhint: did you mean /help?\n>>> ")
        chat.type('"""two\rlines"""\r')
        chat.sees("\ufffd[31mred\ufffd")
        chat.sees(">>> ")
        chat.type(CTRL_C)
        chat.sees("Ctrl-C again or Ctrl-D to leave\n>>> ")
        chat.type(CTRL_C)
        assert chat.end() == 130
        assert "\x1b" not in chat.raw and "\x07" not in chat.raw


def test_keys_wait_for_a_dumb_terminal_too(tmp_path):
    turns = [["First. ", fakes.WAIT, "|"], ["Second."]]
    with with_script(tmp_path, turns, "-n", TERM="unknown") as chat:
        chat.sees(">>> ")
        chat.type("one\r")
        chat.sees("First.")
        chat.type("two\r")
        chat.signal(signal.SIGINT)
        chat.sees("Second.")
        assert "\x1b" not in chat.raw


def test_a_terminal_at_stdin_alone_is_read_line_by_line(tmp_path):
    turns = [["First."], ["Second."]]
    line = shlex.join(scripted_line(tmp_path, turns, "-n"))
    with Chat(["bash", "-c", f"{line} 2>&1 | tee log"], tmp_path) as chat:
        for text, answer in (("one", "First."), ("two", "Second.")):
            chat.sees(">>> ")
            chat.type(f"{text}\r")
            chat.sees(answer)
        chat.sees(">>> ")
        chat.type(CTRL_D)
        assert chat.end() == 0
    told = (tmp_path / "log").read_text()
    assert ">>> First.\ncached" in told
    assert "\x1b" not in told and PLACEHOLDER not in told


def test_with_stderr_closed_the_line_is_drawn_on_stdout(tmp_path):
    line = shlex.join(scripted_line(tmp_path, [["First."], ["Second."]], "-n"))
    with Chat(["bash", "-c", f"exec {line} 2>&-"], tmp_path) as chat:
        assert chat.say("one") == ["First."]
        assert chat.say("two") == ["Second."]
        assert chat.leave() == 0


def test_streams_are_judged_apart(tmp_path):
    line = shlex.join(scripted_line(tmp_path, [TURN, TURN], "-n", thinking=True))
    with Chat(["bash", "-c", f"exec {line} 2>err"], tmp_path) as chat:
        chat.say("one")  # the line is drawn where the terminal is
        assert chat.leave() == 0
        assert "\x1b[1mbold\x1b[0m" in chat.raw  # stdout is a terminal
    told = (tmp_path / "err").read_text()
    assert f"{THOUGHT}\nthought " in told
    assert not ESCAPE.search(told)

    with Chat(["bash", "-c", f"exec {line} >out"], tmp_path) as chat:
        rows = chat.say("one")
        assert rows[0].startswith("thought ")
        assert "\x1b[2mthought" in chat.raw  # stderr is a terminal
        assert chat.leave() == 0
    assert (tmp_path / "out").read_text() == ANSWER + "\n"


# -- text of all kinds --------------------------------------------------------------------------


def test_what_is_typed_arrives_as_it_was_typed(tmp_path):
    message = "日本語 👍🏽 e\u0301 — «ü»\nשלום \u202eevil"
    turns = [["👩‍👩‍👧 日本語\u202e."], ["x"]]
    with with_script(tmp_path, turns) as chat:
        rows = chat.say(message.replace("\n", CTRL_J))
        assert counted(rows)[1] == OVERHEAD + len(message.encode())
        assert "👩‍👩‍👧 日本語\ufffd.\n" in chat.said
        chat.say("/sessions")
        chat.say("/undo")
        assert chat.foreign() == []
        (path,) = (tmp_path / "data").rglob("session.json")

        chat.say(message.replace("\n", CTRL_J))
        assert json.loads(path.read_text())["turns"][0]["parts"] == [message]


HOSTILE = (
    "a\x1b]52;c;QUFB\x07b\x1b[2Jc\x1b[31;5md\x9b31me\u202ef\u2066g\x1bch\x1b]8;;http://x\x1b\\i"
    "\x1b[?1049hj\x0e\x08\x7f</think>\x1b["
)


@pytest.mark.parametrize("where", ["text", "code", "table", "thinking"])
def test_nothing_that_an_answer_says_reaches_the_terminal_as_a_control(tmp_path, where):
    """Cut in two at every place."""
    before, after = {"code": ("```\n", "\n```\n"), "table": ("|a|\n|-|\n|", "|\n\n")}.get(
        where, ("", "")
    )
    shown = re.sub("[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", "\ufffd", HOSTILE)
    turns = [
        [WHOLE + before + HOSTILE[:cut], WHOLE + HOSTILE[cut:] + after]
        for cut in range(1, len(HOSTILE))
    ]
    thinking = where == "thinking"
    if thinking:
        turns = [[*turn, "</think>", "\n\nok"] for turn in turns]
    with with_script(tmp_path, turns, "-n", thinking=thinking, ctx=32_768) as chat:
        if thinking:
            chat.say("/think show")
        for _ in turns:
            rows = chat.say("q")
            assert any(shown in row for row in rows), rows
        assert chat.foreign() == []
        for sequence in ("\x1b]", "\x1bc", "\x1b[2J", "\x1b[31;5m", "\x1b[?1049h", "\x9b"):
            assert sequence not in chat.raw
        assert chat.leave() == 0
