"""What the environment decides. The only reader of `os.environ`, beside Typer for the flags."""

import os
from collections.abc import Mapping
from pathlib import Path

import platformdirs


def wants_color(choice: str, *, is_terminal: bool) -> bool:
    """Whether a stream gets colour, by `--color auto|always|never` and the common variables."""
    if choice != "auto":
        return choice == "always"
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return False
    return is_terminal or bool(os.environ.get("FORCE_COLOR"))


def can_erase() -> bool:
    """Whether the terminal understands more than plain lines."""
    return os.environ.get("TERM") != "dumb"


def history_file() -> Path | None:
    """Where the REPL keeps its lines, or None under `QWEN35_NO_HISTORY`."""
    if os.environ.get("QWEN35_NO_HISTORY"):
        return None
    return Path(platformdirs.user_state_dir("qwen35")) / "history"


def environment() -> Mapping[str, str]:
    """The variables that other programs go by: display, terminal, remote shell."""
    return os.environ


def data_folder() -> Path:
    """Where quantized weights and conversations are kept."""
    return Path(platformdirs.user_data_dir("qwen35"))


def cache_folder() -> Path:
    """Where GPU kernels are kept that were compiled and tuned here, and saved state."""
    return Path(platformdirs.user_cache_dir("qwen35"))
