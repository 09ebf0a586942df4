"""The leaves: parameters with the names of the checkpoint, and the op that uses them."""

import torch
from torch import Tensor, nn

from qwen35cli.kernels import Kernels


class Linear(nn.Module):
    """`x @ weight.T + bias`; quantization replaces this leaf."""

    def __init__(
        self, inputs: int, outputs: int, kernels: Kernels, dtype: torch.dtype, bias: bool = False
    ) -> None:
        super().__init__()
        self.kernels = kernels
        self.weight = nn.Parameter(torch.empty(outputs, inputs, dtype=dtype))
        self.bias = nn.Parameter(torch.empty(outputs, dtype=dtype)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """(..., inputs) -> (..., outputs)."""
        return self.kernels.linear(x, self.weight, self.bias)


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
    """Norm of a delta head with a plain float32 weight, times the SiLU of its gate."""

    def __init__(self, width: int, eps: float, kernels: Kernels) -> None:
        super().__init__()
        self.kernels = kernels
        self.eps = eps
        self.weight = nn.Parameter(torch.empty(width, dtype=torch.float32))

    def forward(self, x: Tensor, gate: Tensor) -> Tensor:
        return self.kernels.gated_rms_norm(x, gate, self.weight, self.eps)


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
        return self.down_proj(self.kernels.swiglu(self.gate_proj(x), self.up_proj(x)))
