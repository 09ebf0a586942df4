"""`qwen35 bench`: how fast a model runs here, in a table."""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from statistics import median
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qwen35cli import __version__
from qwen35cli.errors import InterruptedByUser
from qwen35cli.text.sanitize import sanitize

from . import settings
from .flags import Group, flag, grouped, switch
from .options import (
    DEFAULT_MODEL,
    OTHER_DEVICE,
    Device,
    Kernels,
    KVDtype,
    Model,
    Quant,
    Revision,
)
from .terminal import Terminal
from .values import Number, contexts

if TYPE_CHECKING:
    from qwen35cli.app.bench import Bench
    from qwen35cli.app.bench.results import Decoded, Prefilled


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchFlags(Group):
    """What is measured, and how it is told."""

    clashes = OTHER_DEVICE

    revision: Revision = None
    quant: Quant = None
    kv_dtype: KVDtype = "bf16"
    device: Device = "auto"
    kernels: Kernels = None
    yes: Annotated[
        bool,
        switch("Model", "Quantize without a terminal too, where it takes long.", "--yes", "-y"),
    ] = False
    prefill: Annotated[
        list[Any] | None,
        flag(
            "Measured",
            "Tokens of a prompt to read, such as 4k, or 1k,4k for several.",
            "--prefill",
            metavar="N,…",
            parser=contexts,
            default="128 and 512; on a GPU 512 and 4k",
        ),
    ] = None
    ctx: Annotated[
        list[Any] | None,
        flag(
            "Measured",
            "Tokens in the context while decoding, such as 32k, or 4k,32k.",
            "--ctx",
            metavar="N,…",
            parser=contexts,
            default="512 and 4k; on a GPU 32k too",
        ),
    ] = None
    runs: Annotated[
        int,
        flag(
            "Measured",
            "Of each; the median counts.",
            "--runs",
            metavar="N",
            parser=Number(1, 1_000, whole=True).read,
        ),
    ] = 5
    json: Annotated[bool, switch("Output", "One JSON object at the end.", "--json")] = False


@grouped
def bench(context: typer.Context, model: Model = DEFAULT_MODEL, *, flags: BenchFlags) -> None:
    """Measure how fast a model runs here, and in how much memory.

    Decoding is without drafts; beside it is measured what of the memory's bandwidth that takes.
    Nothing is downloaded, and nothing else should run meanwhile.

    Examples:
      qwen35 bench
      qwen35 bench demo
      qwen35 bench --quant int8 --kv-dtype int8 --ctx 4k,32k,128k
      qwen35 bench ./my-finetune --json | jq .decode
    """
    terminal: Terminal = context.obj
    terminal.status("starting …")
    from qwen35cli.app import bench as use_case  # late: it imports torch

    from . import making

    options = use_case.BenchOptions(
        model=model,
        revision=flags.revision,
        quant=flags.quant,
        kv_dtype=flags.kv_dtype,
        device=flags.device,
        kernels=flags.kernels,
        prompts=tuple(count for counts in flags.prefill or () for count in counts),
        contexts=tuple(count for counts in flags.ctx or () for count in counts),
        runs=flags.runs,
        store=settings.data_folder(),
        cache=settings.cache_folder(),
    )
    try:
        opened, prompts, depths = use_case.prepare(options, making.maker(terminal, yes=flags.yes))
        terminal.status(f"loading {opened.source.name} {opened.checkpoint.format} …")
        measured = use_case.load(options, opened, prompts, depths)
    except KeyboardInterrupt:
        terminal.say("(interrupted; nothing was measured)")
        raise InterruptedByUser("interrupted") from None
    terminal.detail(f"loaded in {measured.loaded.load_s:.1f} s")
    whole = _measured(measured, terminal)
    if flags.json:
        terminal.write_json(as_json(measured, interrupted=not whole))
    elif measured.prefilled or measured.decoded:
        _show(measured, terminal)
    if not whole:
        done: list[Prefilled | Decoded] = [*measured.prefilled, *measured.decoded]
        said = "nothing was measured"
        if done:
            said = f"{len(done)} of {len(prompts) + len(depths)} were measured"
            said += f", the last in {done[-1].runs} of {flags.runs} runs"
        terminal.say(f"(interrupted; {said})")
        raise InterruptedByUser("interrupted")


def _measured(measured: "Bench", terminal: Terminal) -> bool:
    """Carry it out; False where Ctrl-C or SIGTERM broke it off."""
    from qwen35cli.app import bench as use_case
    from qwen35cli.app.bench.results import Running

    terminal.status("warming up …")
    try:
        with closing(use_case.run(measured)) as events:
            for event in events:
                if isinstance(event, Running):
                    what = "reading" if event.phase == "prefill" else "decoding behind"
                    run = f"run {event.number} of {event.count}"
                    terminal.status(f"{what} {event.tokens:,} tokens · {run}")
                else:
                    terminal.detail(_line(event))
    except (KeyboardInterrupt, InterruptedByUser):
        terminal.clear_status()
        return False
    terminal.clear_status()
    return True


