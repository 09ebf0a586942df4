"""The slash commands of the REPL, as data, and how a typed line is told from a message."""

import difflib
from dataclasses import dataclass

from qwen35cli.errors import UsageError


@dataclass(frozen=True, slots=True)
class Command:
    """A slash command.

    Attributes:
        argument: what follows it; "" for nothing.
        more: what `/help COMMAND` says beyond `help`.
    """

    name: str
    help: str
    argument: str = ""
    aliases: tuple[str, ...] = ()
    more: str = ""


COMMANDS = (
    Command("/help", "this list, or one command in full", "[COMMAND]", ("/?",)),
    Command(
        "/clear",
        "begin a new conversation with the same system prompt",
        more="The old one stays saved; /sessions lists it, /load opens it again.",
    ),
    Command(
        "/image",
        "attach pictures to the next message",
        "PATH…",
        more="Each stands as [image 1] in the line; deleting that takes it back. A path typed in a "
        "message, or a file dropped on the terminal, attaches a picture too.",
    ),
    Command("/paste", "attach the picture on the clipboard, as Ctrl-V does"),
    Command(
        "/read",
        "put text files before the next message",
        "PATH…",
        more='Wildcards are expanded. @file or @"a b.txt" inside a message does the same.',
    ),
    Command(
        "/system",
        "show the system prompt, or say another",
        "[TEXT]",
        more="It stands before everything, so that all is read again with the next message. "
        "/system - takes it away.",
    ),
    Command(
        "/think",
        "thinking on or off, its budget, or how it is shown",
        "[on|off|N|none|show|hide|last]",
        more="show leaves it on the screen, hide counts it only, last prints that of the last "
        "answer. Without an argument it is shown in a few lines until it is over; /think fold "
        "goes back to that. /no_think at the end of a message is for that message alone.",
    ),
    Command(
        "/set",
        "change how answers are made and shown",
        "KEY VALUE",
        more="/show lists the keys. A value of `default` takes a change back.",
    ),
    Command("/show", "what is set", "[KEY]"),
    Command("/regen", "answer the last question again"),
    Command("/undo", "take back the last turn, or the last N", "[N]"),
    Command(
        "/edit",
        "change the last question in your editor and ask it anew",
        "[answer]",
        more="/edit answer opens the answer instead, and goes on from its end.",
    ),
    Command("/continue", "go on with an answer that was cut"),
    Command("/ctx", "what fills the context"),
    Command("/stats", "speed of the last turn, totals, memory"),
    Command("/save", "name this session", "[NAME]"),
    Command("/load", "open another session", "NAME"),
    Command("/sessions", "list the sessions"),
    Command("/copy", "copy the last answer"),
    Command("/cc", "copy its last block of code, or the N-th", "[N]"),
    Command("/exit", "leave, as Ctrl-D on an empty line", aliases=("/quit", "/bye")),
)
BY_NAME = {name: command for command in COMMANDS for name in (command.name, *command.aliases)}
SWITCH = "/no_think"  # begins a message, not a command


def parse(line: str) -> tuple[Command, str] | None:
    """The command in `line` with what follows it; None for a message.

    A line is a command if its first word is one, or if it begins with a slash and holds no other:
    `/home/me/cat.jpg` is text.

    Raises:
        UsageError: an unknown command. It is never sent to the model.
    """
    word, *rest = line.split(maxsplit=1) or [""]
    if word in BY_NAME:
        return BY_NAME[word], "".join(rest).strip()
    if word == SWITCH and not rest:
        raise UsageError(f"{SWITCH} goes with a message; nothing was sent", "/think off")
    if not word.startswith("/") or "/" in line.strip()[1:] or word == SWITCH:
        return None
    near = difflib.get_close_matches(word[:40], [name for name in BY_NAME if len(name) > 2], 1)
    raise UsageError(
        f"unknown command {word[:40]}; nothing was sent",
        f"did you mean {near[0]}?" if near else "/help lists the commands",
    )


def help_lines(name: str = "") -> list[str]:
    """The list for `/help`, or all about one command, with or without its slash.

    Raises:
        UsageError: there is no such command.
    """
    if name:
        command = BY_NAME.get("/" + name.removeprefix("/"))
        if command is None:
            raise UsageError(f"there is no command {name}", "/help lists them")
        lines = [_usage(command), command.help, command.more, _spelled(command)]
        return [line for line in lines if line]
    rows = [(_usage(command), command) for command in COMMANDS]
    width = max(len(usage) for usage, command in rows if len(usage) < 20)
    lines = []
    for usage, command in rows:
        also = f" ({_spelled(command)})" if command.aliases else ""
        if len(usage) > width:
            lines.append(usage)
            usage = ""
        lines.append(f"{usage:<{width}}  {command.help}{also}")
    return lines


def _usage(command: Command) -> str:
    return f"{command.name} {command.argument}".strip()


def _spelled(command: Command) -> str:
    return f"also {', '.join(command.aliases)}" if command.aliases else ""
