"""One table of every op. A backend is a function that returns it; the model calls through it.

What a backend does not override it inherits from the reference, visibly, by `replace`. It is chosen
once, at load; what was asked for by name either loads or raises.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from torch import Tensor

from qwen35cli.errors import UsageError

from . import reference

Backend = Literal["reference", "cpu"]


@dataclass(frozen=True, slots=True)
class Kernels:
    """One implementation of every op; the contracts stand in `kernels/reference.py`."""

    backend: Backend
    description: str  # what runs, for `-v`
    linear: Callable[[Tensor, Tensor, Tensor | None], Tensor]
    rms_norm: Callable[[Tensor, Tensor, float], Tensor]
    gated_rms_norm: Callable[[Tensor, Tensor, Tensor, float], Tensor]
    layer_norm: Callable[[Tensor, Tensor, Tensor, float], Tensor]
    swiglu: Callable[[Tensor, Tensor], Tensor]
    gelu: Callable[[Tensor], Tensor]
    gelu_tanh: Callable[[Tensor], Tensor]
    rotary: Callable[[Tensor, Tensor, Tensor], Tensor]
    attention: Callable[[Tensor, Tensor, Tensor], Tensor]
    segment_attention: Callable[[Tensor, Tensor, Tensor, tuple[int, ...]], Tensor]
    causal_conv: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
    l2_norm: Callable[[Tensor], Tensor]
    delta_gates: Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
    delta_step: Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
    delta_chunk: Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


def _reference() -> Kernels:
    return Kernels(
        backend="reference",
        description="plain torch",
        linear=reference.linear,
        rms_norm=reference.rms_norm,
        gated_rms_norm=reference.gated_rms_norm,
        layer_norm=reference.layer_norm,
        swiglu=reference.swiglu,
        gelu=reference.gelu,
        gelu_tanh=reference.gelu_tanh,
        rotary=reference.rotary,
        attention=reference.attention,
        segment_attention=reference.segment_attention,
        causal_conv=reference.causal_conv,
        l2_norm=reference.l2_norm,
        delta_gates=reference.delta_gates,
        delta_step=reference.delta_step,
        delta_chunk=reference.delta_chunk,
    )


def _cpu() -> Kernels:
    from . import cpu

    native = cpu.Native.load()
    if native is None:
        return replace(
            _reference(), backend="cpu", description=cpu.TORCH_ONLY, linear=cpu.torch_linear
        )
    return replace(
        _reference(),
        backend="cpu",
        description=native.description,
        linear=native.linear,
        rms_norm=native.rms_norm,
        gated_rms_norm=native.gated_rms_norm,
        attention=native.attention,
        delta_step=native.delta_step,
        delta_chunk=native.delta_chunk,
    )


BACKENDS: dict[Backend, Callable[[], Kernels]] = {"reference": _reference, "cpu": _cpu}
DEFAULTS: dict[str, Backend] = {"cpu": "cpu", "cuda": "reference"}


def select(device: torch.device, backend: str | None = None) -> Kernels:
    """The kernels for `device`, or those of `backend` where it is named.

    Raises:
        UsageError: no backend of that name.
    """
    if backend is None:
        return BACKENDS[DEFAULTS[device.type]]()
    for name in get_args(Backend):
        if name == backend:
            return BACKENDS[name]()
    raise UsageError(
        f"there are no kernels named {backend!r}", f"--kernels {' | '.join(get_args(Backend))}"
    )
