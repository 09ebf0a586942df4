"""Quantized leaves in place of the model's own. The model does not know."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from qwen35cli.errors import ModelError

from .leaves import QUANTIZE_AGAIN, Int4Linear, Int8Embedding, Int8Linear, NF4Linear, Quantized
from .plan import Scheme


def swap(model: nn.Module, schemes: Mapping[str, Scheme], *, whole: bool = False) -> None:
    """Replace the leaves of `model`, which is on the meta device, by quantized ones.

    Args:
        model: its leaves have `kernels` and `weight`, and `bias` (maybe None) where they multiply;
            the one without is the table in which tokens are looked up.
        schemes: by the model's own name of the leaf's `weight`; `keep` may be among them.
        whole: int8 leaves find bf16 in the file, and make their codes while loading.

    Raises:
        ModelError: a name is not that of a matrix in the model, or its scheme does not suit it.
    """
    for name, scheme in schemes.items():
        if scheme.kind == "keep":
            continue
        path = name.removesuffix(".weight")
        parent, _, attribute = path.rpartition(".")
        leaf = _leaf(model, name)
        setattr(model.get_submodule(parent), attribute, _quantized(name, leaf, scheme, whole))


def prepare(model: nn.Module) -> None:
    """Let every quantized leaf take the layout that its kernels compute with."""
    for leaf in model.modules():
        if isinstance(leaf, Quantized):
            leaf.prepare()


def _leaf(model: nn.Module, name: str) -> Any:
    """The leaf whose matrix is called `name`; Any: this floor does not know the model's classes."""
    path, _, last = name.rpartition(".")
    leaf: Any
    try:
        leaf = model.get_submodule(path)
    except AttributeError:
        leaf = None
    weight = getattr(leaf, "weight", None)
    if leaf is None or last != "weight" or not isinstance(weight, Tensor):
        raise ModelError(
            f"config.json gives {name} a scheme, there is no such matrix", QUANTIZE_AGAIN
        )
    if weight.dim() != 2 or not hasattr(leaf, "operand"):
        raise ModelError(
            f"config.json gives {name} a scheme, but its shape is {list(weight.shape)}: "
            "only matrices that something is multiplied with can be quantized",
            QUANTIZE_AGAIN,
        )
    return leaf


def _quantized(name: str, leaf: Any, scheme: Scheme, whole: bool) -> Quantized:
    N, K = leaf.weight.shape
    if not hasattr(leaf, "bias"):
        if scheme.kind != "int8":
            raise ModelError(
                f"config.json has {name} as {scheme}; tokens can be looked up in int8 only",
                QUANTIZE_AGAIN,
            )
        return Int8Embedding((N, K), leaf.kernels, whole=whole)
    match scheme.kind:
        case "int4":
            return Int4Linear((N, K), scheme.group, leaf.kernels, leaf.bias)
        case "int8":
            return Int8Linear((N, K), leaf.kernels, leaf.bias, whole=whole)
        case "nf4":
            return NF4Linear((N, K), scheme.group, leaf.kernels, leaf.bias)
        case "keep":
            raise ValueError("nothing to replace")
