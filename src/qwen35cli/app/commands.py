"""The slash commands of the REPL, as data, and how a typed line is told from a message."""

import difflib
from dataclasses import dataclass

from qwen35cli.errors import UsageError


@dataclass(frozen=True, slots=True)
class Command:
    """A slash command: its name, other spellings, what follows it, what it does."""

    name: str
    help: str
    argument: str = ""
    aliases: tuple[str, ...] = ()


COMMANDS = (
    Command("/image", "attach pictures to the next message", "PATH…"),
    Command("/clear", "start a new conversation with the same system prompt"),
    Command("/help", "show this list", aliases=("/?",)),
    Command("/exit", "leave, as Ctrl-D on an empty line", aliases=("/quit", "/bye")),
)
BY_NAME = {name: command for command in COMMANDS for name in (command.name, *command.aliases)}


def parse(line: str) -> tuple[Command, str] | None:
    """The command in `line` with what follows it; None for a message.

    A line is a command if its first word is one, or if it begins with a slash and holds no other:
    `/home/me/cat.jpg` is text.

    Raises:
        UsageError: an unknown command. It is never sent to the model.
    """
    word, _, rest = line.strip().partition(" ")
    if word in BY_NAME:
        return BY_NAME[word], rest.strip()
    if not word.startswith("/") or "/" in line.strip()[1:]:
        return None
    near = difflib.get_close_matches(word, [name for name in BY_NAME if len(name) > 2], 1)
    raise UsageError(
        f"unknown command {word}; nothing was sent",
        f"did you mean {near[0]}?" if near else "/help lists the commands",
    )


def help_lines() -> list[str]:
    """The list for `/help`."""
    rows = [(" ".join((command.name, command.argument)).strip(), command) for command in COMMANDS]
    width = max(len(usage) for usage, _ in rows)
    return [
        f"{usage:<{width}}  {command.help}"
        + (f" (also {', '.join(command.aliases)})" if command.aliases else "")
        for usage, command in rows
    ]
