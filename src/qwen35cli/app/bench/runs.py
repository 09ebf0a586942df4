"""The runs that are timed, and the context that they stand behind."""

import time
from typing import Final

import torch

from qwen35cli.app.load import Loaded
from qwen35cli.engine.ahead import run_ahead
from qwen35cli.engine.generate import Step, generate
from qwen35cli.engine.runner import Prompt, Runner
from qwen35cli.engine.sampling import Sampler, Sampling
from qwen35cli.kernels.operands import Int8Rows, Rows
from qwen35cli.model.cache import KVCache

UNTIMED: Final = 2  # tokens decoded before those that count
BLOCK: Final = 1_024  # rows of a cache that get numbers of their own


def _sampler(loaded: Loaded) -> Sampler:
    return Sampler(Sampling(temperature=0), loaded.opened.tokenizer.vocab_size)


def prefill(loaded: Loaded, tokens: int) -> float:
    """Seconds from a prompt to the first token behind it."""
    runner, sampler = loaded.runner, _sampler(loaded)
    config = runner.model.config
    known = min(config.text.vocab_size, loaded.opened.tokenizer.vocab_size, 50_000)
    drawn = torch.randint(known, (tokens,), generator=torch.Generator().manual_seed(0)).tolist()
    special = {config.image_token_id, config.video_token_id}
    ids = tuple(0 if token in special else token for token in drawn)
    runner.reset()
    if loaded.opened.device.type == "cuda":
        torch.cuda.synchronize(loaded.opened.device)
    start = time.perf_counter()
    for progress in runner.prefill(Prompt(ids)):
        if progress.logits is not None:
            sampler.sample(progress.logits)
    return time.perf_counter() - start


def speed(loaded: Loaded, ctx: int, count: int) -> float:
    """Tokens/s of so many tokens behind `ctx`, those before the clock starts left out."""
    runner, sampler = loaded.runner, _sampler(loaded)
    runner.reset()
    stand_at(runner, ctx - 1)  # a prompt of one token comes on top
    ahead = runner.ahead(sampler)
    most = count + UNTIMED
    loop = {"stop": frozenset[int](), "max_tokens": most}
    if ahead is None:
        events = generate(runner, Prompt((1,)), sampler, **loop)  # type: ignore[arg-type]
    else:
        events = run_ahead(runner, ahead, Prompt((1,)), sampler, **loop)  # type: ignore[arg-type]
    times = [time.perf_counter() for event in events if isinstance(event, Step)]
    return count / (times[-1] - times[-1 - count])


@torch.inference_mode()
def fill(runner: Runner) -> None:
    """Random keys and values wherever there is room."""
    for layer in runner.cache.layers:
        if isinstance(layer, KVCache):
            for rows in (layer.keys, layer.values):
                _fill(rows, layer.capacity)


def _fill(rows: Rows, capacity: int) -> None:
    """Numbers for the first `BLOCK` rows, and copies of them, which are made much faster."""
    parts = (rows.codes, rows.scale) if isinstance(rows, Int8Rows) else (rows,)
    first = min(BLOCK, capacity)
    if isinstance(rows, Int8Rows):
        rows.codes[:, :, :first].random_(-127, 128)
        rows.scale[:, :, :first].uniform_(0.005, 0.02)
    else:
        rows[:, :, :first].normal_()
    for part in parts:
        for start in range(first, capacity, first):
            stop = min(start + first, capacity)
            part[:, :, start:stop] = part[:, :, : stop - start]


def stand_at(runner: Runner, length: int) -> None:
    """Have the caches say that they hold so many tokens."""
    for layer in runner.cache.layers:
        layer.length = length
