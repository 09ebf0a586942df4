"""The rows of the output head that drafts are picked from: a token outside is only never drafted.

Byte-pair tokens are numbered in the order of their merges, the most frequent pairs first, so the
first ids are the common ones: those of English and code. The control tokens come on top, what a
conversation has used, and of the rest each block of ids that it uses much of: those of another
script, say. `benchmarks.shortlist` measures how often the next token is among them.
"""

from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor

from qwen35cli.kernels import Kernels
from qwen35cli.kernels.operands import NF4, Candidates, Weight

from .sizes import COMMON, USED

BLOCK = 16_384  # ids that join together: a draft that reads as many rows costs 1 % of a token more
JOINS = 0.02  # share of the conversation's tokens from which a block pays
LEAVES = 0.01  # below which it leaves again: a GPU makes its graphs anew at each change
FEWEST = 8  # tokens of it, so that the first word decides nothing


class Shortlist:
    """The ids that can be drafted: below `common`, used ones, and blocks that are used much.

    `end`: ids from here on are left to others.
    """

    def __init__(self, common: int, end: int) -> None:
        self.common, self.end = common, end
        self.used: list[int] = []  # past the common ones, in the order they came
        self._known: set[int] = set()
        self._tokens = 0
        self._counts: dict[int, int] = {}  # tokens of each block past the common ones
        self._joined: set[int] = set()  # blocks

    def use(self, ids: Iterable[int]) -> None:
        """Count tokens of the conversation."""
        for token in ids:
            self._tokens += 1
            if not self.common <= token < self.end:
                continue
            block = (token - self.common) // BLOCK
            self._counts[block] = self._counts.get(block, 0) + 1
            if token not in self._known and len(self.used) < USED:
                self._known.add(token)
                self.used.append(token)
        for block, count in self._counts.items():
            if count >= max(FEWEST, JOINS * self._tokens):
                self._joined.add(block)
            elif count < LEAVES * self._tokens:
                self._joined.discard(block)

    def clear(self) -> None:
        """Forget the conversation."""
        self.used.clear()
        self._known.clear()
        self._counts.clear()
        self._joined.clear()
        self._tokens = 0

    @property
    def blocks(self) -> list[tuple[int, int]]:
        """First and last + 1 id of the blocks that joined."""
        starts = (self.common + BLOCK * block for block in sorted(self._joined))
        return [(start, min(start + BLOCK, self.end)) for start in starts]

    def __contains__(self, token: int) -> bool:
        return (
            token < self.common
            or token in self._known
            or any(first <= token < last for first, last in self.blocks)
        )


class DraftHead:
    """A shortlist of the head's rows, which a draft reads in place of all.

    Args:
        head: the matrix (V, D) in the layout of the file; one in nf4 is read as a whole.
        tokens: ids below have a token; from V down to here the head is padding.
        control: the first id of the control tokens, which end the vocabulary.
    """

    def __init__(
        self,
        kernels: Kernels,
        head: Weight,
        *,
        tokens: int,
        control: int,
        common: int = COMMON,
    ) -> None:
        self.kernels = kernels
        self._head = head
        common = min(common, control)
        if isinstance(head, NF4) or common == control:
            common = control = tokens
        self._shortlist = Shortlist(common, control)
        self._slices: dict[tuple[int, int], Candidates] = {}
        self._fixed = [(0, common)]
        if control < tokens:
            self._fixed.append((control, tokens))
        self._room = _room(head, USED) if common < control else None
        self._ids = torch.empty(USED, dtype=torch.int64)
        self._copied = 0
        self._used: Candidates | None = None

    def use(self, ids: Iterable[int]) -> None:
        """Let these ids be drafted too, as far as there is room."""
        self._shortlist.use(ids)
        used, copied = self._shortlist.used, self._copied
        if self._room is not None and len(used) > copied:
            _copy_rows(self._head, used[copied:], self._room, copied)
            self._ids[copied : len(used)] = torch.tensor(used[copied:])
            self._copied = len(used)
            rows = self.kernels.prepare(_slice(self._room, 0, len(used)))
            self._used = Candidates(rows, 0, self._ids[: len(used)])

    def clear(self) -> None:
        """Forget what the conversation used."""
        self._shortlist.clear()
        self._copied = 0
        self._used = None

    @property
    def candidates(self) -> list[Candidates]:
        """The rows of the shortlist, as it is now."""
        ranges = [*self._fixed, *self._shortlist.blocks]
        return [*map(self._rows, ranges), *([self._used] if self._used is not None else [])]

    def likeliest(self, hidden: Tensor) -> int:
        """The id with the highest logit for a hidden state (D,), among those of the shortlist."""
        candidates = self.candidates
        logits = self.kernels.project(hidden[None], tuple(each.rows for each in candidates))
        best = [values[0].argmax() for values in logits]
        highest = [float(values[0, at]) for values, at in zip(logits, best, strict=True)]
        part = max(range(len(best)), key=highest.__getitem__)
        row, ids = int(best[part]), candidates[part].ids
        return candidates[part].first + row if ids is None else int(ids[row])

    def _rows(self, ids: tuple[int, int]) -> Candidates:
        if ids not in self._slices:
            rows = self.kernels.prepare(_slice(self._head, *ids))
            self._slices[ids] = Candidates(rows, ids[0])
        return self._slices[ids]


def _slice(weight: Weight, first: int, last: int) -> Weight:
    """Rows of a matrix, without a copy."""
    if isinstance(weight, Tensor):
        return weight[first:last]
    if isinstance(weight, NF4):
        assert first == 0, "its blocks run on from row to row"
        return weight if last == weight.shape[0] else replace(weight, shape=(last, weight.shape[1]))
    shape = (last - first, weight.shape[1])
    return replace(
        weight, packed=weight.packed[first:last], scale=weight.scale[first:last], shape=shape
    )


def _room(weight: Weight, rows: int) -> Weight:
    """Memory for so many rows of a matrix; zeros, since a GPU multiplies with whole tiles of it."""
    if isinstance(weight, Tensor):
        return weight.new_zeros(rows, weight.shape[1])
    assert not isinstance(weight, NF4)
    packed = weight.packed.new_zeros(rows, weight.packed.shape[1])
    scale = weight.scale.new_zeros(rows, weight.scale.shape[1])
    return replace(weight, packed=packed, scale=scale, shape=(rows, weight.shape[1]))


def _copy_rows(weight: Weight, ids: list[int], room: Weight, first: int) -> None:
    """Rows `ids` of a matrix into its room, from row `first` on."""
    if isinstance(weight, Tensor):
        assert isinstance(room, Tensor)
        room[first : first + len(ids)] = weight[torch.tensor(ids, device=weight.device)]
        return
    assert not isinstance(weight, NF4) and not isinstance(room, Tensor | NF4)
    at = torch.tensor(ids, device=weight.packed.device)
    room.packed[first : first + len(ids)] = weight.packed[at]
    room.scale[first : first + len(ids)] = weight.scale[at]
