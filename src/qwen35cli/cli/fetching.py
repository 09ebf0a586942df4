"""How a download is prepared, asked about and shown: for `pull`, and on the way to an answer."""

import sys
import time
from collections import deque
from collections.abc import Callable
from contextlib import closing
from typing import TYPE_CHECKING, Any

from qwen35cli.errors import ModelError

from . import stdin
from .keyboard import forget_typed, lent
from .terminal import Terminal
from .words import home, size

if TYPE_CHECKING:
    from qwen35cli.app import fetch
    from qwen35cli.app.pull import PullOptions
    from qwen35cli.app.pull_job import Job
    from qwen35cli.model.config import Config

BAR = 24  # characters, where there is room
BESIDE = 60  # columns for what stands beside it
REDRAW_S = 0.1
SPEED_S = 8.0  # of the past, from which the speed is taken
SOON_S = 2.0
NOTHING = "nothing was downloaded"


def prepared(options: "PullOptions", terminal: Terminal) -> "Job":
    """What there is to download."""
    from qwen35cli.app import pull

    terminal.status("asking for the files …")
    with terminal.interruptible(lambda: NOTHING):
        work = pull.prepare(options)
        while True:
            try:
                _say_trouble(next(work), terminal)
            except StopIteration as end:
                terminal.clear_status()
                job: Job = end.value
                return job


def carry_out(
    job: "Job", terminal: Terminal, accept: "Callable[[Config], None]" = lambda config: None
) -> None:
    """Download, and show it; `accept` may refuse the model before its weights come.

    Raises:
        InterruptedByUser: Ctrl-C or SIGTERM; what came stays.
    """
    from qwen35cli.app import fetch

    job.check_room()
    name, todo = job.repo.repo_id, job.download_bytes
    if todo:
        there = job.nbytes - todo
        resumed = f", {size(there)} of it here already" if there else ""
        terminal.say(
            f"downloading {name} {job.commit[:7]}: {len(job.files)} files, {size(job.nbytes)}"
            f"{resumed}, to {home(job.repo.cache)} (shared)"
        )
    start, view = time.monotonic(), Progress(job, terminal)

    def state() -> str:
        here = job.nbytes - job.download_bytes
        return f"{size(here)} of {size(job.nbytes)} are here, the same command goes on"

    with terminal.interruptible(state), closing(fetch.run(job, accept)) as events:
        for event in events:
            view.show(event)
    terminal.clear_status()
    seconds = time.monotonic() - start
    if view.fetched:
        speed = size(round(view.fetched / max(seconds, 0.01)))
        terminal.say(
            f"downloaded {size(view.fetched)} in {seconds:.0f} s, {speed}/s; "
            f"the hashes of all {len(job.files)} files are right"
        )
    else:
        terminal.say(f"{name} is here and verified: {len(job.files)} files, {size(job.nbytes)}")


class Progress:
    """Two passing lines, one for the file and one for all; what goes wrong stays."""

    def __init__(self, job: "Job", terminal: Terminal) -> None:
        self._job = job
        self._terminal = terminal
        self._here = self._found()
        self._samples: deque[tuple[float, int]] = deque()  # time, bytes received
        self._received = 0
        self._drawn = 0.0
        self._waits_for = ""
        self.fetched = 0
        self._bars = terminal.can_erase and _wants_bars()

    def show(self, event: "fetch.Event") -> None:
        from qwen35cli.app import fetch, pull

        if isinstance(event, pull.Trouble):
            _say_trouble(event, self._terminal)
        elif isinstance(event, fetch.Finished):
            self._here[event.file.name] = event.file.size
            self.fetched += event.fetched
            self._waits_for = ""
            self._terminal.detail(f"{event.file.name}: {event.file.sha256 or event.file.etag}")
        elif isinstance(event, fetch.Waiting):
            what = f"{event.who}; waiting for it"
            if self._waits_for != what and not self._bars:
                self._terminal.say(what)
            self._waits_for = what
            self._here = self._found()
            self._samples.clear()
            self._draw(what)
        else:
            self._move(event)

    def _found(self) -> dict[str, int]:
        """Bytes that are here, by file."""
        job = self._job
        return {
            file.name: job.part_bytes(file) if job.present(file) is None else file.size
            for file in job.files
        }

    def _move(self, event: "fetch.Moving") -> None:
        name, now = event.file.name, time.monotonic()
        if event.checking:
            self._samples.clear()
        else:
            self._received += max(0, event.done - self._here[name])
            self._here[name] = event.done
            self._samples.append((now, self._received))
            while now - self._samples[0][0] > SPEED_S:
                self._samples.popleft()
        if now - self._drawn >= REDRAW_S or event.done == event.file.size:
            self._drawn = now
            what = "checking" if event.checking else name
            self._draw(f"{self._line(event.done, event.file.size)} {what}")

    def _draw(self, line: str) -> None:
        """Show a line, and below it how far all files are."""
        if not self._bars:
            return
        total = self._line(sum(self._here.values()), self._job.nbytes)
        self._terminal.passing([line, f"{total} all files; resumes if stopped"])

    def _line(self, done: int, total: int) -> str:
        """A bar, its numbers, and how long the rest takes."""
        bar = max(0, min(BAR, self._terminal.err_columns - BESIDE))
        share = done / total if total else 1.0
        full = int(share * bar)
        line = f"{'━' * full}{'─' * (bar - full)} {share:4.0%}  {size(done)} of {size(total)}"
        if (speed := self._speed()) > 0:
            left = round((total - done) / speed)
            line += f"  {size(round(speed))}/s  {left // 60}:{left % 60:02d} left"
        return f"{line} "

    def _speed(self) -> float:
        """Bytes a second, of late; 0 where that cannot be said yet."""
        if len(self._samples) < 2:
            return 0.0
        (begin, before), (end, after) = self._samples[0], self._samples[-1]
        return (after - before) / (end - begin) if end - begin > SOON_S / 4 else 0.0


def _say_trouble(event: Any, terminal: Terminal) -> None:
    again = f"; again in {event.wait_s:.0f} s" if event.wait_s >= 1 else ""
    terminal.warn(f"{event.text}{again}")


# -- asking ----------------------------------------------------------------------------------------


def warn_of_token(offline: bool, terminal: Terminal, *, ask: bool) -> None:
    """Say that a token would go to a host that is not huggingface.co, before it does.

    Raises:
        ModelError: the user does not want that.
    """
    from qwen35cli.app import pull

    if pull.offline_by(offline) or (host := pull.token_goes_to()) is None:
        return
    hint = "HF_HUB_DISABLE_IMPLICIT_TOKEN=1 sends none; unset HF_ENDPOINT"
    terminal.warn(f"your Hugging Face token goes to {host}, which HF_ENDPOINT names", hint)
    if ask and can_ask(terminal) and not agreed("go on?", terminal):
        raise ModelError("nothing was asked for and nothing sent", hint)


def can_ask(terminal: Terminal, *, no_input: bool = False) -> bool:
    """Whether somebody is there who sees a question and can answer it."""
    return stdin.is_terminal() and terminal.err_is_terminal and not (no_input or terminal.quiet)


def agreed(question: str, terminal: Terminal) -> bool:
    """Whether the user says yes; Enter does."""
    forget_typed()
    terminal.say(f"{question} [Y/n]")
    with lent(), terminal.interruptible(lambda: NOTHING):
        answer = sys.stdin.buffer.readline()
    return answer.endswith(b"\n") and answer.strip().lower() in (b"", b"y", b"yes")


def _wants_bars() -> bool:
    from huggingface_hub import constants

    return not constants.HF_HUB_DISABLE_PROGRESS_BARS
