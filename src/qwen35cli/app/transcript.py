"""A conversation as it is kept: its turns, its name, and the forms it is written and read in."""

import re
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from types import NoneType
from typing import Any, Literal

from qwen35cli.errors import UsageError

from .json_text import json_text
from .units import cut

VERSION = 1
LAST = "last"  # what the session that was used last is called
ID = re.compile(r"\d{8}-\d{4}-[0-9a-f]{4}")
NAME = re.compile(r"[^\W_][\w.-]{0,63}")
DIGEST = re.compile(r"[0-9a-f]{64}")
MAX_TITLE = 80  # characters
YEARS = range(1970, 9999)


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
        return cut(" ".join(words[: 20 * MAX_TITLE].split()), MAX_TITLE)

    @property
    def digests(self) -> set[str]:
        """Of all pictures that are named."""
        parts = (part for turn in self.turns for part in turn.parts)
        return {part.digest for part in parts if isinstance(part, StoredPicture)}


def checked_name(name: str) -> str:
    """`name` in the form in which it is kept.

    Raises:
        UsageError: it is none that a session can have.
    """
    name = unicodedata.normalize("NFC", name)
    if name == LAST or ID.fullmatch(name):
        raise UsageError(
            f"{name!r} cannot be the name of a session",
            "another name: `last` and the number of a session name one already",
        )
    if not NAME.fullmatch(name):
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
        yield "user", "\n\n".join(filter(None, (part.strip("\r\n") for part in parts)))
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


def from_json(id: str, raw: dict[str, Any]) -> Session:
    """The session that `as_json` gave, without its id.

    Raises:
        ValueError: it is not as we write it, or of another version; with the reason.
    """
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
