"""All drafts of a round by the MTP layer: nine launches each, in one graph.

The first draft comes with the pairs of the tokens that the last round kept, so that reading the
layer's weights once serves both. Nothing comes back to the host before the last draft is made.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from qwen35cli.kernels.capture import captured
from qwen35cli.kernels.operands import (
    DELTA,
    FEW,
    START,
    AttentionMixer,
    Candidates,
    DraftWeights,
    Int4,
    Int8,
    Weight,
)

from .draft_step import Choices, join, likeliest
from .embed_step import embeddable
from .launches import Launches
from .matvec import Stream, add, readable
from .step import Room, held, refused, run_block
from .tiles import TILE

NONE = torch.zeros(0, dtype=torch.int64, device="cpu")  # also if a meta model imports this


def draft_loop(weights: DraftWeights, launches: Launches) -> "TritonDrafts | None":
    """See `reference.draft_loop`. None where the kernels do not read a matrix."""
    w = weights
    if isinstance(w.head, Int4):  # laid out in tiles: no row of it can be copied
        return None
    if not embeddable(w.embedding) or not all(map(readable, (w.fc, w.head))) or refused(w.block):
        return None
    return TritonDrafts(weights, launches)


@dataclass(slots=True)
class Shortlist:
    """Candidates as the kernels take them, and the graphs that read these."""

    key: tuple[tuple[int, int], ...]  # first rows of the ranges, and how many
    choices: Choices
    copied: Weight
    filled: Tensor  # (n,) int64 ids of the copied rows that are there
    graphs: dict[tuple[int, int], Callable[[], None]] = field(default_factory=dict)


class TritonDrafts:
    """See `operands.DraftLoop`."""

    pairs = FEW

    def __init__(self, weights: DraftWeights, launches: Launches) -> None:
        self.weights, self.launches = weights, launches
        assert isinstance(weights.block.mixer, AttentionMixer)
        self.device, D = weights.norm.device, weights.fc.shape[0]
        with self.device:
            self.room = Room.of([weights.block], len(weights.frequencies), self.device)
            self.nothing = Stream.room(D, self.device)  # what the products of `fc` are added to
            self.hidden = torch.zeros(FEW, D, dtype=torch.bfloat16)
            self.joined = torch.zeros(FEW, 2 * D, dtype=torch.bfloat16)
            self.ids = torch.zeros(2 * FEW, dtype=torch.int64)  # of the pairs, then the drafts
            self.numbers = torch.zeros(DELTA + 1, dtype=torch.int32)
        self._shortlist: Shortlist | None = None

    def __call__(
        self,
        ids: Sequence[int],
        hidden: Tensor,
        position: int,
        start: int,
        count: int,
        candidates: Sequence[Candidates],
    ) -> list[int]:
        """See `DraftLoop`."""
        pairs = len(ids)
        assert 0 < pairs <= FEW and 0 < count <= FEW and hidden.shape[1] == pairs
        shortlist = self._listed(candidates)
        self.ids[:pairs].copy_(torch.tensor(ids), non_blocking=True)
        self.hidden[:pairs] = hidden[0]
        here = [0] * (DELTA + 1)
        here[START], here[DELTA] = start, position - start
        numbers = torch.tensor(here, dtype=torch.int32)
        if (pairs, count) not in shortlist.graphs:
            self.numbers.copy_(numbers)  # it runs once by itself
            graph = captured(lambda: self._run(pairs, count, shortlist), self.device)
            shortlist.graphs[pairs, count] = graph
        self.numbers.copy_(numbers, non_blocking=True)
        shortlist.graphs[pairs, count]()
        return self.ids[pairs : pairs + count].tolist()

    def tensors(self) -> list[Tensor]:
        """All memory on the device that drafts take beside weights, caches and shortlist."""
        own = self.hidden, self.joined, self.ids, self.numbers
        return [*held(self.room), *held(self.nothing), *own]

    def _run(self, pairs: int, count: int, shortlist: Shortlist) -> None:
        """Enqueue all of it; reads `ids`, `hidden` and `numbers`."""
        w, r, launches = self.weights, self.room, self.launches
        first, hidden, new = r.streams[0], self.hidden, pairs
        for draft in range(count):
            at = pairs + draft - new  # of the first id whose pair is new
            join(
                self.ids[at:], hidden, w, self.numbers, self.joined, r.cos, r.sin, new,
                overlap=launches.overlap,
            )  # fmt: skip
            launch = launches.find("add", w.fc)
            add(self.joined, w.fc, self.nothing, first, w.block.norm, r.pieces, new, launch)
            run_block(w.block, w.norm, r, self.numbers, new, launches)
            last = Stream(*(each[new - 1 :] for each in (first.x, first.scaled, first.squares)))
            likeliest(
                last, w.eps, w.head, shortlist.copied, shortlist.choices,
                self.ids[pairs + draft :], self.numbers, new, launches.find("head", w.head),
            )  # fmt: skip
            hidden, new = last.x, 1

    def _listed(self, candidates: Sequence[Candidates]) -> Shortlist:
        """The candidates, as they were or anew. Copied rows have room behind them for more."""
        ranges = [each for each in candidates if each.ids is None]
        copied = next((each for each in candidates if each.ids is not None), None)
        key = tuple((each.first, each.rows.shape[0]) for each in ranges)
        listed = self._shortlist
        moved = copied is not None and (
            listed is None or not same_place(listed.copied, copied.rows)
        )
        if listed is None or listed.key != key or moved:
            listed = self._shortlist = self._made(key, ranges, copied)
        ids = NONE if copied is None or copied.ids is None else copied.ids
        if not torch.equal(ids, listed.filled):
            room = listed.choices.ids[TILE * listed.choices.of_head :]
            room.fill_(-1)
            room[: len(ids)] = ids
            listed.filled = ids.clone()
        return listed

    def _made(
        self,
        key: tuple[tuple[int, int], ...],
        ranges: Sequence[Candidates],
        copied: Candidates | None,
    ) -> Shortlist:
        tiles: list[Tensor] = []
        ids: list[Tensor] = []
        for each in ranges:
            first, stop = each.first, each.first + each.rows.shape[0]
            tiles.append(torch.arange(first // TILE, -(-stop // TILE)))
            rows = (TILE * tiles[-1][:, None] + torch.arange(TILE)).flatten()
            ids.append(rows.where((rows >= first) & (rows < stop), -1))
        of_head = sum(map(len, tiles))
        if copied is not None:
            room = _room_behind(copied.rows) // TILE
            tiles.append(torch.arange(room))
            ids.append(torch.full((room * TILE,), -1))
        count = sum(map(len, tiles))
        choices = Choices(
            torch.cat(tiles).to(self.device, torch.int32),
            torch.cat(ids).to(self.device, torch.int32),
            torch.zeros(count, dtype=torch.int64, device=self.device),
            of_head,
        )
        return Shortlist(key, choices, self.weights.head if copied is None else copied.rows, NONE)


def same_place(one: Weight, other: Weight) -> bool:
    """Whether rows begin where others do."""
    return _codes(one).data_ptr() == _codes(other).data_ptr()


def _room_behind(rows: Weight) -> int:
    """Rows from the first of these on that their memory has room for: whole tiles of them."""
    codes = _codes(rows)
    size = codes.untyped_storage().nbytes() // codes.itemsize - codes.storage_offset()
    return size // codes.stride(0) // TILE * TILE


def _codes(rows: Weight) -> Tensor:
    assert isinstance(rows, Tensor | Int8)
    return rows if isinstance(rows, Tensor) else rows.packed
