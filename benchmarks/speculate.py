"""What drafting costs and brings, on weights of the real shapes.

    python -m benchmarks.speculate CHECKPOINT [--out FILE]
    python -m benchmarks.speculate demo --questions 45 [--out FILE]

Random weights accept nothing, so the acceptance is forced: the sampler takes a draft with a given
probability, and another token else. With `--questions` the model answers so many held-out ones of
the demo, and accepts what it does. Everything is measured in turn with plain decoding, so that a
machine whose speed wavers does not decide. The figures are medians, for answers sums.
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

from qwen35cli.app.doctor.machine import cpu_name
from qwen35cli.app.load import Loaded, LoadOptions, load, open_model
from qwen35cli.engine.depth import MOST, Adaptive, Depth, Fixed, Rounds
from qwen35cli.engine.generate import Step, generate
from qwen35cli.engine.graph import Checks
from qwen35cli.engine.runner import Prompt, Runner
from qwen35cli.engine.sampling import Sampler, Sampling
from qwen35cli.engine.speculate import speculate
from qwen35cli.model.cache import DeltaCache
from qwen35cli.model.sizes import COMMON
from scripts.train_demo.batches import to_sample
from scripts.train_demo.tasks import make_talk

PROMPT = 8  # tokens
TURNS = 12  # rounds of each depth
RUNS = 5  # pairs of runs
TOKENS = 50  # of each run
DECK = 10  # outcomes that are dealt before they are shuffled again


class ForcedRunner(Runner):
    """Shows the drafts of each round to a `ForcedSampler`."""

    shown: list[int]

    def look_ahead(
        self, token: int, count: int, checks: Checks | None = None
    ) -> tuple[list[int], Tensor]:
        drafts, logits = super().look_ahead(token, count, checks)
        self.shown = list(drafts)
        return drafts, logits

    def step(self, token: int) -> Tensor:
        self.shown = []
        return super().step(token)


class ForcedSampler:
    """Takes the draft with a given probability, else what argmax says of the common ids.

    Of each ten drafts at a depth that are looked at, the given share is right, in random order. Ids
    from all over the vocabulary, as random weights prefer them, would all join the shortlist.
    """

    def __init__(self, runner: ForcedRunner, acceptance: float) -> None:
        self.runner = runner
        self.acceptance = acceptance
        self.random = random.Random(0)
        self.decks: list[list[bool]] = [[] for _ in range(MOST)]
        self.depth = 0

    def _right(self) -> bool:
        deck = self.decks[self.depth]
        if not deck:
            right = round(self.acceptance * DECK)
            deck += [True] * right + [False] * (DECK - right)
            self.random.shuffle(deck)
        return deck.pop()

    def sample(self, logits: Tensor) -> int:
        token = int(logits[:COMMON].argmax())
        draft = self.runner.shown.pop(0) if self.runner.shown else None
        if draft is None:
            self.depth = 0
            return token
        if self._right():
            self.depth += 1
            return draft
        self.runner.shown.clear()
        self.depth = 0
        return token if token != draft else (draft + 1) % COMMON


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint")
    parser.add_argument("--questions", type=int)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--acceptance", type=float, default=0.8)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    opened = open_model(LoadOptions(model=options.checkpoint, ctx=4_096, device="cpu"))
    loaded = load(opened, pictures=False, drafts=True)
    figures: dict[str, Any] = {
        "machine": cpu_name(),
        "checkpoint": opened.source.name,
        "format": opened.checkpoint.format,
        "threads": options.threads,
        "kernels": opened.kernels.description,
    }
    if options.questions:
        figures |= answers(loaded, options.questions)
    else:
        figures |= forced(loaded.runner, options.acceptance)
    text = json.dumps(figures, indent=1) + "\n"
    print(text, end="")
    if options.out:
        options.out.write_text(text)


def forced(runner: Runner, acceptance: float) -> dict[str, Any]:
    """Costs of rounds, and gains at a given acceptance and at none."""
    runner.__class__ = ForcedRunner
    assert isinstance(runner, ForcedRunner)
    runner.shown = []
    figures: dict[str, Any] = {"acceptance": acceptance, **round_costs(runner)}
    figures |= state_costs(runner)
    for drafts in range(1, MOST + 1):
        gain, _ = gain_of(runner, acceptance, lambda drafts=drafts: Fixed(drafts))
        figures[f"gain_{drafts}"] = gain
    figures["gain_auto"], rounds = gain_of(runner, acceptance, Adaptive)
    figures["auto_rounds"] = rounds.count
    figures["gain_auto_at_0"], rounds = gain_of(runner, 0.0, Adaptive, tokens=200, runs=3)
    figures["auto_rounds_at_0"] = rounds.count
    return figures


def answers(loaded: Loaded, count: int) -> dict[str, Any]:
    """Wall time of whole answers, prompt included, over that of plain decoding; likewise behind
    the first token."""
    tokenizer, runner = loaded.opened.tokenizer, loaded.runner
    plain = Runner(runner.model, capacity=runner.capacity)
    rng, auto = random.Random(0), Adaptive()
    depths = {"plain": None, "auto": auto} | {f"{n}": Fixed(n) for n in range(1, MOST + 1)}
    whole, behind = (dict.fromkeys(depths, 0.0) for _ in range(2))
    rounds = {name: Rounds() for name in depths}
    tokens = 0
    for number in range(count):
        kind: Any = ("faq", "sum", "recall")[number % 3]
        sample = to_sample(make_talk(kind, rng, held_out=True, longest=40), tokenizer)
        prompt, made = Prompt(tuple(sample.ids[: sample.prompt])), []
        for name, depth in depths.items():
            engine = runner if depth else plain
            engine.reset()
            common: Any = {"stop": tokenizer.stop_ids, "max_tokens": 160}
            sampler = Sampler(Sampling(temperature=0), tokenizer.vocab_size)
            start = first = time.perf_counter()
            events = (
                speculate(engine, prompt, sampler, depth=depth, rounds=rounds[name], **common)
                if depth
                else generate(engine, prompt, sampler, **common)
            )
            answer = []
            for event in events:
                if isinstance(event, Step):
                    first = first if answer else time.perf_counter()
                    answer.append(event.token)
            end = time.perf_counter()
            if number >= count // 10:  # the first ones warm up
                whole[name] += end - start
                behind[name] += end - first
            made.append(answer)
        assert all(answer == made[0] for answer in made)
        tokens += len(made[0])
    return {
        "questions": count,
        "tokens": tokens,
        "plain_token_s": behind["plain"] / tokens,
        "acceptance": [round(share or 0.0, 4) for share in rounds[f"{MOST}"].acceptance],
        "auto_rounds": rounds["auto"].count,
        **{f"whole_gain_{name}": whole["plain"] / taken for name, taken in whole.items()},
        **{f"gain_{name}": behind["plain"] / taken for name, taken in behind.items()},
    }


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
