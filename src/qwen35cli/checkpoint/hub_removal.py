"""Removing checkpoints from the shared Hugging Face cache, and nothing that others use.

Our own, and not huggingface_hub's: what is damaged or half there can go too, and links are not
followed to where they lead. Free of torch.
"""

import os
import shutil
from collections.abc import Collection, Iterator, Sequence, Set
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from qwen35cli.errors import Qwen35Error

from .hub import Repo
from .hub_cache import Snapshot, entries, held_by, left_over


@dataclass(frozen=True, slots=True)
class _Plan:
    """What goes of one repository, as things are now; nothing that lies outside it."""

    folder: Path
    blobs: Collection[Path]
    snapshots: Collection[Path]
    refs: Collection[Path]
    is_whole: bool  # nothing of the repository stays
    copies: int  # bytes in the snapshots themselves, where links were not possible


def freed(cache: Path, chosen: Sequence[Snapshot]) -> int:
    """Bytes that removing these would give back: what nothing else uses.

    Raises:
        Qwen35Error: see `remove`.
    """
    plans = [_plan(repo, snapshots) for repo, snapshots in _by_repo(cache, chosen)]
    blobs = {path for plan in plans for path in plan.blobs}
    return sum(plan.copies for plan in plans) + _bytes_of(blobs, cache.resolve())


def remove(cache: Path, chosen: Sequence[Snapshot]) -> None:
    """Remove snapshots, with what nothing else uses of their files.

    Raises:
        Qwen35Error: another program is downloading there, or the repository is a link.
        OSError: something cannot be removed.
    """
    for repo, snapshots in _by_repo(cache, chosen):
        with repo.alone(), _locked(repo):
            plan = _plan(repo, snapshots)
            _unlink(plan.blobs, repo.cache)  # first: what is left of a killed removal is listed
            for path in plan.refs:
                path.unlink(missing_ok=True)
            for path in plan.snapshots:
                repo.verified(path.name).unlink(missing_ok=True)
            for path in (plan.folder,) if plan.is_whole else plan.snapshots:
                if path.is_symlink():
                    path.unlink()
                elif path.exists():
                    shutil.rmtree(path)


def _by_repo(cache: Path, chosen: Sequence[Snapshot]) -> Iterator[tuple[Repo, list[Snapshot]]]:
    for name in dict.fromkeys(snapshot.repo for snapshot in chosen):
        own = [snapshot for snapshot in chosen if snapshot.repo == name]
        yield Repo(name, cache.resolve()), own


def _plan(repo: Repo, chosen: Sequence[Snapshot]) -> _Plan:
    for path in (repo.folder, repo.folder / "snapshots", repo.blobs):
        if path.is_symlink():
            raise Qwen35Error(
                f"{path} is a link to {os.path.realpath(path)}, and what is there may be shared",
                "remove both by hand",
            )
    commits = {snapshot.commit for snapshot in chosen if snapshot.commit}
    held = {path: held_by(path) for path in entries(repo.folder / "snapshots") if path.is_dir()}
    going = [path for path in held if path.name in commits]
    is_whole = len(going) == len(held)
    if is_whole:
        blobs = entries(repo.blobs)
    else:
        linked = {link for each in held.values() for link in each.links}
        kept = {link for path in held if path not in going for link in held[path].links}
        named = {path.name for each in chosen if each.commit is None for path in each.blobs}
        blobs = [path for path in left_over(repo.folder, linked) if path.name in named]
        blobs += [link for link in linked - kept if link.parent == repo.blobs]
    copies = (
        nbytes
        for snapshot in going
        for path, nbytes in held[snapshot].blobs.items()
        if path.is_relative_to(snapshot)
    )
    refs = _refs(repo.folder, commits)
    return _Plan(repo.folder, blobs, going, refs, is_whole, sum(copies))


def _unlink(blobs: Collection[Path], cache: Path) -> None:
    """Remove these. Those that several repositories share are links, with accounts kept of them."""
    shared = frozenset(path for path in blobs if path.is_symlink())
    if shared:
        from huggingface_hub import DeleteCacheStrategy  # late: 100 ms

        none: frozenset[Path] = frozenset()
        DeleteCacheStrategy(0, shared, none, none, none, cache_dir=cache).execute()
    for path in blobs:
        if path not in shared and not path.is_dir():
            path.unlink(missing_ok=True)


def _bytes_of(blobs: Set[Path], cache: Path) -> int:
    """Bytes that go with these; of a shared one, where no other repository links to it."""
    nbytes, shared = 0, set()
    for path in blobs:
        if path.is_symlink():
            shared.add(Path(os.path.realpath(path)))
        elif path.is_file():
            nbytes += path.stat().st_size
    for path in set(cache.glob("*--*/blobs/*")) - blobs if shared else ():
        shared.discard(Path(os.path.realpath(path)))
    own = (path for path in shared if path.is_relative_to(cache / "blobs") and path.is_file())
    return nbytes + sum(path.stat().st_size for path in own)


def _refs(folder: Path, commits: Collection[str]) -> list[Path]:
    """The branches and tags that are at these commits."""
    found = []
    for path in (folder / "refs").rglob("*"):
        with suppress(OSError, UnicodeDecodeError):
            if path.is_file() and path.read_text().strip() in commits:
                found.append(path)
    return found


@contextmanager
def _locked(repo: Repo) -> Iterator[None]:
    """Alone among the programs that download files of a repository.

    Raises:
        Qwen35Error: one does so now.
    """
    from filelock import FileLock, Timeout  # late: 50 ms

    with ExitStack() as held:
        for path in entries(repo.locks):
            if path.suffix != ".lock":
                continue
            try:
                held.enter_context(FileLock(path, timeout=0))
            except Timeout:
                raise Qwen35Error(
                    f"another program is downloading {repo.repo_id}",
                    "wait for it, or stop it first",
                ) from None
        yield
