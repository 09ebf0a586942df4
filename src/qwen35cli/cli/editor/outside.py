"""What happens beside the input line while it is read: the owner's work, signals, failures."""

import signal
from asyncio import AbstractEventLoop
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import current_thread, main_thread
from types import FrameType
from typing import Any, TypeVar

from prompt_toolkit.application import Application

from qwen35cli.cli.signals import ENDING, handled
from qwen35cli.cli.terminal import Terminal
from qwen35cli.errors import InterruptedByUser, Qwen35Error

Result = TypeVar("Result")


def _on_error(message: str, hint: str) -> None:
    Terminal().error(message, hint)


@dataclass(frozen=True, slots=True, kw_only=True)
class Hooks:
    """What the owner of the editor does at a key. All may print whole lines: they stand above.

    A `Qwen35Error` is told with `on_error` and the line stays; any other exception, `Ctrl-C` and
    SIGTERM among them, ends the reading and reaches who called it.
    """

    on_paste: Callable[[str], str | None] | None = None  # what to insert instead of a paste
    on_clipboard: Callable[[], str | None] | None = None  # Ctrl-V: what to insert
    on_toggle_thinking: Callable[[], None] | None = None  # Ctrl-O
    on_error: Callable[[str, str], None] = _on_error  # a message and its hint


class Outside:
    """Takes the prompt away while others write, and ends the reading when they fail."""

    def __init__(self, hooks: Hooks) -> None:
        self._on_error = hooks.on_error
        self._failure: BaseException | None = None
        self._others_work = False

    def read(self, app: Application[str], prompt: Callable[[Callable[[], None]], str]) -> str:
        """What `prompt(pre_run)` gives; the terminal is restored whatever is raised."""
        self._failure = None

        def pre_run() -> None:
            assert app.loop is not None
            app.loop.set_exception_handler(on_loop_error)

        def on_loop_error(loop: AbstractEventLoop, context: dict[str, Any]) -> None:
            if error := context.get("exception"):
                self._end(app, error)
            else:
                loop.default_exception_handler(context)

        with self._signals_end(app):
            text = prompt(pre_run)
        if self._failure is not None:  # it came after the line was sent
            raise self._failure
        return text

    def above(self, app: Application[str], action: Callable[[], Result]) -> Result | None:
        """Do `action`, whose lines appear above the prompt; None where it failed."""
        app.renderer.erase()
        self._others_work = True
        try:
            return action()
        except BaseException as error:
            if not isinstance(error, Qwen35Error) or isinstance(error, InterruptedByUser):
                self._end(app, error)
            else:
                self._on_error(error.message, error.hint)
            return None
        finally:
            self._others_work = False
            app.renderer.reset()
            if not app.is_done:
                app.renderer.request_absolute_cursor_position()
                app.invalidate()

    def own_terminal(self, app: Application[str], action: Callable[[], Result]) -> Result | None:
        """Do `action` with the keyboard and the screen its own; None where it failed."""

        def alone() -> Result:
            with app.input.detach(), app.input.cooked_mode(), _signals_unseen_by_the_loop():
                return action()

        return self.above(app, alone)

    def _end(self, app: Application[str], error: BaseException) -> None:
        self._failure = error
        if app.future is not None and not app.future.done():
            app.exit(exception=error)

    @contextmanager
    def _signals_end(self, app: Application[str]) -> Iterator[None]:
        """Let what the handlers of SIGTERM and SIGHUP raise reach the caller, wherever they arrive.

        Raised inside of a callback of the event loop it would be reported and forgotten.
        """
        if current_thread() is not main_thread():
            yield
            return
        before = {number: signal.getsignal(number) for number in ENDING}

        def interrupt(number: int, frame: FrameType | None) -> None:
            own = before[number]
            assert callable(own)
            if app.loop is None or self._others_work:
                own(number, frame)
                return
            try:
                own(number, frame)
            except BaseException as error:
                self._failure = error
                app.loop.call_soon_threadsafe(self._end, app, error)

        with handled([number for number in ENDING if callable(before[number])], interrupt):
            yield


@contextmanager
def _signals_unseen_by_the_loop() -> Iterator[None]:
    """Without it, Ctrl-C in an external program would be a key of ours once that has ended."""
    if current_thread() is not main_thread():
        yield
        return
    wakeup = signal.set_wakeup_fd(-1)
    try:
        yield
    finally:
        signal.set_wakeup_fd(wakeup)
