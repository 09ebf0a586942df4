"""What stands between the projections of an attention layer, for a few tokens, in one launch.

The cached keys are dealt to programs in spans. One more program takes the new tokens: it writes
their keys and values, and no other looks at those. Each leaves a softmax over its own keys. Who
comes last in a group merges the group, and the last of those the groups: every sum has its order.
The length is read on the device, so that one launch serves every length.
"""

from dataclasses import dataclass
from typing import Final, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from qwen35cli.kernels.operands import Int8Rows, Rows

from .kernel import Kernel
from .tiles import wait


class Tuning(NamedTuple):
    """How cached keys are read. For speed only: the result differs in its last bits."""

    keys: int  # of a tile; at least 16
    warps: int
    stages: int  # one more than the tiles under way
    least: int  # keys of a span: where there are few, few programs read them


# By the dtype of the cache. With Dh 256 a tile of keys and values is 32 KiB; on sm_90 a program
# takes 66 to 84 KiB of shared memory and up to 255 registers a thread, and spills none of them.
TUNING: Final = {
    torch.bfloat16: Tuning(keys=32, warps=4, stages=3, least=64),
    torch.int8: Tuning(keys=64, warps=4, stages=3, least=64),
    torch.float32: Tuning(keys=16, warps=4, stages=3, least=64),
}
RESIDENT: Final = 2  # programs of an SM, for its registers
SHARED_BYTES: Final = 85 * 1_024  # of a program
PARTS: Final = 64  # float32 of a thread that hold parts to be merged
LOG2_E: Final = 1.4426950408889634
# Of products: the interpreter would multiply the bits of bf16.
OPERAND: Final = tl.constexpr(tl.float32 if triton.knobs.runtime.interpret else tl.bfloat16)


@dataclass(frozen=True, slots=True)
class Room:
    """Where the programs of a launch leave what the last of them merges; for launches in a row."""

    partial: Tensor  # float32 (KV, splits + groups, rows, Dh) at most: sums of weighted values
    stats: Tensor  # float32 (KV, splits + groups, 2, rows) at most: best scores, sums of weights
    arrived: Tensor  # int32 (KV, groups + 1) zeros between launches
    tokens: int  # of a step, at most
    splits: int  # programs of a key head, one of them for the new tokens
    group: int  # parts that are merged at once

    @property
    def groups(self) -> int:
        return triton.cdiv(self.splits, self.group)


