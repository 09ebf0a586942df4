"""Questions in, pieces of answer out, and the turns that were taken.

What the model has read of them is the business of `engine/memory`: each turn hands it the whole
conversation, and it reads what is new. So taking back, editing or repeating a turn is a change to a
list.
"""

from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Self

from qwen35cli.engine.ahead import run_ahead
from qwen35cli.engine.depth import Rounds
from qwen35cli.engine.generate import Step, generate
from qwen35cli.engine.guards import AnswerGuard, ThinkingGuard
from qwen35cli.engine.memory import Memory
from qwen35cli.engine.runner import Prefill, Prompt
from qwen35cli.engine.sampling import Sampler, Sampling
from qwen35cli.engine.speculate import speculate
from qwen35cli.engine.steering import Constraint, Masked, Steering, Together
from qwen35cli.errors import ContextFullError, UsageError
from qwen35cli.text.stream import Piece
from qwen35cli.text.template import Message, Rendered, Text, rendered
from qwen35cli.text.tokenizer import Tokenizer

from . import budget
from .estimate import size
from .load import Loaded, Opened, memory_errors
from .question import Question
from .turn import ClosedBy, Finish, Progress, Result, Thought

ROOM = 1_024  # tokens of answer that a hint makes room for
WORTH_A_REASON = 64  # tokens read again, from which on it is said why

