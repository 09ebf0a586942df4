"""The desktop that a terminal belongs to, and how the tools of it are called."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Literal

from qwen35cli.errors import UsageError
from qwen35cli.images.open import printable

Kind = Literal["windows", "wsl", "mac", "wayland", "x11"]
TIMEOUT_S = 5.0


class NoClipboard(UsageError):
    """No clipboard can be reached from here: another machine's, no desktop, or no tool for it."""


@dataclass(frozen=True, slots=True)
class Desktop:
    """The environment in which tools are found and run, and the system as `sys.platform` has it."""

    environment: Mapping[str, str]
    system: str = sys.platform

    def kind(self, otherwise: str) -> Kind:
        """What the desktop is; `otherwise` is the hint where it cannot be reached.

        Raises:
            NoClipboard: it is another machine's, or there is none.
        """
        seen = self.environment.get
        display = seen("WAYLAND_DISPLAY") or seen("DISPLAY")  # over SSH too, if X11 is forwarded
        if not display and (seen("SSH_CONNECTION") or seen("SSH_TTY")):
            raise NoClipboard(
                "this is an SSH session: the clipboard is on the other machine", otherwise
            )
        if self.system == "darwin":
            return "mac"
        if self.system == "win32":
            return "windows"
        if seen("WSL_DISTRO_NAME"):
            return "wsl"
        if not display:
            raise NoClipboard(
                "there is no clipboard here: neither WAYLAND_DISPLAY nor DISPLAY is set", otherwise
            )
        return "wayland" if seen("WAYLAND_DISPLAY") else "x11"

    def choose(self, tools: Mapping[str, str]) -> str:
        """The first tool that is installed; each with how to install it.

        Raises:
            NoClipboard: none is.
        """
        for tool in tools:
            if self._find(tool):
                return tool
        raise NoClipboard(
            f"the clipboard needs {' or '.join(tools)}, not found", next(iter(tools.values()))
        )

    def run(self, call: Sequence[str], max_bytes: int) -> tuple[int, bytes, str]:
        """Exit status, output and complaint of a tool.

        Raises:
            UsageError: it took longer than `TIMEOUT_S`, or wrote more than `max_bytes`.
        """
        late = threading.Event()
        with tempfile.TemporaryFile() as errors:
            process = self._start(call, subprocess.DEVNULL, subprocess.PIPE, errors)
            assert process.stdout is not None

            def stop() -> None:
                late.set()
                _end(process)

            timer = threading.Timer(TIMEOUT_S, stop)
            timer.start()
            try:
                with process.stdout as output:
                    data = output.read(max_bytes + 1)
                if len(data) > max_bytes:
                    raise UsageError(f"{call[0]} gave more than {max_bytes:,} bytes")
                status = process.wait()
            finally:
                timer.cancel()
                _end(process)
            if late.is_set():
                raise _too_slow(call[0])
            return status, data, _complaint(errors)

    def feed(self, call: Sequence[str], data: bytes) -> None:
        """Hand `data` to a tool that keeps it; it may stay behind in the background.

        Raises:
            UsageError: it failed, or took longer than `TIMEOUT_S`.
        """
        with tempfile.TemporaryFile() as source, tempfile.TemporaryFile() as errors:
            source.write(data)
            source.seek(0)
            process = self._start(call, source, subprocess.DEVNULL, errors)
            try:
                status = process.wait(TIMEOUT_S)
            except subprocess.TimeoutExpired:
                raise _too_slow(call[0]) from None
            finally:
                _end(process)
            if status:
                raise failed(call[0], status, _complaint(errors))

    def _find(self, tool: str) -> str | None:
        return shutil.which(tool, path=self.environment.get("PATH", ""))

    def _start(
        self, call: Sequence[str], stdin: int | IO[bytes], stdout: int, errors: IO[bytes]
    ) -> subprocess.Popen[bytes]:
        """A tool in a session of its own, where the Ctrl-C of the terminal does not reach it."""
        found = self._find(call[0])
        assert found, call[0]
        try:
            return subprocess.Popen(
                [found, *call[1:]],
                stdin=stdin,
                stdout=stdout,
                stderr=errors,
                env=dict(self.environment),
                start_new_session=True,
            )
        except OSError as error:
            raise UsageError(f"cannot run {printable(found)}: {error.strerror}") from None


def failed(tool: str, status: int, complaint: str) -> UsageError:
    """What is raised where a tool ended with `status` and said `complaint`."""
    said = f": {complaint}" if complaint else f" with status {status}"
    return UsageError(f"{tool} failed{said}", f"{tool} in another terminal shows why")


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill a tool, and whatever it started, that has not ended by itself."""
    if process.poll() is not None:
        return
    if os.name == "posix":
        os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    process.wait()


def _complaint(errors: IO[bytes]) -> str:
    errors.seek(0)
    return printable(errors.read(500).decode(errors="replace").strip())


def _too_slow(tool: str) -> UsageError:
    return UsageError(
        f"{tool} did not answer in {TIMEOUT_S:g} s", f"{tool} in another terminal shows why"
    )
