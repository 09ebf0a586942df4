"""`qwen35 ls`: everything that is kept on disk, with its size."""

import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import typer

from . import settings
from .columns import GAP, fitted
from .flags import grouped
from .sessions import ListFlags
from .terminal import Terminal
from .words import home, in_line, size

if TYPE_CHECKING:
    from rich.table import Table

    from qwen35cli.app.inventory import Inventory
    from qwen35cli.app.items import Item, Places


@grouped
def ls(context: typer.Context, *, flags: ListFlags) -> None:
    """List what is kept on disk, with its size.

    Checkpoints of the shared Hugging Face cache, quantized weights, sessions, saved state, compiled
    GPU kernels and the history; what is damaged, unfinished or not used any more among them.

    Examples:
      qwen35 ls
      qwen35 ls --json | jq -r '.items[] | select(.kind == "checkpoint") | .path'
    """
    terminal: Terminal = context.obj
    from qwen35cli.app import inventory as use_case

    found = use_case.look(places())
    if flags.json:
        terminal.write_json(as_json(found))
    elif found.items:
        terminal.show(table(found.items, terminal.columns))
        terminal.stdout().write("\n")
        terminal.show(sums(found, terminal.columns))
    else:
        terminal.say("nothing is kept yet; qwen35 pull fetches a model")
    for item in found.items:
        if item.fault or item.is_unused:
            terminal.warn(*fault(item))


def places() -> "Places":
    """The folders of this user."""
    from qwen35cli.app.items import Places  # late: not for --help
    from qwen35cli.checkpoint.hub import cache_folder

    return Places(
        data=settings.data_folder(),
        cache=settings.cache_folder(),
        hub=cache_folder(),
        history=settings.history_file(),
    )


def fault(item: "Item") -> tuple[str, str]:
    """What is wrong with it, and what mends that."""
    name, repo = in_line(item.name), item.snapshot.repo if item.snapshot else ""
    removes = f"qwen35 rm {shlex.quote(name)} removes it"
    if item.kind == "unfinished":
        goes_on = f"qwen35 pull {repo} goes on with it, " if repo else ""
        return f"{name}: {in_line(item.fault)}", goes_on + removes
    if item.fault:
        again = {
            "checkpoint": f"qwen35 pull {repo} fetches what is missing, ",
            "launches": "qwen35 tune makes them again, ",
        }
        return f"{name} cannot be used: {in_line(item.fault)}", again.get(item.kind, "") + removes
    return (
        f"{name} is not used by itself: {in_line(item.source)}, of which it was made, is gone",
        f"qwen35 chat --model {shlex.quote(str(item.path))} runs it still, {removes}",
    )


# -- for people ------------------------------------------------------------------------------------


def table(items: "Sequence[Item]", columns: int | None) -> "Table":
    """A line for each."""
    cells: dict[str, list[str]] = {  # the first are the last to go
        "size": [size(item.nbytes) for item in items],
        "kind": [item.kind for item in items],
        "format": [state(item) for item in items],
        "context": ["–" if item.ctx is None else f"{item.ctx:,}" for item in items],
        "source": [in_line(item.source) for item in items],
        "path": [home(item.path) for item in items],
    }
    order = ("kind", "source", "format", "context", "size", "path")
    names = [in_line(item.name) for item in items]
    return fitted("name", names, cells, columns, order=order, right=("size", "context"))


def state(item: "Item") -> str:
    """The format, or what is wrong."""
    if item.pid is not None:
        return f"being written, pid {item.pid}"
    if item.fault:
        return "unfinished" if item.kind == "unfinished" else "unusable"
    return (in_line(item.format) or "–") + (", unused" if item.is_unused else "")


def sums(found: "Inventory", columns: int | None) -> "Table":
    """What each kind takes, and where it is; a narrow terminal gets the sizes alone."""
    from rich.cells import cell_len  # late, as the next: not for --help
    from rich.table import Table

    from qwen35cli.app.items import KINDS, total

    made = Table(box=None, pad_edge=False, show_header=False)
    made.add_column(no_wrap=True)
    made.add_column(justify="right", no_wrap=True)
    rows = []
    for kind, label in KINDS.items():
        items = [item for item in found.items if item.kind == kind]
        if items:
            rows.append((label, size(total(items)), "; ".join(_folders(found, items))))
    rows.append(("in all", size(found.nbytes), ""))
    width = sum(max(map(cell_len, cells)) for cells in zip(*rows, strict=True)) + 2 * GAP
    for row in rows:
        made.add_row(*(row if columns is None or width <= columns else row[:2]))
    return made


def _folders(found: "Inventory", items: "Sequence[Item]") -> list[str]:
    """The folders that things are in, of those that they are kept in."""
    roots = {
        "checkpoint": found.places.hub,
        "quantized": found.places.data / "quantized",
        "session": found.places.data / "sessions",
    }
    folders = (roots.get(item.kind) or item.path.parent for item in items)
    return [home(folder) for folder in dict.fromkeys(folders)]


# -- for programs ----------------------------------------------------------------------------------


def as_json(found: "Inventory") -> dict[str, Any]:
    """The object of `--json`. Keys are only ever added."""
    from qwen35cli.app.items import KINDS, total

    kinds = {kind: [item for item in found.items if item.kind == kind] for kind in KINDS}
    return {
        "items": [
            {
                "name": item.name,
                "kind": item.kind,
                "source": item.source,
                "format": item.format or None,
                "bytes": item.nbytes,
                "ctx": item.ctx,
                "path": str(item.path),
                "used": item.used.isoformat(),
                "fault": item.fault or None,
                "unused": item.is_unused,
                "pid": item.pid,
                "revision": item.snapshot.commit if item.snapshot else None,
                "verified": item.snapshot.is_verified if item.snapshot else None,
            }
            for item in found.items
        ],
        "bytes_by_kind": {kind: total(items) for kind, items in kinds.items() if items},
        "bytes": found.nbytes,
    }