__all__ = ["Conversation", "Options", "Result", "Thought", "Turn"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How an answer is made."""

    sampling: Sampling
    max_tokens: int = 32_768  # of the answer alone
    think_budget: int | None = budget.BUDGET  # tokens; None for no limit
    answer_reserve: int | None = None  # tokens that the thinking leaves; None: a default that fits
    loop_guard: bool = True
    constraint: Constraint | None = None  # fresh, for one answer


@dataclass(slots=True, eq=False)
class Turn:
    """A question and what came of it.

    Attributes:
        thinking: the mode it was asked in.
        own_mode: which was said for this question alone.
        no_room: thinking was asked for, and the context leaves no room for it.
        answer: the visible text, as the next turns read it.
        finish: why it ended; None: there is no answer yet.
        tokens: all that was generated; empty where only the text is known.
        sampling: by which the tokens were drawn.
        counts: what was counted, by the names of `Result`.
    """

    question: Question
    thinking: bool
    own_mode: bool = False
    no_room: bool = False
    answer: str = ""
    reasoning: str = ""
    finish: Finish | None = None
    closed_by: ClosedBy = "none"
    tokens: list[int] = field(default_factory=list)
    sampling: Sampling | None = None
    counts: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Part:
    """What takes room in the context."""

    name: str
    tokens: int


@dataclass(frozen=True, slots=True)
class Guards:
    """What watches over an answer; `steering` is all of it together."""

    thinking: ThinkingGuard | None
    answer: AnswerGuard | None
    steering: Steering

    @classmethod
    def over(
        cls, thinks: bool, options: Options, shared: budget.Room | None, tokenizer: Tokenizer
    ) -> Self:
        """Guards over an answer that begins with thinking, or not."""
        end_think = tokenizer.special.end_think if thinks else None
        thinking = answer = None
        parts: list[Steering] = []
        if shared is not None:
            thinking = budget.thinking_guard(tokenizer, shared, loops=options.loop_guard)
            parts.append(thinking)
        if options.constraint is not None:
            opening = budget.opening(tokenizer)
            parts.append(Masked(options.constraint, end_think=end_think, opening=opening))
        elif options.loop_guard:
            answer = AnswerGuard(end_think=end_think)
            parts.append(answer)
        return cls(thinking, answer, Together(*parts))

    @property
    def closed_by(self) -> ClosedBy:
        """What ended the thinking that is over."""
        return (self.thinking and self.thinking.closed_by) or "model"


class Conversation:
    """What was said so far, and how the next answer is made.

    Attributes:
        thinking: the mode of the turns to come.
        turns: oldest first.
        result: of the last answer, however it ended; None before the first.
        reading_again: why the next turn may have to read what was read before.
    """

    def __init__(
        self,
        opened: Opened,
        *,
        system: str | None,
        thinking: bool,
        keep_thinking: bool = False,
        tools: Sequence[Mapping[str, object]] = (),
    ) -> None:
        self.opened = opened
        self.system = system
        self.thinking = thinking
        self.keep_thinking = keep_thinking
        self.tools = tools
        self.turns: list[Turn] = []
        self.result: Result | None = None
        self.reading_again: str | None = None

    # -- the turns ------------------------------------------------------------------------------

    def clear(self) -> None:
        """Forget everything but the system prompt."""
        self.turns.clear()

    def replace_system(self, text: str | None) -> None:
        """Say something else before the first question."""
        self.system = text or None
        self.reading_again = "system prompt changed"

    def undo(self, count: int = 1) -> list[Turn]:
        """Take back the last turns; they are given, oldest first.

        Raises:
            UsageError: there are not so many.
        """
        if not 1 <= count <= len(self.turns):
            raise UsageError(
                f"cannot take back {count:,} of {len(self.turns):,} turns"
                if self.turns
                else "there is no turn to take back",
                "/undo" if self.turns else "",
            )
        taken = self.turns[-count:]
        del self.turns[-count:]
        return taken

    def last(self) -> Turn:
        """The last turn.

        Raises:
            UsageError: nothing was asked yet.
        """
        if not self.turns:
            raise UsageError("nothing was asked yet")
        return self.turns[-1]

    def mode_again(self) -> bool:
        """Whether another answer to the last question is thought about first.

        Raises:
            UsageError: nothing was asked yet.
        """
        turn = self.last()
        return turn.thinking if turn.own_mode else self.thinking

    # -- prompts --------------------------------------------------------------------------------

    def prompt(self, question: Question, *, thinking: bool | None = None) -> Prompt:
        """The whole conversation with `question` at its end, as ids and pictures.

        Raises:
            ContextFullError: it leaves no room to answer.
        """
        return self._asking(self.turns, question, self._mode(thinking))[0]

    def context(self) -> list[Part]:
        """What fills the context now: the system prompt, and each turn with its pictures."""
        view = self._history(self.turns)
        if not self.turns:
            return [Part("system prompt", view.system)] if view.system else []
        return self._parts(view, [turn.question for turn in self.turns], view.messages[-1])

    def parts_of(self, question: Question) -> list[Part]:
        """The same, of the prompt with `question` at its end."""
        _, view = self._asking(self.turns, question, self.thinking)
        asked = [*(turn.question for turn in self.turns), question]
        return self._parts(view, asked, len(view.ids))

    def _parts(self, view: Rendered, asked: Sequence[Question], end: int) -> list[Part]:
        parts = [Part("system prompt", view.system)] if view.system else []
        messages = [*view.messages[1 if self.system else 0 :]]
        starts, at = [], 0
        for number in range(len(asked)):
            starts.append(messages[at])
            answered = number < len(self.turns) and self.turns[number].answer
            at += 2 if answered else 1
        starts[0] = max(starts[0], view.system)
        for number, (start, stop) in enumerate(pairwise([*starts, end]), 1):
            pictures = asked[number - 1].pictures
            tokens = sum(picture.patches.tokens for picture in pictures)
            for picture in pictures:
                parts.append(Part(f"turn {number}, {picture.name}", picture.patches.tokens))
            parts.append(Part(f"turn {number}", stop - start - tokens))
        return parts

    def _mode(self, thinking: bool | None) -> bool:
        return self.thinking if thinking is None else thinking

    def _messages(self, turns: Sequence[Turn]) -> list[Message]:
        messages = [Message("system", (Text(self.system),))] if self.system else []
        for turn in turns:
            messages.append(turn.question.message)
            if turn.answer:
                reasoning = turn.reasoning if turn.thinking else None
                messages.append(Message("assistant", (Text(turn.answer),), reasoning))
        return messages

    def _asking(
        self, turns: Sequence[Turn], question: Question, thinking: bool
    ) -> tuple[Prompt, Rendered]:
        view = rendered(
            [*self._messages(turns), question.message],
            self.opened.tokenizer,
            thinking=thinking,
            tools=self.tools,
            keep_thinking=self.keep_thinking,
        )
        _check_room(len(view.ids), self.opened)
        pictures = [picture for turn in turns for picture in turn.question.pictures]
        patches = tuple(picture.patches for picture in (*pictures, *question.pictures))
        kept = (view.system, view.turn)
        return Prompt(tuple(view.ids), patches, view.marks, kept), view

    def _history(self, turns: Sequence[Turn]) -> Rendered:
        """The turns as they stand before a next question, which is a last border in `messages`."""
        return rendered(
            [*self._messages(turns), Message("user", (Text("?"),))],
            self.opened.tokenizer,
            thinking=False,
            tools=self.tools,
            keep_thinking=self.keep_thinking,
        )

    # -- answers --------------------------------------------------------------------------------

    def answer(
        self,
        loaded: Loaded,
        question: Question,
        options: Options,
        *,
        thinking: bool | None = None,
        instead: bool = False,
    ) -> Generator[Prefill | Piece | Thought, None, None]:
        """Progress while the prompt is read, then for each token the text it completes.

        Closing the iterator stops the answer. What was said until then is kept: the question once
        the first token was made, the answer as far as it came. `result` is set in every case.

        Args:
            thinking: the mode of this turn, where it is not that of the conversation.
            instead: of the last turn, which goes when the answer begins.
        """
        turn = Turn(question, self._mode(thinking), own_mode=thinking is not None)
        if instead:
            yield from self._run_instead(loaded, turn, options)
        else:
            yield from self._run(loaded, turn, options, said=())

    def regenerate(
        self, loaded: Loaded, options: Options
    ) -> Generator[Prefill | Piece | Thought, None, None]:
        """Answer the last question again; the old answer goes when the new one begins.

        Raises:
            UsageError: nothing was asked yet.
        """
        old = self.last()
        turn = Turn(old.question, self.mode_again(), own_mode=old.own_mode)
        yield from self._run_instead(loaded, turn, options)

    def go_on(
        self, loaded: Loaded, options: Options
    ) -> Generator[Prefill | Piece | Thought, None, None]:
        """Go on with an answer, or its thinking, where it was cut; only the new text is yielded.

        Thinking in which the model ended is closed in its place, and an answer follows.

        Raises:
            UsageError: there is nothing to go on with.
        """
        old = self.last()
        if old.finish == "stop" and old.closed_by != "none":
            raise UsageError("the last answer is complete", "ask for more, or /regen")
        turn = replace(old, tokens=list(old.tokens), no_room=False)  # which was said
        said = old.tokens
        if not said or self.opened.tokenizer.special.image_pad in said:  # a mark of no picture
            said = self._spelled(old)
        if old.finish == "stop":
            tokenizer = self.opened.tokenizer
            thought = (token for token in said if token not in tokenizer.stop_ids)
            said = [*thought, *budget.closing(tokenizer)]
        options = replace(options, sampling=old.sampling or options.sampling)
        yield from self._run_instead(loaded, turn, options, said=said)

    def go_on_from(
        self, loaded: Loaded, text: str, options: Options
    ) -> Generator[Prefill | Piece | Thought, None, None]:
        """Put `text` in the place of the last answer and go on from its end."""
        old = self.last()
        edited = replace(old, answer=text, tokens=[], finish="interrupted", sampling=None)
        if text and old.closed_by == "none":  # it was cut in its thinking, which is over now
            edited.closed_by = "model"
        self.turns[-1] = edited
        yield from self.go_on(loaded, options)

    def settle(self, loaded: Loaded) -> Iterator[Prefill]:
        """Read the last answer as the next turns will see it, so that they need not.

        An answer that was cut waits: what was read until then is what `go_on` needs. And where none
        came out of the thinking there is nothing to read.
        """
        if not self.turns or self.turns[-1].finish not in ("stop", "loop"):
            return
        if not self.turns[-1].answer:
            return
        view = self._history(self.turns)
        length = view.messages[-1]
        marks = tuple(mark for mark in view.marks if mark <= length)
        patches = tuple(p.patches for turn in self.turns for p in turn.question.pictures)
        prompt = Prompt(tuple(view.ids[:length]), patches, marks, (view.system,))
        if length <= self.opened.ctx:
            with memory_errors("reading the answer"):
                yield from loaded.memory.prefill(prompt, logits=False)

    def _spelled(self, turn: Turn) -> list[int]:
        """The tokens of an answer of which only the text is known."""
        tokenizer = self.opened.tokenizer
        tokens = []
        if turn.thinking:
            tokens = tokenizer.encode(turn.reasoning)
            if turn.closed_by != "none":
                tokens += tokenizer.encode("\n") if turn.reasoning else []
                tokens += [tokenizer.special.end_think, *tokenizer.encode("\n\n")]
        return tokens + tokenizer.encode(turn.answer)

    def _run_instead(
        self, loaded: Loaded, turn: Turn, options: Options, *, said: Sequence[int] = ()
    ) -> Generator[Prefill | Piece | Thought, None, None]:
        """Make the answer of `turn` in the place of the last one, which stays where none begins."""
        old = self.turns.pop()
        try:
            yield from self._run(loaded, turn, options, said=said)
        finally:
            if turn not in self.turns:
                self.turns.append(old)

    def _run(
        self, loaded: Loaded, turn: Turn, options: Options, *, said: Sequence[int]
    ) -> Generator[Prefill | Piece | Thought, None, None]:
        """Make the answer of `turn`, from behind what it `said` already."""
        memory, tokenizer = loaded.memory, self.opened.tokenizer
        asked, view, shared = self._prepared(turn, options, said)
        guards = Guards.over(turn.thinking, options, shared, tokenizer)
        prompt = replace(asked, ids=(*asked.ids, *said))
        progress = Progress(tokenizer, thinking=turn.thinking, prompt=prompt)
        sampler = Sampler(options.sampling, tokenizer.vocab_size)
        sampler.take(said)
        for token in said:
            guards.steering.take(token)
            progress.replay(token)
        stop = tokenizer.stop_ids
        rounds = Rounds() if loaded.depth is not None else None
        steps = _steps(loaded, prompt, sampler, guards.steering, stop, rounds)
        try:
            with memory_errors("answering"):
                for step in steps:
                    if isinstance(step, Prefill):
                        yield step
                        continue
                    for event in progress.take(step.token, stop):
                        if isinstance(event, Thought):
                            event = replace(event, closed_by=guards.closed_by)
                        yield event
                    if step.finish is not None:
                        progress.finish = step.finish
                    elif progress.answer_tokens >= options.max_tokens:
                        progress.finish = "length"
                        break
                yield progress.flush()
        except GeneratorExit:
            raise
        except BaseException:
            memory.distrust()
            raise
        finally:
            steps.close()
            memory.follow(progress.tokens)
            if progress.closed_by == "model":
                progress.closed_by = guards.closed_by
            if guards.answer is not None and guards.answer.keep is not None:
                progress.cut(guards.answer.keep)
            again = self._why_again(view, memory)
            self.result = progress.result(memory.reused, memory.length, rounds, again)
            if progress.first is not None:
                looped = progress.finish == "loop"  # cut to one copy: only the text is right
                turn.tokens = [] if looped else [*said, *progress.tokens]
                turn.sampling = options.sampling
                turn.answer, turn.reasoning = self.result.whole_answer, self.result.reasoning
                turn.finish, turn.closed_by = self.result.finish_reason, self.result.closed_by
                turn.counts = self.result.counts
                self.turns.append(turn)

    def _prepared(
        self, turn: Turn, options: Options, said: Sequence[int]
    ) -> tuple[Prompt, Rendered, budget.Room | None]:
        """The prompt of a turn, and how much may be thought; where nothing may, it is not begun."""
        if turn.thinking and options.think_budget == 0 and not said:
            turn.thinking = False
        asked, view = self._asking(self.turns, turn.question, turn.thinking)
        if not turn.thinking:
            return asked, view, None
        shared = self._shared(asked, options)
        if said:  # it may be in its thinking, which is closed at once where there is no budget
            return asked, view, replace(shared, budget=shared.budget or 1)
        if shared.budget:
            return asked, view, shared
        turn.thinking, turn.no_room = False, True
        asked, view = self._asking(self.turns, turn.question, False)
        self._shared(asked, options)  # this prompt is longer
        return asked, view, None

    def _shared(self, asked: Prompt, options: Options) -> budget.Room:
        """How a prompt leaves room to think and to answer. Raises: as `budget.room`."""
        return budget.room(
            len(asked.ids),
            self.opened.ctx,
            budget=options.think_budget,
            reserve=options.answer_reserve,
            closing_tokens=len(budget.closing(self.opened.tokenizer)),
            largest_ctx=self.opened.largest_ctx,
        )

    def _why_again(self, view: Rendered, memory: Memory) -> str | None:
        """Why more was read than the new message, where it was much."""
        reason, self.reading_again = self.reading_again, None
        read_before = view.messages[max(0, len(view.messages) - 2)]
        if read_before - memory.reused < WORTH_A_REASON:
            return None
        return reason or (
            f"older states were dropped to stay within {size(memory.cap_bytes)}"
            if memory.dropped
            else None
        )


def _steps(
    loaded: Loaded,
    prompt: Prompt,
    sampler: Sampler,
    steering: Steering,
    stop: frozenset[int],
    rounds: Rounds | None,
) -> Generator[Prefill | Step, None, None]:
    """The loop that suits what is loaded."""
    memory = loaded.memory
    if loaded.depth is not None and rounds is not None:
        yield from speculate(
            memory,
            prompt,
            sampler,
            stop=stop,
            depth=loaded.depth,
            rounds=rounds,
            steering=steering,
            checks=loaded.runner.checks(sampler),
        )
        return
    ahead = loaded.runner.ahead(sampler)
    if ahead is not None:
        yield from run_ahead(memory, ahead, prompt, sampler, stop=stop, steering=steering)
    else:
        yield from generate(memory, prompt, sampler, stop=stop, steering=steering)


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
