"""How much may be thought, what closes the thinking, and what is kept for the answer."""

from dataclasses import dataclass

from qwen35cli.engine.guards import PATIENCE, ThinkingGuard
from qwen35cli.errors import ContextFullError
from qwen35cli.text.tokenizer import Tokenizer

BUDGET = 4_096  # tokens of thinking
RESERVE = 1_024  # tokens kept for the answer
# Source: QwenLM/Qwen3 : docs/source/getting_started/thinking_budget.md
PHRASE = (
    "\n\nConsidering the limited time by the user, I have to give the solution based on the "
    "thinking directly now.\n"
)
OPENING = "\n\n"  # between `</think>` and the answer, as the template writes it

_ENDS = tuple(end.encode() for end in ".!?…。！？")
_SPACELESS = tuple(end.encode() for end in "。！？，、；：")  # no space follows these
_CLOSERS = " \t\"')]}*_`"


def opening(tokenizer: Tokenizer) -> list[int]:
    """What stands between the end of the thinking and the answer."""
    return tokenizer.encode(OPENING)


def closing(tokenizer: Tokenizer) -> list[int]:
    """What closes the thinking in the model's place: a sentence, `</think>` and a blank line."""
    return [*tokenizer.encode(PHRASE), tokenizer.special.end_think, *opening(tokenizer)]


@dataclass(frozen=True, slots=True)
class Room:
    """How the tokens behind a prompt are shared out."""

    budget: int  # of thinking; 0 where there is no room to think
    patience: int  # see `ThinkingGuard`
    reserve: int  # left for the answer, whatever is thought


def room(
    prompt_tokens: int,
    ctx: int,
    *,
    budget: int | None,
    reserve: int | None,
    closing_tokens: int,
    largest_ctx: int,
) -> Room:
    """Share out what a prompt leaves of the context; the thinking gets less before the answer does.

    Args:
        prompt_tokens: at most `ctx`.
        budget: that was asked for; None for as much as there is, 0 for an answer without thinking.
        reserve: that was asked for; None for the usual, of a small room at most a quarter.
        closing_tokens: of `closing`.
        largest_ctx: that the device has memory for.

    Raises:
        ContextFullError: the reserve that was asked for does not fit.
    """
    left = ctx - prompt_tokens
    kept = min(RESERVE, left // 4) if reserve is None else reserve
    if left < kept:
        raise _full(prompt_tokens, ctx, kept, largest_ctx)
    most = max(left - kept - closing_tokens, 0)
    patience = min(PATIENCE, most // 8)
    most -= 2 * patience
    return Room(most if budget is None else min(budget, most), patience, kept)


def _full(prompt_tokens: int, ctx: int, reserve: int, largest_ctx: int) -> ContextFullError:
    left = ctx - prompt_tokens
    fits = prompt_tokens + reserve <= largest_ctx
    other = f"--answer-reserve {left}" if left > 0 else "shorten the prompt"
    return ContextFullError(
        f"the prompt has {prompt_tokens:,} tokens, the context {ctx:,}: that leaves {left:,}, "
        f"fewer than the {reserve:,} kept for the answer; nothing was cut",
        f"--ctx {prompt_tokens + reserve} fits"
        if fits
        else f"{other}: {largest_ctx:,} is the most",
    )


def thinking_guard(tokenizer: Tokenizer, shared: Room, *, loops: bool) -> ThinkingGuard:
    """Keeps the thinking within its share, which is not 0; `loops`: and out of loops."""
    return ThinkingGuard(
        budget=shared.budget,
        loops=loops,
        end_think=tokenizer.special.end_think,
        closing=closing(tokenizer),
        breaks=TextBreaks(tokenizer),
        patience=shared.patience,
    )


class TextBreaks:
    """See `engine.guards.Breaks`: told by the bytes on both sides of a place."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    def sentence(self, last: int, following: int) -> bool:
        before, after = self._bytes(last), self._bytes(following)
        if not self.word(last, following):
            return False
        if before.rstrip(b" \t").endswith(b"\n") or after.lstrip(b" \t").startswith((b"\n", b"\r")):
            return True
        return before.rstrip(_CLOSERS.encode()).endswith(_ENDS)

    def word(self, last: int, following: int) -> bool:
        """White space stands there, or what no space follows, or a control token."""
        before, after = self._bytes(last), self._bytes(following)
        return (
            self._tokenizer.is_added(following)
            or after[:1].isspace()
            or before[-1:].isspace()
            or before.endswith(_SPACELESS)
        )

    def _bytes(self, token: int) -> bytes:
        return self._tokenizer.token_bytes(token)
