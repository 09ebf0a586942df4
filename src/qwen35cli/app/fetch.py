"""Bringing a checkpoint into the shared Hugging Face cache, with every byte proved. No torch.

One qwen35 at a time changes a repository. A file is downloaded under the cache's own lock of it
too, so that other programs share the download; it gets its name when its hash is right. The
snapshot appears when all files are there, config.json last.
"""

import time
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass

from qwen35cli.checkpoint import download, verified
from qwen35cli.checkpoint.hub import LOCK_MODE, HubFile, InUse, pull_command
from qwen35cli.checkpoint.names import CONFIG
from qwen35cli.checkpoint.remote import Retrying
from qwen35cli.checkpoint.strict_json import parse_object
from qwen35cli.checkpoint.whole_file import sync_folder
from qwen35cli.errors import ModelError
from qwen35cli.model.config import Config
from qwen35cli.quant.plan import described

from .pull import Trouble
from .pull_job import Job

POLL_S = 0.2  # between two looks at a lock


@dataclass(frozen=True, slots=True)
class Moving:
    """So many bytes of a file are here; `checking`: they were here before, and are read again."""

    file: HubFile
    done: int
    checking: bool = False


@dataclass(frozen=True, slots=True)
class Waiting:
    """Another program, `who`, is at this file, and so much of it is here."""

    file: HubFile
    done: int
    who: str


@dataclass(frozen=True, slots=True)
class Finished:
    """A file is here and right. `fetched`: bytes of it that came over the network now."""

    file: HubFile
    fetched: int


Event = Moving | Waiting | Finished | Trouble


def run(
    job: Job, accept: Callable[[Config], None] = lambda config: None
) -> Generator[Event, None, None]:
    """Fetch what is missing, hash what was never verified; then the checkpoint is in `job.folder`.

    Whatever ends this, a later run goes on from there. `accept` may refuse a model by its config,
    which comes before the weights do.

    Raises:
        ModelError: the Hub refuses or fails, or has other bytes than it lists; or it is no Qwen3.5.
        DoesNotFitError: the disk is full.
        Qwen35Error: the disk fails.
    """
    with ExitStack() as held:
        if not job.is_done:
            yield from _alone(job, held)
            for file in job.files:
                yield from _one(job, file)
                if file.name == CONFIG:
                    accept(_config(job, file))
            with download.disk_errors(job.folder):
                _appear(job)
            yield from _keep(job)
        branch = job.branch or (None if job.repo.commit_of("main") else "main")
        if branch is not None and job.repo.commit_of(branch) != job.commit:
            with download.disk_errors(job.repo.folder):
                job.repo.set_ref(branch, job.commit)


def _alone(job: Job, held: ExitStack) -> Iterator[Waiting]:
    """Be the only qwen35 that changes the repository, and know what the others did until now.

    Where all files are there and the cache cannot be written, there is nothing to be alone for.
    """
    while True:
        try:
            held.enter_context(job.repo.alone())
            job.learn()
            return
        except InUse as other:
            file = next(iter(job.missing), job.files[-1])
            yield Waiting(file, job.part_bytes(file), other.message)
            time.sleep(POLL_S)
        except OSError:
            if job.is_whole:
                return
            with download.disk_errors(job.repo.locks):
                raise


def _one(job: Job, file: HubFile) -> Iterator[Event]:
    """Have one file in the cache and right."""
    if job.is_verified(file):
        yield Finished(file, 0)
        return
    if job.repo.present(job.commit, file) is not None:
        wrong = yield from _check(job, file)
        if wrong is None:
            yield Finished(file, 0)
            return
        if job.remote is None:
            raise ModelError(
                f"{job.folder / file.name} is wrong: {wrong}",
                f"{pull_command(job.repo.repo_id, job.commit)}, online, fetches it again",
            )
        yield Trouble(f"{file.name} is wrong and is fetched again: {wrong}")
        with download.disk_errors(job.folder):
            job.repo.remove(job.commit, file)
    with ExitStack() as held:
        yield from _its_lock(job, file, held)
        before = job.part_bytes(file)
        if job.repo.blob(file).is_file() and (yield from _check(job, file)) is None:
            before = file.size  # another program brought it
        else:
            yield from _fetch(job, file)
    yield Finished(file, file.size - before)


