"""Products with matrices of any kind, compiled."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from qwen35cli.kernels import reference
from qwen35cli.kernels.operands import FEW, NF4, Int4, Int8, Weight

from .library import Foreign, Library, longs

Widenable = type[Int4] | type[Int8] | type[NF4]
NEVER: Final = sys.maxsize
# Tokens from which it pays to widen quantized weights for bf16 units. Measured with AVX512-BF16
# (Zen 4), where the int4 kernel is 1.7 times as fast at any number; for int4 with AMX an estimate.
WIDEN_FROM: Final[dict[Widenable, int]] = {Int4: NEVER, Int8: 192, NF4: 144}
WIDEN_INT4_FOR_AMX: Final = 384
WIDENED_BYTES: Final = 4 << 20  # of bf16 weights at once: they stay in the cache until multiplied
BF16, INT4, INT8, NF4_KIND = range(4)  # as in linear.h


def bf16_units() -> bool:
    """Whether this CPU multiplies bf16 matrices in hardware, through torch."""
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def widen_from() -> dict[Widenable, int]:
    """Tokens from which torch's bf16 GEMM is faster here with quantized weights, by their kind."""
    if not bf16_units():
        return dict.fromkeys(WIDEN_FROM, NEVER)
    if torch.cpu._is_amx_tile_supported():
        return {**WIDEN_FROM, Int4: WIDEN_INT4_FOR_AMX}
    return WIDEN_FROM


def compiled(weight: Weight) -> bool:
    """Whether the C++ kernels know this kind of matrix."""
    if isinstance(weight, Tensor):
        return weight.dtype == torch.bfloat16
    return not isinstance(weight, Int4) or weight.group % 32 == 0


def matrix(weight: Weight, out: int = 0) -> tuple[int, ...]:
    """The fields of `Matrix` in linear.h; `out` is the address of its results."""
    if isinstance(weight, Tensor):
        assert weight.is_contiguous()
        return BF16, weight.data_ptr(), 0, 0, weight.shape[0], 1, out
    assert weight.packed.is_contiguous()
    codes, N = weight.packed.data_ptr(), weight.shape[0]
    if isinstance(weight, NF4):
        absmax, table = weight.absmax.data_ptr(), weight.table.data_ptr()
        return NF4_KIND, codes, absmax, table, N, weight.block, out
    assert weight.scale.is_contiguous() and weight.scale.dtype == torch.bfloat16
    if isinstance(weight, Int8):
        return INT8, codes, weight.scale.data_ptr(), 0, N, 1, out
    return INT4, codes, weight.scale.data_ptr(), 0, N, weight.group, out


