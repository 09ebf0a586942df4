"""Sessions as people and programs get them: the list, a conversation, the line of one that goes."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from .columns import GAP
from .terminal import WIDE
from .words import ago, counted, in_line

if TYPE_CHECKING:
    from rich.table import Table

    from qwen35cli.app.sessions import Entry
    from qwen35cli.app.states_folder import SavedState
    from qwen35cli.app.transcript import Session

LABEL, TITLE = 18, 16  # least widths: of an id, of what a title is worth showing in
FULL_TITLE = 40  # columns that the title gets before the model gets any


def table(entries: "Sequence[Entry]", columns: int | None, now: datetime) -> "Table":
    """A line for each session. A narrow terminal gets fewer columns, none of them cut."""
    from rich.cells import cell_len  # late: not for --help
    from rich.table import Table

    from qwen35cli.app.estimate import size

    found = [(entry, entry.session) for entry in entries]
    labels = [entry.label for entry in entries]
    facts = {
        "used": [ago(entry.used, now) for entry in entries],
        "turns": [str(len(session.turns)) if session else "–" for _, session in found],
        "size": [size(entry.nbytes) for entry in entries],
    }
    models = [in_line(f"{each.model} {each.quant}") if each else "–" for _, each in found]
    titles = [in_line(each.title) if each else "damaged" for _, each in found]

    def width(*cells: str) -> int:
        return max(cell_len(cell) for cell in cells)

    room = columns or WIDE
    table = Table(box=None, pad_edge=False)
    label = min(width("session", *labels), max(LABEL, room // 3))
    table.add_column("session", overflow="fold", width=min(label, room))
    shown, room = [labels], room - label
    for head, cells in facts.items():
        if (need := GAP + width(head, *cells)) <= room:
            table.add_column(head, justify="left" if head == "used" else "right", no_wrap=True)
            shown, room = [*shown, cells], room - need
    if (need := GAP + width("model", *models)) <= room - GAP - FULL_TITLE:
        table.add_column("model", no_wrap=True)
        shown, room = [*shown, models], room - need
    if room >= GAP + TITLE:
        table.add_column("begins", no_wrap=True, overflow="ellipsis", max_width=room - GAP)
        shown = [*shown, titles]
    for row in zip(*shown, strict=True):
        table.add_row(*row)
    return table


def listing_json(entries: "Sequence[Entry]") -> dict[str, Any]:
    """The object of `ls --json`. Keys are only ever added."""
    listed = []
    for entry in entries:
        session = entry.session
        listed.append(
            {
                "id": entry.id,
                "name": session.name if session else None,
                "model": session.model if session else None,
                "quant": session.quant if session else None,
                "turns": len(session.turns) if session else None,
                "title": session.title if session else None,
                "created": session.created.isoformat() if session else None,
                "updated": entry.used.isoformat(),
                "bytes": entry.nbytes,
                "fault": entry.fault or None,
            }
        )
    return {"sessions": listed, "bytes": total(entries)}


def transcript(session: "Session", now: datetime) -> str:
    """The conversation for people to read."""
    from qwen35cli.app.transcript import spoken  # late: not for --help

    facts = (
        session.id,
        *([session.name] if session.name else []),
        f"{session.model} {session.quant}",
        counted(len(session.turns), "turn"),
        f"used {ago(session.updated, now)}",
    )
    blocks = [" · ".join(in_line(fact) for fact in facts)]
    blocks += [f"{role}:\n{text}" for role, text in spoken(session)]
    return "\n\n".join(blocks) + "\n"


def line(going: "Entry | SavedState") -> str:
    """A session or a state that goes, in one line."""
    from qwen35cli.app.estimate import size
    from qwen35cli.app.states_folder import SavedState

    if isinstance(going, SavedState):
        return f"state {going.path.name} · {size(going.nbytes)}"
    session = going.session
    name = f" {session.name}" if session and session.name else ""
    turns = counted(len(session.turns), "turn") if session else "damaged"
    return f"session {going.id}{name} · {turns} · {size(going.nbytes)}"


def total(items: "Iterable[Entry | SavedState]") -> int:
    """Bytes of these on the disk."""
    return sum(item.nbytes for item in items)
