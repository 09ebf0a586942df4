"""Decode steps captured in CUDA graphs: what changes lies on the device, and the host runs behind.

A graph is made for each number of tokens a step may have, and one more that also draws the next
token. Of those, the step after a token is on its way before the token is known here; where the
token turns out to be the last, that step is taken back. Where drafts are checked, another graph
draws what follows each of the tokens.
"""

from collections.abc import Callable, Iterable, Sequence
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

from .sampling import Sampler, Sampling, no_numbers

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
        self._keys = [layer for layer in cache.layers if isinstance(layer, KVCache)]
        self.reads = Graphs(self, lambda count: step(self.control, count))
        self._drawing: Drawing | None = None
        self._ahead: Ahead | None = None
        self._checks: Checks | None = None

    def read(self, ids: list[int]) -> Tensor:
        """Append up to `FEW` tokens: their logits, (T, V) float32.

        Raises:
            ValueError: there is no room; nothing has changed.
        """
        self.reads.prepare(len(ids))
        self.append(ids)
        return self.reads(len(ids))

    def append(self, ids: list[int]) -> None:
        """Let the device know of the tokens of the next step, and move the caches on by them.

        Raises:
            ValueError: there is no room; nothing has changed.
        """
        if not self.has_room(len(ids)):
            layer = self._keys[0]
            raise ValueError(f"{layer.length + len(ids)} tokens in a cache of {layer.capacity}")
        self.control.ids[: len(ids)].copy_(torch.tensor(ids), non_blocking=True)
        self.place()
        self.cache.advance(len(ids))

    def launch(self, counts: Iterable[int], sampler: Sampler) -> None:
        """Launch steps of so many tokens and a draw as they are, in no graph; nothing is appended.

        For those who see to the launches themselves (`kernels/triton/kernel.py`).
        """
        drawing = self._draws(sampler)
        for count in counts:
            logits = self._step(self.control, count)
            if drawing is not None:
                drawing(logits[0], self.control, 1)

    def has_room(self, tokens: int) -> bool:
        return all(layer.length + tokens <= layer.capacity for layer in self._keys)

    def hidden(self, tokens: int) -> Tensor:
        """States after the final norm of the step that was read last, (1, tokens, D)."""
        return self._step.hidden(tokens)

    def tensors(self) -> list[Tensor]:
        """All memory on the device that steps and draws take beside weights and caches."""
        drawing = [] if self._drawing is None else self._drawing.tensors()
        return [self.control.ids, self.control.numbers, *self._step.tensors(), *drawing]

    def ahead(self, sampler: Sampler) -> "Ahead | None":
        """Steps that draw as `sampler` would; None where the device cannot, or where there is no
        room to make their graph."""
        drawing = self._draws(sampler)
        if drawing is None:
            return None
        if self._ahead is None:
            if not self.has_room(FEW):
                return None
            with torch.inference_mode(False):  # what is made here is written outside of that
                self._ahead = Ahead(self, drawing, self._step)
        return self._ahead

    def checks(self, sampler: Sampler) -> "Checks | None":
        """Steps of several tokens that draw as `sampler` would behind each; None likewise."""
        drawing = self._draws(sampler)
        if drawing is None:
            return None
        if self._checks is None:
            self._checks = Checks(self, drawing, self._step)
        self._checks.sampler = sampler
        return self._checks

    def _draws(self, sampler: Sampler) -> Drawing | None:
        """What draws as `sampler` would, if the device can."""
        make = self.model.kernels.draws
        if make is None:
            return None
        if self._drawing is None:
            rows = self.model.config.text.vocab_size
            with torch.inference_mode(False):
                self._drawing = make(self.device, rows, sampler.vocab_size, UNIFORMS, RING)
        return self._drawing if self._drawing.serves(sampler.sampling) else None

    def place(self) -> None:
        """Tell the device where the caches stand."""
        numbers = [0] * DRAWN
        numbers[START], numbers[DELTA] = self.cache.length, self.cache.position_delta
        for layer in self.cache.layers:
            if isinstance(layer, DeltaCache):
                numbers[KEPT], numbers[PARITY] = layer.kept, layer.last
        there = self.control.numbers[:DRAWN]
        there.copy_(torch.tensor(numbers, dtype=torch.int32), non_blocking=True)

    def captured(self, run: Callable[[], Tensor]) -> Callable[[], Tensor]:
        """`run` as a graph. It runs once before, where the caches stand, and leaves no trace there:
        what it writes lies behind their ends, in logs of which nothing is kept.
        """
        if self.device.type != "cuda":
            return run
        assert self.has_room(FEW)
        self.place()
        self.control.numbers[KEPT] = 0
        return captured(run, self.device)


