"""The cache that Hugging Face's tools share: where a file of a repository is, and how one is added.

    models--owner--name/
        blobs/HASH             a file's content; HASH as the Hub's ETag
        blobs/HASH.part        ours: what was downloaded of it so far
        snapshots/COMMIT/NAME  a link to its blob, or a copy where links are not possible
        refs/BRANCH            the commit of a branch
        qwen35/COMMIT.json     ours: see `verified.py`
    .locks/models--owner--name/
        HASH.lock              who downloads that blob, whatever program it is
        qwen35                 ours: who fetches or removes files of the repository

Newer programs may keep a blob once for all repositories: `blobs/HASH` is then itself a link, to
`../../blobs/xx/…` beside the repositories. Never the network.
"""

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Self

from qwen35cli.errors import ModelError, Qwen35Error, UsageError

from .folder import weight_files
from .names import CONFIG
from .pinned import COMMITS
from .whole_file import sync_folder, whole_file

REPO_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*", re.ASCII)
COMMIT = re.compile(r"[0-9a-f]{40}")
SHORT = re.compile(r"[0-9a-f]{4,39}")  # a commit's beginning, as the Hub takes it too
REVISION = re.compile(r"\w[\w.+-]*(/[\w.+-]+)*", re.ASCII)
ETAG = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
LOCK_MODE = 0o664  # as of Hugging Face's tools: a group may share a cache
NEEDED = (CONFIG, "tokenizer.json")  # without these, and the weights, a snapshot is not whole


class NotInCache(ModelError):
    """A Hub id whose files are not on this machine, or not all of them."""

    def __init__(self, repo_id: str, revision: str | None) -> None:
        at = f" at {revision}" if revision else ""
        super().__init__(
            f"{repo_id}{at} is not in the local Hugging Face cache",
            f"{pull_command(repo_id, revision)} fetches it; --model demo runs at once",
        )
        self.repo_id = repo_id
        self.revision = revision


class InUse(Qwen35Error):
    """Another qwen35, `pid` where it is known, fetches or removes files of a repository."""

    def __init__(self, repo_id: str, pid: int | None) -> None:
        who = "another qwen35" + (f" (pid {pid})" if pid else "")
        super().__init__(
            f"{who} is downloading or removing {repo_id}", "wait for it, or stop it first"
        )


def pull_command(repo_id: str, revision: str | None) -> str:
    """What to type to have the files."""
    return f"qwen35 pull {repo_id}" + (f" --revision {revision}" if revision else "")


@dataclass(frozen=True, slots=True)
class HubFile:
    """A file as the Hub lists it at one commit."""

    name: str
    size: int
    etag: str  # name of the blob: the SHA-256 of a large file, git's SHA-1 of a small one
    sha256: str | None  # of the content, where it is known beforehand

    @property
    def is_large(self) -> bool:
        return len(self.etag) == 64

    @property
    def published_sha256(self) -> str | None:
        """The SHA-256 that the content must have, where one is known."""
        return self.etag if self.is_large else self.sha256


