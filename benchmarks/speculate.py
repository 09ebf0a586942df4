"""What drafting costs and brings, on weights of the real shapes.

    python -m benchmarks.speculate CHECKPOINT [--out FILE]

Random weights accept nothing, so the acceptance is forced: the sampler takes a draft with a given
probability, and another token else. Everything is measured in turn with plain decoding, so that a
machine whose speed wavers does not decide. The figures are medians.
"""

import argparse
import json
import random
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.decode import cpu_name
from qwen35cli.app.load import LoadOptions, load, open_model
from qwen35cli.engine.depth import MOST, Adaptive, Depth, Fixed, Rounds
from qwen35cli.engine.generate import Step, generate
from qwen35cli.engine.runner import Prompt, Runner
from qwen35cli.engine.speculate import speculate
from qwen35cli.model.cache import DeltaCache

PROMPT = 32  # tokens
TURNS = 12  # rounds of each depth
RUNS = 5  # pairs of runs
TOKENS = 64  # of each run


class ForcedRunner(Runner):
    """Shows the drafts of each round to a `ForcedSampler`."""

    shown: list[int]

    def look_ahead(self, token: int, count: int) -> tuple[list[int], Tensor]:
        drafts, logits = super().look_ahead(token, count)
        self.shown = list(drafts)
        return drafts, logits

    def step(self, token: int) -> Tensor:
        self.shown = []
        return super().step(token)


class ForcedSampler:
    """Takes the draft with a given probability; looks at the logits as argmax does."""

    def __init__(self, runner: ForcedRunner, acceptance: float) -> None:
        self.runner = runner
        self.acceptance = acceptance
        self.random = random.Random(0)

    def sample(self, logits: Tensor) -> int:
        token = int(logits.argmax())
        draft = self.runner.shown.pop(0) if self.runner.shown else None
        if draft is None:
            return token
        if self.random.random() < self.acceptance:
            return draft
        self.runner.shown.clear()
        return token if token != draft else draft + 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--acceptance", type=float, default=0.8)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    opened = open_model(LoadOptions(model=str(options.checkpoint), ctx=4_096, device="cpu"))
    loaded = load(opened, pictures=False, drafts=True)
    runner = loaded.runner
    runner.__class__ = ForcedRunner
    assert isinstance(runner, ForcedRunner)
    runner.shown = []
    figures: dict[str, Any] = {
        "machine": cpu_name(),
        "format": opened.checkpoint.format,
        "threads": options.threads,
        "kernels": opened.kernels.description,
        **round_costs(runner),
        **state_costs(runner),
    }
    for drafts in range(1, MOST + 1):
        gain, _ = gain_of(runner, options.acceptance, lambda drafts=drafts: Fixed(drafts))
        figures[f"gain_{drafts}_at_{options.acceptance}"] = gain
    auto, rounds = gain_of(runner, options.acceptance, Adaptive)
    figures[f"gain_auto_at_{options.acceptance}"] = auto
    figures["auto_rounds"] = rounds.count
    nothing, rounds = gain_of(runner, 0.0, Adaptive, tokens=200, runs=3)
    figures["gain_auto_at_0"] = nothing
    figures["auto_rounds_at_0"] = rounds.count
    text = json.dumps(figures, indent=1) + "\n"
    print(text, end="")
    if options.out:
        options.out.write_text(text)


def round_costs(runner: Runner) -> dict[str, Any]:
    """Seconds of a round of each number of drafts, over those of a plain step beside it."""
    runner.reset()
    for _ in runner.prefill(Prompt(tuple(range(100, 100 + PROMPT)))):
        pass
    seconds: list[list[float]] = [[] for _ in range(MOST + 1)]
    drafting: list[float] = []
    for _ in range(TURNS + 1):
        for drafts, taken in enumerate(seconds):
            start = time.perf_counter()
            runner.look_ahead(7, drafts)
            taken.append(time.perf_counter() - start)
            runner.keep(1)
        runner.look_ahead(7, 0)
        runner.keep(1)
        assert runner.drafter is not None
        start = time.perf_counter()
        with torch.inference_mode():
            runner.drafter.draft(7, 1)
            runner.drafter.undo()
        drafting.append(time.perf_counter() - start)
    plain, *rounds = (taken[1:] for taken in seconds)  # the first of each is a warm-up
    return {
        "plain_s": statistics.median(plain),
        "draft_s": statistics.median(drafting[1:]),
        **{
            f"round_cost_{drafts}": statistics.median(
                one / other for one, other in zip(taken, plain, strict=True)
            )
            for drafts, taken in enumerate(rounds, 1)
        },
    }


def state_costs(runner: Runner) -> dict[str, float]:
    """Seconds that copies of all delta states would add to a round, at the least: one each way."""
    states = [layer.state for layer in runner.cache.layers if isinstance(layer, DeltaCache)]
    copies = [torch.empty_like(state) for state in states]
    seconds = []
    for _ in range(TURNS):
        runner.step(7)  # a round lies between two copies: they come from memory
        start = time.perf_counter()
        for state, copy in zip(states, copies, strict=True):
            copy.copy_(state)
        seconds.append(time.perf_counter() - start)
    return {"state_copy_s": statistics.median(seconds[1:])}


def gain_of(
    runner: ForcedRunner, acceptance: float, make: Any, tokens: int = TOKENS, runs: int = RUNS
) -> tuple[float, Rounds]:
    """Tokens per second with drafts over those without, in turn; and the rounds of all runs."""
    rounds = Rounds()

    def timed(depth: Depth | None) -> float:
        """Seconds per token behind the first."""
        runner.reset()
        runner.shown = []
        prompt = Prompt(tuple(range(100, 100 + PROMPT)))
        sampler = ForcedSampler(runner, acceptance)
        common: Any = {"stop": frozenset(), "max_tokens": tokens}
        events = (
            generate(runner, prompt, sampler, **common)
            if depth is None
            else speculate(runner, prompt, sampler, depth=depth, rounds=rounds, **common)
        )
        start, made = 0.0, -1
        for event in events:
            if isinstance(event, Step):
                made += 1
                start = start or time.perf_counter()
        return (time.perf_counter() - start) / made

    pairs = [(timed(None), timed(make())) for _ in range(runs)]
    return statistics.median(plain / drafted for plain, drafted in pairs), rounds


if __name__ == "__main__":
    main()
