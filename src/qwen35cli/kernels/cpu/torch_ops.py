"""What torch's own ops give on a CPU: the backend of an install without a compiler.

Quantized matrices are multiplied by torch's weight-only ops where `prepare` could bring them into
the form these want, and are dequantized by blocks of rows where not.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from qwen35cli.kernels import reference
from qwen35cli.kernels.operands import NF4, Int4, Int8, Weight

WIDENED_BYTES = 4 << 20  # of float32 weights at once: they stay in the cache until multiplied
INT8_TOKENS = 16  # at most for torch's int8 op; more are faster in float32


def linear(x: Tensor, weight: Weight, bias: Tensor | None = None) -> Tensor:
    """See `reference.linear`. No whole copy of `weight` is made for float32 `x`.

    One token is multiplied in bf16, so `x` is rounded; more tokens in float32, by blocks of rows.
    Weights that `prepare` repacked are multiplied in bf16 whatever the tokens.
    """
    if x.dtype != torch.float32 or (isinstance(weight, Tensor) and weight.dtype != torch.bfloat16):
        return reference.linear(x, weight, bias)
    N, K = weight.shape
    rows = x.reshape(-1, K)  # (T, K)
    if isinstance(weight, Int4) and weight.packed.dtype == torch.uint8:
        out = torch.ops.aten._weight_int4pack_mm_for_cpu(
            rows.bfloat16(), weight.packed, weight.group, weight.scale
        ).float()
    elif (
        isinstance(weight, Int8) and weight.packed.dtype == torch.int8 and len(rows) <= INT8_TOKENS
    ):
        out = torch.ops.aten._weight_int8pack_mm(
            rows.bfloat16(), weight.packed, weight.scale[:, 0]
        ).float()
    elif isinstance(weight, Tensor) and len(rows) == 1:
        out = F.linear(rows.bfloat16(), weight).float()
    else:
        out = torch.empty(len(rows), N)
        for start, block in _blocks(weight):
            torch.mm(rows, block.T, out=out[:, start : start + len(block)])
    out = out if bias is None else out.add_(bias)
    return out.reshape(*x.shape[:-1], N)


def project(x: Tensor, weights: tuple[Weight, ...]) -> tuple[Tensor, ...]:
    """See `reference.project`."""
    return tuple(linear(x, weight) for weight in weights)


def project_swiglu(x: Tensor, gate: Weight, up: Weight) -> Tensor:
    """See `reference.project_swiglu`."""
    return reference.swiglu(linear(x, gate), linear(x, up))


def rows(weight: Weight, ids: Tensor) -> Tensor:
    """See `reference.rows`."""
    if isinstance(weight, Int8) and weight.packed.dtype == torch.int8:
        return F.embedding(ids, weight.packed).float() * F.embedding(ids, weight.scale).float()
    return reference.rows(weight, ids)


def prepare(weight: Weight) -> Weight:
    """The form of torch's weight-only ops, a copy: codes of `Int4` as uint8, of `Int8` as int8.

    Torch checks little of what these ops need, and without AVX2 they are slower than float32: what
    does not fit stays as it is in the file. The layout depends on the CPU and must not be stored.
    """
    if isinstance(weight, Tensor | NF4) or torch.backends.cpu.get_cpu_capability() == "DEFAULT":
        return weight
    N, K = weight.shape
    if isinstance(weight, Int8):
        if K % 32:  # others come back as garbage on AVX-512
            return weight
        codes = weight.packed.view(torch.uint8).view(N, K) ^ 0x80
        return Int8(codes.view(torch.int8), weight.scale, weight.shape)
    if weight.group not in (32, 64, 128, 256) or N % 16 or K % weight.group:
        return weight
    codes = reference.unpack(weight.packed, 4)
    packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes, 1)
    scale = weight.scale.bfloat16().T  # (K / group, N)
    scales_zeros = torch.stack([scale, torch.zeros_like(scale)], dim=-1).contiguous()
    assert scales_zeros.shape == (K // weight.group, N, 2)
    return Int4(packed, scales_zeros, weight.shape, weight.group)


def _blocks(weight: Weight) -> Iterator[tuple[int, Tensor]]:
    """Float32 rows of a matrix, a few at a time, each with the number of its first row."""
    N, K = weight.shape
    count = max(1, WIDENED_BYTES // (4 * K))
    if isinstance(weight, NF4):
        # Blocks of the flattened matrix, and pairs of codes, must not be torn.
        while (count * K) % (2 * weight.block):
            count += 1
    for start in range(0, N, count):
        stop = min(start + count, N)
        if isinstance(weight, Tensor):
            yield start, weight[start:stop].float()
        elif isinstance(weight, NF4):
            codes = weight.packed.flatten()[start * K // 2 : (stop * K + 1) // 2, None]
            absmax = weight.absmax[start * K // weight.block : -(-stop * K // weight.block)]
            shape = (stop - start, K)
            part = NF4(codes, absmax, weight.table, shape, weight.block)
            yield start, reference.dequantize(part)
        elif weight.packed.dtype == torch.int8:
            yield start, weight.packed[start:stop].float() * weight.scale[start:stop].float()
        elif isinstance(weight, Int8):
            codes = weight.packed[start:stop]
            yield (
                start,
                reference.dequantize(Int8(codes, weight.scale[start:stop], (stop - start, K))),
            )
        else:
            codes, scale = weight.packed[start:stop], weight.scale[start:stop]
            yield start, reference.dequantize(Int4(codes, scale, (stop - start, K), weight.group))
