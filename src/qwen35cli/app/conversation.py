"""Questions in, pieces of answer out, and the memory of what was said."""

import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Literal

from qwen35cli.engine.ahead import run_ahead
from qwen35cli.engine.depth import Rounds
from qwen35cli.engine.generate import generate
from qwen35cli.engine.runner import Prefill, Prompt
from qwen35cli.engine.sampling import Sampler, Sampling
from qwen35cli.engine.speculate import speculate
from qwen35cli.errors import ContextFullError
from qwen35cli.images.preprocess import Patches
from qwen35cli.text.stream import Channel, Piece, Splitter
from qwen35cli.text.template import Message, Text, render

from .load import Loaded, Opened, memory_errors
from .question import Question

Finish = Literal["stop", "length", "context", "interrupted"]
ClosedBy = Literal["model", "off", "none"]
ROOM = 1_024  # tokens of answer that a hint makes room for


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """How a turn ended, with everything that was counted."""

    answer: str
    reasoning: str
    finish_reason: Finish
    closed_by: ClosedBy  # what ended the thinking
    prompt_tokens: int
    image_tokens: int
    reasoning_tokens: int
    answer_tokens: int
    context_tokens: int  # in the context after this turn
    thinking_s: float
    first_token_s: float | None  # from the question to the first token; None: there was none
    prefill_s: float
    decode_s: float
    total_s: float
    rounds: Rounds | None  # of drafts, where the answer was made with some

    @property
    def prefill_rate(self) -> float | None:
        """Prompt tokens per second."""
        return self.prompt_tokens / self.prefill_s if self.prefill_s else None

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


class Conversation:
    """What was said so far, and how the next answer is made.

    Attributes:
        result: of the last turn, however it ended; None before the first.
    """

    def __init__(self, opened: Opened, *, system: str | None, thinking: bool) -> None:
        self.opened = opened
        self.thinking = thinking
        self.result: Result | None = None
        self._system = Message("system", (Text(system),)) if system else None
        self._messages: list[Message] = []
        self._patches: list[Patches] = []

    def clear(self) -> None:
        """Forget everything but the system prompt."""
        self._messages.clear()
        self._patches.clear()

    def prompt(self, question: Question) -> Prompt:
        """The whole conversation with `question` at its end, as ids and pictures.

        Raises:
            ContextFullError: it leaves no room to answer.
        """
        messages = [*self._messages, question.message]
        if self._system:
            messages.insert(0, self._system)
        ids = render(messages, self.opened.tokenizer, thinking=self.thinking)
        _check_room(len(ids), self.opened)
        new = (picture.patches for picture in question.pictures)
        return Prompt(tuple(ids), (*self._patches, *new))

    def answer(
        self, loaded: Loaded, question: Question, sampling: Sampling, max_tokens: int
    ) -> Generator[Prefill | Piece | Thought, None, None]:
        """Progress while the prompt is read, then for each token the text it completes.

        Closing the iterator stops the answer. What was said until then is kept: the question once
        the first token was made, the answer as far as it came. `result` is set in every case.
        """
        turn = _Turn(thinking=self.thinking)
        prompt = self.prompt(question)
        splitter = Splitter(self.opened.tokenizer, thinking=self.thinking)
        stop = self.opened.tokenizer.stop_ids
        # Everything is read again each turn: the one place that turn memory will change.
        loaded.runner.reset()
        sampler = Sampler(sampling, self.opened.tokenizer.vocab_size)
        rounds = None
        if (depth := loaded.depth) is None:
            ahead = loaded.runner.ahead(sampler)
            if ahead is None:
                steps = generate(loaded.runner, prompt, sampler, stop=stop)
            else:
                steps = run_ahead(loaded.runner, ahead, prompt, sampler, stop=stop)
        else:
            rounds = Rounds()
            steps = speculate(loaded.runner, prompt, sampler, stop=stop, depth=depth, rounds=rounds)
        try:
            with memory_errors("answering"):
                for step in steps:
                    if isinstance(step, Prefill):
                        yield step
                        continue
                    yield from turn.take(step.token, splitter, stop)
                    if step.finish is not None:
                        turn.finish = step.finish
                    elif turn.answer_tokens >= max_tokens:
                        turn.finish = "length"
                        break
                yield turn.add(splitter.flush())
        finally:
            self.result = turn.result(prompt, self.opened, loaded.runner.length, rounds)
            if turn.first is not None:
                self._remember(question, self.result.answer)

    def _remember(self, question: Question, answer: str) -> None:
        self._messages.append(question.message)
        self._patches.extend(picture.patches for picture in question.pictures)
        if answer:
            self._messages.append(Message("assistant", (Text(answer),)))


class _Turn:
    """What is counted while an answer is made."""

    def __init__(self, *, thinking: bool) -> None:
        self.finish: Finish = "interrupted"  # until the model, or a limit, ends it
        self.first: float | None = None  # when the first token came
        self._closed_by: ClosedBy = "none" if thinking else "off"
        self._text: dict[Channel, list[str]] = {"reasoning": [], "answer": []}
        self._reasoning_tokens = 0
        self.answer_tokens = 0
        self._start = time.perf_counter()
        self._thought: float | None = None  # when the thinking was closed

    def take(
        self, token: int, splitter: Splitter, stop: frozenset[int]
    ) -> Iterator[Piece | Thought]:
        """Count `token` and give the text it completes, which may be none."""
        now = time.perf_counter()
        self.first = self.first or now
        channel = splitter.channel
        piece = self.add(splitter.feed(token))
        closed = channel != splitter.channel
        if closed:
            self._closed_by, self._thought = "model", now
        elif token in stop:
            pass
        elif channel == "reasoning":
            self._reasoning_tokens += 1
        elif self.answer_tokens or piece.text:  # not the blank line after the thinking
            self.answer_tokens += 1
        yield piece
        if closed:
            yield Thought(self._reasoning_tokens, now - self.first)

    def add(self, piece: Piece) -> Piece:
        self._text[piece.channel].append(piece.text)
        return piece

    def result(
        self, prompt: Prompt, opened: Opened, context_tokens: int, rounds: Rounds | None
    ) -> Result:
        end = time.perf_counter()
        first = self.first or end
        return Result(
            answer="".join(self._text["answer"]),
            reasoning="".join(self._text["reasoning"]).rstrip("\n"),
            finish_reason=self.finish,
            closed_by=self._closed_by,
            prompt_tokens=len(prompt.ids),
            image_tokens=sum(patches.tokens for patches in prompt.images),
            reasoning_tokens=self._reasoning_tokens,
            answer_tokens=self.answer_tokens,
            context_tokens=context_tokens,
            thinking_s=(self._thought or end) - first,
            first_token_s=None if self.first is None else first - self._start,
            prefill_s=first - self._start,
            decode_s=end - first,
            total_s=end - self._start,
            rounds=rounds,
        )


def _check_room(tokens: int, opened: Opened) -> None:
    """Refuse a prompt that leaves no room for an answer. Nothing is ever cut."""
    if tokens <= opened.ctx:
        return
    fits = f"--ctx {tokens + ROOM} fits" if tokens + ROOM <= opened.largest_ctx else ""
    raise ContextFullError(
        f"the prompt has {tokens:,} tokens, the context {opened.ctx:,}: {tokens - opened.ctx:,} "
        "too many, before any room to answer; nothing was cut",
        fits or f"shorten it: at most {opened.largest_ctx:,} tokens fit",
    )
