"""`--help` as a page of a manual: plain text, whole at any width, written without a library."""

import re
import shutil
import textwrap
from collections.abc import Iterator
from itertools import groupby
from typing import Any

from typer.core import TyperCommand, TyperGroup

BARE = "bare"  # the command that flags without a command are taken for
OTHERS = "Options"  # the section of the flags that have no panel
LAST = ("Behaviour", OTHERS)  # of the sections
WIDEST = 100  # columns; longer lines are hard to read
MOST_LABEL = 26  # columns of a flag that still has what it does beside it
LEAST_SAID = 34  # columns that this needs; where there are fewer, it stands under the flag
UNDER = " " * 8
TIED = "\N{NO-BREAK SPACE}"
MOST_TIED = 24  # characters that are kept on a line

Rows = list[tuple[str, str]]  # what to write, and what it does
Sections = dict[str, Rows]


class Command(TyperCommand):
    """A command with such a help, whose terminal gives the hints that it can follow."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if ctx.obj is not None:
            ctx.obj.context = ctx
        return super().parse_args(ctx, args)

    def get_short_help_str(self, limit: int = 0) -> str:
        return sentence(self.help or "")

    def format_help(self, ctx: Any, formatter: Any) -> None:
        formatter.write(_page(self, ctx))

    def get_help_option(self, ctx: Any) -> Any:
        return _through_terminal(super().get_help_option(ctx))


class Group(TyperGroup):
    """A command of commands, which it lists first."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        formatter.write(_page(self, ctx, self.listed()))

    def get_help_option(self, ctx: Any) -> Any:
        return _through_terminal(super().get_help_option(ctx))

    def listed(self) -> Sections:
        """Its commands by section, and a sentence about each."""
        return {
            "Commands": [(name, sentence(each.help or "")) for name, each in self.commands.items()]
        }


def sentence(text: str) -> str:
    """The first of a docstring."""
    return " ".join(text.partition("\n\n")[0].split()).partition(". ")[0].removesuffix(".") + "."


def show(context: Any) -> None:
    """Write the help of a command to stdout."""
    context.obj.stdout().write(context.get_help() + "\n")


def _through_terminal(option: Any) -> Any:
    """The flag, with a full disk and a reader that went away told as they always are."""

    def callback(context: Any, _: object, wanted: bool) -> None:
        if wanted and not context.resilient_parsing:
            show(context)
            context.exit()

    option.callback = callback
    return option


def _page(command: Any, context: Any, *above: Sections) -> str:
    width = min(shutil.get_terminal_size().columns, WIDEST)
    usage = re.sub(r"\{(\w+)\}", r"\1", command.get_usage(context).replace(f" {BARE}", ""))
    lines = list(_wrapped(usage, width))
    lines += ["", *_paragraphs(command.help or "", width)]
    for sections in (*above, _parameters(command, context)):
        labels = [len(label) for rows in sections.values() for label, _ in rows]
        room = max(length for length in labels if length <= MOST_LABEL)
        for name, rows in sections.items():
            lines += ["", f"{name}:"]
            for label, said in rows:
                lines += _entry(label, said, room, width)
    if command.epilog:
        lines += ["", *_paragraphs(command.epilog, width)]
    return "\n".join(lines)


def _paragraphs(text: str, width: int) -> Iterator[str]:
    """A docstring: its lines are filled, but for those set in, as examples are."""
    for as_they_are, group in groupby(text.splitlines(), key=lambda line: line[:1] in ("", " ")):
        lines = [*group]
        yield from lines if as_they_are else _wrapped(" ".join(lines), width)


def _entry(label: str, said: str, room: int, width: int) -> Iterator[str]:
    beside = " " * (2 + room + 2)
    if width - len(beside) < LEAST_SAID:
        yield f"  {label}"
        yield from _wrapped(said, width, UNDER)
        return
    lines = list(_wrapped(said, width, beside)) or [beside]
    if len(label) > room:
        lines.insert(0, beside)
    yield f"  {label:<{room}}  {lines[0][len(beside) :]}".rstrip()
    yield from lines[1:]


def _wrapped(text: str, width: int, indent: str = "") -> Iterator[str]:
    lines = textwrap.wrap(
        text,
        width,
        initial_indent=indent,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
    yield from (line.replace(TIED, " ") for line in lines)


def _parameters(command: Any, context: Any) -> Sections:
    """Arguments, then the flags by panel, in the order in which they are defined."""
    sections: Sections = {}
    for parameter in command.get_params(context):
        if parameter.param_type_name == "argument":
            row = (parameter.metavar or str(parameter.name).upper(), _said(parameter))
            sections.setdefault("Arguments", []).append(row)
            continue
        rows = sections.setdefault(parameter.rich_help_panel or OTHERS, [])
        rows.append((_label(parameter, context), _said(parameter)))
    return dict(
        sorted(
            sections.items(),
            key=lambda section: LAST.index(section[0]) if section[0] in LAST else -1,
        )
    )


def _label(option: Any, context: Any) -> str:
    """`-o, --output FILE`; long names stand below each other, with a short one or without."""
    names = sorted((*option.opts, *option.secondary_opts), key=lambda name: name[:2] == "--")
    before = "" if len(names[0]) == 2 else "    "
    kind = "" if option.is_flag else (option.display_type_rich(context) or "").strip("<>")
    return f"{before}{', '.join(names)} {kind}".rstrip()


def _said(parameter: Any) -> str:
    """What it does, its variable, and what holds without it."""
    said = [parameter.help or ""]
    if parameter.envvar:
        said.append(f"[env:{TIED}{parameter.envvar}]")
    shown, value = parameter.show_default, parameter.default
    if shown is True and value is not None and not isinstance(value, bool):
        shown = str(value)
    if isinstance(shown, str):
        default = f"[default:{TIED}{shown}]"
        said.append(default.replace(" ", TIED) if len(default) <= MOST_TIED else default)
    return " ".join(said)
