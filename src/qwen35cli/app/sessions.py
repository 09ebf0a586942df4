"""Conversations on disk, as text and pictures: a folder for each, its files whole or absent.

`ID/session.json` holds the turns; `ID/images/SHA256` the pictures they name, written before it.
Who writes holds `ID/lock`, in which its process is named; readers take no lock. torch is imported
only by what writes.
"""

import hashlib
import json
import os
import re
import secrets
import shutil
import stat
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from difflib import get_close_matches
from pathlib import Path
from types import NoneType, TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar

from qwen35cli.checkpoint.strict_json import parse_object
from qwen35cli.errors import ModelError, Qwen35Error, UsageError

if TYPE_CHECKING:
    from filelock import BaseFileLock

VERSION = 1
FILE, LOCK, IMAGES, NAMES = "session.json", "lock", "images", ".names.lock"
LAST = "last"  # what the session that was used last is called
ID = re.compile(r"\d{8}-\d{4}-[0-9a-f]{4}")
NAME = re.compile(r"[^\W_][\w.-]{0,63}")
DIGEST = re.compile(r"[0-9a-f]{64}")
MAX_BYTES = 64 * 2**20  # of one file
MAX_TITLE = 80  # characters
NAMING_S = 10.0  # patience with another program that gives a name just now
YEARS = range(1970, 9999)
# Exact in JSON, but not safe to show, or not to be encoded: written as \uXXXX.
ESCAPED = re.compile("[\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class StoredPicture:
    """A picture that a question holds; its bytes are kept beside the text."""

    name: str
    digest: str  # SHA-256 of the bytes, in hex


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredTurn:
    """A question and what came of it."""

    parts: tuple[str | StoredPicture, ...]
    answer: str | None = None  # None: asked, and not answered yet
    reasoning: str = ""
    finish: str | None = None
    thinking: bool
    prompt_tokens: int = 0
    cached_tokens: int = 0
    image_tokens: int = 0
    reasoning_tokens: int = 0
    answer_tokens: int = 0
    context_tokens: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """A conversation as it is kept."""

    id: str
    name: str | None
    model: str
    quant: str
    created: datetime  # as `updated`, of a known time zone
    updated: datetime
    system: str | None
    turns: tuple[StoredTurn, ...] = ()

    @property
    def label(self) -> str:
        return self.name or self.id

    @property
    def title(self) -> str:
        """How the first question begins, in one line."""
        parts = self.turns[0].parts if self.turns else ()
        words = " ".join(part if isinstance(part, str) else f"[{part.name}]" for part in parts)
        line = " ".join(words[: 20 * MAX_TITLE].split())
        return line if len(line) <= MAX_TITLE else line[: MAX_TITLE - 1] + "…"

    @property
    def digests(self) -> set[str]:
        """Of all pictures that are named."""
        parts = (part for turn in self.turns for part in turn.parts)
        return {part.digest for part in parts if isinstance(part, StoredPicture)}


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


@dataclass(frozen=True, slots=True)
class SavedState:
    """A file with the state of a model after some tokens; to lose it costs time only."""

    path: Path
    nbytes: int
    used: datetime


Item = TypeVar("Item", Entry, SavedState)


class Store:
    """The sessions in a folder, and those of them that this program has open for writing."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._locks: dict[str, BaseFileLock] = {}
        self._reserved: set[str] = set()  # named, and nothing was said yet

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

    def find(self, name: str) -> str:
        """The id of the session that `name` stands for: `last`, a name, an id or how one begins.

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
        found = found or [entry.id for entry in entries if name and entry.id.startswith(name)]
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
                f"{self._path(id)} cannot be used: {_reason(error)}",
                f"qwen35 sessions rm {id} removes it",
            ) from None

    def last(self) -> Session:
        """The session used last, to look at. Raises: as `read`."""
        return self.read(LAST)

    def picture(self, session: Session, picture: StoredPicture) -> bytes:
        """The bytes of a picture, those that were put in.

        Raises:
            Qwen35Error: they are gone, or have changed.
        """
        path = self.folder / session.id / IMAGES / picture.digest
        try:
            data = _content(path)
            if hashlib.sha256(data).hexdigest() != picture.digest:
                raise ValueError("its bytes have changed")
        except (OSError, ValueError) as error:
            raise Qwen35Error(
                f"the picture {picture.name} of session {session.label} cannot be used: "
                f"{path}: {_reason(error)}",
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
        with _disk_errors("make a session in", self.folder):
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
        with _disk_errors("open", self.folder / id):
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
        with _disk_errors("save", path):
            path.parent.mkdir(mode=0o700, exist_ok=True)
            if not path.is_file() or path.read_bytes() != data:
                _write_private(path, data)
        return StoredPicture(name, digest)

    def save(self, session: Session) -> Session:
        """Have the session on the disk, used now, without the pictures that no turn names.

        Raises:
            Qwen35Error: it cannot be written; what was there before still is.
        """
        self._check_open(session)
        session = replace(session, updated=_now())
        self._write(session)
        with _disk_errors("tidy", self.folder / session.id / IMAGES):
            for path in _files(self.folder / session.id / IMAGES):
                if path.name not in session.digests:
                    path.unlink(missing_ok=True)
        if session.turns:
            self._reserved.discard(session.id)
        return session

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
        with _disk_errors("remove", self.folder / id):
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

    def prune(self, cap: int) -> list[Entry]:
        """Remove what `excess` names. Raises: as `remove`."""
        excess = self.excess(cap)
        for entry in excess:
            self.remove(entry.id)
        return excess

    # -- files ----------------------------------------------------------------------------------

    def _path(self, id: str) -> Path:
        return self.folder / id / FILE

    def _ids(self) -> list[str]:
        with _disk_errors("read", self.folder):
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
                return Entry(id, nbytes, used, None, _reason(error))
        except OSError as error:  # not even the folder can be looked into
            return Entry(id, 0, datetime.fromtimestamp(0, UTC), None, _reason(error))
        return Entry(id, nbytes, session.updated, session)

    def _load(self, id: str) -> Session:
        """Raises ValueError, with the reason, or OSError."""
        try:
            return _decoded(id, parse_object(_content(self._path(id)), "it"))
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
        with _disk_errors("save", path, "make room on that disk; -n saves nothing"):
            _write_private(path, data)
            if is_new:
                _sync(self.folder)

    def _remove_partial(self, id: str) -> None:
        """Remove what a process left that was killed while it wrote."""
        with _disk_errors("tidy", self.folder / id):
            for folder in (self.folder / id, self.folder / id / IMAGES):
                for path in _files(folder):
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
        from filelock import FileLock, Timeout  # late: 50 ms

        path = self.folder / id / LOCK
        lock = FileLock(path, timeout=0, mode=0o600, thread_local=False)
        try:
            lock.acquire()
        except Timeout:
            raise UsageError(
                f"session {id} is open in another qwen35{_holder(path)}",
                "leave it there first; --session NAME takes another",
            ) from None
        try:
            path.write_text(str(os.getpid()))
        except BaseException:
            lock.release()
            raise
        self._locks[id] = lock

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
        with _disk_errors("look at", self.folder / id):
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
        from filelock import FileLock, Timeout  # late: 50 ms

        path = self.folder / NAMES
        lock = FileLock(path, timeout=NAMING_S, mode=0o600, thread_local=False)
        with _disk_errors("lock", path):
            try:
                lock.acquire()
            except Timeout:
                raise Qwen35Error(f"another qwen35 holds {path}", "try again") from None
        try:
            for entry in self.listing():
                if entry.id != id and entry.session and entry.session.name == name:
                    raise UsageError(
                        f"session {entry.id} is called {name} already",
                        f"another name, or qwen35 sessions rename {name} NEW",
                    )
            yield
        finally:
            lock.release()


# -- saved state -----------------------------------------------------------------------------------


def saved_states(folder: Path) -> list[SavedState]:
    """The files with state in the cache, oldest use first.

    Raises:
        Qwen35Error: the folder cannot be read.
    """
    found = []
    with _disk_errors("read", folder):
        for path in _files(folder):
            if path.suffix == ".safetensors":
                with suppress(FileNotFoundError):  # removed just now
                    info = path.lstat()
                    used = datetime.fromtimestamp(info.st_mtime, UTC)
                    found.append(SavedState(path, info.st_size, used))
    return sorted(found, key=lambda state: (state.used, state.path.name))


def remove_state(state: SavedState) -> None:
    """Remove the file of a state, unless it is gone.

    Raises:
        Qwen35Error: it cannot be removed.
    """
    with _disk_errors("remove", state.path):
        state.path.unlink(missing_ok=True)


def over(items: Iterable[Item], nbytes: int) -> list[Item]:
    """The first of the items that together take at least so many bytes."""
    taken: list[Item] = []
    for item in items:
        if nbytes <= 0:
            break
        taken.append(item)
        nbytes -= item.nbytes
    return taken


# -- forms -----------------------------------------------------------------------------------------


def checked_name(name: str) -> str:
    """`name` in the form in which it is kept.

    Raises:
        UsageError: it is none that a session can have.
    """
    name = unicodedata.normalize("NFC", name)
    if not NAME.fullmatch(name) or name == LAST or ID.fullmatch(name):
        raise UsageError(
            f"{name[:80]!r} cannot be the name of a session",
            "1 to 64 letters, digits, '-', '_' and '.', a letter or digit first",
        )
    return name


def export(session: Session, format: Literal["md", "json"]) -> str:
    """The session as Markdown without the thinking, or as JSON with everything."""
    if format == "json":
        return json_text(as_json(session), indent=2) + "\n"
    begun = f"{session.created.astimezone():%Y-%m-%d %H:%M}"
    blocks = [f"# {session.label}", f"{session.model} {session.quant} · {begun}"]
    for role, text in spoken(session):
        blocks += [f"## {role.capitalize()}", text]
    return "\n\n".join(blocks) + "\n"


def spoken(session: Session) -> Iterator[tuple[str, str]]:
    """Role and text of every message, without the thinking; what is not text is in brackets."""
    if session.system is not None:
        yield "system", session.system
    for turn in session.turns:
        parts = (part if isinstance(part, str) else f"[{part.name}]" for part in turn.parts)
        yield "user", "\n\n".join(parts)
        if turn.answer is None:
            yield "assistant", "[no answer yet]"
        else:
            cut = "" if turn.finish in ("stop", None) else f"[{turn.finish}]"
            yield "assistant", "\n\n".join(filter(None, (turn.answer, cut)))


def as_json(session: Session) -> dict[str, Any]:
    """The session as a JSON object; with its version, what is kept on the disk."""
    turns = []
    for turn in session.turns:
        value = asdict(turn)
        value["parts"] = [
            part if isinstance(part, str) else {"picture": part.name, "sha256": part.digest}
            for part in turn.parts
        ]
        turns.append(value)
    return {
        "version": VERSION,
        "id": session.id,
        "name": session.name,
        "model": session.model,
        "quant": session.quant,
        "created": session.created.isoformat(),
        "updated": session.updated.isoformat(),
        "system": session.system,
        "turns": turns,
    }


def json_text(value: object, indent: int | None = None) -> str:
    """JSON that any file and any terminal takes, whatever the texts in it hold."""
    text = json.dumps(value, indent=indent, ensure_ascii=False)
    return ESCAPED.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


STRING, MAYBE, WHOLE = (str,), (str, NoneType), (int,)
SESSION = {
    "version": WHOLE,
    "name": MAYBE,
    "model": STRING,
    "quant": STRING,
    "created": STRING,
    "updated": STRING,
    "system": MAYBE,
    "turns": (list,),
}
COUNTS = tuple(field.name for field in fields(StoredTurn) if field.name.endswith("_tokens"))
TURN = {
    "parts": (list,),
    "answer": MAYBE,
    "reasoning": STRING,
    "finish": MAYBE,
    "thinking": (bool,),
    **dict.fromkeys(COUNTS, WHOLE),
}
PICTURE = {"picture": STRING, "sha256": STRING}


def _decoded(id: str, raw: dict[str, Any]) -> Session:
    """Raises ValueError, with the reason."""
    version = raw.get("version")
    if type(version) is int and version != VERSION:
        raise ValueError(f"it has version {version}, this qwen35 reads {VERSION}")
    _check(raw, SESSION, "it")
    name = raw["name"]
    if name is not None and not NAME.fullmatch(name):
        raise ValueError(f"{name[:80]!r} cannot be a name")
    return Session(
        id=id,
        name=name,
        model=raw["model"],
        quant=raw["quant"],
        created=_time(raw["created"]),
        updated=_time(raw["updated"]),
        system=raw["system"],
        turns=tuple(_turn(turn, f"turn {i}") for i, turn in enumerate(raw["turns"], 1)),
    )


def _turn(raw: Any, where: str) -> StoredTurn:
    _check(raw, TURN, where)
    for count in COUNTS:
        if not 0 <= raw[count] < 2**63:
            raise ValueError(f"{where}: {count} cannot be {str(raw[count])[:40]}")
    return StoredTurn(**raw | {"parts": tuple(_part(part, where) for part in raw["parts"])})


def _part(raw: Any, where: str) -> str | StoredPicture:
    if isinstance(raw, str):
        return raw
    _check(raw, PICTURE, f"{where}: a part")
    if not DIGEST.fullmatch(raw["sha256"]):
        raise ValueError(f"{where}: {raw['sha256'][:80]!r} is no SHA-256")
    return StoredPicture(raw["picture"], raw["sha256"])


def _check(raw: Any, kinds: Mapping[str, tuple[type, ...]], where: str) -> None:
    if not isinstance(raw, dict) or raw.keys() != kinds.keys():
        raise ValueError(f"{where} is not made of {', '.join(kinds)}")
    for key, allowed in kinds.items():
        if type(raw[key]) not in allowed:
            raise ValueError(f"{where}: {key} is a JSON {type(raw[key]).__name__}")


def _time(text: str) -> datetime:
    time = datetime.fromisoformat(text)
    if time.tzinfo is None or time.year not in YEARS:
        raise ValueError(f"{text[:40]!r} is no time with its zone")
    return time


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


def _holder(path: Path) -> str:
    """Which process a lock names, in words; nothing where it has not written that yet."""
    with suppress(OSError, ValueError):
        return f" (pid {int(path.read_text()[:20])})"
    return ""


def _reason(error: OSError | ValueError) -> str:
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)


