"""Whether a model will fit this machine, said before it is downloaded."""

from math import prod

import torch

from qwen35cli.errors import DoesNotFitError
from qwen35cli.kernels import DEFAULTS
from qwen35cli.model import sizes
from qwen35cli.model.config import Config
from qwen35cli.quant.plan import recipe

from .device import free_bytes
from .estimate import Device, Estimate, Setting, planned
from .load import LoadOptions, choose_context
from .prefill import CHUNK
from .stored import default_format


def check_fit(options: LoadOptions, device: torch.device, config: Config) -> None:
    """Refuse what would not be loaded: by the same rule, as far as the config alone tells.

    Raises:
        UsageError: the context is more than the model takes.
        DoesNotFitError: memory does not suffice for it.
    """
    quant = options.quant
    if quant in (None, "auto"):
        weights = 2 * sum(map(prod, sizes.parameters(config).values()))
        quant = default_format(weights)
    model = planned(options.model, config, recipe(quant))
    if not options.pictures:
        model = model.without_vision()
    place: Device = "cuda" if device.type == "cuda" else "cpu"
    setting = Setting(
        ctx=0,
        kv_dtype=options.kv_dtype,
        drafts=options.mtp if isinstance(options.mtp, int) else 0,
        device=place,
        chunk=CHUNK[place],
        triton=(options.kernels or DEFAULTS[device.type]) == "triton",
    )
    asked = options.context(config)
    try:
        choose_context(asked, Estimate(model, setting), free_bytes(device), device.type)
    except DoesNotFitError as error:
        raise DoesNotFitError(
            f"{options.model} would not run here, nothing was downloaded: {error.message}",
            error.hint,
        ) from None
