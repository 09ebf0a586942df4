"""One table of every op. A backend is a function that returns it; the model calls through it.

What a backend does not override it inherits from the reference, visibly, by `replace`. It is chosen
once, at load; what was asked for by name either loads or raises.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import torch
from torch import Tensor

from qwen35cli.errors import UsageError

from . import reference
from .operands import (
    BlockWeights,
    DeltaWeights,
    DraftLoop,
    DraftWeights,
    Drawing,
    NoSteps,
    Replay,
    Rows,
    Stack,
    StepWeights,
    TokenStep,
    Weight,
)
from .tuned import Tuned

if TYPE_CHECKING:
    from .cpu import Native

Backend = Literal["reference", "cpu", "triton"]


@dataclass(frozen=True, slots=True)
class Kernels:
    """One implementation of every op; the contracts stand in `kernels/reference.py`."""

    backend: Backend
    description: str  # what runs, for `-v`
    steps_alike: bool  # up to `FEW` tokens read at once get the bits that each would get alone
    linear: Callable[[Tensor, Weight, Tensor | None], Tensor]
    project: Callable[[Tensor, tuple[Weight, ...]], tuple[Tensor, ...]]
    project_swiglu: Callable[[Tensor, Weight, Weight], Tensor]
    rows: Callable[[Weight, Tensor], Tensor]
    prepare: Callable[[Weight], Weight]
    quantize_int4: Callable[[Tensor, int], tuple[Tensor, Tensor]]
    quantize_int8: Callable[[Tensor], tuple[Tensor, Tensor]]
    quantize_nf4: Callable[[Tensor, int], tuple[Tensor, Tensor]]
    rms_norm: Callable[[Tensor, Tensor, float], Tensor]
    layer_norm: Callable[[Tensor, Tensor, Tensor, float], Tensor]
    swiglu: Callable[[Tensor, Tensor], Tensor]
    gelu: Callable[[Tensor], Tensor]
    gelu_tanh: Callable[[Tensor], Tensor]
    rotary: Callable[[Tensor, Tensor, Tensor], Tensor]
    qk_norm_rotary: Callable[
        [Tensor, Tensor, Tensor, Tensor, float, Tensor, Tensor], tuple[Tensor, Tensor]
    ]
    store_rows: Callable[[Tensor, Rows, int], None]
    attention: Callable[[Tensor, Rows, Rows], Tensor]
    sigmoid_gate: Callable[[Tensor, Tensor], Tensor]
    segment_attention: Callable[[Tensor, Tensor, Tensor, tuple[int, ...]], Tensor]
    delta_mix: Callable[
        [Tensor, Tensor, Tensor, Tensor, DeltaWeights, Tensor, Tensor, Replay | None], Tensor
    ]
    stack: Callable[[tuple[BlockWeights, ...]], Stack | None]
    draft_loop: Callable[[DraftWeights], DraftLoop | None]
    token_step: Callable[[StepWeights], TokenStep | NoSteps]
    draws: Callable[[torch.device, int, int, int, int], Drawing] | None


def _reference() -> Kernels:
    return Kernels(
        backend="reference",
        description="plain torch",
        steps_alike=False,
        linear=reference.linear,
        project=reference.project,
        project_swiglu=reference.project_swiglu,
        rows=reference.rows,
        prepare=reference.prepare,
        quantize_int4=reference.quantize_int4,
        quantize_int8=reference.quantize_int8,
        quantize_nf4=reference.quantize_nf4,
        rms_norm=reference.rms_norm,
        layer_norm=reference.layer_norm,
        swiglu=reference.swiglu,
        gelu=reference.gelu,
        gelu_tanh=reference.gelu_tanh,
        rotary=reference.rotary,
        qk_norm_rotary=reference.qk_norm_rotary,
        store_rows=reference.store_rows,
        attention=reference.attention,
        sigmoid_gate=reference.sigmoid_gate,
        segment_attention=reference.segment_attention,
        delta_mix=reference.delta_mix,
        stack=reference.op_by_op,
        draft_loop=reference.draft_by_draft,
        token_step=reference.no_steps,
        draws=None,
    )


def _cpu() -> Kernels:
    from . import cpu

    native = cpu.Native.load()
    if native is None:
        return replace(
            _reference(),
            backend="cpu",
            description=cpu.TORCH_ONLY,
            linear=cpu.torch_ops.linear,
            project=cpu.torch_ops.project,
            project_swiglu=cpu.torch_ops.project_swiglu,
            rows=cpu.torch_ops.rows,
            prepare=cpu.torch_ops.prepare,
        )
    return compiled(native)


def compiled(native: "Native") -> Kernels:
    """The ops of one compiled variant; what it lacks, from the reference."""
    return replace(
        _reference(),
        backend="cpu",
        description=native.description,
        steps_alike=True,
        linear=native.matrices.linear,
        project=native.matrices.project,
        project_swiglu=native.matrices.project_swiglu,
        rows=native.matrices.rows,
        rms_norm=native.norms.rms_norm,
        qk_norm_rotary=native.attention.qk_norm_rotary,
        store_rows=native.attention.store_rows,
        attention=native.attention.attention,
        sigmoid_gate=native.attention.sigmoid_gate,
        delta_mix=native.delta.delta_mix,
        stack=native.blocks.stack,
        draft_loop=native.blocks.draft_loop,
        quantize_int4=native.quantize.int4,
        quantize_int8=native.quantize.int8,
        quantize_nf4=native.quantize.nf4,
    )


def _triton(device: torch.device, tuned: Tuned) -> Kernels:
    from .triton import attention, delta_chunk, drafts, linear, rms_norm, sample, step, tiles
    from .triton.launches import Launches

    launches = Launches.of(device, tuned)
    return replace(
        _reference(),
        backend="triton",
        description=f"Triton, {launches.arch}",
        linear=linear.linear,
        project=linear.project,
        project_swiglu=linear.project_swiglu,
        prepare=tiles.prepare,
        rms_norm=rms_norm.rms_norm,
        attention=attention.attention,
        delta_mix=delta_chunk.delta_mix,
        draft_loop=lambda weights: drafts.draft_loop(weights, launches),
        token_step=lambda weights: step.token_step(weights, launches),
        draws=partial(sample.Draws, overlap=launches.overlap),
    )


BACKENDS: dict[Backend, Callable[[torch.device, Tuned], Kernels]] = {
    "reference": lambda device, tuned: _reference(),
    "cpu": lambda device, tuned: _cpu(),
    "triton": _triton,
}
DEFAULTS: dict[str, Backend] = {"cpu": "cpu", "cuda": "triton"}


def select(
    device: torch.device,
    backend: str | None = None,
    tuned: Tuned | None = None,
    cache: Path | None = None,
) -> Kernels:
    """The kernels for `device`, or those of `backend` where it is named.

    Args:
        tuned: launches of GPU kernels that were measured here: see `triton.launches`.
        cache: folder for what Triton compiles; None: where Triton itself keeps it.

    Raises:
        UsageError: no backend of that name.
        DeviceError: it cannot run on `device`.
    """
    name = backend or DEFAULTS[device.type]
    for known in get_args(Backend):
        if known == name:
            if known == "triton":
                from .triton import require

                require(device, cache)
            return BACKENDS[known](device, tuned or {})
    raise UsageError(
        f"there are no kernels named {name!r}", f"--kernels {' | '.join(get_args(Backend))}"
    )
