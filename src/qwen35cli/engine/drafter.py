"""Drafts by the model's own MTP layer, whose keys follow the target's hidden states.

The layer pairs the hidden state of a token with the token after it, so it stays one pair behind:
the last state waits for the next token. Keys made from the layer's own states are dropped after a
draft, and made again from the target's for the tokens that are accepted. Source: vLLM
`qwen3_5_mtp`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from qwen35cli.kernels.operands import DraftLoop
from qwen35cli.model.cache import KVCache
from qwen35cli.model.draft_head import DraftHead
from qwen35cli.model.mtp import MTP
from qwen35cli.model.qwen35 import Qwen35

BEHIND = 512  # pairs that may wait before their keys are made

# State (1, 1, D), and position (3, 1, 1) on the CPU, of the last token; None: nothing was read.
SavedDrafter = tuple[Tensor, Tensor] | None


@dataclass(frozen=True, slots=True)
class Pairs:
    """Tokens as the MTP layer takes them; all of it belongs to the same T tokens."""

    ids: tuple[int, ...]  # of the token after each
    embeds: Tensor | None  # (1, T, D) of these, picture rows in place; None: all are text
    hidden: Tensor  # (1, T, D)
    positions: Tensor  # (3, 1, T), on the CPU


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

    def read(self, ids: Sequence[int], x: Tensor | None, hidden: Tensor, positions: Tensor) -> None:
        """Follow the target over T tokens that stay.

        Args:
            ids: of the tokens.
            x: (1, T, D) their embeddings, picture rows in place; None: all are text.
            hidden: (1, T, D) the target's states after its final norm.
            positions: (3, 1, T), on the CPU.
        """
        self.head.use(ids)
        if self._last is not None and not self._drafted:
            first = None if x is None else x[:, :1]
            self._behind.append(Pairs((ids[0],), first, *self._last))
        if len(ids) > 1:
            rest = None if x is None else x[:, 1:]
            pairs = Pairs(tuple(ids[1:]), rest, hidden[:, :-1], positions[..., :-1])
            self._behind.append(pairs)
        self._last = hidden[:, -1:], positions[..., -1:]
        self._drafted = False
        if sum(len(pairs.ids) for pairs in self._behind) >= BEHIND:
            self._catch_up()

    def draft(self, token: int, count: int) -> list[int]:
        """The likeliest `count` tokens after `token`, which follows what was read."""
        assert self._last is not None and not self._drafted
        loop = self._loop
        most = 0 if loop is None else min(loop.pairs, count + 1)  # as a round leaves behind
        row = self._row(token, most)
        if row is None:
            self._catch_up()
            row = self._row(token, most)
        length = kept = self.cache.length
        try:
            if loop is None or row is None:
                drafts, made = self._draft_by_draft(token, count), 1
            else:
                drafts, made = self._draft_at_once(loop, row, count), len(row.ids)
            kept = length + made  # the pair with `token` stays: its state is the target's
            self._behind.clear()
            self._drafted = True
        finally:
            self.cache.rollback(kept)
        return drafts

    @property
    def _loop(self) -> DraftLoop | None:
        embedding = self.model.language_model.embed_tokens.operand
        return self.mtp.loop(self.cache, embedding, self.model.head.operand)

    def _row(self, token: int, most: int) -> Pairs | None:
        """The pairs whose keys are to be made, up to that with `token`; None where they are more
        than `most`, or not text in a row."""
        assert self._last is not None
        parts = [*self._behind, Pairs((token,), None, *self._last)]
        if sum(len(part.ids) for part in parts) > most:
            return None
        if any(part.embeds is not None for part in parts):
            return None
        pairs = self._joined(parts)
        row = pairs.positions[0, 0, 0] + torch.arange(len(pairs.ids))
        return pairs if bool((pairs.positions == row).all()) else None

    def _draft_at_once(self, loop: DraftLoop, row: Pairs, count: int) -> list[int]:
        start, position = self.cache.length, int(row.positions[0, 0, 0])
        self.cache.advance(len(row.ids) - 1 + count)
        return loop(row.ids, row.hidden, position, start, count, self.head.candidates)

    def _draft_by_draft(self, token: int, count: int) -> list[int]:
        assert self._last is not None
        hidden, position = self._last
        drafts = [token]
        for ahead in range(count):
            embeds = self.model.embed(torch.tensor([drafts[-1:]], device=hidden.device))
            hidden = self.mtp(embeds, hidden, (position + ahead).to(hidden.device), self.cache)
            drafts.append(self.head.likeliest(hidden[0, 0]))
        return drafts[1:]

    def undo(self) -> None:
        """Forget the pair with the token that was drafted after: it was not read after all."""
        if self._drafted:
            self.cache.rollback(self.cache.length - 1)
            self._drafted = False

    def _catch_up(self) -> None:
        if self._behind:
            pairs = self._joined(self._behind)
            embeds = self._embeds(pairs)
            positions = pairs.positions.to(embeds.device)
            self.mtp.remember(embeds, pairs.hidden, positions, self.cache)
            self._behind.clear()

    def _joined(self, parts: Sequence[Pairs]) -> Pairs:
        """One after the other."""
        if len(parts) == 1:
            return parts[0]
        text = all(part.embeds is None for part in parts)
        return Pairs(
            tuple(token for part in parts for token in part.ids),
            None if text else torch.cat([self._embeds(part) for part in parts], dim=1),
            torch.cat([part.hidden for part in parts], dim=1),
            torch.cat([part.positions for part in parts], dim=2),
        )

    def _embeds(self, pairs: Pairs) -> Tensor:
        if pairs.embeds is not None:
            return pairs.embeds
        return self.model.embed(torch.tensor([pairs.ids], device=pairs.hidden.device))
