"""Ctrl-C, SIGTERM, Ctrl-D and a terminal that goes away, in every phase of a chat."""

import json
import os
import signal
from types import SimpleNamespace

import pytest

from qwen35cli.cli.answer import show
from qwen35cli.engine.runner import Prefill
from tests import fakes
from tests.cli.chats import CTRL_C, CTRL_D, with_demo, with_script
from tests.cli.test_repl_commands import OPENING, OVERHEAD, counted, editor

LONG = "q" * 200  # several pieces to read


def saved(folder):
    """The turns of the session that is on disk."""
    (path,) = (folder / "data").rglob("session.json")
    return json.loads(path.read_text())["turns"]


@pytest.fixture
def hold(tmp_path):
    """Hold the model: `hold("prompt")`, `hold("answer")`; with False let it go on."""

    def hold(what, held=True):
        path = tmp_path / f"hold-{what}"
        path.touch() if held else path.unlink()

    return hold


def test_while_the_prompt_is_read(tmp_path, hold):
    with with_script(tmp_path, [["First."], ["Second."], ["Third."], ["Fourth."]]) as chat:
        chat.ready(again=True)
        hold("prompt")
        chat.send(LONG)
        chat.sees("reading")
        chat.interrupt()
        rows = chat.ready("qqq")
        assert "(interrupted)" in rows
        assert not any(row.startswith("cached") for row in rows)
        assert saved(tmp_path) == []
        hold("prompt", False)
        rows = chat.enter()
        assert rows[-2] == "First."
        cached, new = counted(rows)
        assert cached == 64  # what was read then stayed
        assert cached + new == OVERHEAD + len(LONG)

        hold("prompt")
        chat.send("/regen")  # an answer is there: it stays, and no message comes back
        chat.sees("reading")
        chat.interrupt()
        assert "(interrupted)" in chat.ready()
        hold("prompt", False)
        assert saved(tmp_path)[0]["answer"] == "First."
        assert chat.say("/regen")[0] == "Third."

        hold("prompt")
        chat.send(LONG)
        chat.sees("reading")
        chat.signal(signal.SIGTERM)
        assert chat.end() == 130
        assert [turn["answer"] for turn in saved(tmp_path)] == ["Third.", None]  # `-c` brings it


def test_while_an_edited_message_is_read(tmp_path, hold):
    """The turn that it was to replace stays."""
    edit = editor(tmp_path, "s/$/ to 4/")
    with with_script(tmp_path, [["First."], ["Second."]], EDITOR=edit) as chat:
        chat.say("Count")
        hold("prompt")
        chat.send("/edit")
        chat.sees("reading")
        chat.interrupt()
        rows = chat.ready("Count to 4")
        assert rows[-2:] == ["(interrupted)", "the turn stays as it was; /undo takes it back"]
        assert [(turn["parts"], turn["answer"]) for turn in saved(tmp_path)] == [
            (["Count"], "First.")
        ]
        hold("prompt", False)
        chat.clear()
        assert chat.say("/edit")[1] == "Second."
        (turn,) = saved(tmp_path)
        assert turn["parts"] == ["Count to 4"]


def test_a_table_that_is_held_back_is_said(tmp_path):
    turns = [["Here:\n\n| a | b |\n|---|---|\n| 1 | 2 |\n", fakes.WAIT, "|"]]
    with with_script(tmp_path, turns, "-n") as chat:
        chat.send("A table")
        chat.sees("a table …")
        chat.interrupt()
        rows = chat.ready()
        assert not any("a table …" in row for row in rows)
        assert "1 │ 2" in rows
        assert "(interrupted)" in rows


def test_a_switch_comes_back_with_its_message(tmp_path, hold):
    with with_script(tmp_path, [["No."], ["Yes."]], thinking=True) as chat:
        chat.ready(again=True)
        hold("prompt")
        chat.send(LONG + " /no_think")
        chat.sees("reading")
        chat.interrupt()
        chat.ready("qqq")
        hold("prompt", False)
        assert "thinking off for this message; the switch is not part of it" in chat.enter()
        (turn,) = saved(tmp_path)
        assert (turn["parts"], turn["thinking"]) == ([LONG], False)


