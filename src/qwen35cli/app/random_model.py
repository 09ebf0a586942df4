"""A model with random weights, made where it will run: seconds for the 4B on a GPU, and no file.

True shapes, formats and layouts; the values are noise of a size that keeps states and logits
finite, so it serves for speed and memory, and to compare kernels.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

import torch
from torch import Tensor

from qwen35cli.checkpoint.names import ours
from qwen35cli.kernels import Kernels
from qwen35cli.model.config import Config
from qwen35cli.model.qwen35 import Qwen35
from qwen35cli.quant.leaves import Int4Linear, Int8Linear, Quantized
from qwen35cli.quant.plan import Scheme
from qwen35cli.quant.swap import prepare, swap

SPREAD: Final = 0.02  # standard deviation of weights, as trained models begin
SEED: Final = 35


def random_model(
    config: Config,
    schemes: Mapping[str, Scheme],
    device: torch.device,
    kernels: Kernels,
    seed: int = SEED,
) -> Qwen35:
    """A model ready to run. The same seed gives the same numbers on the same kind of device.

    Args:
        schemes: by checkpoint name, of `config`'s matrices; int4, int8 or `keep`.
    """
    model = empty_model(config, schemes, kernels)
    leaves = {name: leaf for name, leaf in model.named_modules() if isinstance(leaf, Quantized)}
    generator = torch.Generator(device).manual_seed(seed)
    state = {}
    for name, meta in model.named_parameters():
        path, _, last = name.rpartition(".")
        leaf = leaves.get(path)
        if leaf is None or last not in leaf.held:
            state[name] = _values(name, meta, device, generator)
        else:
            state[name] = _quantized(leaf, last, meta, device, generator)
    model.load_state_dict(state, assign=True)
    model.requires_grad_(False)
    prepare(model)
    return model


def empty_model(config: Config, schemes: Mapping[str, Scheme], kernels: Kernels) -> Qwen35:
    """The model on the meta device, its leaves those of the schemes."""
    with torch.device("meta"):
        model = Qwen35(config, kernels)
    swap(model, {ours(name): scheme for name, scheme in schemes.items()})
    return model


def shortened(config: Config, least: int, *, drafts: bool = False) -> Config:
    """The text model alone, cut to whole periods of layers: at least so many, if it has them. Its
    steps consist of the same launches. `drafts` leaves the MTP layer."""
    kinds = config.text.layer_types
    period = kinds.index("full_attention") + 1 if "full_attention" in kinds else len(kinds)
    count = min(-(-least // period) * period, len(kinds))
    mtp = config.text.mtp_num_hidden_layers if drafts else 0
    text = replace(config.text, layer_types=kinds[:count], mtp_num_hidden_layers=mtp)
    return replace(config, text=text, vision=None)


def _values(name: str, meta: Tensor, device: torch.device, generator: torch.Generator) -> Tensor:
    """As the kind of a tensor needs, that states neither grow nor fade away."""
    x = torch.empty(meta.shape, dtype=meta.dtype, device=device)
    if name.endswith("linear_attn.A_log"):
        return x.uniform_(1, 16, generator=generator).log_()
    if name.endswith("linear_attn.norm.weight"):
        return x.normal_(1, SPREAD, generator=generator)
    if name.endswith("linear_attn.dt_bias"):
        return x.uniform_(-4, 1, generator=generator)
    if name.endswith("conv1d.weight"):
        return x.normal_(0, 0.3, generator=generator)
    return x.normal_(0, SPREAD, generator=generator)


def _quantized(
    leaf: Quantized, name: str, meta: Tensor, device: torch.device, generator: torch.Generator
) -> Tensor:
    """Any code is as likely as another; scales make their spread that of `_values`."""
    assert isinstance(leaf, Int4Linear | Int8Linear), type(leaf)
    if name == "weight_shape":
        return torch.tensor(leaf.shape, device=device)
    if name == "weight_packed":
        low, high = -(2**31), 2**31 - 1
        return torch.randint(
            low, high, meta.shape, dtype=meta.dtype, device=device, generator=generator
        )
    assert name == "weight_scale", name
    codes = 16 if isinstance(leaf, Int4Linear) else 256
    factor = SPREAD / ((codes**2 - 1) / 12) ** 0.5
    scale = torch.empty(meta.shape, dtype=meta.dtype, device=device)
    scale.uniform_(0.8 * factor, 1.2 * factor, generator=generator)
    # Codes have a mean of -1/2: of either sign, their scales leave the weights none.
    sign = torch.randint(0, 2, meta.shape, device=device, generator=generator)
    return scale.mul_(sign.mul_(2).sub_(1))
