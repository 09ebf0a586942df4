"""What was verified of a snapshot in the cache: each file's hash, and its state at that time.

So that a start needs to look at sizes and times only. A file whose time is 0 was found wrong.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from qwen35cli.errors import ModelError

from .folder import read_json
from .hub import ETAG, HubFile, Repo, pull_command
from .whole_file import write_json

VERSION = 1
HASH_BYTES = 2**20  # read at once
WRONG = 0


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of one file."""

    file: HubFile
    changed_ns: int | None  # time of its last change when it was verified; None: never yet


@dataclass(frozen=True, slots=True)
class Notes:
    """The files of one commit, and what was verified of them."""

    is_listing: bool  # the files are all that the Hub has, and not just those that were found
    files: Mapping[str, Known]

    def noted(self, file: HubFile, changed_ns: int) -> "Notes":
        """The same, with another state of one file."""
        return replace(self, files={**self.files, file.name: Known(file, changed_ns)})


def read(repo: Repo, commit: str) -> Notes | None:
    """What is noted of a commit; None: nothing, or nothing that can be read."""
    path = repo.verified(commit)
    try:
        raw = read_json(path.parent, path.name)
        return _parsed(raw) if raw.get("version") == VERSION else None
    except (ModelError, KeyError, TypeError, ValueError, AttributeError):
        return None  # as good as none: what is there is hashed again


def write(repo: Repo, commit: str, notes: Notes) -> None:
    """Keep what is known of a commit.

    Raises:
        OSError: the cache cannot be written.
    """
    path = repo.verified(commit)
    path.parent.mkdir(parents=True, exist_ok=True)
    files = {
        name: {
            "size": known.file.size,
            "etag": known.file.etag,
            "sha256": known.file.sha256,
            "mtime_ns": known.changed_ns,
        }
        for name, known in sorted(notes.files.items())
    }
    write_json(
        path,
        {
            "version": VERSION,
            "repo": repo.repo_id,
            "commit": commit,
            "is_listing": notes.is_listing,
            "files": files,
        },
    )


def is_current(path: Path, known: Known) -> bool:
    """Whether a file is as it was when it was verified, by size and time."""
    try:
        status = path.stat()
    except OSError:
        return False
    return (status.st_size, status.st_mtime_ns) == (known.file.size, known.changed_ns)


def is_verified(repo: Repo, commit: str, notes: Notes | None = None) -> bool:
    """Whether every file of a snapshot was verified, and is as it was then."""
    notes = notes or read(repo, commit)
    return notes is not None and all(
        is_current(repo.snapshot(commit) / name, known) for name, known in notes.files.items()
    )


def check(repo: Repo, commit: str) -> None:
    """Refuse a snapshot that was verified and has changed since. Others pass.

    Raises:
        ModelError: a file was found wrong, or has another size or time.
    """
    notes = read(repo, commit)
    for name, known in notes.files.items() if notes else ():
        path = repo.snapshot(commit) / name
        if known.changed_ns is None or is_current(path, known):
            continue
        if known.changed_ns == WRONG:
            raise ModelError(
                f"{path} does not have the content that was published",
                f"{pull_command(repo.repo_id, commit)} fetches it again",
            )
        raise ModelError(
            f"{path} has changed since it was verified",
            f"qwen35 verify {repo.repo_id} --revision {commit} reads it again",
        )


class Digest:
    """The hash of a file's content as it comes, in the forms that the Hub lists."""

    def __init__(self, file: HubFile) -> None:
        self._file = file
        self._sha256 = hashlib.sha256()
        head = f"blob {file.size}\0".encode()
        self._git = None if file.is_large else hashlib.sha1(head, usedforsecurity=False)

    def update(self, data: bytes) -> None:
        self._sha256.update(data)
        if self._git is not None:
            self._git.update(data)

    @property
    def sha256(self) -> str:
        return self._sha256.hexdigest()

    def mismatch(self) -> tuple[str, str] | None:
        """The hash that was found and the one that was expected, where they differ."""
        expected = self._file.published_sha256
        if expected is not None and self.sha256 != expected:
            return f"SHA-256 {self.sha256}", expected
        if self._git is not None and self._git.hexdigest() != self._file.etag:
            return f"git SHA-1 {self._git.hexdigest()}", self._file.etag
        return None


def hashed(path: Path, digest: Digest) -> Iterator[int]:
    """Read a file into `digest`; gives how many bytes were read so far."""
    done = 0
    with path.open("rb", buffering=0) as file:
        while block := file.read(HASH_BYTES):
            digest.update(block)
            done += len(block)
            yield done


def _parsed(raw: Mapping[str, Any]) -> Notes:
    files = {}
    for name, each in raw["files"].items():
        sha256, changed = each["sha256"], each["mtime_ns"]
        file = HubFile(name, int(each["size"]), str(each["etag"]), sha256 and str(sha256))
        if Path(name).name != name or not ETAG.fullmatch(file.etag):
            raise ValueError("a file outside of the folder")
        files[name] = Known(file, None if changed is None else int(changed))
    return Notes(bool(raw["is_listing"]), files)
