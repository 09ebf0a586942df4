"""Keeps thinking within its budget, and ends thinking and answers that only repeat themselves."""

from collections.abc import Sequence
from typing import Final, Literal, Protocol

import torch
from torch import Tensor

from .steering import Finish, Steering

ClosedBy = Literal["model", "budget", "loop"]

PATIENCE: Final = 64  # tokens

# Source: vLLM #52677, measured there on a 4-bit model.
GRAM: Final = 6  # tokens that make a repetition, where they were seen before in the thinking
SEEN: Final = 1.0  # what one adds to the score
NEW: Final = -0.25  # and what six new ones do, down to 0
ALARM: Final = 15.0
PUSH: Final = 2.0  # added to the logit of `</think>` with each token after the alarm

# Source: waybarrios/vllm-mlx#723.
LONGEST_PERIOD: Final = 128  # tokens
LEAST_COPIES: Final = 3
LEAST_CYCLE: Final = 48  # tokens of all copies
ENOUGH: Final = tuple(  # of each period: tokens equal to those a period ago
    max((LEAST_COPIES - 1) * period, LEAST_CYCLE - period) for period in range(LONGEST_PERIOD + 1)
)


class Breaks(Protocol):
    """Where text may be broken off, between the token that came last and the likeliest next."""

    def sentence(self, last: int, following: int) -> bool:
        """A sentence or a line ends there."""
        ...

    def word(self, last: int, following: int) -> bool:
        """No word and no character is cut there."""
        ...


class ThinkingGuard(Steering):
    """Closes the thinking at its budget, or where it goes round in circles.

    At the budget it waits for the end of a sentence, then of a word, before the closing is forced.
    In a loop it first makes `</think>` likelier with every token, which mostly is enough. The
    closing begins at most twice `patience` behind the budget. Where the model closes by itself
    nothing is forced.

    Attributes:
        closed_by: what ended the thinking; None: nothing yet.
    """

    def __init__(
        self,
        *,
        budget: int | None,
        loops: bool,
        end_think: int,
        closing: Sequence[int],
        breaks: Breaks,
        patience: int = PATIENCE,
    ) -> None:
        """At the first token of the thinking.

        Args:
            budget: tokens of thinking, at least 1; None for no limit.
            loops: whether to look for loops.
            closing: a last sentence, `end_think`, and what stands before an answer.
            patience: tokens to wait for the end of a sentence, and again for that of a word; in a
                loop, tokens to wait for the model, and again for the end of a word.
        """
        if budget is not None and budget < 1:
            raise ValueError(f"a budget of {budget} tokens is no thinking at all")
        if list(closing).count(end_think) != 1:
            raise ValueError("the closing has to end the thinking, once")
        self.closed_by: ClosedBy | None = None
        self._budget = budget
        self._repeats = Repeats() if loops else None
        self._end_think = end_think
        self._closing = tuple(closing)
        self._breaks = breaks
        self._patience = patience
        self._tokens = 0
        self._reason: Literal["budget", "loop"] | None = None  # why it has to be closed
        self._since = 0  # tokens since there is a reason
        self._at = 0  # tokens of the closing that came
        self._last = -1

    @property
    def free(self) -> bool:
        return self._reason is None or self._over

    @property
    def _over(self) -> bool:
        return self.closed_by is not None and self._at in (0, len(self._closing))

    @property
    def _may_close(self) -> bool:
        """The closing may begin, at a place to break off."""
        if self._reason == "loop":
            return self._since >= self._patience
        return self._reason == "budget"

    def forced(self) -> int | None:
        if not self._over and (self._at or self._since >= 2 * self._patience):
            return self._closing[self._at]
        return None

    def adjust(self, logits: Tensor) -> Tensor:
        if self.free:
            return logits
        if not self._may_close:
            pushed = logits.clone()
            pushed[self._end_think] += PUSH * (self._since + 1)
            return pushed
        following = int(logits.argmax())
        if following == self._end_think:
            return logits
        breaks = self._breaks.sentence if self._since < self._patience else self._breaks.word
        if not breaks(self._last, following):
            return logits
        closed = torch.full_like(logits, -torch.inf)
        closed[self._closing[0]] = 0
        return closed

    def take(self, token: int) -> None:
        if self._over:
            return
        if (self._at or self._may_close) and token == self._closing[self._at]:
            self._at += 1
            if token == self._end_think:
                self.closed_by = self._reason
            return
        self._at = 0  # told of a closing that is not its own
        if self.closed_by is not None:
            return
        if token == self._end_think:
            self.closed_by = "loop" if self._reason == "loop" else "model"
            return
        self._last = token
        self._tokens += 1
        if self._reason is not None:
            self._since += 1
        elif self._repeats is not None and self._repeats.alarm(token):
            self._reason = "loop"
        elif self._tokens == self._budget:
            self._reason = "budget"


class Repeats:
    """A running sum over runs of six tokens: up where one was seen before, slowly down else."""

    def __init__(self) -> None:
        self._score = 0.0
        self._last: tuple[int, ...] = ()
        self._seen: set[tuple[int, ...]] = set()

    def alarm(self, token: int) -> bool:
        """Whether, with this token, too much is repeated."""
        self._last = (*self._last, token)[-GRAM:]
        if len(self._last) == GRAM:
            change = SEEN if self._last in self._seen else NEW
            self._score = max(0.0, self._score + change)
            self._seen.add(self._last)
        return self._score >= ALARM


class AnswerGuard(Steering):
    """Ends an answer that is nothing but copies of the same tokens at its end."""

    def __init__(self, *, end_think: int | None) -> None:
        """`end_think`: behind which the answer begins; None where it begins at once."""
        self._end_think = end_think
        self._tokens: list[int] = []
        self._repeated = [0] * (LONGEST_PERIOD + 1)  # tokens at the end equal to those a period ago
        self._cycle: int | None = None

    @property
    def finish(self) -> Finish | None:
        return None if self._cycle is None else "loop"

    @property
    def keep(self) -> int | None:
        """Of the tokens behind `end_think`, how many are left with one copy; None: no loop."""
        return None if self._cycle is None else len(self._tokens) - self._repeated[self._cycle]

    def take(self, token: int) -> None:
        if self._end_think is not None:
            if token == self._end_think:
                self._end_think = None
            return
        self._cycle = None
        for period in range(1, min(LONGEST_PERIOD, len(self._tokens)) + 1):
            repeated = self._repeated[period] + 1 if token == self._tokens[-period] else 0
            self._repeated[period] = repeated
            if repeated >= ENOUGH[period] and self._cycle is None:
                self._cycle = period
        self._tokens.append(token)
