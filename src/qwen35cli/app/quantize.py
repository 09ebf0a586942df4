"""Quantizing a checkpoint once, for later runs: what it costs, where it goes, how it is written.

The result appears whole or not at all. It grows in `DIR.partial-PID`; every file of it is flushed
to the disk, the manifest last; then the folder takes the place of DIR in one step. Whatever ends
the process before that leaves the old DIR, or none, and at worst a partial folder, which the next
run removes. Readers take no lock; writers of one DIR do.
"""

import ctypes
import errno
import hashlib
import math
import os
import re
import shutil
import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal

import torch
from filelock import FileLock, Timeout
from torch import Tensor

from qwen35cli import __version__
from qwen35cli.checkpoint.convert import file_layout, quantize_checkpoint
from qwen35cli.checkpoint.folder import reading, regular_file, weight_files
from qwen35cli.checkpoint.manifest import (
    Manifest,
    Origin,
    check_manifest,
    is_manifest_of_ours,
    rules_of,
    sha256_of,
    side_files,
    write_manifest,
)
from qwen35cli.checkpoint.names import CONFIG, INDEX, SHARD, SINGLE
from qwen35cli.checkpoint.opened import Checkpoint, file_schemes, open_checkpoint
from qwen35cli.checkpoint.read import check_tensors
from qwen35cli.checkpoint.whole_file import Entry, sync_folder, write_json
from qwen35cli.checkpoint.write import split, streamed, write_index
from qwen35cli.errors import DoesNotFitError, ModelError, Qwen35Error, UsageError
from qwen35cli.kernels import Kernels, select
from qwen35cli.model.qwen35 import Qwen35
from qwen35cli.quant import codec
from qwen35cli.quant.plan import DEFAULT_GROUP, Plan, Scheme, assign, describe, recipe

from .plan_file import read_plan
from .private_files import existing
from .quantized_folder import FOLDER, busy, is_alive, lock_file, partial_of, partials
from .source import Source, expanded, resolve

SHARD_BYTES = 4 * 10**9
SPARE_BYTES = 64 * 2**20  # that a disk should have left
POLL = 0.2  # seconds between two looks at a lock
# Relative time for a weight, by what becomes of it: for the estimate of the time left.
EFFORT = {"keep": 2.0, "int8": 1.0, "int4": 2.0, "nf4": 3.0}
AT_FDCWD, RENAME_EXCHANGE = -100, 2  # of Linux's renameat2


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizeOptions:
    """What the user asked for."""

    model: str
    format: Literal["int4", "int8", "nf4"]
    store: Path  # where results go that are given no place
    revision: str | None = None
    group: int | None = None
    plan_file: Path | None = None
    output: Path | None = None


@dataclass(frozen=True, slots=True)
class Progress:
    """So much of the work is done, from 0 to 1."""

    share: float


@dataclass(frozen=True, slots=True)
class Waiting:
    """Another program, `who`, is at it."""

    who: str


