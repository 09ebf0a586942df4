"""What the environment decides. The only reader of `os.environ`, beside Typer for the flags."""

import os
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

import platformdirs

from qwen35cli.errors import Qwen35Error

NO_FILE = Path(os.devnull)
DUMB = ("dumb", "unknown")  # terminals that know plain lines only
VARIABLES = ("QWEN35_CONFIG", "QWEN35_NO_HISTORY")  # that no flag, or each one, has
SPINS = ("GOMP_SPINCOUNT", "4000")  # that `wait_briefly` sets


def wants_color(choice: str, *, is_terminal: bool) -> bool:
    """Whether a stream gets colour, by `--color auto|always|never` and the common variables."""
    if choice != "auto":
        return choice == "always"
    if os.environ.get("NO_COLOR") or not can_erase():
        return False
    return is_terminal or bool(os.environ.get("FORCE_COLOR"))


def can_erase() -> bool:
    """Whether the terminal understands more than plain lines."""
    return os.environ.get("TERM") not in DUMB


def wraps_anew() -> bool:
    """Whether what is on the screen is wrapped again in a narrower window; xterm cuts it."""
    return "XTERM_VERSION" not in os.environ or "TMUX" in os.environ


def is_completing() -> bool:
    """Whether a shell asks what could be typed next."""
    return "_QWEN35_COMPLETE" in os.environ


def join_completed() -> None:
    """Let the words that bash took apart at a `=` be a flag and its value, as Typer knows them."""
    words = os.environ.get("COMP_WORDS", "").split("\n")
    at = int(os.environ.get("COMP_CWORD") or 0)
    signs = {
        number
        for number, (flag, word) in enumerate(pairwise(words), 1)
        if word == "=" and flag.startswith("--") and number != at
    }
    left = [word for number, word in enumerate(words) if number not in signs]
    os.environ["COMP_WORDS"] = "\n".join(left)
    os.environ["COMP_CWORD"] = str(at - sum(number < at for number in signs))


def wait_briefly() -> None:
    """Let threads that wait for each other sleep after some dozen microseconds, not milliseconds.

    Where another program keeps a core busy, a thread of ours that it displaced could go on at once
    on a core where another one waits, awake, for it. To be called before torch loads OpenMP; who
    has set how threads wait keeps that (GNU libgomp: GOMP_SPINCOUNT, OMP_WAIT_POLICY).
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault(*SPINS)


def history_file() -> Path | None:
    """Where the REPL keeps its lines, or None under `QWEN35_NO_HISTORY`."""
    if os.environ.get("QWEN35_NO_HISTORY"):
        return None
    return Path(platformdirs.user_state_dir("qwen35")) / "history"


def environment() -> Mapping[str, str]:
    """The variables as the user set them: display, terminal, remote shell."""
    return {name: value for name, value in os.environ.items() if (name, value) != SPINS}


def check_folder() -> None:
    """Refuse to begin in a folder that was removed: MKL ends the process there, without a reason.

    Raises:
        Qwen35Error: so it is.
    """
    try:
        Path.cwd()
    except FileNotFoundError:
        raise Qwen35Error("the current folder was removed", "cd to one that is there") from None


def data_folder() -> Path:
    """Where quantized weights and conversations are kept."""
    return Path(platformdirs.user_data_dir("qwen35"))


def cache_folder() -> Path:
    """Where GPU kernels are kept that were compiled and tuned here, and saved state."""
    return Path(platformdirs.user_cache_dir("qwen35"))


def named_config_file() -> Path | None:
    """The file that a variable names in place of the user's own."""
    name = os.environ.get("QWEN35_CONFIG")
    return Path(name) if name else None


def system_config_files() -> list[Path]:
    """Settings for all users of this machine, the weakest first."""
    folders = platformdirs.site_config_dir("qwen35", multipath=True).split(os.pathsep)
    return [Path(folder) / "config.toml" for folder in reversed(folders)]


def user_config_file() -> Path:
    """The user's own settings."""
    return Path(platformdirs.user_config_dir("qwen35")) / "config.toml"
