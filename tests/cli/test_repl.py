"""The REPL in a pseudo-terminal, with a scripted model."""

import os
import re
import signal

import pexpect
import pytest
from PIL import Image

from tests import fakes
from tests.scripted import PATIENCE, command, environment

# prompt_toolkit asks the terminal where its cursor is, and pexpect is none to answer.
TERMINAL = {"TERM": "xterm", "PROMPT_TOOLKIT_NO_CPR": "1", "NO_COLOR": "1"}
EMPTY_LINE = "Type a message"  # the grey text: the editor is ready and holds nothing


class Chat:
    """A running REPL and what is seen of it."""

    def __init__(self, program, *arguments, cwd):
        self.terminal = pexpect.spawn(
            program,
            list(arguments),
            env=environment(**TERMINAL),
            cwd=str(cwd),
            encoding="utf-8",
            timeout=PATIENCE,
            dimensions=(40, 200),
        )
        self.sees = self.terminal.expect_exact
        self.interrupt = self.terminal.sendintr

    def ready(self):
        """Wait for an empty input line; what was written before it."""
        self.sees(EMPTY_LINE)
        return self.terminal.before

    def say(self, text):
        self.ready()
        self.terminal.send(text + "\r")

    def new_tokens(self):
        """The number behind `new` in the line after an answer."""
        self.terminal.expect(r"new (\d+) ")
        return int(self.terminal.match[1])

    def end(self):
        """The exit code."""
        self.terminal.expect(pexpect.EOF)
        self.terminal.wait()
        return self.terminal.exitstatus

    def leave(self):
        """Ctrl-D on an empty line; the exit code."""
        self.ready()
        self.terminal.sendeof()
        return self.end()


@pytest.fixture
def chat(tmp_path):
    started = []

    def chat(turns, *arguments, **more):
        line = command(tmp_path, turns, "chat", *arguments, **more)
        started.append(Chat(*line, cwd=tmp_path))
        return started[-1]

    yield chat
    for each in started:
        each.terminal.close(force=True)


def test_a_conversation(chat, tmp_path):
    Image.new("RGB", (40, 40), "red").save(tmp_path / "red square.png")
    repl = chat([["First."], ["Second."], ["Third."]], "-s", "Be brief.")
    repl.sees("fake bf16 · cpu · reference kernels")
    repl.sees("context 4,096")

    repl.say("one")
    repl.sees("First.\r\n")
    repl.sees("answer 6 · ")
    repl.say('/image "red square.png"')
    repl.sees("image 1: red square.png 40×40 → 32×32 · 1 tokens\r\n")
    repl.say("two\x0alines")  # Ctrl-J is a new line
    repl.sees("Second.\r\n")
    long = repl.new_tokens()

    repl.say("/hlep")
    repl.sees("error: unknown command /hlep; nothing was sent\r\n")
    repl.sees("hint: did you mean /help?\r\n")
    repl.say("/?")
    repl.sees("/image PATH…  attach pictures to the next message\r\n")
    repl.say("/image no.png")
    repl.sees("error: no image at no.png\r\n")

    repl.say("/clear")
    repl.sees("cleared\r\n")
    repl.say("three")
    repl.sees("Third.\r\n")
    assert repl.new_tokens() < long

    repl.say("/exit")
    assert repl.end() == 0


def test_ctrl_c_stops_the_answer_and_keeps_what_was_said(chat):
    repl = chat([["begun", fakes.WAIT, "!", "never"], ["Next."]])
    repl.say("one")
    repl.sees("begun")
    repl.interrupt()
    repl.sees("(interrupted)\r\n")
    assert "never" not in repl.terminal.before
    first = repl.new_tokens()

    repl.say("two")
    repl.sees("Next.\r\n")
    assert repl.new_tokens() > first + len("begun") + len("two")  # the cut answer was read again

    repl.ready()
    repl.terminal.send("typed")
    repl.sees("typed")
    repl.interrupt()  # clears the line
    repl.ready()
    repl.interrupt()  # on an empty line: a hint
    repl.sees("Ctrl-C again or Ctrl-D to leave")
    repl.ready()
    repl.interrupt()
    assert repl.end() == 130


def test_a_message_that_was_not_answered_comes_back(chat):
    repl = chat([[fakes.CTRL_C, "never"], ["Now."]], ctx=256)
    repl.say("q" * 150)
    repl.sees("(interrupted)\r\n")
    repl.sees("qqq")  # it stands in the input line again
    repl.terminal.send("\r")
    repl.sees("Now.\r\n")

    repl.say("w" * 300)  # too long for the context: refused, and the chat goes on
    seen = re.escape("many, before any room to answer; nothing was cut")
    repl.terminal.expect(rf"error: the prompt has \d+ tokens, the context 256: \d+ too {seen}")
    repl.sees("www")
    repl.interrupt()  # clears the line
    assert repl.leave() == 0


def test_a_prompt_is_sent_first_and_sigterm_leaves(chat):
    repl = chat([["hm", "</think>", "Yes."]], "Really?", thinking=True)
    seen = repl.ready()
    assert "hm\r\nthought 2 tokens, " in seen
    assert "Yes.\r\n" in seen
    os.kill(repl.terminal.pid, signal.SIGTERM)
    assert repl.end() == 130
