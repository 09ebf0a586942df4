"""Gated DeltaNet: a convolution, then a matrix-valued memory per head, which each token decays and
corrects. Source: arXiv:2412.06464; layout of Qwen3.5 (four separate, flat projections).
"""

import torch
from torch import Tensor, nn

from qwen35cli.kernels import Kernels
from qwen35cli.kernels.operands import DeltaMixer, DeltaWeights, Weight

from .cache import DeltaCache
from .config import TextConfig
from .layers import GatedRMSNorm, Linear


class Conv1d(nn.Module):
    """The weight of the causal depthwise convolution, (C, 1, W)."""

    def __init__(self, channels: int, width: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels, 1, width, dtype=dtype))


class DeltaNet(nn.Module):
    """One linear-attention mixer."""

    def __init__(self, config: TextConfig, kernels: Kernels, dtype: torch.dtype) -> None:
        super().__init__()
        self.kernels = kernels
        self.key_heads, self.heads = config.linear_num_key_heads, config.linear_num_value_heads
        self.key_width, self.value_width = (
            config.linear_key_head_dim,
            config.linear_value_head_dim,
        )
        self.channels = config.conv_channels
        self.conv_rows = config.linear_conv_kernel_dim - 1
        D, inner = config.hidden_size, self.heads * self.value_width
        self.in_proj_qkv = Linear(D, self.channels, kernels, dtype)
        self.in_proj_z = Linear(D, inner, kernels, dtype)
        self.in_proj_b = Linear(D, self.heads, kernels, dtype)
        self.in_proj_a = Linear(D, self.heads, kernels, dtype)
        self.conv1d = Conv1d(self.channels, config.linear_conv_kernel_dim, dtype)
        self.A_log = nn.Parameter(torch.empty(self.heads, dtype=torch.float32))
        self.dt_bias = nn.Parameter(torch.empty(self.heads, dtype=dtype))
        self.norm = GatedRMSNorm(self.value_width, config.rms_norm_eps)
        self.out_proj = Linear(inner, D, kernels, dtype)

    def make_cache(self, batch: int, dtype: torch.dtype, *, undo: bool = False) -> DeltaCache:
        """`dtype` is that of the activations; `undo`: see `DeltaCache`."""
        return DeltaCache(
            batch,
            self.heads,
            self.key_width,
            self.value_width,
            self.conv_rows,
            self.channels,
            dtype,
            undo=undo,
        )

    @property
    def projections(self) -> tuple[Weight, ...]:
        """The matrices that read the input."""
        return (
            self.in_proj_qkv.operand,  # -> (B, T, C)
            self.in_proj_z.operand,  # -> (B, T, H * V)
            self.in_proj_a.operand,  # -> (B, T, H)
            self.in_proj_b.operand,
        )

    @property
    def weights(self) -> DeltaWeights:
        """What `delta_mix` computes with."""
        return DeltaWeights(
            self.conv1d.weight, self.A_log, self.dt_bias, self.norm.weight, self.norm.eps
        )

    def with_memory(self, cache: DeltaCache) -> DeltaMixer:
        """The layer for `Kernels.stack`."""
        return DeltaMixer(
            self.projections,
            self.weights,
            self.out_proj.operand,
            cache.rows,
            cache.state,
            logs=cache.logs,
        )

    def forward(self, x: Tensor, cache: DeltaCache | None, *, undo: bool = True) -> Tensor:
        """x: (B, T, D), already normed. Without a cache: a whole sequence, from a zero state.

        `undo`: see `DeltaCache.advance`.
        """
        if cache is None:
            with x.device:
                cache = self.make_cache(len(x), x.dtype)
        qkv, z, a, b = self.kernels.project(x, self.projections)
        replay = cache.advance(qkv.shape[1], undo=undo)
        y = self.kernels.delta_mix(qkv, z, a, b, self.weights, cache.rows, cache.state, replay)
        return self.out_proj(y)
