"""The command `qwen35`, and the one place where errors become two lines."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from typing import Annotated

import typer

from qwen35cli import __version__
from qwen35cli.errors import InterruptedByUser, Qwen35Error

from . import settings, signals, stdin
from .commands import Root
from .manual import BARE
from .terminal import ReaderGone, Terminal
from .usage import complaint

EXIT_CODES = """\
Exit codes:
    0  done, also when --max-tokens cut the answer
    1  any other error
    2  wrong usage: unknown flag or command, bad value, missing input
    3  model missing, not readable, or not a Qwen3.5; download or verification
       failed
    4  no usable GPU, and --device cpu was not given
    5  does not fit, or memory ran out
    6  prompt longer than the context
    7  answer does not satisfy the schema
  130  interrupted by Ctrl-C or SIGTERM
  141  the reader of our pipe went away"""
READER_GONE = 141
COMPLETION_FLAGS = ("--install-completion", "--show-completion")
OWN_FLAGS = ("--help", "-h", "--version", *COMPLETION_FLAGS)

app = typer.Typer(
    name="qwen35",
    cls=Root,
    epilog=EXIT_CODES,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)


def _show_version(context: typer.Context, wanted: bool) -> None:
    if wanted:
        context.obj.stdout().write(f"qwen35 {__version__}\n")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Run Qwen3.5-4B on this machine: text and pictures, in the terminal and in pipes.

    Examples:
      qwen35 chat
      qwen35 ask "Why is the sky blue?"
      git diff | qwen35 ask "Write a commit message."
      qwen35 chat --model demo
    """


def with_command(arguments: Sequence[str]) -> list[str]:
    """The arguments, with the command that a call without one stands for."""
    if not arguments:
        return [BARE] if stdin.is_piped() else ["--help"]
    if arguments[0].startswith("-") and arguments[0] not in OWN_FLAGS:
        return [BARE, *arguments]
    return [*arguments]


@contextmanager
def _written_by_us(arguments: Sequence[str], terminal: Terminal) -> Iterator[None]:
    """Take what Typer prints about a shell's completion, and write it as all else.

    Raises:
        Qwen35Error: what it does with files fails, or our writing.
    """
    if not {*arguments[:1]} & {*COMPLETION_FLAGS}:
        yield
        return
    text = StringIO()
    try:
        with redirect_stdout(text):
            yield
    except OSError as error:
        raise Qwen35Error(f"could not write {error.filename}: {error.strerror}") from None
    finally:
        terminal.stdout().write(text.getvalue())


def run(arguments: Sequence[str]) -> int:
    """Carry out one call; the exit code."""
    terminal = Terminal()
    if settings.is_completing():
        sys.modules["rich"] = None  # type: ignore[assignment]  # Typer would import it for nothing
        settings.join_completed()
    try:
        with signals.ending_as_interrupt(), _written_by_us(arguments, terminal):
            code = app(
                with_command(arguments), prog_name="qwen35", standalone_mode=False, obj=terminal
            )
        return code or 0
    except InterruptedByUser as error:
        return error.exit_code
    except KeyboardInterrupt:  # before a command began
        return InterruptedByUser.exit_code
    except Qwen35Error as error:
        terminal.error(error.message, error.hint)
        return error.exit_code
    except typer.TyperException as error:
        terminal.error(*complaint(error, arguments))
        return error.exit_code
    except ReaderGone:
        return READER_GONE
    except Exception as error:  # a mistake of ours: said in the same form, whole under -v
        terminal.failure(error)
        return 1
    finally:
        terminal.clear_status()
