"""The products of a decode step launched in other ways, over matrices of random codes, and timed.

What `qwen35 tune` compares. A launch runs as in a step, with all that goes into it; from one launch
to the next the matrices change, so that none is read from the L2 cache.
"""

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final, Literal

import torch
import triton
from torch import Tensor

from qwen35cli.kernels.operands import FEW, Int4, Int8, Weight
from qwen35cli.kernels.tuned import MOST_AHEAD, MOST_EARLY, MOST_SPLIT, MOST_TILES, WARPS, Op

from .delta_step import parts
from .matvec import (
    Convolution,
    Gates,
    HeadSquares,
    Launch,
    Pieces,
    Stream,
    add,
    fitted,
    project,
    swiglu,
)
from .tiles import BLOCK, TILE

EPS: Final = 1e-6
CACHES: Final = 3  # times the L2 cache that all copies of the matrices take together
PASSES: Final = 2  # over the copies, in a graph
REPLAYS: Final = 7
FIRST_AHEAD: Final = 4  # blocks ahead at most, where only warps and split are looked for
BEST: Final = 3  # of those whose blocks ahead and tiles are looked for

Run = Callable[[], None]
Timer = Callable[[Launch, Sequence[Run]], float]  # seconds that each of the runs takes


@dataclass(frozen=True, slots=True)
class Product:
    """A launch of a step: what it does, over matrices (N, K) of which kind.

    Args:
        group: of int4, else 0.
        heads, width: of a DeltaNet layer's values; its projection then goes through a convolution
            and has gates, and what is added is normed head by head.
    """

    op: Op
    kind: Literal["int4", "int8", "bf16"]
    group: int
    shapes: tuple[tuple[int, int], ...]
    heads: int = 0
    width: int = 0

    @property
    def key(self) -> str:
        """What the table of launches calls it: `launches.key`."""
        bits = {"int4": 4, "int8": 8, "bf16": 16}[self.kind]
        return f"{self.op} {bits} {sum(N for N, _ in self.shapes)}x{self.shapes[0][1]}"


