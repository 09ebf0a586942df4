"""The plain loop with the device one token ahead of the host: the same tokens, without a wait."""

from collections.abc import Iterator

from .generate import Step, finish_of
from .graph import Ahead
from .runner import Prefill, Prompt, Runner
from .sampling import Sampler


def run_ahead(
    runner: Runner,
    ahead: Ahead,
    prompt: Prompt,
    sampler: Sampler,
    *,
    stop: frozenset[int],
    max_tokens: int | None = None,
) -> Iterator[Prefill | Step]:
    """`generate`, where the step after a token is on its way before the token is yielded.

    Closed between two events it leaves the caches as `generate` does. Interrupted while it waits,
    they may hold the last yielded token too.

    Args:
        ahead: of `runner`, and for `sampler`, which draws nothing itself.

    Raises:
        ContextFullError: the prompt is longer than the context.
    """
    logits = None
    for progress in runner.prefill(prompt):
        logits = progress.logits
        yield progress
    assert logits is not None
    read = runner.length
    ahead.start(logits, sampler)
    produced = 0
    try:
        while True:
            if produced + 1 != max_tokens and runner.length < runner.capacity:
                ahead.launch()
            token = ahead.token(produced)
            produced += 1
            full = read + produced - 1 == runner.capacity
            finish = finish_of(token, produced, stop=stop, max_tokens=max_tokens, full=full)
            yield Step(token, finish)
            if finish is not None:
                return
    finally:
        runner.cache.rollback(max(read + produced - 1, read, runner.length - 1))
