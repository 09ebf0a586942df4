"""`qwen35 sessions`: the conversations on disk, listed, shown, written out and removed."""

import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from qwen35cli.errors import Qwen35Error
from qwen35cli.text.sanitize import sanitize

from . import settings
from .complete import begun
from .flags import Group, flag, grouped, switch
from .manual import Command
from .manual import Group as CommandGroup
from .manual import show as show_help
from .removing import RemoveFlags, remove
from .session_forms import line, listing_json, table, total, transcript
from .terminal import Terminal
from .words import in_line

if TYPE_CHECKING:
    from qwen35cli.app.sessions import Entry, Store
    from qwen35cli.app.states_folder import SavedState

KEEP = 16 * 2**30  # bytes
UNITS = {"k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}

sessions = typer.Typer(
    name="sessions",
    cls=CommandGroup,
    invoke_without_command=True,
    add_completion=False,
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
        show_help(context)


def complete(incomplete: str) -> list[tuple[str, str]]:
    """What NAME may be, for the shell."""
    from qwen35cli.app.transcript import LAST

    found: list[tuple[str, str]] = []
    with suppress(Qwen35Error):  # while a line is typed there is no place for an error
        for entry in _store().listing():
            about = in_line(entry.session.title) if entry.session else "damaged"
            found += [(known, about) for known in dict.fromkeys((entry.label, entry.id))]
        if found:
            found.append((LAST, "the one used last"))
    return begun(found, incomplete)


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


@sessions.command(cls=Command)
@grouped
def ls(context: typer.Context, *, flags: ListFlags) -> None:
    """List the saved conversations, the one used last first.

    Examples:
      qwen35 sessions ls
      qwen35 sessions ls --json | jq -r '.sessions[].id'
    """
    terminal: Terminal = context.obj
    entries = _store().listing()
    if flags.json:
        terminal.write_json(listing_json(entries))
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


@sessions.command(cls=Command)
@grouped
def show(context: typer.Context, name: Name, *, flags: ListFlags) -> None:
    """Show a conversation, without the thinking.

    Examples:
      qwen35 sessions show last
      qwen35 sessions show notes --json | jq -r '.turns[-1].answer'
    """
    from qwen35cli.app.transcript import as_json

    terminal: Terminal = context.obj
    session = _store().read(name)
    if flags.json:
        terminal.write_json(as_json(session))
    else:
        terminal.stdout().write(sanitize(transcript(session, _now())))


@sessions.command(cls=Command)
@grouped
def export(context: typer.Context, name: Name, *, flags: ExportFlags) -> None:
    """Write a conversation out. Pictures are named, not held.

    Examples:
      qwen35 sessions export last > chat.md
      qwen35 sessions export notes --format json -o notes.json
    """
    from qwen35cli.app import transcript as use_case

    terminal: Terminal = context.obj
    text = use_case.export(_store().read(name), flags.format)
    with terminal.sink(flags.output) as sink:
        sink.write(sanitize(text))  # of JSON it changes nothing


# -- changing --------------------------------------------------------------------------------------


@sessions.command(cls=Command)
@grouped
def rename(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help=NAME_HELP, metavar="OLD", autocompletion=complete)],
    new: Annotated[
        str,
        typer.Argument(help="Letters, digits, `-`, `_` and `.`, 64 at most.", metavar="NEW"),
    ],
) -> None:
    """Give a conversation a name, or another one.

    Examples:
      qwen35 sessions rename last notes
      qwen35 sessions rename 20261126-0912-a1b2 notes
    """
    terminal: Terminal = context.obj
    with _store() as store:
        session = store.rename(store.open(name), new)
    terminal.say(f"session {session.id} is called {session.name} now")


@sessions.command(cls=Command)
@grouped
def rm(context: typer.Context, names: Names, *, flags: RemoveFlags) -> None:
    """Remove conversations, each with its saved state.

    It asks on a terminal, and needs -y elsewhere.

    Examples:
      qwen35 sessions rm notes
      qwen35 sessions rm 20261126-0912-a1b2 20261127-1430-0c4f -y
      qwen35 sessions rm last --dry-run
    """
    terminal: Terminal = context.obj
    store = _store()
    ids = {store.find(name) for name in names}
    entries = [entry for entry in store.listing() if entry.id in ids]
    states = [state for state in _states() if state.path.stem in ids]
    _remove(store, [*entries, *states], flags, terminal)


@sessions.command(cls=Command)
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
            rich_help_panel="Behaviour",
            help="What may stay, such as 500M or 2G.",
            show_default="16G",
        ),
    ] = KEEP,
    flags: RemoveFlags,
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
    from qwen35cli.app.states_folder import over

    terminal: Terminal = context.obj
    store = _store()
    states = _states()
    held = total(store.listing()) + total(states)
    old = over(states, held - keep)
    left = total(states) - total(old)
    excess = store.excess(keep - left)
    if old or excess:
        _remove(store, [*old, *excess], flags, terminal)
    else:
        terminal.say(f"{size(held)} are kept, {size(keep)} may be: nothing to remove")


def _remove(
    store: "Store", going: "Sequence[Entry | SavedState]", flags: RemoveFlags, terminal: Terminal
) -> None:
    """Remove sessions and states in this order, if that is agreed to; each is a line on stdout."""
    from qwen35cli.app.estimate import size
    from qwen35cli.app.states_folder import SavedState, remove_state

    lines = [sanitize(line(each)) for each in going]

    def gone() -> Iterator[str]:
        for each, text in zip(going, lines, strict=True):
            if isinstance(each, SavedState):
                remove_state(each)
            else:
                store.remove(each.id)
            yield text

    remove(lines, size(total(going)), gone(), flags, terminal)


# -- small -----------------------------------------------------------------------------------------


def _store() -> "Store":
    from qwen35cli.app.sessions import Store  # late: not for --help

    return Store(settings.data_folder() / "sessions")


def _states() -> "list[SavedState]":
    from qwen35cli.app.states_folder import saved_states  # late: not for --help

    return saved_states(settings.cache_folder() / "states")


def _now() -> datetime:
    return datetime.now(UTC)
