"""A checkpoint folder at a glance: its config, its format, whether its files have their sizes.

Free of torch, and of trust: what cannot be read is said, not raised.
"""

import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qwen35cli.errors import ModelError
from qwen35cli.model.config import ARCHITECTURE, Config
from qwen35cli.quant.plan import described

from .names import CONFIG, INDEX, SHARD_NAME, SINGLE
from .raw_header import raw_header
from .strict_json import parse_object

MAX_JSON_BYTES = 4 * 2**20


@dataclass(frozen=True, slots=True)
class Glance:
    """What was seen of a dense Qwen3.5."""

    config: Config | None  # None: it cannot be used
    format: str  # "" where it is not known
    fault: str = ""  # why it would not run; "" where nothing was seen


def glance(folder: Path) -> Glance | None:
    """Look at a checkpoint folder; None: its config is that of another model.

    Raises:
        OSError, ValueError: there is no config that can be read; what it is stays unknown.
    """
    raw = _object(folder / CONFIG)
    named = raw.get("architectures")
    if not isinstance(named, list) or named[:1] != [ARCHITECTURE]:
        return None
    try:
        config = Config.from_dict(raw)
    except ModelError as error:
        return Glance(None, "", error.message)
    try:
        format: str = described(raw)[0]
    except ModelError as error:
        return Glance(config, "", error.message)
    return Glance(config, format, _weights_fault(folder))


def _weights_fault(folder: Path) -> str:
    """What the sizes of the weight files tell against them."""
    try:
        names = _shards(folder)
    except (OSError, ValueError) as error:
        return _reason(error)
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        return f"{len(missing)} of {len(names)} weight files are missing ({missing[0]})"
    for name in names:
        try:
            raw = raw_header(folder / name)
            described = raw.described
        except (ModelError, OSError, ValueError) as error:
            return f"{name} cannot be used: {_reason(error)}"
        if raw.size != described:
            return f"{name} has {raw.size:,} bytes, its header describes {described:,}"
    return ""


def _shards(folder: Path) -> list[str]:
    """The files that hold the weights. Raises OSError, ValueError."""
    if not (folder / INDEX).exists():
        return [SINGLE]
    assigned = _object(folder / INDEX).get("weight_map")
    if not isinstance(assigned, dict) or not assigned:
        raise ValueError(f"{INDEX} has no weight_map")
    names = {str(name) for name in assigned.values()}
    for name in names:
        if not SHARD_NAME.fullmatch(name):
            raise ValueError(f"{INDEX} names the file {name[:80]!r}")
    return sorted(names)


def _object(path: Path) -> Mapping[str, Any]:
    """The object in a small JSON file. Raises OSError, ValueError."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise ValueError(f"{path.name} is no regular file")
    with path.open("rb") as file:
        text = file.read(MAX_JSON_BYTES + 1)
    if len(text) > MAX_JSON_BYTES:
        raise ValueError(f"{path.name} has more than {MAX_JSON_BYTES:,} bytes")
    try:
        return parse_object(text, path.name)
    except ModelError as error:
        raise ValueError(error.message) from None


def _reason(error: Exception) -> str:
    if isinstance(error, ModelError):
        return error.message
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