class Trials:
    """One product on a device, with copies of its matrices to be launched over in turn."""

    def __init__(
        self, product: Product, device: torch.device, copies: int, *, overlap: bool
    ) -> None:
        self.product, self.device, self.overlap = product, device, overlap
        self.copies = [self._matrices() for _ in range(copies)]
        self._launch = self._surroundings()

    @property
    def nbytes(self) -> int:
        """Bytes of matrices that a launch reads."""
        return sum(map(nbytes, self.copies[0]))

    def runs(self, launch: Launch) -> list[Run]:
        """A launch over each of the copies."""
        return [partial(self._launch, weights, launch) for weights in self.copies]

    def first(self) -> Iterator[Launch]:
        """Every number of warps and pieces that fits, with a few blocks ahead, one tile each."""
        for split in range(1, MOST_SPLIT + 1) if self.product.op == "add" else (1,):
            for warps in WARPS:
                for ahead in range(FIRST_AHEAD, 0, -1):
                    launch = Launch(warps, ahead, 1, split, overlap=self.overlap)
                    if self._fits(launch):
                        yield launch
                        break

    def near(self, launch: Launch) -> Iterator[Launch]:
        """The same warps and pieces with every other number of blocks ahead and of tiles."""
        for tiles in range(1, MOST_TILES + 1) if self.product.op != "swiglu" else (1,):
            for ahead in range(1, MOST_AHEAD + 1):
                other = replace(launch, ahead=ahead, tiles=tiles)
                if other != launch and self._fits(other):
                    yield other

    def earlier(self, launch: Launch) -> Iterator[Launch]:
        """The same with all that is left of a warp's share fetched early, or half of it."""
        if self.overlap:
            left = self.fitted(replace(launch, early=MOST_EARLY)).early
            for early in sorted({left, left // 2} - {0}, reverse=True):
                yield replace(launch, early=early)

    def fitted(self, launch: Launch) -> Launch:
        """`launch` as it would run here."""
        return fitted(launch, self.copies[0])

    def _fits(self, launch: Launch) -> bool:
        return self.fitted(launch) == launch

    def _matrices(self) -> tuple[Weight, ...]:
        product = self.product
        return tuple(
            _random(product.kind, product.group, N, K, self.device) for N, K in product.shapes
        )

    def _surroundings(self) -> Callable[[tuple[Weight, ...], Launch], None]:
        """What a launch reads and writes besides, made once."""
        product, device = self.product, self.device
        (N, K), op = product.shapes[0], product.op
        if op == "add":
            x = _noise(device, FEW, K)
            before, after, pieces = self._stream(N), self._stream(N), Pieces.room(N, device)
            norm = torch.zeros(N, dtype=torch.bfloat16, device=device)
            heads = None
            if product.heads and parts(product.width) > 1:
                squares = torch.ones(FEW, product.heads, parts(product.width), device=device)
                heads = HeadSquares(squares, product.width, EPS)
            return lambda weights, launch: add(
                x, weights[0], before, after, norm, pieces, 1, launch, heads=heads
            )
        stream = self._stream(K)
        if op == "swiglu":
            inner = _noise(device, FEW, N)
            return lambda weights, launch: swiglu(
                stream, EPS, weights[0], weights[1], inner, 1, launch
            )
        width = sum(N for N, _ in product.shapes)
        if op == "head":
            logits = torch.empty(FEW, width, device=device)
            return lambda weights, launch: project(stream, EPS, weights, logits, 1, launch)
        if not product.heads:
            out = _noise(device, FEW, width)
            return lambda weights, launch: project(stream, EPS, weights, out, 1, launch)
        z = _noise(device, FEW, width - N)
        convolution = Convolution(
            _noise(device, N, 1, 4),
            _noise(device, 1, 3, N),
            _noise(device, 2, FEW, N),
            torch.empty(FEW, N, device=device),
            torch.zeros(8, dtype=torch.int32, device=device),
        )
        gates = Gates(
            _noise(device, product.heads, K),
            _noise(device, product.heads, K),
            torch.empty(FEW, 2 * product.heads, device=device),
        )
        return lambda weights, launch: project(
            stream, EPS, weights, z, 1, launch, convolution=convolution, gates=gates
        )

    def _stream(self, width: int) -> Stream:
        stream = Stream.room(width, self.device)
        stream.x.normal_()
        stream.scaled.normal_()
        stream.squares.fill_(TILE)
        return stream


def copies_of(product: Product, device: torch.device) -> int:
    """How many copies of its matrices leave no use to the L2 cache, as far as there is room."""
    each = sum(_bytes_of(product.kind, product.group, N, K) for N, K in product.shapes)
    if device.type != "cuda":
        return 2
    cache = torch.cuda.get_device_properties(device).L2_cache_size
    room = torch.cuda.mem_get_info(device)[0] // 2
    return max(1, min(1 + -(-CACHES * cache // each), room // each))


def graph_timer(device: torch.device) -> Timer:
    """Times runs on a GPU, captured in one graph: the median over some replays."""

    def time(launch: Launch, runs: Sequence[Run]) -> float:
        aside = torch.cuda.Stream(device)
        aside.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(aside):
            runs[0]()
        torch.cuda.current_stream(device).wait_stream(aside)
        torch.cuda.synchronize(device)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for _ in range(PASSES):
                for run in runs:
                    run()
        graph.replay()
        torch.cuda.synchronize(device)
        seconds = []
        for _ in range(REPLAYS):
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            graph.replay()
            end.record()
            end.synchronize()
            seconds.append(begin.elapsed_time(end) / 1e3 / (PASSES * len(runs)))
        return statistics.median(seconds)

    return time


def compiles_not(error: Exception) -> bool:
    """Whether this is what a launch raises that asks for more than there is, and does no harm."""
    if isinstance(error, torch.OutOfMemoryError | torch.AcceleratorError):
        return False
    if isinstance(error, triton.errors.TritonError):
        return True
    return isinstance(error, RuntimeError) and "PassManager" in str(error)


def nbytes(weight: Weight) -> int:
    """Bytes of a matrix as the kernels read it."""
    if isinstance(weight, Tensor):
        return weight.nbytes
    assert isinstance(weight, Int4 | Int8)
    return weight.packed.nbytes + weight.scale.nbytes


def _bytes_of(kind: str, group: int, N: int, K: int) -> int:
    if kind == "int4":
        return N * K // 2 + 2 * N * K // group
    return N * K + 2 * N if kind == "int8" else 2 * N * K


def _random(kind: str, group: int, N: int, K: int, device: torch.device) -> Weight:
    """A matrix as the kernels read it: int4 in tiles, as `tiles.prepare` lays it out."""
    if kind == "bf16":
        return _noise(device, N, K)
    if kind == "int8":
        return Int8(_codes(device, N, K // 4), _noise(device, N, 1), (N, K))
    side = 1 if group == BLOCK else 2
    blocks = (N // TILE, K // BLOCK)
    packed = _codes(device, *blocks, 2, 32, 4)
    scale = _noise(device, *blocks, BLOCK // group // side, TILE, side)
    return Int4(packed, scale, (N, K), group)


def _codes(device: torch.device, *shape: int) -> Tensor:
    return torch.randint(-(2**31), 2**31 - 1, shape, dtype=torch.int32, device=device)


def _noise(device: torch.device, *shape: int) -> Tensor:
    return torch.randn(shape, device=device).mul_(0.01).bfloat16()
