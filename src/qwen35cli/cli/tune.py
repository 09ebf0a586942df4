"""`qwen35 tune`: the fastest launches of the GPU kernels on this card, measured and kept."""

from contextlib import closing
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import settings
from .flags import grouped
from .options import DEFAULT_MODEL, TuneFlags, model_argument
from .terminal import Terminal

if TYPE_CHECKING:
    from qwen35cli.app.tune import Choice, Job

Model = Annotated[str, model_argument("A size such as 4B, `demo`, a folder, or a Hub id.")]


@grouped
def tune(context: typer.Context, model: Model = DEFAULT_MODEL, *, flags: TuneFlags) -> None:
    """Find the fastest launches of the GPU kernels on this card.

    It takes minutes, once for a card and a model; ask and chat use what it finds.
    The model need not be downloaded. Nothing else should run on the GPU.

    Examples:
      qwen35 tune
      qwen35 tune 9B --quant int8
      qwen35 tune ./my-finetune --json
    """
    terminal: Terminal = context.obj
    terminal.status("starting …")
    from qwen35cli.app import tune as use_case  # late: it imports torch

    job = use_case.prepare(
        use_case.TuneOptions(
            model=model,
            revision=flags.revision,
            quant=flags.quant,
            cache=settings.cache_folder(),
        )
    )
    if job.damaged is not None:
        terminal.warn(f"{job.damaged}; it is made anew")
    terminal.say(f"tuning {len(job.products)} launches on {job.gpu}, minutes, once")
    choices = _measured(job, terminal)
    if flags.json:
        terminal.write_json(as_json(job, choices))
    else:
        _show(choices, terminal)
    terminal.say(f"kept in {job.path}: ask and chat use it from now on")


def _measured(job: "Job", terminal: Terminal) -> "list[Choice]":
    """The choices of all products.

    Raises:
        InterruptedByUser: Ctrl-C or SIGTERM; what was found is kept.
    """
    from qwen35cli.app import tune as use_case

    choices: list[Choice] = []

    def state() -> str:
        return f"{len(choices)} of {len(job.products)} are kept" if choices else ""

    with terminal.interruptible(state), closing(use_case.run(job)) as events:
        for event in events:
            if isinstance(event, use_case.Trying):
                now = f" · compiling {event.compiling}" if event.compiling else ""
                terminal.status(
                    f"{event.number} of {event.count}: {event.key} · {event.tried} tried{now}"
                )
                continue
            choices.append(event)
            terminal.detail(
                f"{event.key}: {event.tried} tried, {event.failed} of them do not compile"
            )
    terminal.clear_status()
    return choices


def _show(choices: "list[Choice]", terminal: Terminal) -> None:
    """A line for each launch."""
    from rich.table import Table  # late: not for --help

    table = Table(box=None, pad_edge=False)
    table.add_column("launch")
    table.add_column("weights")
    table.add_column("shape")
    heads = "step before, µs", "after, µs", "warps", "ahead", "tiles", "split", "early"
    for head in heads:
        table.add_column(head, justify="right")
    for choice in choices:
        op, bits, shape = choice.key.split()
        table.add_row(
            op,
            f"{bits} bit",
            shape,
            "–" if choice.before_s is None else f"{choice.before_s * 1e6:.2f}",
            f"{choice.after_s * 1e6:.2f}",
            *(str(number) for number in choice.after.numbers),
        )
    terminal.show(table)


def as_json(job: "Job", choices: "list[Choice]") -> dict[str, Any]:
    """The object of `--json`. Keys are only ever added."""
    return {
        "gpu": job.gpu,
        "arch": job.arch,
        "file": str(job.path),
        "launches": [
            {
                "key": choice.key,
                "before_us": None if choice.before_s is None else round(choice.before_s * 1e6, 3),
                "after_us": round(choice.after_s * 1e6, 3),
                "before": _launch_json(choice.before),
                "after": _launch_json(choice.after),
                "tried": choice.tried,
                "failed": choice.failed,
            }
            for choice in choices
        ],
    }


def _launch_json(launch: Any) -> dict[str, int]:
    names = "warps", "ahead", "tiles", "split", "early"
    return dict(zip(names, launch.numbers, strict=True))
