"""The README cannot drift: its tables come from the results, its help from the program."""

import re
import shlex
from pathlib import Path

import pytest
import typer

from benchmarks.readme import README, filled, help_block
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


def test_the_help_is_the_same_in_every_environment(monkeypatch, tmp_path):
    block = help_block()
    assert "qwen35 [OPTIONS] COMMAND" in block
    assert max(map(len, block.splitlines())) <= 80
    assert block in TEXT
    (tmp_path / "qwen35").mkdir()
    (tmp_path / "qwen35/config.toml").write_text("broken")
    hostile = {"COLUMNS": "200", "TERM": "xterm-256color", "LC_ALL": "C", "FORCE_COLOR": "1"}
    hostile |= {"TERMINAL_WIDTH": "200", "PYTHONIOENCODING": "utf-8", "TYPER_USE_RICH": "0"}
    for name, value in (hostile | {"XDG_CONFIG_HOME": str(tmp_path)}).items():
        monkeypatch.setenv(name, value)
    assert help_block() == block


def test_the_settings_shown_are_possible(monkeypatch, tmp_path):
    (example,) = re.findall(r"```toml\n(.*?)```", TEXT, re.DOTALL)
    path = tmp_path / "config.toml"
    path.write_text(example)
    monkeypatch.setenv("QWEN35_CONFIG", str(path))
    group = typer.main.get_command(app)
    root = group.make_context("qwen35", ["chat"])
    params = group.commands["chat"].make_context("chat", [], parent=root).params
    assert (params["ctx"], params["quant"], params["no_markdown"]) == (65536, "int8", True)
    assert params["preset"] == "exact"


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
    command.make_context(name, rest, parent=context)


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
