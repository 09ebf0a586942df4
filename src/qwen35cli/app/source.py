"""Where a checkpoint is: `demo`, a folder, or a Hub id in the local cache."""

import importlib.resources
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from qwen35cli.checkpoint.hub import find_in_cache
from qwen35cli.checkpoint.names import CONFIG
from qwen35cli.checkpoint.pinned import DEFAULT_REPO
from qwen35cli.errors import ModelError, UsageError

DEMO = "demo"
GGUF: Final = ".gguf"
WEIGHTS: Final = (GGUF, ".safetensors")
ADAPTER: Final = "adapter_config.json"
ONLY_SAFETENSORS: Final = (
    "llama.cpp reads those; here a model is a folder of safetensors with its config.json"
)
INSTEAD: Final = f"--model {DEFAULT_REPO}"


@dataclass(frozen=True, slots=True)
class Source:
    """A checkpoint on disk, and the name the user knows it by."""

    name: str
    folder: Path
    revision: str | None

    @property
    def lasting_name(self) -> str:
        """What names it from whatever current folder: of a folder, the whole path."""
        if self.revision is not None or self.name == DEMO:
            return self.name
        return str(self.folder.resolve())


def is_hub_id(name: str) -> bool:
    """Whether a name has the form owner/name, as those of repositories on the Hub."""
    return re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", name) is not None


def expanded(path: str | Path) -> Path:
    """A path with `~/` expanded; the `~` of nobody is a name like any other."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def local_folder(name: str) -> Path | None:
    """The folder that `name` is the path of; None: there is none.

    Raises:
        ModelError: it is the path of a file, or may not be looked into.
    """
    folder = expanded(name)
    try:
        if _may_be_a_file(name) and folder.is_file():
            raise _no_folder(name, folder)
        if not (name and folder.is_dir()):
            return None
        (folder / CONFIG).is_file()  # raises where that cannot be told
        return folder
    except PermissionError:
        raise ModelError(f"{name} cannot be read: permission denied") from None
    except (OSError, ValueError):  # it cannot be a name: too long, or with a zero character
        return None


def _may_be_a_file(name: str) -> bool:
    """Whether a name is rather a path of a file than a size or a Hub id."""
    return name.lower().endswith(WEIGHTS) or ("/" in name and not is_hub_id(name))


def is_here(name: str) -> bool:
    """Whether `name` is `demo` or a folder, and so means nothing on the Hub.

    Raises:
        ModelError: as `local_folder`.
    """
    return name == DEMO or local_folder(name) is not None


def resolve(name: str, revision: str | None = None) -> Source:
    """The checkpoint called `name`: `demo`, a folder, or a Hub id in the local cache.

    Raises:
        UsageError: a revision is given of what has none.
        NotInCache: it is a Hub id that is not on this machine, or not whole.
        ModelError: it is none of these, or has changed since it was verified.
    """
    check_revision(name, revision)
    if name == DEMO:
        return Source(DEMO, Path(str(importlib.resources.files("qwen35cli"))) / "demo", None)
    folder = local_folder(name)
    if folder is not None:
        if not (folder / CONFIG).is_file():
            raise _no_checkpoint(name, folder)
        return Source(name, folder, None)
    if is_hub_id(name):
        found = find_in_cache(name, revision)
        return Source(name, found, found.name)
    raise unknown(name)


def check_revision(name: str, revision: str | None) -> None:
    """Refuse a revision of what has none.

    Raises:
        UsageError: it is given of a part of the program or a folder.
        ModelError: as `local_folder`.
    """
    if revision is not None and is_here(name):
        raise UsageError(
            f"{name} has no revisions: --revision {revision} is for a Hub id",
            "leave out --revision",
        )


def _no_folder(name: str, file: Path) -> ModelError:
    """The refusal of a file."""
    if file.suffix.lower() == GGUF:
        return ModelError(f"{name} is a GGUF file: {ONLY_SAFETENSORS}", INSTEAD)
    here = (file.parent / CONFIG).is_file()
    parent = f"--model {shlex.quote(str(file.parent))}" if here else INSTEAD
    return ModelError(f"{name} is a file: a model is the folder that it lies in", parent)


def _no_checkpoint(name: str, folder: Path) -> ModelError:
    """The refusal of a folder without a config."""
    message = f"there is no {CONFIG} in {name}"
    if (folder / ADAPTER).is_file():
        return ModelError(
            f"{message}: it is a LoRA adapter, to be merged into its model first (peft does it)",
            INSTEAD,
        )
    if next(folder.glob(f"*{GGUF}"), None) is not None:
        return ModelError(f"{message}, but GGUF files: {ONLY_SAFETENSORS}", INSTEAD)
    return ModelError(message, "--model demo")


def unknown(name: str) -> ModelError:
    """The refusal of what is no name of a model."""
    from .vram import sibling  # late: it needs this module

    meant = sibling(name)
    return ModelError(
        f"there is no model {name!r}: neither `demo`, nor a folder, nor a Hub id owner/name",
        f"did you mean {meant}?" if meant else "demo, ./folder, or Qwen/Qwen3.5-4B",
    )
