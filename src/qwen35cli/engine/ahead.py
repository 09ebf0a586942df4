"""The plain loop with the device one token ahead of the host: the same tokens, without a wait."""

from collections.abc import Iterator

from torch import Tensor

from .generate import Step, finish_of, read
from .graph import Ahead
from .memory import Memory
from .runner import Prefill, Prompt, Runner
from .sampling import Sampler
from .steering import FREE, Steering, next_token


def run_ahead(
    runner: Runner | Memory,
    ahead: Ahead,
    prompt: Prompt,
    sampler: Sampler,
    *,
    stop: frozenset[int],
    max_tokens: int | None = None,
    steering: Steering = FREE,
) -> Iterator[Prefill | Step]:
    """`generate`, where the step after a token is on its way before the token is yielded.

    The device draws while `steering` leaves it free; where it does not the host draws, from the
    step that is on its way first. Closed between two events it leaves the caches as `generate`
    does. Interrupted while it waits, they may hold the last yielded token too.

    Args:
        ahead: of `runner`, and for `sampler`.

    Raises:
        ContextFullError: the prompt is longer than the context.
    """
    logits: Tensor | None = yield from read(runner, prompt)  # of the next token, if they are here
    behind = runner.length
    produced = before = 0  # tokens; those before the device took over
    try:
        while True:
            if logits is not None and steering.free:
                ahead.start(logits, sampler)
                logits, before = None, produced
            if logits is None:
                if produced + 1 != max_tokens and runner.length < runner.capacity:
                    ahead.launch()
                token = ahead.token(produced - before)
                sampler.take([token])
                steering.take(token)
            else:
                token = next_token(sampler, steering, logits)
            produced += 1
            full = behind + produced - 1 == runner.capacity
            finish = finish_of(
                token, produced, steering, stop=stop, max_tokens=max_tokens, full=full
            )
            yield Step(token, finish)
            if finish is not None:
                return
            if logits is not None:
                logits = runner.step(token)
            elif not steering.free:
                logits = ahead.logits
    finally:
        runner.cache.rollback(max(behind + produced - 1, behind, runner.length - 1))
