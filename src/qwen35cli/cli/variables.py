"""The variables `QWEN35_…`: which there are, and which of those that are set nothing reads."""

from collections.abc import Iterator
from typing import Any, Final

import typer

from . import settings

PREFIX: Final = "QWEN35_"


def variables(command: Any) -> Iterator[str]:
    """The variables that flags are read from, of a command and of all below it."""
    for parameter in command.params:
        names = parameter.envvar or ()
        yield from [names] if isinstance(names, str) else names
    for other in getattr(command, "commands", {}).values():
        yield from variables(other)


def strays(context: typer.Context) -> Iterator[tuple[str, str]]:
    """Variables that look like ours and that nothing reads; what may have been meant."""
    unknown = {name for name in settings.environment() if name.startswith(PREFIX)}
    unknown -= {*variables(context.command), *settings.VARIABLES}
    if not unknown:
        return
    from qwen35cli.app.unread import unread  # late: only to say what is wrong

    known = {*variables(context.find_root().command), *settings.VARIABLES}
    for name in sorted(unknown - known):
        yield unread(name[:60], known)
