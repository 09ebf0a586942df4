"""What is kept on disk, as a list of things with names and sizes. Free of torch."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final, Literal

from qwen35cli.checkpoint.hub_cache import Snapshot

Kind = Literal[
    "checkpoint", "quantized", "session", "state", "kernels", "launches", "history", "unfinished"
]
KINDS: Final[Mapping[Kind, str]] = {  # in the order of the list, and what they are called together
    "checkpoint": "checkpoints",
    "quantized": "quantized weights",
    "session": "sessions",
    "state": "saved state",
    "kernels": "compiled kernels",
    "launches": "tuned launches",
    "history": "history",
    "unfinished": "unfinished",
}


@dataclass(frozen=True, slots=True)
class Places:
    """The folders in which things are kept. Any may be absent."""

    data: Path
    cache: Path
    hub: Path  # shared with other programs
    history: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """Something on disk.

    Attributes:
        names: what it may be called, the best first, which is its own alone.
        source: what it was made from or comes from.
        format: of weights; "" where there are none.
        ctx: tokens: the most that a model takes, or those that were said or saved.
        fault: why it cannot be used; "" where nothing was seen.
        made_from: the folder of the checkpoint that these weights were quantized from.
        pid: the process that writes it now.
        snapshot: of the Hugging Face cache.
        id: of a session.
    """

    kind: Kind
    names: tuple[str, ...]
    source: str
    path: Path
    nbytes: int
    used: datetime
    format: str = ""
    ctx: int | None = None
    fault: str = ""
    made_from: Path | None = None
    pid: int | None = None
    snapshot: Snapshot | None = None
    id: str = ""

    @property
    def name(self) -> str:
        """What it is called in the list."""
        return self.names[0]

    @property
    def is_unused(self) -> bool:
        """Whether weights run by their folder alone, as what they were made from is gone."""
        return self.made_from is not None and not self.made_from.is_dir()


def total(items: Iterable[Item]) -> int:
    """Bytes of these on the disk; a file that several have counts once."""
    blobs: dict[Path, int] = {}
    nbytes = 0
    for item in items:
        if item.snapshot is None:
            nbytes += item.nbytes
        else:
            blobs |= item.snapshot.blobs
    return nbytes + sum(blobs.values())
