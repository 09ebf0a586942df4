"""What files of settings say: checked, and laid under the flags of the command that runs.

Weakest first: the system's, the user's, then `.qwen35.toml` of the current folder, which anybody
may have written and which therefore sets little. Variables and flags are stronger than all.
"""

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Final, Literal, get_args, get_origin

import typer

from . import settings
from .config_file import File, found
from .manual import BARE
from .usage import plain
from .values import NUMBERS
from .variables import PREFIX

PRESETS: Final = "presets"  # the table of tables
FILES: Final = "files"
ORIGINS: Final = "origins"
SOURCES: Final = ("DEFAULT", "DEFAULT_MAP", "ENVIRONMENT", "COMMANDLINE")  # the weakest first
PROJECT: Final = {
    *("system", "preset", "temp", "top_p", "top_k", "min_p", "presence_penalty"),
    *("repetition_penalty", "seed", "max_tokens", "think", "think_budget", "answer_reserve"),
    *("keep_thinking", "ctx", "image_max_tokens"),
}
ONE_CALL: Final = {  # what a call is about is said with it
    *("config", "prompt", "file", "image", "images", "output", "continue", "session"),
    *("dry_run", "plan", "force", "plot", "measure"),
}
SAMPLING: Final = {  # key of a preset -> field of Sampling
    "temp": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "min_p": "min_p",
    "presence_penalty": "presence_penalty",
    "repetition_penalty": "repetition_penalty",
}

Preset = Mapping[str, float | int]  # fields of Sampling


@dataclass(frozen=True, slots=True)
class Key:
    """A flag, as a file may set it: the key is the name of its variable in lower case."""

    parameter: str
    kind: type  # bool: a switch; str: text alone; object: text or a number
    many: bool
    names: tuple[str, ...]  # other words for it, to guess by

    def words(self, value: object) -> bool | str | list[str]:
        """The value as the command line would give it.

        Raises:
            ValueError: it is of another type; with the type it should have.
        """
        if self.kind is bool:
            if not isinstance(value, bool):
                raise ValueError("true or false")
            return value
        each: list[Any] = value if self.many and isinstance(value, list) else [value]
        types = (str,) if self.kind is not object else (str, int, float)
        if any(isinstance(one, bool) or not isinstance(one, types) for one in each):
            what = "a number, or text" if self.kind is object else "text in quotes"
            raise ValueError(f"{what}, or a list of them" if self.many else what)
        if any("\0" in str(one) for one in each):
            raise ValueError("no zero character, as no command line does")
        try:
            words = [str(Path(one).expanduser()) if self.kind is Path else str(one) for one in each]
        except RuntimeError:
            raise ValueError("a path, below the folder of a user there is") from None
        return words if self.many else words[0]


@dataclass(frozen=True, slots=True)
class Entry:
    """A value, and where it was found."""

    value: object
    file: File
    place: tuple[str, ...]


# -- for the flags ---------------------------------------------------------------------------------


def read(context: typer.Context, named: Path | None) -> None:
    """Lay the files under the flags of this command; `named` stands in for the user's own file.

    Raises:
        UsageError: a file cannot be read, or something in it is not known or not possible.
    """
    if context.resilient_parsing:
        return
    files = found(named)
    if not files:
        return
    commands, table, own = _commands(context), _table(context), keys(context.command)
    entries: dict[str, Entry] = {}
    presets: dict[str, Preset] = {}
    for file in files:
        found_here = _entries(file, commands)
        for place, value in sorted(found_here, key=lambda entry: len(entry[0])):  # tables last
            key = place[-1]
            if key in own and place[:-1] in ((), (table,)):
                entries[key] = Entry(_words(file, place, value, own[key]), file, place)
        presets |= dict(_presets(file))
    context.meta[_meta(PRESETS)] = presets
    context.meta[_meta(FILES)] = [file.path for file in files]
    context.meta[_meta(ORIGINS)] = {
        own[key].parameter: files.index(entry.file) for key, entry in entries.items()
    }
    for key, entry in entries.items():
        _check(context, key, own[key], entry)
    context.default_map = {own[key].parameter: entry.value for key, entry in entries.items()}


def presets(context: typer.Context) -> Mapping[str, Preset]:
    """The presets of the files, by name: what each puts over a row of the model card."""
    own: Mapping[str, Preset] = context.meta.get(_meta(PRESETS), {})
    return own


def read_files(context: typer.Context) -> list[Path]:
    """The files whose settings hold for this call, the weakest first."""
    return list(context.meta.get(_meta(FILES), ()))


def strength(context: typer.Context, parameter: str) -> tuple[int, int]:
    """How strong the source of a parameter's value is: a stronger one compares as greater."""
    source = context.get_parameter_source(parameter)
    rank = SOURCES.index(source.name) if source is not None and source.name in SOURCES else 0
    origins: Mapping[str, int] = context.meta.get(_meta(ORIGINS), {})
    return rank, origins.get(parameter, 0) if SOURCES[rank] == "DEFAULT_MAP" else 0


def is_typed(context: typer.Context, parameter: str) -> bool:
    """Whether a parameter was given with this call, and not by a variable or a file."""
    return SOURCES[strength(context, parameter)[0]] == "COMMANDLINE"


def keys(command: Any) -> dict[str, Key]:
    """The keys for the flags of a command: those with a variable, but for what one call says."""
    found = {}
    for parameter in inspect.signature(command.callback).parameters.values():
        if get_origin(parameter.annotation) is not Annotated:
            continue
        kind, info, *_ = get_args(parameter.annotation)
        variable = getattr(info, "envvar", None)
        if not isinstance(variable, str) or not variable.startswith(PREFIX):
            continue
        key = variable.removeprefix(PREFIX).lower()
        if key not in ONE_CALL:
            found[key] = _key(parameter.name, kind, info)
    return found


