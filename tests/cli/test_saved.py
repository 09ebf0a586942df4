"""Whole calls with the demo that leave something for the next one."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from PIL import Image

from tests.scripted import PATIENCE, environment

TEXT = "The code word is sunflower. " * 200
CALL = [sys.executable, "-m", "qwen35cli"]
QUICK = ["--model", "demo", "--no-think", "--temp", "0"]


class Home:
    """A user's folders, and calls in them."""

    def __init__(self, folder):
        self.folder = folder
        folders = {name: str(folder / name) for name in ("data", "cache", "state")}
        more = {f"XDG_{name.upper()}_HOME": path for name, path in folders.items()}
        self.environment = environment(**more) | {"QWEN35_NO_SAVE": ""}
        self.states = folder / "cache" / "qwen35" / "states"
        self.sessions = folder / "data" / "qwen35" / "sessions"

    def run(self, *arguments, stdin=None, code=0):
        done = subprocess.run(
            [*CALL, *arguments],
            env=self.environment,
            cwd=self.folder,
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        assert done.returncode == code, done.stderr
        return done

    def ask(self, *arguments, stdin=None, code=0):
        """The object of `--json`."""
        return json.loads(self.run("ask", *QUICK, "--json", *arguments, stdin=stdin).stdout)


@pytest.fixture
def home(tmp_path):
    return Home(tmp_path)


def test_two_questions_about_one_text(home):
    first = home.ask("What is the code word?", stdin=TEXT)
    assert first["usage"]["cached"] == 0
    assert first["usage"]["prompt"] > 1_024
    second = home.ask("Say it again.", stdin=TEXT)
    assert second["usage"]["prompt"] - second["usage"]["cached"] < 40
    assert home.ask("Say it again.", "-n", stdin=TEXT)["usage"]["cached"] == 0
    alike = home.ask("Say it again.", "--kv-dtype", "int8", stdin=TEXT)
    assert alike["usage"]["cached"] == 0
    plan = home.run("ask", *QUICK, "--dry-run", "Say it again.", stdin=TEXT)
    assert f"{second['usage']['cached']:,}  read before and saved" in plan.stderr
    assert plan.stdout.startswith("<|im_start|>user\nThe code word")


def test_short_questions_leave_nothing(home):
    home.ask("Hello")
    assert not home.states.exists()
    assert not list(home.sessions.glob("2*"))


def test_a_conversation_over_several_calls(home):
    Image.new("RGB", (96, 64), "red").save(home.folder / "red.png")
    one = home.ask("--session", "trip", "-i", "red.png", "What is it?")
    two = home.ask("--session", "trip", "And what is 3 + 4?")
    assert two["usage"]["prompt"] > one["usage"]["prompt"] + 10
    assert two["usage"]["image"] == one["usage"]["image"] > 0
    (home.folder / "red.png").unlink()  # the session has its own copy
    three = home.ask("-c", "And now?")
    assert three["usage"]["prompt"] > two["usage"]["prompt"]
    shown = home.run("sessions", "show", "trip").stdout
    assert "And what is 3 + 4?" in shown
    assert three["answer"].strip() in shown
    listed = json.loads(home.run("sessions", "ls", "--json").stdout)
    assert len(listed["sessions"]) == 1


def test_what_excludes_each_other(home):
    done = home.run("ask", *QUICK, "-c", "-n", "Hello", code=2)
    assert "-c needs what -n does not save" in done.stderr
    done = home.run("ask", *QUICK, "-c", "--session", "x", "Hello", code=2)
    assert "exclude each other" in done.stderr
    done = home.run("ask", *QUICK, "-c", "Hello", code=2)
    assert "no session is saved yet" in done.stderr


def test_kill_9_loses_the_answer_and_nothing_before_it(home):
    home.ask("--session", "trip", "What can you do?")
    before = json.loads(home.run("sessions", "export", "trip", "--format", "json").stdout)
    question = "The code word is moss. " * 250
    process = subprocess.Popen(
        [*CALL, "ask", *QUICK, "--session", "trip", "--kernels", "reference", question],
        env=home.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        stdin=subprocess.DEVNULL,
    )
    [file] = home.sessions.glob("2*/session.json")
    deadline = time.monotonic() + PATIENCE
    while "moss" not in file.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    after = json.loads(home.run("sessions", "export", "trip", "--format", "json").stdout)
    assert after["turns"][:1] == before["turns"]
    done = home.run("ask", *QUICK, "--json", "--session", "trip", "Hello")  # nobody let go of it
    again = json.loads(done.stdout)
    assert again["usage"]["prompt"] < 200  # the question that was never answered is not part of it
    said = "warning: the last question was never answered, this one takes its place: The code word"
    assert said in done.stderr


def test_damaged_state_is_said_and_read_again(home):
    first = home.ask("What is the code word?", stdin=TEXT)
    [path] = home.states.iterdir()
    data = bytearray(path.read_bytes())
    data[-3_000] ^= 1
    path.write_bytes(data)
    done = home.run("ask", *QUICK, "--json", "What is the code word?", stdin=TEXT)
    again = json.loads(done.stdout)
    assert "warning: the saved state was damaged and is removed" in done.stderr
    assert again["usage"]["cached"] == 0
    assert again["answer"] == first["answer"]


def test_nothing_can_be_written_and_the_answer_still_comes(home):
    home.environment["XDG_CACHE_HOME"] = "/dev/null/cache"
    done = home.run("ask", *QUICK, "What is the code word?", stdin=TEXT)
    assert done.stdout.strip()
    assert "warning: the state of" in done.stderr


CHOICE = {"n": {"enum": [1, 2, 3]}, "ok": {"type": "boolean"}}
SCHEMA = json.dumps(
    {"type": "object", "properties": CHOICE, "required": ["n", "ok"], "additionalProperties": False}
)


def test_a_schema_holds_the_answer(home):
    found = home.ask("--schema", "ok bool", "Is it?")
    assert found["data"] in ({"ok": True}, {"ok": False})
    assert json.loads(found["answer"]) == found["data"]
    thought = json.loads(
        home.run(
            *("ask", "--model", "demo", "--think", "--temp", "0", "--json"),
            *("--schema", SCHEMA, "What is 3 + 4?"),
        ).stdout
    )
    assert thought["data"]["n"] in (1, 2, 3)
    assert thought["thinking"]["tokens"] > 0


def test_a_schema_that_is_not_met_is_exit_7(home):
    done = home.run(
        *("ask", *QUICK, "--json", "--schema", "name, story", "--max-tokens", "3", "Who?"), code=7
    )
    assert "stopped at 3 tokens inside the JSON" in done.stderr
    assert "warning" not in done.stderr  # one cause, one message
    assert json.loads(done.stdout)["data"] is None
    done = home.run("ask", *QUICK, "--schema", "{nonsense", "Who?", code=2)
    assert "error: " in done.stderr


def test_tools_are_told_and_calls_are_read(home):
    tool = {
        "type": "function",
        "function": {
            "name": "weather",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        },
    }
    (home.folder / "tools.json").write_text(json.dumps([tool]))
    plan = home.run("ask", *QUICK, "--dry-run", "--tools", "tools.json", "How is it in Rome?")
    assert '"name": "weather"' in plan.stdout
    assert home.ask("--tools", "tools.json", "How is it in Rome?")["tool_calls"] == []
    done = home.run("ask", *QUICK, "--tools", "none.json", "Hello", code=2)
    assert "none.json" in done.stderr
