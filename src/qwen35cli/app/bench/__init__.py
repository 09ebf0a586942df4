"""`qwen35 bench`: how fast a model reads prompts and decodes here, against the memory's bandwidth.

Decoding is what `ask` does without drafts: what drafts gain depends on the text. A context is made
by filling the caches with random numbers, which costs a step as much as true ones. The memory is
read beside every run, because what else runs here takes from both alike. The buffer for that is
made behind the peak, in less memory than the pictures and drafts of `chat` take.
"""

import statistics
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Literal

import torch

from qwen35cli.app import load as loading
from qwen35cli.app import quantize, warm_up
from qwen35cli.app.bandwidth import read_buffer, sweep
from qwen35cli.app.device import free_bytes, peak_bytes
from qwen35cli.app.load import Loaded, LoadOptions, Opened
from qwen35cli.errors import UsageError
from qwen35cli.model.sizes import KVDtype
from qwen35cli.quant.plan import Format

from .results import Decoded, Here, Prefilled, Running, here
from .runs import UNTIMED, fill, prefill, speed

Place = Literal["cpu", "cuda"]
PROMPTS: Final[dict[Place, tuple[int, ...]]] = {"cpu": (128, 512), "cuda": (512, 4_096)}
CONTEXTS: Final[dict[Place, tuple[int, ...]]] = {
    "cpu": (512, 4_096),
    "cuda": (512, 4_096, 32_768),
}
DECODED: Final[dict[Place, int]] = {"cpu": 16, "cuda": 128}  # tokens of a run that count
SWEPT: Final[dict[Place, int]] = {"cpu": 2**28, "cuda": 2**29}  # bytes read beside each run
SWEEPS: Final = 3
WARM_UP: Final = 16  # tokens of a prompt before the clock runs


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchOptions:
    """What the user asked for."""

    model: str
    revision: str | None = None
    quant: Format | None = None  # None: as ask runs it
    kv_dtype: KVDtype = "bf16"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    kernels: str | None = None
    prompts: tuple[int, ...] = ()  # none: those of `PROMPTS` that the model takes
    contexts: tuple[int, ...] = ()
    runs: int = 5
    store: Path | None = None  # where quantized weights are kept
    cache: Path | None = None  # where GPU kernels are kept


@dataclass(slots=True)
class Bench:
    """A loaded model, and what was measured so far."""

    options: BenchOptions
    loaded: Loaded
    here: Here
    prompts: tuple[int, ...]
    contexts: tuple[int, ...]
    prefilled: list[Prefilled] = field(default_factory=list)
    decoded: list[Decoded] = field(default_factory=list)
    peak: int | None = None  # bytes

    @property
    def opened(self) -> Opened:
        return self.loaded.opened

    @property
    def bandwidth(self) -> float | None:
        """GB/s (10^9), the median of all sweeps."""
        found = [read for decoded in self.decoded for read in decoded.bandwidths]
        return statistics.median(found) if found else None


