"""Hints, as the command that runs can follow them."""

import pytest
import typer

from qwen35cli.cli import app
from qwen35cli.cli.hints import followed
from qwen35cli.cli.terminal import Terminal

NO_GPU = "--device cpu (slow), or --model demo to look around"
FETCH = "qwen35 pull a/b; -y downloads it now; --model demo runs at once"


def context(*names):
    """A context of a command, as if it were called."""
    found = typer.Context(typer.main.get_command(app), info_name="qwen35")
    for name in names:
        found = typer.Context(found.command.commands[name], parent=found, info_name=name)
    return found


@pytest.mark.parametrize(
    ("command", "hint", "expected"),
    [
        ("ask", NO_GPU, NO_GPU),
        ("bare", NO_GPU, NO_GPU),
        ("bench", NO_GPU, "--device cpu (slow), or qwen35 bench demo to look around"),
        ("info", NO_GPU, "qwen35 info demo to look around"),
        ("ls", NO_GPU, ""),
        ("sessions rm", NO_GPU, ""),
        ("chat", FETCH, FETCH),
        ("vram", FETCH, "qwen35 pull a/b; --model demo runs at once"),
        ("bench", FETCH, "qwen35 pull a/b; -y downloads it now; qwen35 bench demo runs at once"),
        ("ls", FETCH, "qwen35 pull a/b"),
        ("bench", "--ctx 4096, or --mtp off", "--ctx 4096"),
        ("bench", "--mtp off, or --ctx 4096", "--ctx 4096"),
        ("tune", "--quant int4; or --device cpu", "--quant int4"),
        (
            "pull",
            "check the network; --offline goes without",
            "check the network; --offline goes without",
        ),
        ("verify", "check the network; --offline goes without", "check the network"),
        ("rm", "-y removes, --dry-run lists", "-y removes, --dry-run lists"),
        ("quantize", "-y removes, --dry-run lists", "--dry-run lists"),
    ],
)
def test_a_way_out_that_a_command_has_no_flag_for_is_left_out(command, hint, expected):
    assert followed(hint, context(*command.split())) == expected


@pytest.mark.parametrize(
    "hint",
    [
        "",
        "qwen35 ask --help",
        "qwen35 chat --model demo --session x",
        "pip install --force-reinstall --no-deps torch",
        "iconv -f LATIN1 -t UTF-8 converts the common other encoding",
        "did you mean ./-o.txt?",
        "the names are x-y, a--b; or none",
    ],
)
def test_what_is_for_other_programs_stays(hint):
    assert followed(hint, context("ls" if "iconv" not in hint else "chat")) == hint


def test_errors_and_warnings_have_such_hints(capsys):
    terminal = Terminal()
    terminal.error("no", NO_GPU)
    terminal.context = context("ls")
    terminal.error("no", NO_GPU)
    terminal.context = context("tune")
    terminal.warn("no", NO_GPU)
    assert capsys.readouterr().err.splitlines() == [
        *("error: no", f"hint: {NO_GPU}"),
        "error: no",
        *("warning: no", "hint: qwen35 tune demo to look around"),
    ]
