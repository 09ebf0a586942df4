"""`qwen35 tune`: how the products of a model's decode step are launched best on the GPU here.

No weights are needed: the shapes come from the config, the formats from the plan. What is found is
kept in a file of the user's (`tuned`), which `ask` and `chat` read.
"""

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Final, Protocol

import torch

from qwen35cli.checkpoint.names import parameter_shapes
from qwen35cli.errors import DeviceError, Qwen35Error, UsageError
from qwen35cli.kernels import triton
from qwen35cli.kernels.tuned import Tuned
from qwen35cli.quant.plan import Format

from . import tuned
from .device import present_gpu
from .estimate import Model
from .load import memory_errors
from .step_launches import refusal, step_launches
from .vram import find_model

if TYPE_CHECKING:
    from qwen35cli.kernels.triton.matvec import Launch
    from qwen35cli.kernels.triton.trials import Product

BETTER: Final = 0.998  # of a step's time with the launch so far, that another has to stay below
BEST: Final = 3  # launches whose neighbours are looked at
AGAIN: Final = 3  # times that the best and the one so far are measured in turn


@dataclass(frozen=True, slots=True, kw_only=True)
class TuneOptions:
    """What the user asked for."""

    model: str
    revision: str | None = None
    quant: Format | None = None  # None: as a quantized folder is, otherwise int4
    cache: Path


@dataclass(frozen=True, slots=True)
class Job:
    """What is to be measured, and where it goes."""

    device: torch.device
    gpu: str
    arch: str
    model: Model
    products: "tuple[Product, ...]"
    cache: Path
    before: Tuned  # what the file holds
    damaged: str | None = None  # why it is made anew

    @property
    def path(self) -> Path:
        """The file."""
        return self.cache / tuned.NAME


class Steps(Protocol):
    """Decode steps in which a product is launched in one way or another."""

    def compile(self, key: str, launches: "Sequence[Launch]") -> None:
        """Have ready what `seconds` will run; nothing is said of what does not compile."""

    def seconds(self, key: str, launch: "Launch") -> float:
        """What a step takes. Raises what Triton does where it does not compile."""


@dataclass(frozen=True, slots=True)
class Trying:
    """Launches of a product: so many were tried so far, and so many are compiled now."""

    key: str
    number: int  # of the products
    count: int
    tried: int
    compiling: int = 0


@dataclass(frozen=True, slots=True)
class Choice:
    """What was found for a product. Seconds are those of a step of some layers (`chain`)."""

    key: str
    before: "Launch"
    before_s: float | None  # None: it does not compile
    after: "Launch"
    after_s: float
    tried: int
    failed: int  # that did not compile


def prepare(options: TuneOptions) -> Job:
    """Look at GPU, model and file; nothing is measured yet.

    Raises:
        DeviceError: there is no GPU, or the kernels do not run on it.
        UsageError: the model is not decoded by these kernels, or cannot have this format.
        ModelError: there is no such model, or it is not sound.
    """
    device = present_gpu(
        "qwen35 tune measures on an NVIDIA GPU; without one there is nothing to tune"
    )
    triton.require(device, options.cache)
    from qwen35cli.kernels.triton.launches import architecture

    model = find_model(options.model, options.quant, None, options.revision)
    damaged: str | None = None
    before: Tuned = {}
    try:
        before = tuned.read(options.cache)
    except Qwen35Error as error:
        damaged = error.message
    return Job(
        device=device,
        gpu=torch.cuda.get_device_name(device),
        arch=architecture(device),
        model=model,
        products=products(model),
        cache=options.cache,
        before=before,
        damaged=damaged,
    )


def products(model: Model) -> "tuple[Product, ...]":
    """The launches over matrices of a decode step, each kind and shape once.

    Raises:
        UsageError: its steps are not taken by these kernels.
    """
    from qwen35cli.kernels.triton.trials import Product

    shapes = parameter_shapes(model.config)
    found: dict[str, Product] = {}
    for launch in step_launches(model.config):
        schemes = [model.weights[name].scheme for name in launch.names]
        matrices = [(shapes[name][0], shapes[name][1]) for name in launch.names]
        if (reason := refusal(schemes, matrices)) is not None:
            raise UsageError(
                f"{model.name} is decoded op by op, {reason}: there is nothing to tune",
                "--quant int4" if model.quant == "nf4" else "",
            )
        kind = schemes[0].kind
        assert kind != "nf4"
        product = Product(
            op=launch.op,
            kind="bf16" if kind == "keep" else kind,
            shapes=tuple(matrices),
        )
        found.setdefault(product.key, product)
    return tuple(found.values())


