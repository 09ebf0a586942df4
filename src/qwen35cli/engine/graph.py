"""Decode steps captured in CUDA graphs: what changes lies on the device, and the host runs behind.

A graph is made for each number of tokens a step may have, and one more that also draws the next
token. Of those, the step after a token is on its way before the token is known here; where the
token turns out to be the last, that step is taken back.
"""

from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor

from qwen35cli.kernels.capture import captured
from qwen35cli.kernels.operands import (
    DELTA,
    DRAWN,
    FEW,
    KEPT,
    PARITY,
    START,
    Control,
    Drawing,
    TokenStep,
)
from qwen35cli.model.cache import Cache, DeltaCache, KVCache
from qwen35cli.model.qwen35 import Qwen35

from .sampling import Sampler, Sampling

RING: Final = 16  # drawn tokens that are kept for the host, which is one behind
UNIFORMS: Final = 4_096  # random numbers on the device, renewed by halves


class Stepper:
    """Steps of a model with a cache, whose lengths it moves on.

    On a CPU, where Triton is interpreted, each step runs as it is called.
    """

    def __init__(self, model: Qwen35, cache: Cache, step: TokenStep) -> None:
        self.model, self.cache, self.device = model, cache, model.device
        self.control = Control.on(self.device)
        self._step = step
        self._reads: dict[int, Callable[[], Tensor]] = {}
        self._ahead: Ahead | None = None

    def read(self, ids: list[int]) -> Tensor:
        """Append up to `FEW` tokens: their logits, (T, V) float32.

        Raises:
            ValueError: there is no room; nothing has changed.
        """
        count = len(ids)
        self._check_room(count)
        self.prepare(count)
        self.control.ids[:count] = torch.tensor(ids)
        self.place()
        self.cache.advance(count)
        return self._reads[count]()

    def prepare(self, count: int) -> None:
        """Make the graph of a step of so many tokens, if there is none yet."""
        if count not in self._reads:
            self._reads[count] = self.captured(lambda: self._step(self.control, count))

    def _check_room(self, tokens: int) -> None:
        for layer in self.cache.layers:
            if isinstance(layer, KVCache) and layer.length + tokens > layer.capacity:
                raise ValueError(f"{layer.length + tokens} tokens in a cache of {layer.capacity}")

    def hidden(self, tokens: int) -> Tensor:
        """States after the final norm of the step that was read last, (1, tokens, D)."""
        return self._step.hidden(tokens)

    def tensors(self) -> list[Tensor]:
        """All memory on the device that steps and draws take beside weights and caches."""
        drawing = [] if self._ahead is None else self._ahead.drawing.tensors()
        return [self.control.ids, self.control.numbers, *self._step.tensors(), *drawing]

    def ahead(self, sampler: Sampler) -> "Ahead | None":
        """Steps that draw as `sampler` would; None where the device cannot."""
        make = self.model.kernels.draws
        if make is None:
            return None
        if self._ahead is None:
            rows = self.model.config.text.vocab_size
            with torch.inference_mode(False):  # what is made here is written outside of that
                drawing = make(self.device, rows, sampler.vocab_size, UNIFORMS, RING)
                self._ahead = Ahead(self, drawing, self._step)
        return self._ahead if self._ahead.drawing.serves(sampler.sampling) else None

    def place(self) -> None:
        """Tell the device where the caches stand."""
        numbers = torch.zeros(DRAWN, dtype=torch.int32)
        numbers[START], numbers[DELTA] = self.cache.length, self.cache.position_delta
        for layer in self.cache.layers:
            if isinstance(layer, DeltaCache):
                numbers[KEPT], numbers[PARITY] = layer.kept, layer.last
        self.control.numbers[:DRAWN] = numbers

    def captured(self, run: Callable[[], Tensor]) -> Callable[[], Tensor]:
        """`run` as a graph. It runs once before, where the caches stand, and leaves no trace there:
        what it writes lies behind their ends, in logs of which nothing is kept.

        Raises:
            ValueError: there is no room behind their ends.
        """
        if self.device.type != "cuda":
            return run
        self._check_room(FEW)
        self.place()
        self.control.numbers[KEPT] = 0
        return captured(run, self.device)


class Ahead:
    """Steps that draw their token on the device, one ahead of what the host knows.

    After `start`, `launch` reads the token drawn last and draws the next; `token` waits for one.
    """

    def __init__(self, stepper: Stepper, drawing: Drawing, step: TokenStep) -> None:
        self.stepper, self.drawing = stepper, drawing
        cuda = stepper.device.type == "cuda"
        self._events = [new_event() for _ in range(RING)] if cuda else None
        self._random: torch.Generator | None = None
        self._drawn = 0
        self._logits: Tensor | None = None

        def run() -> Tensor:
            logits = step(stepper.control, 1)[0]
            drawing(logits, stepper.control, 1)
            return logits

        drawing.begin(Sampling(temperature=0))
        self._run = stepper.captured(run)

    def start(self, logits: Tensor, sampler: Sampler) -> None:
        """Draw the first token from (V,) logits, behind those that `sampler` knows of.

        It draws nothing itself meanwhile; the tokens that are drawn here are for it to `take`.
        """
        self._random, self._drawn = sampler.random(), 0
        stepper, drawing = self.stepper, self.drawing
        drawing.begin(sampler.sampling, sampler.generated)
        drawing.uniforms.copy_(torch.rand(len(drawing.uniforms), generator=self._random))
        stepper.control.numbers[DRAWN] = 0
        drawing(logits, stepper.control, 1)
        stepper.place()
        self._mark()

    def launch(self) -> None:
        """Read the token drawn last, and draw the next. The caches have room for it."""
        assert self._random is not None
        half = UNIFORMS // 2
        if self._drawn % half == 0:  # the half before the one that is being drawn from now
            first = self._drawn // half % 2 * half
            ahead = torch.rand(half, generator=self._random)
            self.drawing.uniforms[half - first : UNIFORMS - first] = ahead.to(
                self.stepper.device, non_blocking=True
            )
        self.stepper.cache.advance(1)
        self._logits = self._run()
        self._mark()

    @property
    def logits(self) -> Tensor:
        """Of the step launched last, (V,) float32: what its token was drawn from."""
        assert self._logits is not None
        return self._logits

    def token(self, number: int) -> int:
        """The token of a draw, counted from `start`; waits until it is there."""
        assert self._drawn - 2 <= number < self._drawn
        if self._events is not None:
            self._events[number % RING].synchronize()
        return int(self.drawing.ring[number % RING])

    def _mark(self) -> None:
        if self._events is not None:
            self._events[self._drawn % RING].record()
        self._drawn += 1


def new_event() -> torch.cuda.Event:
    return torch.cuda.Event()  # type: ignore[no-untyped-call]
