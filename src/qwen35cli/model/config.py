"""The numbers of a dense Qwen3.5 checkpoint, read from its `config.json`. Free of torch.

Frozen and without defaults: every number comes from the file, is checked against a ceiling before
anything is allocated, and a refusal names the field with both numbers. The ceilings stand well
above the largest dense sibling (27B).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self, cast, get_args

from qwen35cli.errors import ModelError

ARCHITECTURE = "Qwen3_5ForConditionalGeneration"

LayerType = Literal["linear_attention", "full_attention"]

CEILINGS = {
    "hidden_size": 32_768,
    "intermediate_size": 131_072,
    "num_hidden_layers": 512,
    "depth": 512,
    "num_attention_heads": 512,
    "num_key_value_heads": 512,
    "num_heads": 512,
    "head_dim": 2_048,
    "linear_num_key_heads": 512,
    "linear_num_value_heads": 512,
    "linear_key_head_dim": 2_048,
    "linear_value_head_dim": 2_048,
    "linear_conv_kernel_dim": 16,
    "full_attention_interval": 512,
    "vocab_size": 2_000_000,
    "max_position_embeddings": 16_777_216,
    "original_max_position_embeddings": 16_777_216,
    "patch_size": 256,
    "temporal_patch_size": 16,
    "spatial_merge_size": 16,
    "in_channels": 16,
    "num_position_embeddings": 1_048_576,
    "out_hidden_size": 32_768,
    "mtp_num_hidden_layers": 1,
    "token id": 2_000_000,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Yarn:
    """Static YaRN scaling of the rotary frequencies, for contexts past the trained length."""

    factor: float
    original_max_position_embeddings: int
    beta_fast: float
    beta_slow: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RotaryConfig:
    """Partial, interleaved three-axis rotary embedding of the text tower."""

    theta: float
    dim: int  # rotated leading dims of each head; even
    sections: tuple[int, int, int]  # frequencies per axis: time, height, width
    yarn: Yarn | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TextConfig:
    """The text decoder, and with it the MTP layer, which has the same dimensions."""

    hidden_size: int
    intermediate_size: int
    layer_types: tuple[LayerType, ...]  # one per layer
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    linear_num_key_heads: int
    linear_num_value_heads: int
    linear_key_head_dim: int
    linear_value_head_dim: int
    linear_conv_kernel_dim: int
    rms_norm_eps: float
    vocab_size: int
    max_position_embeddings: int
    mtp_num_hidden_layers: int  # 0 or 1
    rotary: RotaryConfig

    @property
    def num_hidden_layers(self) -> int:
        return len(self.layer_types)

    @property
    def max_context(self) -> int:
        """Tokens that positions reach: as trained, or further where YaRN stretches them."""
        yarn = self.rotary.yarn
        stretched = int(yarn.factor * yarn.original_max_position_embeddings) if yarn else 0
        return max(self.max_position_embeddings, stretched)

    @property
    def conv_channels(self) -> int:
        """Channels of a delta layer's convolution: queries, keys and values side by side."""
        keys = self.linear_num_key_heads * self.linear_key_head_dim
        return 2 * keys + self.linear_num_value_heads * self.linear_value_head_dim


