"""What may come next, beside what the model would say: forced tokens, masks, an early end."""

from collections.abc import Sequence
from typing import Literal, Protocol

import torch
from torch import Tensor

Finish = Literal["stop", "loop", "length", "context"]


class Steering:
    """Watches the tokens of an answer and has a say in the next; this one leaves all to the model.

    It is told of every token once, and asked in between as often as one likes. Its state follows
    from the tokens alone: told of those of a cut answer, it goes on where that was cut.
    """

    @property
    def free(self) -> bool:
        """Whether the next token can be drawn without asking."""
        return True

    @property
    def finish(self) -> Finish | None:
        """Why the token that came last is to be the last of all."""
        return None

    def forced(self) -> int | None:
        """The token that has to come next, if one has to."""
        return None

    def adjust(self, logits: Tensor) -> Tensor:
        """The logits to draw from, for (V,) float32 logits, which stay as they are."""
        return logits

    def take(self, token: int) -> None:
        """A token came, drawn or forced."""


FREE = Steering()


class Together(Steering):
    """Several at once. Of two forced tokens the first counts."""

    def __init__(self, *parts: Steering) -> None:
        self._parts = parts

    @property
    def free(self) -> bool:
        return all(part.free for part in self._parts)

    @property
    def finish(self) -> Finish | None:
        return next((part.finish for part in self._parts if part.finish), None)

    def forced(self) -> int | None:
        tokens = (part.forced() for part in self._parts)
        return next((token for token in tokens if token is not None), None)

    def adjust(self, logits: Tensor) -> Tensor:
        for part in self._parts:
            logits = part.adjust(logits)
        return logits

    def take(self, token: int) -> None:
        for part in self._parts:
            part.take(token)


class Constraint(Protocol):
    """Which tokens an answer may be made of."""

    def allowed(self) -> Tensor:
        """Those that may come next, (vocabulary,) bool on the CPU; at least one."""
        ...

    def take(self, token: int) -> None:
        """A token of the answer came, a stop token too."""
        ...


class Masked(Steering):
    """Holds the answer to a constraint, from its first token on.

    Args:
        end_think: behind which the answer begins; None where it begins at once.
        opening: the tokens between `end_think` and the answer, which are forced.
    """

    def __init__(
        self, constraint: Constraint, *, end_think: int | None = None, opening: Sequence[int] = ()
    ) -> None:
        self._constraint = constraint
        self._end_think = end_think
        self._opening = list(opening) if end_think is not None else []

    @property
    def free(self) -> bool:
        return self._end_think is not None

    def forced(self) -> int | None:
        return None if self.free or not self._opening else self._opening[0]

    def adjust(self, logits: Tensor) -> Tensor:
        if self.free or self._opening:
            return logits
        allowed = self._constraint.allowed()
        assert allowed.any(), "a constraint that allows no token"
        few = logits[: len(allowed)]
        return few.masked_fill(~allowed.to(few.device), -torch.inf)

    def take(self, token: int) -> None:
        if self._end_think is not None:
            if token == self._end_think:
                self._end_think = None
        elif self._opening and token == self._opening[0]:
            del self._opening[0]
        else:
            self._opening.clear()  # the answer was begun without it, before there was a mask
            self._constraint.take(token)


class TokenSampler(Protocol):
    """Picks a token and remembers it, or is told of some."""

    def sample(self, logits: Tensor) -> int: ...
    def take(self, tokens: Sequence[int]) -> None: ...


def next_token(sampler: TokenSampler, steering: Steering, logits: Tensor) -> int:
    """Choose the token behind (V,) logits, and tell both."""
    token = steering.forced()
    if token is None:
        token = sampler.sample(steering.adjust(logits))
    else:
        sampler.take([token])
    steering.take(token)
    return token
