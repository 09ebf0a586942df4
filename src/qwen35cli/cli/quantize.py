"""`qwen35 quantize`: smaller weights, made once for later runs."""

from typing import TYPE_CHECKING

import typer

from . import settings
from .flags import grouped
from .options import DEFAULT_MODEL, Model, QuantizeFlags
from .terminal import Terminal
from .words import size

if TYPE_CHECKING:
    from qwen35cli.app.quantize import Job


@grouped
def quantize(context: typer.Context, model: Model = DEFAULT_MODEL, *, flags: QuantizeFlags) -> None:
    """Write int4, int8 or nf4 weights once, for later runs.

    stdout gets the folder's path, alone. A killed run leaves the old result or none, never half of
    one.

    Examples:
      qwen35 quantize
      qwen35 quantize ./my-finetune --format int8 -o ./my-finetune-int8
      qwen35 quantize --dry-run
      qwen35 quantize --plan --plan-file careful.toml

    A plan file gives schemes to tensors by their names, the first match counts:
      [tensors]
      "*.layers.31.mlp.*" = "int8"
      "*.mlp.down_proj.weight" = "int4-g64"
    """
    terminal: Terminal = context.obj
    terminal.status("starting …")
    from qwen35cli.app import quantize as use_case  # late: it imports torch

    from . import making

    job = use_case.prepare(
        use_case.QuantizeOptions(
            model=model,
            revision=flags.revision,
            format=flags.format,
            group=flags.group,
            plan_file=flags.plan_file,
            output=flags.output,
            store=settings.data_folder(),
        )
    )
    if flags.plan or flags.dry_run:
        rows = plan_rows(job) if flags.plan else []
        rows += [""] if flags.plan and flags.dry_run else []
        rows += size_rows(job) if flags.dry_run else []
        terminal.stdout().write("\n".join(rows) + "\n")
        if flags.dry_run:
            job.check_room()
        return
    making.carry_out(job, terminal, force=flags.force)
    terminal.write_path(job.target)


def plan_rows(job: "Job") -> list[str]:
    """Which tensors get which scheme, how many they are, and what they take."""
    cells: list[tuple[str, ...]] = [("tensors", "scheme", "count", "weights", "bytes")]
    lines = job.lines()
    for line in lines:
        scheme = "as it is" if line.scheme.kind == "keep" else str(line.scheme)
        cells.append(
            (line.pattern, scheme, f"{line.count:,}", f"{line.weights:,}", f"{line.nbytes:,}")
        )
    total = (sum(line.count for line in lines), job.weights, sum(line.nbytes for line in lines))
    cells.append(("all", "", *(f"{number:,}" for number in total)))
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if i < 2 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in cells
    ]


def size_rows(job: "Job") -> list[str]:
    """What the weights take now and would take, and what the disk has."""
    now, after = job.checkpoint.nbytes, job.nbytes
    rows = [
        ("", "now", job.plan.format),
        ("weights", size(now), size(after)),
        ("bits per weight", f"{8 * now / job.weights:.2f}", f"{8 * after / job.weights:.2f}"),
        ("read per token", size(job.decode_bytes(quantized=False)), size(job.decode_bytes())),
    ]
    table = [f"{label:<16}{one:>10}{other:>10}" for label, one, other in rows]
    return [*table, f"{'free on the disk':<16}{size(job.free_bytes()):>10}"]
