"""`qwen35 sessions`: the conversations on disk, listed, shown, written out and removed."""

import re
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from qwen35cli.errors import Qwen35Error, UsageError
from qwen35cli.text.sanitize import sanitize

from . import settings, stdin
from .options import Group, ScreenFlags, flag, grouped, switch
from .terminal import WIDE, Terminal

if TYPE_CHECKING:
    from rich.table import Table

    from qwen35cli.app.sessions import Entry, Store
    from qwen35cli.app.states_folder import SavedState
    from qwen35cli.app.transcript import Session

KEEP = 16 * 2**30  # bytes
UNITS = {"k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}
GAP = 2  # columns between two of a table's
LABEL, TITLE = 18, 16  # least widths: of an id, of what a title is worth showing in
FULL_TITLE = 40  # columns that the title gets before the model gets any
AGES = ((60, "min"), (3600, "h"), (86400, "d"))  # seconds, and what they are called
OLD_S = 30 * 86400  # from here on a date says more

sessions = typer.Typer(
    name="sessions",
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@sessions.callback()
def root(context: typer.Context) -> None:
    """List, show, write out, rename and remove saved conversations.

    NAME is the name of a session, its id or how that begins, or `last`.

    Examples:
      qwen35 sessions ls
      qwen35 sessions show last
      qwen35 sessions export notes -o notes.md
      qwen35 sessions rm 20261126-0912-a1b2
    """
    if context.invoked_subcommand is None:  # as `qwen35` alone
        typer.echo(context.get_help())


def complete(incomplete: str) -> list[tuple[str, str]]:
    """What NAME may be, for the shell."""
    from qwen35cli.app.transcript import LAST

    found: list[tuple[str, str]] = []
    with suppress(Qwen35Error):  # while a line is typed there is no place for an error
        for entry in _store().listing():
            about = _line(entry.session.title) if entry.session else "damaged"
            found += [(known, about) for known in dict.fromkeys((entry.label, entry.id))]
        if found:
            found.append((LAST, "the one used last"))
    return [(known, about) for known, about in found if known.startswith(incomplete)]


NAME_HELP = "A name, an id or how it begins, or `last`."
Name = Annotated[str, typer.Argument(help=NAME_HELP, metavar="NAME", autocompletion=complete)]
Names = Annotated[
    list[str], typer.Argument(help=NAME_HELP, metavar="NAME", autocompletion=complete)
]


def nbytes(text: str | int) -> int:
    """Read a size: `500M`, `2G`, `2GB` and `2GiB` in powers of 1,024; `0`."""
    if isinstance(text, int):
        return text
    known = re.fullmatch(r"([0-9]{1,6}(?:\.[0-9]{1,3})?)\s*([kmgt])i?b?", text.strip().lower())
    if text.strip() != "0" and not known:
        raise typer.BadParameter(f"{text!r} is not a size such as 500M or 2G")
    return round(float(known[1]) * UNITS[known[2]]) if known else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ListFlags(Group):
    """In what form something is listed or shown."""

    json: Annotated[bool, switch("Output", "One JSON object.", "--json")] = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoveFlags(Group):
    """Whether something is removed. No variable agrees to that beforehand."""

    yes: Annotated[
        bool,
        typer.Option("--yes", "-y", rich_help_panel="Behaviour", help="Remove without asking."),
    ] = False
    dry_run: Annotated[
        bool, switch("Behaviour", "Say what would go; remove nothing.", "--dry-run")
    ] = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportFlags(Group):
    """Where a conversation is written, and how."""

    format: Annotated[
        Literal["md", "json"],
        typer.Option(
            "--format",
            rich_help_panel="Output",
            help="Markdown without the thinking, or JSON with everything.",
        ),
    ] = "md"
    output: Annotated[
        Path | None,
        flag("Output", "Write it to FILE.", "--output", "-o", metavar="FILE"),
    ] = None


# -- looking ---------------------------------------------------------------------------------------


@sessions.command()
@grouped
def ls(context: typer.Context, *, flags: ListFlags, screen: ScreenFlags) -> None:
    """List the saved conversations, the one used last first.

    Examples:
      qwen35 sessions ls
      qwen35 sessions ls --json | jq -r '.sessions[].id'
    """
    terminal = _terminal(context, screen)
    entries = _store().listing()
    if flags.json:
        _json(listing_json(entries), terminal)
    elif entries:
        terminal.show(table(entries, terminal.columns, _now()))
    else:
        terminal.say("no session is saved yet; qwen35 chat begins one")
    for entry in entries:
        if not entry.session:
            terminal.warn(
                f"session {entry.id} is damaged: {entry.fault}",
                f"qwen35 sessions rm {entry.id} removes it",
            )


@sessions.command()
@grouped
def show(context: typer.Context, name: Name, *, flags: ListFlags, screen: ScreenFlags) -> None:
    """Show a conversation, without the thinking.

    Examples:
      qwen35 sessions show last
      qwen35 sessions show notes --json | jq -r '.turns[-1].answer'
    """
    from qwen35cli.app.transcript import as_json

    terminal = _terminal(context, screen)
    session = _store().read(name)
    if flags.json:
        _json(as_json(session), terminal)
    else:
        terminal.stdout().write(sanitize(transcript(session, _now())))


@sessions.command()
@grouped
def export(context: typer.Context, name: Name, *, flags: ExportFlags, screen: ScreenFlags) -> None:
    """Write a conversation out. Pictures are named, not held.

    Examples:
      qwen35 sessions export last > chat.md
      qwen35 sessions export notes --format json -o notes.json
    """
    from qwen35cli.app import transcript as use_case

    terminal = _terminal(context, screen)
    text = use_case.export(_store().read(name), flags.format)
    with terminal.sink(flags.output) as sink:
        sink.write(sanitize(text))  # of JSON it changes nothing


# -- changing --------------------------------------------------------------------------------------


@sessions.command()
@grouped
def rename(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help=NAME_HELP, metavar="OLD", autocompletion=complete)],
    new: Annotated[
        str,
        typer.Argument(help="Letters, digits, `-`, `_` and `.`, 64 at most.", metavar="NEW"),
    ],
    *,
    screen: ScreenFlags,
) -> None:
    """Give a conversation a name, or another one.

    Examples:
      qwen35 sessions rename last notes
      qwen35 sessions rename 20261126-0912-a1b2 notes
    """
    terminal = _terminal(context, screen)
    with _store() as store:
        session = store.rename(store.open(name), new)
    terminal.say(f"session {session.id} is called {session.name} now")