@dataclass(frozen=True, slots=True)
class Line:
    """Tensors of one kind in the plan: the numbers of the layers are left out of the name."""

    pattern: str
    scheme: Scheme
    count: int
    weights: int
    nbytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A checkpoint and what is to be made of it; nothing is written yet."""

    source: Source
    origin: Origin
    checkpoint: Checkpoint
    plan: Plan
    schemes: Mapping[str, Scheme]
    layout: Mapping[
        str, Mapping[str, Tensor]
    ]  # by source tensor: those of the file, meta, in order
    target: Path

    @property
    def nbytes(self) -> int:
        """Bytes of the result's tensors."""
        return sum(meta.nbytes for part in self.layout.values() for meta in part.values())

    @property
    def weights(self) -> int:
        return sum(math.prod(stored.shape) for stored in self.checkpoint.tensors.values())

    def decode_bytes(self, *, quantized: bool = True) -> int:
        """Bytes of weights read to decode a token: the text decoder, and the head once."""
        tied = self.checkpoint.config.tie_word_embeddings
        text = ("model.language_model.", "lm_head.")
        total = 0
        for name, stored in self.checkpoint.tensors.items():
            if not name.startswith(text) or (name.endswith("embed_tokens.weight") and not tied):
                continue
            scheme = self.schemes[name]
            keep = scheme.kind == "keep" or not quantized
            total += stored.nbytes if keep else scheme.nbytes(stored.shape)
        return total

    def lines(self) -> list[Line]:
        """The plan, by kinds of tensors, in the order of the checkpoint."""
        found: dict[tuple[str, Scheme], list[int]] = {}
        for name, scheme in self.schemes.items():
            stored = self.checkpoint.tensors[name]
            nbytes = stored.nbytes if scheme.kind == "keep" else scheme.nbytes(stored.shape)
            line = found.setdefault((re.sub(r"\.\d+\.", ".*.", name), scheme), [0, 0, 0])
            for i, more in enumerate((1, math.prod(stored.shape), nbytes)):
                line[i] += more
        return [Line(*key, *counts) for key, counts in found.items()]

    def free_bytes(self) -> int:
        """What the disk of the target has room for."""
        return shutil.disk_usage(existing(self.target)).free

    def check_room(self) -> None:
        """Refuse before the work what would break off within it.

        Raises:
            DoesNotFitError: the disk has not enough room; with numbers.
        """
        need, free = self.nbytes + SPARE_BYTES, self.free_bytes()
        if need > free:
            old = ", and the old one stays until it is replaced" if self.target.exists() else ""
            raise DoesNotFitError(
                f"{self.target} needs {need / 1e9:.2f} GB{old}; "
                f"the disk has {free / 1e9:.2f} GB free",
                "-o DIR on another disk, or make room",
            )

    def is_done(self) -> bool:
        """Whether the target holds this very result already."""
        try:
            return check_manifest(self.target).is_of(self.origin, self.plan)
        except ModelError:
            return False


# -- what is to be done ----------------------------------------------------------------------------


def prepare(options: QuantizeOptions) -> Job:
    """Check everything that can be checked before the weights are read.

    Raises:
        UsageError: group, plan file or target do not suit.
        ModelError: the source is missing, damaged, or quantized already.
    """
    plan = recipe(options.format, options.group)
    if options.plan_file is not None:
        plan = read_plan(options.plan_file, plan)
    source = resolve(options.model, options.revision)
    target = options.output or place(options.store, source, plan, options.group)
    return job(source, plan, target)


def job(source: Source, plan: Plan, target: Path) -> Job:
    """The work of quantizing `source` by `plan` into `target`.

    Raises: as `prepare`.
    """
    target = expanded(target)
    try:
        target = target if target.is_symlink() else target.resolve()
    except OSError as error:  # too long for a name
        raise UsageError(f"{target} cannot be written: {error.strerror}", "-o DIR") from None
    origin = _origin(source)
    checkpoint = open_checkpoint(source.folder)
    if checkpoint.format != "bf16":
        raise UsageError(
            f"{source.name} is quantized already ({checkpoint.format}); "
            "what was lost does not come back",
            "qwen35 quantize MODEL with the bf16 checkpoint it was made from",
        )
    with torch.device("meta"):
        check_tensors(
            Qwen35(checkpoint.config, select(torch.device("cpu"), "reference")), checkpoint
        )
    for name in side_files(source.folder):
        regular_file(source.folder, name)  # what it links to elsewhere is not ours to pass on
    _check_target(target, source.folder)
    written = file_schemes(checkpoint, plan)
    flat = iter(file_layout(checkpoint, plan).items())
    layout = {}
    for name, scheme in written.items():
        shape = checkpoint.tensors[name].shape
        parts = 1 if scheme.kind == "keep" else len(codec.layout(shape, scheme))
        layout[name] = dict(islice(flat, parts))
    return Job(
        source=source,
        origin=origin,
        checkpoint=checkpoint,
        plan=plan,
        schemes=assign(plan, {name: checkpoint.tensors[name].shape for name in written}),
        layout=layout,
        target=target,
    )


