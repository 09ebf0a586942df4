"""The next token, chosen on the device: penalties, argmax or a draw from the likeliest few.

Two launches. The first finds the best logit of each of up to `GROUPS` groups, which the second
reduces where the temperature is 0. Where it is not, at least `top_k` logits are as good as the
`top_k`-th best of these, mostly hardly more: the programs of the second gather what reaches it, and
the last to arrive sorts and draws. Logits so crowded in a group that more than `ROOM` reach it are
searched again, slowly, one by one.

Logits are compared with their ids, as one number: of equals the lowest id comes first. The host
leaves the order of equals to `torch.topk`; its argmax takes the lowest as well. What is not a
number counts as infinite, and where the best is that, the host is told so instead of the token.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final

import torch
import triton
import triton.language as tl
from torch import Tensor

from qwen35cli.kernels.operands import Control, DrawOptions

from .kernel import Kernel
from .tiles import wait

KEEP: Final = 64  # candidates at most that a token is drawn from
GROUPS: Final = 128
ROOM: Final = 1_024  # candidates at most that are sorted
SEGMENT: Final = 32  # neighbours in a group: likely tokens are often neighbours, groups far apart


@dataclass(frozen=True, slots=True)
class SampleRoom:
    """What the launches of `draw` leave for each other. Made once."""

    rows: int  # of the head
    vocab_size: int  # ids from here on are never drawn
    peaks: Tensor  # (GROUPS,) int64 the best of each group
    found: Tensor  # (ROOM,) int64 candidates, in any order
    best: Tensor  # (KEEP,) int64 the likeliest, sorted
    counters: Tensor  # (2,) int32 candidates found, programs arrived; 0 between two draws


def sample_room(device: torch.device, rows: int, vocab_size: int) -> SampleRoom:
    """Room for draws from logits of so many rows."""
    assert 0 < vocab_size <= rows
    return SampleRoom(
        rows,
        vocab_size,
        peaks=torch.zeros(GROUPS, dtype=torch.int64, device=device),
        found=torch.zeros(ROOM, dtype=torch.int64, device=device),
        best=torch.zeros(KEEP, dtype=torch.int64, device=device),
        counters=torch.zeros(2, dtype=torch.int32, device=device),
    )


def servable(sampling: DrawOptions) -> bool:
    """Whether `draw` can choose so; else it is for `engine.sampling.Sampler`."""
    return sampling.temperature == 0 or 0 < sampling.top_k <= KEEP


def options_of(sampling: DrawOptions) -> Tensor:
    """(6,) float32, on the CPU, as `draw` reads them; the caller copies them to its device."""
    assert servable(sampling)
    return torch.tensor(
        [
            sampling.temperature,
            sampling.top_p,
            sampling.min_p,
            sampling.presence_penalty,
            sampling.repetition_penalty,
            min(sampling.top_k, KEEP),
        ],
        dtype=torch.float32,
    )


def draw(
    logits: Tensor,
    options: Tensor,
    seen: Tensor,
    uniforms: Tensor,
    control: Tensor,
    ids: Tensor,
    ring: Tensor,
    room: SampleRoom,
    tokens: int,
    *,
    overlap: bool = False,
) -> None:
    """See `reference.sample_step`. Allocates nothing, so that it can be captured.

    Args:
        overlap: start while the launch before ends (`tiles.wait`).
    """
    assert logits.shape == (room.rows,) and logits.dtype == torch.float32
    assert options.shape == (6,) and options.dtype == torch.float32
    assert seen.shape == (room.rows,) and seen.dtype == torch.uint8
    assert uniforms.dtype == torch.float32
    assert control.dtype == ring.dtype == torch.int32
    for each in (logits, options, seen, uniforms, control, ids, ring):
        assert each.is_contiguous()
    block = max(SEGMENT, triton.next_power_of_2(triton.cdiv(room.vocab_size, GROUPS)))
    grid = (triton.cdiv(room.vocab_size, block),)
    _peaks[grid](
        logits,
        options,
        seen,
        room.peaks,
        room.rows,
        room.vocab_size,
        grid[0],
        BLOCK=block,
        SEGMENT=SEGMENT,
        PDL=overlap,
        num_warps=8,
        launch_pdl=overlap,
    )
    _draw[grid](
        logits,
        options,
        seen,
        uniforms,
        control,
        ids,
        ring,
        room.peaks,
        room.found,
        room.best,
        room.counters,
        room.rows,
        room.vocab_size,
        grid[0],
        len(uniforms),
        len(ring),
        TOKENS=tokens,
        BLOCK=block,
        SEGMENT=SEGMENT,
        GROUPS=GROUPS,
        ROOM=ROOM,
        KEEP=KEEP,
        TILE=128,
        PDL=overlap,
        num_warps=4,  # a thread for each key of a tile, that counts the larger ones
        launch_pdl=overlap,
    )


class Draws:
    """See `operands.Drawing`: what `draw` reads and writes, for one model.

    Args:
        rows: of the head; ids from `vocab_size` on are never drawn.
        numbers, slots: how many uniforms and drawn tokens there is room for.
        overlap: start while the launch before ends.
    """

    def __init__(
        self,
        device: torch.device,
        rows: int,
        vocab_size: int,
        numbers: int,
        slots: int,
        *,
        overlap: bool = False,
    ) -> None:
        self.overlap = overlap
        self.room = sample_room(device, rows, vocab_size)
        self.options = torch.zeros(6, device=device)
        self.seen = torch.zeros(rows, dtype=torch.uint8, device=device)
        self.penalized = False
        self.uniforms = torch.zeros(numbers, device=device)
        cuda = device.type == "cuda"  # which writes into memory of the host: no copy in the graph
        self.ring = torch.zeros(slots, dtype=torch.int32, pin_memory=cuda)

    def serves(self, options: DrawOptions) -> bool:
        return servable(options)

    def begin(self, options: DrawOptions, seen: Collection[int] = ()) -> None:
        self.options.copy_(options_of(options))
        self.penalized = options.presence_penalty != 0 or options.repetition_penalty != 1
        self.seen.zero_()
        if seen:
            self.seen[torch.tensor([*seen], device=self.seen.device)] = 1

    def mark(self, tokens: Sequence[int], *, seen: bool) -> None:
        if tokens and self.penalized:  # else nobody looks
            self.seen[torch.tensor(tokens, device=self.seen.device)] = int(seen)

    def tensors(self) -> list[Tensor]:
        room = self.room
        passed = room.peaks, room.found, room.best, room.counters
        return [*passed, self.options, self.seen, self.uniforms]

    def __call__(self, logits: Tensor, control: Control, tokens: int) -> None:
        draw(
            logits, self.options, self.seen, self.uniforms, control.numbers, control.ids,
            self.ring, self.room, tokens, overlap=self.overlap,
        )  # fmt: skip


# A key is a logit and its id as one int64: the bits of the logit, made to compare as an integer,
# above 2**31 - 1 - id. No logit of a token has the lowest key.
NOTHING = tl.constexpr(-(2**63))
MOST = tl.constexpr(2**63 - 1)


@triton.jit
def key_of(value, place):
    """Of logits and their ids, or what else tells which comes first of equals."""
    bits = (value + 0.0).to(tl.int32, bitcast=True)  # -0.0 equals 0.0
    bits = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    return (bits.to(tl.int64) << 32) | (0x7FFFFFFF - place).to(tl.int64)


@triton.jit
def _value(key):
    bits = (key >> 32).to(tl.int32)
    return (bits ^ ((bits >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)


@triton.jit
def _finite(key):
    return tl.abs(_value(key)) < float("inf")


@triton.jit
def place_of(key):
    return 0x7FFFFFFF - (key & 0x7FFFFFFF).to(tl.int32)


@triton.jit
def _read(logits_ptr, seen_ptr, token, rows):
    """Logits of tokens and whether they were generated. Masked by the rows, not by the vocabulary:
    their number is a multiple of 16, so that 128 bits are read at once. For `.cg` see `tiles.wait`.
    """
    there = token < rows
    value = tl.load(logits_ptr + token, mask=there, other=0.0, cache_modifier=".cg")
    return value, tl.load(seen_ptr + token, mask=there, other=0, cache_modifier=".cg") != 0


@triton.jit
def _keys(value, seen, options_ptr, token, vocab_size):
    """Of the penalized logits of tokens; `NOTHING` where there is no such token."""
    presence = tl.load(options_ptr + 3)
    repetition = tl.load(options_ptr + 4)
    if (presence != 0) | (repetition != 1):
        less = tl.where(value > 0, tl.div_rn(value, repetition), value * repetition)
        value = tl.where(seen, less - presence, value)
    value = tl.where(value == value, value, float("inf"))
    return tl.where(token < vocab_size, key_of(value, token), NOTHING)


@triton.jit
def _group(programs, BLOCK: tl.constexpr, SEGMENT: tl.constexpr):
    """The (BLOCK,) ids of this program's group: every `programs`-th segment."""
    place = tl.arange(0, BLOCK)
    segment = place // SEGMENT * programs + tl.program_id(0)
    return segment * SEGMENT + place % SEGMENT


