"""Gated DeltaNet: a convolution, then a matrix-valued memory per head, which each token decays and
corrects. Source: arXiv:2412.06464; layout of Qwen3.5 (four separate, flat projections).
"""

import torch
from torch import Tensor, nn

from qwen35cli.kernels import Kernels

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
        self.norm = GatedRMSNorm(self.value_width, config.rms_norm_eps, kernels)
        self.out_proj = Linear(inner, D, kernels, dtype)

    def make_cache(self, batch: int, dtype: torch.dtype) -> DeltaCache:
        return DeltaCache(
            batch,
            self.heads,
            self.key_width,
            self.value_width,
            self.conv_rows,
            self.channels,
            dtype,
        )

    def forward(self, x: Tensor, cache: DeltaCache | None) -> Tensor:
        """x: (B, T, D), already normed. Without a cache: a whole sequence, from a zero state."""
        B, T, _ = x.shape
        if cache is None:
            with x.device:
                cache = self.make_cache(B, x.dtype)
        inputs = self.in_proj_qkv(x)  # (B, T, C)
        mixed, rows = self.kernels.causal_conv(inputs, self.conv1d.weight, cache.rows)
        keys = self.key_heads * self.key_width
        q, k, v = mixed[..., :keys], mixed[..., keys : 2 * keys], mixed[..., 2 * keys :]
        q = self.kernels.l2_norm(q.view(B, T, self.key_heads, -1)) * self.key_width**-0.5
        k = self.kernels.l2_norm(k.view(B, T, self.key_heads, -1))  # (B, T, G, K)
        v = v.view(B, T, self.heads, -1)  # (B, T, H, V)
        g, beta = self.kernels.delta_gates(
            self.in_proj_a(x), self.in_proj_b(x), self.A_log, self.dt_bias
        )
        y = self._read_and_write(cache, inputs, rows, q, k, v, g, beta)  # (B, T, H, V)
        z = self.in_proj_z(x).view(B, T, self.heads, -1)
        return self.out_proj(self.norm(y.to(x.dtype), z).flatten(2))

    def _read_and_write(
        self,
        cache: DeltaCache,
        inputs: Tensor,
        rows: Tensor,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        g: Tensor,
        beta: Tensor,
    ) -> Tensor:
        """The delta rule over T tokens; a prompt goes by chunks, everything else step by step."""
        T = q.shape[1]
        if T > 1 and not cache.holding:
            y, state = self.kernels.delta_chunk(q, k, v, g, beta, cache.state)
            cache.advance(T, rows, state)
            return y
        steps, updates = [], []
        for t in range(T):
            y, d = self.kernels.delta_step(
                q[:, t], k[:, t], v[:, t], g[:, t], beta[:, t], cache.state
            )
            steps.append(y)
            updates.append((k[:, t], d, g[:, t]))
        cache.record(inputs, updates)
        cache.advance(T, rows)
        return torch.stack(steps, dim=1)
