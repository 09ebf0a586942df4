"""Conversations on disk, as text and pictures: a folder for each, its files whole or absent.

`ID/session.json` holds the turns; `ID/images/SHA256` the pictures they name, written before it.
Who writes holds `ID/lock`, in which its process is named; readers take no lock.
"""

import hashlib
import os
import secrets
import shutil
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from difflib import get_close_matches
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from qwen35cli.checkpoint.strict_json import parse_object
from qwen35cli.checkpoint.whole_file import sync_folder
from qwen35cli.errors import ModelError, Qwen35Error, UsageError

from .json_text import json_text
from .locks import naming_lock, session_lock
from .private_files import content, disk_errors, reason, regular_files, write_private
from .states_folder import over
from .transcript import (
    ID,
    LAST,
    Session,
    StoredPicture,
    as_json,
    checked_name,
    from_json,
)

if TYPE_CHECKING:
    from filelock import BaseFileLock

FILE, LOCK, IMAGES, NAMES = "session.json", "lock", "images", ".names.lock"
MAX_BYTES = 64 * 2**20  # of one file


@dataclass(frozen=True, slots=True)
class Entry:
    """A session in the list. One that is damaged has no more than an id, a size and a time."""

    id: str
    nbytes: int
    used: datetime
    session: Session | None
    fault: str = ""  # why there is none

    @property
    def label(self) -> str:
        return self.session.label if self.session else self.id


