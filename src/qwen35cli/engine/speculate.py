"""Speculative decoding: the tokens of the plain loop, several from one look at the weights.

A round drafts tokens, reads them behind the last one in a single step, and then draws each next
token from the target as the plain loop does, for as long as the draft agrees. What is yielded thus
has the plain loop's distribution, whatever was drafted; and where a backend computes a token alike
however many are read with it (`Kernels.steps_alike`), the very same tokens.
"""

import time
from collections.abc import Iterator
from typing import Protocol

from torch import Tensor

from .depth import Depth, Rounds
from .generate import Decoder, Step, finish_of, read
from .graph import Checks
from .runner import Prefill, Prompt
from .steering import FREE, Finish, Steering, TokenSampler, next_token


class DraftingDecoder(Decoder, Protocol):
    """What the loop needs of a `Runner` that drafts."""

    def look_ahead(
        self, token: int, count: int, checks: Checks | None = None
    ) -> tuple[list[int], Tensor]: ...
    def keep(self, count: int) -> None: ...


def speculate(
    decoder: DraftingDecoder,
    prompt: Prompt,
    sampler: TokenSampler,
    *,
    stop: frozenset[int],
    depth: Depth,
    rounds: Rounds,
    max_tokens: int | None = None,
    steering: Steering = FREE,
    checks: Checks | None = None,
) -> Iterator[Prefill | Step]:
    """As `generate`, which see; closing it leaves the same caches.

    Args:
        checks: of the decoder, and for the sampler: draws on the device what follows each draft,
            for as long as `steering` leaves it free.
        depth: how many tokens each round drafts; fewer at the end of the budget or the context,
            none where the next token is known.
        rounds: what came of them is counted here.

    Raises:
        ContextFullError: the prompt is longer than the context.
    """
    logits = yield from read(decoder, prompt)
    produced = 1
    token = next_token(sampler, steering, logits)

    def ends(token: int, length: int) -> Finish | None:
        full = length == decoder.capacity
        return finish_of(token, produced, steering, stop=stop, max_tokens=max_tokens, full=full)

    finish = ends(token, decoder.length)
    yield Step(token, finish)
    if checks is not None:
        checks.begin()
    while finish is None:
        length = decoder.length
        left = decoder.capacity - length - 1
        if max_tokens is not None:
            left = min(left, max_tokens - produced - 1)
        count = depth.choose() if steering.forced() is None else 0  # nothing to guess
        drawing = checks if steering.free else None
        started = time.perf_counter()
        drafts, rows = decoder.look_ahead(token, min(count, left), drawing)
        seconds = time.perf_counter() - started
        taken: list[int] = []  # tokens of this round, each from the row before it
        try:
            for draft, logits in zip([*drafts, None], rows, strict=True):
                started = time.perf_counter()
                drawing = drawing if steering.free else None
                if drawing is None:
                    token = next_token(sampler, steering, logits)
                else:
                    token = drawing.token(len(taken))
                    sampler.take([token])
                    steering.take(token)
                seconds += time.perf_counter() - started
                taken.append(token)
                produced += 1
                finish = ends(token, length + len(taken))
                going_on = finish is None and token == draft
                if going_on:
                    yield Step(token, None)
                else:
                    break
        finally:
            started = time.perf_counter()
            decoder.keep(len(taken))
            if checks is not None:
                checks.settle(taken)
            seconds += time.perf_counter() - started
            if taken:
                looked = min(len(taken), len(drafts))
                accepted = len(taken) - 1 + (drafts[: len(taken)] == taken)
                depth.record(len(drafts), looked, accepted, seconds)
                rounds.record(len(drafts), looked, accepted, seconds)
        yield Step(token, finish)