def _its_lock(job: Job, file: HubFile, held: ExitStack) -> Iterator[Waiting]:
    """Be the only program that downloads a file."""
    from filelock import FileLock, Timeout  # late: 50 ms

    with download.disk_errors(job.repo.lock(file)):
        job.repo.make_folders()
    lock = FileLock(job.repo.lock(file), mode=LOCK_MODE, thread_local=False)
    while True:
        with download.disk_errors(job.repo.lock(file)), suppress(Timeout):
            lock.acquire(timeout=0)
            held.callback(lock.release)
            return
        yield Waiting(file, job.part_bytes(file), f"another program downloads {file.name}")
        time.sleep(POLL_S)


def _check(job: Job, file: HubFile) -> Generator[Event, None, str | None]:
    """Hash a file that is here; what is wrong with it."""
    path = job.present(file)
    if path is None:
        there = job.repo.present(job.commit, file)
        size = there.stat().st_size if there else 0
        return f"it has {size:,} bytes, published are {file.size:,}"
    digest = verified.Digest(file)
    changed_ns = path.stat().st_mtime_ns
    with download.disk_errors(path):
        for done in verified.hashed(path, digest):
            yield Moving(file, done, checking=True)
    if wrong := digest.mismatch():
        found, expected = wrong
        return f"its {found} is not the published {expected}"
    job.note(file, digest, changed_ns)
    yield from _keep(job)
    return None


def _fetch(job: Job, file: HubFile) -> Iterator[Event]:
    """Download a file, with its lock held."""
    assert job.remote is not None
    url = job.remote.file_url(job.repo.repo_id, job.commit, file.name)
    part, blob = job.repo.part(file), job.repo.blob(file)
    work = download.fetch(job.remote, url, file, part)
    while True:
        try:
            event = next(work)
        except StopIteration as end:
            digest: verified.Digest = end.value
            break
        if isinstance(event, download.Discarded):
            yield Trouble(f"{file.name} came wrong and is fetched once more: {event.reason}")
        elif isinstance(event, Retrying):
            yield Trouble(f"{file.name}: {event.reason}", event.wait_s)
        else:
            yield Moving(file, event.done, checking=isinstance(event, download.Reading))
    with download.disk_errors(blob):
        part.replace(blob)
        download.discard(part)
        sync_folder(blob.parent)
        changed_ns = blob.stat().st_mtime_ns
    job.note(file, digest, changed_ns)
    yield from _keep(job)


def _appear(job: Job) -> None:
    """Let the snapshot have its files, config.json last, and note the times they have there."""
    for file in reversed(job.files):
        place = job.repo.link(job.commit, file)
        known = job.notes.files[file.name]
        job.notes = job.notes.noted(known.file, place.stat().st_mtime_ns)


def _keep(job: Job) -> Iterator[Trouble]:
    """Note what was verified. Where the cache cannot be written it is verified again next time."""
    try:
        verified.write(job.repo, job.commit, job.notes)
    except OSError as error:
        if not job.is_unnoted:
            why = error.strerror or error
            yield Trouble(f"what is right is not noted, and read again at the next pull: {why}")
        job.is_unnoted = True


def _config(job: Job, file: HubFile) -> Config:
    """What config.json says.

    Raises:
        ModelError: it is of another model, or of weights in a format of others.
    """
    path = job.repo.present(job.commit, file)
    assert path is not None
    raw = parse_object(path.read_bytes(), file.name)
    described(raw)
    return Config.from_dict(raw)
