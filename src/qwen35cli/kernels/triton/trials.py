"""The ways in which a product of a decode step can be launched: what `qwen35 tune` compares."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final, Literal

import torch
import triton

from qwen35cli.kernels.tuned import MOST_AHEAD, MOST_EARLY, MOST_SPLIT, MOST_TILES, WARPS, Op

from .launches import key_of
from .matvec import Launch, fit

FIRST_AHEAD: Final = 4  # blocks ahead at most, where only warps and split are looked for


@dataclass(frozen=True, slots=True)
class Product:
    """A launch of a step: what it does, over matrices (N, K) of which kind."""

    op: Op
    kind: Literal["int4", "int8", "bf16"]
    shapes: tuple[tuple[int, int], ...]

    @property
    def bits(self) -> int:
        """Of a weight."""
        return {"int4": 4, "int8": 8, "bf16": 16}[self.kind]

    @property
    def key(self) -> str:
        """What the table of launches calls it."""
        return key_of(self.op, self.bits, self.shapes)

    def fitted(self, launch: Launch) -> Launch:
        """`launch` as it would run."""
        return fit(launch, self.bits, self.shapes)


def first(product: Product, *, overlap: bool) -> Iterator[Launch]:
    """Every number of warps and pieces that fits, with a few blocks ahead, one tile each."""
    for split in range(1, MOST_SPLIT + 1) if product.op == "add" else (1,):
        for warps in WARPS:
            for ahead in range(FIRST_AHEAD, 0, -1):
                launch = Launch(warps, ahead, 1, split, overlap=overlap)
                if product.fitted(launch) == launch:
                    yield launch
                    break


def near(product: Product, launch: Launch) -> Iterator[Launch]:
    """The same warps and pieces with every other number of blocks ahead and of tiles."""
    for tiles in range(1, MOST_TILES + 1) if product.op != "swiglu" else (1,):
        for ahead in range(1, MOST_AHEAD + 1):
            other = replace(launch, ahead=ahead, tiles=tiles)
            if other != launch and product.fitted(other) == other:
                yield other


def earlier(product: Product, launch: Launch) -> Iterator[Launch]:
    """The same with all that is left of a warp's share fetched early, or half of it."""
    if launch.overlap:
        left = product.fitted(replace(launch, early=MOST_EARLY)).early
        for early in sorted({left, left // 2} - {0}, reverse=True):
            yield replace(launch, early=early)


def compiles_not(error: Exception) -> bool:
    """Whether this is what a launch raises that asks for more than there is, and does no harm."""
    if isinstance(error, torch.OutOfMemoryError | torch.AcceleratorError):
        return False
    if isinstance(error, triton.errors.TritonError):
        return True
    return isinstance(error, RuntimeError) and "PassManager" in str(error)
