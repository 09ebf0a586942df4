"""The list of commands. A module is imported when its command is called, not for the list."""

from collections.abc import Iterator, Mapping
from functools import cache
from importlib import import_module
from typing import Any, Final

import typer

from .manual import BARE, Command, Group, Sections

# The first sentence of each command's docstring, the commonest command first.
LIST: Final[Sections] = {
    "Talk": [
        ("chat", "Talk, turn by turn; conversations are kept."),
        ("ask", "Answer once, then exit."),
        ("sessions", "List, show, write out, rename and remove saved conversations."),
    ],
    "Models": [
        ("pull", "Download a model and prove each file's hash."),
        ("verify", "Hash every file of a model, and of the weights made from it."),
        ("quantize", "Write int4, int8 or nf4 weights once, for later runs."),
        ("info", "Say what a checkpoint is, without reading its weights."),
        ("ls", "List what is kept on disk, with its size."),
        ("rm", "Remove what `qwen35 ls` lists."),
    ],
    "This machine": [
        ("vram", "Say how much memory a model needs, before it is loaded."),
        ("doctor", "Look at this machine, and say what is wrong and what mends it."),
        ("bench", "Measure how fast a model runs here, and in how much memory."),
        ("tune", "Find the fastest launches of the GPU kernels on this card."),
    ],
}
NAMES: Final = (*(name for rows in LIST.values() for name, _ in rows), BARE)
MODULES: Final = {BARE: "ask"}  # of commands that are not in one of their name


class Commands(Mapping[str, Any]):
    """Name to command, imported at the first look."""

    def __getitem__(self, name: str) -> Any:
        if name not in NAMES:
            raise KeyError(name)
        return _command(name)

    def __iter__(self) -> Iterator[str]:
        return iter(NAMES)

    def __len__(self) -> int:
        return len(NAMES)


class Root(Group):
    """`qwen35` itself. Whoever lists its commands gets their names and sentences only."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands: Any = Commands()

    def listed(self) -> Sections:
        return LIST

    def list_commands(self, ctx: object) -> list[str]:
        return [*NAMES]

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        for switch in self.get_params(ctx):
            if switch.default is None:
                switch.default = False  # to look at None, Typer imports pydantic
        return super().parse_args(ctx, args)

    def get_command(self, ctx: object, cmd_name: str) -> Any:
        said = {name: about for rows in LIST.values() for name, about in rows} | {BARE: ""}
        if cmd_name in said:
            return Command(cmd_name, help=said[cmd_name], hidden=cmd_name == BARE)
        return None

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, command, rest = super().resolve_command(ctx, args)
        return name, command and self.commands[name], rest


@cache
def _command(name: str) -> Any:
    found = getattr(import_module(f".{MODULES.get(name, name)}", __package__), name)
    if isinstance(found, typer.Typer):
        return typer.main.get_command(found)
    alone = typer.Typer(add_completion=False)
    alone.command(name, cls=Command, hidden=name == BARE)(found)
    return typer.main.get_command(alone)