def test_while_it_thinks_and_while_it_answers(tmp_path):
    turns = [
        ["Hm. ", fakes.WAIT, "|", "not seen"],
        [" Yes.", "</think>", "\n\nIt is ", fakes.WAIT, "|", "not seen"],
        [" four."],
        ["Four."],
        ["Four, ", fakes.WAIT, "|"],
        ["Next."],
    ]
    with with_script(tmp_path, turns, thinking=True) as chat:
        chat.send("2+2?")
        chat.sees("Hm. ")
        chat.interrupt()
        rows = chat.ready()
        assert rows[-2] == "(interrupted)"
        context = counted(rows)[1] + len("Hm. ")

        chat.send("/continue")
        chat.sees("It ")
        chat.interrupt()
        rows = chat.ready()
        assert rows[-2] == "(interrupted)"
        assert counted(rows) == (context, 1)  # the last token is asked for once more
        assert saved(tmp_path)[0]["answer"] == "It is |"
        assert saved(tmp_path)[0]["reasoning"] == "Hm. | Yes."

        rows = chat.say("/continue")
        assert rows[0] == "four."
        assert counted(rows)[1] == 1
        assert saved(tmp_path)[0]["answer"] == "It is | four."
        assert chat.say("/continue")[0] == "error: the last answer is complete"

        chat.say("/think off")
        chat.say("/regen")
        chat.send("and 4*1?")
        chat.sees("Four,")
        chat.interrupt()
        chat.ready()
        rows = chat.say("thanks")  # not /continue: what was cut is read as it stands
        assert rows[0] == "Next."
        assert counted(rows)[1] == OPENING + len("Four, |") + 2 + OVERHEAD + len("thanks") - OPENING
        assert "not seen" not in chat.said
        assert [turn["answer"] for turn in saved(tmp_path)] == ["Four.", "Four, |", "Next."]
        assert chat.leave() == 0


def test_code_that_was_cut_goes_on_as_code(tmp_path):
    first, more = "```py\nx = 1\n", "# *y*\n  z\n```\n*End.*"
    length = str(len(first))
    with with_script(tmp_path, [[first], [more]], "-n", "--max-tokens", length) as chat:
        assert chat.say("Code?")[:2] == ["```py", "x = 1"]
        chat.say("/set max_tokens 100")
        assert chat.say("/continue")[:4] == ["# *y*", "  z", "```", "End."]
        assert chat.leave() == 0


@pytest.mark.parametrize("thinking", [True, False], ids=["thinking", "answering"])
def test_a_second_time_leaves_at_once(tmp_path, thinking):
    with with_script(tmp_path, [["Begun ", fakes.STUCK, "never"]], thinking=thinking) as chat:
        chat.send("one")
        chat.sees("Begun")
        chat.signal(signal.SIGINT)  # as a key it could still be on its way when the next is pressed
        chat.interrupt()
        assert chat.end() == 130
        assert "never" not in chat.said
    assert saved(tmp_path)[0]["answer"] is None  # the question is safe
    if not thinking:
        with with_script(tmp_path, [["Now."]], "-c") as chat:  # and stands in the line
            chat.ready("one")
            assert chat.enter()[0] == "Now."


def test_a_second_time_while_an_answer_is_put_away_leaves_as_well(monkeypatch):
    """Interrupted in that the chat would go on from memory that is half put away."""
    left = []
    monkeypatch.setattr(os, "_exit", left.append)

    def events():
        try:
            signal.raise_signal(signal.SIGINT)
            yield Prefill(1, 2)
        finally:
            signal.raise_signal(signal.SIGINT)

    result = SimpleNamespace(finish_reason="stop")
    nothing = SimpleNamespace(
        status=lambda text: None, clear_status=lambda: None, end=lambda result: None
    )
    show(events(), SimpleNamespace(result=result), nothing, nothing, explain=False)
    assert left == [130]


def test_while_it_is_typed(tmp_path):
    with with_script(tmp_path, [["One."]]) as chat:
        chat.ready(again=True)
        chat.type("typed")
        chat.sees("typed")
        chat.clear()
        chat.interrupt()
        chat.sees("Ctrl-C again or Ctrl-D to leave")
        assert chat.say("one")[0] == "One."  # that was no leaving
        chat.ready(again=True)
        chat.interrupt()
        chat.sees("Ctrl-C again or Ctrl-D to leave")
        chat.ready(again=True)
        chat.interrupt()
        assert chat.end() == 130
        assert chat.rows()[-1].startswith("session ")
    assert len(saved(tmp_path)) == 1


