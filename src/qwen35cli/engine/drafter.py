"""Drafts by the model's own MTP layer, whose keys follow the target's hidden states.

The layer pairs the hidden state of a token with the token after it, so it stays one pair behind:
the last state waits for the next token. Keys made from the layer's own states are dropped after a
draft, and made again from the target's for the tokens that are accepted. Source: vLLM
`qwen3_5_mtp`.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from qwen35cli.model.cache import KVCache
from qwen35cli.model.draft_head import DraftHead
from qwen35cli.model.mtp import MTP
from qwen35cli.model.qwen35 import Qwen35

BEHIND = 512  # pairs that may wait before their keys are made

# State (1, 1, D) and position (3, 1, 1) of the last token; None: nothing was read.
SavedDrafter = tuple[Tensor, Tensor] | None


@dataclass(frozen=True, slots=True)
class Pairs:
    """Tokens as the MTP layer takes them; all three belong to the same T tokens."""

    embeds: Tensor  # (1, T, D) of the token after each
    hidden: Tensor  # (1, T, D)
    positions: Tensor  # (3, 1, T)

    @classmethod
    def joined(cls, parts: list["Pairs"]) -> "Pairs":
        return cls(
            torch.cat([part.embeds for part in parts], dim=1),
            torch.cat([part.hidden for part in parts], dim=1),
            torch.cat([part.positions for part in parts], dim=2),
        )


class Drafter:
    """Guesses what comes next. `cache` is that of the MTP layer."""

    def __init__(self, model: Qwen35, cache: KVCache, head: DraftHead) -> None:
        assert model.mtp is not None
        self.model = model
        self.mtp: MTP = model.mtp
        self.cache = cache
        self.head = head
        self._behind: list[Pairs] = []  # whose keys are to be made
        self._last: SavedDrafter = None
        self._drafted = False  # the pair of the last token and the next has its keys

    def reset(self) -> None:
        """Forget everything; the cache is reset with the others."""
        self._behind.clear()
        self._last = None
        self._drafted = False
        self.head.clear()

    def snapshot(self) -> SavedDrafter:
        """What `restore` needs beside the cache, whose keys it completes."""
        self._catch_up()
        return None if self._last is None else (self._last[0].clone(), self._last[1].clone())

    def restore(self, saved: SavedDrafter) -> None:
        """Go back to `saved`; the cache goes back to its own snapshot."""
        self._behind.clear()
        self._last = saved
        self._drafted = False

    def read(self, ids: Iterable[int], x: Tensor, hidden: Tensor, positions: Tensor) -> None:
        """Follow the target over T tokens that stay.

        Args:
            ids: of the tokens.
            x: (1, T, D) their embeddings, picture rows in place.
            hidden: (1, T, D) the target's states after its final norm.
            positions: (3, 1, T).
        """
        self.head.use(ids)
        if self._last is not None and not self._drafted:
            state, position = self._last
            self._behind.append(Pairs(x[:, :1], state, position))
        if x.shape[1] > 1:
            self._behind.append(Pairs(x[:, 1:], hidden[:, :-1], positions[..., :-1]))
        self._last = hidden[:, -1:], positions[..., -1:]
        self._drafted = False
        if sum(pairs.embeds.shape[1] for pairs in self._behind) >= BEHIND:
            self._catch_up()

    def draft(self, token: int, count: int) -> list[int]:
        """The likeliest `count` tokens after `token`, which follows what was read."""
        assert self._last is not None and not self._drafted
        self._catch_up()
        length = self.cache.length
        (hidden, position), kept = self._last, length
        positions = position + torch.arange(count, device=position.device)
        loop = self.mtp.loop(self.cache, self.model.language_model.embed_tokens.operand)
        try:
            if loop is None:
                drafts = self._draft_by_draft(token, hidden, positions)
            else:
                self.cache.advance(count)
                angles = self.mtp.rotary(positions)
                drafts = loop(token, hidden, *angles, length, self.head.candidates)
            kept = length + 1  # the pair with `token` stays: its state is the target's
            self._drafted = True
        finally:
            self.cache.rollback(kept)
        return drafts

    def _draft_by_draft(self, token: int, hidden: Tensor, positions: Tensor) -> list[int]:
        drafts = [token]
        for position in torch.split(positions, 1, dim=-1):
            embeds = self.model.embed(torch.tensor([drafts[-1:]], device=hidden.device))
            hidden = self.mtp(embeds, hidden, position, self.cache)
            drafts.append(self.head.likeliest(hidden[0, 0]))
        return drafts[1:]

    def undo(self) -> None:
        """Forget the pair with the token that was drafted after: it was not read after all."""
        if self._drafted:
            self.cache.rollback(self.cache.length - 1)
            self._drafted = False

    def _catch_up(self) -> None:
        if self._behind:
            pairs = Pairs.joined(self._behind)
            self.mtp.remember(pairs.embeds, pairs.hidden, pairs.positions, self.cache)
            self._behind.clear()
