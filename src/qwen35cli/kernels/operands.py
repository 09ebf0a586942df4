"""What ops take besides plain tensors: quantized matrices, cached rows, the weights of a layer.

N is the number of outputs (rows) of a matrix, K of inputs. The tensors of a matrix have the layout
of the checkpoint's files (`quant/`), unless a backend's `prepare` has reordered them; only that
backend reads them then.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
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


FEW = 8  # tokens at most of a decode step or of the verification of drafts

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


def key_heads(channels: int, state: Tensor) -> int:
    """Of a DeltaNet layer with so many conv channels and a state of (B, H, K, V)."""
    H, K, V = state.shape[1:]
    return (channels - H * V) // (2 * K)


@dataclass(frozen=True, slots=True)
class DeltaLog:
    """What up to `FEW` tokens do to a delta layer's memory: `S = exp(g) S + k d^T`. Float32."""

    inputs: Tensor  # (B, FEW, C) rows that enter the convolution, in the dtype of the layer's rows
    k: Tensor  # (B, FEW, G, K) keys
    d: Tensor  # (B, FEW, H, V) corrections
    g: Tensor  # (B, FEW, H) logarithms of the decay


@dataclass(frozen=True, slots=True)
class Replay:
    """How a delta layer takes tokens that may be taken back: it carries out what stays of the last
    ones first, and of the new ones it only leaves a log. Source: ReplaySSM."""

    past: DeltaLog
    kept: int  # tokens of `past` that stay
    log: DeltaLog | None  # for the new tokens; None: too many, they are carried out


@dataclass(frozen=True, slots=True)
class DeltaMixer:
    """A DeltaNet layer with its memory."""

    project: tuple[Weight, ...]  # qkv, z, a, b
    weights: DeltaWeights
    out: Weight
    rows: Tensor  # (B, W - 1, C)
    state: Tensor  # (B, H, K, V) float32
    logs: DeltaLog | None = None  # both, stacked: (2, B, FEW, ...)


@dataclass(frozen=True, slots=True)
class AttentionMixer:
    """An attention layer with its memory. H query heads, KV key heads, of Dh."""

    project: tuple[Weight, ...]  # q with its gates, head by head; k; v
    q_norm: Tensor  # (Dh,)
    k_norm: Tensor
    heads: int
    out: Weight
    keys: Rows  # room for all tokens
    values: Rows


@dataclass(frozen=True, slots=True)
class BlockWeights:
    """A mixer and an MLP, each behind a norm and around a residual."""

    norm: Tensor  # (D,) as an offset from one
    post_norm: Tensor
    eps: float
    mixer: DeltaMixer | AttentionMixer
    gate: Weight
    up: Weight
    down: Weight


@dataclass(frozen=True, slots=True)
class StepWeights:
    """A whole model with its memory, for steps that find all that changes in device memory."""

    embedding: Weight  # (V, D)
    blocks: tuple[BlockWeights, ...]
    norm: Tensor  # (D,) as an offset from one
    eps: float
    head: Weight  # (V, D)
    frequencies: Tensor  # (R,) float32 of the rotation
    magnitude: float  # on its cosines and sines


# Of `Control.numbers`: tokens in the caches, what a position has on top of its index, tokens of the
# last log that stay, which of both logs that is, tokens drawn so far.
START, DELTA, KEPT, PARITY, DRAWN = range(5)


@dataclass(frozen=True, slots=True)
class Control:
    """What a step reads of where it stands; on the device, so that it can be captured once."""

    ids: Tensor  # (FEW,) int64 the tokens of the step
    numbers: Tensor  # int32, as `START` and the others count

    @classmethod
    def on(cls, device: torch.device) -> "Control":
        return cls(
            torch.zeros(FEW, dtype=torch.int64, device=device),
            torch.zeros(DRAWN + 1, dtype=torch.int32, device=device),
        )


@dataclass(frozen=True, slots=True)
class DraftWeights:
    """The MTP layer with its memory, and what it shares with the model."""

    embedding: Weight  # (V, D)
    embedding_norm: Tensor  # (D,) as an offset from one, and so the others
    hidden_norm: Tensor
    fc: Weight  # (D, 2 D)
    block: BlockWeights
    norm: Tensor
    eps: float
    head: Weight  # (V, D), all of it; what is drafted is among `Candidates`
    frequencies: Tensor  # (R,) float32 of the rotation
    magnitude: float  # on its cosines and sines


