"""The text decoder: three delta layers, then one of attention, again and again."""

from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from qwen35cli.kernels import Kernels
from qwen35cli.kernels.operands import FEW, AttentionMixer, BlockWeights, DeltaMixer, Stack

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

    def with_memory(self, cache: KVCache | DeltaCache) -> BlockWeights:
        """The block for `Kernels.stack`."""
        if self.self_attn is not None:
            assert not isinstance(cache, DeltaCache)
            mixer: DeltaMixer | AttentionMixer = self.self_attn.with_memory(cache)
        else:
            assert self.linear_attn is not None and not isinstance(cache, KVCache)
            mixer = self.linear_attn.with_memory(cache)
        return BlockWeights(
            self.input_layernorm.weight,
            self.post_attention_layernorm.weight,
            self.input_layernorm.eps,
            mixer,
            self.mlp.gate_proj.operand,
            self.mlp.up_proj.operand,
            self.mlp.down_proj.operand,
        )

    def forward(
        self,
        x: Tensor,
        cos: Tensor,
        sin: Tensor,
        cache: KVCache | DeltaCache | None,
        *,
        undo: bool = True,
    ) -> Tensor:
        """x: (B, T, D) -> (B, T, D). `undo`: see `DeltaCache.advance`."""
        normed = self.input_layernorm(x)
        if self.self_attn is not None:
            assert not isinstance(cache, DeltaCache)
            x = x + self.self_attn(normed, cos, sin, cache)
        else:
            assert self.linear_attn is not None and not isinstance(cache, KVCache)
            x = x + self.linear_attn(normed, cache, undo=undo)
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
        self.kernels = kernels
        self._stacks: WeakKeyDictionary[Cache, Stack | None] = WeakKeyDictionary()

    def forward(
        self, x: Tensor, positions: Tensor, cache: Cache | None = None, *, undo: bool = True
    ) -> Tensor:
        """Hidden states after the final norm, which is also what the MTP layer reads.

        Args:
            x: (B, T, D) embeddings, with picture rows in place.
            positions: (3, B, T).
            cache: advanced by T tokens; None for a whole sequence at once.
            undo: whether they may be taken back, where the cache can do that.

        Returns:
            (B, T, D).
        """
        cos, sin = self.rotary(positions)
        if cache is not None and x.shape[1] <= FEW and (stack := self._stack(cache)) is not None:
            start = cache.length
            replays = cache.advance(x.shape[1], undo=undo)
            return self.norm(stack(x, cos, sin, start, replays))
        memories = cache.layers if cache is not None else [None] * len(self.layers)
        for layer, memory in zip(self.layers, memories, strict=True):
            x = layer(x, cos, sin, memory, undo=undo)
        return self.norm(x)

    def _stack(self, cache: Cache) -> Stack | None:
        """All blocks in one call, where the backend has that; made once for each cache."""
        if cache not in self._stacks:
            self._stacks[cache] = self.kernels.stack(self.with_memory(cache))
        return self._stacks[cache]

    def with_memory(self, cache: Cache) -> tuple[BlockWeights, ...]:
        """All blocks, for ops that go through them at once."""
        blocks = []
        for layer, memory in zip(self.layers, cache.layers, strict=True):
            assert isinstance(layer, Block)
            blocks.append(layer.with_memory(memory))
        return tuple(blocks)
