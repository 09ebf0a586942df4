"""Quantizes again and again, and dies on the way: `python -m tests.killed SOURCE TARGET`.

In a process of its own, whose children are forked before torch has any threads. It prints how many
times it died, or ends with a traceback where a death left half a result.
"""

import itertools
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from qwen35cli.app import quantize
from qwen35cli.app.source import resolve
from qwen35cli.checkpoint.write import TensorStream
from qwen35cli.kernels import select
from qwen35cli.quant.plan import recipe
from tests.proved import proved

STEPS = (
    "fsync",
    "mkdir",
    "replace",
    "rename",
    "unlink",
    "rmdir",
)  # of `os`, on which a run is built
WRITES = 40  # one in so many is a step too
RANDOM_KILLS = 8


def hook(step: Callable[[], None]) -> None:
    """Have `step` called before each write, flush and change of names, and after the exchange."""

    def before(function):
        def wrapped(*arguments, **options):
            step()
            return function(*arguments, **options)

        return wrapped

    for name in STEPS:
        setattr(os, name, before(getattr(os, name)))
    write, counter = TensorStream.write, itertools.count(1)

    def some_writes(*arguments):
        if next(counter) % WRITES == 0:
            step()
        return write(*arguments)

    TensorStream.write = some_writes
    exchange = before(quantize._exchange)

    def exchange_and_step(one, other):
        done = exchange(one, other)
        step()
        return done

    quantize._exchange = exchange_and_step


def made(source: str, target: Path, format: str) -> None:
    job = quantize.job(resolve(source), recipe(format), target)
    for _ in quantize.run(job, kernels=select(torch.device("cpu"), "reference")):
        pass


def in_child(work: Callable[[], None], alive_s: float | None = None) -> bool:
    """Do `work` in a child, which is killed after a time; whether it lived to its end."""
    child = os.fork()
    if not child:
        code = 1
        try:
            torch.set_num_threads(1)
            work()
            code = 0
        finally:
            os._exit(code)
    if alive_s is not None:
        time.sleep(alive_s)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) in (0, -signal.SIGKILL), status
    return status == 0


def dying_at(number: int, work: Callable[[], None]) -> Callable[[], None]:
    def run():
        left = [number]

        def step():
            left[0] -= 1
            if not left[0]:
                os.kill(os.getpid(), signal.SIGKILL)

        hook(step)
        work()

    return run


def state(target: Path) -> str | None:
    """The format of what is at `target`, every byte of it verified; None for nothing."""
    return proved(target).format if target.exists() else None


def main(source: str, folder: str) -> None:
    target = Path(folder)
    kept = target.with_name("kept")
    assert in_child(lambda: made(source, kept, "int8"))
    deaths = 0
    for old in (None, "int8"):
        for number in range(1, 1_000):
            shutil.rmtree(target, ignore_errors=True)
            if old:
                shutil.copytree(kept, target)
            lived = in_child(dying_at(number, lambda: made(source, target, "int4")))
            assert state(target) in (old, "int4"), (old, number, state(target))
            if lived:
                break
            deaths += 1
        assert state(target) == "int4"
    start = time.monotonic()
    assert in_child(lambda: made(source, target, "int8"))
    length = time.monotonic() - start
    for number in range(RANDOM_KILLS):
        format = ("int4", "int8")[number % 2]
        alive_s = random.uniform(0, length)
        deaths += not in_child(lambda format=format: made(source, target, format), alive_s)
        assert state(target) in ("int4", "int8")
    assert in_child(lambda: made(source, target, "int4"))
    assert in_child(lambda: made(source, target, "int8"))
    assert state(target) == "int8"
    left = {path.name for path in target.parent.iterdir()} - {Path(source).name, kept.name}
    assert left == {target.name}, left
    sys.stdout.write(str(deaths))


if __name__ == "__main__":
    main(*sys.argv[1:])
