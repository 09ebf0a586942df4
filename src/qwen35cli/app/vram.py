"""`qwen35 vram`: what a model needs, where it fits, and how far its context can go.

Free of torch for the sizes that are built in, unless the GPU of this machine is asked.
"""

import ctypes
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from qwen35cli.errors import DeviceError, UsageError
from qwen35cli.model.config import Config
from qwen35cli.model.siblings import SIBLINGS
from qwen35cli.model.sizes import KVDtype
from qwen35cli.quant.plan import Format, recipe

from . import gpus
from .estimate import (
    FORMATS,
    GIB,
    KV_DTYPES,
    LEAST_CONTEXT,
    Device,
    Estimate,
    Model,
    Setting,
    planned,
)
from .gpus import Gpu
from .prefill import CHUNK
from .source import local_folder

if TYPE_CHECKING:
    from qwen35cli.images.resize import ImageLimits

DISPLAY_BYTES = round(1.1 * GIB)  # a desktop's share: Windows keeps 1.13 of 7.96 GiB
COMPARED = (8_192, 32_768, 131_072, 262_144)
LONGEST = 1_010_000  # tokens, with YaRN
DRIVERS = {"linux": "libcuda.so.1", "win32": "nvcuda.dll"}

Verdict = Literal["fits", "tight", "no"]


@dataclass(frozen=True, slots=True, kw_only=True)
class VramOptions:
    """What the user asked for."""

    model: str
    revision: str | None = None
    ctx: tuple[int, ...] = ()  # none: 131,072, or what the model allows
    quant: Format | None = None  # None: as a quantized folder is, otherwise int4
    group: int | None = None
    kv_dtype: KVDtype = "bf16"
    pictures: tuple[tuple[int, int], ...] = ()  # width and height of each
    image_max_tokens: int | None = 2_048  # None: the model's own limit
    vision: bool = True
    drafts: int = 0
    chunk: int | None = None  # None: as `ask` reads a prompt on that device
    batch: int = 1
    gpu: str | None = None  # a name, a size, `auto`, `cpu`; None: the one that is there, or none
    display: bool = False


