"""From a model's name to a runner: the one place that wires the floors together.

In two steps, so that everything cheap is checked first: `open_model` reads the small files and
decides device and context; `load` reads the weights.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch

from qwen35cli.checkpoint.folder import MAX_JSON_BYTES, read_json, reading
from qwen35cli.checkpoint.manifest import check_manifest
from qwen35cli.checkpoint.names import CONFIG
from qwen35cli.checkpoint.opened import Checkpoint, open_checkpoint
from qwen35cli.checkpoint.read import load_weights
from qwen35cli.engine.depth import Adaptive, Depth, Fixed
from qwen35cli.engine.memory import CAP_BYTES, Memory
from qwen35cli.engine.runner import Runner
from qwen35cli.errors import DoesNotFitError, ModelError, UsageError
from qwen35cli.images.resize import ImageLimits
from qwen35cli.kernels import DEFAULTS, Kernels, select
from qwen35cli.kernels.cpu import guard_mapping
from qwen35cli.kernels.tuned import Tuned
from qwen35cli.model.config import Config
from qwen35cli.model.draft_head import DraftHead
from qwen35cli.model.qwen35 import Qwen35
from qwen35cli.model.sizes import KVDtype
from qwen35cli.quant.plan import Format, described, recipe
from qwen35cli.text.ahead import tokenizer_of
from qwen35cli.text.template import thinks_by_default
from qwen35cli.text.tokenizer import Tokenizer

from . import quantize, stored, tuned
from .device import choose_device, free_bytes
from .estimate import LEAST_CONTEXT, Device, Estimate, Setting, rounded_context, size, ways_out
from .prefill import CHUNK
from .source import Source, resolve
from .stored import default_format

DEFAULT_CONTEXT = 131_072
KV_DTYPES = {"bf16": torch.bfloat16, "int8": torch.int8}
FLAGS = ("--ctx", "--kv-dtype", "--quant", "--mtp")  # of ask and chat, that change what is needed
MOST_DRAFTS = 4
FEWEST_STATES = 4  # to return to: the system prompt's and the last turn's
# In the errors of torch's CPU allocator, of CUDA outside torch's own, and of cuBLAS.
OUT_OF_MEMORY = ("can't allocate memory", "out of memory", "STATUS_ALLOC_FAILED")


Drafting = Literal["auto", "off"] | int  # by how many tokens a round looks ahead; auto: what pays


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadOptions:
    """What the user asked for."""

    model: str
    revision: str | None = None
    device: Literal["auto", "cpu", "cuda"] = "auto"
    kernels: str | None = None
    ctx: int | None = None  # None: 131,072, or what the model or the memory allows
    ctx_is_round: bool = False  # written as `1M`: a little above the model's most is the most
    kv_dtype: KVDtype = "bf16"
    image_max_tokens: int | None = 2_048  # None: the model's own limit
    quant: Format | Literal["auto"] | None = None  # None: as the checkpoint is; auto: int4 if big
    store: Path | None = None  # where weights are kept that are quantized on the way
    cache: Path | None = None  # where GPU kernels are kept that were compiled and tuned here
    mtp: Drafting = "off"
    pictures: bool = True  # whether any may come: without, the vision tower stays in its file

    def context(self, config: Config) -> int | None:
        """The context that is asked for of a model."""
        if self.ctx is None or not self.ctx_is_round:
            return self.ctx
        return rounded_context(self.ctx, config.text.max_context)


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """A checkpoint whose small files are read and checked; no weights yet."""

    source: Source
    checkpoint: Checkpoint
    tokenizer: Tokenizer
    image_limits: ImageLimits | None  # None: the checkpoint takes no pictures
    thinks_by_default: bool
    device: torch.device
    kernels: Kernels
    estimate: Estimate  # of what it will take
    ctx: int
    largest_ctx: int  # that memory and model allow
    kv_dtype: KVDtype = "bf16"
    mtp: Drafting = "off"
    tuned: Tuned = field(default_factory=dict)  # launches of GPU kernels that were measured here
    states_bytes: int = CAP_BYTES  # of host memory for states to return to


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """A model that is ready to answer."""

    opened: Opened
    memory: Memory
    load_s: float
    depth: Depth | None = None  # how far to look ahead, learned over all answers; None: never

    @property
    def runner(self) -> Runner:
        return self.memory.runner


def open_model(options: LoadOptions, make: Callable[[quantize.Job], None] | None = None) -> Opened:
    """Find the checkpoint, check what is cheap to check, decide device and context.

    Args:
        options: what the user asked for.
        make: carries out a job of quantizing, where `options.quant` asks for weights that are not
            there yet; it may refuse. None: a refusal that names the command.

    Raises:
        UsageError, ModelError, DeviceError, DoesNotFitError: see their one place, `errors.py`.
    """
    source = asked_for = resolve(options.model, options.revision)
    device = choose_device(options.device, source)
    backend = options.kernels or DEFAULTS[device.type]
    launches = tuned.read(options.cache) if backend == "triton" else {}
    kernels = select(device, backend, launches, options.cache)
    source = choose_weights(source, options, make or refuse)
    checkpoint = open_checkpoint(source.folder)
    tokenizer = tokenizer_of(asked_for.folder)
    check_image_token(checkpoint.config, tokenizer)
    mtp = choose_drafting(options.mtp, checkpoint, kernels)
    limits = image_limits(checkpoint.config, source.folder, options.image_max_tokens)
    estimate = needs(source.name, checkpoint, options, mtp, device, kernels, limits)
    free = free_bytes(device)
    asked = options.context(checkpoint.config)
    ctx = choose_context(asked, estimate, free, device.type)
    return Opened(
        source=source,
        checkpoint=checkpoint,
        tokenizer=tokenizer,
        image_limits=limits,
        thinks_by_default=thinks_by_default(chat_template(source.folder)),
        device=device,
        kernels=kernels,
        estimate=estimate.changed(ctx=ctx),
        ctx=ctx,
        largest_ctx=max(estimate.largest_context(free), ctx),
        kv_dtype=options.kv_dtype,
        mtp=mtp,
        tuned=launches,
        states_bytes=states_room(estimate.changed(ctx=ctx), free),
    )


def check_image_token(config: Config, tokenizer: Tokenizer) -> None:
    """Refuse a config that finds pictures at another token than the template writes for them.

    Raises:
        ModelError: it does.
    """
    if config.vision is not None and config.image_token_id != tokenizer.special.image_pad:
        raise ModelError(
            f"config.json has the image_token_id {config.image_token_id}, "
            f"tokenizer.json {tokenizer.special.image_pad}",
            "fetch the checkpoint again",
        )


def states_room(estimate: Estimate, free: int) -> int:
    """Bytes of host memory for states to return to: half of what is left, and room for a few.

    Args:
        estimate: of all else; on a GPU it is not in this memory.
        free: bytes on the device.
    """
    if estimate.setting.device == "cuda":
        left = free_bytes(torch.device("cpu"))
    else:
        left = free - estimate.total
    return min(CAP_BYTES, max(left // 2, FEWEST_STATES * estimate.state_bytes))


def load(opened: Opened, *, pictures: bool = True, drafts: bool | None = None) -> Loaded:
    """Read the weights and make room for the context.

    The vision tower stays in its file where no `pictures` will come, the MTP layer where nothing
    `drafts` with it: as opened, unless it is said.
    """
    start = time.perf_counter()
    if drafts is None:
        drafts = opened.mtp != "off"
    config = opened.checkpoint.config
    if not pictures:
        config = replace(config, vision=None)
    if not drafts:
        config = replace(config, text=replace(config.text, mtp_num_hidden_layers=0))
    with memory_errors(f"loading {opened.source.name}"):
        guard_mapping(
            f"error: a file of {opened.source.name} was cut short while it was in use\n"
            "hint: fetch the checkpoint again\n",
            ModelError.exit_code,
        )
        with torch.device("meta"):
            model = Qwen35(config, opened.kernels)
        load_weights(model, opened.checkpoint, opened.device)
        runner = Runner(
            model,
            capacity=opened.ctx,
            kv_dtype=KV_DTYPES[opened.kv_dtype],
            chunk=opened.estimate.setting.chunk,
            draft_head=draft_head(model, opened.tokenizer) if drafts else None,
        )
    load_s = time.perf_counter() - start
    memory = Memory(runner, opened.states_bytes)
    return Loaded(opened=opened, memory=memory, load_s=load_s, depth=depth_of(opened.mtp))


def depth_of(mtp: Drafting) -> Depth | None:
    """What decides how far each round looks ahead."""
    if mtp == "off":
        return None
    return Adaptive() if mtp == "auto" else Fixed(mtp)


def choose_drafting(asked: Drafting, checkpoint: Checkpoint, kernels: Kernels) -> Drafting:
    """Whether to draft. `auto` does where the output is that of plain decoding, bit for bit.

    Raises:
        UsageError: so many drafts were asked for, and the checkpoint has no layer that makes them.
    """
    if asked == "off":
        return "off"
    if not checkpoint.config.text.mtp_num_hidden_layers:
        if asked == "auto":
            return "off"
        raise UsageError("this checkpoint has no MTP layer to draft with", "--mtp off")
    return "off" if asked == "auto" and not kernels.steps_alike else asked


def needs(
    name: str,
    checkpoint: Checkpoint,
    options: LoadOptions,
    mtp: Drafting,
    device: torch.device,
    kernels: Kernels,
    limits: ImageLimits | None,
) -> Estimate:
    """What the checkpoint takes as it will run, the context left open.

    Where pictures may come there is room for one of the most patches that `limits` allow.
    """
    model = stored.of_checkpoint(name, checkpoint)
    if not options.pictures:
        model = model.without_vision()
    drafts = 0 if mtp == "off" else MOST_DRAFTS if mtp == "auto" else mtp
    place: Device = "cuda" if device.type == "cuda" else "cpu"
    patches = () if limits is None or not options.pictures else (limits.most_patches,)
    setting = Setting(
        ctx=0,
        kv_dtype=options.kv_dtype,
        drafts=drafts,
        device=place,
        chunk=CHUNK[place],
        patches=patches,
        triton=kernels.draws is not None,
    )
    return Estimate(model, setting)


def draft_head(model: Qwen35, tokenizer: Tokenizer) -> DraftHead:
    """The rows of the output head that drafts are picked from."""
    tokens = tokenizer.vocab_size
    control = next((i for i in range(tokens) if tokenizer.is_added(i)), tokens)
    stored = model.head.stored()
    return DraftHead(model.kernels, stored, tokens=tokens, control=control)


# -- which weights, and what stands beside them ---------------------------------------------------


def choose_weights(
    source: Source,
    options: LoadOptions,
    make: Callable[[quantize.Job], None],
) -> Source:
    """The folder whose weights will run: the checkpoint itself, or what was quantized from it.

    `auto` means int4 for a large checkpoint.

    Raises:
        UsageError: it is quantized in another format than the one asked for; or `make` refused.
        ModelError: a quantized folder is not complete; its manifest says what it should hold.
    """
    own, _ = described(read_json(source.folder, CONFIG))
    if own != "bf16":
        check_manifest(source.folder)
        if options.quant not in (None, "auto", own):
            raise UsageError(
                f"{source.name} is quantized already, as {own}; --quant {options.quant} needs the "
                "bf16 checkpoint it was made from",
                f"leave out --quant, or give --quant {own}",
            )
        return source
    wanted = options.quant
    if wanted == "auto":
        wanted = default_format(quantize.weight_bytes(source))
    if wanted in (None, "bf16") or options.store is None:
        return source
    folder = quantize.find(options.store, source, wanted)
    if folder is None:
        plan = recipe(wanted)
        job = quantize.job(source, plan, quantize.place(options.store, source, plan))
        make(job)
        folder = job.target
    return replace(source, folder=folder)


def refuse(job: quantize.Job) -> None:
    """Decline to quantize unasked, and name what does it."""
    name, format = job.source.name, job.plan.format
    raise UsageError(
        f"{name} has no {format} weights yet, {job.nbytes / 1e9:.1f} GB made once from "
        f"{job.checkpoint.nbytes / 1e9:.1f} GB",
        f"qwen35 quantize {name} --format {format}; -y makes them now, "
        "--quant bf16 runs without them",
    )


def chat_template(folder: Path) -> str:
    """The text of the checkpoint's chat template, to be looked at and never run; "" if none."""
    path = folder / "chat_template.jinja"
    with reading(path):
        if path.is_file() and path.stat().st_size <= MAX_JSON_BYTES:
            return path.read_text(encoding="utf-8", errors="replace")
    template = read_if_there(folder, "tokenizer_config.json").get("chat_template", "")
    return template if isinstance(template, str) else ""


