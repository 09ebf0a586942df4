"""The launches of GPU kernels that `qwen35 tune` measured here: a small file of the user's."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from qwen35cli.checkpoint.strict_json import parse_object
from qwen35cli.checkpoint.whole_file import whole_file
from qwen35cli.errors import ModelError, Qwen35Error

from .private_files import content, disk_errors, reason

if TYPE_CHECKING:
    from qwen35cli.kernels.tuned import Tuned

NAME = "launches.json"
MAX_BYTES = 2**20


def read(folder: Path | None) -> "Tuned":
    """What was measured so far, by architecture; nothing where there is no file.

    Raises:
        Qwen35Error: the file is damaged, or none of ours.
    """
    if folder is None or not (path := folder / NAME).exists():
        return {}
    from qwen35cli.kernels.tuned import checked  # late: it imports torch

    try:
        return checked(parse_object(content(path, MAX_BYTES), "it"))
    except (OSError, ValueError, ModelError) as error:
        raise Qwen35Error(
            f"{path} holds no launches of GPU kernels that can be used: {reason(error)}",
            "qwen35 tune measures them anew; without the file those shipped run",
        ) from None


def write(folder: Path, arch: str, launches: Mapping[str, list[int]], before: "Tuned") -> Path:
    """Put the launches of an architecture over what was there before; the file appears whole.

    Raises:
        Qwen35Error: it cannot be written.
    """
    path = folder / NAME
    table = {name: dict(known) for name, known in before.items()}
    table[arch] = table.get(arch, {}) | dict(launches)
    with disk_errors("write", path):
        folder.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as file:
            file.write(_text(table).encode())
    return path


def _text(table: "Tuned") -> str:
    """JSON with a launch in a line, as the shipped file has it."""
    parts = []
    for arch in sorted(table):
        lines = [f"    {json.dumps(name)}: {table[arch][name]}" for name in sorted(table[arch])]
        parts.append(f"  {json.dumps(arch)}: {{\n" + ",\n".join(lines) + "\n  }")
    return "{\n" + ",\n".join(parts) + "\n}\n"
