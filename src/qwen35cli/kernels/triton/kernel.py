"""Kernels as the host launches them: they run, or whoever asks for it sees to each launch instead.

Compiling takes a second a kernel and one core. Where many will be needed it is done before, on
several (`compiled_ahead`).
"""

import signal
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final

import torch
import triton

Launcher = Callable[["Kernel", tuple[int, ...], tuple[Any, ...], Mapping[str, Any]], Any]

MOST_THREADS: Final = 8  # a tenth of the work is Python's, which one thread does at a time

_launcher: ContextVar[Launcher | None] = ContextVar("launcher", default=None)


class Kernel:
    """A function of Triton's as the host launches it: `kernel[grid](*arguments)`."""

    def __init__(self, function: Any) -> None:
        self._function = function  # compiled for each kind of arguments, or interpreted
        self.name = function.__name__

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., Any]:
        launcher = _launcher.get()
        if launcher is None:
            return self._function[grid]
        return lambda *arguments, **options: launcher(self, grid, arguments, options)

    def compile(self, *arguments: Any, **options: Any) -> Any:
        """What a launch with these arguments runs: Triton's `CompiledKernel`, compiled if it was
        not yet. Nothing runs."""
        return self._function.warmup(*arguments, grid=None, **options)


@contextmanager
def launched_by(launcher: Launcher) -> Iterator[None]:
    """Of a kernel that is launched by this thread call `launcher` with kernel, grid, arguments and
    options; nothing runs but what that does."""
    token = _launcher.set(launcher)
    try:
        yield
    finally:
        _launcher.reset(token)


@contextmanager
def compiled_ahead() -> Iterator[None]:
    """What is launched in here does not run, but is compiled when this ends, in several threads.

    What does not compile says so when it is launched in earnest.
    """
    threads = min(MOST_THREADS, torch.get_num_threads())
    with (
        _Compilers(threads, initializer=_leave_signals_to_others) as compilers,
        triton.AsyncCompileMode(compilers, ignore_errors=True),
        launched_by(_compile),
    ):
        try:
            yield
            compilers.shutdown()
        except BaseException:
            compilers.given_up = True
            raise


class _Compilers(ThreadPoolExecutor):
    """Threads that can be told not to begin what waits. `shutdown` would leave it neither done nor
    given up for those who wait for it."""

    given_up = False

    def submit(self, compile: Callable[[], Any]) -> Future[Any]:  # type: ignore[override]
        return super().submit(self._unless_given_up, compile)

    def _unless_given_up(self, compile: Callable[[], Any]) -> Any:
        if self.given_up:
            raise CancelledError
        return compile()


def _leave_signals_to_others() -> None:
    """For this thread and the assembler that it starts. A terminal's Ctrl-C comes to that as well;
    Triton would take its end for a fault and print all that was to be assembled, to stdout."""
    if hasattr(signal, "pthread_sigmask"):  # not on Windows
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})


def _compile(
    kernel: Kernel, grid: tuple[int, ...], arguments: tuple[Any, ...], options: Mapping[str, Any]
) -> None:
    kernel.compile(*arguments, **options)