def run(job: Job, steps: Steps | None = None) -> Generator[Trying | Choice, None, None]:
    """Measure product by product, each beside what was found for those before. After each the file
    has what was found so far.

    Args:
        steps: None: those of the model on the device.

    Raises:
        DeviceError: no launch of a product runs.
        DoesNotFitError: memory ran out.
        Qwen35Error: the file cannot be written.
    """
    from qwen35cli.kernels.triton.launches import Launches

    from .chain import Chain

    launches = Launches.of(job.device, job.before)
    found: dict[str, list[int]] = {}
    with memory_errors("tuning"):
        steps = steps or Chain(job.model, job.device, launches)
    for number, product in enumerate(job.products, 1):
        now = product.fitted(launches.of_key(product.key))
        search = _Search(product, now, steps)
        where = product.key, number, len(job.products)
        with memory_errors("tuning"), triton.compile_errors():
            for batch in filter(None, search.batches()):
                yield Trying(*where, len(search.times), len(batch))
                steps.compile(product.key, batch)
                for launch in batch:
                    search.measure(launch)
                    yield Trying(*where, len(search.times))
            choice = search.choice()
        launches.table[product.key] = found[product.key] = choice.after.numbers
        tuned.write(job.cache, job.arch, found, job.before)
        yield choice


class _Search:
    """The launches of one product that were tried, with the seconds that a step takes with each."""

    def __init__(self, product: "Product", now: "Launch", steps: Steps) -> None:
        self._product, self._now, self._steps = product, now, steps
        self.times: dict[Launch, float] = {}  # inf: it does not compile

    def batches(self) -> "Iterator[list[Launch]]":
        """What to measure, by what was measured before: warps and split, then blocks ahead and
        tiles of the best of these, then blocks that come early of the best of all."""
        from qwen35cli.kernels.triton import trials

        product = self._product
        yield self._new(self._now, *trials.first(product, overlap=self._now.overlap))
        best: dict[tuple[int, int], Launch] = {}
        for launch in self._sorted():
            if len(best) < BEST:
                best.setdefault((launch.warps, launch.split), launch)
        yield self._new(*(near for each in best.values() for near in trials.near(product, each)))
        best_of_all = self._sorted()[:BEST]
        yield self._new(*(other for each in best_of_all for other in trials.earlier(product, each)))

    def measure(self, launch: "Launch") -> None:
        """Note what a step takes with it."""
        from qwen35cli.kernels.triton.trials import compiles_not

        try:
            self.times[launch] = self._seconds(launch)
        except Exception as error:
            if not compiles_not(error):
                raise
            self.times[launch] = inf

    def choice(self) -> Choice:
        """The best, measured again in turn with the one so far, which it has to beat clearly."""
        if not (running := self._sorted()):
            raise DeviceError(
                f"no launch of {self._product.key} runs on this GPU",
                triton.WAY_OUT,
            )
        best, so_far = running[0], self.times[self._now] < inf
        turns = [
            (self._seconds(self._now) if so_far else inf, self._seconds(best)) for _ in range(AGAIN)
        ]
        before, after = (median(times) for times in zip(*turns, strict=True))
        if so_far and (best == self._now or after > BETTER * before):
            best, after = self._now, before
        return Choice(
            key=self._product.key,
            before=self._now,
            before_s=before if so_far else None,
            after=best,
            after_s=after,
            tried=len(self.times),
            failed=sum(time == inf for time in self.times.values()),
        )

    def _sorted(self) -> "list[Launch]":
        """Those that run, the fastest first."""
        running = (launch for launch, time in self.times.items() if time < inf)
        return sorted(running, key=self.times.__getitem__)

    def _new(self, *launches: "Launch") -> "list[Launch]":
        """Those that were not measured, each once."""
        return [launch for launch in dict.fromkeys(launches) if launch not in self.times]

    def _seconds(self, launch: "Launch") -> float:
        return self._steps.seconds(self._product.key, launch)
