"""The help of every command: all of it there, whole in narrow terminals, and quick."""

import os
import re
import subprocess
import sys

import pytest
import typer

from qwen35cli.cli import app, run
from qwen35cli.cli.commands import LIST, NAMES
from qwen35cli.cli.manual import BARE, sentence
from tests.scripted import PATIENCE, environment

GROUP = typer.main.get_command(app)


def calls():
    """Every command that has a help, as it is typed."""
    for name, command in GROUP.commands.items():
        yield from ([name, other] for other in getattr(command, "commands", ()))
        yield [name]


CALLS = [[], *(call for call in calls() if call != [BARE])]


def flags_of(call):
    command = GROUP
    for name in call:
        command = command.commands[name]
    return [each for each in command.params if each.param_type_name == "option"]


@pytest.fixture
def page(monkeypatch, capsys):
    def shown(call, columns):
        monkeypatch.setenv("COLUMNS", str(columns))
        assert run([*call, "--help"]) == 0
        out, err = capsys.readouterr()
        assert err == ""
        return out

    return shown


@pytest.mark.parametrize("columns", [40, 50, 80, 200])
@pytest.mark.parametrize("call", CALLS, ids=" ".join)
def test_it_is_whole_at_any_width(page, call, columns):
    text = page(call, columns)
    words = text.split()
    for flag in flags_of(call):
        for name in (*flag.opts, *flag.secondary_opts):
            assert name in text.replace(",", " ").split()
        assert flag.envvar is None or f"{flag.envvar}]" in words
    assert "…" not in text.replace("N,…", "").replace("NAME…", "")
    said = [line for line in text.splitlines() if not re.match(r" +(qwen35|cat|git|\"|\d)", line)]
    longest = max(said, key=len)
    assert len(longest) <= min(columns, 100) or len(longest.split()) == 1, longest


@pytest.mark.parametrize("call", CALLS, ids=" ".join)
def test_examples_come_before_the_flags_and_are_as_they_are_typed(page, call):
    text = page(call, 80)
    above, _, _ = text.partition("\nOptions:\n")
    assert re.search(r"^Examples:\n  \S*.*qwen35", above, re.M), text
    assert "  -h, --help" in text


def test_the_list_has_every_command_with_a_line_for_each(page):
    text = page([], 80)
    lines = [line for line in text.splitlines() if re.match(r"  [a-z0-9]+  ", line)]
    assert [line.split()[0] for line in lines[: len(NAMES) - 1]] == [*NAMES[:-1]]
    for rows in LIST.values():
        for name, said in rows:
            assert re.search(rf"^  {name} +{re.escape(said)}$", text, re.M)


@pytest.mark.parametrize("name", [name for name in NAMES if name != BARE])
def test_what_the_list_says_is_what_the_command_says_first(name):
    said = dict(row for rows in LIST.values() for row in rows)
    assert sentence(GROUP.commands[name].help) == said[name]


def test_defaults_and_variables_are_said(page):
    text = " ".join(page(["ask"], 80).split())
    assert "Most tokens of answer. [env: QWEN35_MAX_TOKENS] [default: 32768]" in text
    assert "[env: QWEN35_CTX] [default: 131,072 or what fits]" in text
    assert "--think, --no-think Think before answering." in text
    assert "--device auto|cpu|cuda Where" in text
    assert "default: False" not in text and "default: None" not in text


def test_a_call_without_a_command_hides_its_name(capsys):
    assert run(["-p", "x", "--help"]) == 0
    assert capsys.readouterr().out.startswith("Usage: qwen35 [OPTIONS]\n")


def test_nothing_to_answer_shows_it_beside_stdout(monkeypatch, capsys):
    monkeypatch.setattr("qwen35cli.cli.stdin.is_piped", lambda: False)
    assert run(["ask"]) == 2
    out, err = capsys.readouterr()
    assert (out, err.startswith("Usage: qwen35 ask ")) == ("", True)
    assert err.endswith("exit.\nerror: there is nothing to answer\n" + err.splitlines(True)[-1])


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["ask", "--help"]])
def test_only_the_command_asked_about_is_imported_and_no_library(arguments):
    others = {f"qwen35cli.cli.{name}" for name in NAMES} - {f"qwen35cli.cli.{arguments[0]}"}
    program = (
        "import sys\n"
        "from qwen35cli.cli import run\n"
        f"run({arguments})\n"
        f"slow = {others | {'rich', 'pydantic', 'torch', 'huggingface_hub'}}\n"
        "sys.exit(', '.join(slow & set(sys.modules)) or None)\n"
    )
    line = [sys.executable, "-c", program]
    done = subprocess.run(line, env=environment(), capture_output=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("arguments", [["ask", "--help"], ["--version"], ["sessions"]])
def test_a_reader_that_went_away(arguments):
    read, write = os.pipe()
    os.close(read)
    line = [sys.executable, "-m", "qwen35cli", *arguments]
    done = subprocess.run(
        line, env=environment(), stdout=write, stderr=subprocess.PIPE, timeout=PATIENCE
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (141, b"")
