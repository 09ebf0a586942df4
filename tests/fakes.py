"""A tokenizer of bytes and a decoder that says what it is told, for tests without weights."""

import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace

import torch
from torch import Tensor

from qwen35cli.app.estimate import Estimate, Setting, planned
from qwen35cli.app.load import Loaded, Opened, Source
from qwen35cli.cli.signals import Stop
from qwen35cli.engine.memory import Memory
from qwen35cli.engine.runner import Prefill, Prompt, State
from qwen35cli.errors import DoesNotFitError
from qwen35cli.images.resize import ImageLimits
from qwen35cli.kernels import select
from qwen35cli.model.cache import Saved
from qwen35cli.model.config import Config
from qwen35cli.quant.plan import recipe
from qwen35cli.text.tokenizer import SpecialTokens
from tests.tiny import tiny_config

LITERALS = (
    *("<|im_start|>", "<|im_end|>", "<|endoftext|>"),
    *("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"),
    *("<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>"),
)
WAIT = "WAIT"  # in a script: the decoder stands still until a signal asked it to stop
STUCK = "STUCK"  # in a script: it stands still for good
CTRL_C = "CTRL_C"  # in a script: the user presses Ctrl-C
FAIL = "FAIL"  # in a script: memory runs out


class ByteTokenizer:
    """One token per byte of UTF-8, and the control tokens behind them."""

    def __init__(self) -> None:
        self.added = {literal: 256 + i for i, literal in enumerate(LITERALS)}
        self.special = SpecialTokens.from_added(self.added)
        self.stop_ids = frozenset({self.special.im_end, self.special.endoftext})
        self.vocab_size = 256 + len(LITERALS)

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def encode_marked(self, text: str, marks: Sequence[int]) -> tuple[list[int], list[int]]:
        return self.encode(text), [len(text[:mark].encode()) for mark in marks]

    def token_bytes(self, token: int) -> bytes:
        return bytes([token]) if token < 256 else LITERALS[token - 256].encode()

    def is_added(self, token: int) -> bool:
        return token >= 256


class ScriptedDecoder:
    """Stands in for a Runner: whatever it reads, its logits name the next token of the script."""

    def __init__(self, turns: Sequence[Sequence[str]], capacity: int, chunk: int = 64) -> None:
        config = fake_config()
        self.model = SimpleNamespace(config=config)
        self.cache = SimpleNamespace(reaches=lambda length: False)
        self.capacity = capacity
        self.drafter = None
        self.op_by_op: str | None = None
        self.prompts: list[Prompt] = []  # all that was there when an answer began
        self._ids: list[int] = []
        self._chunk = chunk
        self._tokenizer = ByteTokenizer()
        self._turns = [list(turn) for turn in turns]
        self._script: Iterator[int] = iter(())

    @property
    def length(self) -> int:
        return len(self._ids)

    def reset(self) -> None:
        self._ids.clear()

    def snapshot(self) -> State:
        return State(Saved(self.length, 0, (), None), None)

    def restore(self, state: State) -> None:
        del self._ids[state.length :]

    def check_room(self, tokens: int) -> None:
        assert tokens <= self.capacity

    def prefill(self, prompt: Prompt, *, logits: bool = True) -> Iterator[Prefill]:
        total, start = len(prompt.ids), self.length
        if self._turns and self._turns[0][0] == CTRL_C:  # while the prompt is read
            signal.raise_signal(signal.SIGINT)
            del self._turns[0][0]
        if logits:
            self._script = self._tokens(self._turns.pop(0))
        for stop in [*range(self._chunk, total, self._chunk), total]:
            self._ids[start:] = prompt.ids[:stop]
            if stop == total and logits:
                self.prompts.append(Prompt(tuple(self._ids)))
            yield Prefill(stop, total, self._logits() if stop == total and logits else None)

    def ahead(self, sampler: object) -> None:
        """It draws nothing by itself."""

    def step(self, token: int) -> Tensor:
        self._ids.append(token)
        return self._logits()

    def _logits(self) -> Tensor:
        logits = torch.full((self._tokenizer.vocab_size,), -1e6)
        logits[next(self._script)] = 1e6
        return logits

    def _tokens(self, turn: Sequence[str]) -> Iterator[int]:
        for item in turn:
            if item == WAIT:
                while not _stop_requested():
                    time.sleep(0.01)
            elif item == STUCK:
                while True:
                    signal.pause()
            elif item == CTRL_C:
                signal.raise_signal(signal.SIGINT)
            elif item == FAIL:
                raise DoesNotFitError("memory ran out", "--ctx 1k")
            elif item in LITERALS:
                yield self._tokenizer.added[item]
            else:
                yield from item.encode("utf-8", "surrogateescape")
        yield self._tokenizer.special.im_end


def _stop_requested() -> bool:
    """Read off the handler itself, so that a signal just before the question counts."""
    stop = getattr(signal.getsignal(signal.SIGINT), "__self__", None)
    return isinstance(stop, Stop) and stop.requested


def fake_config() -> Config:
    """Of a tiny model whose pictures are what `ByteTokenizer` takes for them."""
    return Config.from_dict(tiny_config() | {"image_token_id": ByteTokenizer().special.image_pad})


def fake_opened(*, ctx: int = 4_096, thinking: bool = False) -> Opened:
    """What `open_model` gives, with no checkpoint behind it."""
    cpu = torch.device("cpu")
    config = fake_config()
    setting = Setting(ctx=ctx, device="cpu")
    return Opened(
        source=Source("fake", Path(), None),
        checkpoint=SimpleNamespace(config=config, nbytes=0, format="bf16"),  # type: ignore[arg-type]
        tokenizer=ByteTokenizer(),  # type: ignore[arg-type]
        image_limits=ImageLimits(16, 2, 2, min_pixels=32 * 32, max_pixels=64 * 64),
        thinks_by_default=thinking,
        device=cpu,
        kernels=select(cpu, "reference"),
        estimate=Estimate(planned("fake", config, recipe("bf16")), setting),
        ctx=ctx,
        largest_ctx=2 * ctx,
    )


def fake_loaded(opened: Opened, turns: Sequence[Sequence[str]]) -> Loaded:
    """What `load` gives: a model that follows the script."""
    decoder = ScriptedDecoder(turns, opened.ctx)
    return Loaded(opened=opened, memory=Memory(decoder), load_s=0.5)  # type: ignore[arg-type]


class TimedSteps:
    """Decode steps whose time a function of key and launch says; what was asked for is noted."""

    def __init__(self, time):
        self._time = time
        self.compiled, self.measured = [], []

    def compile(self, key, launches):
        self.compiled.append(list(launches))

    def seconds(self, key, launch):
        self.measured.append(launch)
        return self._time(key, launch)