@dataclass(frozen=True, slots=True, kw_only=True)
class VisionConfig:
    """The vision tower and its merger."""

    depth: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    in_channels: int
    patch_size: int
    temporal_patch_size: int
    spatial_merge_size: int
    num_position_embeddings: int  # a square: the side of the learned grid, squared
    out_hidden_size: int

    @property
    def patch_values(self) -> int:
        """Values of one flattened patch: channels x time x height x width."""
        return self.in_channels * self.temporal_patch_size * self.patch_size**2

    @property
    def grid_side(self) -> int:
        return round(self.num_position_embeddings**0.5)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """A dense Qwen3.5 checkpoint. `vision` is None where the checkpoint has no tower."""

    text: TextConfig
    vision: VisionConfig | None
    tie_word_embeddings: bool
    image_token_id: int
    video_token_id: int
    vision_start_token_id: int
    vision_end_token_id: int

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Self:
        """Read a parsed `config.json`.

        Raises:
            ModelError: not a dense Qwen3.5, a field is missing, of another type, or out of range.
        """
        top = _Section("config.json", raw)
        architectures = raw.get("architectures")
        named = architectures if isinstance(architectures, list) and architectures else [None]
        if named[0] != ARCHITECTURE:
            raise ModelError(
                f"the checkpoint is a {named[0] or raw.get('model_type') or 'nameless'} model; "
                f"this program runs dense Qwen3.5 ({ARCHITECTURE})",
                "qwen35 chat --model Qwen/Qwen3.5-4B",
            )
        text = top.section("text_config")
        # 9B and 27B carry the flag at top level only; where both have it, the inner one counts.
        tied = text if "tie_word_embeddings" in text.raw else top
        return cls(
            text=_text_config(text),
            vision=_vision_config(top.section("vision_config"), text)
            if raw.get("vision_config") is not None
            else None,
            tie_word_embeddings=tied.flag("tie_word_embeddings"),
            **{
                name: top.integer(name, low=0, ceiling="token id")
                for name in (
                    "image_token_id",
                    "video_token_id",
                    "vision_start_token_id",
                    "vision_end_token_id",
                )
            },
        )


@dataclass(frozen=True, slots=True)
class _Section:
    """A JSON object of the config, with reads that check type and range and name the field."""

    where: str
    raw: Mapping[str, Any]

    def _value(self, name: str) -> Any:
        if name not in self.raw:
            raise ModelError(f"{self.where} has no {name}", "fetch the checkpoint again")
        return self.raw[name]

    def _refuse(self, name: str, value: object, wanted: str) -> ModelError:
        return ModelError(
            f"{self.where}: {name} is {str(value)[:40]!r}, it must be {wanted}",
            "fetch the checkpoint again",
        )

    def section(self, name: str) -> "_Section":
        value = self._value(name)
        if not isinstance(value, dict):
            raise self._refuse(name, value, "an object")
        return _Section(name, value)

    def integer(self, name: str, low: int = 1, ceiling: str | None = None) -> int:
        value, high = self._value(name), CEILINGS[ceiling or name]
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise self._refuse(name, value, f"a whole number from {low} to {high:,}")
        return value

    def number(self, name: str, low: float, high: float, default: float | None = None) -> float:
        value = self._value(name) if default is None else self.raw.get(name, default)
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not low <= value <= high
        ):
            raise self._refuse(name, value, f"a number from {low:g} to {high:g}")
        return float(value)

    def flag(self, name: str) -> bool:
        value = self._value(name)
        if not isinstance(value, bool):
            raise self._refuse(name, value, "true or false")
        return value

    def must_be(self, name: str, wanted: object) -> None:
        """Refuse a checkpoint that asks for something this program does not compute."""
        if name in self.raw and self.raw[name] != wanted:
            raise self._refuse(name, self.raw[name], repr(wanted))


def _text_config(text: _Section) -> TextConfig:
    text.must_be("hidden_act", "silu")
    text.must_be("attention_bias", False)
    text.must_be("attn_output_gate", True)
    text.must_be("mtp_use_dedicated_embeddings", False)
    config = TextConfig(
        hidden_size=text.integer("hidden_size"),
        intermediate_size=text.integer("intermediate_size"),
        layer_types=_layer_types(text),
        num_attention_heads=text.integer("num_attention_heads"),
        num_key_value_heads=text.integer("num_key_value_heads"),
        head_dim=text.integer("head_dim"),
        linear_num_key_heads=text.integer("linear_num_key_heads"),
        linear_num_value_heads=text.integer("linear_num_value_heads"),
        linear_key_head_dim=text.integer("linear_key_head_dim"),
        linear_value_head_dim=text.integer("linear_value_head_dim"),
        linear_conv_kernel_dim=text.integer("linear_conv_kernel_dim", low=2),
        rms_norm_eps=text.number("rms_norm_eps", 0.0, 1.0),
        vocab_size=text.integer("vocab_size"),
        max_position_embeddings=text.integer("max_position_embeddings"),
        mtp_num_hidden_layers=text.integer("mtp_num_hidden_layers", low=0)
        if "mtp_num_hidden_layers" in text.raw
        else 0,
        rotary=_rotary_config(text),
    )
    for heads, per in (
        ("num_attention_heads", "num_key_value_heads"),
        ("linear_num_value_heads", "linear_num_key_heads"),
    ):
        if getattr(config, heads) % getattr(config, per):
            raise text._refuse(heads, getattr(config, heads), f"a multiple of {per}")
    return config


