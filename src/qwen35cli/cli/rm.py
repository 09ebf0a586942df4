"""`qwen35 rm`: give back room on the disk."""

import shlex
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated

import typer

from qwen35cli.errors import Qwen35Error, UsageError
from qwen35cli.text.sanitize import sanitize

from .complete import begun
from .flags import grouped
from .ls import places
from .removing import RemoveFlags, remove
from .terminal import Terminal
from .words import in_line, size

if TYPE_CHECKING:
    from qwen35cli.app.items import Item
    from qwen35cli.app.removal import Removal


def complete(incomplete: str) -> list[tuple[str, str]]:
    """What NAME may be, for the shell."""
    from qwen35cli.app.inventory import look

    with suppress(Qwen35Error):  # while a line is typed there is no place for an error
        items = look(places()).items
        return begun(((in_line(item.name), item.kind) for item in items), incomplete)
    return []


Names = Annotated[
    list[str] | None,
    typer.Argument(
        help="A name as `qwen35 ls` shows it.",
        metavar="NAME",
        show_default=False,
        autocompletion=complete,
    ),
]
CacheOnly = Annotated[
    bool,
    typer.Option(
        "--cache",
        rich_help_panel="Behaviour",
        help="Saved state only: all of it, or that of the sessions named.",
    ),
]


@grouped
def rm(
    context: typer.Context,
    names: Names = None,
    cache: CacheOnly = False,
    *,
    flags: RemoveFlags,
) -> None:
    """Remove what `qwen35 ls` lists.

    It asks on a terminal, and needs -y elsewhere. A session goes with its saved state. Of the
    shared Hugging Face cache goes what nothing else uses. What another program holds stays.

    Examples:
      qwen35 rm Qwen/Qwen3.5-4B --dry-run
      qwen35 rm Qwen/Qwen3.5-4B:int4-g32 -y
      qwen35 rm --cache
      qwen35 rm notes --cache
    """
    terminal: Terminal = context.obj
    if not names and not cache:
        raise UsageError("nothing is named that could go", "qwen35 ls lists the names")
    from qwen35cli.app import removal as use_case
    from qwen35cli.app.inventory import look

    found = look(places())
    removal = use_case.removal(found, names or [], cache_only=cache)
    if not removal.items:
        terminal.say("there is no saved state: nothing to remove")
        return
    lines = [line(item) for item in removal.items]
    going = (line(item) for item in use_case.remove(found, removal))
    if remove(lines, size(removal.freed), going, flags, terminal):
        tell_unused(removal, terminal)


def tell_unused(removal: "Removal", terminal: Terminal) -> None:
    """Say which weights were made of what goes, and stay."""
    for item in removal.unused:
        name = in_line(item.name)
        terminal.say(
            f"{name}, made from {in_line(item.source)}, stays: "
            f"qwen35 rm {shlex.quote(name)} frees {size(item.nbytes)}"
        )


def line(item: "Item") -> str:
    """A thing that goes, in one line."""
    return sanitize(f"{item.kind} {in_line(item.name)} · {size(item.nbytes)}")