@dataclass(frozen=True, slots=True)
class Fit:
    """An estimate held against a card."""

    estimate: Estimate
    gpu: Gpu
    verdict: Verdict
    headroom: int  # bytes; negative: so many are missing
    largest_ctx: int
    tokens_per_s: tuple[float, float] | None

    @property
    def fits(self) -> bool:
        return self.verdict != "no"


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture as it was asked for, and what becomes of it."""

    size: tuple[int, int]
    resized: tuple[int, int]
    patches: int
    tokens: int


@dataclass(frozen=True, slots=True)
class Answer:
    """For one context: the needs, the target if there is one, and the common cards."""

    estimate: Estimate
    target: Fit | None
    cards: tuple[Fit, ...]
    pictures: tuple[Picture, ...]

    @property
    def ctx(self) -> int:
        return self.estimate.setting.ctx

    @property
    def needs_yarn(self) -> bool:
        return self.ctx > self.estimate.model.config.text.max_context


def answer(options: VramOptions) -> list[Answer]:
    """One answer for each context asked about.

    Raises:
        UsageError: an unknown model, GPU or format, or a picture that cannot be.
        ModelError: a folder is no sound checkpoint.
        DeviceError: `auto`, and no GPU is there.
    """
    target = find_target(options.gpu)
    model = find_model(options.model, options.quant, options.group, options.revision)
    if options.drafts and not model.config.text.mtp_num_hidden_layers:
        raise UsageError("this checkpoint has no MTP layer to draft with", "--mtp 0")
    if not options.vision:
        model = model.without_vision()
    pictures: tuple[Picture, ...] = ()
    if options.pictures:
        limits = picture_limits(options, model.config)
        if limits is None:
            raise UsageError("there is no vision tower for the pictures", "leave out --images")
        pictures = tuple(cut(size, limits) for size in options.pictures)
    device: Device = "cpu" if target is not None and target.name == CPU_NAME else "cuda"
    on_cards = Setting(  # those of the table all run the fused kernels
        ctx=0,
        kv_dtype=options.kv_dtype,
        batch=options.batch,
        chunk=options.chunk or CHUNK["cuda"],
        patches=tuple(picture.patches for picture in pictures),
        drafts=options.drafts,
        triton=True,
    )
    setting = replace(
        on_cards,
        chunk=options.chunk or CHUNK[device],
        device=device,
        triton=device == "cuda" and (target is None or target.kernels != ("reference",)),
    )
    if options.display and target is not None:
        target = replace(target, usable=max(target.usable - DISPLAY_BYTES, 0))
    most = model.config.text.max_context
    found = []
    for ctx in options.ctx or (min(131_072, most),):
        estimate = Estimate(model, replace(setting, ctx=ctx))
        there = Estimate(model, replace(on_cards, ctx=ctx))
        cards = [
            replace(card, usable=card.usable - DISPLAY_BYTES) if options.display else card
            for card in gpus.common()
        ]
        found.append(
            Answer(
                estimate,
                None if target is None else fit(estimate, target),
                tuple(fit(there, card) for card in sorted(cards, key=lambda card: card.usable)),
                pictures,
            )
        )
    return found


def how_it_fits(estimate: Estimate, usable: int) -> Verdict:
    """Whether so many bytes do. `tight`: they would not at the upper end of the range."""
    if not estimate.fits(usable):
        return "no"
    return "fits" if estimate.high <= usable else "tight"


def fit(estimate: Estimate, gpu: Gpu) -> Fit:
    """How an estimate stands to a card."""
    verdict = how_it_fits(estimate, gpu.usable)
    headroom = gpu.usable - estimate.total
    largest = estimate.largest_context(gpu.usable)
    return Fit(estimate, gpu, verdict, headroom, largest, tokens_per_s(estimate, gpu))


def tokens_per_s(estimate: Estimate, gpu: Gpu) -> tuple[float, float] | None:
    """How fast the fused kernels decode; None: they do not run there, or nothing is known."""
    if gpu.bandwidth_gbs is None or not gpu.runs_fused:
        return None
    return estimate.tokens_per_s(gpu.bandwidth_gbs)


def smaller(answer: Answer, usable: int) -> tuple[str, int] | None:
    """The largest built-in size that is smaller and of use in so many bytes, and its context."""
    estimate = answer.estimate
    weights = _weight_bytes(estimate.model)
    sizes = [planned(name, config, recipe("int4")) for name, config in SIBLINGS.items()]
    for model in sorted(sizes, key=_weight_bytes, reverse=True):
        if _weight_bytes(model) < weights:
            other = Estimate(model, estimate.setting)
            ctx = min(answer.ctx, other.largest_context(usable))
            if ctx >= min(answer.ctx, LEAST_CONTEXT):
                return model.name.rpartition("-")[2], ctx
    return None


def _weight_bytes(model: Model) -> int:
    return sum(held.nbytes for held in model.weights.values())


# -- the model -----------------------------------------------------------------------------------


def find_model(
    name: str, quant: Format | None = None, group: int | None = None, revision: str | None = None
) -> Model:
    """A built-in size by its id or short name (`4B`), or what a folder's headers say.

    Raises:
        UsageError: no such format or group, or the folder has another one already.
        ModelError: no such model, or no sound checkpoint.
    """
    known = built_in(name, revision)
    if known is not None:
        return planned(known, SIBLINGS[known], recipe(quant or "int4", group))
    from . import stored  # late: reading headers imports torch

    return stored.model(name, quant, group, revision)


def built_in(name: str, revision: str | None) -> str | None:
    """The id of the built-in size that `name` means; a folder comes first. None has revisions."""
    return sibling(name) if revision is None and local_folder(name) is None else None


def sibling(name: str) -> str | None:
    """The id of the built-in size called `name`, in full or as `Qwen3.5-9B` or `9B`."""
    wanted = name.lower()
    for known in SIBLINGS:
        whole = known.lower()
        if wanted in (whole, whole.partition("/")[2], whole.rpartition("-")[2]):
            return known
    return None


def picture_limits(options: VramOptions, config: Config) -> "ImageLimits | None":
    """How the model's pictures are cut; None: it takes none."""
    from qwen35cli.images.resize import ImageLimits

    most = options.image_max_tokens
    if built_in(options.model, options.revision) is None:
        from .load import image_limits  # late: reading headers imports torch
        from .source import resolve

        return image_limits(config, resolve(options.model, options.revision).folder, most)
    vision = config.vision
    if vision is None:
        return None
    return ImageLimits(
        patch_size=vision.patch_size,
        temporal_patch_size=vision.temporal_patch_size,
        merge_size=vision.spatial_merge_size,
        min_pixels=65_536,
        max_pixels=16_777_216,
    ).at_most(most)


