"""What a model needs in memory, part by part. The one module that adds up bytes; free of torch.

`exact` parts are sums over the shapes of what is allocated; tests hold them to the real tensors,
byte for byte. The others are estimates, each with the range it may lie in. Everything but keys and
values is constant in the context, so the largest context that fits is solved for, not searched.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final, Literal

from qwen35cli.checkpoint.names import OPTIONAL, parameter_shapes
from qwen35cli.model import sizes
from qwen35cli.model.config import Config
from qwen35cli.model.sizes import KVDtype
from qwen35cli.quant.plan import Format, Plan, Scheme, assign, recipe

from .step_launches import (
    BLOCK,
    StepLaunch,
    draft_launches,
    head_name,
    refusal,
    step_launches,
)

MIB, GIB = 2**20, 2**30
ROUND = 256  # a largest context is a multiple of it
LEAST_CONTEXT = 1_024  # fewer tokens are of no use
ROUND_CONTEXT = 1.05  # a count as `1M` that is at most so much above the most means the most

# Bytes of a token's activations on the way through one layer, for each channel of its widest part.
# From the operation list of the fused kernels in bf16. A CPU computes in float32 and keeps less of
# it at a time: 1.3 times as much was measured with `--measure`.
DELTA_CHANNEL, MLP_CHANNEL = 7.0, 28 / 3
PATCH_BYTES = 34 * 1_024  # of a picture's patch in a tower of PATCH_WIDTH channels, bf16
PATCH_WIDTH = 1_024
PIXEL_BYTES = 6 * 1_024  # of its float32 pixels
# Beside them, where Triton's kernels read a prompt. Of quantized weights: rows that are widened at
# once (`linear.py`); nf4 in plain torch, at some 40 bytes a weight. Of keys and values in 8 bits: a
# block of each (`attention.py`), and the one before, which is still there.
TILE_BYTES = 32 * MIB
NF4_WEIGHTS, NF4_BYTES = 1 << 22, 40
KEY_BLOCK = 16_384
LOGIT_COPIES = 2.5  # a row of float32 logits, with what sampling makes of it
BAND = (0.5, 2.0)  # activations lie within so much of the estimate

Device = Literal["cuda", "cpu"]
ACTIVATION: Final[Mapping[Device, int]] = {"cuda": 2, "cpu": 4}  # bytes of a number
WIDTH: Final[Mapping[Device, float]] = {"cuda": 1.0, "cpu": 1.3}
# Of CUDA with its modules 0.10 to 0.54 GiB were seen, by generation of the card. On a CPU: Python
# and torch; the tokenizer comes on top, by the size of its vocabulary. Low, likely, high.
RUNTIME: Final[Mapping[Device, tuple[int, int, int]]] = {
    "cuda": (100 * MIB, 256 * MIB, 550 * MIB),
    "cpu": (200 * MIB, 285 * MIB, 430 * MIB),
}
TOKENIZER_BYTES: Final[Mapping[Device, int]] = {"cuda": 0, "cpu": 570}  # for each token it knows
RUNTIME_NAME: Final[Mapping[Device, str]] = {
    "cuda": "CUDA context",
    "cpu": "Python, torch, tokenizer",
}
SLACK, SLACK_RANGE = 0.03, (0.01, 0.05)  # share of what is allocated in pieces
LEAST_SLACK: Final[Mapping[Device, int]] = {"cuda": 64 * MIB, "cpu": 32 * MIB}

# Share of the memory's bandwidth that decoding reaches, as published for other runners.
EFFICIENCY: Final[Mapping[Format, tuple[float, float]]] = {
    "bf16": (0.6, 0.8),
    "int8": (0.6, 0.8),
    "int4": (0.4, 0.6),
    "nf4": (0.4, 0.6),
}
FORMATS: Final[tuple[Format, ...]] = ("bf16", "int8", "int4", "nf4")
KV_DTYPES: Final[tuple[KVDtype, ...]] = ("bf16", "int8")


@dataclass(frozen=True, slots=True)
class Held:
    """A tensor of the checkpoint as it is held in memory."""

    scheme: Scheme
    nbytes: int


@dataclass(frozen=True, kw_only=True)
class Model:
    """What is known of a model before it is loaded."""

    name: str
    config: Config
    quant: Format
    weights: Mapping[str, Held]  # by checkpoint name
    from_bf16: bool = True  # so that it can be had in another format too

    @cached_property
    def has_steps(self) -> bool:
        """Whether `kernels/triton/step.py` takes it: one format a launch, whole tiles, no nf4."""
        text = self.config.text
        widths = text.head_dim, text.linear_key_head_dim, text.linear_value_head_dim
        known = text.linear_conv_kernel_dim == 4 and all(map(_power_of_two, widths))
        return known and self._launched(step_launches(self.config))

    @cached_property
    def has_draft_loop(self) -> bool:
        """Whether `kernels/triton/drafts.py` takes its MTP layer: likewise, and no int4 head."""
        head = StepLaunch("head", (head_name(self.config),))
        known = self.weights[head.names[0]].scheme.kind != "int4"
        known = known and _power_of_two(self.config.text.head_dim)
        return known and self._launched([*draft_launches(self.config), head])

    def _launched(self, launches: Iterable[StepLaunch]) -> bool:
        """Whether the kernels read the matrices of these, the embedding and all that is small."""
        shapes = parameter_shapes(self.config)
        for name, tensor in self.weights.items():
            kind, part = tensor.scheme.kind, class_of(name)
            if part == "small" and kind != "keep":
                return False
            if part == "embedding" and (kind in ("int4", "nf4") or shapes[name][1] % BLOCK):
                return False
        for launch in launches:
            schemes = (self.weights[name].scheme for name in launch.names)
            if refusal(schemes, (shapes[name] for name in launch.names)) is not None:
                return False
        return True

    @cached_property
    def kinds(self) -> frozenset[str]:
        """The kinds of all matrices of the text."""
        text = (n for n in self.weights if class_of(n) not in ("vision", "mtp"))
        return frozenset(self.weights[name].scheme.kind for name in text)

    def without_vision(self) -> "Model":
        """The same with the tower left in its file."""
        config = replace(self.config, vision=None)
        weights = {n: held for n, held in self.weights.items() if class_of(n) != "vision"}
        return replace(self, config=config, weights=weights)

    def requantized(self, format: Format) -> "Model":
        """The tensors of a bf16 checkpoint, those that it has, by the recipe of another format."""
        plan, shapes = recipe(format), parameter_shapes(self.config)
        own = {name: shape for name, shape in shapes.items() if name in self.weights}
        return replace(self, quant=format, weights=held(own, plan))


def planned(name: str, config: Config, plan: Plan) -> Model:
    """The model that quantizing by `plan` makes of a bf16 checkpoint with this config."""
    weights = held(parameter_shapes(config), plan)
    return Model(name=name, config=config, quant=plan.format, weights=weights)


def held(shapes: Mapping[str, sizes.Shape], plan: Plan) -> dict[str, Held]:
    """What `plan` makes of tensors, by checkpoint name."""
    return {
        name: Held(scheme, _nbytes(name, shapes[name], scheme))
        for name, scheme in assign(plan, shapes).items()
    }


def _nbytes(name: str, shape: sizes.Shape, scheme: Scheme) -> int:
    bf16 = scheme.loaded_nbytes(shape)
    return bf16 * sizes.itemsize(name) // 2 if scheme.kind == "keep" else bf16


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """How the model is to run."""

    ctx: int
    kv_dtype: KVDtype = "bf16"
    batch: int = 1
    chunk: int = 512  # tokens of a prompt read at once
    patches: tuple[int, ...] = ()  # of each picture
    drafts: int = 0  # looked ahead in a round; 0: the MTP layer stays in its file
    device: Device = "cuda"
    triton: bool = False  # a GPU's own kernels, which keep logs and work in memory of theirs


@dataclass(frozen=True, slots=True)
class Part:
    """A line of the estimate. `name` is for programs, `label` for people."""

    name: str
    label: str
    nbytes: int
    low: int
    high: int
    exact: bool


def _exact(name: str, label: str, nbytes: int) -> Part:
    return Part(name, label, nbytes, nbytes, nbytes, exact=True)


def _estimated(name: str, label: str, nbytes: float, low: float, high: float) -> Part:
    return Part(name, label, round(nbytes), round(low), round(high), exact=False)


CLASSES: Final[Mapping[str, str]] = {
    "embedding": "token embedding",
    "head": "output head",
    "mlp": "MLP",
    "delta_net": "DeltaNet projections",
    "attention": "attention projections",
    "small": "norms, gates, convolutions",
    "vision": "vision tower",
    "mtp": "MTP layer",
}


def class_of(name: str) -> str:
    """The class, of `CLASSES`, that a tensor of a checkpoint belongs to."""
    for part, prefix in zip(("vision", "mtp"), OPTIONAL, strict=True):
        if name.startswith(prefix):
            return part
    if ".embed_tokens." in name:
        return "embedding"
    if name.startswith("lm_head."):
        return "head"
    if ".mlp." in name:
        return "mlp"
    if ".self_attn." in name and "_norm." not in name:
        return "attention"
    if any(f".{matrix}." in name for matrix in ("in_proj_qkv", "in_proj_z", "out_proj")):
        return "delta_net"
    return "small"


@dataclass(frozen=True)
class Estimate:
    """The needs of a model in a setting."""

    model: Model
    setting: Setting

    @cached_property
    def parts(self) -> tuple[Part, ...]:
        """All of them, weights first."""
        pieces = [*self.weights, *self.memory]
        return (*pieces, *self._estimated_parts(sum(part.nbytes for part in self.weights)))

    @cached_property
    def weights(self) -> tuple[Part, ...]:
        """The weights by class: exact."""
        config, tied = self.model.config, self.model.config.tie_word_embeddings
        found: dict[str, int] = {}
        schemes: dict[str, set[str]] = {}
        for name, tensor in self.model.weights.items():
            part = class_of(name)
            if (part == "mtp" and not self.setting.drafts) or (
                part == "vision" and config.vision is None
            ):
                continue
            found[part] = found.get(part, 0) + tensor.nbytes
            if part in ("small", "vision"):
                schemes.setdefault(part, {"bf16"})
            elif tensor.scheme.kind != "keep" or part in ("embedding", "head"):
                schemes.setdefault(part, set()).add(_spelled(tensor.scheme))
        lines = []
        for part, label in CLASSES.items():
            if part in found:
                if part == "embedding" and tied:
                    label += " and output head"
                kinds = ", ".join(sorted(schemes.get(part, ()), reverse=True)) or "bf16"
                lines.append(_exact(part, f"{label} ({kinds})", found[part]))
        return tuple(lines)

    @cached_property
    def memory(self) -> tuple[Part, ...]:
        """Keys, values, states, and what decode steps on a GPU work in: exact."""
        text, setting = self.model.config.text, self.setting
        number, batch = ACTIVATION[setting.device], setting.batch
        times = f", {batch} sequences" if batch > 1 else ""
        row = sizes.kv_bytes_per_token(text, setting.kv_dtype)
        layers = sizes.attention_layers(text)
        parts = [
            _exact(
                "kv_cache",
                f"KV cache: {setting.ctx:,} × {row * layers / 1_024:g} KiB "
                f"({layers} layers, {setting.kv_dtype}){times}",
                batch * setting.ctx * row * layers,
            ),
            _exact(
                "delta_state",
                f"DeltaNet state ({sizes.delta_layers(text)} layers, float32){times}",
                batch * sizes.state_bytes(text),
            ),
            _exact(
                "conv_rows",
                f"convolution rows{times}",
                batch * sizes.conv_bytes(text, number),
            ),
        ]
        drafts = setting.drafts and text.mtp_num_hidden_layers
        if drafts:
            mtp = batch * setting.ctx * row * text.mtp_num_hidden_layers
            parts.append(_exact("mtp_kv_cache", f"KV cache of the MTP layer{times}", mtp))
        if drafts or setting.triton:
            log = batch * sizes.log_bytes(text, number)
            parts.append(_exact("replay_log", f"log that tokens are taken back from{times}", log))
        if drafts:
            parts.append(_exact("draft_head", "rows of the draft head", self._draft_head()))
        if setting.triton and self.model.has_steps:
            buffers = sizes.step_bytes(text) + sizes.draw_bytes(text)
            parts.append(_exact("decode_buffers", "decode buffers (132 SMs)", buffers))
        if setting.triton and drafts and self.model.has_draft_loop:
            buffers = sizes.draft_bytes(text) + sizes.shortlist_bytes(text)
            parts.append(_exact("draft_buffers", "buffers of drafts (132 SMs)", buffers))
        place = "host memory" if setting.device == "cuda" else "what is left free"
        label = f"turn snapshots: {size(self.state_bytes)} each, in {place}"
        parts.append(_exact("turn_snapshots", label, 0))
        return tuple(parts)

    @property
    def state_bytes(self) -> int:
        """Bytes of one snapshot: DeltaNet state and convolution rows of one sequence."""
        text = self.model.config.text
        number = ACTIVATION[self.setting.device]
        return sizes.state_bytes(text) + sizes.conv_bytes(text, number)

    def _draft_head(self) -> int:
        """Bytes of the copied rows of the head, and their ids."""
        text = self.model.config.text
        if text.vocab_size <= sizes.COMMON:
            return 0
        name = next(n for n in self.model.weights if class_of(n) == _head(self.model))
        scheme = self.model.weights[name].scheme
        if scheme.kind == "nf4":
            return 0
        rows = scheme.loaded_nbytes((sizes.USED, text.hidden_size))
        return rows - (16 if scheme.kind != "keep" else 0) + 8 * sizes.USED

    def _activations(self) -> float:
        """Bytes of a chunk of a prompt in the layer that takes the most of them."""
        text, setting = self.model.config.text, self.setting
        values = text.linear_num_value_heads * text.linear_value_head_dim
        D, inner = text.hidden_size, text.intermediate_size
        token = max(DELTA_CHANNEL * (text.conv_channels + 2 * values), MLP_CHANNEL * inner)
        # This holds for Triton's DeltaNet by chunks too: of the 4B 75 of these 112 KiB a token are
        # alive in it, 33 of them its scratch (`delta_chunk.py`), and 64 in the MLP.
        found = setting.chunk * token * WIDTH[setting.device]
        if not setting.triton or setting.device != "cuda":
            return found
        widened = 0
        if self.model.kinds & {"int4", "int8"}:
            widened = min(TILE_BYTES, 2 * text.vocab_size * D)
        if "nf4" in self.model.kinds:
            widened = max(widened, NF4_BYTES * min(NF4_WEIGHTS, inner * D))
        # Residual, normed input, gate and up, beside the rows that are widened.
        multiplying = setting.chunk * 4 * (D + inner) + widened
        # The same two, projections, normed queries and a copy, outputs so far and of a block; then
        # their product in float32 too: 70 and 94 KiB a token of the 4B. The blocks of widened keys
        # count in full even where the context is shorter, so that nothing here depends on it.
        queries = text.num_attention_heads * text.head_dim
        keys = text.num_key_value_heads * text.head_dim
        block = KEY_BLOCK * 2 * 2 * keys if setting.kv_dtype == "int8" else 0
        widening = setting.chunk * (4 * D + 4 * keys + 14 * queries) + 2 * block
        joining = setting.chunk * (4 * D + 4 * keys + 20 * queries) + block
        return max(found, multiplying, widening, joining)

    def _estimated_parts(self, weights: int) -> list[Part]:
        text, vision, setting = self.model.config.text, self.model.config.vision, self.setting
        wide = WIDTH[setting.device]
        low, high = BAND
        parts = []
        activations = self._activations()
        parts.append(
            _estimated(
                "activations",
                f"prefill activations, {setting.chunk:,} tokens at a time",
                activations,
                low * activations,
                high * activations,
            )
        )
        row = 4 * text.vocab_size * setting.batch * (1 + setting.drafts)
        parts.append(_estimated("logits", "logits and sampling", LOGIT_COPIES * row, row, 4 * row))
        if setting.patches and vision is not None:
            patch = PATCH_BYTES * wide * vision.hidden_size / PATCH_WIDTH + PIXEL_BYTES
            picture = max(setting.patches) * patch
            parts.append(
                _estimated(
                    "image_activations",
                    f"vision activations, largest of {len(setting.patches)}",
                    picture,
                    low * picture,
                    high * picture,
                )
            )
        pieces = sum(part.nbytes for part in parts)
        if setting.device == "cuda":  # elsewhere the weights are mapped, not allocated
            pieces += weights
        least_slack = LEAST_SLACK[setting.device]
        least, likely, most = RUNTIME[setting.device]
        runtime = RUNTIME_NAME[setting.device]
        tokenizer = TOKENIZER_BYTES[setting.device] * text.vocab_size
        figures = (bytes_ + tokenizer for bytes_ in (likely, least, most))
        parts.append(_estimated("runtime", runtime, *figures))
        parts.append(
            _estimated(
                "slack",
                "allocator slack",
                max(least_slack, SLACK * pieces),
                SLACK_RANGE[0] * pieces,
                max(least_slack, SLACK_RANGE[1] * pieces),
            )
        )
        return parts

    @cached_property
    def total(self) -> int:
        return sum(part.nbytes for part in self.parts)

    @cached_property
    def low(self) -> int:
        return sum(part.low for part in self.parts)

    @cached_property
    def high(self) -> int:
        return sum(part.high for part in self.parts)

    @property
    def kv_per_token(self) -> int:
        """Bytes that one more token of context takes, over all layers and sequences."""
        text, setting = self.model.config.text, self.setting
        layers = sizes.attention_layers(text)
        layers += text.mtp_num_hidden_layers if setting.drafts else 0
        return setting.batch * layers * sizes.kv_bytes_per_token(text, setting.kv_dtype)

    @property
    def fixed(self) -> int:
        """Bytes that do not depend on the context."""
        return self.total - self.setting.ctx * self.kv_per_token

    def largest_context(self, usable: int, most: int | None = None) -> int:
        """The most tokens that fit `usable` bytes, up to `most`, as a rule what the model takes."""
        limit = self.model.config.text.max_context if most is None else most
        fitting = max(usable - self.fixed, 0) // max(self.kv_per_token, 1) // ROUND * ROUND
        return min(fitting, limit)

    def fits(self, usable: int) -> bool:
        return self.total <= usable

    @property
    def decode_bytes(self) -> int:
        """Bytes that a decoded token moves: the text weights, keys and values, the state twice."""
        head = _head(self.model)
        parts = {part.name: part.nbytes for part in self.weights}
        text = sum(
            parts[name] for name in ("mlp", "delta_net", "attention", "small") if name in parts
        )
        keys = sizes.attention_layers(self.model.config.text) * self.setting.ctx
        keys *= sizes.kv_bytes_per_token(self.model.config.text, self.setting.kv_dtype)
        state = 2 * sizes.state_bytes(self.model.config.text)
        return text + parts[head] + self.setting.batch * (keys + state)

    def tokens_per_s(self, bandwidth_gbs: float) -> tuple[float, float]:
        """Decoded tokens a second of one sequence, from a memory's bandwidth: low and high."""
        low, high = EFFICIENCY[self.model.quant]
        each = bandwidth_gbs * 1e9 / self.decode_bytes
        return low * each, high * each

    def changed(self, **setting: object) -> "Estimate":
        """The same model in a setting that differs in these fields."""
        return Estimate(self.model, replace(self.setting, **setting))  # type: ignore[arg-type]