def _key(name: str, kind: Any, info: Any) -> Key:
    kinds = [each for each in get_args(kind) if each is not NoneType]
    if get_origin(kind) not in (list, Literal) and kinds:
        kind = kinds[0]
    many = get_origin(kind) is list
    if many:
        kind = get_args(kind)[0]
    if get_origin(kind) is Literal:
        kind = str
    if info.parser is not None or kind not in (bool, str, Path):
        kind = object
    flags = (part for each in getattr(info, "param_decls", None) or () for part in each.split("/"))
    return Key(name, kind, many, tuple(flag.lstrip("-").replace("-", "_") for flag in flags))


def _commands(context: typer.Context) -> dict[str, dict[str, Key]]:
    """The keys of every table: those of a command, and of all commands of a group."""
    root: Any = context.find_root().command

    def below(command: Any) -> dict[str, Key]:
        if not hasattr(command, "commands"):
            return keys(command)
        return {
            name: key for each in command.commands.values() for name, key in below(each).items()
        }

    each = getattr(root, "commands", {_table(context): root})
    return {name: below(command) for name, command in each.items() if name != BARE}


def _table(context: typer.Context) -> str:
    """The table of this command: its name, or that of the group it is in."""
    within: Any = context
    while within.parent is not None and within.parent.parent is not None:
        within = within.parent
    return "ask" if within.info_name == BARE else str(within.info_name)


def _check(context: typer.Context, key: str, known: Key, entry: Entry) -> None:
    """Have the flag's own parser look at a value.

    Raises:
        UsageError: it is refused.
    """
    parameter = next(each for each in context.command.params if each.name == known.parameter)
    try:
        parameter.process_value(context, entry.value)
    except typer.BadParameter as error:
        entry.file.refuse(entry.place, f"{key}: {plain(error.message)}", _help(context))


def _help(context: typer.Context) -> str:
    return f"{context.command_path.removesuffix(f' {BARE}')} --help"


def _meta(name: str) -> str:
    return f"{__name__}.{name}"


# -- what is in a file -----------------------------------------------------------------------------


def _entries(
    file: File, commands: Mapping[str, Mapping[str, Key]]
) -> Iterator[tuple[tuple[str, ...], object]]:
    """Each key of a file with its value, those in the tables of commands too.

    Raises:
        UsageError: a key that there is not, or that this file may not set.
    """
    anywhere = {name: key for known in commands.values() for name, key in known.items()}
    for name, value in file.data.items():
        if name == PRESETS:
            continue
        if name in anywhere or name not in commands:
            yield _known(file, (name,), anywhere, (*commands, PRESETS)), value
        elif isinstance(value, dict):
            for key, each in value.items():
                yield _known(file, (name, key), commands[name]), each
        else:
            file.refuse((name,), f"{name} is a command, and so a table", f"[{name}]")


def _known(
    file: File, place: tuple[str, ...], known: Mapping[str, Key], tables: tuple[str, ...] = ()
) -> tuple[str, ...]:
    key = place[-1]
    if key in ONE_CALL:
        flag = f"--{key.replace('_', '-')}"
        file.refuse(place, f"{key} is said with each call, not in a file", flag)
    if key not in known:
        words = {other: name for name, each in known.items() for other in each.names}
        words |= {word: name for name, word in SAMPLING.items() if name in known}
        words |= {name: name for name in (*known, *tables)}
        near = _nearest(key, words)
        where = f" of {place[0]}" if place[1:] else ""
        file.refuse(
            place,
            f"there is no setting {key[:40]!r}{where}",
            f"did you mean {near}?" if near else "keys are names of flags, with _ for -",
        )
    if file.of_project and key not in PROJECT:
        own = settings.user_config_file()
        file.refuse(place, f"the file of a project may not set {key}", f"set it in {own}")
    return place


def _words(file: File, place: tuple[str, ...], value: object, key: Key) -> bool | str | list[str]:
    try:
        return key.words(value)
    except ValueError as error:
        form = "true" if key.kind is bool else "2" if key.kind is object else '"text"'
        name = place[-1]
        file.refuse(place, f"{name} takes {error}, not {_spoken(value)}", f"{name} = {form}")


def _presets(file: File) -> Iterator[tuple[str, Preset]]:
    """The presets that a file defines.

    Raises:
        UsageError: one is no table of numbers, or a number is out of range.
    """
    tables = file.data.get(PRESETS, {})
    if not isinstance(tables, dict):
        file.refuse((PRESETS,), f"{PRESETS} is a table of tables", f"[{PRESETS}.NAME]")
    for name, table in tables.items():
        if not isinstance(table, dict):
            file.refuse((PRESETS, name), f"{name[:40]!r} is no table", f"[{PRESETS}.NAME]")
        for key, value in table.items():
            place = (PRESETS, name, key)
            if key not in SAMPLING:
                words = {word: name for name, word in SAMPLING.items()} | {k: k for k in SAMPLING}
                near = _nearest(key, words)
                hint = f"did you mean {near}?" if near else ", ".join(SAMPLING)
                file.refuse(place, f"a preset has no {key[:40]!r}", hint)
            if value not in NUMBERS[key]:
                message = f"{key} takes {NUMBERS[key]}, not {_spoken(value)}"
                file.refuse(place, message, f"{key} = 1")
        yield name, {SAMPLING[key]: value for key, value in table.items()}


def _spoken(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "a table"
    return "a list" if isinstance(value, list) else repr(value)[:40]


def _nearest(word: str, words: Mapping[str, str]) -> str | None:
    """What the nearest of the words stands for."""
    import difflib  # late: only to say what is wrong

    return next((words[near] for near in difflib.get_close_matches(word, words, 1)), None)