def test_while_the_last_answer_is_read(tmp_path, hold):
    with with_script(tmp_path, [["First."], ["Second."], ["Third."], ["Fourth."]]) as chat:
        chat.ready(again=True)
        hold("answer")
        assert chat.say("one")[0] == "First."
        assert chat.say("/ctx")[0].endswith("turn 1")  # what needs no model does not wait
        chat.send("two")
        chat.sees("reading the last answer …")
        chat.interrupt()
        assert chat.ready("two") == ["(interrupted)"]
        hold("answer", False)
        rows = chat.enter()
        assert rows[-2] == "Second."
        read = counted(rows)[1]
        assert OVERHEAD + len("two") <= read <= OVERHEAD + len("two") + OPENING + len("First.") + 2

        hold("answer")
        chat.say("three")
        chat.type(CTRL_D)  # leaving waits for it, so that all of it is saved
        chat.sees("reading the last answer …")
        hold("answer", False)
        assert chat.end() == 0
        assert chat.rows()[-1].startswith("session ")

    hold("answer")
    for number in (signal.SIGINT, signal.SIGTERM):
        with with_script(tmp_path, [["First."]], "--session", f"s{number}") as chat:
            chat.say("one")
            chat.type(CTRL_D)
            chat.sees("reading the last answer …")
            chat.signal(number)  # in a hurry
            assert chat.end() == 0
            assert "error" not in chat.said

    with with_script(tmp_path, [["First."]], "--session", "three") as chat:
        chat.say("one")
        chat.interrupt()
        chat.ready()
        chat.interrupt()
        chat.sees("reading the last answer …")
        chat.interrupt()
        chat.type("\x03\x03")
        assert chat.end() == 130
        assert "error" not in chat.said and "Traceback" not in chat.said


@pytest.mark.parametrize("phase", ["answering", "typing", "in the background"])
def test_sigterm_saves_and_leaves(tmp_path, phase, hold):
    answer = ["Begun ", fakes.WAIT, "|"] if phase == "answering" else ["Done."]
    with with_script(tmp_path, [answer]) as chat:
        chat.ready(again=True)
        if phase == "in the background":
            hold("answer")
        chat.send("one")
        if phase == "answering":
            chat.sees("Begun")
        else:
            chat.ready()
            chat.type("half")
            chat.sees("half")
        chat.signal(signal.SIGTERM)
        if phase == "in the background":
            chat.sees("reading the last answer …")
            hold("answer", False)
        assert chat.end() == 130
        assert chat.rows()[-1].startswith("session ")
        assert "error" not in chat.said
    assert saved(tmp_path)[0]["answer"] == ("Begun |" if phase == "answering" else "Done.")


@pytest.mark.parametrize("phase", ["answering", "typing", "reading"])
def test_a_window_that_is_closed_ends_it(tmp_path, phase, hold):
    answers = [["One."], ["Begun ", fakes.WAIT, "|"]] if phase == "answering" else [["One."]]
    with with_script(tmp_path, answers) as chat:
        chat.say("one")
        if phase == "answering":
            chat.send("two")
            chat.sees("Begun")
        elif phase == "reading":
            hold("prompt")
            chat.send("two")
            chat.sees("reading")
        chat.hang_up()
    assert saved(tmp_path)[0]["answer"] == "One."
    if phase == "answering":
        assert saved(tmp_path)[1]["answer"] == "Begun |"


def test_a_window_that_is_closed_leaves_what_was_read(tmp_path):
    with with_demo(tmp_path, "--max-tokens", "4", "--no-think") as chat:
        chat.ready(again=True)
        chat.say("word " * 300)
        chat.type("half")
        chat.sees("half")
        chat.hang_up()
    assert list((tmp_path / "cache").rglob("*.safetensors"))


def test_what_is_typed_while_it_starts_is_the_first_message(tmp_path):
    with with_demo(tmp_path, "--max-tokens", "4", "--no-think") as chat:
        chat.sees("starting …")
        chat.type("What can you do?\r")
        chat.sees("stopped at 4 tokens")
        chat.ready()
        before, _, behind = chat.raw.partition("\x1b[?2004h")  # the line editor takes over
        assert "What can you do?" not in before  # not echoed
        assert "What can you do?" in behind  # drawn once, or again where it came bit by bit
        assert len(saved(tmp_path)) == 1


def test_ctrl_c_while_it_starts(tmp_path):
    with with_demo(tmp_path) as chat:
        chat.sees("starting …")
        chat.type(CTRL_C)
        assert chat.end() == 130
        assert "Traceback" not in chat.said


def test_an_error_in_an_answer_ends_neither_the_chat_nor_the_message(tmp_path):
    turns = [["Begun", fakes.FAIL], ["Now."], [fakes.FAIL], ["At last."]]
    with with_script(tmp_path, turns) as chat:
        assert chat.say("one") == ["Begun", "error: memory ran out", "hint: --ctx 1k"]
        assert saved(tmp_path)[0]["answer"] == "Begun"  # as after Ctrl-C
        assert chat.say("/regen")[0] == "Now."
        chat.say("two", then="two")
        assert chat.enter()[-2] == "At last."
        assert chat.leave() == 0


def test_a_line_that_came_back_and_was_cleared_stays_cleared(tmp_path):
    with with_script(tmp_path, [["First."]]) as chat:
        chat.say("what is in ./none.png?", then="what is in ./none.png?")
        chat.clear()
        chat.type(CTRL_C)
        chat.sees("Ctrl-C again or Ctrl-D to leave")
        chat.ready()
        assert chat.say("hello")[0] == "First."
