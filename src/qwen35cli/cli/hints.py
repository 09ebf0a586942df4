"""Hints, of which a command gives the ways out that it has the flags for."""

import re
from collections.abc import Iterator
from typing import Any, Final

BETWEEN: Final = re.compile(r"(; (?:or )?|, or |, (?=-))")  # two ways out
CALL: Final = re.compile(r"\bqwen35 .*")  # what it says is for another command
FLAG: Final = re.compile(r"(?<!\S)--?[a-z][a-z-]*")


def followed(hint: str, context: Any) -> str:
    """What of a hint the command of `context` can follow; "" where that is nothing.

    For a command that takes the model as an argument, `--model demo` is the call with that.
    """
    own = {*_flags(context.command)}
    named = {*FLAG.findall(hint)} - own
    if not named:
        return hint
    others = named & {*_flags(context.find_root().command)}
    as_argument = any(each.metavar == "MODEL" for each in context.command.params)
    parts = ["", *BETWEEN.split(hint)]  # what stands before a way out, and that
    kept = ""
    for between, way in zip(parts[::2], parts[1::2], strict=True):
        said = CALL.sub("", way)
        rest = way.removeprefix(said)
        if as_argument and "--model" in others:
            said = said.replace("--model ", f"{context.command_path} ")
        if not others & {*FLAG.findall(said)}:
            kept += (between if kept else "") + said + rest
    return kept


def _flags(command: Any) -> Iterator[str]:
    """The flags of a command and of all below it."""
    for parameter in command.params:
        yield from (*parameter.opts, *parameter.secondary_opts)
    for other in getattr(command, "commands", {}).values():
        yield from _flags(other)
