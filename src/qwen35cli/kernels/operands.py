"""What ops take besides plain tensors: quantized matrices, cached rows, the weights of a layer.

N is the number of outputs (rows) of a matrix, K of inputs. The tensors of a matrix have the layout
of the checkpoint's files (`quant/`), unless a backend's `prepare` has reordered them; only that
backend reads them then.
"""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Int4:
    """Symmetric 4-bit codes; `w = (code - 8) * scale` of its group along K."""

    packed: Tensor  # int32 (N, ceil(K / 8)): eight codes each, the first in the lowest bits
    scale: Tensor  # bf16 (N, ceil(K / group)), may be negative
    shape: tuple[int, int]  # (N, K)
    group: int


@dataclass(frozen=True, slots=True)
class Int8:
    """Symmetric 8-bit codes; `w = (code - 128) * scale` of its row."""

    packed: Tensor  # int32 (N, ceil(K / 4)): four codes each, the first in the lowest bits
    scale: Tensor  # bf16 (N, 1)
    shape: tuple[int, int]  # (N, K)


@dataclass(frozen=True, slots=True)
class NF4:
    """Indices into a table of 16 values; `w = table[index] * absmax` of its block."""

    packed: Tensor  # uint8 (N * K / 2, 1): two indices each, the first in the HIGH bits
    absmax: Tensor  # float32 (ceil(N * K / block),)
    table: Tensor  # float32 (16,), ascending
    shape: tuple[int, int]  # (N, K)
    block: int  # weights that share an absmax, counted over the flattened matrix


Weight = Tensor | Int4 | Int8 | NF4


@dataclass(frozen=True, slots=True)
class Int8Rows:
    """Cached keys or values in 8 bits; `x = code * scale` of its token and head."""

    codes: Tensor  # int8 (B, KV, S, Dh), -127 to 127
    scale: Tensor  # bf16 (B, KV, S)


Rows = Tensor | Int8Rows  # plain rows: (B, KV, S, Dh), any float dtype


@dataclass(frozen=True, slots=True)
class DeltaWeights:
    """What a DeltaNet layer holds between its projections. H value heads of V, C channels."""

    conv: Tensor  # (C, 1, W)
    a_log: Tensor  # (H,)
    dt_bias: Tensor  # (H,)
    norm: Tensor  # (V,) the factor itself, not an offset
    eps: float


@dataclass(frozen=True, slots=True)
class DeltaLog:
    """What repeats T steps of the delta rule on another state: `S = exp(g) S + k d^T`. Float32."""

    k: Tensor  # (B, T, G, K) keys
    d: Tensor  # (B, T, H, V) corrections
    g: Tensor  # (B, T, H) logarithms of the decay
