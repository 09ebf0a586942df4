"""Products of 1 to `FEW` tokens with a matrix in int4 or int8, read as it lies in the file.

A program takes a few rows and all of K, so that nothing is added across programs and the order of
every sum is fixed. Codes become floats without a conversion, which a GPU has too few units for:
put under the exponent of 2**23 they are the last bits of a float32.
"""

from typing import Final

import torch
import triton
import triton.language as tl
from torch import Tensor

from qwen35cli.kernels import reference
from qwen35cli.kernels.operands import FEW, Int4, Int8, Weight

BLOCK_WORDS: Final = 64  # int32 words of a row in flight: 512 codes of int4
ROWS: Final = {1: 8, 2: 8, 4: 4, 8: 2}  # of a program, by tokens: bounds the registers
WARPS: Final = 4


def linear(x: Tensor, weight: Weight, bias: Tensor | None = None) -> Tensor:
    """See `reference.linear`; sums are float32, the rest is for matrices and tokens beyond ours."""
    if bias is not None or not _few(x, weight):
        return reference.linear(x, weight, bias)
    return _launch(x, weight)


def project(x: Tensor, weights: tuple[Weight, ...]) -> tuple[Tensor, ...]:
    """See `reference.project`."""
    return tuple(linear(x, weight) for weight in weights)


def project_swiglu(x: Tensor, gate: Weight, up: Weight) -> Tensor:
    """See `reference.project_swiglu`: both products and what is made of them in one launch."""
    if not (_few(x, gate) and _few(x, up) and _form(gate) == _form(up)):
        return reference.swiglu(linear(x, gate), linear(x, up))
    return _launch(x, gate, up)


def norm_project(
    x: Tensor, norm: Tensor, eps: float, weights: tuple[Weight, ...]
) -> tuple[Tensor, ...]:
    """`project` of `rms_norm(x)`: the norm is folded into each product, and not rounded before it.

    Args:
        x: (..., K).
        norm: (K,) as an offset from one.
    """
    plain = reference.rms_norm(x, norm, eps) if not all(_few(x, w) for w in weights) else x
    return tuple(
        _launch(x, weight, norm=norm, eps=eps) if _few(x, weight) else linear(plain, weight)
        for weight in weights
    )


def norm_project_swiglu(x: Tensor, norm: Tensor, eps: float, gate: Weight, up: Weight) -> Tensor:
    """`project_swiglu` of `rms_norm(x)`, folded likewise."""
    if _few(x, gate) and _few(x, up) and _form(gate) == _form(up):
        return _launch(x, gate, up, norm=norm, eps=eps)
    return project_swiglu(reference.rms_norm(x, norm, eps), gate, up)


def add_linear(residual: Tensor, x: Tensor, weight: Weight) -> Tensor:
    """`residual + linear(x, weight)`, rounded once. (..., N) and (..., K) -> (..., N)."""
    if not _few(x, weight):
        return residual + linear(x, weight)
    return _launch(x, weight, residual=residual)


def _few(x: Tensor, weight: Weight) -> bool:
    return isinstance(weight, Int4 | Int8) and 0 < x.numel() // x.shape[-1] <= FEW


def _form(weight: Weight) -> tuple[object, ...]:
    """What two matrices must share to be read by one launch."""
    assert isinstance(weight, Int4 | Int8)
    return type(weight), weight.shape, weight.group if isinstance(weight, Int4) else 0


def _launch(
    x: Tensor,
    weight: Weight,
    up: Weight | None = None,
    *,
    norm: Tensor | None = None,
    eps: float = 0.0,
    residual: Tensor | None = None,
) -> Tensor:
    """`x @ weight.T`, or silu of that times `x @ up.T`; of the normed x where there is a `norm`."""
    assert isinstance(weight, Int4 | Int8) and (up is None or isinstance(up, Int4 | Int8))
    N, K = weight.shape
    flat = x.reshape(-1, K).contiguous()
    T = len(flat)
    matrices = [each for each in (weight, up) if each is not None]
    for each in matrices:
        assert each.packed.dtype == torch.int32 and each.packed.is_contiguous()
        assert each.scale.dtype == torch.bfloat16 and each.scale.is_contiguous()
    assert norm is None or (norm.shape == (K,) and norm.is_contiguous())
    out = torch.empty(T, N, dtype=x.dtype, device=x.device)
    added = None if residual is None else residual.reshape(T, N).contiguous()
    tokens = triton.next_power_of_2(T)
    rows = ROWS[tokens]
    last = matrices[-1]
    _matvec[(triton.cdiv(N, rows),)](
        flat,
        weight.packed,
        weight.scale,
        last.packed,
        last.scale,
        flat if norm is None else norm,  # read only where it is one, and so the next
        out if added is None else added,
        out,
        T,
        N,
        K,
        weight.packed.shape[1],
        weight.scale.shape[1],
        eps,
        BITS=4 if isinstance(weight, Int4) else 8,
        GROUP=weight.group if isinstance(weight, Int4) else 0,
        SWIGLU=up is not None,
        NORM=norm is not None,
        RESIDUAL=added is not None,
        TOKENS=tokens,
        ROWS=rows,
        WORDS=BLOCK_WORDS,
        num_warps=WARPS,
    )
    return out.view(*x.shape[:-1], N)


