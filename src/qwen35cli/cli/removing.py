"""Removing what is on disk: the flags of it, and the question that comes first."""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated

import typer

from qwen35cli.errors import UsageError

from . import stdin
from .flags import Group, switch
from .keyboard import forget_typed
from .terminal import Terminal


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


def remove(
    lines: Sequence[str], freed: str, going: Iterator[str], flags: RemoveFlags, terminal: Terminal
) -> bool:
    """Have things removed, if that is wanted; False where it is not.

    Args:
        lines: what they are.
        freed: how much that frees.
        going: removes them one by one, and gives the line of each that is gone.

    Raises:
        UsageError: there is nobody to ask.
    """
    out = terminal.stdout()
    if flags.dry_run:
        out.write("".join(f"{each}\n" for each in lines))
        terminal.say(f"{freed} would be freed; nothing was removed")
    elif flags.yes or _agreed(lines, freed, terminal):
        for each in going:
            out.write(f"{each}\n")
        terminal.say(f"{freed} freed")
    else:
        terminal.say("nothing was removed")
        return False
    return True


def _agreed(lines: Sequence[str], freed: str, terminal: Terminal) -> bool:
    """Whether the user wants what `lines` name removed."""
    if not (stdin.is_terminal() and terminal.err_is_terminal) or terminal.quiet:
        raise UsageError(
            "removing is asked about on a terminal only, and not under -q",
            "-y removes without asking, --dry-run lists what would go",
        )
    forget_typed()
    for each in lines:
        terminal.say(each)
    terminal.say(f"remove {'this' if len(lines) == 1 else f'these {len(lines)}'}, {freed}? [y/N]")
    return sys.stdin.buffer.readline().strip().lower() in (b"y", b"yes")
