"""The answer of `vram` for people: tables, and a small chart where the width allows."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.bar import Bar
from rich.table import Table
from rich.text import Text

from qwen35cli.app.estimate import GIB, MIB, Estimate, size
from qwen35cli.app.vram import Answer, Fit, compare, explain
from qwen35cli.text.sanitize import sanitize

from .options import VramFlags
from .terminal import Terminal

if TYPE_CHECKING:
    from qwen35cli.app.measure import Measured

CHART_WIDTH = 72  # columns of a terminal from which there is a chart
COLORS = {"fits": "green", "tight": "yellow", "no": "red"}
MARKS = {"fits": "fits", "tight": "tight", "no": "no"}


def show(answers: Sequence[Answer], flags: VramFlags, terminal: Terminal) -> None:
    """All that was asked for, on stdout."""
    if flags.compare:
        terminal.show(comparison(answers))
        return
    for number, answer in enumerate(answers):
        if number:
            terminal.show("")
        terminal.show(parts(answer))
        for picture in answer.pictures:
            width, height = picture.size
            to = "" if picture.size == picture.resized else " → {} × {}".format(*picture.resized)
            terminal.show(f"picture {width} × {height}{to}: {picture.tokens:,} tokens")
        if answer.target is not None:
            terminal.show(verdict(answer, answer.target))
        terminal.show("")
        terminal.show(cards(answer))
        if flags.explain:
            terminal.show("\n" + sanitize("\n".join(explain(answer))))
    columns = terminal.columns
    if columns is not None and columns >= CHART_WIDTH:
        terminal.show("")
        terminal.show(chart(answers[0], columns))


def _table(title: str | None = None) -> Table:
    return Table(title=title, box=None, pad_edge=False, title_justify="left", title_style="bold")


def parts(answer: Answer) -> Table:
    """The needs, line by line."""
    estimate, setting = answer.estimate, answer.estimate.setting
    name = sanitize(estimate.model.name)
    sequences = f" · {setting.batch} sequences" if setting.batch > 1 else ""
    table = _table(
        f"{name} · {estimate.model.quant} weights · {setting.kv_dtype} KV · "
        f"{answer.ctx:,} tokens{sequences}"
    )
    table.show_header = False
    table.add_column(overflow="fold")
    table.add_column(justify="right", no_wrap=True)
    table.add_column(no_wrap=True)
    for part in estimate.parts:
        how = "exact" if part.exact else f"estimated, {_short(part.low)} to {_short(part.high)}"
        table.add_row(part.label, _short(part.nbytes), Text(how, style="dim"))
    table.add_row("", "", "")
    total = Text("total", style="bold"), Text(_short(estimate.total), style="bold")
    table.add_row(*total, f"between {_short(estimate.low)} and {_short(estimate.high)}")
    return table


def verdict(answer: Answer, fit: Fit) -> Text:
    """How it stands to the card that was asked about."""
    usable = f"{fit.gpu.name}, {size(fit.gpu.usable)} usable: "
    what = {
        "fits": f"fits, {size(fit.headroom)} to spare",
        "tight": f"just fits, {size(fit.headroom)} to spare: the upper end would not",
        "no": f"does not fit, {size(-fit.headroom)} missing",
    }[fit.verdict]
    text = Text(sanitize(usable)).append(what, style=COLORS[fit.verdict])
    other = answer.estimate.changed(
        kv_dtype="int8" if answer.estimate.setting.kv_dtype == "bf16" else "bf16"
    )
    text.append(
        f"; largest context {fit.largest_ctx:,}, with {other.setting.kv_dtype} KV "
        f"{other.largest_context(fit.gpu.usable):,}"
    )
    if fit.tokens_per_s is not None and fit.fits:
        text.append(f"; {_speed(fit.tokens_per_s)} tokens/s")
    return text


def cards(answer: Answer) -> Table:
    """The common cards, smallest first."""
    table = _table()
    table.add_column("GPU", no_wrap=True)
    for head in ("usable", "", "headroom", "max ctx bf16", "int8 KV", "tokens/s"):
        table.add_column(head, justify="right", no_wrap=True)
    bf16, int8 = (answer.estimate.changed(kv_dtype=kind) for kind in ("bf16", "int8"))
    for fit in answer.cards:
        speed = fit.tokens_per_s if fit.fits else None
        table.add_row(
            fit.gpu.name,
            f"{fit.gpu.usable / GIB:.2f} GiB",
            Text(MARKS[fit.verdict], style=COLORS[fit.verdict]),
            f"{fit.headroom / GIB:+.2f} GiB",
            _tokens(bf16.largest_context(fit.gpu.usable)),
            _tokens(int8.largest_context(fit.gpu.usable)),
            _speed(speed) if speed else "–",
        )
    return table


def comparison(answers: Sequence[Answer]) -> Table:
    """Formats and KV types against contexts; with a card, what fits there."""
    target = answers[0].target
    rows = compare(answers)
    name = sanitize(answers[0].estimate.model.name)
    title = f"{name} · GiB"
    if target is not None:
        title += f" · {sanitize(target.gpu.name)}, {size(target.gpu.usable)} usable"
    table = _table(title)
    table.add_column("weights", no_wrap=True)
    table.add_column("KV", no_wrap=True)
    for estimate in rows[0].estimates:
        table.add_column(f"{estimate.setting.ctx:,}", justify="right", no_wrap=True)
    if target is not None:
        table.add_column("largest context", justify="right", no_wrap=True)
        table.add_column("tokens/s", justify="right", no_wrap=True)
    for row in rows:
        cells = [_cell(estimate, target) for estimate in row.estimates]
        more = []
        if target is not None:
            bandwidth = target.gpu.bandwidth_gbs
            more = [
                _tokens(row.estimates[0].largest_context(target.gpu.usable)),
                _speed(row.estimates[0].tokens_per_s(bandwidth)) if bandwidth else "–",
            ]
        table.add_row(row.quant, row.kv_dtype, *cells, *more)
    return table


def _cell(estimate: Estimate, target: Fit | None) -> Text:
    figure = f"{estimate.total / GIB:.2f}"
    if target is None:
        return Text(figure)
    usable = target.gpu.usable
    if not estimate.fits(usable):
        return Text(f"{figure} ✗", style="red")
    if estimate.high > usable:
        return Text(f"{figure} ~", style="yellow")
    return Text(f"{figure} ✓", style="green")


def chart(answer: Answer, columns: int) -> Table:
    """Memory against context, a bar each; the room of the card that was asked about beside it."""
    estimate, target = answer.estimate, answer.target
    most = max(estimate.model.config.text.max_context, answer.ctx)
    contexts = sorted({answer.ctx, *(most >> shift for shift in range(6))})
    estimates = [estimate.changed(ctx=ctx) for ctx in contexts]
    longest = max(each.total for each in estimates)
    usable = None if target is None else target.gpu.usable
    scale = longest if usable is None else max(longest, min(usable, 2 * longest))
    table = _table()
    table.add_column("tokens", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    table.add_column("GiB", justify="right", no_wrap=True)
    width = min(columns - 24, 80)
    for each in estimates:
        style = "blue"
        if usable is not None:
            style = "red" if not each.fits(usable) else "green"
        table.add_row(
            f"{each.setting.ctx:,}",
            Bar(scale, 0, each.total, width=width, color=style),
            f"{each.total / GIB:.2f}",
        )
    if usable is not None and target is not None:
        table.add_row(
            "", Bar(scale, 0, min(usable, scale), width=width, color="bright_black"), "usable"
        )
    return table


def measured(result: "Measured", ctx: int, name: str) -> Table:
    """Prediction and measurement, part by part."""
    table = _table(f"{name} · {ctx:,} tokens · measured on {sanitize(result.device)}")
    table.add_column("")
    for head in ("predicted", "measured", "difference"):
        table.add_column(head, justify="right", no_wrap=True)
    for line in result.lines:
        style = "bold" if line.name == "total" else ""
        table.add_row(
            Text(line.label, style=style),
            _short(line.predicted),
            _short(line.measured),
            _signed(line.measured - line.predicted),
        )
    share = abs(result.residue) / max(result.lines[-1].predicted, 1)
    table.add_row("", "", "", "")
    table.add_row(f"residue: {share:.1%} of the prediction", "", "", _signed(result.residue))
    return table


def _short(nbytes: int) -> str:
    if nbytes >= GIB:
        return f"{nbytes / GIB:.3f} GiB"
    return f"{nbytes / MIB:.1f} MiB" if nbytes else "0"


def _signed(nbytes: int) -> str:
    return ("+" if nbytes > 0 else "−" if nbytes < 0 else "") + _short(abs(nbytes))


def _tokens(count: int) -> str:
    return f"{count:,}" if count else "–"


def _speed(speed: tuple[float, float]) -> str:
    return f"{speed[0]:,.0f} – {speed[1]:,.0f}"
