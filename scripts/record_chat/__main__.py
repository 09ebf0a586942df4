"""Record a chat with the demo: `python -m scripts.record_chat [--check]` writes docs/chat.svg.

The program runs in a pseudo-terminal, the lines of SESSION are typed into it, and what then stands
on the screen is drawn. Needs the test extra, and nothing of the home folder is read or written.
`--check` writes nothing, and compares what was typed and answered.
"""

import argparse
import difflib
import os
import sys
import tempfile
from pathlib import Path

from qwen35cli.cli.editor import PLACEHOLDER, PROMPT

from .drawing import rows, spoken, svg
from .terminal import Terminal

ROOT = Path(__file__).parents[2]
PICTURE = ROOT / "docs/chat.svg"
COLUMNS, LINES = 96, 80  # as wide as the line of statistics; more lines than are needed
SHELL = "$"
COMMAND = "qwen35 chat --model demo --seed 1"
SESSION = (
    "What can you do?",
    "/think show",
    "What is 345 + 78?",
    "What is in ./docs/circles.png?",
    "/regen",
    "Which colour are they? /no_think",
    "/exit",
)


def record() -> str:
    """The picture of a session that was just had."""
    with tempfile.TemporaryDirectory() as home:
        terminal = Terminal(
            ["sh", "-i"],
            folder=ROOT,
            environment=_environment(home),
            columns=COLUMNS,
            lines=LINES,
        )
        try:
            _talk(terminal)
        finally:
            terminal.close()
    *shown, _ = rows(terminal.screen)  # but the shell's last prompt
    if not shown[0].plain.startswith(SHELL):
        raise RuntimeError(f"the session is longer than {LINES} lines")
    return svg(shown, COLUMNS, "qwen35 chat")


def _talk(terminal: Terminal) -> None:
    def at_the_shell() -> bool:
        return terminal.line == SHELL

    def at_an_empty_line() -> bool:
        return terminal.line == PROMPT + PLACEHOLDER

    terminal.until(at_the_shell)
    terminal.enter(COMMAND)
    for line in SESSION:
        terminal.until(at_an_empty_line)
        terminal.enter(line)
    terminal.until(at_the_shell)


def _environment(home: str) -> dict[str, str]:
    here = Path(sys.executable).parent  # where the command is that belongs to this Python
    return {
        "PATH": os.pathsep.join([str(here), os.environ["PATH"]]),
        "HOME": home,
        "LANG": "C.UTF-8",
        "TERM": "xterm-256color",
        "PS1": f"{SHELL} ",
        "OMP_NUM_THREADS": "1",  # else two wait for each other where other programs run
    }


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m scripts.record_chat", description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare with the picture there is")
    check = parser.parse_args().check
    picture = record()
    if not check:
        PICTURE.write_text(picture, encoding="utf-8")
        return 0
    old, new = spoken(PICTURE.read_text(encoding="utf-8")), spoken(picture)
    for line in difflib.unified_diff(old, new, PICTURE.name, "now", lineterm=""):
        print(line)
    return int(old != new)


if __name__ == "__main__":
    sys.exit(main())