def _line(event: "Prefilled | Decoded") -> str:
    """A result for `-v`, as it comes."""
    from qwen35cli.app.bench.results import Prefilled

    if isinstance(event, Prefilled):
        return f"{event.tokens:,} tokens read at {_speed(event.tokens_per_s)} tokens/s"
    return f"decoding behind {event.ctx:,} tokens: {_speed(event.tokens_per_s)} tokens/s"


def _show(measured: "Bench", terminal: Terminal) -> None:
    """What it was measured on, and a line for each length."""
    from rich.table import Table  # late: not for --help

    from qwen35cli.app.estimate import size

    opened, here = measured.opened, measured.here
    name = sanitize(opened.source.name)
    terminal.show(f"{name} · {opened.checkpoint.format} weights · {opened.kv_dtype} KV")
    on_gpu = opened.device.type == "cuda"
    where = [here.device]
    where += [f"driver {here.driver or 'unknown'}"] if on_gpu else [f"{here.threads} threads"]
    where += [f"torch {here.torch}"]
    where += [f"Triton {here.triton}"] if on_gpu and here.triton else []
    terminal.show(" · ".join([*map(sanitize, where), here.kernels]))
    terminal.show("")
    if measured.prefilled:
        table = Table(box=None, pad_edge=False)
        for head in ("prompt", "tokens/s", "of all runs", "first token"):
            table.add_column(head, justify="right", overflow="fold")
        for read in measured.prefilled:
            first = f"{read.first_token_s:.3f} s"
            table.add_row(f"{read.tokens:,}", *_speeds(read.speeds), first)
        terminal.show(table)
        terminal.show("")
    if measured.decoded:
        table = Table(box=None, pad_edge=False)
        for head in ("context", "tokens/s", "of all runs", "a token reads", "of bandwidth"):
            table.add_column(head, justify="right", overflow="fold")
        for each in measured.decoded:
            reads, share = size(each.nbytes), f"{each.share:.0%}"
            table.add_row(f"{each.ctx:,}", *_speeds(each.speeds), reads, share)
        terminal.show(table)
        terminal.show("")
    done: list[Prefilled | Decoded] = [*measured.prefilled, *measured.decoded]
    least, most = min(each.runs for each in done), max(each.runs for each in done)
    runs = f"{most}" if least == most else f"{least} to {most}"
    parts = [f"medians of {runs} runs" if most > 1 else "one run"]
    parts += [f"{measured.decoded[0].count} tokens decoded in each"] if measured.decoded else []
    parts.append(f"loaded in {measured.loaded.load_s:.1f} s")
    if measured.peak is not None:
        parts.append(f"peak memory {size(measured.peak)}, estimated {size(opened.estimate.total)}")
    if measured.bandwidth is not None:
        parts.append(f"memory is read at {measured.bandwidth:,.1f} GB/s")
    terminal.show(" · ".join(parts))


def _speeds(speeds: Sequence[float]) -> tuple[str, str]:
    """The median of the runs, and from the slowest to the fastest of them."""
    middle, least, most = map(_speed, (median(speeds), min(speeds), max(speeds)))
    return middle, f"{least}–{most}"


def _speed(tokens_per_s: float) -> str:
    return f"{tokens_per_s:.1f}" if tokens_per_s < 100 else f"{tokens_per_s:,.0f}"


def as_json(measured: "Bench", *, interrupted: bool) -> dict[str, Any]:
    """The object of `--json`. Keys are only ever added."""
    opened, options = measured.opened, measured.options
    return {
        "qwen35": __version__,
        "model": opened.source.name,
        "revision": opened.source.revision,
        "quant": opened.checkpoint.format,
        "kv_dtype": opened.kv_dtype,
        "device": opened.device.type,
        "machine": asdict(measured.here),
        "runs": options.runs,
        "load_s": round(measured.loaded.load_s, 3),
        "peak_bytes": measured.peak,
        "estimated_bytes": opened.estimate.total,
        "bandwidth_gb_s": measured.bandwidth and round(measured.bandwidth, 2),
        "prefill": [
            {
                "tokens": each.tokens,
                "tokens_per_s": round(each.tokens_per_s, 2),
                "first_token_s": round(each.first_token_s, 5),
                "seconds": [round(second, 5) for second in each.seconds],
            }
            for each in measured.prefilled
        ],
        "decode": [
            {
                "ctx": each.ctx,
                "decoded_tokens": each.count,
                "tokens_per_s": round(each.tokens_per_s, 2),
                "bytes_per_token": each.nbytes,
                "bandwidth_share": round(each.share, 4),
                "runs_tokens_per_s": [round(speed, 2) for speed in each.speeds],
                "runs_bandwidth_gb_s": [round(read, 2) for read in each.bandwidths],
            }
            for each in measured.decoded
        ],
        "interrupted": interrupted,
    }
