"""What Tab offers: commands, what may follow them, and paths."""

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document

from qwen35cli.app.paths import IMAGES
from qwen35cli.text.sanitize import sanitize

LOOKED_AT = 20_000  # entries of a folder

# The word before the cursor: quoted and not yet closed, or without blanks. Blanks are ASCII.
_WORD = r"""(?P<word>"(?P<double>[^"\n]*)|'(?P<single>[^'\n]*)|(?P<bare>(?:\\.|[^ \t\n"'\\])*))\Z"""
_ARGUMENT = re.compile(r"(?:^|[ \t\n])" + _WORD)
_AT = re.compile(r"(?:^|[ \t\n])@" + _WORD)
_PLAIN = re.compile(r"(?:[\w./~+:,@%=-]|[^\x00-\x7f])*\Z")


@dataclass(frozen=True, slots=True)
class Files:
    """Paths: folders, and files with one of these suffixes; every file where there are none."""

    suffixes: frozenset[str] = frozenset()


ANY_FILE = Files()
PICTURES = Files(IMAGES)

# What may follow a command: paths; values, given what is typed after its name; or nothing.
Argument = Files | Callable[[str], Iterable[str]] | None


class Completions(Completer):
    """Completes the word before the cursor; in ordinary text there is nothing to complete."""

    def __init__(self, commands: Mapping[str, Argument]) -> None:
        self._commands = commands

    def get_completions(
        self, document: Document, complete_event: CompleteEvent
    ) -> Iterator[Completion]:
        text = document.text_before_cursor
        name, blank, typed = text.lstrip().partition(" ")
        if blank and name in self._commands:
            argument = self._commands[name]
            if isinstance(argument, Files):
                yield from _paths(_ARGUMENT.search(typed), argument)
            elif argument is not None:
                yield from _values(typed, argument(typed))
        elif name.startswith("/") and not blank and "/" not in name[1:] and "\n" not in name:
            yield from self._names(name)
        elif at := _AT.search(text):
            yield from _paths(at, ANY_FILE)
        elif (word := _ARGUMENT.search(text)) and _is_path(_typed(word)):
            yield from _paths(word, PICTURES)

    def _names(self, typed: str) -> Iterator[Completion]:
        for name, argument in self._commands.items():
            if name.startswith(typed):
                end = "" if argument is None else " "
                yield Completion(name + end, -len(typed), display=sanitize(name))


def _values(typed: str, values: Iterable[str]) -> Iterator[Completion]:
    """Those that go on from all that is typed after the command, or from its last word."""
    word = re.split(r"[ \t\n]", typed)[-1]
    for value in values:
        for begun in (typed, word):
            if value.startswith(begun):
                yield Completion(value, -len(begun), display=sanitize(value))
                break


def _paths(word: re.Match[str] | None, files: Files) -> Iterator[Completion]:
    if word is None:
        return
    typed = _typed(word)
    if typed == "~":
        yield Completion("~/", -len(word["word"]))
        return
    head, slash, begun = typed.rpartition("/")
    head += slash
    quote = word["word"][:1] if word["bare"] is None else ""
    for name in _names_in(head, begun, files):
        yield Completion(_quoted(head + name, quote), -len(word["word"]), display=sanitize(name))


def _names_in(head: str, begun: str, files: Files) -> list[str]:
    """The names in a folder that begin so, those of folders with a slash; none if unreadable."""
    try:
        with os.scandir(Path(head or ".").expanduser()) as entries:
            return sorted(_fitting(islice(entries, LOOKED_AT), begun, files), key=str.casefold)
    except (OSError, ValueError, RuntimeError):  # gone, a NUL in its name, no such user
        return []


def _fitting(entries: Iterable[os.DirEntry[str]], begun: str, files: Files) -> Iterator[str]:
    for entry in entries:
        name = entry.name
        if not name.startswith(begun) or (name.startswith(".") and not begun):
            continue
        if re.search(r"[\x00-\x1f\x7f]", name):  # nobody could type it
            continue
        if entry.is_dir():
            yield name + "/"
        elif entry.is_file() and (
            not files.suffixes or Path(name).suffix.lower() in files.suffixes
        ):
            yield name


def _typed(word: re.Match[str]) -> str:
    """The word without its quotes and escapes."""
    if word["bare"] is not None:
        return re.sub(r"\\(.)", r"\1", word["bare"])
    return word["double"] if word["double"] is not None else word["single"]


def _is_path(text: str) -> bool:
    return text.startswith(("/", "~/", "./", "../"))


def _quoted(path: str, quote: str) -> str:
    """A path as it is typed: with blanks in quotes, which stay open behind a folder."""
    if not quote and _PLAIN.match(path):
        return path
    for mark in (quote or '"', '"', "'"):
        if mark not in path and not (mark == '"' and "\\" in path):
            return mark + path + ("" if path.endswith("/") else mark)
    return re.sub(r"""([\s"'\\])""", r"\\\1", path)
