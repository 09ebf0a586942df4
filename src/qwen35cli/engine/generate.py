"""The plain loop: the specification of decoding."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

from torch import Tensor

from .runner import Prefill, Prompt

Finish = Literal["stop", "length", "context"]


@dataclass(frozen=True, slots=True)
class Step:
    """One generated token; `finish` says why it is the last."""

    token: int
    finish: Finish | None


def finish_of(
    token: int, produced: int, *, stop: frozenset[int], max_tokens: int | None, full: bool
) -> Finish | None:
    """Why a token is the last, if it is.

    Args:
        produced: tokens so far, this one too.
        full: no step has room to read it.
    """
    if token in stop:
        return "stop"
    if produced == max_tokens:
        return "length"
    return "context" if full else None


class Decoder(Protocol):
    """What the loop needs of a `Runner`."""

    @property
    def length(self) -> int: ...
    @property
    def capacity(self) -> int: ...
    def prefill(self, prompt: Prompt) -> Iterator[Prefill]: ...
    def step(self, token: int) -> Tensor: ...


class TokenSampler(Protocol):
    """Picks a token and remembers it."""

    def sample(self, logits: Tensor) -> int: ...


def generate(
    decoder: Decoder,
    prompt: Prompt,
    sampler: TokenSampler,
    *,
    stop: frozenset[int],
    max_tokens: int | None = None,
) -> Iterator[Prefill | Step]:
    """Read `prompt`, then yield tokens until a stop token (yielded, marked) or a limit.

    The caller owns the loop: closing the generator between two events ends the work, and the caches
    then hold the prompt and every yielded token but the last, which no step has read yet.

    Raises:
        ContextFullError: the prompt is longer than the context.
    """
    logits = None
    for progress in decoder.prefill(prompt):
        logits = progress.logits
        yield progress
    assert logits is not None
    produced = 0
    while True:
        token = sampler.sample(logits)
        produced += 1
        full = decoder.length == decoder.capacity
        finish = finish_of(token, produced, stop=stop, max_tokens=max_tokens, full=full)
        yield Step(token, finish)
        if finish is not None:
            return
        logits = decoder.step(token)
