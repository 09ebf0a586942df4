"""The `cpu` backend: compiled kernels where they were built, torch's own ops where not."""

from . import torch_ops
from .guard import guard_mapping
from .native import Native

TORCH_ONLY = "torch ops: the C++ kernels were not built at install (no compiler?)"

__all__ = ["TORCH_ONLY", "Native", "guard_mapping", "torch_ops"]
