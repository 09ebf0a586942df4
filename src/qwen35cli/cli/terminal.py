"""The only module that writes: the answer to stdout or a file (`answer_file`), all else to stderr.

What comes from the model, a file or the user passes through the sanitiser on its way out; the only
escapes on a stream are our own, and none where that stream is not a terminal. stdout and stderr are
judged separately.
"""

import base64
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from io import StringIO
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, TextIO

import typer

from qwen35cli.errors import InterruptedByUser, Qwen35Error
from qwen35cli.text.sanitize import sanitize

from . import answer_file, settings, signals
from .answer_file import AnswerFile
from .hints import followed

if TYPE_CHECKING:
    from rich.console import RenderableType

    from .flags import ScreenFlags

Style = Literal["dim", "red", "yellow"]
ON: dict[Style, str] = {"dim": "\x1b[2m", "red": "\x1b[31m", "yellow": "\x1b[33m"}
OFF = "\x1b[0m"
ERASE_LINE = "\r\x1b[2K"
UP = "\x1b[{}A"
ERASE_BELOW = "\x1b[J"
CLIPBOARD = "\x1b]52;c;{}\x07"
USUAL = 80  # columns of a terminal that does not say
WIDE = 240  # columns of a table that goes to a pipe or a file


class ReaderGone(Exception):
    """The reader of our pipe went away. Not an OSError, so that no library swallows it."""


class Sink(Protocol):
    """Where the answer goes."""

    def write(self, text: str) -> None: ...


