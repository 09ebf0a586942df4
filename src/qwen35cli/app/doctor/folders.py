"""The section on folders: where things are, how much there is, and whether more can be."""

import os
import shlex
import shutil
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from qwen35cli.app.estimate import size
from qwen35cli.app.private_files import existing

from .patience import within
from .report import Finding, Places, Section

COUNTING: Final = 1.5  # seconds for the files of a folder
LITTLE: Final = 2**28  # bytes on a disk that are as good as none
VARIABLES: Final = {  # what names another place
    "data": "XDG_DATA_HOME",
    "cache": "XDG_CACHE_HOME",
    "state": "XDG_STATE_HOME",
    "hub": "HF_HUB_CACHE",
}


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder, and the disk it is or would be on."""

    path: Path
    exists: bool
    writable: bool
    nbytes: int
    whole: bool  # whether everything in it was counted
    disk: int  # its number, to tell one from another
    free: int
    problem: str | None = None  # why it cannot be read

    @property
    def text(self) -> str:
        """What there is, in a line."""
        if self.problem is not None:
            return self.problem
        held = "not there yet"
        if self.exists:
            held = ("" if self.whole else "more than ") + size(self.nbytes)
        text = f"{held}, {size(self.free)} free"
        return text if self.writable else text + ", cannot be written"


def section(places: Places) -> Section:
    """Every folder that something is kept in."""
    paths = {name: getattr(places, name) for name in VARIABLES}
    found = {name: folder(path) for name, path in paths.items()}
    lines, problems = [], []
    facts: dict[str, Any] = {}
    for name, each in found.items():
        said = "the disk does not answer" if each is None else each.text
        lines.append(("Hugging Face" if name == "hub" else name, f"{paths[name]}: {said}"))
        facts[name] = _facts(paths[name], each)
        problems += _problem(name, paths[name], each)
    problems += _full({name: each for name, each in found.items() if each is not None})
    there = "" if places.config.is_file() else " (there is none)"
    lines.append(("configuration", f"{places.config}{there}"))
    facts["config"] = {"path": str(places.config), "exists": places.config.is_file()}
    return Section("folders", lines, facts, problems)


def _facts(path: Path, found: Folder | None) -> dict[str, Any]:
    if found is None:
        return {"path": str(path), "problem": "does not answer"}
    return {
        "path": str(path),
        "exists": found.exists,
        "writable": found.writable,
        "bytes": found.nbytes,
        "counted_whole": found.whole,
        "free_bytes": found.free,
        "problem": found.problem,
    }


def _problem(name: str, path: Path, found: Folder | None) -> list[Finding]:
    """Why a folder is of no use."""
    elsewhere = f"export {VARIABLES[name]}=DIR, a folder that can be written"
    if found is None:
        return [Finding(f"{path} does not answer", elsewhere)]
    if found.problem is not None:
        return [Finding(f"{path} {found.problem}", elsewhere)]
    if found.writable:
        return []
    if found.exists and not _is_read_only(path):
        elsewhere = f'sudo chown -R "$USER" {shlex.quote(str(path))}, or: {elsewhere}'
    return [Finding(f"{path} cannot be written", elsewhere)]


def _is_read_only(path: Path) -> bool:
    """Whether its whole disk is."""
    return hasattr(os, "statvfs") and bool(os.statvfs(path).f_flag & os.ST_RDONLY)


def _full(folders: Mapping[str, Folder]) -> list[Finding]:
    """A problem for every disk that has as good as no room, whatever is on it."""
    disks: dict[int, dict[str, Folder]] = {}
    for name, each in folders.items():
        if each.writable and each.free < LITTLE:
            disks.setdefault(each.disk, {})[name] = each
    problems = []
    for on in disks.values():
        free = min(each.free for each in on.values())
        where = ", ".join(str(each.path) for each in on.values())
        mend = "qwen35 ls shows what takes room, qwen35 rm NAME frees it"
        if "cache" in on and on["cache"].nbytes:
            mend = f"qwen35 rm --cache; {mend}"
        problems.append(Finding(f"{size(free)} are left on the disk of {where}", mend))
    return problems


def folder(path: Path) -> Folder | None:
    """How large a folder is. None: its disk does not answer."""
    return within(2 * COUNTING, lambda: _folder(path))


def _folder(path: Path) -> Folder:
    place, problem = existing(path), None
    if path.exists() and not path.is_dir():
        problem = "is no folder"
    elif path.exists() and not os.access(path, os.R_OK | os.X_OK):
        problem = "cannot be read"
    elif not place.is_dir():
        problem = f"lies below {place}, which is no folder"
    nbytes, whole = (0, True) if problem or not path.exists() else _count(path)
    return Folder(
        path=path,
        exists=path.exists(),
        writable=problem is None and os.access(place, os.W_OK | os.X_OK),
        nbytes=nbytes,
        whole=whole,
        disk=place.stat().st_dev,
        free=shutil.disk_usage(place).free,
        problem=problem,
    )


def _count(path: Path) -> tuple[int, bool]:
    """Bytes of all files below `path`, links not followed, as many as there is time for."""
    end, total, left = time.monotonic() + COUNTING, 0, [str(path)]
    while left:
        if time.monotonic() > end:
            return total, False
        with suppress(OSError), os.scandir(left.pop()) as entries:  # gone, or not ours to read
            for entry in entries:
                with suppress(OSError):
                    if entry.is_dir(follow_symlinks=False):
                        left.append(entry.path)
                    elif entry.is_file(follow_symlinks=False):
                        total += entry.stat(follow_symlinks=False).st_size
    return total, True
