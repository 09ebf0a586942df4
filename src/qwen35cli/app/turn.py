"""What is counted and collected while an answer is made, and what is told of it in the end."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from qwen35cli.engine.depth import Rounds
from qwen35cli.engine.runner import Prompt
from qwen35cli.text.stream import Channel, Piece, Splitter
from qwen35cli.text.tokenizer import Tokenizer

Finish = Literal["stop", "length", "context", "loop", "interrupted"]
COUNTED = (
    "prompt_tokens",
    "cached_tokens",
    "image_tokens",
    "reasoning_tokens",
    "answer_tokens",
    "context_tokens",
)
ClosedBy = Literal["model", "budget", "loop", "off", "none"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """How a turn ended, with everything that was counted.

    Tokens and times are those of this time, where an answer was gone on with; texts with `whole`
    and the reasoning are of all times.
    """

    answer: str
    whole_answer: str
    reasoning: str
    finish_reason: Finish
    closed_by: ClosedBy  # what ended the thinking
    prompt_tokens: int
    cached_tokens: int  # of the prompt, that were not read again
    image_tokens: int
    reasoning_tokens: int
    answer_tokens: int
    context_tokens: int  # in the context after this turn
    first_token_s: float | None  # from the question to the first token; None: there was none
    prefill_s: float
    decode_s: float
    total_s: float
    rounds: Rounds | None  # of drafts, where the answer was made with some
    read_again: str | None  # why much was read that had been read before

    @property
    def new_tokens(self) -> int:
        """Tokens of the prompt that were read."""
        return self.prompt_tokens - self.cached_tokens

    @property
    def counts(self) -> dict[str, int]:
        """All that was counted in tokens."""
        return {name: getattr(self, name) for name in COUNTED}

    @property
    def prefill_rate(self) -> float | None:
        """Prompt tokens read per second."""
        return self.new_tokens / self.prefill_s if self.prefill_s else None

    @property
    def decode_rate(self) -> float | None:
        """Generated tokens per second, the first left out: the prefill made it."""
        tokens = self.reasoning_tokens + self.answer_tokens - 1
        return tokens / self.decode_s if tokens > 0 and self.decode_s else None


@dataclass(frozen=True, slots=True)
class Thought:
    """The thinking was closed after so many tokens and seconds."""

    tokens: int
    seconds: float
    closed_by: ClosedBy = "model"


class Progress:
    """Collects an answer token by token.

    Attributes:
        finish: why it ended: interrupted, until the model or a limit ends it.
        first: when the first token came.
        tokens: that came, the stop token too.
    """

    def __init__(self, tokenizer: Tokenizer, *, thinking: bool, prompt: Prompt) -> None:
        self.finish: Finish = "interrupted"
        self.closed_by: ClosedBy = "none" if thinking else "off"
        self.first: float | None = None
        self.tokens: list[int] = []
        self.answer_tokens = 0
        self._reasoning_tokens = 0
        self._prompt = prompt
        self._tokenizer = tokenizer
        self._splitter = Splitter(tokenizer, thinking=thinking)
        self._text: dict[Channel, list[str]] = {"reasoning": [], "answer": []}
        self._replayed = 0  # pieces of the answer from before
        self._answer_ids: list[int] = []
        self._start = time.perf_counter()

    def replay(self, token: int) -> None:
        """Take a token of the time before: its text counts, it does not."""
        channel = self._splitter.channel
        self._add(self._splitter.feed(token))
        if channel != self._splitter.channel:
            self.closed_by = "model"
        elif channel == "answer":
            self._answer_ids.append(token)
        self._replayed = len(self._text["answer"])

    def take(self, token: int, stop: frozenset[int]) -> Iterator[Piece | Thought]:
        """Count `token` and give the text it completes, which may be none."""
        now = time.perf_counter()
        self.first = self.first or now
        self.tokens.append(token)
        channel = self._splitter.channel
        piece = self._add(self._splitter.feed(token))
        closed = channel != self._splitter.channel
        if closed:
            self.closed_by = "model"
        elif token in stop:
            pass
        elif channel == "reasoning":
            self._reasoning_tokens += 1
        else:
            self._answer_ids.append(token)
            if self.answer_tokens or piece.text:  # not the blank line after the thinking
                self.answer_tokens += 1
        yield piece
        if closed:
            yield Thought(self._reasoning_tokens, now - self.first)

    def flush(self) -> Piece:
        """The unfinished rest of the text."""
        return self._add(self._splitter.flush())

    def cut(self, keep: int) -> None:
        """Let the answer be its first `keep` tokens, counted behind the thinking."""
        splitter = Splitter(self._tokenizer, thinking=False)
        pieces = [splitter.feed(token).text for token in self._answer_ids[:keep]]
        self._text["answer"] = ["".join([*pieces, splitter.flush().text]).lstrip("\n")]
        self._replayed = 0

    def _add(self, piece: Piece) -> Piece:
        self._text[piece.channel].append(piece.text)
        return piece

    def result(
        self, cached: int, context_tokens: int, rounds: Rounds | None, read_again: str | None
    ) -> Result:
        """What came of it.

        Args:
            cached: tokens of the prompt that were there already.
            context_tokens: in the context now.
            rounds: of drafts.
            read_again: why much was read again.
        """
        end = time.perf_counter()
        first = self.first or end
        answer = self._text["answer"]
        return Result(
            answer="".join(answer[self._replayed :]),
            whole_answer="".join(answer),
            reasoning="".join(self._text["reasoning"]).rstrip("\n"),
            finish_reason=self.finish,
            closed_by=self.closed_by,
            prompt_tokens=len(self._prompt.ids),
            cached_tokens=cached,
            image_tokens=sum(patches.tokens for patches in self._prompt.images),
            reasoning_tokens=self._reasoning_tokens,
            answer_tokens=self.answer_tokens,
            context_tokens=context_tokens,
            first_token_s=None if self.first is None else first - self._start,
            prefill_s=first - self._start,
            decode_s=end - first,
            total_s=end - self._start,
            rounds=rounds,
            read_again=read_again,
        )
