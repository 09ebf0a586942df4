"""A model with its memory: reads prompts in chunks, then goes token by token."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from qwen35cli.errors import ContextFullError
from qwen35cli.images.preprocess import Patches
from qwen35cli.model.qwen35 import Qwen35
from qwen35cli.model.rotary import prompt_positions

PREFILL_CHUNK = 512  # tokens read at once: bounds the activations, whatever the prompt


@dataclass(frozen=True, slots=True)
class Prompt:
    """Ids with each image token repeated once per row of its picture, and the pictures in order."""

    ids: tuple[int, ...]
    images: tuple[Patches, ...] = ()


@dataclass(frozen=True, slots=True)
class Prefill:
    """A chunk of the prompt was read; `logits` (V,) float32 come with the last one only."""

    done: int
    total: int
    logits: Tensor | None = None


class Runner:
    """One sequence. Its memory is allocated when made, so that nothing grows while it talks.

    Closing `prefill` between chunks is safe: `length` says what was read.
    """

    def __init__(
        self,
        model: Qwen35,
        *,
        capacity: int,
        kv_dtype: torch.dtype = torch.bfloat16,
        chunk: int = PREFILL_CHUNK,
    ) -> None:
        self.model = model
        self.capacity = capacity
        self.chunk = chunk
        self.cache = model.make_cache(capacity, kv_dtype)

    @property
    def length(self) -> int:
        """Tokens in the caches."""
        return self.cache.length

    def reset(self) -> None:
        """Forget everything."""
        self.cache.reset()

    @torch.inference_mode()
    def prefill(self, prompt: Prompt) -> Iterator[Prefill]:
        """Read a prompt behind what is there, a chunk at a time; logits of the last token alone.

        Raises:
            ContextFullError: it does not fit; nothing was read.
            ValueError: an empty prompt, or pictures that do not match the image tokens.
        """
        total = len(prompt.ids)
        if not total:
            raise ValueError("an empty prompt")
        if self.length + total > self.capacity:
            over = self.length + total - self.capacity
            raise ContextFullError(
                f"the prompt has {self.length + total:,} tokens, the context {self.capacity:,}: "
                f"{over:,} too many, before any room to answer; nothing was cut",
                f"--ctx {self.length + total + 1024} makes room",
            )
        device, cache = self.model.device, self.cache
        merge = self.model.config.vision.spatial_merge_size if self.model.config.vision else 1
        positions, delta = prompt_positions(
            prompt.ids,
            self.model.config.image_token_id,
            [picture.grid for picture in prompt.images],
            merge,
        )
        positions = (positions + cache.length + cache.position_delta).to(device)
        rows = self._picture_rows(prompt.images)
        ids = torch.tensor(prompt.ids, device=device)[None]
        is_picture = ids[0] == self.model.config.image_token_id
        cache.position_delta += delta
        used = 0
        for start in range(0, total, self.chunk):
            stop = min(start + self.chunk, total)
            x = self.model.embed(ids[:, start:stop])
            if rows is not None:
                here = is_picture[start:stop]
                count = int(here.sum())
                x[0, here] = rows[used : used + count]
                used += count
            hidden = self.model.language_model(x, positions[..., start:stop], cache)
            last = self.model.logits(hidden[0, -1]) if stop == total else None
            yield Prefill(stop, total, last)

    def _picture_rows(self, images: Sequence[Patches]) -> Tensor | None:
        """What the vision tower makes of all pictures, one at a time: (rows, D)."""
        if not images:
            return None
        if self.model.visual is None:
            raise ValueError("pictures for a checkpoint without a vision tower")
        rows = [
            self.model.visual(
                picture.pixels.to(self.model.device, self.model.activation_dtype), [picture.grid]
            )
            for picture in images
        ]
        return torch.cat(rows)

    @torch.inference_mode()
    def step(self, token: int) -> Tensor:
        """Append one token; returns the logits of the next, (V,) float32."""
        position = self.length + self.cache.position_delta
        positions = torch.full((3, 1, 1), position, device=self.model.device)
        x = self.model.embed(torch.tensor([[token]], device=self.model.device))
        return self.model.logits(self.model.language_model(x, positions, self.cache)[0, -1])
