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


def is_hub_id(name: str) -> bool:
    """Whether a name has the form owner/name, as those of repositories on the Hub."""
    return re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", name) is not None


def resolve(name: str, revision: str | None = None) -> Source:
    """The checkpoint called `name`: `demo`, a folder, or a Hub id in the local cache.

    Raises:
        NotInCache: it is a Hub id that is not on this machine, or not whole.
        ModelError: it is none of these, or has changed since it was verified.
    """
    if name == DEMO:
        return Source(DEMO, Path(str(importlib.resources.files("qwen35cli"))) / "demo", None)
    folder = Path(name).expanduser()
    if name and folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ModelError(f"there is no config.json in {name}", "--model demo")
        return Source(name, folder, None)
    if is_hub_id(name):
        found = find_in_cache(name, revision)
        return Source(name, found, found.name)
    raise unknown(name)


def unknown(name: str) -> ModelError:
    """The refusal of what is no name of a model."""
    from .vram import sibling  # late: it needs this module

    meant = sibling(name)
    return ModelError(
        f"there is no model {name!r}: neither `demo`, nor a folder, nor a Hub id owner/name",
        f"did you mean {meant}?" if meant else "demo, ./folder, or Qwen/Qwen3.5-4B",
    )
