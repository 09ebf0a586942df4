"""The plain loop: the specification of decoding."""

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from .runner import Prefill, Prompt
from .steering import FREE, Finish, Steering, TokenSampler, next_token


@dataclass(frozen=True, slots=True)
class Step:
    """One generated token; `finish` says why it is the last."""

    token: int
    finish: Finish | None


def finish_of(
    token: int,
    produced: int,
    steering: Steering,
    *,
    stop: frozenset[int],
    max_tokens: int | None,
    full: bool,
) -> Finish | None:
    """Why a token is the last, if it is.

    Args:
        produced: tokens so far, this one too.
        steering: which knows of it.
        full: no step has room to read it.
    """
    if token in stop:
        return "stop"
    if steering.finish is not None:
        return steering.finish
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


def read(decoder: Decoder, prompt: Prompt) -> Generator[Prefill, None, Tensor]:
    """Read `prompt`; gives the logits of the token behind it."""
    logits = None
    for progress in decoder.prefill(prompt):
        logits = progress.logits
        yield progress
    assert logits is not None
    return logits


def generate(
    decoder: Decoder,
    prompt: Prompt,
    sampler: TokenSampler,
    *,
    stop: frozenset[int],
    max_tokens: int | None = None,
    steering: Steering = FREE,
) -> Iterator[Prefill | Step]:
    """Read `prompt`, then yield tokens until a stop token (yielded, marked) or a limit.

    The caller owns the loop: closing the generator between two events ends the work, and the caches
    then hold the prompt and every yielded token but the last, which no step has read yet.

    Args:
        steering: has a say in every token, and is told of it before it is yielded.

    Raises:
        ContextFullError: the prompt is longer than the context.
    """
    logits = yield from read(decoder, prompt)
    produced = 0
    while True:
        token = next_token(sampler, steering, logits)
        produced += 1
        full = decoder.length == decoder.capacity
        finish = finish_of(token, produced, steering, stop=stop, max_tokens=max_tokens, full=full)
        yield Step(token, finish)
        if finish is not None:
            return
        logits = decoder.step(token)