def place(store: Path, source: Source, plan: Plan, group: int | None = None) -> Path:
    """The folder for the weights of `source` quantized by `plan`, where no other was named.

    A folder of the user's gives the same place by whatever path it is named.
    """
    folder = source.folder.resolve()
    name = re.sub(r"[^\w.-]+", "--", source.name if source.revision else folder.name)
    name = name[-60:].lstrip(".") or "model"  # a hidden folder would not be listed
    mark = (source.revision or hashlib.sha256(os.fsencode(folder)).hexdigest())[:12]
    size = group or DEFAULT_GROUP.get(plan.format)
    kind = plan.format + (f"-g{size}" if size else "")
    if plan.overrides:
        rules = repr(plan.rules[: plan.overrides]).encode()
        kind += f"-plan-{hashlib.sha256(rules).hexdigest()[:8]}"
    return store / FOLDER / f"{name}-{mark}" / kind


def find(store: Path, source: Source, format: str) -> Path | None:
    """The folder with `source` quantized by the recipe of `format`; None: absent or stale."""
    plan = recipe(format)
    folder = place(store, source, plan)
    try:
        manifest = check_manifest(folder)
    except ModelError:
        return None
    current = _origin(source)
    return folder if manifest.is_of(current, plan) else None


def _origin(source: Source) -> Origin:
    return Origin.of(source.folder, source.lasting_name, source.revision)


def weight_bytes(source: Source) -> int:
    """Bytes of the weight files of a checkpoint; what is not there is refused when it is opened.

    Raises:
        ModelError: the index is damaged.
    """
    nbytes = 0
    for name in weight_files(source.folder):
        with suppress(OSError):
            nbytes += (source.folder / name).stat().st_size
    return nbytes


def _check_target(target: Path, source: Path) -> None:
    """Refuse a target that holds what is not ours to replace, or that is part of the source."""
    real, source = target.resolve(), source.resolve()
    if real == source or source in real.parents:
        raise UsageError(
            f"{target} lies in the checkpoint that is quantized",
            "-o DIR beside it, or leave -o out",
        )
    if real in source.parents:
        raise UsageError(f"{target} contains the checkpoint that is quantized", "-o DIR beside it")
    if target.is_symlink():
        raise UsageError(f"{target} is a link", f"-o {real}")
    if not os.path.lexists(target):
        return
    if not target.is_dir():
        raise UsageError(f"{target} is a file, the result is a folder", "-o DIR")
    try:
        empty = not any(target.iterdir())
    except OSError as error:
        raise UsageError(f"{target} cannot be read: {error.strerror}", "-o DIR") from None
    if not empty and not is_manifest_of_ours(target):
        raise UsageError(
            f"{target} exists, and qwen35 quantize did not write it", "-o DIR that does not exist"
        )


# -- doing it --------------------------------------------------------------------------------------


def run(
    job: Job, *, wait: bool = False, force: bool = False, kernels: Kernels | None = None
) -> Generator[Progress | Waiting, None, None]:
    """Do the work, or find it done; closing the iterator undoes what was begun.

    Args:
        wait: for another process that writes the same target, and then take what it made.
        force: make it again also where it is done.

    Raises:
        Qwen35Error: another process writes the same target; or the disk failed.
        ModelError: a weight cannot be meant, or the source changed meanwhile.
        DoesNotFitError: the disk is full.
    """
    with _disk_errors(job.target):
        job.target.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(lock_file(job.target))
        Path(lock.lock_file).touch()  # where none can be made, filelock says that it is taken
        try:
            waited = yield from _acquire(lock, job.target, wait=wait)
            _remove_stale(job.target)
            if job.is_done() and (waited or not force):
                return
            job.check_room()
            yield Progress(0.0)
            yield from _write(job, kernels or select(torch.device("cpu")))
        finally:
            if lock.is_locked:
                Path(lock.lock_file).unlink(missing_ok=True)  # who waits for it looks again
                lock.release()


def _acquire(lock: FileLock, target: Path, *, wait: bool) -> Generator[Waiting, None, bool]:
    """Take the lock; gives whether that took waiting."""
    waited = False
    while True:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            other = busy(target, "wait for it, or choose another -o")
            if not wait:
                raise other from None
            yield Waiting(other.message)
            waited = True
            time.sleep(POLL)
        else:
            return waited