def cut(size: tuple[int, int], limits: "ImageLimits") -> Picture:
    """What becomes of a picture of so many pixels.

    Raises:
        UsageError: one side is more than 200 times the other, or it is too large to be decoded.
    """
    from qwen35cli.images.resize import MAX_PIXELS, MAX_SIDE, smart_resize

    width, height = size
    new_height, new_width = smart_resize(height, width, limits)
    if max(size) > MAX_SIDE or width * height > MAX_PIXELS:
        raise UsageError(
            f"a picture of {width:,} × {height:,} pixels is refused: at most {MAX_SIDE:,} a side "
            f"and {MAX_PIXELS // 10**6} megapixels are decoded",
            "--images 4096x4096",
        )
    patches = (new_height // limits.patch_size) * (new_width // limits.patch_size)
    return Picture(size, (new_width, new_height), patches, patches // limits.merge_size**2)


# -- what it is held against ---------------------------------------------------------------------

CPU_NAME = "this machine's memory"


def find_target(name: str | None) -> Gpu | None:
    """The card or memory called `name`; for None the GPU that is there, if one is.

    Raises:
        UsageError: no such card.
        DeviceError: `auto`, and no GPU is there.
    """
    if name == "cpu":
        import torch  # late: it takes seconds

        from .device import free_bytes

        return Gpu(CPU_NAME, free_bytes(torch.device("cpu")))
    if name == "auto" or (name is None and has_driver()):
        return present(required=name == "auto")
    return None if name is None else gpus.parse(name)


def has_driver() -> bool:
    """Whether the library of NVIDIA's driver is there: asked before torch is imported for it."""
    try:
        ctypes.CDLL(DRIVERS.get(sys.platform, "libcuda.so.1"))
    except OSError:
        return False
    return True


def present(*, required: bool) -> Gpu | None:
    """The GPU of this machine with the memory that is free now.

    Raises:
        DeviceError: it is `required`, and there is none.
    """
    import torch  # late: it takes seconds

    from .device import free_bytes

    if not torch.cuda.is_available():
        if required:
            raise DeviceError(
                "there is no usable GPU here", "--gpu NAME plans for a card, --gpu 24GiB for a size"
            )
        return None
    name = torch.cuda.get_device_name()
    known = gpus.named(name)
    free = free_bytes(torch.device("cuda"))
    capability = torch.cuda.get_device_capability()
    bandwidth_gbs = known.bandwidth_gbs if known else None
    return Gpu(name, free, bandwidth_gbs, capability, gpus.kernels(capability))


# -- other views -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the comparison: a format and a KV cache, at each context."""

    quant: str
    kv_dtype: KVDtype
    estimates: tuple[Estimate, ...]


def compare(answers: Sequence[Answer]) -> list[Row]:
    """Formats and KV caches side by side, at the contexts asked about or at four usual ones."""
    first = answers[0].estimate
    contexts = [answer.ctx for answer in answers]
    if len(contexts) == 1:
        most = max(first.model.config.text.max_context, *contexts)
        contexts = sorted({*contexts, *(ctx for ctx in COMPARED if ctx <= most)})
    models = [first.model]
    if first.model.from_bf16:
        others = (format for format in FORMATS if format != first.model.quant)
        made = {format: first.model.requantized(format) for format in others}
        made[first.model.quant] = first.model
        models = [made[format] for format in FORMATS]
    return [
        Row(
            model.quant,
            kv_dtype,
            tuple(
                Estimate(model, replace(first.setting, ctx=ctx, kv_dtype=kv_dtype))
                for ctx in contexts
            ),
        )
        for model in models
        for kv_dtype in KV_DTYPES
    ]


def explain(answer: Answer) -> list[str]:
    """The formulas, with the numbers of this estimate in them."""
    estimate, setting = answer.estimate, answer.estimate.setting
    config = estimate.model.config
    text = config.text
    full = text.layer_types.count("full_attention")
    delta = text.num_hidden_layers - full
    heads, width, ctx = text.num_key_value_heads, text.head_dim, setting.ctx
    number = 2 if setting.kv_dtype == "bf16" else 1
    scale = " + 2 for the scale" if setting.kv_dtype == "int8" else ""
    H, K, V = (
        text.linear_num_value_heads,
        text.linear_key_head_dim,
        text.linear_value_head_dim,
    )
    parts = {part.name: part for part in estimate.parts}
    naive = text.num_hidden_layers * 2 * heads * width * 2 * ctx * setting.batch
    right = full * 2 * heads * width * 2 * ctx * setting.batch
    lines = ["weights, from the shape of every tensor:"]
    lines += [f"  {part.nbytes:>15,}  {part.label}" for part in estimate.weights]
    lines += [
        "  int8: N·K + 2·N bytes; int4: N·K/2 + 2·N·K/group; nf4 in memory: N·K/2 + 4·N·K/block; "
        "each int4 and int8 matrix has 16 bytes for its shape, each nf4 one 64 for its values",
        "",
        f"KV cache = layers with keys · 2 · KV heads · (head width · bytes{scale}) · context · "
        "sequences",
        f"  {full} · 2 · {heads} · ({width} · {number}{' + 2' if scale else ''}) · {ctx:,} · "
        f"{setting.batch} = {parts['kv_cache'].nbytes:,} bytes",
        f"  Only {full} of {text.num_hidden_layers} layers keep keys and values. Tools that count "
        f"all {text.num_hidden_layers} show {naive / GIB:.2f} GiB at 16 bits, "
        f"{text.num_hidden_layers / full:g} times the true {right / GIB:.2f} GiB.",
        "",
        "DeltaNet state = layers · value heads · key width · value width · 4 · sequences, the same "
        "at every context",
        f"  {delta} · {H} · {K} · {V} · 4 · {setting.batch} = "
        f"{parts['delta_state'].nbytes:,} bytes",
        "",
        "estimated, low – high:",
    ]
    lines += [
        f"  {part.nbytes:>15,}  {part.label}: {part.low:,} – {part.high:,}"
        for part in estimate.parts
        if not part.exact
    ]
    lines += [
        "",
        f"total {estimate.total:,} = {estimate.fixed:,} + {estimate.kv_per_token:,} · {ctx:,}",
        "largest context = (usable − fixed) / bytes per token, rounded down to 256",
    ]
    if answer.target is not None:
        usable = answer.target.gpu.usable
        lines.append(
            f"  ({usable:,} − {estimate.fixed:,}) / {estimate.kv_per_token:,} "
            f"= {max(usable - estimate.fixed, 0) // estimate.kv_per_token:,}, "
            f"at most {text.max_context:,}: {answer.target.largest_ctx:,}"
        )
    lines += [
        f"bytes read to decode a token: {estimate.decode_bytes:,} "
        "(text weights once, keys and values, the state twice)",
    ]
    return lines
