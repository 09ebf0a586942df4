"""Sizes, ages and foreign text, as they may stand in a line."""

from datetime import datetime
from pathlib import Path

from qwen35cli.app.units import counted as counted
from qwen35cli.app.units import size as size
from qwen35cli.text.sanitize import sanitize

AGES = ((60, "min"), (3600, "h"), (86400, "d"))  # seconds, and what they are called
OLD_S = 30 * 86400  # from here on a date says more


def ago(then: datetime, now: datetime) -> str:
    """How long ago that was, as one says it; the date where that is long."""
    seconds = (now - then).total_seconds()
    if not -AGES[0][0] < seconds < OLD_S:
        return f"{then.astimezone():%Y-%m-%d}"
    if seconds < AGES[0][0]:
        return "just now"
    unit, name = next((unit, name) for unit, name in reversed(AGES) if seconds >= unit)
    return f"{int(seconds // unit)} {name} ago"


def in_line(text: str) -> str:
    """Text of others as it may stand in a line."""
    return " ".join(sanitize(text).split())


def home(path: Path) -> str:
    """A path for people, with `~` for the home folder."""
    try:
        return in_line(f"~/{path.relative_to(Path.home())}")
    except (ValueError, RuntimeError):
        return in_line(str(path))