class Store:
    """The sessions in a folder, and those of them that this program has open for writing."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._locks: dict[str, BaseFileLock] = {}
        self._reserved: set[str] = set()  # written, and nothing is said in them

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    # -- reading --------------------------------------------------------------------------------

    def listing(self) -> list[Entry]:
        """All sessions, the one used last first; damaged ones among them.

        Raises:
            Qwen35Error: the folder cannot be read.
        """
        entries = [entry for id in self._ids() if (entry := self._entry(id))]
        return sorted(entries, key=lambda entry: (entry.used, entry.id), reverse=True)

    def find(self, name: str, *, whole: bool = False) -> str:
        """The id of the session that `name` stands for: `last`, a name, an id or how one begins.

        Args:
            whole: not how one begins.

        Raises:
            UsageError: there is none, or there are several.
        """
        if ID.fullmatch(name) and self._path(name).is_file():
            return name
        entries = self.listing()
        if name == LAST:
            if not entries:
                raise UsageError("no session is saved yet", "qwen35 chat begins one")
            return entries[0].id
        called = unicodedata.normalize("NFC", name)
        found = [entry.id for entry in entries if entry.session and entry.session.name == called]
        if not (found or whole):
            found = [entry.id for entry in entries if name and entry.id.startswith(name)]
        if len(found) == 1:
            return found[0]
        if found:
            several = ", ".join(found[:4]) + (" …" if len(found) > 4 else "")
            raise UsageError(
                f"{name[:80]!r} stands for {len(found)} sessions: {several}",
                "one of these, or more of it",
            )
        raise UsageError(f"no session is called {name[:80]!r}", _nearest(called, entries))

    def read(self, name: str) -> Session:
        """The session that `name` stands for, to look at.

        Raises:
            UsageError: as `find`.
            Qwen35Error: it is damaged, or of another version.
        """
        id = self.find(name)
        try:
            return self._load(id)
        except FileNotFoundError:
            raise UsageError(f"session {id} was removed just now", "qwen35 sessions ls") from None
        except (OSError, ValueError) as error:
            raise Qwen35Error(
                f"{self._path(id)} cannot be used: {reason(error)}",
                f"qwen35 sessions rm {id} removes it",
            ) from None

    def picture(self, session: Session, picture: StoredPicture) -> bytes:
        """The bytes of a picture, those that were put in.

        Raises:
            Qwen35Error: they are gone, or have changed.
        """
        path = self.folder / session.id / IMAGES / picture.digest
        try:
            data = content(path, MAX_BYTES)
            if hashlib.sha256(data).hexdigest() != picture.digest:
                raise ValueError("its bytes have changed")
        except (OSError, ValueError) as error:
            raise Qwen35Error(
                f"the picture {picture.name} of session {session.label} cannot be used: "
                f"{path}: {reason(error)}",
                f"qwen35 sessions export {session.id} keeps the text, "
                f"qwen35 sessions rm {session.id} removes it",
            ) from None
        return data

    # -- writing --------------------------------------------------------------------------------

    def new(
        self, model: str, quant: str, system: str | None = None, name: str | None = None
    ) -> Session:
        """A session that is open for writing. On the disk it is from the first `save`, one with a
        name at once; if nothing is said in it, `close` removes it.

        Raises:
            UsageError: the name cannot be one, or is taken.
            Qwen35Error: the folder cannot be written.
        """
        name = None if name is None else checked_name(name)
        with disk_errors("make a session in", self.folder):
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._sweep()
            with nullcontext() if name is None else self._naming(name):
                id, now = self._claim(), _now()
                session = Session(
                    id=id,
                    name=name,
                    model=model,
                    quant=quant,
                    created=now,
                    updated=now,
                    system=system,
                )
                if name is not None:
                    self._reserved.add(id)
                    try:
                        self._write(session)
                    except BaseException:
                        self._unlock(id)
                        raise
        return session

    def open(self, name: str) -> Session:
        """The session that `name` stands for, open for writing.

        Raises:
            UsageError: as `find`; or another program has it open.
            Qwen35Error: as `read`.
        """
        id = self.find(name)
        if id in self._locks:
            return self.read(id)
        with disk_errors("open", self.folder / id):
            self._lock(id)
        try:
            self._remove_partial(id)
            return self.read(id)
        except BaseException:
            self._unlock(id)
            raise

    def add_picture(self, session: Session, name: str, data: bytes) -> StoredPicture:
        """Keep the bytes of a picture for a turn that the next `save` brings.

        Raises:
            Qwen35Error: they cannot be written.
        """
        self._check_open(session)
        if len(data) > MAX_BYTES:
            raise ValueError(f"{len(data):,} bytes of picture would not be read again")
        digest = hashlib.sha256(data).hexdigest()
        path = self.folder / session.id / IMAGES / digest
        with disk_errors("save", path):
            path.parent.mkdir(mode=0o700, exist_ok=True)
            if not path.is_file() or path.read_bytes() != data:
                write_private(path, data)
        return StoredPicture(name, digest)

    def save(self, session: Session) -> Session:
        """Have the session on the disk, used now, without the pictures that no turn names.

        Raises:
            Qwen35Error: it cannot be written; what was there before still is.
        """
        self._check_open(session)
        session = replace(session, updated=_now())
        self._write(session)
        with disk_errors("tidy", self.folder / session.id / IMAGES):
            for path in regular_files(self.folder / session.id / IMAGES):
                if path.name not in session.digests:
                    path.unlink(missing_ok=True)
        if session.turns:
            self._reserved.discard(session.id)
        elif session.name is None:
            self._reserved.add(session.id)
        return session

    def holds(self, session: Session, digest: str) -> bool:
        """Whether the bytes of a picture are on the disk."""
        return (self.folder / session.id / IMAGES / digest).is_file()

    def rename(self, session: Session, name: str) -> Session:
        """Give an open session a name, and have both on the disk. That is no use of it.

        Raises:
            UsageError: the name cannot be one, or is taken.
            Qwen35Error: as `save`.
        """
        self._check_open(session)
        name = checked_name(name)
        with self._naming(name, session.id):
            session = replace(session, name=name)
            self._write(session)
        return session

    def close(self, session: Session | None = None) -> None:
        """Let other programs open the session, or all that this one has open."""
        for id in [*self._locks]:
            if session is None or id == session.id:
                self._unlock(id)

    def remove(self, id: str) -> None:
        """Remove the session with this id, whole, damaged or not.

        Raises:
            UsageError: another program has it open.
            Qwen35Error: it cannot be removed.
        """
        gone = self.folder / f".{id}.removed"
        with disk_errors("remove", self.folder / id):
            if id not in self._locks:
                self._lock(id)
            try:
                shutil.rmtree(gone, ignore_errors=True)  # of a process that was killed
                (self.folder / id).rename(gone)
            finally:
                self._unlock(id)
            with suppress(FileNotFoundError):  # another program sweeps
                shutil.rmtree(gone)

    def excess(self, cap: int) -> list[Entry]:
        """What must go, oldest use first, for the rest to take at most `cap` bytes.

        The session used last stays, and so does what any program has open.
        """
        entries = self.listing()
        free = (entry for entry in entries[:0:-1] if not self._is_open(entry.id))
        return over(free, sum(entry.nbytes for entry in entries) - cap)

    # -- files ----------------------------------------------------------------------------------

    def _path(self, id: str) -> Path:
        return self.folder / id / FILE

    def _ids(self) -> list[str]:
        with disk_errors("read", self.folder):
            try:
                with os.scandir(self.folder) as found:
                    return sorted(
                        each.name
                        for each in found
                        if ID.fullmatch(each.name) and each.is_dir(follow_symlinks=False)
                    )
            except FileNotFoundError:
                return []

    def _entry(self, id: str) -> Entry | None:
        """None where there is no session any more, or not yet."""
        try:
            nbytes = _nbytes(self.folder / id)
            try:
                session = self._load(id)
            except FileNotFoundError:
                return None
            except (OSError, ValueError) as error:
                used = datetime.fromtimestamp(self._path(id).lstat().st_mtime, UTC)
                return Entry(id, nbytes, used, None, reason(error))
        except OSError as error:  # not even the folder can be looked into
            return Entry(id, 0, datetime.fromtimestamp(0, UTC), None, reason(error))
        return Entry(id, nbytes, session.updated, session)

    def _load(self, id: str) -> Session:
        """Raises ValueError, with the reason, or OSError."""
        try:
            return from_json(id, parse_object(content(self._path(id), MAX_BYTES), "it"))
        except ModelError as error:
            raise ValueError(error.message) from None

    def _write(self, session: Session) -> None:
        path = self._path(session.id)
        for digest in session.digests:
            if not (path.parent / IMAGES / digest).is_file():
                raise ValueError(f"the picture {digest} was not added")
        value = as_json(session)
        del value["id"]  # the folder says it
        data = (json_text(value, indent=2) + "\n").encode()
        if len(data) > MAX_BYTES:
            raise Qwen35Error(
                f"session {session.label} would take {len(data) / 2**20:.1f} MiB, at most "
                f"{MAX_BYTES // 2**20} are read again: it was not saved",
                "/clear begins another",
            )
        is_new = not path.exists()
        with disk_errors("save", path, "make room on that disk; -n saves nothing"):
            write_private(path, data)
            if is_new:
                sync_folder(self.folder)

    def _remove_partial(self, id: str) -> None:
        """Remove what a process left that was killed while it wrote."""
        with disk_errors("tidy", self.folder / id):
            for folder in (self.folder / id, self.folder / id / IMAGES):
                for path in regular_files(folder):
                    if ".partial-" in path.name:
                        path.unlink(missing_ok=True)

    def _sweep(self) -> None:
        """Remove what is no session, but was to be one or has been one, of killed processes."""
        for gone in self.folder.glob(".*.removed"):
            shutil.rmtree(gone, ignore_errors=True)  # another program may sweep too
        for id in self._ids():
            if id not in self._locks and not os.path.lexists(self._path(id)):
                with suppress(UsageError, FileNotFoundError):  # it is one of a running program
                    self._lock(id)
                    self._unlock(id)

    # -- locks ----------------------------------------------------------------------------------

    def _claim(self) -> str:
        """A new id, with its folder and its lock."""
        while True:
            id = f"{_now().astimezone():%Y%m%d-%H%M}-{secrets.token_hex(2)}"
            with suppress(UsageError, FileExistsError, FileNotFoundError):  # taken, or swept away
                (self.folder / id).mkdir(mode=0o700)
                self._lock(id)
                return id

    def _lock(self, id: str) -> None:
        self._locks[id] = session_lock(id, self.folder / id / LOCK)

    def _unlock(self, id: str) -> None:
        """Let go of a session, and of its folder where nothing is kept in it."""
        lock = self._locks.pop(id)
        try:
            if id in self._reserved or not os.path.lexists(self._path(id)):
                self._reserved.discard(id)
                shutil.rmtree(self.folder / id, ignore_errors=True)  # else swept later
        finally:
            lock.release()

    def _is_open(self, id: str) -> bool:
        if id in self._locks:
            return True
        with disk_errors("look at", self.folder / id):
            try:
                self._lock(id)
            except UsageError:
                return True
            self._unlock(id)
        return False

    def _check_open(self, session: Session) -> None:
        if session.id not in self._locks:
            raise ValueError(f"session {session.id} is not open for writing")

    @contextmanager
    def _naming(self, name: str, id: str | None = None) -> Iterator[None]:
        """Alone among programs, with `name` used by no session but `id`."""
        with naming_lock(self.folder / NAMES):
            for entry in self.listing():
                if entry.id != id and entry.session and entry.session.name == name:
                    raise UsageError(
                        f"session {entry.id} is called {name} already",
                        f"another name, or qwen35 sessions rename {name} NEW",
                    )
            yield


# -- small -----------------------------------------------------------------------------------------


def _now() -> datetime:
    return datetime.now(UTC)


def _nearest(name: str, entries: Sequence[Entry]) -> str:
    """What may have been meant, and where to look."""
    if not entries:
        return "none is saved yet: qwen35 chat begins one"
    known = {entry.label for entry in entries} | {entry.id for entry in entries}
    near = get_close_matches(name, sorted(known), 1)
    return (f"did you mean {near[0]}? " if near else "") + "qwen35 sessions ls lists them"


def _nbytes(folder: Path) -> int:
    total = 0
    for path in (*regular_files(folder), *regular_files(folder / IMAGES)):
        with suppress(FileNotFoundError):  # removed just now
            total += path.lstat().st_size
    return total