@triton.jit
def _matvec(
    x_ptr,  # (T, K)
    packed_ptr,  # (N, W) int32
    scale_ptr,  # (N, G) bf16
    up_packed_ptr,
    up_scale_ptr,
    norm_ptr,  # (K,) as an offset from one
    residual_ptr,  # (T, N)
    out_ptr,  # (T, N)
    T,
    N,
    K,
    W,
    G,
    eps,
    BITS: tl.constexpr,
    GROUP: tl.constexpr,  # weights that share a scale; 0: a row
    SWIGLU: tl.constexpr,
    NORM: tl.constexpr,
    RESIDUAL: tl.constexpr,
    TOKENS: tl.constexpr,
    ROWS: tl.constexpr,
    WORDS: tl.constexpr,
):
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    tokens = tl.arange(0, TOKENS)
    y = _dot(
        x_ptr, norm_ptr, packed_ptr, scale_ptr, rows, T, N, K, W, G,
        BITS, GROUP, NORM, TOKENS, ROWS, WORDS,
    )  # fmt: skip
    if NORM:
        rstd = _rstd(x_ptr, T, K, eps, TOKENS, WORDS)
        y *= rstd[:, None]
    if SWIGLU:
        up = _dot(
            x_ptr, norm_ptr, up_packed_ptr, up_scale_ptr, rows, T, N, K, W, G,
            BITS, GROUP, NORM, TOKENS, ROWS, WORDS,
        )  # fmt: skip
        if NORM:
            up *= rstd[:, None]
        y = y * tl.sigmoid(y) * up
    there = (tokens < T)[:, None] & (rows < N)[None, :]
    where = tokens[:, None].to(tl.int64) * N + rows[None, :]
    if RESIDUAL:
        y += tl.load(residual_ptr + where, mask=there, other=0.0).to(tl.float32)
    tl.store(out_ptr + where, y.to(out_ptr.dtype.element_ty), mask=there)


@triton.jit
def _rstd(x_ptr, T, K, eps, TOKENS: tl.constexpr, COLUMNS: tl.constexpr):
    """One over the root of the mean square of each token: (TOKENS,) float32."""
    tokens = tl.arange(0, TOKENS)
    squares = tl.zeros((TOKENS, COLUMNS), dtype=tl.float32)
    for start in range(0, K, COLUMNS):
        column = start + tl.arange(0, COLUMNS)
        known = (tokens < T)[:, None] & (column < K)[None, :]
        x = tl.load(x_ptr + tokens[:, None] * K + column[None, :], mask=known, other=0.0)
        squares += x.to(tl.float32) * x.to(tl.float32)
    return 1.0 / tl.sqrt(tl.sum(squares, axis=1) / K + eps)


@triton.jit
def _dot(
    x_ptr,
    norm_ptr,
    packed_ptr,
    scale_ptr,
    rows,
    T,
    N,
    K,
    W,
    G,
    BITS: tl.constexpr,
    GROUP: tl.constexpr,
    NORM: tl.constexpr,
    TOKENS: tl.constexpr,
    ROWS: tl.constexpr,
    WORDS: tl.constexpr,
):
    """Products of all tokens with `rows`: (TOKENS, ROWS) float32."""
    EACH: tl.constexpr = 32 // BITS  # codes in a word
    MASK: tl.constexpr = 2**BITS - 1
    # Of a code c under the exponent of 2**23 this leaves c - 8, or c - 128: exact.
    OFFSET: tl.constexpr = float(2**23 + 2 ** (BITS - 1))
    tokens = tl.arange(0, TOKENS)
    sums = tl.zeros((TOKENS, ROWS, WORDS), dtype=tl.float32)
    for start in range(0, W, WORDS):
        words = start + tl.arange(0, WORDS)
        there = (rows < N)[:, None] & (words < W)[None, :]
        packed = tl.load(packed_ptr + rows[:, None] * W + words[None, :], mask=there, other=0)
        part = tl.zeros((TOKENS, ROWS, WORDS), dtype=tl.float32)
        for code in tl.static_range(EACH):
            bits = ((packed >> (BITS * code)) & MASK) | 0x4B000000
            weight = bits.to(tl.float32, bitcast=True) - OFFSET
            column = words * EACH + code
            known = (tokens < T)[:, None] & (column < K)[None, :]
            x = tl.load(x_ptr + tokens[:, None] * K + column[None, :], mask=known, other=0.0)
            x = x.to(tl.float32)
            if NORM:
                factor = tl.load(norm_ptr + column, mask=column < K, other=0.0)
                x *= 1.0 + factor.to(tl.float32)[None, :]
            part += weight[None, :, :] * x[:, None, :]
        if GROUP:
            groups = words * EACH // GROUP
            scale = tl.load(scale_ptr + rows[:, None] * G + groups[None, :], mask=there, other=0.0)
            part *= scale.to(tl.float32)[None, :, :]
        sums += part
    y = tl.sum(sums, axis=2)
    if not GROUP:
        scale = tl.load(scale_ptr + rows, mask=rows < N, other=0.0)
        y *= scale.to(tl.float32)[None, :]
    return y
