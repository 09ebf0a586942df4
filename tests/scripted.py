"""The whole command with a scripted model: `python -m tests.scripted SCRIPT.json ARGUMENTS…`.

SCRIPT.json holds {"turns": [[…], …], "ctx": N, "thinking": false}; see `tests/fakes.py`.
"""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from qwen35cli.__main__ import leave
from qwen35cli.app import load
from qwen35cli.cli import run
from tests import fakes

ROOT = Path(__file__).parents[1]
PATIENCE = 60
NO_SETTINGS = dict.fromkeys(("XDG_CONFIG_HOME", "XDG_CONFIG_DIRS"), os.devnull)


def environment(**more: str) -> dict[str, str]:
    """Variables to run the command with: none of our own, no settings, nothing written at home."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("QWEN35")}
    paths = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
    own = {
        "PYTHONPATH": paths,
        "OMP_NUM_THREADS": "1",
        "QWEN35_NO_HISTORY": "1",
        "QWEN35_NO_SAVE": "1",
    }
    return kept | NO_SETTINGS | own | more


def said_by(folder: Path, text: str, timeout: float | None = None) -> Any:
    """What Python prints as JSON for a script, with nothing that Triton compiled before."""
    script = folder / "script.py"
    script.write_text(text)
    done = subprocess.run(
        [sys.executable, script],
        capture_output=True,
        text=True,
        check=False,
        env=environment(TRITON_CACHE_DIR=str(folder / "cache")),
        timeout=timeout,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def command(
    folder: Path, turns: Sequence[Sequence[str]], *arguments: str, **more: object
) -> list[str]:
    """The command line that runs `qwen35 ARGUMENTS` with this script, kept in `folder`."""
    script = folder / "script.json"
    script.write_text(json.dumps({"turns": turns} | more))
    return [sys.executable, "-m", "tests.scripted", str(script), *arguments]


def offered(line: str, **more: str) -> list[str]:
    """What the whole command offers bash for a line that is not finished."""
    words = {"COMP_WORDS": line, "COMP_CWORD": str(len(line.split(" ")) - 1)}
    done = subprocess.run(
        [sys.executable, "-m", "qwen35cli"],
        env=environment(_QWEN35_COMPLETE="complete_bash", **words, **more),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.stderr == ""
    return done.stdout.split()


def main(script: str, *arguments: str) -> int:
    given = json.loads(Path(script).read_text())
    opened = fakes.fake_opened(ctx=given.get("ctx", 4_096), thinking=given.get("thinking", False))
    load.open_model = lambda options, make: opened
    load.load = lambda opened, **parts: fakes.fake_loaded(opened, given["turns"])
    return run(arguments)


if __name__ == "__main__":
    leave(lambda: main(*sys.argv[1:]))
