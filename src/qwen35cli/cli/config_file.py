"""A file of settings: found, read, and where in it something stands."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NoReturn

from qwen35cli.errors import UsageError

from . import settings

PROJECT_FILE: Final = Path(".qwen35.toml")
HINT: Final = 'text stands in quotes: key = "text"; a table is [name]'
MOST_LOOKS: Final = 20  # at lines, to find one


@dataclass(frozen=True, slots=True)
class File:
    """A file of settings as it was read, and where in it something stands."""

    path: Path
    text: str = ""
    data: Mapping[str, Any] = field(default_factory=dict)
    of_project: bool = False

    def refuse(self, place: tuple[str, ...], message: str, hint: str) -> NoReturn:
        """Raises: UsageError: always, with the line that `place` is on."""
        line = line_of(self.text, place)
        where = f"{self.path}, line {line}" if line else f"{self.path}"
        raise UsageError(f"{where}: {message}", hint)


def found(named: Path | None = None) -> list[File]:
    """The files that are there, the weakest first. `/dev/null` names none.

    Raises:
        UsageError: one cannot be read or is no TOML, or the `named` one is not there.
    """
    wanted = [*settings.system_config_files(), named or settings.user_config_file(), PROJECT_FILE]
    files = []
    for path in wanted:
        if path == settings.NO_FILE:
            continue
        try:
            files.append(_read(path, of_project=path is PROJECT_FILE))
        except (FileNotFoundError, NotADirectoryError):
            if path is named:
                raise UsageError(
                    f"there is no file {path}", "--config FILE, or QWEN35_CONFIG"
                ) from None
    return files


def _read(path: Path, *, of_project: bool) -> File:
    try:
        path.lstat()  # most are not there: nothing more is imported for them
    except (FileNotFoundError, NotADirectoryError):
        raise
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from None
    from qwen35cli.app.toml_file import read_toml

    text, data = read_toml(path, HINT)
    return File(path, text, data, of_project)


def line_of(text: str, place: tuple[str, ...]) -> int | None:
    """The line that brings in the key or table at `place`; None where it takes long to find.

    It is the last of the lines with its name before which the text is whole, and without it.
    """
    import tomllib

    lines = text.split("\n")
    named = [number for number, line in enumerate(lines, 1) if place[-1] in line]
    for number in reversed(named if len(named) <= MOST_LOOKS else []):
        try:
            inside: Any = tomllib.loads("\n".join(lines[: number - 1]))
        except tomllib.TOMLDecodeError:
            continue  # in the middle of a value
        for name in place:
            inside = inside.get(name) if isinstance(inside, dict) else None
        if inside is None:
            return number
    return None
