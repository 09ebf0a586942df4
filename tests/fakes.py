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
from qwen35cli.engine.runner import Prefill, Prompt
from qwen35cli.errors import DoesNotFitError
from qwen35cli.images.resize import ImageLimits
from qwen35cli.kernels import select
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

    def token_bytes(self, token: int) -> bytes:
        return bytes([token]) if token < 256 else LITERALS[token - 256].encode()

    def is_added(self, token: int) -> bool:
        return token >= 256


class ScriptedDecoder:
    """Stands in for a Runner: whatever it reads, its logits name the next token of the script."""

    def __init__(self, turns: Sequence[Sequence[str]], capacity: int, chunk: int = 64) -> None:
        self.capacity = capacity
        self.length = 0
        self.op_by_op: str | None = None
        self.prompts: list[Prompt] = []  # every prompt that was read to its end
        self._chunk = chunk
        self._tokenizer = ByteTokenizer()
        self._turns = [list(turn) for turn in turns]
        self._script: Iterator[int] = iter(())

    def reset(self) -> None:
        self.length = 0

    def prefill(self, prompt: Prompt) -> Iterator[Prefill]:
        total = len(prompt.ids)
        turn = self._turns.pop(0)
        if turn[0] == CTRL_C:  # at the very start: while the prompt is read
            signal.raise_signal(signal.SIGINT)
            turn = turn[1:]
        self._script = self._tokens(turn)
        for stop in [*range(self._chunk, total, self._chunk), total]:
            self.length = stop
            if stop == total:
                self.prompts.append(prompt)
            yield Prefill(stop, total, self._logits() if stop == total else None)

    def ahead(self, sampler: object) -> None:
        """It draws nothing by itself."""

    def step(self, token: int) -> Tensor:
        self.length += 1
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


def fake_opened(*, ctx: int = 4_096, thinking: bool = False) -> Opened:
    """What `open_model` gives, with no checkpoint behind it."""
    cpu = torch.device("cpu")
    config = Config.from_dict(tiny_config())
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
    return Loaded(opened=opened, runner=decoder, load_s=0.5)  # type: ignore[arg-type]
