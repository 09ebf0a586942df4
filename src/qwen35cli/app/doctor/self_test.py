"""Every kernel of a backend against its plain twin, on tiny inputs: does it compute here at all?

That each is right in every corner is for the tests of the repository; this finds a build that does
not suit the machine. What a backend inherits from the reference is not tested.
"""

import time
from dataclasses import dataclass, fields
from math import isfinite
from typing import Final

import torch

from qwen35cli.errors import Qwen35Error
from qwen35cli.kernels import Backend, Kernels, select

from .self_test_inputs import Maker
from .self_test_ops import CHECKS

FACTS: Final = ("backend", "description", "steps_alike")  # of the table, beside its ops
# How far a result may lie from its twin's, as a share of its length: where activations are rounded
# to 8 bits or bf16, and elsewhere; Triton reads bf16, and its interpreter cuts off.
ROUNDED: Final = 0.03
EXACT: Final = 1e-3
INTERPRETED: Final = 0.15
MULTIPLYING: Final = ("linear", "prepare", "project", "project_swiglu", "stack")


@dataclass(frozen=True, slots=True)
class Tested:
    """How an op did. `error` is the largest distance from the twin, as a share of its length."""

    op: str
    passed: bool
    ms: float
    error: float | None = None
    message: str = ""


def overridden(kernels: Kernels) -> list[str]:
    """The ops that `kernels` do not take from the reference."""
    plain = select(torch.device("cpu"), "reference")
    names = (field.name for field in fields(Kernels) if field.name not in FACTS)
    return [name for name in names if getattr(kernels, name) is not getattr(plain, name)]


@torch.inference_mode()
def test(op: str, kernels: Kernels, device: torch.device) -> Tested:
    """Run one op and compare; whatever it raises is its result."""
    start = time.perf_counter()
    error = 0.0
    try:
        torch.manual_seed(0)
        for found, expected in CHECKS[op](Maker(kernels, device)):
            if found.shape != expected.shape:
                raise ValueError(f"shape {tuple(found.shape)} instead of {tuple(expected.shape)}")
            apart = (found.double() - expected.double()).norm()
            share = float(apart / expected.double().norm().clamp(min=1e-12))
            error = share if share != share else max(error, share)
            if error != error:
                break
        if device.type == "cuda":
            torch.cuda.synchronize(device)
    except Exception as failure:  # of any kind: it is what the test is there to find
        ms = 1e3 * (time.perf_counter() - start)
        text = failure.message if isinstance(failure, Qwen35Error) else str(failure)
        message = f"{type(failure).__name__}: {text}".splitlines()[0][:300]
        return Tested(op, passed=False, ms=ms, message=message)
    ms = 1e3 * (time.perf_counter() - start)
    most = tolerance(op, kernels.backend, device)
    if error <= most:  # never true of NaN
        return Tested(op, passed=True, ms=ms, error=error)
    what = "it computes NaN" if error != error else f"{error:.2g} from its twin, at most {most:g}"
    return Tested(op, passed=False, ms=ms, error=error if isfinite(error) else None, message=what)


def tolerance(op: str, backend: Backend, device: torch.device) -> float:
    """The most that an op may be away from its twin."""
    if backend == "triton":
        return ROUNDED if device.type == "cuda" else INTERPRETED
    return ROUNDED if op in MULTIPLYING else EXACT
