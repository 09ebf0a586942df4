"""A Hugging Face cache as its tools leave it, filled from folders."""

import hashlib
import os
from pathlib import Path

ONE, TWO = "a" * 40, "b" * 40  # commits


def add(cache: Path, repo: str, files: dict[str, bytes], commit: str = ONE, ref: str = "") -> Path:
    """Put a snapshot with these files into the cache; its folder."""
    folder = cache / f"models--{repo.replace('/', '--')}"
    snapshot = folder / "snapshots" / commit
    for name in ("blobs", "refs", f"snapshots/{commit}"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        blob = folder / "blobs" / hashlib.sha256(data).hexdigest()
        blob.write_bytes(data)
        (snapshot / name).symlink_to(os.path.relpath(blob, snapshot))
    if ref:
        (folder / "refs" / ref).write_text(commit)
    return snapshot


def contents(folder: Path) -> dict[str, bytes]:
    """The files of a folder."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def bytes_on_disk(folder: Path) -> int:
    """Of all files in a folder but locks, links not followed."""
    return sum(
        path.stat().st_size
        for path in folder.rglob("*")
        if path.is_file() and not path.is_symlink() and ".locks" not in path.parts
    )