def _content(path: Path) -> bytes:
    """The bytes of a file. Raises ValueError where it is too large, or no file but a pipe."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise ValueError("it is not a regular file")
    with path.open("rb") as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise ValueError(f"it has more than {MAX_BYTES // 2**20} MiB")
    return data


def _write_private(path: Path, data: bytes) -> None:
    """Write a file that is whole or absent, and for its owner alone."""
    from qwen35cli.checkpoint.write import whole_file  # late: it imports torch

    with whole_file(path) as file:
        Path(file.name).chmod(0o600)
        file.write(data)


def _sync(folder: Path) -> None:
    from qwen35cli.checkpoint.write import sync_folder  # late: it imports torch

    sync_folder(folder)


def _files(folder: Path) -> list[Path]:
    """The regular files in a folder, which may be absent."""
    try:
        with os.scandir(folder) as found:
            return [Path(each) for each in found if each.is_file(follow_symlinks=False)]
    except FileNotFoundError:
        return []


def _nbytes(folder: Path) -> int:
    total = 0
    for path in (*_files(folder), *_files(folder / IMAGES)):
        with suppress(FileNotFoundError):  # removed just now
            total += path.lstat().st_size
    return total


@contextmanager
def _disk_errors(doing: str, path: Path, hint: str = "") -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise Qwen35Error(f"could not {doing} {path}: {_reason(error)}", hint) from None
