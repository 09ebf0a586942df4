"""`qwen35 vram`: what a model needs in memory, where it fits, how far its context can go."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qwen35cli.errors import DoesNotFitError, UsageError
from qwen35cli.text.sanitize import sanitize

from . import complete, config
from .flags import grouped
from .options import DEFAULT_MODEL, VramFlags
from .terminal import Terminal
from .values import RoundCount

if TYPE_CHECKING:
    from qwen35cli.app.gpus import Gpu
    from qwen35cli.app.vram import Answer, Fit, VramOptions

MOST = 16_777_216  # tokens, pictures of which nothing is known to need more
FLAGS = ("--ctx", "--kv-dtype", "--quant", "--mtp", "--no-vision")

Model = Annotated[
    str | None,
    typer.Argument(
        help="A size such as 4B, `demo`, a folder, or a Hub id.",
        metavar="MODEL",
        autocompletion=complete.models,
        show_default=DEFAULT_MODEL,
    ),
]


@grouped
def vram(context: typer.Context, model: Model = None, *, flags: VramFlags) -> None:
    """Say how much memory a model needs, before it is loaded.

    Exit code 0 where it fits, 5 where it does not; without a GPU, here or named, the needs only.

    Examples:
      qwen35 vram --ctx 262144
      qwen35 vram --gpu "RTX 4060" --ctx 64k --kv-dtype int8
      qwen35 vram --gpu 24GiB --compare
      qwen35 vram 9B --quant int8 --images 1920x1080x4
      qwen35 vram --gpu 8GiB --json | jq .max_ctx
      qwen35 vram ./my-finetune --measure --ctx 8k
    """
    terminal: Terminal = context.obj
    if model is not None and flags.model_flag is not None:
        raise UsageError("the model is given twice, as argument and as -m", "leave one out")
    from qwen35cli.app import vram as use_case

    named = flags.model_flag if model is None else model
    asked = options(DEFAULT_MODEL if named is None else named, flags)
    if flags.measure:
        outranked = config.strength(context, "gpu") < config.strength(context, "measure")
        asked = replace(asked, gpu=_here(flags.gpu, outranked=outranked))
    answers = use_case.answer(asked)
    warn(answers, terminal)
    measured = _measured(answers, asked, flags, terminal) if flags.measure else None
    if flags.plot is not None:
        from . import plot  # late: matplotlib

        plot.draw(answers, flags.plot)
        terminal.say(f"drawn into {flags.plot}")
    if flags.json:
        rows = use_case.compare(answers) if flags.compare else None
        for answer in answers:
            value = as_json(answer)
            if rows is not None:
                value["compare"] = compare_json(answers, rows)
            if measured is not None:
                value["measured"] = measured
            terminal.write_json(value)
    elif measured is None or flags.compare or flags.explain:
        from . import tables  # late: Rich

        if measured is not None:
            terminal.show("")
        tables.show(answers, flags, terminal)
    refuse(answers)


def options(model: str, flags: VramFlags) -> "VramOptions":
    """The flags as the estimate takes them.

    Raises:
        UsageError: more than can be meant.
    """
    from qwen35cli.app.estimate import rounded_context
    from qwen35cli.app.vram import LONGEST, VramOptions

    contexts = [count for counts in flags.ctx or () for count in counts]
    for name, count in (*(("--ctx", ctx) for ctx in contexts), ("--chunk", flags.chunk or 0)):
        if count > MOST:
            raise UsageError(f"{name} {count:,} is more than {MOST:,} tokens", f"{name} 262144")
    return VramOptions(
        model=model,
        revision=flags.revision,
        ctx=tuple(
            dict.fromkeys(
                rounded_context(ctx, LONGEST) if isinstance(ctx, RoundCount) else ctx
                for ctx in contexts
            )
        ),
        quant=flags.quant,
        group=flags.group,
        kv_dtype=flags.kv_dtype,
        pictures=tuple(picture for pictures in flags.images or () for picture in pictures),
        image_max_tokens=flags.image_max_tokens or None,
        vision=flags.vision,
        drafts={"off": 0, "auto": 4}[flags.mtp] if flags.mtp in ("off", "auto") else int(flags.mtp),
        chunk=flags.chunk,
        batch=flags.batch,
        gpu=flags.gpu,
        display=flags.display,
    )


def warn(answers: "Sequence[Answer]", terminal: Terminal) -> None:
    """What is computed all the same."""
    if answers[0].target is not None:
        _warn_of_card(answers[0].target.gpu, terminal)
    from qwen35cli.app.vram import LONGEST

    model = answers[0].estimate.model
    most = model.config.text.max_context
    for answer in answers:
        if answer.needs_yarn:
            terminal.warn(
                f"{answer.ctx:,} tokens are more than the {most:,} that {model.name} was made for: "
                "only with YaRN in its config.json, and not as good",
                f"--ctx {most}",
            )
        pictures = sum(picture.tokens for picture in answer.pictures)
        if pictures > answer.ctx:
            room = pictures + 1024
            terminal.warn(
                f"the pictures alone are {pictures:,} tokens, the context {answer.ctx:,}",
                f"--ctx {room}" if room <= LONGEST else "fewer --images",
            )


def _warn_of_card(gpu: "Gpu", terminal: Terminal) -> None:
    """Say of a card that the fused kernels do not run on it, and what does."""
    if gpu.runs_fused:
        return
    if gpu.kernels:
        major, minor = gpu.capability or (0, 0)
        terminal.warn(
            f"the fused kernels do not run on {gpu.name} (sm_{major}{minor}): plain torch does, "
            "slower",
            "qwen35 chat --kernels reference",
        )
    else:
        terminal.warn(
            f"no model runs on {gpu.name}: only NVIDIA's GPUs are used",
            "qwen35 chat --device cpu",
        )


def refuse(answers: "Sequence[Answer]") -> None:
    """Say of the first context that does not fit how much is missing, and what helps.

    Raises:
        DoesNotFitError: one does not.
    """
    from qwen35cli.app.estimate import size, ways_out
    from qwen35cli.app.vram import smaller

    for answer in answers:
        target = answer.target
        if target is not None and not target.fits:
            hints = ways_out(answer.estimate, target.gpu.usable, allow=FLAGS)
            if not hints:
                hints = ["a larger GPU"]
                if (other := smaller(answer, target.gpu.usable)) is not None:
                    hints.append("a smaller model: qwen35 vram {} --ctx {}".format(*other))
            raise DoesNotFitError(
                f"{answer.ctx:,} tokens need {size(answer.estimate.total)}, "
                f"{size(target.gpu.usable)} can be had on {target.gpu.name}: "
                f"{size(-target.headroom)} are missing",
                ", or ".join(hints),
            )


# -- for programs ----------------------------------------------------------------------------------


def as_json(answer: "Answer") -> dict[str, Any]:
    """The object of `--json`. Keys are only ever added."""
    estimate, target = answer.estimate, answer.target
    speed = None if target is None else target.tokens_per_s
    return {
        "model": estimate.model.name,
        "quant": estimate.model.quant,
        "kv_dtype": estimate.setting.kv_dtype,
        "ctx": answer.ctx,
        "batch": estimate.setting.batch,
        "parts": [
            {
                "name": part.name,
                "label": part.label,
                "bytes": part.nbytes,
                "exact": part.exact,
                "low_bytes": part.low,
                "high_bytes": part.high,
            }
            for part in estimate.parts
        ],
        "total_bytes": estimate.total,
        "low_bytes": estimate.low,
        "high_bytes": estimate.high,
        "fixed_bytes": estimate.fixed,
        "kv_bytes_per_token": estimate.kv_per_token,
        "decode_bytes_per_token": estimate.decode_bytes,
        "gpu": target and target.gpu.name,
        "fits": target and target.fits,
        "max_ctx": target.largest_ctx if target else None,
        "tokens_per_s": _speed(speed),
        "gpus": [_fit_json(fit) for fit in (*([target] if target else []), *answer.cards)],
        "images": [
            {
                "size": picture.size,
                "resized": picture.resized,
                "patches": picture.patches,
                "tokens": picture.tokens,
            }
            for picture in answer.pictures
        ],
        "needs_yarn": answer.needs_yarn,
    }


def _fit_json(fit: "Fit") -> dict[str, Any]:
    return {
        "name": fit.gpu.name,
        "usable_bytes": fit.gpu.usable,
        "fits": fit.fits,
        "verdict": fit.verdict,
        "headroom_bytes": fit.headroom,
        "max_ctx": fit.largest_ctx,
        "tokens_per_s": _speed(fit.tokens_per_s),
        "kernels": fit.gpu.kernels,
    }


def _speed(speed: tuple[float, float] | None) -> dict[str, float] | None:
    return None if speed is None else {"low": round(speed[0], 1), "high": round(speed[1], 1)}


def compare_json(answers: "Sequence[Answer]", rows: "Sequence[Any]") -> list[dict[str, Any]]:
    """The lines of `--compare`."""
    target = answers[0].target
    usable = None if target is None else target.gpu.usable
    return [
        {
            "quant": row.quant,
            "kv_dtype": row.kv_dtype,
            "ctx": estimate.setting.ctx,
            "total_bytes": estimate.total,
            "fits": None if usable is None else estimate.fits(usable),
            "max_ctx": None if usable is None else estimate.largest_context(usable),
        }
        for row in rows
        for estimate in row.estimates
    ]


# -- the real thing --------------------------------------------------------------------------------


def _here(gpu: str | None, *, outranked: bool) -> str:
    """What `--measure` runs on: the GPU of this machine, or its memory where there is none.

    Where it is `outranked`, a card to plan for does not count.

    Raises:
        UsageError: another one was named.
    """
    if gpu in ("auto", "cpu"):
        return gpu
    if gpu is not None and not outranked:
        raise UsageError(
            "--measure loads the model on this machine, --gpu plans for a card",
            "leave out one of them",
        )
    from qwen35cli.app.vram import find_target

    return "cpu" if find_target(None) is None else "auto"


def _measured(
    answers: "Sequence[Answer]", asked: "VramOptions", flags: VramFlags, terminal: Terminal
) -> dict[str, Any]:
    """Load the model and measure; the table goes to stdout unless `--json` has it."""
    if len(answers) > 1:
        raise UsageError("--measure takes one context", f"--ctx {answers[0].ctx}")
    terminal.status("loading …")
    from qwen35cli.app import measure  # late: it imports torch

    from . import making, settings, tables

    make = making.maker(terminal, yes=False)
    folders = settings.data_folder(), settings.cache_folder()
    answer = answers[0]
    lines = measure.run(answer.estimate, answer.pictures, asked, folders, make, terminal.status)
    terminal.clear_status()
    if not flags.json:
        terminal.show(tables.measured(lines, answer.ctx, sanitize(asked.model)))
    return {
        "device": lines.device,
        "parts": [
            {
                "name": line.name,
                "predicted_bytes": line.predicted,
                "measured_bytes": line.measured,
            }
            for line in lines.lines
        ],
        "residue_bytes": lines.residue,
    }
