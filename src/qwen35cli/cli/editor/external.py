"""A text opened in the user's own editor."""

import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from qwen35cli.errors import UsageError

USUAL = ("editor", "nano", "vim", "vi", "emacs")
PATIENCE_S = 2.0  # for an editor that is asked to end


def edit(text: str) -> str:
    """`text` as it was saved in `$VISUAL`, `$EDITOR` or the editor that is installed.

    Raises:
        UsageError: there is no editor, it failed, or what it saved is gone.
    """
    command = _command()
    with tempfile.TemporaryDirectory(prefix="qwen35-") as folder:
        path = Path(folder) / "message.md"
        path.write_bytes(text.encode("utf-8", "surrogateescape"))
        try:
            code = _run([*command, str(path)])
        except OSError as error:
            raise UsageError(
                f"cannot start the editor {command[0]}: {error.strerror}", "export EDITOR=nano"
            ) from None
        if code:
            raise UsageError(f"{command[0]} ended with {code}; the text stays as it was")
        try:
            edited = path.read_bytes().decode("utf-8", "surrogateescape")
        except OSError as error:
            raise UsageError(f"what {command[0]} saved is gone: {error.strerror}") from None
    edited = edited.replace("\r\n", "\n")
    return edited if text.endswith("\n") else edited.removesuffix("\n")  # editors add it


def _command() -> list[str]:
    given = os.environ.get("VISUAL") or os.environ.get("EDITOR")
    if given:
        try:
            return shlex.split(given) or _usual()
        except ValueError:
            raise UsageError(
                f"cannot read the editor's name {given}", "export EDITOR=nano"
            ) from None
    return _usual()


def _usual() -> list[str]:
    for name in USUAL:
        if shutil.which(name):
            return [name]
    raise UsageError("no editor is installed", "export EDITOR=nano")


def _run(command: list[str]) -> int:
    """Run the editor on the terminal and return its exit code; end it if we are to end."""
    with _ctrl_c_is_the_editors(), subprocess.Popen(command, stdout=sys.stderr) as process:
        try:
            return process.wait()
        except BaseException:
            process.terminate()  # it puts the screen back
            try:
                process.wait(PATIENCE_S)
            except subprocess.TimeoutExpired:
                process.kill()
            raise


@contextmanager
def _ctrl_c_is_the_editors() -> Iterator[None]:
    before = signal.signal(signal.SIGINT, lambda number, frame: None)  # ignored here, not there
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