def prepare(
    options: BenchOptions, make: Callable[[quantize.Job], None] | None = None
) -> tuple[Opened, tuple[int, ...], tuple[int, ...]]:
    """The model opened for the longest of prompts and contexts; these, rising.

    Raises:
        UsageError, ModelError, DeviceError, DoesNotFitError: as `load.open_model`.
    """
    opened = loading.open_model(
        LoadOptions(
            model=options.model,
            revision=options.revision,
            device=options.device,
            kernels=options.kernels,
            kv_dtype=options.kv_dtype,
            quant=options.quant or "auto",
            ctx=WARM_UP,  # what is wanted is chosen below
            store=options.store,
            cache=options.cache,
            mtp="off",
            pictures=False,
        ),
        make,
    )
    place: Place = "cuda" if opened.device.type == "cuda" else "cpu"
    behind = DECODED[place] + UNTIMED + 2
    most = opened.estimate.model.config.text.max_context
    for flag, lengths in (("--prefill", options.prompts), ("--ctx", options.contexts)):
        if (asked := max(lengths, default=0)) + behind > most:
            raise UsageError(
                f"{asked:,} tokens and {behind} to decode behind them are more than the model's "
                f"{most:,}",
                f"{flag} {most - behind}",
            )
    free = free_bytes(opened.device) - SWEPT[place]
    room = min(opened.estimate.largest_context(free), opened.largest_ctx) - behind
    prompts = options.prompts or _fitting(PROMPTS[place], room)
    contexts = options.contexts or _fitting(CONTEXTS[place], room)
    prompts, contexts = (tuple(sorted(set(each))) for each in (prompts, contexts))
    capacity = max(*prompts, *contexts, WARM_UP) + behind
    ctx = loading.choose_context(capacity, opened.estimate, free, opened.device.type)
    return replace(opened, ctx=ctx, estimate=opened.estimate.changed(ctx=ctx)), prompts, contexts


def _fitting(usual: tuple[int, ...], room: int) -> tuple[int, ...]:
    """Those that there is room for; at least what there is."""
    return tuple(each for each in usual if each <= room) or (max(min(usual[0], room), 1),)


def load(
    options: BenchOptions, opened: Opened, prompts: tuple[int, ...], contexts: tuple[int, ...]
) -> Bench:
    """Read the weights."""
    loaded = loading.load(opened, pictures=False, drafts=False)
    return Bench(options, loaded, here(opened), prompts, contexts)


def run(bench: Bench) -> Generator[Running | Prefilled | Decoded, None, None]:
    """Measure; what was found is in `bench` too, whenever it is closed.

    Raises:
        DoesNotFitError: memory ran out.
    """
    opened, runner = bench.opened, bench.loaded.runner
    place: Place = "cuda" if opened.device.type == "cuda" else "cpu"
    with loading.memory_errors("measuring"):
        for _ in warm_up.run(bench.loaded):
            pass
        try:
            prefill(bench.loaded, WARM_UP)
            for tokens in bench.prompts:
                yield from _read(bench, tokens)
            fill(runner)
            for ctx in bench.contexts:
                speed(bench.loaded, ctx, 1)
            bench.peak = peak_bytes(opened.device)
            buffer = read_buffer(SWEPT[place], opened.device)
            for ctx in bench.contexts:
                yield from _decode(bench, ctx, DECODED[place], buffer)
        finally:
            bench.peak = bench.peak or peak_bytes(opened.device)
            runner.reset()


def _read(bench: Bench, tokens: int) -> Iterator[Running | Prefilled]:
    """Runs over a prompt of so many tokens; what was measured is kept where they break off."""
    seconds: list[float] = []
    try:
        for number in range(1, bench.options.runs + 1):
            yield Running("prefill", tokens, number, bench.options.runs)
            seconds.append(prefill(bench.loaded, tokens))
    finally:
        if seconds:
            bench.prefilled.append(Prefilled(tokens, tuple(seconds)))
    yield bench.prefilled[-1]


def _decode(
    bench: Bench, ctx: int, count: int, buffer: torch.Tensor
) -> Iterator[Running | Decoded]:
    """The same of runs behind `ctx` tokens, the memory read before each of them."""
    speeds: list[float] = []
    bandwidths: list[float] = []
    try:
        for number in range(1, bench.options.runs + 1):
            yield Running("decode", ctx, number, bench.options.runs)
            read = sweep(buffer, SWEEPS)
            speeds.append(speed(bench.loaded, ctx, count))
            bandwidths.append(read)
    finally:
        if bandwidths:
            nbytes = bench.opened.estimate.changed(ctx=ctx).decode_bytes
            kept = tuple(speeds[: len(bandwidths)])
            bench.decoded.append(Decoded(ctx, count, nbytes, kept, tuple(bandwidths)))
    yield bench.decoded[-1]
