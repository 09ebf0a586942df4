"""Multi-token prediction: one more attention layer that guesses the token after the next.

Source: vLLM `qwen3_5_mtp`, llama.cpp #24025: embedding first, hidden state after the final norm.
"""

from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from qwen35cli.kernels import Kernels
from qwen35cli.kernels.operands import DraftLoop, DraftWeights, Weight

from .cache import KVCache
from .config import TextConfig
from .layers import Linear, RMSNorm
from .rotary import Rotary
from .text import Block


class MTP(nn.Module):
    """Drafts with the model's own embedding and head; its keys and values live in `Cache.mtp`."""

    def __init__(self, config: TextConfig, kernels: Kernels, dtype: torch.dtype) -> None:
        super().__init__()
        D, eps = config.hidden_size, config.rms_norm_eps
        self.fc = Linear(2 * D, D, kernels, dtype)
        self.pre_fc_norm_embedding = RMSNorm(D, eps, kernels, dtype)
        self.pre_fc_norm_hidden = RMSNorm(D, eps, kernels, dtype)
        self.layers = nn.ModuleList(
            Block(config, "full_attention", kernels, dtype)
            for _ in range(config.mtp_num_hidden_layers)
        )
        self.norm = RMSNorm(D, eps, kernels, dtype)
        self.rotary = Rotary(config.rotary)
        self.kernels = kernels
        self._loops: WeakKeyDictionary[KVCache, DraftLoop | None] = WeakKeyDictionary()

    def forward(
        self, embeds: Tensor, hidden: Tensor, positions: Tensor, cache: KVCache | None = None
    ) -> Tensor:
        """States whose logits, through the shared head, are those of token i + 2.

        Args:
            embeds: (B, T, D) embeddings of tokens i + 1 (picture rows where those are pads).
            hidden: (B, T, D) normed hidden states of tokens i: the target's, or this layer's own
                output when it drafts on.
            positions: (3, B, T) of tokens i.
            cache: advanced by T tokens.

        Returns:
            (B, T, D), after `mtp.norm`.
        """
        x, turned = self._joined(embeds, hidden), self.rotary(positions)
        for layer in self.layers:
            x = layer(x, *turned, cache)
        return self.norm(x)

    def remember(self, embeds: Tensor, hidden: Tensor, positions: Tensor, cache: KVCache) -> None:
        """Fill the cache as `forward` does, for tokens after which nothing is drafted."""
        (layer,) = self.layers
        assert isinstance(layer, Block) and layer.self_attn is not None
        x = layer.input_layernorm(self._joined(embeds, hidden))
        layer.self_attn.remember(x, *self.rotary(positions), cache)

    def _joined(self, embeds: Tensor, hidden: Tensor) -> Tensor:
        parts = self.pre_fc_norm_embedding(embeds), self.pre_fc_norm_hidden(hidden)
        return self.fc(torch.cat(parts, dim=-1))

    def loop(self, cache: KVCache, embedding: Weight, head: Weight) -> DraftLoop | None:
        """All drafts of a round in one call, where the backend has that; once for each cache."""
        if cache not in self._loops:
            (layer,) = self.layers
            assert isinstance(layer, Block)
            weights = DraftWeights(
                embedding=embedding,
                embedding_norm=self.pre_fc_norm_embedding.weight,
                hidden_norm=self.pre_fc_norm_hidden.weight,
                fc=self.fc.operand,
                block=layer.with_memory(cache),
                norm=self.norm.weight,
                eps=self.norm.eps,
                head=head,
                frequencies=self.rotary.frequencies.to(self.norm.weight.device),
                magnitude=self.rotary.magnitude,
            )
            self._loops[cache] = self.kernels.draft_loop(weights)
        return self._loops[cache]