def image_limits(config: Config, folder: Path, max_tokens: int | None) -> ImageLimits | None:
    """How pictures are cut for this checkpoint, at most `max_tokens` each; None: it takes none.

    Raises:
        ModelError: see `ImageLimits.from_dict`, or they are not cut as its vision tower reads them.
    """
    raw, vision = read_if_there(folder, "preprocessor_config.json"), config.vision
    if vision is None or not raw:
        return None
    limits = ImageLimits.from_dict(raw)
    for name, cut, read in (
        ("patch_size", limits.patch_size, vision.patch_size),
        ("temporal_patch_size", limits.temporal_patch_size, vision.temporal_patch_size),
        ("merge_size", limits.merge_size, vision.spatial_merge_size),
    ):
        if cut != read:
            raise ModelError(f"preprocessor_config.json has {name} {cut}, config.json {read}")
    return limits.at_most(max_tokens)


def read_if_there(folder: Path, name: str) -> dict[str, Any]:
    """The object in a small JSON file; empty where there is no such file."""
    return read_json(folder, name) if (folder / name).is_file() else {}


# -- how much it may hold --------------------------------------------------------------------------


def choose_context(asked: int | None, estimate: Estimate, free: int, device: str) -> int:
    """The context to make room for. One that was asked for is given or refused, never reduced.

    Args:
        asked: tokens; None: 131,072, or fewer where the model or the memory allows no more.
        estimate: of the model, in its setting but for the context.
        free: bytes that can be had on `device`.

    Raises:
        UsageError: more than the model takes.
        DoesNotFitError: more than fits; the hint names two ways out.
    """
    most = estimate.model.config.text.max_context
    wanted = asked or min(DEFAULT_CONTEXT, most)
    if wanted > most:
        raise UsageError(
            f"a context of {wanted:,} tokens is more than the model's {most:,}", f"--ctx {most}"
        )
    needed = estimate.changed(ctx=wanted)
    if needed.fits(free):
        return wanted
    largest = estimate.largest_context(free)
    if asked is None and largest >= LEAST_CONTEXT:
        return largest
    raise DoesNotFitError(
        f"a context of {wanted:,} tokens needs {size(needed.total)} with the weights; "
        f"{size(free)} are free on {device}, {size(needed.total - free)} are missing",
        ", or ".join(ways_out(needed, free, allow=FLAGS)) or "--model demo",
    )


@contextmanager
def memory_errors(doing: str) -> Iterator[None]:
    """Turn torch's ways of saying "out of memory" into one error with a hint."""
    failure = DoesNotFitError(
        f"memory ran out while {doing}", "a smaller --ctx needs less; --model demo runs anywhere"
    )
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError):
        raise failure from None
    except RuntimeError as error:
        if any(sign in str(error) for sign in OUT_OF_MEMORY):
            raise failure from None
        raise