@dataclass(frozen=True, slots=True)
class LinearOps:
    """Linear ops on float32 activations; what has another dtype goes to the reference.

    For int4 the activations are rounded to int8 in groups of 32, for int8 to int16 in blocks of 256
    (`reference.rounded`); bf16 and nf4 weights are multiplied in float32.
    """

    fork_join: int | None
    bf16_from: int  # tokens from which torch's bf16 GEMM is faster with bf16 weights
    widen_from: Mapping[Widenable, int]  # and with quantized ones, widened block by block
    project_of: Foreign
    widen_of: Foreign
    look_up_of: Foreign

    @classmethod
    def open(cls, library: Library) -> Self:
        """The ops of one compiled variant."""
        return cls(
            fork_join=library.fork_join,
            bf16_from=FEW + 1 if bf16_units() else NEVER,
            widen_from=widen_from(),
            project_of=library.function("project", "pi" + "plp" + "ll" + "i"),
            widen_of=library.function("widen_rows", "pi" + "plllp"),
            look_up_of=library.function("look_up_int8", "pppplll", "l"),
        )

    def linear(self, x: Tensor, weight: Weight, bias: Tensor | None = None) -> Tensor:
        """See `reference.linear`. `weight` contiguous; fast where it is bf16 or quantized.

        On a CPU with bf16 units, `x` of many tokens is rounded to bf16.
        """
        if x.dtype != torch.float32 or not compiled(weight):
            return reference.linear(x, weight, bias)
        (out,) = self.project(x, (weight,))
        return out if bias is None else out.add_(bias)

    def project(self, x: Tensor, weights: tuple[Weight, ...]) -> tuple[Tensor, ...]:
        """See `reference.project`. One call, and one reading of `x`, for all matrices."""
        if x.dtype != torch.float32 or not all(map(compiled, weights)):
            return reference.project(x, weights)
        x = x.contiguous()
        T = x.numel() // x.shape[-1]
        widened = [self._wide_from(weight) <= T for weight in weights]
        if not any(widened):
            return self._project(x, weights)
        wide = x.bfloat16()
        direct = tuple(w for w, is_wide in zip(weights, widened, strict=True) if not is_wide)
        results = iter(self._project(x, direct) if direct else ())
        return tuple(
            self._through_bf16(wide, weight) if is_wide else next(results)
            for weight, is_wide in zip(weights, widened, strict=True)
        )

    def project_swiglu(self, x: Tensor, gate: Weight, up: Weight) -> Tensor:
        """See `reference.project_swiglu`."""
        if x.dtype != torch.float32 or not (compiled(gate) and compiled(up)):
            return reference.project_swiglu(x, gate, up)
        T = x.numel() // x.shape[-1]
        if min(self._wide_from(gate), self._wide_from(up)) <= T:
            return reference.swiglu(*self.project(x, (gate, up)))
        return self._project(x.contiguous(), (gate, up), swiglu=True)[0]

    def rows(self, weight: Weight, ids: Tensor) -> Tensor:
        """See `reference.rows`. Compiled for int8."""
        if not isinstance(weight, Int8):
            return reference.rows(weight, ids)
        ids = ids.long().contiguous()
        N, K = weight.shape
        out = torch.empty(*ids.shape, K)
        wrong = self.look_up_of(
            weight.packed.data_ptr(),
            weight.scale.data_ptr(),
            ids.data_ptr(),
            out.data_ptr(),
            *(ids.numel(), N, K),
        )
        if wrong >= 0:
            raise IndexError(f"row {ids.flatten()[wrong]} of a matrix of {N}")
        return out

    def _wide_from(self, weight: Weight) -> int:
        return self.bf16_from if isinstance(weight, Tensor) else self.widen_from[type(weight)]

    def _project(
        self, x: Tensor, weights: tuple[Weight, ...], swiglu: bool = False
    ) -> tuple[Tensor, ...]:
        *lead, K = x.shape
        assert all(weight.shape[1] == K for weight in weights)
        outs = tuple(
            torch.empty(*lead, weight.shape[0]) for weight in weights[: 1 if swiglu else None]
        )
        fields: list[int] = []
        for i, weight in enumerate(weights):
            fields += matrix(weight, outs[i].data_ptr() if i < len(outs) else 0)
        self.project_of(
            self.fork_join,
            torch.get_num_threads(),
            longs(fields),
            len(weights),
            x.data_ptr(),
            x.numel() // K,
            K,
            swiglu,
        )
        return outs

    def _through_bf16(self, x: Tensor, weight: Weight) -> Tensor:
        """(..., K) bf16 -> (..., N) float32; quantized weights are widened block by block."""
        if isinstance(weight, Tensor):
            return F.linear(x, weight).float()
        N, K = weight.shape
        tokens = x.reshape(-1, K)
        out = torch.empty(len(tokens), N)
        count = max(1, min(N, WIDENED_BYTES // (2 * K)))
        block = torch.empty(count, K, dtype=torch.bfloat16)
        described = longs(matrix(weight))
        for first in range(0, N, count):
            taken = min(count, N - first)
            self.widen_of(
                self.fork_join,
                torch.get_num_threads(),
                described,
                *(first, taken, K),
                block.data_ptr(),
            )
            out[:, first : first + taken] = F.linear(tokens, block[:taken])
        return out.view(*x.shape[:-1], N)
