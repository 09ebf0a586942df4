"""Random models of a `config.json` in a format, as `quantize --format` would make them.

Without vision tower. See `app.random_model`.
"""

from collections.abc import Mapping
from typing import Any

import torch

from qwen35cli.app import random_model as made
from qwen35cli.checkpoint.names import parameter_shapes
from qwen35cli.kernels import Kernels, select
from qwen35cli.model.config import Config
from qwen35cli.model.qwen35 import Qwen35
from qwen35cli.quant.plan import Scheme, assign, recipe


def random_model(
    raw: Mapping[str, Any],
    format: str,
    device: torch.device,
    kernels: Kernels | None = None,
    seed: int = made.SEED,
    *,
    few: bool = False,
    drafts: bool = False,
) -> Qwen35:
    """The model of a config, ready to run.

    Args:
        format: bf16, int8 or int4, by its recipe.
        kernels: those of `device` where none are named.
        few: cut to as few layers as have all kinds of launches.
        drafts: with the MTP layer.
    """
    planned = _planned(raw, format, few, drafts)
    return made.random_model(*planned, device, kernels or select(device), seed)


def empty_model(
    raw: Mapping[str, Any],
    format: str,
    kernels: Kernels,
    *,
    few: bool = False,
    drafts: bool = False,
) -> Qwen35:
    """The same on the meta device."""
    return made.empty_model(*_planned(raw, format, few, drafts), kernels)


def _planned(
    raw: Mapping[str, Any], format: str, few: bool, drafts: bool
) -> tuple[Config, Mapping[str, Scheme]]:
    config = Config.from_dict(dict(raw))
    least = 1 if few else len(config.text.layer_types)
    config = made.shortened(config, least, drafts=drafts)
    return config, assign(recipe(format), parameter_shapes(config))
