"""The text decoder: three delta layers, then one of attention, again and again."""

import torch
from torch import Tensor, nn

from qwen35cli.kernels import Kernels

from .attention import Attention
from .cache import Cache, DeltaCache, KVCache
from .config import LayerType, TextConfig
from .delta_net import DeltaNet
from .layers import MLP, Embedding, RMSNorm
from .rotary import Rotary


class Block(nn.Module):
    """A mixer and an MLP, each behind a norm and around a residual."""

    def __init__(
        self, config: TextConfig, kind: LayerType, kernels: Kernels, dtype: torch.dtype
    ) -> None:
        super().__init__()
        D, eps = config.hidden_size, config.rms_norm_eps
        self.input_layernorm = RMSNorm(D, eps, kernels, dtype)
        self.post_attention_layernorm = RMSNorm(D, eps, kernels, dtype)
        self.self_attn: Attention | None = None
        self.linear_attn: DeltaNet | None = None
        if kind == "full_attention":
            self.self_attn = Attention(config, kernels, dtype)
        else:
            self.linear_attn = DeltaNet(config, kernels, dtype)
        self.mlp = MLP(D, config.intermediate_size, kernels, dtype)

    def forward(
        self, x: Tensor, cos: Tensor, sin: Tensor, cache: KVCache | DeltaCache | None
    ) -> Tensor:
        """x: (B, T, D) -> (B, T, D)."""
        normed = self.input_layernorm(x)
        if self.self_attn is not None:
            assert not isinstance(cache, DeltaCache)
            x = x + self.self_attn(normed, cos, sin, cache)
        else:
            assert self.linear_attn is not None and not isinstance(cache, KVCache)
            x = x + self.linear_attn(normed, cache)
        return x + self.mlp(self.post_attention_layernorm(x))


class TextModel(nn.Module):
    """Embeddings, blocks and the final norm; the head belongs to the whole model."""

    def __init__(self, config: TextConfig, kernels: Kernels, dtype: torch.dtype) -> None:
        super().__init__()
        self.embed_tokens = Embedding(config.vocab_size, config.hidden_size, kernels, dtype)
        self.layers = nn.ModuleList(
            Block(config, kind, kernels, dtype) for kind in config.layer_types
        )
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps, kernels, dtype)
        self.rotary = Rotary(config.rotary)

    def forward(self, x: Tensor, positions: Tensor, cache: Cache | None = None) -> Tensor:
        """Hidden states after the final norm, which is also what the MTP layer reads.

        Args:
            x: (B, T, D) embeddings, with picture rows in place.
            positions: (3, B, T).
            cache: advanced by T tokens; None for a whole sequence at once.

        Returns:
            (B, T, D).
        """
        cos, sin = self.rotary(positions)
        memories = cache.layers if cache is not None else [None] * len(self.layers)
        for layer, memory in zip(self.layers, memories, strict=True):
            x = layer(x, cos, sin, memory)
        return self.norm(x)
