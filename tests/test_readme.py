"""The README cannot drift: its tables come from the results, its commands from the program."""

import re
import shlex
from pathlib import Path

import pytest
import typer

from benchmarks.readme import README, filled
from qwen35cli.cli import EXIT_CODES, app

TEXT = README.read_text()
COMMANDS = [
    line.removeprefix("$ ").split("#")[0].strip()
    for block in re.findall(r"```console\n(.*?)```", TEXT, re.DOTALL)
    for line in block.splitlines()
    if line.startswith("$ ")
]


def test_tables_equal_the_committed_results():
    assert filled(TEXT) == TEXT, "run: python -m benchmarks.readme"


def calls(line):
    """The calls of our program in a shell line, as arguments."""
    for part in re.split(r"\s[|>]\s", line):
        words = shlex.split(part)
        if words and words[0] == "qwen35":
            yield words[1:]


OURS = [arguments for line in COMMANDS for arguments in calls(line)]


@pytest.mark.parametrize("arguments", OURS, ids=" ".join)
def test_every_command_line_parses(arguments):
    group = typer.main.get_command(app)
    context = group.make_context("qwen35", [*arguments], resilient_parsing=True)
    name, command, rest = group.resolve_command(context, [*arguments])
    command.make_context(name, rest)


def test_there_are_commands_to_parse():
    assert len(OURS) >= 5


def test_every_make_target_and_file_named_exists():
    makefile = Path("Makefile").read_text()
    for target in re.findall(r"\$ make (\w+)", TEXT):
        assert f"\n{target}:" in makefile
    for module in re.findall(r"python -m ([\w.]+)", TEXT):
        path = Path(module.replace(".", "/"))
        assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), module


def test_exit_codes_are_those_of_the_help():
    table = {int(code) for code in re.findall(r"^\| (\d+) \|", TEXT, re.MULTILINE)}
    listed = {int(code) for code in re.findall(r"^\s*(\d+)  ", EXIT_CODES, re.MULTILINE)}
    assert table == listed