@sessions.command()
@grouped
def rm(context: typer.Context, names: Names, *, flags: RemoveFlags, screen: ScreenFlags) -> None:
    """Remove conversations. It asks on a terminal, and needs -y elsewhere.

    Examples:
      qwen35 sessions rm notes
      qwen35 sessions rm 20261126-0912-a1b2 20261127-1430-0c4f -y
      qwen35 sessions rm last --dry-run
    """
    terminal = _terminal(context, screen)
    store = _store()
    ids = {store.find(name) for name in names}
    _remove(store, [], [entry for entry in store.listing() if entry.id in ids], flags, terminal)


@sessions.command()
@grouped
def prune(
    context: typer.Context,
    *,
    keep: Annotated[
        int,
        typer.Option(
            "--keep",
            metavar="SIZE",
            parser=nbytes,
            help="What may stay, such as 500M or 2G.",
            show_default="16G",
        ),
    ] = KEEP,
    flags: RemoveFlags,
    screen: ScreenFlags,
) -> None:
    """Make room: saved state of the model goes first, then conversations, oldest use first.

    State that is gone costs time when its conversation goes on, no more.
    The conversation used last stays.

    Examples:
      qwen35 sessions prune --dry-run
      qwen35 sessions prune --keep 2G
      qwen35 sessions prune --keep 0 -y
    """
    from qwen35cli.app.estimate import size
    from qwen35cli.app.states_folder import over, saved_states

    terminal = _terminal(context, screen)
    store = _store()
    states = saved_states(settings.cache_folder() / "states")
    held = _sum(store.listing()) + _sum(states)
    old = over(states, held - keep)
    left = _sum(states) - _sum(old)
    excess = store.excess(keep - left)
    if old or excess:
        _remove(store, old, excess, flags, terminal)
    else:
        terminal.say(f"{size(held)} are kept, {size(keep)} may be: nothing to remove")


