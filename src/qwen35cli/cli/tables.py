"""The answer of `vram` for people: tables, and a small chart where the width allows."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from rich.bar import Bar
from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from qwen35cli.app.estimate import GIB, MIB, Estimate, size
from qwen35cli.app.vram import Answer, Fit, compare, explain, how_it_fits, tokens_per_s
from qwen35cli.text.sanitize import sanitize

from .columns import GAP
from .options import VramFlags
from .terminal import WIDE, Terminal

if TYPE_CHECKING:
    from qwen35cli.app.measure import Measured

CHART_WIDTH = 72  # columns of a terminal from which there are ranges and a chart
COLORS = {"fits": "green", "tight": "yellow", "no": "red"}
SIGNS = {"fits": "✓", "tight": "~", "no": "✗"}


def show(answers: Sequence[Answer], flags: VramFlags, terminal: Terminal) -> None:
    """All that was asked for, on stdout."""
    columns = terminal.columns
    if flags.compare:
        for page, table in enumerate(comparison(answers, columns)):
            if page:
                terminal.show("")
            terminal.show(table)
        return
    for number, answer in enumerate(answers):
        if number:
            terminal.show("")
        terminal.show(parts(answer, columns))
        for picture in answer.pictures:
            width, height = picture.size
            to = "" if picture.size == picture.resized else " → {} × {}".format(*picture.resized)
            terminal.show(f"picture {width} × {height}{to}: {picture.tokens:,} tokens")
        if answer.target is not None:
            terminal.show(verdict(answer, answer.target))
        for table in cards(answer, columns):
            terminal.show("")
            terminal.show(table)
        if flags.explain:
            terminal.show("\n" + sanitize("\n".join(explain(answer))))
    if columns is not None and columns >= CHART_WIDTH:
        terminal.show("")
        terminal.show(chart(answers[0], columns))


def _table(title: str | None = None) -> Table:
    return Table(title=title, box=None, pad_edge=False, title_justify="left", title_style="bold")


class _Column(NamedTuple):
    head: str
    cells: Sequence[str | Text]

    @property
    def width(self) -> int:
        return max(cell_len(str(cell)) for cell in (*self.head.split("\n"), *self.cells))


def _stacked(
    names: Sequence[_Column], rest: Sequence[_Column], columns: int | None, title: str | None = None
) -> list[Table]:
    """The columns side by side; where `columns` are too few, in tables below each other, each
    beginning with the `names`. No figure is ever cut.
    """
    room = sum(column.width + GAP for column in names)
    pages: list[list[_Column]] = [[]]
    left = (columns or WIDE) - room
    for column in rest:
        if pages[-1] and column.width > left:
            pages.append([])
            left = (columns or WIDE) - room
        pages[-1].append(column)
        left -= column.width + GAP
    tables = []
    for number, page in enumerate(pages):
        table = _table(None if number else title)
        for column in names:
            table.add_column(column.head, overflow="fold", vertical="bottom")
        for column in page:
            table.add_column(column.head, justify="right", overflow="fold")
        for row in zip(*(column.cells for column in (*names, *page)), strict=True):
            table.add_row(*row)
        tables.append(table)
    return tables


def parts(answer: Answer, columns: int | None = None) -> Table:
    """The needs, line by line; without the ranges of single parts where `columns` are few."""
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
    wide = columns is None or columns >= CHART_WIDTH
    for part in estimate.parts:
        how = "exact" if part.exact else "estimated"
        if wide and not part.exact:
            how += f", {_range(part.low, part.high)}"
        table.add_row(part.label, _short(part.nbytes), Text(how, style="dim"))
    table.add_row("", "", "")
    total = Text("total", style="bold"), Text(_short(estimate.total), style="bold")
    table.add_row(*total, _range(estimate.low, estimate.high) if wide else "")
    if not wide:
        table.add_row("at least", _short(estimate.low), "")
        table.add_row("at most", _short(estimate.high), "")
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


def cards(answer: Answer, columns: int | None = None) -> list[Table]:
    """The common cards, smallest first."""
    fits = answer.cards
    speeds = [fit.tokens_per_s if fit.fits else None for fit in fits]
    return _stacked(
        [_Column("GPU, memory in GiB", [fit.gpu.name for fit in fits])],
        [
            _Column("usable", [f"{fit.gpu.usable / GIB:.2f}" for fit in fits]),
            _Column("", [Text(fit.verdict, style=COLORS[fit.verdict]) for fit in fits]),
            _Column("headroom", [f"{fit.headroom / GIB:+.2f}" for fit in fits]),
            *(
                _Column(
                    f"max ctx\n{kind} KV",
                    [
                        _tokens(fit.estimate.changed(kv_dtype=kind).largest_context(fit.gpu.usable))
                        for fit in fits
                    ],
                )
                for kind in ("bf16", "int8")
            ),
            _Column("tokens/s", [_speed(speed) if speed else "–" for speed in speeds]),
        ],
        columns,
    )


def comparison(answers: Sequence[Answer], columns: int | None = None) -> list[Table]:
    """Formats and KV types against contexts; with a card, what fits there."""
    target = answers[0].target
    rows = compare(answers)
    name = sanitize(answers[0].estimate.model.name)
    title = f"{name} · GiB"
    if target is not None:
        title += f" · {sanitize(target.gpu.name)}, {size(target.gpu.usable)} usable"
    names = [
        _Column("weights", [row.quant for row in rows]),
        _Column("KV", [row.kv_dtype for row in rows]),
    ]
    rest = [
        _Column(f"{estimate.setting.ctx:,}", [_cell(row.estimates[place], target) for row in rows])
        for place, estimate in enumerate(rows[0].estimates)
    ]
    if target is not None:
        usable = target.gpu.usable
        least = [row.estimates[0] for row in rows]
        first = rows[0].estimates[0].setting.ctx
        speeds = [tokens_per_s(each, target.gpu) if each.fits(usable) else None for each in least]
        rest += [
            _Column("largest context", [_tokens(each.largest_context(usable)) for each in least]),
            _Column(
                f"tokens/s\nat {first:,}",
                [_speed(speed) if speed else "–" for speed in speeds],
            ),
        ]
    return _stacked(names, rest, columns, title)


def _cell(estimate: Estimate, target: Fit | None) -> Text:
    figure = f"{estimate.total / GIB:.2f}"
    if target is None:
        return Text(figure)
    verdict = how_it_fits(estimate, target.gpu.usable)
    return Text(f"{figure} {SIGNS[verdict]}", style=COLORS[verdict])


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
            style = COLORS[how_it_fits(each, usable)]
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
    """Four digits; three of what is small."""
    if nbytes >= GIB:
        return f"{nbytes / GIB:.{2 if nbytes >= 10 * GIB else 3}f} GiB"
    if nbytes >= MIB / 10 or not nbytes:
        return f"{nbytes / MIB:.1f} MiB" if nbytes else "0"
    return f"{nbytes / 1_024:.1f} KiB"


def _range(low: int, high: int) -> str:
    """From the least to the most, in the unit of the most."""
    if high >= GIB:
        return f"{low / GIB:.2f} – {high / GIB:.2f} GiB"
    unit, name = (MIB, "MiB") if high >= MIB / 10 else (1_024, "KiB")
    least, most = (
        f"{value:.0f}" if value >= 10 else f"{value:.1f}" for value in (low / unit, high / unit)
    )
    return f"{least} – {most} {name}"


def _signed(nbytes: int) -> str:
    return ("+" if nbytes > 0 else "−" if nbytes < 0 else "") + _short(abs(nbytes))


def _tokens(count: int) -> str:
    return f"{count:,}" if count else "–"


def _speed(speed: tuple[float, float]) -> str:
    return f"{speed[0]:,.0f} – {speed[1]:,.0f}"
