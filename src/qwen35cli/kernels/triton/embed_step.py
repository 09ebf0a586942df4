"""The beginning of a decode step: embeddings of its tokens, and the angles of their positions."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from qwen35cli.kernels.operands import Int8, Weight

from .kernel import Kernel
from .matvec import Stream
from .tiles import TILE, wait

COLUMNS = 128  # of a program


def embeddable(weight: Weight) -> bool:
    """Whether this kernel reads the table: int8 or bf16, in whole tiles of channels."""
    if isinstance(weight, Int8):
        return weight.shape[1] % COLUMNS == 0
    return (
        isinstance(weight, Tensor)
        and weight.dtype == torch.bfloat16
        and weight.shape[1] % COLUMNS == 0
    )


def table_of(weight: Weight) -> tuple[Tensor, Tensor]:
    """Codes, a byte each, and scales of a table as `look_up` takes them; of a plain one: itself."""
    if isinstance(weight, Int8):
        return weight.packed.view(torch.uint8), weight.scale
    assert isinstance(weight, Tensor)
    return weight, weight


def embed_step(
    ids: Tensor,
    weight: Weight,
    norm: Tensor,
    frequencies: Tensor,
    magnitude: float,
    control: Tensor,
    stream: Stream,
    cos: Tensor,
    sin: Tensor,
    tokens: int,
    *,
    overlap: bool = False,
) -> None:
    """The residual stream of the tokens, and the rotation of their positions.

    Twins: `reference.rows`, `model.rotary.Rotary`.

    Args:
        ids: (8,) int64.
        norm: (D,) the first norm's weight, as an offset from one.
        frequencies: (R,) float32; `magnitude` multiplies cosines and sines.
        control: positions run from its first two numbers together.
        cos, sin: (8, R) float32, written.
    """
    assert embeddable(weight) and ids.dtype == torch.int64 and frequencies.dtype == torch.float32
    codes, scale = table_of(weight)
    D, (R,) = weight.shape[1], frequencies.shape
    assert cos.shape[1] == sin.shape[1] == R and stream.x.shape[1] == D
    _embed_step[(D // COLUMNS,)](
        ids,
        codes,
        scale,
        norm,
        frequencies,
        control,
        stream.x,
        stream.scaled,
        stream.squares,
        cos,
        sin,
        magnitude,
        D=D,
        R=R,
        ANGLES=triton.next_power_of_2(R),
        EIGHT=isinstance(weight, Int8),
        COLUMNS=COLUMNS,
        TILE=TILE,
        T=tokens,
        PDL=overlap,
        num_warps=4,
        launch_pdl=overlap,
    )


@Kernel
@triton.jit
def _embed_step(
    ids_ptr, weight_ptr, scale_ptr, norm_ptr, frequencies_ptr, control_ptr,
    x_ptr, scaled_ptr, squares_ptr, cos_ptr, sin_ptr, magnitude,
    D: tl.constexpr, R: tl.constexpr, ANGLES: tl.constexpr, EIGHT: tl.constexpr,
    COLUMNS: tl.constexpr, TILE: tl.constexpr, T: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    wait(PDL)
    program = tl.program_id(0)
    columns = program * COLUMNS + tl.arange(0, COLUMNS)
    factor = 1.0 + tl.load(norm_ptr + columns).to(tl.float32)
    position = tl.load(control_ptr) + tl.load(control_ptr + 1)
    for t in tl.static_range(T):
        token = tl.load(ids_ptr + t)
        x = look_up(weight_ptr, scale_ptr, token, columns, D, EIGHT)
        tl.store(x_ptr + t * D + columns, x)
        tl.store(scaled_ptr + t * D + columns, (x * factor).to(scaled_ptr.dtype.element_ty))
        sums = tl.sum(tl.reshape(x * x, (COLUMNS // TILE, TILE)), axis=1)
        tiles = program * (COLUMNS // TILE) + tl.arange(0, COLUMNS // TILE)
        tl.store(squares_ptr + t * (D // TILE) + tiles, sums)
        if program == 0:
            turn(position + t, frequencies_ptr, magnitude, cos_ptr, sin_ptr, t, R, ANGLES)


@triton.jit
def look_up(weight_ptr, scale_ptr, token, columns, D: tl.constexpr, EIGHT: tl.constexpr):
    """Some of the D columns of a token's embedding, float32; zero behind them."""
    there = columns < D
    x = tl.load(weight_ptr + token * D + columns, mask=there, other=0).to(tl.float32)
    if EIGHT:
        x = tl.where(there, (x - 128.0) * tl.load(scale_ptr + token).to(tl.float32), 0.0)
    return x


@triton.jit
def turn(
    position, frequencies_ptr, magnitude, cos_ptr, sin_ptr, row, R: tl.constexpr,
    ANGLES: tl.constexpr,
):  # fmt: skip
    """Write the rotation of a position as a row of R cosines and one of sines."""
    angles = tl.arange(0, ANGLES)
    there = angles < R
    frequencies = tl.load(frequencies_ptr + angles, mask=there, other=0.0)
    angle = position.to(tl.float32) * frequencies
    tl.store(cos_ptr + row * R + angles, tl.cos(angle) * magnitude, mask=there)
    tl.store(sin_ptr + row * R + angles, tl.sin(angle) * magnitude, mask=there)
