"""`qwen35 tune`: how the products of a model's decode step are launched best on the GPU here.

No weights are needed: the shapes come from the config, the formats from the plan. What is found is
kept in a file of the user's (`tuned`), which `ask` and `chat` read.
"""

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from qwen35cli.checkpoint.names import theirs
from qwen35cli.errors import DeviceError, Qwen35Error, UsageError
from qwen35cli.kernels import triton
from qwen35cli.kernels.tuned import Tuned
from qwen35cli.model.sizes import parameters
from qwen35cli.quant.plan import Format

from . import tuned
from .device import present_gpu
from .estimate import Model
from .load import memory_errors
from .step_launches import refusal, step_launches
from .vram import find_model

if TYPE_CHECKING:
    from qwen35cli.kernels.triton.launches import Launches
    from qwen35cli.kernels.triton.matvec import Launch
    from qwen35cli.kernels.triton.trials import Product, Timer, Trials

BETTER = 0.99  # of the time of the launch so far that another has to stay below


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
    products: "tuple[Product, ...]"
    cache: Path
    before: Tuned  # what the file holds
    damaged: str | None = None  # why it is made anew

    @property
    def path(self) -> Path:
        """The file."""
        return self.cache / tuned.NAME


@dataclass(frozen=True, slots=True)
class Trying:
    """Candidates of a product, so many so far."""

    key: str
    number: int  # of the products
    count: int
    tried: int


@dataclass(frozen=True, slots=True)
class Choice:
    """What was found for a product."""

    key: str
    nbytes: int  # of matrices that a launch reads
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

    text = model.config.text
    shapes = {theirs(name): shape for name, shape in parameters(model.config).items()}
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
            group=schemes[0].group,
            shapes=tuple(matrices),
            heads=text.linear_num_value_heads if launch.delta else 0,
            width=text.linear_value_head_dim if launch.delta else 0,
        )
        found.setdefault(product.key, product)
    return tuple(found.values())


def run(job: Job, timer: "Timer | None" = None) -> Generator[Trying | Choice, None, None]:
    """Measure product by product. After each the file has what was found so far.

    Args:
        timer: None: that of a GPU.

    Raises:
        DeviceError: no launch of a product runs.
        DoesNotFitError: memory ran out.
        Qwen35Error: the file cannot be written.
    """
    from qwen35cli.kernels.triton.launches import Launches
    from qwen35cli.kernels.triton.trials import graph_timer

    launches = Launches.of(job.device, job.before)
    time = timer or graph_timer(job.device)
    found: dict[str, list[int]] = {}
    for number, product in enumerate(job.products, 1):
        with memory_errors("tuning"), triton.compile_errors():
            search = _search(product, job.device, launches, time)
            for _ in search.candidates():
                yield Trying(product.key, number, len(job.products), len(search.times))
            choice = search.choice()
            del search  # with the matrices
            if job.device.type == "cuda":
                torch.cuda.empty_cache()
        launch = choice.after
        found[product.key] = launch.numbers
        tuned.write(job.cache, job.arch, found, job.before)
        yield choice


def _search(
    product: "Product", device: torch.device, launches: "Launches", timer: "Timer"
) -> "_Search":
    """What there is to try, from the launch that would run now."""
    from qwen35cli.kernels.triton.trials import Trials, copies_of

    trials = Trials(product, device, copies_of(product, device), overlap=launches.overlap)
    return _Search(trials, trials.fitted(launches.find(product.op, *trials.copies[0])), timer)


class _Search:
    """The launches of one product that were tried, with the seconds that each takes."""

    def __init__(self, trials: "Trials", now: "Launch", timer: "Timer") -> None:
        self._trials, self._now, self._timer = trials, now, timer
        self.times: dict[Launch, float] = {}  # inf: it does not compile

    def candidates(self) -> "Iterator[Launch]":
        """Try them one by one: warps and split, then blocks ahead and tiles of the best of these,
        then blocks that come early of the best of all."""
        from qwen35cli.kernels.triton.trials import BEST

        for launch in (self._now, *self._trials.first()):
            self._try(launch)
            yield launch
        best: dict[tuple[int, int], Launch] = {}
        for launch in sorted(self.times, key=self.times.__getitem__):
            if self.times[launch] < inf and len(best) < BEST:
                best.setdefault((launch.warps, launch.split), launch)
        for launch in best.values():
            for other in self._trials.near(launch):
                self._try(other)
                yield other
        for launch in sorted(self.times, key=self.times.__getitem__)[:BEST]:
            if self.times[launch] < inf:
                for other in self._trials.earlier(launch):
                    self._try(other)
                    yield other

    def choice(self) -> Choice:
        """The best, measured once more beside the one so far, which it has to beat clearly."""
        best = min(self.times, key=self.times.__getitem__)
        if self.times[best] == inf:
            raise DeviceError(
                f"no launch of {self._trials.product.key} runs on this GPU",
                triton.WAY_OUT,
            )
        before = None if self.times[self._now] == inf else self._seconds(self._now)
        after = self._seconds(best)
        if before is not None and (best == self._now or after > BETTER * before):
            best, after = self._now, before
        return Choice(
            key=self._trials.product.key,
            nbytes=self._trials.nbytes,
            before=self._now,
            before_s=before,
            after=best,
            after_s=after,
            tried=len(self.times),
            failed=sum(time == inf for time in self.times.values()),
        )

    def _try(self, launch: "Launch") -> None:
        from qwen35cli.kernels.triton.trials import compiles_not

        if launch in self.times:
            return
        try:
            self.times[launch] = self._seconds(launch)
        except Exception as error:
            if not compiles_not(error):
                raise
            self.times[launch] = inf

    def _seconds(self, launch: "Launch") -> float:
        return self._timer(launch, self._trials.runs(launch))
