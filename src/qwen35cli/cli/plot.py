"""`vram --plot`: memory against context as a picture, the formats as lines, the cards across."""

import os
from collections.abc import Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from qwen35cli.app import gpus
from qwen35cli.app.estimate import GIB
from qwen35cli.app.vram import Answer, Row, compare
from qwen35cli.checkpoint.whole_file import whole_file
from qwen35cli.errors import UsageError

FORMATS = (".png", ".svg")
LINES = {"bf16": "-", "int8": "--"}  # by the numbers of the KV cache
SHOWN = (
    "GeForce RTX 4060",
    "GeForce RTX 3060 12GB",
    "GeForce RTX 5060 Ti 16GB",
    "GeForce RTX 4090",
)


def draw(answers: Sequence[Answer], path: Path) -> None:
    """Write the picture; it appears whole or not at all, for a link in the place it leads to.

    Raises:
        UsageError: another kind of file, or a place that cannot be written.
    """
    if path.suffix.lower() not in FORMATS:
        raise UsageError(f"{path} is neither .png nor .svg", "--plot memory.png")
    figure = chart(answers)
    try:
        with whole_file(Path(os.path.realpath(path))) as file:
            figure.savefig(file, format=path.suffix[1:].lower(), dpi=150)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}", "--plot memory.png") from None


def chart(answers: Sequence[Answer]) -> Figure:
    """The picture, not yet written."""
    first = answers[0]
    most = max(first.estimate.model.config.text.max_context, *(each.ctx for each in answers))
    figure = Figure(figsize=(9, 6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    top = 0.0
    rows = compare(answers)
    quants = list(dict.fromkeys(row.quant for row in rows))
    drawn: dict[tuple[str, ...], list[Row]] = {}  # lines that would hide each other are one
    for row in rows:
        spelled = tuple(f"{_gib(row, ctx):.2f}" for ctx in (0, most))
        drawn.setdefault((*spelled, row.kv_dtype), []).append(row)
    for alike in drawn.values():
        ends = [_gib(alike[0], ctx) for ctx in (0, most)]  # nothing in between: it is linear
        top = max(top, *ends)
        names = " and ".join(row.quant for row in alike)
        axes.plot(
            [0, most],
            ends,
            LINES[alike[0].kv_dtype],
            color=f"C{quants.index(alike[0].quant)}",
            label=f"{names}, {alike[0].kv_dtype} KV",
        )
    known = {gpu.name: gpu for gpu in gpus.table()}
    cards = [known[name] for name in SHOWN]
    if first.target is not None:
        cards = [first.target.gpu]
    for card in cards:
        height = card.usable / GIB
        if height <= 1.2 * top:
            axes.axhline(height, color="0.6", linewidth=0.8)
            axes.annotate(
                card.name, (0, height), xytext=(4, 2), textcoords="offset points", fontsize=8
            )
    for each in answers:
        axes.axvline(each.ctx, color="0.85", linewidth=0.8)
    axes.set_xlim(0, most)
    axes.set_ylim(0, 1.1 * top)
    axes.set_title(first.estimate.model.name, parse_math=False)
    axes.set_xlabel("context, tokens")
    axes.set_ylabel("memory, GiB")
    axes.set_xticks([most * part // 8 for part in range(9)])
    axes.xaxis.set_major_formatter(FuncFormatter(lambda ctx, _: f"{int(ctx):,}"))
    axes.legend(fontsize=8)
    return figure


def _gib(row: Row, ctx: int) -> float:
    return row.estimates[0].changed(ctx=ctx).total / GIB
