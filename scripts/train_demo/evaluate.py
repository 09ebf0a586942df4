"""Ask a checkpoint what it was not trained on: `python -m scripts.train_demo.evaluate [--n 200]`.

Everything goes the way of the program: its loader, tokenizer, template, preprocessing and engine,
with the weights of the file. Questions come from the held-out phrasings, pairs and code words, and
pictures from other seeds than those of training. Prints a table and one line of JSON.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from random import Random

import torch
from torch import Tensor

from qwen35cli.app.load import Loaded, LoadOptions, load, open_model
from qwen35cli.engine.generate import Step, generate
from qwen35cli.engine.runner import Prompt
from qwen35cli.engine.sampling import Sampler, Sampling, choose
from qwen35cli.model.cache import KVCache
from qwen35cli.model.qwen35 import Qwen35
from qwen35cli.model.rotary import prompt_positions
from qwen35cli.text.tokenizer import Tokenizer

from .batches import Sample, said, to_sample
from .tasks import Kind, Talk, make_talk, recall_turns

RECALL_LENGTHS = (250, 500, 1_000, 2_000, 4_000)  # tokens of prompt
MAX_TOKENS = 160
TOKENS_PER_SENTENCE = 9


@dataclass
class Tally:
    """Answers asked for and right, drafts made and accepted."""

    asked: int = 0
    right: int = 0

    def add(self, right: bool) -> None:
        self.asked += 1
        self.right += right

    @property
    def share(self) -> float:
        return self.right / max(1, self.asked)


@dataclass(frozen=True)
class Answer:
    """What came back: the tokens, and the text after the think block."""

    tokens: list[int]
    text: str
    stopped: bool


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--n", type=int, default=200, help="questions of each kind")
    parser.add_argument("--seed", type=int, nargs="+", default=[1], help="n questions of each")
    parser.add_argument("--preset", help="sample with this preset instead of taking the likeliest")
    parser.add_argument("--wrong", action="store_true", help="show what went wrong")
    args = parser.parse_args()
    torch.set_num_threads(1)
    loaded = load(open_model(LoadOptions(model=args.model, device="cpu")), drafts=True)
    start, drafts = time.monotonic(), [Tally(), Tally()]
    figures: dict[str, Tally] = {}
    asked = (questions(args.n, seed, loaded.opened.tokenizer) for seed in args.seed)
    for name, talks in chain.from_iterable(asked):
        tally = figures.setdefault(name, Tally())
        for number, talk in enumerate(talks):
            sample = to_sample(talk, loaded.opened.tokenizer)
            sampling = (
                choose(args.preset, thinking=talk.thinking, seed=number, given={})
                if args.preset
                else Sampling(temperature=0)
            )
            answer = ask(loaded, sample, sampling)
            right = answer.stopped and is_right(talk, answer.text)
            tally.add(right)
            if args.wrong and not right:
                wanted = said(talk, talk.turns[-1])
                question = talk.turns[-1].question[-60:]
                sys.stderr.write(f"{name}: {question!r}\n  {wanted!r}\n  {answer.text!r}\n")
            if number < 40 and len(sample.ids) < 1_500:
                count_drafts(loaded.runner.model, sample, answer, drafts)
    for name, tally in figures.items():
        sys.stdout.write(f"{name:24} {tally.share:7.1%}  of {tally.asked}\n")
    for place, tally in enumerate(drafts, 1):
        sys.stdout.write(f"draft {place} accepted         {tally.share:7.1%}  of {tally.asked}\n")
    line = {name: {"share": round(t.share, 4), "n": t.asked} for name, t in figures.items()}
    line |= {
        f"draft {i}": {"share": round(t.share, 4), "n": t.asked} for i, t in enumerate(drafts, 1)
    }
    line |= {"seconds": round(time.monotonic() - start), "preset": args.preset or "greedy"}
    line |= {"seeds": args.seed}
    sys.stdout.write(json.dumps(line) + "\n")


def questions(count: int, seed: int, tokenizer: Tokenizer) -> Iterator[tuple[str, Iterator[Talk]]]:
    """Held-out talks by kind; sums with and without thinking, recall by length."""
    for kind in ("faq", "sum", "picture"):
        for thinking in (True, False):
            name = f"{kind}, {'thinking' if thinking else 'at once'}"
            yield name, _talks(kind, thinking, count // 2, Random(f"{seed} {name}"))
    for length in RECALL_LENGTHS:
        rng = Random(f"{seed} recall {length}")
        yield (
            f"recall, {length:,} tokens",
            (_recall(length, rng, tokenizer) for _ in range(max(1, count // len(RECALL_LENGTHS)))),
        )


def _talks(kind: Kind, thinking: bool, count: int, rng: Random) -> Iterator[Talk]:
    while count:
        talk = make_talk(kind, rng, held_out=True)
        if talk.thinking == thinking:
            count -= 1
            yield talk


def _recall(length: int, rng: Random, tokenizer: Tokenizer) -> Talk:
    """A prompt of 80 to 100 % of `length` tokens, a code word anywhere in it."""
    while True:
        turns = recall_turns(rng, True, length // TOKENS_PER_SENTENCE)
        talk = Talk("recall", tuple(turns), rng.random() < 0.5)
        if 0.8 * length <= to_sample(talk, tokenizer).prompt <= length:
            return talk


def is_right(talk: Talk, text: str) -> bool:
    """Whether the answer is the one wanted; of a sum only the result counts."""
    wanted = said(talk, talk.turns[-1])
    if talk.kind == "sum":
        return text.rsplit("= ", 1)[-1] == wanted.rsplit("= ", 1)[-1]
    return text == wanted


def ask(loaded: Loaded, sample: Sample, sampling: Sampling) -> Answer:
    """Generate after the prompt of a sample."""
    tokenizer, runner = loaded.opened.tokenizer, loaded.runner
    runner.reset()
    images = (sample.patches,) if sample.patches is not None else ()
    events = generate(
        runner,
        Prompt(tuple(sample.ids[: sample.prompt]), images),
        Sampler(sampling, tokenizer.vocab_size),
        stop=tokenizer.stop_ids,
        max_tokens=MAX_TOKENS,
    )
    tokens, stopped = [], False
    for event in events:
        if isinstance(event, Step):
            tokens.append(event.token)
            stopped = event.finish == "stop"
    shown = tokens[:-1] if stopped else tokens
    if tokenizer.special.end_think in shown:
        shown = shown[shown.index(tokenizer.special.end_think) + 1 :]
    text = b"".join(tokenizer.token_bytes(token) for token in shown)
    return Answer(tokens, text.decode(errors="replace").strip(), stopped)


@torch.inference_mode()
def count_drafts(model: Qwen35, sample: Sample, answer: Answer, drafts: list[Tally]) -> None:
    """Draft one and two tokens ahead at every place of the answer, as speculation would."""
    ids = sample.ids[: sample.prompt] + answer.tokens
    grids = [sample.patches.grid] if sample.patches is not None else []
    prompt, delta = prompt_positions(ids[: sample.prompt], model.config.image_token_id, grids, 2)
    later = torch.arange(sample.prompt, len(ids)) + delta
    positions = torch.cat([prompt, later.expand(3, 1, -1)], dim=-1)
    x = model.embed(torch.tensor([ids]))
    if sample.patches is not None:
        assert model.visual is not None
        here = torch.tensor(ids) == model.config.image_token_id
        x[0, here] = model.visual(sample.patches.pixels, grids)
    hidden = model.language_model(x, positions)
    assert model.mtp is not None
    text = model.config.text
    cache = KVCache(1, text.num_key_value_heads, len(ids) + 1, text.head_dim, torch.float32)
    start = sample.prompt - 1  # the first token of the answer is known; drafts begin behind it
    model.mtp(x[:, 1 : start + 1], hidden[:, :start], positions[..., :start], cache)
    for i in range(start, len(ids) - 2):
        state = model.mtp(
            x[:, i + 1 : i + 2], hidden[:, i : i + 1], positions[..., i : i + 1], cache
        )
        first = _likeliest(model, state)
        drafts[0].add(first == ids[i + 2])
        if first == ids[i + 2] and i + 3 < len(ids):
            kept = cache.length
            state = model.mtp(x[:, i + 2 : i + 3], state, positions[..., i : i + 1] + 1, cache)
            drafts[1].add(_likeliest(model, state) == ids[i + 3])
            cache.rollback(kept)


def _likeliest(model: Qwen35, state: Tensor) -> int:
    return int(model.logits(state[0, -1]).argmax())


if __name__ == "__main__":
    main()