@dataclass(frozen=True, slots=True)
class Candidates:
    """Rows of the output head, and the ids that they stand for."""

    rows: Weight  # (N, D), ready to be multiplied with
    first: int  # the ids run from here
    ids: Tensor | None = None  # (N,) int64, where they do not run


class DraftLoop(Protocol):
    """All drafts of a round in one call."""

    pairs: int  # that a call takes at most

    def __call__(
        self,
        ids: Sequence[int],
        hidden: Tensor,
        position: int,
        start: int,
        count: int,
        candidates: Sequence[Candidates],
    ) -> list[int]:
        """The likeliest tokens after the last of `ids`, each from the one before.

        What the pairs and the drafts leave in the memory of the layer goes behind `start`.

        Args:
            ids: of P tokens of text, in a row.
            hidden: (1, P, D) the target's state, after its norm, of the token before each.
            position: of the token that the first state is of; the others follow.
            start: tokens that the memory holds.
            count: how many to draft.
            candidates: where the best is taken from; the first of equals.

        Returns:
            `count` ids.
        """
        ...


class Stack(Protocol):
    """All blocks of a model with their memories, compiled into one call."""

    def __call__(
        self, x: Tensor, cos: Tensor, sin: Tensor, start: int, replays: Sequence[Replay] | None
    ) -> Tensor:
        """What the blocks, one after the other, make of a few tokens.

        Args:
            x: (1, T, D), T at most `FEW`.
            cos, sin: (1, T, R).
            start: tokens that the memories hold; what is written goes behind them.
            replays: of each DeltaNet layer, where the tokens may be taken back.

        Returns:
            (1, T, D).
        """
        ...


class TokenStep(Protocol):
    """A decode step of a whole model that can be captured in a graph."""

    def __call__(self, control: Control, tokens: int) -> Tensor:
        """Read `tokens` (at most `FEW`) behind what the caches hold.

        Keys go behind the start, the delta layers leave a log; `control` stays as it is.

        Returns:
            (tokens, V) float32 logits, which the next step overwrites.
        """
        ...

    def hidden(self, tokens: int) -> Tensor:
        """Of the last step: (1, tokens, D) states after the final norm, in the activation dtype."""
        ...

    def tensors(self) -> list[Tensor]:
        """All memory that steps take beside weights and caches."""
        ...


@dataclass(frozen=True, slots=True)
class NoSteps:
    """Why a model is decoded op by op; None where its backend never does otherwise."""

    reason: str | None = None


class DrawOptions(Protocol):
    """What is read of `engine.sampling.Sampling`."""

    @property
    def temperature(self) -> float: ...
    @property
    def top_k(self) -> int: ...
    @property
    def top_p(self) -> float: ...
    @property
    def min_p(self) -> float: ...
    @property
    def presence_penalty(self) -> float: ...
    @property
    def repetition_penalty(self) -> float: ...


class Drawing(Protocol):
    """Draws of tokens on the device, which can be captured in a graph with the step before."""

    uniforms: Tensor  # (N,) float32 in [0, 1): draw n takes that at n % N
    ring: Tensor  # (R,) int32, of the host: the token of draw n is that at n % R; -1: no number

    def serves(self, options: DrawOptions) -> bool:
        """Whether tokens can be drawn so."""
        ...

    def begin(self, options: DrawOptions, seen: Collection[int] = ()) -> None:
        """Draw so from here on, the tokens in `seen` having been generated before."""
        ...

    def mark(self, tokens: Sequence[int], *, seen: bool) -> None:
        """These were generated too, or were not after all."""
        ...

    def tensors(self) -> list[Tensor]:
        """All memory on the device that draws take."""
        ...

    def __call__(self, logits: Tensor, control: Control, tokens: int) -> None:
        """Choose the token after the last of `tokens` from its logits (V,), put it in `control` as
        the next step's, and move `control` on to that."""
        ...
