"""Reading every byte of a checkpoint again, and of what was quantized from it. No torch."""

from collections.abc import Generator, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from qwen35cli.checkpoint import listing, verified
from qwen35cli.checkpoint.hub import HubFile, NotInCache, Repo, is_whole, pull_command
from qwen35cli.checkpoint.manifest import MANIFEST, Manifest, again, read_manifest
from qwen35cli.checkpoint.verified import WRONG, Known, Notes
from qwen35cli.checkpoint.whole_file import Entry
from qwen35cli.errors import ModelError, UsageError

from .quantized_folder import FOLDER
from .source import DEMO, check_revision, is_hub_id, local_folder, unknown


@dataclass(frozen=True, slots=True)
class Reading:
    """So much of a file was read."""

    path: Path
    done: int
    size: int


@dataclass(frozen=True, slots=True)
class Finding:
    """What a file holds. `found` is None where it cannot be read."""

    path: Path
    size: int
    expected: str
    found: str | None
    mends: str  # the command that does, where they differ

    @property
    def is_right(self) -> bool:
        return self.found == self.expected


Event = Reading | Finding


def run(model: str, revision: str | None, store: Path) -> Generator[Event, None, None]:
    """Hash the files of a model, and of everything in `store` that was quantized from it.

    Raises:
        UsageError: nothing says what its files should hold, or a revision is given of what has
            none.
        ModelError: it is not here.
    """
    check_revision(model, revision)
    folder = local_folder(model)
    if folder is not None:
        if not (folder / MANIFEST).is_file():
            raise UsageError(
                f"nothing says what the files in {model} should hold",
                "a Hub id, or a folder that qwen35 quantize wrote, can be verified",
            )
        yield from _quantized(folder, read_manifest(folder))
        return
    if model == DEMO:
        raise UsageError("the demo is a part of this program", "pip check qwen35cli")
    if not is_hub_id(model):
        raise unknown(model)
    repo = Repo.of(model)
    commit = next((each for each in repo.commits(revision) if _is_here(repo, each)), None)
    if commit is None:
        fetch = f"{pull_command(model, revision)} fetches it"  # the demo is nothing to verify
        raise ModelError(NotInCache(model, revision).message, fetch)
    yield from snapshot(repo, commit)
    source = str(repo.snapshot(commit).resolve())
    for manifest in sorted(store.glob(f"{FOLDER}/*/*/{MANIFEST}")):
        try:
            made = read_manifest(manifest.parent)
        except ModelError as error:
            if repo.repo_id.replace("/", "--") in manifest.parent.parent.name:
                yield Finding(manifest, 0, error.message, None, error.hint)
            continue
        if made.source.folder == source:
            yield from _quantized(manifest.parent, made)


def _is_here(repo: Repo, commit: str) -> bool:
    notes = verified.read(repo, commit)
    return is_whole(repo.snapshot(commit)) or (notes is not None and repo.snapshot(commit).is_dir())


def snapshot(repo: Repo, commit: str) -> Iterator[Event]:
    """Hash a snapshot, and note the result.

    Raises:
        UsageError: nothing says what its files should hold.
    """
    notes = verified.read(repo, commit) or Notes(False, {})
    files = {file.name: Known(file, None) for file in listing.in_snapshot(repo, commit)}
    notes = Notes(notes.is_listing, {**files, **notes.files})
    folder = repo.snapshot(commit)
    mends = pull_command(repo.repo_id, commit)
    unknown = [
        path.name
        for path in sorted(folder.iterdir())
        if listing.is_wanted(path.name) and path.name not in notes.files
    ]
    if unknown:
        raise UsageError(
            f"nothing on this machine says what {', '.join(unknown)} in {folder} should hold",
            f"{mends} asks the Hub",
        )
    for file in listing.in_order(known.file for known in notes.files.values()):
        path = folder / file.name
        digest = verified.Digest(file)
        try:
            changed_ns = path.stat().st_mtime_ns
            for done in verified.hashed(path, digest):
                yield Reading(path, done, file.size)
        except OSError:
            notes = notes.noted(file, WRONG)
            yield Finding(path, file.size, file.sha256 or file.etag, None, mends)
            continue
        if wrong := digest.mismatch():
            notes = notes.noted(file, WRONG)
            yield Finding(path, file.size, wrong[1], wrong[0].rpartition(" ")[2], mends)
            continue
        known = HubFile(file.name, file.size, file.etag, digest.sha256)
        notes = notes.noted(known, changed_ns)
        yield Finding(path, file.size, digest.sha256, digest.sha256, mends)
    with suppress(OSError):  # the cache is read-only: the findings are what was asked for
        verified.write(repo, commit, notes)


def _quantized(folder: Path, manifest: Manifest) -> Iterator[Event]:
    mends = again(manifest, folder)
    for name, entry in sorted(manifest.files.items()):
        yield from _written(folder / name, entry, mends)


def _written(path: Path, entry: Entry, mends: str) -> Iterator[Event]:
    digest = verified.Digest(HubFile(path.name, entry.size, entry.sha256, entry.sha256))
    try:
        for done in verified.hashed(path, digest):
            yield Reading(path, done, entry.size)
    except OSError:
        yield Finding(path, entry.size, entry.sha256, None, mends)
        return
    yield Finding(path, entry.size, entry.sha256, digest.sha256, mends)