def attend_room(device: torch.device, H: int, KV: int, Dh: int, T: int, capacity: int) -> Room:
    """Room for steps of up to T tokens; any number of layers may share it, one after the other.

    Args:
        capacity: tokens that the caches have room for.
    """
    programs = 8  # in the interpreter: few, for spans of several tiles
    if device.type == "cuda":
        card = torch.cuda.get_device_properties(device)
        resident = min(RESIDENT, card.shared_memory_per_multiprocessor // SHARED_BYTES)
        programs = max(resident, 1) * card.multi_processor_count
    least = min(tuning.least for tuning in TUNING.values())
    splits = min(programs // KV, 1 + triton.cdiv(capacity, least))
    return room_of(device, H, KV, Dh, T, splits)


def room_of(device: torch.device, H: int, KV: int, Dh: int, T: int, splits: int) -> Room:
    """The same for so many programs of a key head."""
    rows = triton.next_power_of_2(H // KV * T)
    group = 16 if rows <= 8 else 8  # the last to come reads `rows * Dh` of each member
    splits = min(max(splits, 2), group * group)
    slots = splits + triton.cdiv(splits, group)
    return Room(
        torch.empty(KV * slots * rows * Dh, dtype=torch.float32, device=device),
        torch.empty(KV * slots * 2 * rows, dtype=torch.float32, device=device),
        torch.zeros(KV * (slots - splits + 1), dtype=torch.int32, device=device),
        T,
        splits,
        group,
    )


def attend_step(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    q_norm: Tensor,
    k_norm: Tensor,
    eps: float,
    cos: Tensor,
    sin: Tensor,
    control: Tensor,
    keys: Rows,
    values: Rows,
    out: Tensor,
    room: Room,
    *,
    overlap: bool = False,
) -> None:
    """`reference.attend` for a few tokens, with the length read on the device.

    Plain rows are multiplied as bf16, whatever their dtype; what is written into them here is.

    Args:
        q: (T, 2 * H * Dh) bf16 queries, each head followed by its gate; rows may lie apart.
        k, v: (T, KV * Dh) bf16, likewise.
        q_norm, k_norm: (Dh,) as offsets from one.
        cos, sin: (T, R) float32.
        control: int32; the first is the number of tokens in the cache.
        keys, values: (1, KV, S, Dh) with room for T more; their keys and values are written.
        out: (T, H * Dh) bf16, written.
        overlap: start while the launch before ends (`tiles.wait`).
    """
    (T, width), (Dh,), R = out.shape, q_norm.shape, cos.shape[1]
    plain_keys, plain_values = (
        (rows.codes, rows.scale) if isinstance(rows, Int8Rows) else (rows, rows)
        for rows in (keys, values)
    )
    KV, S = plain_keys[0].shape[1:3]
    H = width // Dh
    rows = triton.next_power_of_2(H // KV * T)
    tuning = TUNING[plain_keys[0].dtype]
    assert q.shape == (T, 2 * width) and k.shape == v.shape == (T, KV * Dh) and H % KV == 0
    assert cos.shape == sin.shape == (T, R) and 2 * R <= Dh == triton.next_power_of_2(Dh)
    assert plain_keys[0].shape == plain_values[0].shape == (1, KV, S, Dh)
    assert {x.dtype for x in (q, k, v, out)} == {torch.bfloat16}
    assert {x.dtype for x in (cos, sin)} == {torch.float32} and control.dtype == torch.int32
    for x in (q_norm, k_norm, cos, sin, *plain_keys, *plain_values, out):
        assert x.is_contiguous()
    assert q.stride(1) == k.stride(1) == v.stride(1) == 1 and k.stride(0) == v.stride(0)
    assert room.tokens >= T and len(room.arrived) == KV * (room.groups + 1)
    _attend_step[(KV, room.splits)](
        q,
        k,
        v,
        q_norm,
        k_norm,
        cos,
        sin,
        control,
        plain_keys[0],
        plain_values[0],
        plain_keys[1],
        plain_values[1],
        out,
        room.partial,
        room.stats,
        room.arrived,
        S,
        eps,
        Dh**-0.5 * LOG2_E,
        KV=KV,
        EACH=H // KV,
        Dh=Dh,
        R=R,
        T=T,
        NEW=triton.next_power_of_2(T),
        ROWS=rows,
        EIGHT=isinstance(keys, Int8Rows),
        KEYS=tuning.keys,
        LEAST=tuning.least,
        SPLITS=room.splits,
        GROUP=room.group,
        GROUPS=room.groups,
        POOL=triton.next_power_of_2(max(room.group, room.groups)),
        BATCH=max(1, PARTS * 32 * tuning.warps // (rows * Dh)),
        Q_PITCH=q.stride(0),
        K_PITCH=k.stride(0),
        PDL=overlap,
        num_warps=tuning.warps,
        num_stages=tuning.stages,
        launch_pdl=overlap,
    )


@Kernel
@triton.jit
def _attend_step(
    q_ptr,  # (T, H, 2, Dh) each head's query and gate
    k_ptr,  # (T, KV, Dh)
    v_ptr,
    q_norm_ptr,  # (Dh,) as offsets from one
    k_norm_ptr,
    cos_ptr,  # (T, R)
    sin_ptr,
    control_ptr,  # the first is the number of tokens in the cache
    keys_ptr,  # (KV, S, Dh)
    values_ptr,
    key_scale_ptr,  # (KV, S), read only where the cache has 8 bits, and so the next
    value_scale_ptr,
    out_ptr,  # (T, H, Dh)
    partial_ptr,  # (KV, SPLITS + GROUPS, ROWS, Dh) float32: sums, not yet divided
    stats_ptr,  # (KV, SPLITS + GROUPS, 2, ROWS) float32: the best score, and the weights' sum
    arrived_ptr,  # (KV, GROUPS + 1) zeros, and left so
    S,
    eps,
    scale,  # of the scores, times log2(e)
    KV: tl.constexpr,
    EACH: tl.constexpr,  # query heads of a key head
    Dh: tl.constexpr,
    R: tl.constexpr,
    T: tl.constexpr,
    NEW: tl.constexpr,  # T, up to a power of two
    ROWS: tl.constexpr,  # EACH * T, up to a power of two
    EIGHT: tl.constexpr,
    KEYS: tl.constexpr,
    LEAST: tl.constexpr,
    SPLITS: tl.constexpr,
    GROUP: tl.constexpr,
    GROUPS: tl.constexpr,
    POOL: tl.constexpr,  # GROUP or GROUPS, the larger, up to a power of two
    BATCH: tl.constexpr,  # parts that are read at once to be merged
    Q_PITCH: tl.constexpr,  # numbers from a token to the next, and so the next
    K_PITCH: tl.constexpr,
    PDL: tl.constexpr,
):
    head, split = tl.program_id(0), tl.program_id(1)
    start = tl.load(control_ptr, cache_modifier=".cg")  # see `tiles.wait`
    # The span is a whole number of tiles; split 0 has the new tokens.
    span = tl.maximum(LEAST, tl.cdiv(tl.cdiv(start, SPLITS - 1), KEYS) * KEYS)
    active = 1 + tl.cdiv(start, span)
    if split >= active:
        return
    wait(PDL)  # the length and the cache are of earlier steps
    DOT: tl.constexpr = max(ROWS, 16)
    rows = tl.arange(0, ROWS)
    token = rows // EACH
    q = _turned(
        q_ptr + token * Q_PITCH + (head * EACH + rows % EACH) * (2 * Dh),
        token, rows < EACH * T, q_norm_ptr, cos_ptr, sin_ptr, eps, Dh, R,
    )  # fmt: skip
    q = _repeated(q.to(OPERAND), DOT, ROWS, Dh)
    slot = head * (SPLITS + GROUPS)
    row = head.to(tl.int64) * S  # of the cache
    if split == 0:
        at = row + start
        key_scale, value_scale = key_scale_ptr + at, value_scale_ptr + at
        best, total, sums = _over_new(
            q, k_ptr, v_ptr, k_norm_ptr, cos_ptr, sin_ptr,
            keys_ptr + at * Dh, values_ptr + at * Dh, key_scale, value_scale,
            head, eps, scale, EACH, Dh, R, T, ROWS, DOT, NEW, EIGHT, K_PITCH,
        )  # fmt: skip
        _leave(best, total, sums, partial_ptr, stats_ptr, slot, Dh, ROWS, DOT)
    else:
        first = (split - 1) * span
        at = row + first
        count = tl.minimum(span, start - first)
        if EIGHT:
            best, total, sums = _over_codes(
                q, keys_ptr + at * Dh, values_ptr + at * Dh,
                key_scale_ptr + at, value_scale_ptr + at, count, scale, Dh, DOT, KEYS,
            )  # fmt: skip
        else:
            best, total, sums = _over_rows(
                q, keys_ptr + at * Dh, values_ptr + at * Dh, count, scale, Dh, DOT, KEYS
            )
        _leave(best, total, sums, partial_ptr, stats_ptr, slot + split, Dh, ROWS, DOT)

    group = split // GROUP
    members = tl.minimum(GROUP, active - group * GROUP)
    arrived_ptr += head * (GROUPS + 1)
    if _is_last(arrived_ptr + group, members):
        most, weight, summed = _merged(
            partial_ptr, stats_ptr, slot + group * GROUP, members, Dh, ROWS, POOL, BATCH
        )
        groups = tl.cdiv(active, GROUP)
        if groups == 1:
            _finish(weight, summed, q_ptr, out_ptr, head, KV, EACH, Dh, T, ROWS, Q_PITCH)
        else:
            slot += SPLITS
            _leave(most, weight, summed, partial_ptr, stats_ptr, slot + group, Dh, ROWS, ROWS)
            if _is_last(arrived_ptr + GROUPS, groups):
                most, weight, summed = _merged(
                    partial_ptr, stats_ptr, slot, groups, Dh, ROWS, POOL, BATCH
                )
                _finish(weight, summed, q_ptr, out_ptr, head, KV, EACH, Dh, T, ROWS, Q_PITCH)


@triton.jit
def _turned(
    at_ptr,  # where each row begins
    token,
    there,
    norm_ptr,
    cos_ptr,
    sin_ptr,
    eps,
    Dh: tl.constexpr,
    R: tl.constexpr,
):
    """Rows of Dh, normed and then rotated, as the reference rounds them: (rows, Dh) float32."""
    dims = tl.arange(0, Dh)
    # Dim i turns with dim i + R, and that with i; the others have no partner.
    other = tl.where(dims < R, dims + R, dims - R)
    mates = there[:, None] & (dims < 2 * R)[None, :]
    x = tl.load(at_ptr[:, None] + dims[None, :], mask=there[:, None], other=0.0).to(tl.float32)
    mate = tl.load(at_ptr[:, None] + other[None, :], mask=mates, other=0.0).to(tl.float32)
    angle = token[:, None] * R + (dims % R)[None, :]
    MANY: tl.constexpr = (
        at_ptr.shape[0] > 16
    )  # to have all loads on the way takes too many registers
    if not MANY:
        cos = tl.load(cos_ptr + angle, mask=mates, other=1.0)
        sin = tl.load(sin_ptr + angle, mask=mates, other=0.0)
    weight = 1.0 + tl.load(norm_ptr + dims).to(tl.float32)
    mate_weight = 1.0 + tl.load(norm_ptr + other, mask=dims < 2 * R, other=0.0).to(tl.float32)
    rstd = tl.rsqrt(tl.sum(x * x, axis=1) / Dh + eps)[:, None]
    x = _rounded(x * rstd * weight[None, :])
    mate = _rounded(mate * rstd * mate_weight[None, :])
    if MANY:
        cos = tl.load(cos_ptr + angle, mask=mates, other=1.0)
        sin = tl.load(sin_ptr + angle, mask=mates, other=0.0)
    return _rounded(x * cos + tl.where((dims < R)[None, :], -mate, mate) * sin)


@triton.jit
def _rounded(x):
    """The nearest bf16, as float32. The interpreter's conversion cuts off instead."""
    bits = x.to(tl.int32, bitcast=True)
    bits = (bits + 0x7FFF + ((bits >> 16) & 1)) & -0x10000
    return bits.to(tl.float32, bitcast=True)


@triton.jit
def _over_rows(
    q, keys_ptr, values_ptr, count, scale, Dh: tl.constexpr, DOT: tl.constexpr, KEYS: tl.constexpr
):
    """Softmax over `count` plain rows: the best score, the sum of weights, the weighted sum."""
    key = tl.arange(0, KEYS)
    tile = key[:, None] * Dh + tl.arange(0, Dh)[None, :]
    best = tl.full((DOT,), float("-inf"), dtype=tl.float32)
    total = tl.zeros((DOT, KEYS), dtype=tl.float32)
    sums = tl.zeros((DOT, Dh), dtype=tl.float32)
    for done in range(0, count, KEYS):
        there = key < count - done
        keys = tl.load(keys_ptr + tile, mask=there[:, None], other=0.0)
        scores = tl.dot(q, tl.trans(keys).to(OPERAND)) * scale
        scores = tl.where(there[None, :], scores, float("-inf"))
        higher = tl.maximum(best, tl.max(scores, axis=1))
        weights = tl.exp2(scores - higher[:, None])
        shrink = tl.exp2(best - higher)[:, None]
        values = tl.load(values_ptr + tile, mask=there[:, None], other=0.0)
        sums = tl.dot(weights.to(OPERAND), values.to(OPERAND), sums * shrink)
        total = total * shrink + weights
        best = higher
        keys_ptr += KEYS * Dh
        values_ptr += KEYS * Dh
    return best, tl.sum(total, axis=1), sums


@triton.jit
def _over_codes(
    q,
    keys_ptr,
    values_ptr,
    key_scale_ptr,
    value_scale_ptr,
    count,
    scale,
    Dh: tl.constexpr,
    DOT: tl.constexpr,
    KEYS: tl.constexpr,
):
    """The same over rows in 8 bits. The scales stay out of the products: codes are exact in bf16.

    Values are read as words of four codes, one of each quarter product: their bytes are picked in
    registers, where a product with a transposed tile of bytes would read each by itself.
    """
    key = tl.arange(0, KEYS)
    tile = key[:, None] * Dh + tl.arange(0, Dh)[None, :]
    words = key[:, None] * (Dh // 4) + tl.arange(0, Dh // 4)[None, :]
    words_ptr = values_ptr.to(tl.pointer_type(tl.int32))
    best = tl.full((DOT,), float("-inf"), dtype=tl.float32)
    total = tl.zeros((DOT, KEYS), dtype=tl.float32)
    sums0 = tl.zeros((DOT, Dh // 4), dtype=tl.float32)
    sums1, sums2, sums3 = sums0, sums0, sums0
    # Too narrow to be copied like the codes, the scales are read a tile ahead.
    key_scale = tl.load(key_scale_ptr + key, mask=key < count, other=0.0)
    value_scale = tl.load(value_scale_ptr + key, mask=key < count, other=0.0)
    for done in range(0, count, KEYS):
        left = count - done
        there = key < left
        codes = tl.load(keys_ptr + tile, mask=there[:, None], other=0)
        key_scale_ptr += KEYS
        value_scale_ptr += KEYS
        next_key_scale = tl.load(key_scale_ptr + key, mask=key < left - KEYS, other=0.0)
        next_value_scale = tl.load(value_scale_ptr + key, mask=key < left - KEYS, other=0.0)
        scores = tl.dot(q, tl.trans(codes).to(OPERAND))
        scores *= (key_scale.to(tl.float32) * scale)[None, :]
        scores = tl.where(there[None, :], scores, float("-inf"))
        higher = tl.maximum(best, tl.max(scores, axis=1))
        weights = tl.exp2(scores - higher[:, None])
        shrink = tl.exp2(best - higher)[:, None]
        scaled = (weights * value_scale.to(tl.float32)[None, :]).to(OPERAND)
        word = tl.load(words_ptr + words, mask=there[:, None], other=0)
        sums0 = tl.dot(scaled, ((word << 24) >> 24).to(OPERAND), sums0 * shrink)
        sums1 = tl.dot(scaled, ((word << 16) >> 24).to(OPERAND), sums1 * shrink)
        sums2 = tl.dot(scaled, ((word << 8) >> 24).to(OPERAND), sums2 * shrink)
        sums3 = tl.dot(scaled, (word >> 24).to(OPERAND), sums3 * shrink)
        total = total * shrink + weights
        best = higher
        key_scale, value_scale = next_key_scale, next_value_scale
        keys_ptr += KEYS * Dh
        words_ptr += KEYS * (Dh // 4)
    sums = tl.join(tl.join(sums0, sums2), tl.join(sums1, sums3))  # code c of a word at c
    return best, tl.sum(total, axis=1), tl.reshape(sums, (DOT, Dh))


@triton.jit
def _over_new(
    q,
    k_ptr,
    v_ptr,
    k_norm_ptr,
    cos_ptr,
    sin_ptr,
    keys_ptr,  # from here on the cache, and so the next
    values_ptr,
    key_scale_ptr,
    value_scale_ptr,
    head,
    eps,
    scale,
    EACH: tl.constexpr,
    Dh: tl.constexpr,
    R: tl.constexpr,
    T: tl.constexpr,
    ROWS: tl.constexpr,
    DOT: tl.constexpr,
    NEW: tl.constexpr,
    EIGHT: tl.constexpr,
    K_PITCH: tl.constexpr,
):
    """The same over the new tokens, each of which sees itself and those before; stores them."""
    new, dims = tl.arange(0, NEW), tl.arange(0, Dh)
    there = new < T
    row = new * K_PITCH + head * Dh
    v = tl.load(v_ptr + row[:, None] + dims[None, :], mask=there[:, None], other=0.0).to(tl.float32)
    k = _turned(k_ptr + row, new, there, k_norm_ptr, cos_ptr, sin_ptr, eps, Dh, R)
    tile = new[:, None] * Dh + dims[None, :]
    if EIGHT:
        k, key_scale = _coded(k)
        v, value_scale = _coded(v)
        tl.store(keys_ptr + tile, k.to(tl.int8), mask=there[:, None])
        tl.store(values_ptr + tile, v.to(tl.int8), mask=there[:, None])
        tl.store(key_scale_ptr + new, key_scale.to(tl.bfloat16), mask=there)
        tl.store(value_scale_ptr + new, value_scale.to(tl.bfloat16), mask=there)
    else:
        tl.store(keys_ptr + tile, k.to(keys_ptr.dtype.element_ty), mask=there[:, None])
        tl.store(values_ptr + tile, v.to(values_ptr.dtype.element_ty), mask=there[:, None])
    LEAST: tl.constexpr = 16  # keys of a product
    scores = tl.dot(q, tl.trans(_repeated(k.to(OPERAND), LEAST, NEW, Dh))) * scale
    if EIGHT:
        scores *= tl.reshape(tl.broadcast_to(key_scale[None, :], (LEAST // NEW, NEW)), (1, LEAST))
    column, token = tl.arange(0, LEAST)[None, :], tl.arange(0, DOT) % ROWS // EACH
    scores = tl.where((column < T) & (column <= token[:, None]), scores, float("-inf"))
    best = tl.max(scores, axis=1)
    weights = tl.exp2(scores - best[:, None])
    total = tl.sum(weights, axis=1)
    if EIGHT:
        weights *= tl.reshape(
            tl.broadcast_to(value_scale[None, :], (LEAST // NEW, NEW)), (1, LEAST)
        )
    return best, total, tl.dot(weights.to(OPERAND), _repeated(v.to(OPERAND), LEAST, NEW, Dh))


@triton.jit
def _repeated(x, COUNT: tl.constexpr, ROWS: tl.constexpr, Dh: tl.constexpr):
    """The rows again and again, until they are enough for a product."""
    if COUNT == ROWS:
        return x
    return tl.reshape(tl.broadcast_to(x[None, :, :], (COUNT // ROWS, ROWS, Dh)), (COUNT, Dh))


@triton.jit
def _coded(x):
    """Rows as codes and their scales, both float32; see `reference.store_rows`."""
    most = tl.max(tl.abs(x), axis=1)
    scale = _rounded(tl.div_rn(most, tl.full(most.shape, 127.0, dtype=tl.float32)))
    step = tl.where(scale > 0, scale, 1.0)
    codes = tl.div_rn(x, tl.broadcast_to(step[:, None], x.shape))
    codes = (codes + 12582912.0) - 12582912.0  # 1.5 * 2**23: rounds, halves to the even
    codes = tl.minimum(tl.maximum(codes, -127.0), 127.0)
    return tl.where((scale > 0)[:, None], codes, 0.0), scale


@triton.jit
def _leave(
    best,
    total,
    sums,
    partial_ptr,
    stats_ptr,
    slot,
    Dh: tl.constexpr,
    ROWS: tl.constexpr,
    HELD: tl.constexpr,  # rows of the arguments
):
    """Write what came of some keys where whoever merges them will read it."""
    rows = tl.arange(0, HELD)
    stats_ptr += slot * (2 * ROWS)
    tl.store(stats_ptr + rows, best, mask=rows < ROWS)
    tl.store(stats_ptr + ROWS + rows, total, mask=rows < ROWS)
    tile = rows[:, None] * Dh + tl.arange(0, Dh)[None, :]
    tl.store(partial_ptr + slot.to(tl.int64) * (ROWS * Dh) + tile, sums, (rows < ROWS)[:, None])


@triton.jit
def _is_last(arrived_ptr, expected):
    """Count a program in. True for the last of those expected, which finds all they have left."""
    tl.debug_barrier()  # all threads have written before one of them counts
    last = tl.atomic_add(arrived_ptr, 1, sem="acq_rel") == expected - 1
    if last:
        tl.store(arrived_ptr, 0)  # for the next launch
    return last


@triton.jit
def _merged(
    partial_ptr,
    stats_ptr,
    slot,
    count,
    Dh: tl.constexpr,
    ROWS: tl.constexpr,
    POOL: tl.constexpr,
    BATCH: tl.constexpr,
):
    """One softmax of `count` of them, from `slot` on."""
    rows, dims, batch = tl.arange(0, ROWS), tl.arange(0, Dh), tl.arange(0, BATCH)
    # Past the L1 of this SM, which may hold what another launch has left there.
    stats_ptr += slot * (2 * ROWS)
    member = tl.arange(0, POOL)
    stats = stats_ptr + member[:, None] * (2 * ROWS) + rows[None, :]
    there = (member < count)[:, None]
    bests = tl.load(stats, mask=there, other=float("-inf"), cache_modifier=".cg")
    totals = tl.load(stats + ROWS, mask=there, other=0.0, cache_modifier=".cg")
    best = tl.max(bests, axis=0)
    total = tl.sum(totals * tl.exp2(bests - best[None, :]), axis=0)
    sums = tl.zeros((ROWS, Dh), dtype=tl.float32)
    partial_ptr += slot.to(tl.int64) * (ROWS * Dh)
    # Rows first: the compiler then holds all parts of an element in one thread.
    tile = rows[:, None, None] * Dh + dims[None, None, :]
    for done in range(0, count, BATCH):
        now = done + batch
        part = tl.load(
            partial_ptr + now[None, :, None] * (ROWS * Dh) + tile,
            mask=(now < count)[None, :, None],
            other=0.0,
            cache_modifier=".cg",
        )
        bests_now = tl.load(
            stats_ptr + now[None, :] * (2 * ROWS) + rows[:, None],
            mask=(now < count)[None, :],
            other=float("-inf"),
            cache_modifier=".cg",
        )
        sums += tl.sum(part * tl.exp2(bests_now - best[:, None])[:, :, None], axis=1)
    return best, total, sums


@triton.jit
def _finish(
    total,
    sums,
    q_ptr,
    out_ptr,
    head,
    KV: tl.constexpr,
    EACH: tl.constexpr,
    Dh: tl.constexpr,
    T: tl.constexpr,
    ROWS: tl.constexpr,
    Q_PITCH: tl.constexpr,
):
    """Divide by the weights, multiply by the gate, round once."""
    rows, dims = tl.arange(0, ROWS), tl.arange(0, Dh)
    there = (rows < EACH * T)[:, None]
    row = (rows // EACH * KV + head) * EACH + rows % EACH
    gate_ptr = q_ptr + rows // EACH * Q_PITCH + (head * EACH + rows % EACH) * (2 * Dh) + Dh
    gate = tl.load(gate_ptr[:, None] + dims[None, :], mask=there, other=0.0)
    y = sums / total[:, None] * tl.sigmoid(gate.to(tl.float32))
    tl.store(out_ptr + row[:, None] * Dh + dims[None, :], _rounded(y).to(tl.bfloat16), mask=there)