@Kernel
@triton.jit
def _peaks(
    logits_ptr,  # (rows,)
    options_ptr,
    seen_ptr,
    peaks_ptr,
    rows,
    vocab_size,
    programs,
    BLOCK: tl.constexpr,
    SEGMENT: tl.constexpr,
    PDL: tl.constexpr,
):
    token = _group(programs, BLOCK, SEGMENT)
    wait(PDL)
    value, seen = _read(logits_ptr, seen_ptr, token, rows)
    keys = _keys(value, seen, options_ptr, token, vocab_size)
    tl.store(peaks_ptr + tl.program_id(0), tl.max(keys, axis=0))


@Kernel
@triton.jit
def _draw(
    logits_ptr,
    options_ptr,
    seen_ptr,
    uniforms_ptr,
    control_ptr,
    ids_ptr,
    ring_ptr,
    peaks_ptr,
    found_ptr,
    best_ptr,
    counters_ptr,
    rows,
    vocab_size,
    programs,
    numbers,  # uniforms
    slots,  # of the ring
    TOKENS: tl.constexpr,
    BLOCK: tl.constexpr,
    SEGMENT: tl.constexpr,
    GROUPS: tl.constexpr,
    ROOM: tl.constexpr,
    KEEP: tl.constexpr,
    TILE: tl.constexpr,
    PDL: tl.constexpr,
):
    tl.static_assert(KEEP <= TILE and TILE <= ROOM)
    # All that can be read is read at once, and first: each look at memory takes its time. Of that
    # the peaks alone come from the launch before, which had waited for the logits.
    temperature = tl.load(options_ptr)
    top_p = tl.load(options_ptr + 1)
    min_p = tl.load(options_ptr + 2)
    top_k = tl.minimum(tl.load(options_ptr + 5).to(tl.int32), KEEP)
    start = tl.load(control_ptr, cache_modifier=".cg")  # see `tiles.wait`
    parity = tl.load(control_ptr + 3, cache_modifier=".cg")
    drawn = tl.load(control_ptr + 4, cache_modifier=".cg")
    token = _group(programs, BLOCK, SEGMENT)
    value, seen = _read(logits_ptr, seen_ptr, token, rows)
    wait(PDL)
    group = tl.arange(0, GROUPS)
    peaks = tl.load(peaks_ptr + group, mask=group < programs, other=NOTHING)
    best = tl.full((), NOTHING, dtype=tl.int64)
    chosen = tl.full((), -1, dtype=tl.int32)
    if temperature == 0:
        if tl.program_id(0) == 0:
            best = tl.max(peaks, axis=0)
            chosen = place_of(best)
    else:
        keys = _keys(value, seen, options_ptr, token, vocab_size)
        least = tl.min(tl.where(_larger(peaks, peaks) < top_k, peaks, MOST), axis=0)
        reaches = (keys >= least) & (keys != NOTHING)
        counter = counters_ptr + tl.full((BLOCK,), 0, dtype=tl.int32)
        slot = tl.atomic_add(counter, 1, mask=reaches, sem="relaxed", scope="gpu")
        tl.store(found_ptr + slot, keys, mask=reaches & (slot < ROOM))
        tl.debug_barrier()
        arrived = tl.atomic_add(counters_ptr + 1, 1, sem="acq_rel", scope="gpu")
        if arrived == programs - 1:
            count = tl.load(counters_ptr, cache_modifier=".cg")
            # Volatile, or it would wait for the count. All that others wrote is not read from L1.
            first = tl.load(found_ptr + tl.arange(0, TILE), volatile=True)
            uniform = tl.load(uniforms_ptr + drawn % numbers)
            kept = tl.minimum(top_k, count)
            if count <= ROOM:
                _sort(first, found_ptr, count, best_ptr, kept, TILE)
            else:
                _search(logits_ptr, seen_ptr, options_ptr, rows, vocab_size, best_ptr, kept, BLOCK)
            tl.debug_barrier()
            best = tl.load(best_ptr)
            chosen = place_of(best)
            if _finite(best):
                chosen = _pick(best_ptr, kept, temperature, top_p, min_p, uniform, KEEP)
            tl.store(counters_ptr, 0)
            tl.store(counters_ptr + 1, 0)
    if chosen >= 0:  # hand the token to the host and to the next step, and move on to that
        finite = _finite(best)
        tl.store(ids_ptr, chosen.to(ids_ptr.dtype.element_ty))
        tl.store(ring_ptr + drawn % slots, tl.where(finite, chosen, -1))
        tl.store(seen_ptr + chosen, tl.full((), 1, dtype=tl.uint8), mask=finite)
        tl.store(control_ptr, start + TOKENS)
        tl.store(control_ptr + 2, TOKENS)
        tl.store(control_ptr + 3, parity ^ 1)
        tl.store(control_ptr + 4, drawn + 1)


