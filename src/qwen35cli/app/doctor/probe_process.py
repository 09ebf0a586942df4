"""The process of `probe`: started, listened to, ended. Free of torch."""

import json
import queue
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import IO, Any, Final

from .patience import PATIENCE
from .report import DoctorOptions, Finding

SILENCE: Final = 60.0  # seconds after which a probe that says nothing has hung
COMPILING: Final = 180.0  # the same, where it may compile kernels for a GPU
NO_GPU: Final = (
    "nvidia-smi shows who holds it and whether it works; export QWEN35_DEVICE=cpu until then"
)


@dataclass(slots=True)
class Probed:
    """What `probe` told of torch and the kernels, as far as it came."""

    torch: Mapping[str, Any] | None = None
    unimportable: str | None = None
    gpus: Sequence[Mapping[str, Any]] = ()
    kernels: Mapping[str, Any] | None = None
    tests: list[Mapping[str, Any]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    problem: Finding | None = None  # that it was told of
    testing: str | None = None
    looked: bool = False  # at GPUs
    died: str | None = None  # how it ended, where it did not come to its end
    _done: bool = False

    def take(self, told: Mapping[str, Any]) -> None:
        """One line of the probe."""
        for key, value in told.items():
            match key:
                case "tested":
                    self.tests.append(value)
                    self.testing = None
                case "testing":
                    self.testing = value
                case "warning":
                    self.warnings.append(value)
                case "problem":
                    self.problem = Finding(value["message"], value["hint"])
                case "done":
                    self._done = True
                case "gpus":
                    self.gpus, self.looked = value, True
                case "torch" | "unimportable" | "kernels":
                    setattr(self, key, value)

    @property
    def complete(self) -> bool:
        return self._done or self.problem is not None or self.unimportable is not None


@dataclass(frozen=True, slots=True)
class Probe:
    """The process while it runs."""

    child: subprocess.Popen[str]
    lines: "queue.Queue[str | None]"  # of its stdout; None is the end
    errors: IO[bytes]
    compiles: bool  # whether it may, where it finds a GPU

    def listen(self, say: Callable[[str], None], silence: float = SILENCE) -> Probed:
        """All that it tells, to its end or until it has said nothing for too long."""
        probed = Probed()
        patience = silence
        try:
            while (line := self.lines.get(timeout=patience)) is not None:
                for told in _objects(line):
                    probed.take(told)
                if probed.testing is not None:
                    say(f"testing the kernels: {probed.testing} …")
                if probed.gpus and self.compiles:
                    patience = COMPILING
            code = self.child.wait(patience)
        except (queue.Empty, subprocess.TimeoutExpired):
            probed.died = f"said nothing for {patience:.0f} s"
            return probed
        if code or not probed.complete:
            self.errors.seek(0)
            said = self.errors.read().decode("utf-8", "replace").strip().splitlines()
            probed.died = ended(code) + (f": {said[-1][:300]}" if said else "")
        return probed


@contextmanager
def started(options: DoctorOptions) -> Iterator[Probe]:
    """The probe, at work; it is ended behind `with`."""
    # Threads that wait without spinning: others may run here too.
    environment = {**options.environment, "OMP_WAIT_POLICY": "passive"}
    arguments = [options.device, options.kernels or "", str(options.places.cache)]
    lines: queue.Queue[str | None] = queue.Queue()
    with tempfile.TemporaryFile() as errors:
        child = subprocess.Popen(
            [sys.executable, "-P", "-m", "qwen35cli.app.doctor.probe", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            errors="replace",
            env=environment,
        )
        assert child.stdout is not None
        reader = threading.Thread(target=_read, args=(child.stdout, lines), daemon=True)
        reader.start()
        try:
            yield Probe(child, lines, errors, options.device != "cpu")
        finally:
            child.kill()
            with suppress(subprocess.TimeoutExpired):  # a driver may hold it for good
                child.wait(PATIENCE)
            reader.join(PATIENCE)


def ended(code: int) -> str:
    """How a process ended, by its exit code."""
    if code >= 0:
        return f"ended with code {code}"
    import signal  # late: for this alone

    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"


def _read(stream: IO[str], lines: "queue.Queue[str | None]") -> None:
    """Hand over what comes, None at its end."""
    with stream:
        for line in stream:
            lines.put(line)
    lines.put(None)


def _objects(line: str) -> Iterator[Mapping[str, Any]]:
    """What the probe wrote on a line; other lines are somebody else's."""
    with suppress(ValueError):
        told = json.loads(line)
        if isinstance(told, dict):
            yield told
