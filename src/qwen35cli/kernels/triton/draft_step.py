"""The beginning and the end of a draft by the MTP layer; between them stands a block of a step."""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from qwen35cli.kernels.operands import DraftWeights, Int8, Weight

from .embed_step import look_up, table_of, turn
from .kernel import Kernel
from .matvec import MAGIC, Launch, Stream, bits, fitted, parts_of
from .rounding import nearest
from .sample import NOTHING, key_of, place_of
from .tiles import TILE, reciprocal, tiles_product, wait

KEYS = 4_096  # that are compared at once


def join(
    ids: Tensor,
    hidden: Tensor,
    weights: DraftWeights,
    numbers: Tensor,
    out: Tensor,
    cos: Tensor,
    sin: Tensor,
    pairs: int,
    *,
    overlap: bool = False,
) -> None:
    """What `fc` takes of pairs, and the rotation of their positions.

    Twins: `reference.joined`, `reference.text_angles`.

    Args:
        ids: (P,) int64 or more.
        hidden: (P, D) or more: bf16 the target's states, after its norm; float32 the stream behind
            this layer, before `weights.norm`.
        numbers: int32; positions run from the first two together.
        out: (8, 2 D) bf16, written, and so cos and sin, (8, R) float32.
    """
    w = weights
    codes, scale = table_of(w.embedding)
    D, (R,) = codes.shape[1], w.frequencies.shape
    assert ids.dtype == torch.int64 and numbers.dtype == torch.int32
    assert hidden.shape[1] == D and out.shape[1] == 2 * D and cos.shape[1] == sin.shape[1] == R
    for each in (codes, hidden, w.embedding_norm, w.hidden_norm, w.norm, out, cos, sin):
        assert each.is_contiguous()
    columns = triton.next_power_of_2(D)
    _join[(pairs,)](
        ids,
        codes,
        scale,
        hidden,
        w.embedding_norm,
        w.hidden_norm,
        w.norm,
        w.frequencies,
        numbers,
        out,
        cos,
        sin,
        w.magnitude,
        w.eps,
        D=D,
        R=R,
        ANGLES=triton.next_power_of_2(R),
        EIGHT=isinstance(w.embedding, Int8),
        OWN=hidden.dtype == torch.float32,
        COLUMNS=columns,
        PDL=overlap,
        num_warps=min(max(columns // 512, 1), 8),
        launch_pdl=overlap,
    )


@dataclass(frozen=True, slots=True)
class Choices:
    """What a draft is picked from: tiles of the head, and behind them tiles of copied rows."""

    tiles: Tensor  # (n,) int32 where each lies in its matrix
    ids: Tensor  # (16 n,) int32 of their rows; -1: not to be picked
    best: Tensor  # (n,) int64 the best of each tile, written
    of_head: int  # tiles


def likeliest(
    stream: Stream,
    eps: float,
    head: Weight,
    copied: Weight,
    choices: Choices,
    ids: Tensor,
    numbers: Tensor,
    pairs: int,
    launch: Launch,
) -> None:
    """The id of the row with the highest logit for a token, of equals the first: two launches.

    Twin: the end of `reference.draft_loop`.

    Args:
        stream: from that token on.
        copied: rows as those of the head, with as many behind them as their last tile takes.
        ids: its first becomes the id.
        numbers: the first moves on by `pairs`.
    """
    K = head.shape[1]
    assert stream.scaled.shape[1] == K and copied.shape[1] == K
    assert bits(copied) == bits(head) and parts_of(copied)[2] == parts_of(head)[2]
    count = len(choices.tiles)
    assert choices.ids.shape == (TILE * count,) and choices.best.shape == (count,)
    launch = fitted(launch, (head,))
    _best_rows[(count,)](
        stream.scaled,
        stream.squares,
        *parts_of(head)[:2],
        *parts_of(copied)[:2],
        choices.tiles,
        choices.ids,
        choices.best,
        choices.of_head,
        *MAGIC,
        eps,
        K=K,
        BITS=bits(head),
        GROUP=parts_of(head)[2],
        NORMED=triton.next_power_of_2(K // TILE),
        **launch.options,
    )
    _pick[(1,)](
        choices.best,
        choices.ids,
        count,
        ids,
        numbers,
        pairs,
        KEYS=KEYS,
        PDL=launch.overlap,
        num_warps=8,
        launch_pdl=launch.overlap,
    )


@Kernel
@triton.jit(do_not_specialize_on_alignment=["ids_ptr"])
def _join(
    ids_ptr, weight_ptr, scale_ptr, hidden_ptr, embedding_norm_ptr, hidden_norm_ptr, norm_ptr,
    frequencies_ptr, numbers_ptr, out_ptr, cos_ptr, sin_ptr, magnitude, eps,
    D: tl.constexpr, R: tl.constexpr, ANGLES: tl.constexpr, EIGHT: tl.constexpr,
    OWN: tl.constexpr, COLUMNS: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    wait(PDL)
    pair = tl.program_id(0)
    columns = tl.arange(0, COLUMNS)
    there = columns < D
    token = tl.load(ids_ptr + pair)
    x = look_up(weight_ptr, scale_ptr, token, columns, D, EIGHT)
    x = nearest(x, tl.bfloat16).to(tl.float32)
    out_ptr += pair * (2 * D) + columns
    x = _normed(x, embedding_norm_ptr, eps, columns, D)
    tl.store(out_ptr, nearest(x, tl.bfloat16), mask=there)
    x = tl.load(hidden_ptr + pair * D + columns, mask=there, other=0.0).to(tl.float32)
    if OWN:
        x = nearest(_normed(x, norm_ptr, eps, columns, D), tl.bfloat16).to(tl.float32)
    x = _normed(x, hidden_norm_ptr, eps, columns, D)
    tl.store(out_ptr + D, nearest(x, tl.bfloat16), mask=there)
    position = tl.load(numbers_ptr) + tl.load(numbers_ptr + 1) + pair
    turn(position, frequencies_ptr, magnitude, cos_ptr, sin_ptr, pair, R, ANGLES)


@triton.jit
def _normed(x, weight_ptr, eps, columns, D: tl.constexpr):
    """A row of D, zero behind it, divided by its root mean square, times one and the weight."""
    weight = tl.load(weight_ptr + columns, mask=columns < D, other=0.0).to(tl.float32)
    return x * tl.rsqrt(tl.sum(x * x) / D + eps) * (1.0 + weight)


@Kernel
@triton.jit(do_not_specialize=["of_head"])
def _best_rows(
    x_ptr, squares_ptr, head_ptr, head_scale_ptr, copied_ptr, copied_scale_ptr,
    tiles_ptr, ids_ptr, best_ptr, of_head, magic, minus128, minus136, eps,
    K: tl.constexpr, BITS: tl.constexpr, GROUP: tl.constexpr, NORMED: tl.constexpr,
    S: tl.constexpr, AHEAD: tl.constexpr, EARLY: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0)
    rows = program * 16 + tl.arange(0, 16)
    ids = tl.load(ids_ptr + rows)
    if tl.max(ids) < 0:  # room for rows that are yet to come
        wait(PDL)
        tl.store(best_ptr + program, NOTHING)
    else:
        tile = tl.load(tiles_ptr + program).to(tl.int64)
        w_ptr, s_ptr = head_ptr, head_scale_ptr
        if program >= of_head:
            w_ptr, s_ptr = copied_ptr, copied_scale_ptr
        products, _, squares = tiles_product(
            x_ptr, w_ptr, s_ptr, tile, w_ptr, s_ptr, tile, magic, minus128, minus136,
            squares_ptr, eps, 0, squares_ptr,
            K, BITS, GROUP, 1, 1, S, AHEAD, EARLY, PDL, 1, NORMED, 0, 1, 1,
        )  # fmt: skip
        y = tl.sum(products, axis=0) * reciprocal(squares, eps, K, 1)[None, :]
        logits = tl.sum(tl.where((tl.arange(0, 8) == 0)[None, :], y, 0.0), axis=1)
        keys = tl.where(ids >= 0, key_of(logits, rows), NOTHING)
        tl.store(best_ptr + program, tl.max(keys))


@Kernel
@triton.jit(do_not_specialize=["count", "pairs"], do_not_specialize_on_alignment=["out_ptr"])
def _pick(
    best_ptr, ids_ptr, count, out_ptr, numbers_ptr, pairs, KEYS: tl.constexpr, PDL: tl.constexpr
):
    wait(PDL)
    keys = tl.full((KEYS,), NOTHING, dtype=tl.int64)
    for first in tl.range(0, count, KEYS):
        at = first + tl.arange(0, KEYS)
        keys = tl.maximum(keys, tl.load(best_ptr + at, mask=at < count, other=NOTHING))
    tl.store(out_ptr, tl.load(ids_ptr + place_of(tl.max(keys))).to(tl.int64))
    tl.store(numbers_ptr, tl.load(numbers_ptr) + pairs)