def _remove(
    store: "Store",
    states: "Sequence[SavedState]",
    entries: "Sequence[Entry]",
    flags: RemoveFlags,
    terminal: Terminal,
) -> None:
    """Remove states and sessions, where that is agreed to; each is a line on stdout."""
    from qwen35cli.app.estimate import size
    from qwen35cli.app.states_folder import remove_state

    lines = [f"state {state.path.name} · {size(state.nbytes)}" for state in states]
    lines += [line(entry) for entry in entries]
    freed = size(_sum(states) + _sum(entries))
    out = terminal.stdout()
    if flags.dry_run:
        out.write(sanitize("".join(f"{each}\n" for each in lines)))
        terminal.say(f"{freed} would be freed; nothing was removed")
        return
    if not flags.yes and not _agreed(lines, freed, terminal):
        terminal.say("nothing was removed")
        return
    texts = iter(lines)
    for state in states:
        remove_state(state)
        out.write(sanitize(next(texts)) + "\n")
    for entry in entries:
        store.remove(entry.id)
        out.write(sanitize(next(texts)) + "\n")
    terminal.say(f"{freed} freed")


def _agreed(lines: Sequence[str], freed: str, terminal: Terminal) -> bool:
    """Whether the user wants it.

    Raises:
        UsageError: there is nobody to ask.
    """
    if not (stdin.is_terminal() and terminal.err_is_terminal) or terminal.quiet:
        raise UsageError(
            "removing is asked about on a terminal only, and not under -q",
            "-y removes without asking, --dry-run lists what would go",
        )
    for each in lines:
        terminal.say(each)
    terminal.say(f"remove {'this' if len(lines) == 1 else f'these {len(lines)}'}, {freed}? [y/N]")
    return sys.stdin.buffer.readline().strip().lower() in (b"y", b"yes")


# -- forms -----------------------------------------------------------------------------------------


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
    models = [_line(f"{each.model} {each.quant}") if each else "–" for _, each in found]
    titles = [_line(each.title) if each else "damaged" for _, each in found]

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
    return {"sessions": listed, "bytes": _sum(entries)}


def transcript(session: "Session", now: datetime) -> str:
    """The conversation for people to read."""
    from qwen35cli.app.transcript import spoken  # late: not for --help

    count = len(session.turns)
    facts = (
        session.id,
        *([session.name] if session.name else []),
        f"{session.model} {session.quant}",
        f"{count} turn{'' if count == 1 else 's'}",
        f"used {ago(session.updated, now)}",
    )
    blocks = [" · ".join(_line(fact) for fact in facts)]
    blocks += [f"{role}:\n{text}" for role, text in spoken(session)]
    return "\n\n".join(blocks) + "\n"


def line(entry: "Entry") -> str:
    """A session that goes, in one line."""
    from qwen35cli.app.estimate import size

    session = entry.session
    name = f" {session.name}" if session and session.name else ""
    count = len(session.turns) if session else 0
    turns = f"{count} turn{'' if count == 1 else 's'}" if session else "damaged"
    return f"session {entry.id}{name} · {turns} · {size(entry.nbytes)}"


def ago(then: datetime, now: datetime) -> str:
    """How long ago that was, as one says it; the date where that is long."""
    seconds = (now - then).total_seconds()
    if not -AGES[0][0] < seconds < OLD_S:
        return f"{then.astimezone():%Y-%m-%d}"
    if seconds < AGES[0][0]:
        return "just now"
    unit, name = next((unit, name) for unit, name in reversed(AGES) if seconds >= unit)
    return f"{int(seconds // unit)} {name} ago"


# -- small -----------------------------------------------------------------------------------------


def _terminal(context: typer.Context, screen: ScreenFlags) -> Terminal:
    terminal: Terminal = context.obj
    terminal.configure(screen)
    return terminal


def _store() -> "Store":
    from qwen35cli.app.sessions import Store  # late: not for --help

    return Store(settings.data_folder() / "sessions")


def _line(text: str) -> str:
    """Text of others as it may stand in a line."""
    return " ".join(sanitize(text).split())


def _json(value: dict[str, Any], terminal: Terminal) -> None:
    from qwen35cli.app.transcript import json_text

    terminal.stdout().write(json_text(value) + "\n")


def _sum(items: "Iterable[Entry | SavedState]") -> int:
    return sum(item.nbytes for item in items)


def _now() -> datetime:
    return datetime.now(UTC)