def _write(job: Job, kernels: Kernels) -> Iterator[Progress]:
    """Write the folder beside its place, then put it there."""
    target = job.target
    partial = partial_of(target)
    try:
        partial.mkdir()
        files: dict[str, Entry] = {}
        yield from _write_weights(job, partial, kernels, files)
        for name in side_files(job.source.folder):
            files[name] = _copy(job.source.folder / name, partial / name)
        config = dict(job.checkpoint.raw_config)
        config["quantization_config"] = describe(job.plan.format, job.schemes)
        write_json(partial / CONFIG, config)
        for name in (CONFIG, INDEX):
            if (partial / name).exists():
                size = (partial / name).stat().st_size
                files[name] = Entry(size, sha256_of(partial / name))
        now = _origin(job.source)
        if now != job.origin:
            raise ModelError(
                f"{job.source.name} changed while it was quantized", "run the command again"
            )
        manifest = Manifest(
            f"qwen35cli {__version__}", job.plan.format, rules_of(job.plan), job.origin, files
        )
        write_manifest(partial, manifest)
        _put(partial, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    yield Progress(1.0)


def _write_weights(
    job: Job, folder: Path, kernels: Kernels, files: dict[str, Entry]
) -> Iterator[Progress]:
    """Write the shards, and note each in `files`; with an index where there are several."""
    effort = {
        name: EFFORT[scheme.kind] * math.prod(job.checkpoint.tensors[name].shape)
        for name, scheme in job.schemes.items()
    }
    total, done = sum(effort.values()) or 1.0, 0.0
    converted = quantize_checkpoint(job.checkpoint, job.plan, kernels)
    sizes = {
        source: sum(meta.nbytes for meta in part.values()) for source, part in job.layout.items()
    }
    shards = split(sizes, SHARD_BYTES)  # of source tensors, by the bytes of their results
    weight_map: dict[str, str] = {}
    for number, sources in enumerate(shards, 1):
        file = SINGLE if len(shards) == 1 else SHARD.format(number=number, count=len(shards))
        layout = {name: meta for source in sources for name, meta in job.layout[source].items()}
        weight_map |= dict.fromkeys(layout, file)
        with streamed(folder / file, layout) as stream:
            for source, tensors in islice(converted, len(sources)):
                for name in job.layout[source]:
                    stream.write(name, tensors[name])
                done += effort[source]
                yield Progress(done / total)
        files[file] = stream.entry()
    if len(shards) > 1:
        write_index(folder, weight_map, job.nbytes)


def _copy(source: Path, target: Path) -> Entry:
    """Copy a small file and have it on the disk."""
    with reading(source):
        data = source.read_bytes()
    with target.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return Entry(len(data), hashlib.sha256(data).hexdigest())


# -- the folder's place ----------------------------------------------------------------------------


def _put(partial: Path, target: Path) -> None:
    """Give the complete folder its name in one step; what was there before goes after that."""
    sync_folder(partial)
    if not target.exists():
        partial.rename(target)
    elif _exchange(partial, target):
        pass  # the old one is now `partial`, and goes with it
    else:  # two steps: between them there is none, but never half of one
        old = target.with_name(f"{partial.name}-old")
        target.rename(old)
        partial.rename(target)
        shutil.rmtree(old, ignore_errors=True)
    sync_folder(target.parent)


def _exchange(one: Path, other: Path) -> bool:
    """Swap the names of two folders at once, where the system can."""
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None:
        return False
    result = renameat2(
        AT_FDCWD, os.fsencode(one), AT_FDCWD, os.fsencode(other), ctypes.c_uint(RENAME_EXCHANGE)
    )
    if result == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
        return False
    raise OSError(code, os.strerror(code), str(other))


def _remove_stale(target: Path) -> None:
    """Remove what dead processes left of `target`. To be called with the lock held."""
    for pid, path in partials(target):
        if pid == os.getpid() or not is_alive(pid):
            shutil.rmtree(path, ignore_errors=True)


@contextmanager
def _disk_errors(target: Path) -> Iterator[None]:
    """Say a failure of the disk as one error that names the target."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise DoesNotFitError(
                f"the disk was full before {target} was complete: {error.strerror}; "
                "nothing of it was kept",
                "-o DIR on another disk, or make room",
            ) from None
        raise Qwen35Error(
            f"could not write {target}: {error.strerror or error}", "-o DIR"
        ) from None
