"""Finding what is kept on disk, kind by kind. Nothing is opened that is larger than a header."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from qwen35cli.checkpoint import hub_cache
from qwen35cli.checkpoint.glance import glance
from qwen35cli.checkpoint.hub_cache import Snapshot
from qwen35cli.checkpoint.manifest import Manifest, check_manifest, read_manifest
from qwen35cli.checkpoint.raw_header import raw_header
from qwen35cli.checkpoint.strict_json import parse_object
from qwen35cli.errors import ModelError

from . import quantized_folder, tuned
from .items import Item, Places
from .private_files import content, disk_errors, reason, regular_files
from .quantized_folder import FOLDER, PARTIAL
from .sessions import Entry, Store
from .states_folder import WRITING_S, saved_states

MARK = 12  # characters of a commit that tell it from others
HUB = "Hugging Face"


def everything(places: Places) -> Iterator[Item]:
    """All of it.

    Raises:
        Qwen35Error: a folder cannot be read.
    """
    yield from weights(places)
    sessions = Store(places.data / "sessions").listing()
    yield from (_session(entry, places.data / "sessions") for entry in sessions)
    yield from _states(places.cache / "states", sessions)
    with disk_errors("read", places.cache):
        yield from (*_compiled(places.cache), *_leftovers(places), *_history(places.history))


def weights(places: Places) -> list[Item]:
    """Checkpoints and quantized weights, and what was begun of them. Raises: as `everything`."""
    with disk_errors("read", places.hub):
        items = [_checkpoint(snapshot) for snapshot in hub_cache.snapshots(places.hub)]
    with disk_errors("read", places.data / FOLDER):
        return items + _quantized(places.data / FOLDER)


def _checkpoint(snapshot: Snapshot) -> Item:
    seen = snapshot.seen
    if snapshot.commit is None:
        return Item(
            kind="unfinished",
            names=(f"{snapshot.repo}:unfinished",),
            source=HUB,
            path=snapshot.folder,
            nbytes=snapshot.nbytes,
            used=snapshot.used,
            fault=seen.fault,
            snapshot=snapshot,
        )
    short, whole = (f"{snapshot.repo}@{mark}" for mark in (snapshot.commit[:MARK], snapshot.commit))
    return Item(
        kind="checkpoint",
        names=(snapshot.repo, short, whole),
        source=HUB,
        path=snapshot.folder,
        nbytes=snapshot.nbytes,
        used=snapshot.used,
        format=seen.format,
        ctx=seen.config.text.max_context if seen.config else None,
        fault=seen.fault,
        snapshot=snapshot,
    )


def _quantized(folder: Path) -> list[Item]:
    """Folders of weights that were quantized here, whole ones and begun ones."""
    items = []
    for place in _folders(folder):
        for path in _folders(place):
            name = f"{place.name}/{path.name}"
            if found := PARTIAL.fullmatch(path.name):
                pid, target = int(found[2]), path.with_name(found[1])
                alive = quantized_folder.is_alive(pid) and quantized_folder.is_locked(target)
                items.append(_begun(path, name, pid, alive=alive))
            else:
                items.append(_quantized_weights(path, name))
    return items


def _quantized_weights(path: Path, name: str) -> Item:
    config, format, source, fault = None, "", "", ""
    manifest: Manifest | None = None
    try:
        manifest = read_manifest(path)
        format, source = manifest.format, manifest.source.name
        check_manifest(path)
    except ModelError as error:
        fault = error.message
    if seen := glance(path):
        config, fault = seen.config, fault or seen.fault
    own = f"{source}:{path.name}" if manifest else name
    return Item(
        kind="quantized",
        names=(own, name),
        source=source or "unknown",
        format=format,
        ctx=config.text.max_context if config else None,
        path=path,
        nbytes=_size(path),
        used=_used(path),
        fault=fault,
        made_from=Path(manifest.source.folder) if manifest else None,
        pid=quantized_folder.writer(path),
    )


def _begun(path: Path, name: str, pid: int, *, alive: bool) -> Item:
    """What process `pid` let grow beside its place: it still does, or it ended."""
    return Item(
        kind="unfinished",
        names=(name,),
        source="qwen35 quantize",
        path=path,
        nbytes=_size(path),
        used=_used(path),
        fault="" if alive else f"process {pid} ended before it was whole",
        pid=pid if alive else None,
    )


def _session(entry: Entry, folder: Path) -> Item:
    session = entry.session
    turns = session.turns if session else ()
    return Item(
        kind="session",
        names=(session.name, entry.id) if session and session.name else (entry.id,),
        source=session.model if session else "unknown",
        format=session.quant if session else "",
        ctx=turns[-1].context_tokens or None if turns else None,
        path=folder / entry.id,
        nbytes=entry.nbytes,
        used=entry.used,
        fault=entry.fault,
        id=entry.id,
    )


def _states(folder: Path, sessions: Sequence[Entry]) -> list[Item]:
    """Files of saved state, the one used last first."""
    labels = {entry.id: entry.label for entry in sessions}
    items = []
    for state in reversed(saved_states(folder)):
        name = state.path.stem
        format, tokens, fault = "", None, ""
        try:
            raw = raw_header(state.path)
            if raw.described != raw.size:
                raise ValueError(f"{raw.size:,} bytes, its header describes {raw.described:,}")
            format, tokens = str(raw.metadata["quant"]), int(raw.entries["tokens"]["shape"][0])
        except (ModelError, OSError, ValueError, KeyError, TypeError, IndexError) as error:
            fault = str(error)
        label = labels.get(name)
        items.append(
            Item(
                kind="state",
                names=(*((f"state:{label}",) if label else ()), f"state:{name}"),
                source=f"session {label}" if label else "a prompt",
                format=format,
                ctx=tokens,
                path=state.path,
                nbytes=state.nbytes,
                used=state.used,
                fault=fault,
                id=name,
            )
        )
    return items


def _compiled(folder: Path) -> list[Item]:
    """What was compiled for the GPUs here, and measured on them."""
    items = [
        Item(
            kind="kernels",
            names=(f"kernels:{path.name}",),
            source="Triton",
            path=path,
            nbytes=_size(path),
            used=_used(path),
        )
        for path in _folders(folder / "triton")
    ]
    path = folder / tuned.NAME
    if path.is_file():
        fault = ""
        try:
            parse_object(content(path, tuned.MAX_BYTES), path.name)
        except (ModelError, OSError, ValueError) as error:
            fault = reason(error)
        items.append(
            Item(
                kind="launches",
                names=("launches",),
                source="qwen35 tune",
                path=path,
                nbytes=path.stat().st_size,
                used=_used(path),
                fault=fault,
            )
        )
    return items


def _leftovers(places: Places) -> list[Item]:
    """What processes left in the cache folder that ended while they wrote a file."""
    items = []
    for folder in (places.cache / "states", places.cache):
        for path in sorted(regular_files(folder)):
            if found := PARTIAL.fullmatch(path.name):
                name, pid = str(path.relative_to(places.cache)), int(found[2])
                recent = (datetime.now(UTC) - _used(path)).total_seconds() < WRITING_S
                alive = recent and quantized_folder.is_alive(pid)
                item = _begun(path, name, pid, alive=alive)
                items.append(replace(item, source="saved state" if folder.name == "states" else ""))
    return items


def _history(path: Path | None) -> list[Item]:
    if path is None or not path.is_file():
        return []
    size, used = path.stat().st_size, _used(path)
    names = ("history",)
    return [
        Item(kind="history", names=names, source="qwen35 chat", path=path, nbytes=size, used=used)
    ]


def _folders(folder: Path) -> list[Path]:
    """The folders in a folder, which may be absent; no links, no hidden ones."""
    try:
        with os.scandir(folder) as found:
            return sorted(
                Path(each)
                for each in found
                if each.is_dir(follow_symlinks=False) and not each.name.startswith(".")
            )
    except FileNotFoundError:
        return []


def _size(path: Path) -> int:
    """Bytes of a file, or of those in a folder; what goes meanwhile counts as nothing."""
    nbytes = 0
    for each in [path] if path.is_file() else path.rglob("*"):
        try:
            info = each.lstat()
        except FileNotFoundError:
            continue
        nbytes += info.st_size if each.is_file() else 0
    return nbytes


def _used(path: Path) -> datetime:
    try:
        return datetime.fromtimestamp(path.stat().st_mtime, UTC)
    except FileNotFoundError:
        return datetime.fromtimestamp(0, UTC)