def _power_of_two(number: int) -> bool:
    return number & (number - 1) == 0


def _head(model: Model) -> str:
    return "embedding" if model.config.tie_word_embeddings else "head"


def _spelled(scheme: Scheme) -> str:
    return "bf16" if scheme.kind == "keep" else str(scheme)


def size(nbytes: int) -> str:
    """Bytes for people, in binary units, as memory is counted."""
    if nbytes >= GIB:
        return f"{nbytes / GIB:.2f} GiB"
    return f"{nbytes / MIB:.1f} MiB" if nbytes >= MIB / 10 else f"{nbytes:,} bytes"


def rounded_context(asked: int, most: int) -> int:
    """A context that was written in k or M: the most, where it is a little above that."""
    return most if most < asked < ROUND_CONTEXT * most else asked


def ways_out(estimate: Estimate, usable: int, *, allow: Iterable[str]) -> list[str]:
    """Flags that make it fit, the mildest first; those of `allow` that the command has.

    Each is proved by an estimate of its own; two together are tried where no single one suffices.
    """
    allowed = set(allow)
    setting = estimate.setting
    changes: list[tuple[str, Estimate]] = []
    if setting.kv_dtype == "bf16":
        changes.append(("--kv-dtype int8", estimate.changed(kv_dtype="int8")))
    if setting.drafts:
        changes.append(("--mtp off", estimate.changed(drafts=0)))
    if estimate.model.from_bf16 and estimate.model.quant in ("bf16", "int8"):
        changes.append(("--quant int4", Estimate(estimate.model.requantized("int4"), setting)))
    if estimate.model.config.vision is not None and not setting.patches:
        changes.append(("--no-vision", Estimate(estimate.model.without_vision(), setting)))
    changes = [(flag, other) for flag, other in changes if flag.split()[0] in allowed]
    found = [flag for flag, other in changes if other.fits(usable)]
    largest = estimate.largest_context(usable)
    if LEAST_CONTEXT <= largest < setting.ctx:
        found.insert(1 if found else 0, f"--ctx {largest}")
    for flag, other in changes:  # what does not suffice alone
        longer = other.largest_context(usable)
        if flag not in found and longer >= max(LEAST_CONTEXT, largest + 1):
            found.append(f"{flag} --ctx {longer}")
    return found[:2]
