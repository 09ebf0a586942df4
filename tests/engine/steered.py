"""Steerings of a tiny model's ids, for tests of all loops."""

import torch

from qwen35cli.engine.guards import AnswerGuard, ThinkingGuard
from qwen35cli.engine.sampling import Sampling
from qwen35cli.engine.steering import Masked, Together

END_THINK = 5
CLOSING = (400, 401, 402, END_THINK, 403)
OPENING = (403,)
VOCAB = 500
STUCK = Sampling(temperature=0, presence_penalty=-20.0)  # what came once comes for ever


class Breaks:
    """Sentences end behind ids that divide by 11, words before those that divide by 3."""

    def sentence(self, last, following):
        return last % 11 == 0

    def word(self, last, following):
        return following % 3 == 0


class Nowhere:
    """One long word."""

    def sentence(self, last, following):
        return False

    word = sentence


class Shrinking:
    """A constraint that depends on what came: each token has to be above the last, modulo 64."""

    def __init__(self):
        self.told = []

    def allowed(self):
        mask = torch.zeros(VOCAB, dtype=torch.bool)
        last = self.told[-1] if self.told else 0
        mask[last % 400 + 1 : last % 400 + 65] = True
        return mask

    def take(self, token):
        self.told.append(token)


def thinking(budget=None, *, loops=False, breaks=None, patience=64, closing=CLOSING):
    return ThinkingGuard(
        budget=budget,
        loops=loops,
        end_think=END_THINK,
        closing=closing,
        breaks=breaks or Breaks(),
        patience=patience,
    )


def loops(patience):
    return Together(thinking(loops=True, patience=patience), AnswerGuard(end_think=END_THINK))


STEERINGS = {  # what is steered, and how to make a new steering
    "a budget": lambda: thinking(12),
    "a budget in one long word": lambda: thinking(4, breaks=Nowhere(), patience=3),
    "a loop": lambda: loops(64),
    "a loop in a hurry": lambda: loops(6),
    "a mask": lambda: Masked(Shrinking()),
    "a mask behind thinking": lambda: Together(
        thinking(7),
        AnswerGuard(end_think=END_THINK),
        Masked(Shrinking(), end_think=END_THINK, opening=OPENING),
    ),
    "a budget, then a loop": lambda: Together(
        thinking(9, loops=True), AnswerGuard(end_think=END_THINK)
    ),
}