class Terminal:
    """The two streams of the program, and how much is said on the second."""

    def __init__(self, out: TextIO | None = None, err: TextIO | None = None) -> None:
        self._out = out or sys.stdout
        self._err = err or sys.stderr
        self.quiet = False
        self.verbose = False
        self.out_is_terminal = _is_terminal(self._out)
        self.err_is_terminal = _is_terminal(self._err)
        self._color = settings.wants_color("auto", is_terminal=self.err_is_terminal)
        self.out_color = settings.wants_color("auto", is_terminal=self.out_is_terminal)
        self.context: typer.Context | None = None  # of the command that runs, if one does
        self._passing: list[int] = []  # columns of each passing line on the screen
        self._midline = False  # the last thing said did not end its line
        for stream in (self._out, self._err):
            if reconfigure := getattr(stream, "reconfigure", None):
                reconfigure(encoding="utf-8", errors="replace", newline="\n")

    def configure(self, flags: "ScreenFlags") -> None:
        """Take over what the command line says about colour and loudness."""
        color = "never" if flags.no_color else flags.color
        self._color = settings.wants_color(color, is_terminal=self.err_is_terminal)
        self.out_color = settings.wants_color(color, is_terminal=self.out_is_terminal)
        self.quiet, self.verbose = flags.quiet, flags.verbose

    def help(self, context: typer.Context) -> None:
        """The help of a command that could not be carried out, on stderr."""
        self._emit(context.get_help() + "\n")

    # -- the answer -----------------------------------------------------------------------------

    def stdout(self) -> Sink:
        """The answer's place on stdout.

        Raises:
            Qwen35Error: stdout is closed.
        """
        if self._out is None:
            raise Qwen35Error(
                "stdout is closed, there is nowhere to write", "end the command with > FILE"
            )
        return _Stream(self._out, self)

    @property
    def columns(self) -> int | None:
        """The width of the terminal that stdout is; None where it is none."""
        return shutil.get_terminal_size().columns if self.out_is_terminal else None

    @property
    def err_columns(self) -> int:
        """The width of the terminal that stderr is, or of a usual one."""
        try:
            return os.get_terminal_size(self._err.fileno()).columns or USUAL
        except (OSError, ValueError):  # it is none
            return shutil.get_terminal_size().columns

    @property
    def passing_columns(self) -> int:
        """The width of passing lines: a ^C that the terminal shows behind one begins no other."""
        return max(1, self.err_columns - 1 - len("^C"))

    @property
    def err_color(self) -> bool:
        """Whether stderr gets colour."""
        return self._color

    def show(self, table: "RenderableType") -> None:
        """Write a table, or anything else of Rich's, to stdout: as wide as the terminal there, as
        wide as it is in a pipe or a file.
        """
        color = self.out_color and self.out_is_terminal
        self.stdout().write(self._drawn(table, self.columns or WIDE, color=color))

    def write_json(self, value: object) -> None:
        """Write an object to stdout, as one line of JSON."""
        from qwen35cli.app.json_text import json_text  # late: not for --help

        self.stdout().write(json_text(value) + "\n")

    def write_path(self, path: Path) -> None:
        """Write a path to stdout: exact for a program, harmless on a screen."""
        self.stdout().write((sanitize(str(path)) if self.out_is_terminal else str(path)) + "\n")

    def tell(self, table: "RenderableType") -> None:
        """Write a table that was asked for to stderr."""
        self.clear_status()
        columns = self.err_columns if self.err_is_terminal else WIDE
        self._emit(self._drawn(table, columns, color=self._color and self.err_is_terminal))

    def _drawn(self, table: "RenderableType", columns: int, *, color: bool) -> str:
        from rich.console import Console  # late: not for --help

        console = Console(
            file=StringIO(),
            width=columns,
            force_terminal=color,
            no_color=not color,
            markup=False,
            highlight=False,
            emoji=False,
            legacy_windows=False,
        )
        with console.capture() as capture:
            console.print(table)
        lines = capture.get().splitlines()
        return "\n".join(line.rstrip() for line in lines) + "\n"

    @contextmanager
    def sink(self, path: Path | None) -> Iterator[Sink]:
        """Where the answer goes: stdout; the file at `path`, whole or as `path`.partial; or, as it
        comes, into what is at `path` and no file, such as a device or a pipe.

        Raises:
            UsageError: `path` cannot be written.
            Qwen35Error: stdout is closed, or takes no more.
        """
        if path is None:
            yield self.stdout()
            return
        if answer_file.takes_a_stream(path):
            with answer_file.opened(path) as stream:
                yield _Stream(stream, self)
            return
        file = AnswerFile(path.resolve() if path.is_symlink() else path, self.say)
        try:
            with signals.before_leaving(file.break_off):
                yield file
                file.finish()
        except BaseException:
            file.break_off()
            raise

    # -- everything else ------------------------------------------------------------------------

    def say(self, text: str) -> None:
        """A line for people."""
        if not self.quiet:
            self._line(text)

    def reply(self, text: str) -> None:
        """A line that was asked for, whatever else is to be quiet."""
        self._line(text)

    def explain(self, text: str) -> None:
        """The same of prose; on a terminal broken between words."""
        for line in self._broken(text):
            self._line(line)

    def note(self, text: str) -> None:
        """A line beside the answer; on a terminal dim, and broken between words."""
        if not self.quiet:
            for line in self._broken(text):
                self._line(line, "dim")

    @contextmanager
    def interruptible(self, state: Callable[[], str] = str) -> Iterator[None]:
        """Say how things stand where Ctrl-C or SIGTERM ends what is inside.

        Raises:
            InterruptedByUser: it does.
        """
        try:
            yield
        except (KeyboardInterrupt, InterruptedByUser):
            how = state()
            self.say(f"(interrupted; {how})" if how else "(interrupted)")
            raise InterruptedByUser("interrupted") from None

    def blank(self) -> None:
        """An empty line, on a terminal only: what comes is another thing."""
        if self.err_is_terminal and not self.quiet:
            self._line("")

    def detail(self, text: str) -> None:
        """A line for `-v`."""
        if self.verbose:
            self._line(text)

    def warn(self, message: str, hint: str = "") -> None:
        if not self.quiet:
            self._message("warning", "yellow", message, hint)

    def error(self, message: str, hint: str = "") -> None:
        self._message("error", "red", message, hint)

    def failure(self, error: Exception) -> None:
        """An error nobody foresaw; where it happened is for `-v`."""
        if self.verbose:
            import traceback  # late: slow to import, and hardly ever needed

            self._emit(sanitize("".join(traceback.format_exception(error))))
        self.error(f"{type(error).__name__}: {error}", "this is a bug; -v shows where it happened")

    def thinking(self, text: str) -> None:
        """A piece of thinking, already sanitised; dim on a terminal."""
        if text:
            self.clear_status()
            self._emit(self._styled(text, "dim"))
            self._midline = not text.endswith("\n")

    def status(self, text: str) -> None:
        """A passing line, on a terminal only; the next thing said replaces it."""
        self.passing([sanitize(text)])

    def passing(self, lines: Sequence[str]) -> None:
        """Several of them, sanitised, each cut to `passing_columns`."""
        if self.quiet or not self.can_erase:
            return
        cut = [_cut(line, self.passing_columns) for line in lines]
        shown = [self._styled(line, "dim") for line in cut]
        start = "\n" if self._midline else ""
        self._midline = False
        self._emit(start + self._erasing() + "\n".join(shown))
        self._passing = [*map(_width, cut)]

    @property
    def can_erase(self) -> bool:
        """Whether stderr is a terminal that understands more than plain lines."""
        return self.err_is_terminal and settings.can_erase()

    def clear_status(self) -> None:
        if self._passing:
            self._emit(self._erasing())
            self._passing = []

    def continued(self) -> None:
        """The shell has written since, behind the passing lines."""
        self._passing = []

    def _erasing(self) -> str:
        """What takes the passing lines away, in a window that may have become narrower."""
        rows = len(self._passing)
        if settings.wraps_anew():
            rows = sum(max(1, ceil(columns / self.err_columns)) for columns in self._passing)
        up = UP.format(rows - 1) if rows > 1 else ""
        return ERASE_LINE + (up + ERASE_BELOW if up else "")

    def picture(self, escapes: str) -> None:
        """A thumbnail, as escapes of our own making."""
        self.clear_status()
        self._emit(escapes)

    def to_clipboard(self, text: str) -> bool:
        """Hand `text` to the terminal for its clipboard; False where stderr is none."""
        if not self.can_erase:
            return False
        self._emit(CLIPBOARD.format(base64.b64encode(text.encode("utf-8", "replace")).decode()))
        return True

    def _message(self, kind: str, style: Style, message: str, hint: str) -> None:
        self._line(message, label=self._styled(f"{kind}:", style) + " ")
        if hint and self.context is not None:
            hint = followed(hint, self.context)
        if hint:
            self._line(f"hint: {hint}")

    def _line(self, text: str, style: Style | None = None, *, label: str = "") -> None:
        self.clear_status()
        start = "\n" if self._midline else ""
        self._midline = False
        line = sanitize(text).replace("\n", " ")
        self._emit(start + label + (self._styled(line, style) if style else line) + "\n")

    def _broken(self, text: str) -> list[str]:
        """`text` in lines that fit the terminal, if stderr is one."""
        if not self.err_is_terminal or len(text) < self.err_columns:
            return [text]
        from .wrap import rows  # late: not for --help

        return rows(sanitize(text).replace("\n", " "), self.err_columns - 1)

    def _styled(self, text: str, style: Style) -> str:
        return ON[style] + text + OFF if self._color and text else text

    def _emit(self, text: str) -> None:
        if self._err is None:
            return
        try:
            self._err.write(text)
            self._err.flush()
        except OSError as error:
            _abandon(self._err)
            if isinstance(error, BrokenPipeError):
                raise ReaderGone from None


class _Stream:
    """The answer on a stream, piece by piece."""

    def __init__(self, stream: TextIO, terminal: Terminal) -> None:
        self._stream = stream
        self._terminal = terminal

    def write(self, text: str) -> None:
        self._terminal.clear_status()
        try:
            self._stream.write(text)
            self._stream.flush()
        except OSError as error:
            _abandon(self._stream)
            if isinstance(error, BrokenPipeError):
                raise ReaderGone from None
            raise Qwen35Error(f"could not write the answer: {error.strerror}") from None


def _cut(line: str, room: int) -> str:
    """The beginning of `line` that is at most `room` columns wide."""
    if line.isascii():
        return line[:room]
    while line and (over := _width(line) - room) > 0:
        line = line[: -max(1, over // 2)]
    return line


def _width(line: str) -> int:
    """The columns that a sanitised line takes."""
    if line.isascii():
        return len(line)
    from wcwidth import wcswidth  # late: not for --help

    return wcswidth(line)


def _is_terminal(stream: TextIO | None) -> bool:
    return stream is not None and stream.isatty()


def _abandon(stream: TextIO) -> None:
    """Let what a stream still holds go nowhere, so that the interpreter's last flush is silent."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
