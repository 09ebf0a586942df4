"""The whole model: text decoder, vision tower, multi-token prediction, and the output head.

Attributes spell the checkpoint; `checkpoint/names.py` knows the prefixes.
"""

import torch
from torch import Tensor, nn

from qwen35cli.kernels import Kernels
from qwen35cli.kernels.operands import NoSteps, StepWeights, TokenStep

from .cache import Cache, DeltaCache, KVCache
from .config import Config
from .layers import Embedding, Linear
from .mtp import MTP
from .text import Block, TextModel
from .vision import VisionModel


class Qwen35(nn.Module):
    """A dense Qwen3.5. Build it under `torch.device("meta")` and fill it with `load_weights`.

    `visual` and `mtp` are None where the checkpoint has none; `lm_head` where it ties the head to
    the embedding. A_log and the delta norms are float32 in any case; all else has `dtype`.
    """

    def __init__(
        self, config: Config, kernels: Kernels, dtype: torch.dtype = torch.bfloat16
    ) -> None:
        super().__init__()
        self.config = config
        self.kernels = kernels
        text = config.text
        self.language_model = TextModel(text, kernels, dtype)
        self.visual = VisionModel(config.vision, kernels, dtype) if config.vision else None
        self.mtp = MTP(text, kernels, dtype) if text.mtp_num_hidden_layers else None
        self.lm_head = (
            None
            if config.tie_word_embeddings
            else Linear(text.hidden_size, text.vocab_size, kernels, dtype)
        )

    @property
    def device(self) -> torch.device:
        return self.language_model.norm.weight.device

    @property
    def activation_dtype(self) -> torch.dtype:
        """float32 on a CPU, where a sum costs the same in it; elsewhere that of the weights."""
        return torch.float32 if self.device.type == "cpu" else self.language_model.norm.weight.dtype

    def embed(self, ids: Tensor) -> Tensor:
        """(B, T) -> (B, T, D) in the activation dtype."""
        return self.language_model.embed_tokens(ids).to(self.activation_dtype)

    @property
    def head(self) -> Linear | Embedding:
        """The leaf that holds the output head."""
        return self.lm_head or self.language_model.embed_tokens

    def logits(self, hidden: Tensor) -> Tensor:
        """(..., D) normed hidden states -> (..., V) float32."""
        return self.kernels.linear(hidden, self.head.operand, None).float()

    def token_step(self, cache: Cache) -> TokenStep | NoSteps:
        """Decode steps with `cache`, where the backend has them for this model."""
        text = self.language_model
        rotary = text.rotary
        return self.kernels.token_step(
            StepWeights(
                text.embed_tokens.operand,
                text.with_memory(cache),
                text.norm.weight,
                text.norm.eps,
                self.head.operand,
                rotary.frequencies.to(self.device),
                rotary.magnitude,
            )
        )

    def make_cache(
        self,
        capacity: int,
        dtype: torch.dtype = torch.bfloat16,
        batch: int = 1,
        *,
        drafts: bool = False,
        undo: bool = False,
    ) -> Cache:
        """Empty memory for `capacity` tokens; `dtype` is that of keys and values.

        `undo` lets the last few tokens be taken back; `drafts` does, and adds the keys of the MTP
        layer.
        """
        text = self.config.text

        def keys() -> KVCache:
            return KVCache(batch, text.num_key_value_heads, capacity, text.head_dim, dtype)

        with self.device:
            layers: list[KVCache | DeltaCache] = []
            for layer in self.language_model.layers:
                assert isinstance(layer, Block)
                mixer = layer.linear_attn
                delta = mixer and mixer.make_cache(
                    batch, self.activation_dtype, undo=undo or drafts
                )
                layers.append(delta or keys())
            return Cache(layers, keys() if drafts and self.mtp is not None else None)
