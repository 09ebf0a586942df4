"""What a folder of quantized weights says of itself: where it came from, and what is in each file.

The manifest is the last file to be written; a folder without one was never finished.
"""

import errno
import hashlib
import json
import os
import shlex
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from qwen35cli.errors import ModelError
from qwen35cli.quant.plan import DEFAULT_GROUP, GROUPS, Plan, recipe

from .names import CONFIG, INDEX, SIDE_FILES, SINGLE
from .strict_json import parse_object
from .whole_file import Entry, write_json

MANIFEST = "manifest.json"
VERSION = 1
MAX_BYTES = 2**20

Rules = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Origin:
    """The checkpoint that was quantized: enough to see that it changed since."""

    name: str  # that a command may be given, in any current folder
    folder: str
    revision: str | None
    files: Mapping[str, tuple[int, int]]  # bytes, and time of the last change in ns

    @classmethod
    def of(cls, folder: Path, name: str, revision: str | None) -> Self:
        """The checkpoint in `folder`, as it is now. What disappears meanwhile is left out."""
        folder = folder.resolve()
        shards = [path.name for path in folder.glob("*.safetensors")]
        files = {}
        for file in sorted({CONFIG, INDEX, SINGLE, *shards, *side_files(folder)}):
            try:
                status = (folder / file).stat()
            except OSError:
                continue
            files[file] = (status.st_size, status.st_mtime_ns)
        return cls(name, str(folder), revision, files)


@dataclass(frozen=True, slots=True)
class Manifest:
    """The content of `manifest.json`."""

    tool: str
    format: str
    rules: Rules  # the plan: globs and schemes, first match first
    source: Origin
    files: Mapping[str, Entry]

    def is_of(self, source: Origin, plan: Plan) -> bool:
        """Whether quantizing `source` by `plan` would give this folder again."""
        same = (self.source.folder, self.source.revision, dict(self.source.files))
        return same == (source.folder, source.revision, dict(source.files)) and (
            (self.format, self.rules) == (plan.format, rules_of(plan))
        )


def rules_of(plan: Plan) -> Rules:
    """The plan as a manifest keeps it."""
    return tuple((glob, str(scheme)) for glob, scheme in plan.rules)


def side_files(folder: Path) -> list[str]:
    """Names of the files beside the weights that belong to a checkpoint: tokenizer, licence, …"""
    return sorted(
        path.name
        for path in folder.iterdir()
        if any(path.match(glob) for glob in SIDE_FILES) and path.is_file()
    )


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Complete `folder`: write its manifest to the disk."""
    source = manifest.source
    content = {
        "version": VERSION,
        "tool": manifest.tool,
        "format": manifest.format,
        "plan": [list(rule) for rule in manifest.rules],
        "source": {
            "name": source.name,
            "folder": source.folder,
            "revision": source.revision,
            "files": {name: list(status) for name, status in source.files.items()},
        },
        "files": {
            name: {"size": entry.size, "sha256": entry.sha256}
            for name, entry in sorted(manifest.files.items())
        },
    }
    write_json(folder / MANIFEST, content)


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a quantized folder.

    Raises:
        ModelError: there is none, it is damaged, or of another version.
    """
    path = folder / MANIFEST
    try:
        text = _text(path)
    except FileNotFoundError:
        raise ModelError(
            f"{folder} holds quantized weights and no {MANIFEST}: they are not complete",
            "qwen35 quantize makes them again from the bf16 checkpoint",
        ) from None
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}", "check the disk") from None
    damaged = "qwen35 quantize makes the folder again from the bf16 checkpoint"
    try:
        raw = parse_object(text, str(path))
    except ModelError as error:
        raise ModelError(error.message, damaged) from None
    if raw.get("version") != VERSION:
        source = raw.get("source")
        name = source.get("name") if isinstance(source, dict) else None
        raise ModelError(
            f"{path} has the version {str(raw.get('version'))[:20]}, known is {VERSION}",
            _command(_text_or_none(name), _text_or_none(raw.get("format")), folder),
        )
    try:
        return _parsed(raw)
    except (KeyError, TypeError, ValueError, AttributeError):
        raise ModelError(f"{path} is damaged", damaged) from None


def check_manifest(folder: Path) -> Manifest:
    """The manifest of a quantized folder, whose files all have the sizes that it states.

    Raises:
        ModelError: see `read_manifest`; or a file is missing, or has another size.
    """
    manifest = read_manifest(folder)
    for name, entry in manifest.files.items():
        try:
            size = (folder / name).stat().st_size
        except OSError as error:
            raise ModelError(
                f"{folder / name} cannot be read: {error.strerror}", again(manifest, folder)
            ) from None
        if size != entry.size:
            raise ModelError(
                f"{folder / name} has {size:,} bytes, {MANIFEST} says {entry.size:,}",
                again(manifest, folder),
            )
    return manifest


def sha256_of(path: Path) -> str:
    """The hash of a file's content, in hexadecimal."""
    with path.open("rb", buffering=0) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _text(path: Path) -> bytes:
    """What a manifest begins with. Raises OSError; also where it is a pipe, which would block."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(errno.EINVAL, "it is no regular file")
    with path.open("rb") as file:
        return file.read(MAX_BYTES)


def again(manifest: Manifest, folder: Path) -> str:
    """The command that makes a folder again; FILE is its plan file, of which no name is kept."""
    source, format, rules = manifest.source, manifest.format, manifest.rules
    flags = ["--revision", source.revision] if source.revision else []
    for group in GROUPS.get(format, (None,)):
        own = rules_of(recipe(format, group))
        if rules[-len(own) :] == own:
            flags += ["--group", str(group)] if group != DEFAULT_GROUP.get(format) else []
            flags += ["--plan-file", "FILE"] if rules != own else []
    return _command(source.name, format, folder, flags)


def _command(name: str | None, format: str | None, folder: Path, flags: Sequence[str] = ()) -> str:
    """The call of quantize; what is not known is its default, or to be filled in."""
    named = ("qwen35", "quantize", name or "MODEL", "--format", format or "int4")
    return shlex.join([*named, *flags, "-o", str(folder), "--force"])


def _text_or_none(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _parsed(raw: Mapping[str, Any]) -> Manifest:
    source = raw["source"]
    files = {name: Entry(int(e["size"]), str(e["sha256"])) for name, e in raw["files"].items()}
    for name in files:
        os.fsencode(name)  # raises ValueError where no file can be called so
        if name in ("", "..") or Path(name).name != name or "\0" in name:
            raise ValueError("no file, or one outside of the folder")
    if raw["format"] not in ("int8", *GROUPS):
        raise ValueError("a format that there is not")
    if source["revision"] is not None and not isinstance(source["revision"], str):
        raise ValueError("a revision that is none")
    origin = Origin(
        str(source["name"]),
        str(source["folder"]),
        source["revision"],
        {name: (int(size), int(changed)) for name, (size, changed) in source["files"].items()},
    )
    rules = tuple((str(glob), str(scheme)) for glob, scheme in raw["plan"])
    return Manifest(str(raw["tool"]), str(raw["format"]), rules, origin, files)


def is_manifest_of_ours(folder: Path) -> bool:
    """Whether `qwen35 quantize` wrote this folder, in whatever state it is now."""
    try:
        raw = json.loads(_text(folder / MANIFEST))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(raw, dict) and str(raw.get("tool", "")).startswith("qwen35cli ")