@dataclass(frozen=True, slots=True)
class Repo:
    """The folder of one repository in the cache."""

    repo_id: str
    cache: Path

    @classmethod
    def of(cls, repo_id: str) -> Self:
        """The repository `repo_id` in the cache that `HF_HUB_CACHE` or `HF_HOME` names.

        Raises:
            ModelError: that is no id.
        """
        if not REPO_ID.fullmatch(repo_id) or "--" in repo_id or ".." in repo_id:
            raise ModelError(f"{repo_id!r} is no Hub id", "use owner/name")
        return cls(repo_id, cache_folder())

    @property
    def folder(self) -> Path:
        return self.cache / self._name

    @property
    def _name(self) -> str:
        return "models--" + self.repo_id.replace("/", "--")

    @property
    def blobs(self) -> Path:
        return self.folder / "blobs"

    def blob(self, file: HubFile) -> Path:
        return self.blobs / file.etag

    def part(self, file: HubFile) -> Path:
        """What was downloaded of a file so far. Named by its content: versions cannot mix."""
        return self.blobs / f"{file.etag}.part"

    def snapshot(self, commit: str) -> Path:
        return self.folder / "snapshots" / commit

    @property
    def locks(self) -> Path:
        return self.cache / ".locks" / self._name

    def lock(self, file: HubFile) -> Path:
        """The lock that Hugging Face's tools take too while they download this file."""
        return self.locks / f"{file.etag}.lock"

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep every other qwen35 from fetching or removing files of the repository.

        Raises:
            InUse: another one does so now.
            OSError: the cache cannot be written.
        """
        from filelock import FileLock, Timeout  # late: 50 ms

        path = self.locks / "qwen35"
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path, timeout=0, mode=LOCK_MODE, thread_local=False)
        try:
            lock.acquire()
        except Timeout:
            raise InUse(self.repo_id, _pid_in(path)) from None
        try:
            with suppress(OSError):  # a full disk takes no name, and is no reason not to remove
                path.write_text(str(os.getpid()))
            yield
        finally:
            lock.release()

    def verified(self, commit: str) -> Path:
        return self.folder / "qwen35" / f"{commit}.json"

    def commit_of(self, revision: str) -> str | None:
        """The commit that a branch or tag was at when it was last asked; a commit as it is, also by
        its beginning, where one alone of those that are here begins so.
        """
        if COMMIT.fullmatch(revision):
            return revision
        try:
            text = (self.folder / "refs" / _checked(revision)).read_text().strip()
        except (OSError, UnicodeDecodeError):
            text = self._completed(revision)
        return text if COMMIT.fullmatch(text) else None

    def _completed(self, beginning: str) -> str:
        """The commit that begins so; "" where none or several do."""
        if not SHORT.fullmatch(beginning):
            return ""
        found = [path.name for path in (self.folder / "snapshots").glob(f"{beginning}*")]
        return found[0] if len(found) == 1 else ""

    def commits(self, revision: str | None) -> Iterator[str]:
        """The commits that would do, the best first; without a revision the pinned one is."""
        if revision is None and self.repo_id in COMMITS:
            yield COMMITS[self.repo_id]
        if commit := self.commit_of(revision or "main"):
            yield commit

    def present(self, commit: str, file: HubFile) -> Path | None:
        """Where the content of a file is already, right or wrong."""
        for path in (self.snapshot(commit) / file.name, self.blob(file)):
            if path.is_file():
                return path
        return None

    def make_folders(self) -> None:
        """Have the folders that other tools expect in a repository, and that of the locks."""
        for folder in (self.blobs, self.folder / "snapshots", self.locks):
            folder.mkdir(parents=True, exist_ok=True)

    def link(self, commit: str, file: HubFile) -> Path:
        """Give a blob its name in the snapshot: by a link; or, where links are not possible, as the
        file itself, or as a copy if other snapshots have links to it.
        """
        place, blob = self.snapshot(commit) / file.name, self.blob(file)
        if place.is_file():
            return place
        place.parent.mkdir(parents=True, exist_ok=True)
        place.unlink(missing_ok=True)  # a link to what is gone
        try:
            if hub_constants().HF_HUB_DISABLE_SYMLINKS:
                raise OSError("links are switched off")
            place.symlink_to(os.path.relpath(blob, place.parent))
        except OSError:
            if blob.is_symlink() or any(
                other.is_symlink() and other.readlink().name == blob.name
                for other in self.folder.glob("snapshots/*/*")
            ):
                with whole_file(place) as copy, blob.open("rb") as source:
                    shutil.copyfileobj(source, copy)
            else:
                blob.replace(place)
        sync_folder(place.parent)
        return place

    def remove(self, commit: str, file: HubFile) -> None:
        """Remove what is there of a file, link and content."""
        (self.snapshot(commit) / file.name).unlink(missing_ok=True)
        self.blob(file).unlink(missing_ok=True)

    def set_ref(self, branch: str, commit: str) -> None:
        """Note that a branch is at a commit, whose snapshot must be there.

        It is written elsewhere first: what a killed process left in `refs` would be a branch too.
        """
        path, begun = self.folder / "refs" / _checked(branch), self.folder / "qwen35" / "ref"
        for each in (path, begun):
            each.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(begun) as file:
            file.write(commit.encode())
        begun.replace(path)


def hub_constants() -> ModuleType:
    """What huggingface_hub goes by; it reads its variables when it is imported.

    Raises:
        UsageError: one of them has a value that it does not take.
    """
    try:
        from huggingface_hub import constants  # late: only for Hub ids
    except ValueError as error:
        raise UsageError(
            f"huggingface_hub cannot read one of its variables: {error}",
            "HF_ENDPOINT is an address, HF_HUB_DOWNLOAD_TIMEOUT and HF_HUB_ETAG_TIMEOUT are whole "
            "seconds",
        ) from None
    return constants


def cache_folder() -> Path:
    """The cache that `HF_HUB_CACHE` or `HF_HOME` names. Raises: as `hub_constants`."""
    return Path(hub_constants().HF_HUB_CACHE)


def find_in_cache(repo_id: str, revision: str | None = None) -> Path:
    """The snapshot folder of `repo_id` in the local cache, at `revision`; without one at the
    pinned commit, or else at main. What was verified here must not have changed since.

    Raises:
        NotInCache: it is not there, or not whole.
        ModelError: `repo_id` is not an id, or a file has changed.
    """
    from .verified import check  # late: it needs this module

    repo = Repo.of(repo_id)
    with read_errors(repo.folder):
        for commit in repo.commits(revision):
            if is_whole(repo.snapshot(commit)):
                check(repo, commit)
                return repo.snapshot(commit)
    raise NotInCache(repo_id, revision)


@contextmanager
def read_errors(folder: Path) -> Iterator[None]:
    """Say as one error that a folder of the cache may not be looked into.

    Raises:
        ModelError: so it is.
    """
    try:
        yield
    except PermissionError as error:
        raise ModelError(
            f"{error.filename or folder} cannot be read: permission denied",
            "HF_HUB_CACHE=DIR names another cache",
        ) from None


def is_whole(folder: Path) -> bool:
    """Whether a snapshot has the files that every checkpoint needs."""
    if not all((folder / name).is_file() for name in NEEDED):
        return False
    try:
        files = weight_files(folder)
    except ModelError:
        return True  # damaged: said where the checkpoint is opened
    return bool(files) and all((folder / name).is_file() for name in files)


def _pid_in(path: Path) -> int | None:
    """The process that a lock names; None where it has not done so yet."""
    with suppress(OSError, ValueError), path.open() as file:
        return int(file.read(20))
    return None


def _checked(revision: str) -> str:
    """A revision that is a name within `refs`.

    Raises:
        UsageError: it is not.
    """
    if not REVISION.fullmatch(revision) or ".." in revision:
        raise UsageError(f"{revision!r} is no revision", "--revision main, a tag, or a commit")
    return revision