@triton.jit
def _larger(keys, than):
    """For each of `than`, how many of `keys` are larger."""
    return tl.sum((keys[:, None] > than[None, :]).to(tl.int32), axis=0)


@triton.jit
def _sort(first, found_ptr, count, best_ptr, kept, TILE: tl.constexpr):
    """Put the `kept` largest of `count` keys in falling order: each goes behind all larger ones."""
    tile = tl.arange(0, TILE)
    if count <= TILE:
        first = tl.where(tile < count, first, NOTHING)
        place = _larger(first, first)
        tl.store(best_ptr + place, first, mask=place < kept)
    else:
        for start in range(0, count, TILE):
            mine = _found(found_ptr, start + tile, count)
            place = tl.zeros((TILE,), dtype=tl.int32)
            for other in range(0, count, TILE):
                place += _larger(_found(found_ptr, other + tile, count), mine)
            tl.store(best_ptr + place, mine, mask=place < kept)


@triton.jit
def _found(found_ptr, place, count):
    return tl.load(found_ptr + place, mask=place < count, other=NOTHING, cache_modifier=".cg")


@triton.jit
def _search(
    logits_ptr, seen_ptr, options_ptr, rows, vocab_size, best_ptr, kept, BLOCK: tl.constexpr
):
    """The same from all logits, one key after the other."""
    last = tl.full((), MOST, dtype=tl.int64)
    for place in range(0, kept):
        best = tl.full((BLOCK,), NOTHING, dtype=tl.int64)
        for start in range(0, vocab_size, BLOCK):
            token = start + tl.arange(0, BLOCK)
            value, seen = _read(logits_ptr, seen_ptr, token, rows)
            keys = _keys(value, seen, options_ptr, token, vocab_size)
            best = tl.maximum(best, tl.where(keys < last, keys, NOTHING))
        last = tl.max(best, axis=0)
        tl.store(best_ptr + place, last)


