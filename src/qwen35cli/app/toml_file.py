"""A TOML file that a user wrote: read within bounds, and what is wrong with it in one line."""

import re
import tomllib
from pathlib import Path
from typing import Any, Final

from qwen35cli.errors import UsageError

from .private_files import content, reason

MOST_BYTES: Final = 2**20


def read_toml(path: Path, hint: str) -> tuple[str, dict[str, Any]]:
    """The text of a file and what it says; `hint` is how such a file is written.

    Raises:
        FileNotFoundError: it is not there.
        UsageError: it cannot be read, or is no TOML.
    """
    try:
        text = content(path, MOST_BYTES).decode("utf-8-sig").replace("\r\n", "\n")
    except FileNotFoundError:
        raise
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise UsageError(f"{path}, line {line}: it is not UTF-8", "save it as UTF-8") from None
    except (OSError, ValueError) as error:
        unread = f"{path} cannot be read: {reason(error)}"
        raise UsageError(unread, "it takes a file of at most 1 MiB that you may read") from None
    try:
        return text, tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        message, _, at = str(error).partition(" (at ")
        known = re.match(r"line (\d+)", at)
        line = int(known[1]) if known else text.rstrip("\n").count("\n") + 1
        raise UsageError(f"{path}, line {line}: {message[:1].lower()}{message[1:]}", hint) from None
    except (RecursionError, ValueError):  # beyond what Python reads
        raise UsageError(f"{path} cannot be read: a value is too long or too deep", hint) from None
