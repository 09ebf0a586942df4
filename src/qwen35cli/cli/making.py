"""How a job of quantizing is shown while it runs."""

import time
from collections.abc import Callable
from contextlib import closing

from qwen35cli.app import quantize, verify
from qwen35cli.app.load import refuse
from qwen35cli.app.stored import SMALL_BYTES
from qwen35cli.checkpoint import verified
from qwen35cli.checkpoint.hub import Repo
from qwen35cli.errors import UsageError

from .terminal import Terminal
from .verify import refuse_wrong, shown
from .words import size

BAR = 24  # characters
SOON = 2.0  # seconds of work before the time left is worth saying


def carry_out(job: quantize.Job, terminal: Terminal, *, force: bool = False) -> None:
    """Do the work of `qwen35 quantize`, and refuse where another process does it now."""
    seconds = _run(job, terminal, f"quantizing {job.source.name}", wait=False, force=force)
    if seconds is None:
        terminal.say(f"{job.target} is up to date; --force makes it again")
    else:
        terminal.say(f"{_change(job)} in {seconds:.0f} s")


def maker(terminal: Terminal, *, yes: bool) -> Callable[[quantize.Job], None]:
    """What makes weights on the way to an answer; long work in a pipe is refused unless `yes`."""

    def make(job: quantize.Job) -> None:
        long = job.checkpoint.nbytes >= SMALL_BYTES
        if long and not (terminal.err_is_terminal or yes):
            refuse(job)
        once(job, terminal)

    return make


def once(job: quantize.Job, terminal: Terminal) -> None:
    """Do the work on the way to an answer, or wait for another process that does it."""
    what = f"quantizing to {job.plan.format}, once …"
    if not terminal.err_is_terminal:
        terminal.say(f"{what} {size(job.checkpoint.nbytes)}")
    seconds = _run(job, terminal, what, wait=True, force=False)
    if seconds is not None:
        terminal.say(f"{what} {seconds:.0f} s")
        terminal.detail(f"{_change(job)}: {job.target}")


def _run(
    job: quantize.Job, terminal: Terminal, what: str, *, wait: bool, force: bool
) -> float | None:
    """Seconds that the work took; None where it was done already.

    Raises:
        InterruptedByUser: Ctrl-C or SIGTERM; what was begun is undone.
    """
    if force or not job.is_done():
        _prove(job, terminal)
    start: float | None = None
    waited = False
    work = quantize.run(job, wait=wait, force=force)
    with terminal.interruptible(), closing(work) as events:
        for event in events:
            if isinstance(event, quantize.Waiting):
                line = f"{event.who}; waiting for it"
                terminal.status(line)
                if not waited and not terminal.err_is_terminal:
                    terminal.say(line)
                waited = True
                continue
            start = start or time.perf_counter()
            terminal.status(f"{what} {bar(event.share, time.perf_counter() - start)}")
    terminal.clear_status()
    return None if start is None else time.perf_counter() - start


def _prove(job: quantize.Job, terminal: Terminal) -> None:
    """Hash a checkpoint that another program downloaded, before anything is made of it.

    Raises:
        ModelError: a file does not have the content that was published.
    """
    commit = job.source.revision
    if commit is None or verified.is_verified(repo := Repo.of(job.source.name), commit):
        return
    try:
        refuse_wrong(shown(verify.snapshot(repo, commit), terminal))
    except UsageError as unknown:
        terminal.warn(unknown.message, unknown.hint)


def bar(share: float, seconds: float) -> str:
    """A bar, how much of the work is done after `seconds`, and how long the rest will take."""
    done = round(share * BAR)
    left = ""
    if 0.0 < share < 1.0 and seconds > SOON:
        rest = round(seconds * (1 / share - 1))
        left = f" · {rest // 60}:{rest % 60:02d} left"
    return f"{'━' * done}{'─' * (BAR - done)} {share:4.0%}{left}"


def _change(job: quantize.Job) -> str:
    one, other = job.checkpoint.nbytes, job.nbytes
    return f"{job.plan.format}: {size(one)} to {size(other)}"