@triton.jit
def _pick(best_ptr, kept, temperature, top_p, min_p, uniform, KEEP: tl.constexpr):
    """Draw from the `kept` sorted keys, step by step as `engine.sampling.Sampler` does."""
    place = tl.arange(0, KEEP)
    there = place < kept
    best = tl.load(best_ptr + place, mask=there, other=NOTHING)
    scaled = tl.div_rn(_value(best), temperature)
    highest = tl.div_rn(_value(tl.load(best_ptr)), temperature)
    mass = tl.where(there, tl.exp(scaled - highest), 0.0)
    total = tl.sum(mass, axis=0)
    share = tl.div_rn(mass, total)
    # Sums in float64, rounded: as torch accumulates on a CPU.
    before = tl.cumsum(share.to(tl.float64), axis=0).to(tl.float32) - share
    keep = there & (before < top_p) & (share >= min_p * tl.div_rn(1.0, total))
    weight = tl.cumsum(tl.where(keep, share, 0.0).to(tl.float64), axis=0).to(tl.float32)
    # The first is always kept: where nothing is, the index below comes out as 0.
    point = uniform * tl.max(weight, axis=0)
    index = tl.sum((there & (weight <= point)).to(tl.int32), axis=0)
    index = tl.minimum(index, tl.max(tl.where(keep, place, 0), axis=0))
    return place_of(tl.max(tl.where(place == index, best, NOTHING), axis=0))
