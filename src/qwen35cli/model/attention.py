"""Gated attention: grouped queries, per-head norms, partial rotary, a sigmoid gate per channel."""

import torch
from torch import Tensor, nn

from qwen35cli.kernels import Kernels
from qwen35cli.kernels.operands import AttentionMixer, Weight

from .cache import KVCache
from .config import TextConfig
from .layers import Linear, RMSNorm


class Attention(nn.Module):
    """One full-attention mixer, as in every fourth layer and in the MTP layer."""

    def __init__(self, config: TextConfig, kernels: Kernels, dtype: torch.dtype) -> None:
        super().__init__()
        self.kernels = kernels
        self.heads, self.kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.width = config.head_dim
        D, inner = config.hidden_size, self.heads * self.width
        self.q_proj = Linear(D, 2 * inner, kernels, dtype)  # per head: query, then its gate
        self.k_proj = Linear(D, self.kv_heads * self.width, kernels, dtype)
        self.v_proj = Linear(D, self.kv_heads * self.width, kernels, dtype)
        self.o_proj = Linear(inner, D, kernels, dtype)
        self.q_norm = RMSNorm(self.width, config.rms_norm_eps, kernels, dtype)
        self.k_norm = RMSNorm(self.width, config.rms_norm_eps, kernels, dtype)

    @property
    def projections(self) -> tuple[Weight, ...]:
        """The matrices that read the input."""
        return self.q_proj.operand, self.k_proj.operand, self.v_proj.operand

    def with_memory(self, cache: KVCache) -> AttentionMixer:
        """The layer for `Kernels.stack`."""
        return AttentionMixer(
            self.projections,
            self.q_norm.weight,
            self.k_norm.weight,
            self.heads,
            self.o_proj.operand,
            cache.keys,
            cache.values,
        )

    def remember(self, x: Tensor, cos: Tensor, sin: Tensor, cache: KVCache) -> None:
        """Append keys and values of `x` as `forward` does; no output is computed."""
        B, T, _ = x.shape
        k, v = self.kernels.project(x, self.projections[1:])
        k, v = (y.view(B, T, self.kv_heads, self.width) for y in (k, v))
        norms = self.k_norm.weight, self.k_norm.weight
        _, k = self.kernels.qk_norm_rotary(k, k, *norms, self.k_norm.eps, cos, sin)
        cache.append(k, v, self.kernels)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, cache: KVCache | None) -> Tensor:
        """x: (B, T, D), already normed; cos, sin: (B, T, R). No cache: the whole sequence."""
        B, T, _ = x.shape
        q, k, v = self.kernels.project(x, self.projections)
        q, gate = q.view(B, T, self.heads, 2 * self.width).chunk(2, dim=-1)  # (B, T, H, Dh) each
        k, v = (y.view(B, T, self.kv_heads, self.width) for y in (k, v))
        q, k = self.kernels.qk_norm_rotary(
            q, k, self.q_norm.weight, self.k_norm.weight, self.q_norm.eps, cos, sin
        )
        keys, values = (  # (B, KV, S, Dh)
            cache.append(k, v, self.kernels)
            if cache is not None
            else (k.transpose(1, 2), v.transpose(1, 2))
        )
        y = self.kernels.attention(q, keys, values)  # (B, T, H, Dh)
        return self.o_proj(self.kernels.sigmoid_gate(y, gate).flatten(2))