class Graphs:
    """A step of any few tokens, as graphs that are made when they are first wanted."""

    def __init__(self, stepper: Stepper, run: Callable[[int], Tensor]) -> None:
        self._stepper, self._run = stepper, run
        self._made: dict[int, Callable[[], Tensor]] = {}

    def prepare(self, count: int) -> bool:
        """Make that of so many tokens, if there is none yet and the caches have room for it.

        Returns:
            Whether it had to be run once.
        """
        if count in self._made or not self._stepper.has_room(FEW):
            return False
        self._made[count] = self._stepper.captured(lambda: self._run(count))
        return True

    def __call__(self, count: int) -> Tensor:
        """Run it; at the end of the caches, where no graph could be made, launch by launch."""
        made = self._made.get(count)
        return self._run(count) if made is None else made()


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
        """The token of a draw, counted from `start`; waits until it is there.

        Raises:
            ModelError: its logits are no numbers.
        """
        assert self._drawn - 2 <= number < self._drawn
        if self._events is not None:
            self._events[number % RING].synchronize()
        return given(int(self.drawing.ring[number % RING]))

    def _mark(self) -> None:
        if self._events is not None:
            self._events[self._drawn % RING].record()
        self._drawn += 1


class Checks:
    """Steps that read a token and drafts of what follows it, and draw what does follow each.

    `begin` and `settle` tell of an answer and of what was taken of each step. `sampler`, for which
    it draws, draws nothing meanwhile: it is to `take` the tokens.
    """

    sampler: Sampler

    def __init__(self, stepper: Stepper, drawing: Drawing, step: TokenStep) -> None:
        self.stepper, self.drawing = stepper, drawing
        self._tokens: list[int] = []
        self._awaited = 0  # of them, which are on their way
        self._event = new_event() if stepper.device.type == "cuda" else None

        def run(count: int) -> Tensor:
            logits = step(stepper.control, count)
            for row in logits:
                drawing(row, stepper.control, 1)
            return logits

        self._reads = Graphs(stepper, run)

    def begin(self) -> None:
        """Draw behind the tokens that the sampler knows of."""
        self.drawing.begin(self.sampler.sampling, self.sampler.generated)
        self._tokens, self._awaited = [], 0

    def token(self, index: int) -> int:
        """Behind each token read last, if the drafts before it are right; waits for it.

        Raises:
            ModelError: its logits are no numbers.
        """
        return given(self._drawn()[index])

    def _drawn(self) -> list[int]:
        if self._awaited:
            if self._event is not None:
                self._event.synchronize()
            self._tokens, self._awaited = self.drawing.ring[: self._awaited].tolist(), 0
        return self._tokens

    def read(self, ids: list[int]) -> Tensor:
        """Append up to `FEW` tokens: logits behind each, (T, V) float32.

        Raises:
            ValueError: there is no room; nothing has changed.
        """
        if self._reads.prepare(len(ids)):
            self.begin()  # what it drew meanwhile never was
        self.stepper.append(ids)
        self.stepper.control.numbers[DRAWN] = 0
        if self.sampler.sampling.temperature != 0:
            uniforms = torch.rand(len(ids), generator=self.sampler.random())
            self.drawing.uniforms[: len(ids)] = uniforms
        logits = self._reads(len(ids))
        if self._event is not None:
            self._event.record()
        self._awaited = len(ids)
        return logits

    def settle(self, taken: Sequence[int]) -> None:
        """These tokens were taken: of those that the last step drew, as far as they were right, or
        others. The penalties count them, and no more."""
        known, drawn = self.sampler.generated, self._drawn()
        never = [token for token in drawn if token >= 0 and token not in known]
        self.drawing.mark(never, seen=False)
        self.drawing.mark([token for token in taken if token not in drawn], seen=True)
        self._tokens = []


def given(token: int) -> int:
    """What the device left of a draw, if that is a token.

    Raises:
        ModelError: the logits are no numbers.
    """
    if token < 0:
        raise no_numbers()
    return token


def new_event() -> torch.cuda.Event:
    return torch.cuda.Event()  # type: ignore[no-untyped-call]
