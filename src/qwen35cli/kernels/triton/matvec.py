"""Products of a decode step with all that stands around them, a launch for each.

Between the launches the residual stream x is float32. Whoever completes it also leaves what the
next norm needs: `scaled`, x times (1 + weight) in bfloat16, and the sums of squares of each tile of
16 channels. The products then take `scaled` and multiply their sums by one over the root mean
square at the end: no launch and no pass for a norm.

Every buffer has room for `FEW` tokens, (8, width), contiguous; rows past T are neither read nor
written, but for the sums of squares.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import torch
import triton
import triton.language as tl
from torch import Tensor

from qwen35cli.kernels.operands import FEW, Int4, Int8, Weight

from .kernel import Kernel
from .tiles import TILE, is_tiled, norm_squares, reciprocal, tileable, tiles_product, wait

# Two bfloat16 in an int32 each: 128, -128, -136; as arguments in registers, see `tiles.nibbles`.
MAGIC: Final = (0x4300_4300, -1_023_360_256, -1_022_835_960)


MOST_SPLIT: Final = 12


@dataclass(frozen=True, slots=True)
class Launch:
    """How a product is launched."""

    warps: int  # that share the inputs of a tile
    ahead: int  # blocks of weights that a warp has on their way at once
    tiles: int = 1  # of a program
    split: int = 1  # programs that share the inputs of a tile; the last of them adds up
    early: int = 0  # blocks more that come into the L2 cache while the launch before still runs
    overlap: bool = False  # with the launch before, by programmatic dependent launch

    @property
    def numbers(self) -> list[int]:
        """As a file of launches has them."""
        return [self.warps, self.ahead, self.tiles, self.split, self.early]

    @property
    def options(self) -> dict[str, int]:
        """What every kernel is told of it; tiles and split are not for all."""
        return {
            "S": self.warps,
            "AHEAD": self.ahead,
            "EARLY": self.early if self.overlap else 0,
            "PDL": self.overlap,
            "num_warps": self.warps,
            "num_stages": 1,
            "launch_pdl": self.overlap,
        }


@dataclass(frozen=True, slots=True)
class Stream:
    """The residual stream between two launches."""

    x: Tensor  # (8, D) float32
    scaled: Tensor  # (8, D) bf16: x times the factor of the norm that comes next
    squares: Tensor  # (8, D / 16) float32: sums of squares of x over tiles

    @classmethod
    def room(cls, width: int, device: torch.device) -> "Stream":
        x = torch.zeros(FEW, width, device=device)
        return cls(x, x.bfloat16(), torch.zeros(FEW, width // TILE, device=device))


@dataclass(frozen=True, slots=True)
class HeadSquares:
    """Sums of squares that an input still has to be normed by, head by head of `width` channels."""

    parts: Tensor  # (8, H, parts of a head) float32
    width: int
    eps: float


@dataclass(frozen=True, slots=True)
class Pieces:
    """Where programs leave their piece of a tile for the last of them, launch after launch."""

    sums: Tensor  # (D / 16, MOST_SPLIT, 16, 8) float32
    counters: Tensor  # (D / 16,) int32, zero between launches

    @classmethod
    def room(cls, width: int, device: torch.device) -> "Pieces":
        tiles = width // TILE
        sums = torch.empty(tiles, MOST_SPLIT, TILE, FEW, device=device)
        return cls(sums, torch.zeros(tiles, dtype=torch.int32, device=device))


@dataclass(frozen=True, slots=True)
class Convolution:
    """What a DeltaNet layer does to the first projection, and where it keeps it."""

    weight: Tensor  # (C, 1, 4)
    rows: Tensor  # (1, 3, C)
    logs: Tensor  # (2, FEW, C): inputs of both logs
    mixed: Tensor  # (8, C) float32, written
    control: Tensor


@dataclass(frozen=True, slots=True)
class Gates:
    """The two scalar projections of a DeltaNet layer."""

    a: Tensor  # (H, D) bf16
    b: Tensor
    out: Tensor  # (8, 2 H) float32, written: a, then b


def bits(weight: Weight) -> int:
    """Of a weight as the kernels read it."""
    return 4 if isinstance(weight, Int4) else 8 if isinstance(weight, Int8) else 16


def readable(weight: Weight) -> bool:
    """Whether these kernels take the matrix: whole tiles, contiguous, int4 in tiles."""
    if isinstance(weight, Int4):
        return is_tiled(weight)
    if isinstance(weight, Int8):
        return tileable(weight.shape)
    return (
        isinstance(weight, Tensor)
        and weight.dtype == torch.bfloat16
        and tileable((weight.shape[0], weight.shape[1]))
    )


def fitted(launch: Launch, weights: tuple[Weight, ...]) -> Launch:
    """`launch` with no more warps, blocks and tiles than the matrices can be split by evenly."""
    return fit(launch, bits(weights[0]), [weight.shape for weight in weights])


def fit(launch: Launch, bits: int, shapes: Sequence[Sequence[int]]) -> Launch:
    """The same for matrices (N, K) of so many bits."""
    blocks = shapes[0][1] // {4: 128, 8: 64, 16: 32}[bits]
    split, warps, ahead, tiles = launch.split, launch.warps, launch.ahead, launch.tiles
    while blocks % split:
        split -= 1
    while blocks // split % warps:
        warps //= 2
    while blocks // split // warps % ahead:
        ahead -= 1
    if any(shape[0] // TILE % tiles for shape in shapes):
        tiles = 1
    early = min(launch.early, blocks // split // warps - ahead)
    return replace(launch, warps=warps, ahead=ahead, tiles=tiles, split=split, early=early)


def parts_of(weight: Weight) -> tuple[Tensor, Tensor, int]:
    """Codes and scales as the kernels take them (of a plain matrix: itself), and the group."""
    if isinstance(weight, Int8):
        return weight.packed, weight.scale, 0
    if isinstance(weight, Int4):
        pairs = weight.scale.shape[-1] == 2
        scale = weight.scale.view(torch.int32) if pairs else weight.scale
        return weight.packed, scale, weight.group
    assert isinstance(weight, Tensor)
    return weight, weight, 0


def project(
    stream: Stream,
    eps: float,
    weights: tuple[Weight, ...],
    out: Tensor,
    tokens: int,
    launch: Launch,
    *,
    convolution: Convolution | None = None,
    gates: Gates | None = None,
) -> None:
    """Products of the normed stream with one to three matrices of one kind, side by side in `out`.

    Args:
        out: (8, sum of N), bf16 or float32. With a `convolution` the first matrix goes through that
            instead, and `out` has the others alone.
    """
    K = stream.x.shape[1]
    assert all(readable(weight) and weight.shape[1] == K for weight in weights)
    (kind,) = {(bits(weight), parts_of(weight)[2]) for weight in weights}
    operands = [parts_of(weight)[:2] for weight in weights]
    operands += [operands[-1]] * (3 - len(operands))
    tiles = [weight.shape[0] // TILE for weight in weights] + [0] * (3 - len(weights))
    gate_tiles = 0
    if gates is not None:
        assert gates.a.is_contiguous() and gates.b.is_contiguous()
        assert gates.a.dtype == gates.b.dtype == torch.bfloat16
        gate_tiles = 2 * triton.cdiv(gates.a.shape[0], 8)
    apart = tiles[0] if convolution is not None else 0
    assert out.shape[1] == TILE * (sum(tiles) - apart) and out.is_contiguous()
    assert len(out) >= tokens
    launch = fitted(launch, weights)
    nothing = out
    conv = convolution
    _project[(gate_tiles + sum(tiles) // launch.tiles,)](
        stream.scaled,
        stream.squares,
        out,
        *(tensor for operand in operands for tensor in operand),
        nothing if gates is None else gates.a,
        nothing if gates is None else gates.b,
        nothing if gates is None else gates.out,
        nothing if conv is None else conv.weight,
        nothing if conv is None else conv.rows,
        nothing if conv is None else conv.logs,
        nothing if conv is None else conv.mixed,
        nothing if conv is None else conv.control,
        *MAGIC,
        eps,
        FIRST=tiles[0],
        SECOND=tiles[1],
        ALL=sum(tiles),
        K=K,
        BITS=kind[0],
        GROUP=kind[1],
        TILES=launch.tiles,
        GATES=gate_tiles,
        HEADS=0 if gates is None else gates.a.shape[0],
        CONVOLVE=conv is not None,
        T=tokens,
        NORMED=triton.next_power_of_2(K // TILE),
        **launch.options,
    )


def swiglu(
    stream: Stream,
    eps: float,
    gate: Weight,
    up: Weight,
    out: Tensor,
    tokens: int,
    launch: Launch,
) -> None:
    """`silu` of one product of the normed stream times the other. out: (8, N) bf16."""
    N, K = gate.shape
    assert readable(gate) and readable(up) and out.shape == (FEW, N) and out.is_contiguous()
    assert gate.shape == up.shape and bits(gate) == bits(up) and K == stream.x.shape[1]
    (codes, scale, group), (other, other_scale, other_group) = parts_of(gate), parts_of(up)
    assert group == other_group
    launch = fitted(launch, (gate,))
    _swiglu[(N // TILE,)](
        stream.scaled,
        stream.squares,
        out,
        codes,
        scale,
        other,
        other_scale,
        *MAGIC,
        eps,
        N=N,
        K=K,
        BITS=bits(gate),
        GROUP=group,
        T=tokens,
        NORMED=triton.next_power_of_2(K // TILE),
        **launch.options,
    )


def add(
    x: Tensor,
    weight: Weight,
    before: Stream,
    after: Stream,
    norm: Tensor,
    pieces: Pieces,
    tokens: int,
    launch: Launch,
    *,
    heads: HeadSquares | None = None,
) -> None:
    """`after.x = before.x + product`, and what the norm that comes next needs of it.

    Args:
        x: (8, K) bf16; with `heads` still to be divided by the root mean square of each head.
        before, after: two different ones.
        norm: (D,) the next norm's weight, as an offset from one.
    """
    N, K = weight.shape
    assert readable(weight) and x.shape == (FEW, K) and x.dtype == torch.bfloat16
    assert before.x.data_ptr() != after.x.data_ptr() and before.x.shape[1] == N
    codes, scale, group = parts_of(weight)
    launch = fitted(launch, (weight,))
    assert heads is None or heads.width % (64 if bits(weight) == 8 else 32) == 0
    _add[(N // TILE // launch.tiles, launch.split)](
        x,
        x if heads is None else heads.parts,
        codes,
        scale,
        pieces.sums,
        pieces.counters,
        before.x,
        after.x,
        after.scaled,
        after.squares,
        norm,
        *MAGIC,
        0.0 if heads is None else heads.eps,
        N=N,
        K=K,
        BITS=bits(weight),
        GROUP=group,
        TILES=launch.tiles,
        T=tokens,
        SPLIT=launch.split,
        HEADS=0 if heads is None else heads.parts.shape[1],
        WIDTH=1 if heads is None else heads.width,
        PARTS=1 if heads is None else heads.parts.shape[2],
        **launch.options,
    )


@Kernel
@triton.jit
def _project(
    x_ptr, squares_ptr, out_ptr,
    w0_ptr, s0_ptr, w1_ptr, s1_ptr, w2_ptr, s2_ptr,
    a_ptr, b_ptr, gates_ptr,
    conv_ptr, rows_ptr, logs_ptr, mixed_ptr, control_ptr,
    magic, minus128, minus136, eps,
    FIRST: tl.constexpr, SECOND: tl.constexpr, ALL: tl.constexpr,
    K: tl.constexpr, BITS: tl.constexpr, GROUP: tl.constexpr, TILES: tl.constexpr,
    GATES: tl.constexpr, HEADS: tl.constexpr, CONVOLVE: tl.constexpr,
    T: tl.constexpr, S: tl.constexpr, AHEAD: tl.constexpr, EARLY: tl.constexpr,
    PDL: tl.constexpr, NORMED: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0).to(tl.int64)
    if GATES:
        if program < GATES:
            row_ptr = a_ptr
            if program >= GATES // 2:
                row_ptr = b_ptr
            _gates(
                x_ptr, squares_ptr, row_ptr, gates_ptr + program // (GATES // 2) * HEADS,
                program % (GATES // 2) * 8, eps, K, HEADS, T, PDL, NORMED,
            )  # fmt: skip
    if program >= GATES:
        tile = (program - GATES) * TILES
        w_ptr, s_ptr, at = w0_ptr, s0_ptr, tile
        if tile >= FIRST + SECOND:
            w_ptr, s_ptr, at = w2_ptr, s2_ptr, tile - (FIRST + SECOND)
        elif tile >= FIRST:
            w_ptr, s_ptr, at = w1_ptr, s1_ptr, tile - FIRST
        if CONVOLVE:
            C: tl.constexpr = FIRST * 16
            convolved = (tile < FIRST).to(tl.int32)
            first_history = _history(
                tile, convolved, conv_ptr, rows_ptr, logs_ptr, control_ptr, C
            )  # fmt: skip
            second_history = first_history
            if TILES == 2:
                second_history = _history(
                    tile + 1, convolved, conv_ptr, rows_ptr, logs_ptr, control_ptr, C
                )  # fmt: skip
        first, second, squares = tiles_product(
            x_ptr, w_ptr, s_ptr, at, w_ptr, s_ptr, at + 1, magic, minus128, minus136,
            squares_ptr, eps, 0, squares_ptr,
            K, BITS, GROUP, TILES, T, S, AHEAD, EARLY, PDL, 1, NORMED, 0, 1, 1,
        )  # fmt: skip
        factor = reciprocal(squares, eps, K, T)[None, :]
        for i in tl.static_range(TILES):
            y = tl.sum(first if i == 0 else second, axis=0) * factor
            if CONVOLVE:
                if tile < FIRST:
                    _convolve(
                        y, tile + i, first_history if i == 0 else second_history,
                        rows_ptr, logs_ptr, mixed_ptr, control_ptr, C, T,
                    )  # fmt: skip
                else:
                    _store(y, tile + i - FIRST, out_ptr, (ALL - FIRST) * 16, T)
            else:
                _store(y, tile + i, out_ptr, ALL * 16, T)


@triton.jit
def _gates(
    x_ptr, squares_ptr, row_ptr, gates_ptr, first, eps,
    K: tl.constexpr, HEADS: tl.constexpr, T: tl.constexpr, PDL: tl.constexpr,
    NORMED: tl.constexpr,
):  # fmt: skip
    """8 rows of a or b. They are few and keep 16 bits: they steer exponentials.

    A weight is read once for all tokens; nothing is a loop, so that many are on their way at once.
    """
    rows = first + tl.arange(0, 8)[:, None]
    there = rows < HEADS
    row_ptr += rows * K
    nothing = tl.zeros((8, 128), dtype=tl.float32)
    sums = (nothing,)
    for _ in tl.static_range(1, T):
        sums = sums + (nothing,)
    wait(PDL)
    factor = reciprocal(norm_squares(squares_ptr, K, T, NORMED), eps, K, T)
    for start in tl.static_range(0, K, 128):  # of which K is a multiple
        # As wide as the weights, so that both are dealt out alike and need not change threads.
        columns = tl.broadcast_to(start + tl.arange(0, 128)[None, :], (8, 128))
        weight = tl.load(row_ptr + columns, mask=there, other=0.0).to(tl.float32)
        added = (sums[0] + weight * tl.load(x_ptr + columns).to(tl.float32),)
        for t in tl.static_range(1, T):
            x = tl.load(x_ptr + t * K + columns).to(tl.float32)
            added = added + (sums[t] + weight * x,)
        sums = added
    for t in tl.static_range(T):
        scale = tl.sum(tl.where(tl.arange(0, 8) == t, factor, 0.0))
        y = tl.sum(sums[t], axis=1)[:, None] * scale
        tl.store(gates_ptr + t * (2 * HEADS) + rows, y, mask=there)


@triton.jit
def _store(y, tile, out_ptr, N: tl.constexpr, T: tl.constexpr):
    tokens = tl.arange(0, 8)[None, :]
    where = tokens * N + (tile * 16 + tl.arange(0, 16))[:, None]
    there = (tokens < T) & (tl.arange(0, 16) >= 0)[:, None]
    tl.store(out_ptr + where, y.to(out_ptr.dtype.element_ty), mask=there)


@triton.jit
def _history(
    tile, there, conv_ptr, rows_ptr, logs_ptr, control_ptr, C: tl.constexpr
):  # fmt: skip
    """The three rows before the new ones, of a tile's channels, and their weights: 7 of (16,).

    Nobody has written them since the last step, so they are fetched before the products, and before
    the wait: see `tiles.wait`.
    """
    channels = tile * 16 + tl.arange(0, 16)
    kept = tl.load(control_ptr + 2, cache_modifier=".cg")
    parity = tl.load(control_ptr + 3, cache_modifier=".cg")
    past_ptr = logs_ptr + parity.to(tl.int64) * (8 * C) + channels
    mask = (channels >= 0) & (there + 0 * channels > 0)
    weight_ptr = conv_ptr + channels * 4
    return (
        _row(rows_ptr + channels, past_ptr, kept, mask, C),
        _row(rows_ptr + channels, past_ptr, kept + 1, mask, C),
        _row(rows_ptr + channels, past_ptr, kept + 2, mask, C),
        tl.load(weight_ptr, mask=mask, other=0.0).to(tl.float32),
        tl.load(weight_ptr + 1, mask=mask, other=0.0).to(tl.float32),
        tl.load(weight_ptr + 2, mask=mask, other=0.0).to(tl.float32),
        tl.load(weight_ptr + 3, mask=mask, other=0.0).to(tl.float32),
    )


@triton.jit
def _row(rows_ptr, past_ptr, index, mask, C: tl.constexpr):
    """Row `index` of the three old ones with the last log behind them: (16,) float32."""
    near = index + 0 * mask.to(tl.int32) < 3
    past = mask & (near == 0)
    old = tl.load(rows_ptr + index * C, mask=mask & near, other=0.0, cache_modifier=".cg")
    new = tl.load(past_ptr + (index - 3) * C, mask=past, other=0.0, cache_modifier=".cg")
    return tl.where(near, old.to(tl.float32), new.to(tl.float32))


@triton.jit
def _convolve(
    y, tile, history, rows_ptr, logs_ptr, mixed_ptr, control_ptr, C: tl.constexpr, T: tl.constexpr
):
    """Carry out what stays of the last log on the rows before, then convolve with the new ones.

    A channel belongs to one program, which alone reads and writes all that there is of it.
    """
    tokens = tl.arange(0, 8)[None, :]
    channels = tl.arange(0, 16)
    live = (tokens < T) & (channels >= 0)[:, None]
    new_ptr = logs_ptr + (1 - tl.load(control_ptr + 3)).to(tl.int64) * (8 * C) + tile * 16
    rounded = y.to(logs_ptr.dtype.element_ty)
    tl.store(new_ptr + tokens * C + channels[:, None], rounded, mask=live)
    if T > 1:
        tl.debug_barrier()  # the log is read again below
    mixed = tl.zeros((16, 8), dtype=tl.float32)
    for tap in tl.static_range(4):
        at = tokens + (tap - 3)  # of the new ones
        if tap == 3:
            x = rounded.to(tl.float32)
        elif T == 1:
            x = history[tap][:, None] + tl.zeros((16, 8), dtype=tl.float32)
        else:
            x = tl.load(
                new_ptr + at * C + channels[:, None], mask=live & (at >= 0), other=0.0
            ).to(tl.float32)  # fmt: skip
            for back in tl.static_range(1, 4):
                x = tl.where(at == -back, history[3 - back][:, None], x)
        mixed += history[3 + tap][:, None] * x
    mixed = mixed * tl.sigmoid(mixed)
    tl.store(mixed_ptr + tile * 16 + tokens * C + channels[:, None], mixed, mask=live)
    rows_ptr += tile * 16 + channels
    for i in tl.static_range(3):
        tl.store(rows_ptr + i * C, history[i].to(rows_ptr.dtype.element_ty))


@Kernel
@triton.jit
def _swiglu(
    x_ptr, squares_ptr, out_ptr, gate_ptr, gate_scale_ptr, up_ptr, up_scale_ptr,
    magic, minus128, minus136, eps,
    N: tl.constexpr, K: tl.constexpr, BITS: tl.constexpr, GROUP: tl.constexpr,
    T: tl.constexpr, S: tl.constexpr, AHEAD: tl.constexpr, EARLY: tl.constexpr,
    PDL: tl.constexpr, NORMED: tl.constexpr,
):  # fmt: skip
    tile = tl.program_id(0).to(tl.int64)
    gate, up, squares = tiles_product(
        x_ptr, gate_ptr, gate_scale_ptr, tile, up_ptr, up_scale_ptr, tile,
        magic, minus128, minus136, squares_ptr, eps, 0, squares_ptr,
        K, BITS, GROUP, 2, T, S, AHEAD, EARLY, PDL, 1, NORMED, 0, 1, 1,
    )  # fmt: skip
    factor = reciprocal(squares, eps, K, T)[None, :]
    gate = tl.sum(gate, axis=0) * factor
    up = tl.sum(up, axis=0) * factor
    _store(gate * tl.sigmoid(gate) * up, tile, out_ptr, N, T)


@Kernel
@triton.jit
def _add(
    x_ptr, parts_ptr, weight_ptr, scale_ptr, pieces_ptr, counters_ptr,
    before_ptr, after_ptr, scaled_ptr, squares_ptr, norm_ptr,
    magic, minus128, minus136, eps,
    N: tl.constexpr, K: tl.constexpr, BITS: tl.constexpr, GROUP: tl.constexpr,
    TILES: tl.constexpr, T: tl.constexpr, S: tl.constexpr, AHEAD: tl.constexpr,
    EARLY: tl.constexpr, PDL: tl.constexpr, SPLIT: tl.constexpr,
    HEADS: tl.constexpr, WIDTH: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    tile = tl.program_id(0).to(tl.int64) * TILES
    piece = tl.program_id(1)
    # Neither comes from the launch before.
    residual = _residual(before_ptr, norm_ptr, tile, N, T)
    other = residual
    if TILES == 2:
        other = _residual(before_ptr, norm_ptr, tile + 1, N, T)
    first, second, _ = tiles_product(
        x_ptr, weight_ptr, scale_ptr, tile, weight_ptr, scale_ptr, tile + 1,
        magic, minus128, minus136, parts_ptr, eps, piece, parts_ptr,
        K, BITS, GROUP, TILES, T, S, AHEAD, EARLY, PDL, SPLIT, 0, HEADS, WIDTH, PARTS,
    )  # fmt: skip
    tokens = tl.arange(0, 8)[None, :]
    for i in tl.static_range(TILES):
        y = tl.sum(first if i == 0 else second, axis=0)
        if SPLIT == 1:
            _finish(
                y, residual if i == 0 else other, tile + i,
                after_ptr, scaled_ptr, squares_ptr, N, T,
            )  # fmt: skip
        else:
            # The last of the programs that share a tile adds up, in their order.
            inside = tl.arange(0, 16)[:, None] * 8 + tokens
            mine_ptr = pieces_ptr + (tile + i) * (SPLIT * 128) + inside
            tl.store(mine_ptr + piece * 128, y)
            tl.debug_barrier()
            arrived = tl.atomic_add(counters_ptr + tile + i, 1, sem="acq_rel")
            if arrived == SPLIT - 1:
                y = tl.load(mine_ptr, cache_modifier=".cg")
                for each in tl.static_range(1, SPLIT):
                    y += tl.load(mine_ptr + each * 128, cache_modifier=".cg")
                tl.store(counters_ptr + tile + i, 0)
                _finish(
                    y, residual if i == 0 else other, tile + i,
                    after_ptr, scaled_ptr, squares_ptr, N, T,
                )  # fmt: skip


@triton.jit
def _residual(before_ptr, norm_ptr, tile, N: tl.constexpr, T: tl.constexpr):
    """What a tile is added to, (16, 8), and the factor of the norm that comes next, (16, 1)."""
    rows = tile * 16 + tl.arange(0, 16)[:, None]
    tokens = tl.minimum(tl.arange(0, 8), T - 1)[None, :]
    before = tl.load(before_ptr + tokens * N + rows, cache_modifier=".cg")  # see `tiles.wait`
    return before, 1.0 + tl.load(norm_ptr + rows).to(tl.float32)


@triton.jit
def _finish(
    y, residual, tile, after_ptr, scaled_ptr, squares_ptr, N: tl.constexpr, T: tl.constexpr
):
    """Add the residual to a tile's products, and leave what the next norm needs."""
    tokens = tl.arange(0, 8)[None, :]
    rows = tile * 16 + tl.arange(0, 16)[:, None]
    where = tokens * N + rows
    live = (tokens < T) & (rows >= 0)
    y += residual[0]
    tl.store(after_ptr + where, y, mask=live)
    tl.store(scaled_ptr + where, (y * residual[1]).to(scaled_ptr.dtype.element_ty), mask=live)
    tl.store(squares_ptr + tl.arange(0, 8) * (N // 16) + tile, tl.sum(y * y, axis=0))