def _layer_types(text: _Section) -> tuple[LayerType, ...]:
    layers = text.integer("num_hidden_layers")
    types = text.raw.get("layer_types")
    if types is None:
        interval = text.integer("full_attention_interval")
        return tuple(
            "linear_attention" if (i + 1) % interval else "full_attention" for i in range(layers)
        )
    known = get_args(LayerType)
    if not isinstance(types, list) or any(kind not in known for kind in types):
        raise text._refuse("layer_types", types, f"a list of {' or '.join(known)}")
    if len(types) != layers:
        raise ModelError(
            f"config.json lists {len(types)} layer_types for {layers} layers",
            "fetch the checkpoint again",
        )
    return cast("tuple[LayerType, ...]", tuple(types))


def _rotary_config(text: _Section) -> RotaryConfig:
    rope = text.section("rope_parameters")
    kind = rope.raw.get("rope_type", rope.raw.get("type", "default"))  # the second: older files
    if kind not in ("default", "yarn"):
        raise rope._refuse("rope_type", kind, "default or yarn")
    text.must_be("rope_scaling", None)
    rope.must_be("mrope_interleaved", True)
    if kind == "yarn":
        rope.must_be("truncate", True)
        for name in ("attention_factor", "mscale", "mscale_all_dim"):
            rope.must_be(name, None)
    head_dim = text.integer("head_dim")
    dim = int(head_dim * rope.number("partial_rotary_factor", 0.0, 1.0))
    if dim < 2 or dim % 2:
        raise rope._refuse("partial_rotary_factor", dim, f"an even share of head_dim {head_dim}")
    sections = rope.raw.get("mrope_section")
    if (
        not isinstance(sections, list)
        or len(sections) != 3
        or not all(type(size) is int and size >= 0 for size in sections)
        or sum(sections) != dim // 2
    ):
        raise rope._refuse("mrope_section", sections, f"three sizes that sum to {dim // 2}")
    return RotaryConfig(
        theta=rope.number("rope_theta", 1.001, 1e12),
        dim=dim,
        sections=(sections[0], sections[1], sections[2]),
        yarn=Yarn(
            factor=rope.number("factor", 1.0, 64.0),
            original_max_position_embeddings=rope.integer("original_max_position_embeddings"),
            beta_fast=rope.number("beta_fast", 1e-3, 1e6, default=32.0),
            beta_slow=rope.number("beta_slow", 1e-3, 1e6, default=1.0),
        )
        if kind == "yarn"
        else None,
    )


def _vision_config(vision: _Section, text: _Section) -> VisionConfig:
    vision.must_be("hidden_act", "gelu_pytorch_tanh")
    vision.must_be("deepstack_visual_indexes", [])
    config = VisionConfig(
        **{
            name: vision.integer(name)
            for name in (
                "depth",
                "hidden_size",
                "intermediate_size",
                "num_heads",
                "in_channels",
                "patch_size",
                "temporal_patch_size",
                "spatial_merge_size",
                "num_position_embeddings",
                "out_hidden_size",
            )
        }
    )
    if config.grid_side**2 != config.num_position_embeddings:
        raise vision._refuse("num_position_embeddings", config.num_position_embeddings, "a square")
    if config.hidden_size % (4 * config.num_heads):
        raise vision._refuse(
            "hidden_size", config.hidden_size, f"a multiple of 4 x {config.num_heads} heads"
        )
    if config.out_hidden_size != text.integer("hidden_size"):
        raise vision._refuse(
            "out_hidden_size",
            config.out_hidden_size,
            f"the text hidden_size {text.integer('hidden_size')}",
        )
    return config
