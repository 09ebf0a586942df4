"""One file from the Hub into a partial file of ours, from where that ends, with every byte hashed.

The partial file outlives the process, however that ends. It is named by the content it will have,
so what two runs bring belongs together; the server's own tag of it goes along as If-Range.
"""

import errno
import os
import re
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from qwen35cli.errors import DoesNotFitError, ModelError, Qwen35Error

from .hub import HubFile
from .remote import GO_ON, Attempts, Passing, Remote, Retrying
from .verified import Digest, hashed

CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+)")
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True, slots=True)
class Reading:
    """So many bytes of the partial file were read again, to go on with their hash."""

    done: int


@dataclass(frozen=True, slots=True)
class Received:
    """The partial file has so many bytes."""

    done: int


@dataclass(frozen=True, slots=True)
class Discarded:
    """What was received was wrong and is removed; it is tried once more from the beginning."""

    reason: str


class WrongContent(Exception):
    """The content is not what was published; the text says how."""


Event = Reading | Received | Discarded | Retrying


def fetch(remote: Remote, url: str, file: HubFile, part: Path) -> Generator[Event, None, Digest]:
    """Complete `part`, have it on the disk and prove its hash.

    Raises:
        ModelError: the server refuses, fails again and again, or has other content, twice.
        DoesNotFitError: the disk is full; what there is stays.
        Qwen35Error: the disk fails.
    """
    for last in (False, True):
        try:
            digest = yield from _Transfer(remote, url, file, part).run()
            if wrong := digest.mismatch():
                found, expected = wrong
                raise WrongContent(f"its {found} is not the published {expected}")
        except WrongContent as error:
            with disk_errors(part):
                discard(part)
            if last:
                raise ModelError(
                    f"{file.name} came with wrong content twice: {error}; nothing of it was kept",
                    f"{remote.host} or something before it changes files: try another network, "
                    "or HF_ENDPOINT",
                ) from None
            yield Discarded(str(error))
        else:
            return digest
    raise AssertionError("unreachable")


def discard(part: Path) -> None:
    """Remove a partial file and what belongs to it."""
    part.unlink(missing_ok=True)
    _tag_file(part).unlink(missing_ok=True)


class _Transfer:
    """The requests for one file, until it is complete."""

    def __init__(self, remote: Remote, url: str, file: HubFile, part: Path) -> None:
        self.remote, self.url, self.file, self.part = remote, url, file, part
        self.offset = 0
        self.digest = Digest(file)
        self.tag = _read_tag(part)
        self.attempts = Attempts(remote.patience, remote.patience.tries)

    def run(self) -> Generator[Event, None, Digest]:
        with disk_errors(self.part):
            stream = self.part.open("r+b" if self.part.exists() else "x+b", buffering=0)
        with stream:
            yield from self._read_again(stream)
            mark = self.offset
            while self.offset < self.file.size:
                try:
                    yield from self._request(stream)
                    if self.offset < self.file.size:
                        raise Passing(f"{self.remote.host} ended the file too early")
                except Passing as error:
                    if self.offset - mark >= self.remote.patience.progress_bytes:
                        self.attempts.failures = 0
                    mark = self.offset
                    retrying = self.attempts.failed(error, self._stopped(), GO_ON)
                    yield retrying
                    time.sleep(retrying.wait_s)
            with disk_errors(self.part):
                os.fsync(stream.fileno())
        return self.digest

    def _read_again(self, stream: BinaryIO) -> Iterator[Event]:
        """Hash what an earlier run left."""
        with disk_errors(self.part):
            if os.fstat(stream.fileno()).st_size > self.file.size:
                self._restart(stream)
            for done in hashed(self.part, self.digest):
                yield Reading(done)
                self.offset = done
            stream.seek(self.offset)

    def _request(self, stream: BinaryIO) -> Iterator[Event]:
        """Ask for what is missing, and write what comes."""
        headers = {}
        if self.offset:
            headers["range"] = f"bytes={self.offset}-"
            if self.tag is not None:
                headers["if-range"] = self.tag
        with self.remote.open(self.url, headers, self.file.name) as response:
            tag = _strong(response.headers.get("etag"))
            if response.status_code == 416:
                self._restart(stream)
                raise Passing(f"{self.remote.host} has no bytes after those that are here")
            if response.status_code == 206:
                self._check_range(response.headers.get("content-range", ""), stream)
            elif self.offset:
                if "if-range" in headers and tag != self.tag:
                    self._keep_tag(None)  # another one of the same content: its hash will tell
                    response.close()
                    yield from self._request(stream)
                    return
                self._restart(stream)
            if tag != self.tag:
                self._keep_tag(tag)
            for chunk in self.remote.body(response):
                if self.offset + len(chunk) > self.file.size:
                    raise WrongContent(f"it has more than the published {self.file.size:,} bytes")
                with disk_errors(self.part):
                    _write(stream, chunk)
                self.digest.update(chunk)
                self.offset += len(chunk)
                yield Received(self.offset)

    def _check_range(self, content_range: str, stream: BinaryIO) -> None:
        """Hold a partial answer to what was asked for."""
        known = CONTENT_RANGE.fullmatch(content_range)
        first, total = (int(known[1]), int(known[2])) if known else (-1, -1)
        if total not in (-1, self.file.size):
            raise WrongContent(
                f"the server's has {total:,} bytes, the published {self.file.size:,}"
            )
        if first != self.offset:
            self._restart(stream)
            raise Passing(f"{self.remote.host} answers with another range than was asked for")

    def _restart(self, stream: BinaryIO) -> None:
        with disk_errors(self.part):
            stream.seek(0)
            stream.truncate()
        self._keep_tag(None)
        self.offset, self.digest = 0, Digest(self.file)

    def _keep_tag(self, tag: str | None) -> None:
        self.tag = tag
        with disk_errors(self.part):
            if tag is None:
                _tag_file(self.part).unlink(missing_ok=True)
            else:
                _tag_file(self.part).write_text(tag)

    def _stopped(self) -> str:
        done, size = self.offset, self.file.size
        return f"download of {self.file.name} stopped at {done:,} of {size:,} bytes"


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Say what the disk refuses as one error; a full one is no reason to try again."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise DoesNotFitError(
                f"the disk of {path.parent} is full: {error.strerror}",
                "make room and run the same command again, it goes on from there; "
                "or HF_HUB_CACHE=DIR on another disk",
            ) from None
        raise Qwen35Error(
            f"could not write {path}: {error.strerror or error}",
            "HF_HUB_CACHE=DIR names another folder",
        ) from None


def _write(stream: BinaryIO, chunk: bytes) -> None:
    """Write all of it: a file without a buffer may take less."""
    view = memoryview(chunk)
    while view:
        view = view[stream.write(view) :]


def _tag_file(part: Path) -> Path:
    return part.with_name(f"{part.name}.etag")


def _read_tag(part: Path) -> str | None:
    with suppress(OSError, UnicodeDecodeError):
        return _strong(_tag_file(part).read_text()[:200])
    return None


def _strong(tag: str | None) -> str | None:
    """A tag that may stand in If-Range; None for a weak one, or none."""
    return tag if tag is not None and re.fullmatch(r'"[\x21\x23-\x7e]+"', tag) else None
