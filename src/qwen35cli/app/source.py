"""Where a checkpoint is: `demo`, a folder, or a Hub id in the local cache."""

import importlib.resources
import re
from dataclasses import dataclass
from pathlib import Path

from qwen35cli.checkpoint.hub import find_in_cache
from qwen35cli.errors import ModelError

DEMO = "demo"


@dataclass(frozen=True, slots=True)
class Source:
    """A checkpoint on disk, and the name the user knows it by."""

    name: str
    folder: Path
    revision: str | None


def resolve(name: str, revision: str | None = None) -> Source:
    """The checkpoint called `name`: `demo`, a folder, or a Hub id in the local cache.

    Raises:
        ModelError: it is none of these, or not on this machine.
    """
    if name == DEMO:
        return Source(DEMO, Path(str(importlib.resources.files("qwen35cli"))) / "demo", None)
    folder = Path(name).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ModelError(f"there is no config.json in {name}", "--model demo")
        return Source(name, folder, None)
    if re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", name):
        found = find_in_cache(name, revision)
        return Source(name, found, found.name)
    raise ModelError(
        f"there is no model {name!r}: neither `demo`, nor a folder, nor a Hub id owner/name",
        "--model demo, --model ./folder, or --model Qwen/Qwen3.5-4B",
    )
