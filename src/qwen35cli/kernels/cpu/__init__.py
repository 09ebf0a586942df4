"""The `cpu` backend: compiled kernels where they were built, torch's own ops where not."""

from .native import Native
from .torch_ops import linear as torch_linear

TORCH_ONLY = "torch ops: the C++ kernels were not built at install (no compiler?)"

__all__ = ["TORCH_ONLY", "Native", "torch_linear"]
