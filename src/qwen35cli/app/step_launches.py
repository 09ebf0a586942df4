"""The products of a decode step on a GPU, by the names of their matrices. Free of torch.

What `kernels/triton/step.py` launches, for those who know a model by its config alone.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from qwen35cli.model.config import Config, LayerType
from qwen35cli.model.sizes import TILE
from qwen35cli.quant.plan import Scheme

if TYPE_CHECKING:
    from qwen35cli.kernels.tuned import Op

BLOCK: Final = 128  # inputs of a tile, as in `kernels/triton/tiles.py`
LAYERS: Final = "model.language_model.layers"


@dataclass(frozen=True, slots=True)
class StepLaunch:
    """Matrices (N, K) that are read together. `delta`: those of a DeltaNet layer's mixer."""

    op: "Op"
    names: tuple[str, ...]  # in a checkpoint
    delta: bool = False


def step_launches(config: Config) -> Iterator[StepLaunch]:
    """The launches of a step that read matrices, in their order."""
    for index, kind in enumerate(config.text.layer_types):
        yield from _layer_launches(f"{LAYERS}.{index}", kind)
    yield StepLaunch("head", (head_name(config),))


def draft_launches(config: Config) -> Iterator[StepLaunch]:
    """The same of a draft by the MTP layer, but for the rows of the head that it is picked from."""
    yield StepLaunch("add", ("mtp.fc.weight",))
    for index in range(config.text.mtp_num_hidden_layers):
        yield from _layer_launches(f"mtp.layers.{index}", "full_attention")


def head_name(config: Config) -> str:
    """Of the matrix that is the output head."""
    tied = config.tie_word_embeddings
    return f"{'model.language_model.embed_tokens' if tied else 'lm_head'}.weight"


def _layer_launches(layer: str, kind: LayerType) -> Iterator[StepLaunch]:
    if kind == "full_attention":
        mixer = f"{layer}.self_attn"
        yield StepLaunch("project", tuple(f"{mixer}.{name}_proj.weight" for name in "qkv"))
        yield StepLaunch("add", (f"{mixer}.o_proj.weight",))
    else:
        mixer = f"{layer}.linear_attn"
        names = tuple(f"{mixer}.in_proj_{name}.weight" for name in ("qkv", "z"))
        yield StepLaunch("project", names, delta=True)
        yield StepLaunch("add", (f"{mixer}.out_proj.weight",), delta=True)
    gate_and_up = tuple(f"{layer}.mlp.{name}_proj.weight" for name in ("gate", "up"))
    yield StepLaunch("swiglu", gate_and_up)
    yield StepLaunch("add", (f"{layer}.mlp.down_proj.weight",))


def refusal(schemes: Iterable[Scheme], shapes: Iterable[tuple[int, ...]]) -> str | None:
    """Why the kernels do not read these matrices in one launch; None: they do."""
    formats = set(schemes)
    if len(formats) > 1:
        return "matrices that are read together have several formats"
    for N, K in shapes:
        if N % TILE or K % BLOCK:
            return f"a matrix of {N:,} x {K:,} is no whole tiles"
    return "nf4 has no fused kernels" if any(each.kind == "nf4" for each in formats) else None
