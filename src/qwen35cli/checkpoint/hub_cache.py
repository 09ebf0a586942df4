"""What the shared Hugging Face cache holds of models that run here; damaged or half there too.

Free of torch.
"""

import os
import stat
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from qwen35cli.errors import ModelError
from qwen35cli.model.siblings import SIBLINGS

from . import verified
from .glance import Glance, glance
from .hub import Repo

PREFIX = "models--"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A revision of a repository in the cache, or (commit None) what no revision links to."""

    repo: str  # owner/name
    commit: str | None
    folder: Path
    blobs: Mapping[Path, int]  # bytes by file; one may be of several snapshots
    used: datetime
    seen: Glance
    is_verified: bool = False

    @property
    def nbytes(self) -> int:
        return sum(self.blobs.values())


def snapshots(cache: Path) -> list[Snapshot]:
    """The dense Qwen3.5 checkpoints in the cache, whole or not, and unfinished downloads of them.

    Raises:
        OSError: the cache cannot be read.
    """
    try:
        with os.scandir(cache) as found:
            repos = sorted(
                Path(each) for each in found if each.name.startswith(PREFIX) and each.is_dir()
            )
    except FileNotFoundError:
        return []
    return [snapshot for repo in repos for snapshot in _of_repo(repo)]


def _of_repo(folder: Path) -> list[Snapshot]:
    repo = folder.name.removeprefix(PREFIX).replace("--", "/")
    known = Repo(repo, folder.parent)
    ours: list[Snapshot] = []
    linked: set[Path] = set()
    is_foreign = False
    for path in filter(Path.is_dir, entries(folder / "snapshots")):
        held = held_by(path)
        linked |= held.links
        seen = glance(path)
        is_ours = repo in SIBLINGS or known.verified(path.name).exists()
        if seen is None or not (seen.is_certain or is_ours):
            is_foreign = True
            continue
        if held.fault:
            seen = replace(seen, fault=held.fault)
        try:
            verified.check(known, path.name)
        except ModelError as error:
            seen = replace(seen, fault=error.message)
        sound = not seen.fault and verified.is_verified(known, path.name)
        used = _used(path, held.blobs)
        ours.append(Snapshot(repo, path.name, path, held.blobs, used, seen, sound))
    is_pulled = known.verified("").parent.is_dir() and not is_foreign
    if (ours or repo in SIBLINGS or is_pulled) and (left := left_over(folder, linked)):
        seen = Glance(None, "", "files of a download that was not finished")
        ours.append(Snapshot(repo, None, folder, left, _used(folder, left), seen))
    return ours


def entries(folder: Path) -> list[Path]:
    """What is in a folder, which may be absent."""
    try:
        with os.scandir(folder) as found:
            return sorted(Path(each) for each in found)
    except (FileNotFoundError, NotADirectoryError):
        return []


@dataclass(frozen=True, slots=True)
class Held:
    """What a snapshot has."""

    blobs: Mapping[Path, int]  # where the bytes really are
    links: frozenset[Path]  # what its files link to
    fault: str


def held_by(snapshot: Path) -> Held:
    """The files of a snapshot, which may be links into its repository and the shared blobs."""
    repo = Path(os.path.realpath(snapshot.parent.parent))
    blobs: dict[Path, int] = {}
    links: set[Path] = set()
    broken, stray = [], []
    for path in sorted(snapshot.glob("**/*")):
        if path.is_dir():
            continue
        if path.is_symlink():
            links.add(Path(os.path.normpath(path.parent / path.readlink())))
        try:
            real = Path(os.path.realpath(path, strict=True))
            nbytes = real.stat().st_size
        except OSError:
            broken.append(path.name)
            continue
        if real.is_relative_to(repo) or real.is_relative_to(repo.parent / "blobs"):
            blobs[real] = nbytes
        else:
            stray.append(f"{path.name} links to {real}, outside the cache")
    are = "file is" if len(broken) == 1 else "files are"
    missing = [f"{len(broken)} {are} missing ({broken[0]})"] if broken else []
    return Held(blobs, frozenset(links), "".join((missing + stray)[:1]))


def left_over(folder: Path, linked: Collection[Path]) -> dict[Path, int]:
    """The blobs that no snapshot links to."""
    found = {}
    for path in entries(folder / "blobs"):
        with suppress(FileNotFoundError):  # a download ends just now
            if path not in linked and not stat.S_ISDIR((status := path.lstat()).st_mode):
                found[path] = status.st_size
    return found


def _used(folder: Path, blobs: Mapping[Path, int]) -> datetime:
    """When the newest of the files was written."""
    times = [0.0]
    for path in blobs or [folder]:
        try:
            times.append(path.stat().st_mtime)
        except OSError:
            continue
    return datetime.fromtimestamp(max(times), UTC)
