"""The leaves: parameters with the names of the checkpoint, and the op that uses them."""

import torch
from torch import Tensor, nn

from qwen35cli.kernels import Kernels
from qwen35cli.kernels.operands import Weight


class Linear(nn.Module):
    """`x @ weight.T + bias`; quantization replaces this leaf."""

    def __init__(
        self, inputs: int, outputs: int, kernels: Kernels, dtype: torch.dtype, bias: bool = False
    ) -> None:
        super().__init__()
        self.kernels = kernels
        self.weight = nn.Parameter(torch.empty(outputs, inputs, dtype=dtype))
        self.bias = nn.Parameter(torch.empty(outputs, dtype=dtype)) if bias else None

    @property
    def operand(self) -> Weight:
        """The matrix, for ops that take several at once."""
        return self.weight

    def stored(self) -> Weight:
        """The matrix in the layout of the file."""
        return self.weight

    def forward(self, x: Tensor) -> Tensor:
        """(..., inputs) -> (..., outputs)."""
        return self.kernels.linear(x, self.weight, self.bias)


class Embedding(nn.Module):
    """Token embeddings (V, D); the output head too, where the checkpoint ties them."""

    def __init__(self, vocab: int, width: int, kernels: Kernels, dtype: torch.dtype) -> None:
        super().__init__()
        self.kernels = kernels
        self.weight = nn.Parameter(torch.empty(vocab, width, dtype=dtype))

    @property
    def operand(self) -> Weight:
        """The matrix, for the output head."""
        return self.weight

    def stored(self) -> Weight:
        """The matrix in the layout of the file."""
        return self.weight

    def forward(self, ids: Tensor) -> Tensor:
        """(...) integers -> (..., D)."""
        return self.kernels.rows(self.weight, ids)


class RMSNorm(nn.Module):
    """Norm with a weight stored as offset from one."""

    def __init__(self, width: int, eps: float, kernels: Kernels, dtype: torch.dtype) -> None:
        super().__init__()
        self.kernels = kernels
        self.eps = eps
        self.weight = nn.Parameter(torch.empty(width, dtype=dtype))

    def forward(self, x: Tensor) -> Tensor:
        return self.kernels.rms_norm(x, self.weight, self.eps)


class GatedRMSNorm(nn.Module):
    """Norm of a delta head with a plain float32 weight; `delta_mix` applies it."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.empty(width, dtype=torch.float32))


class LayerNorm(nn.Module):
    """Ordinary layer norm of the vision tower, eps 1e-6."""

    def __init__(self, width: int, kernels: Kernels, dtype: torch.dtype) -> None:
        super().__init__()
        self.kernels = kernels
        self.weight = nn.Parameter(torch.empty(width, dtype=dtype))
        self.bias = nn.Parameter(torch.empty(width, dtype=dtype))

    def forward(self, x: Tensor) -> Tensor:
        return self.kernels.layer_norm(x, self.weight, self.bias, 1e-6)


class MLP(nn.Module):
    """down(silu(gate(x)) * up(x)), without biases."""

    def __init__(self, width: int, inner: int, kernels: Kernels, dtype: torch.dtype) -> None:
        super().__init__()
        self.kernels = kernels
        self.gate_proj = Linear(width, inner, kernels, dtype)
        self.up_proj = Linear(width, inner, kernels, dtype)
        self.down_proj = Linear(inner, width, kernels, dtype)

    def forward(self, x: Tensor) -> Tensor:
        inner = self.kernels.project_swiglu(x, self.gate_proj.operand, self.up_proj.operand)
        return self.down_proj(inner)
