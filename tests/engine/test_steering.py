import pytest
import torch

from qwen35cli.engine.sampling import Sampler, Sampling
from qwen35cli.engine.steering import FREE, Masked, Steering, Together, next_token
from tests.engine.steered import END_THINK, OPENING

GREEDY = Sampling(temperature=0)
LOGITS = torch.tensor([0.0, 1, 2, 3, 4, 5, 6, 7])


class Only:
    """A constraint to some tokens."""

    def __init__(self, *tokens, size=8):
        self.mask = torch.zeros(size, dtype=torch.bool)
        self.mask[list(tokens)] = True
        self.told = []

    def allowed(self):
        return self.mask

    def take(self, token):
        self.told.append(token)


class Log(Steering):
    def __init__(self, *forced):
        self.left, self.told = list(forced), []

    def forced(self):
        return self.left[0] if self.left else None

    def take(self, token):
        self.told.append(token)
        self.left = self.left[1:]


def test_a_forced_token_comes_and_both_are_told_of_every_token_once():
    sampler, log = Sampler(Sampling(temperature=0, presence_penalty=10.0), 8), Log(2)
    found = [next_token(sampler, log, LOGITS) for _ in range(4)]
    assert found == log.told == [2, 7, 6, 5]
    assert sampler.generated == {2, 7, 6, 5}


def test_what_steers_nothing_leaves_the_tokens_of_the_sampler():
    one, other = (Sampler(Sampling(seed=2), 300) for _ in range(2))
    rows = torch.randn(30, 300, generator=torch.Generator().manual_seed(0))
    assert [next_token(one, FREE, row) for row in rows] == [other.sample(row) for row in rows]


def test_only_allowed_tokens_are_drawn_and_the_logits_stay():
    constraint = Only(1, 4)
    steering, sampler = Masked(constraint), Sampler(Sampling(temperature=5.0, top_k=0), 8)
    before = LOGITS.clone()
    found = [next_token(sampler, steering, LOGITS) for _ in range(60)]
    assert set(found) == {1, 4}
    assert constraint.told == found
    assert not steering.free
    assert torch.equal(LOGITS, before)


def test_penalties_do_not_let_a_masked_token_through():
    sampler = Sampler(Sampling(presence_penalty=2.0, repetition_penalty=1.5, top_k=0), 8)
    sampler.take(range(8))
    masked = Masked(Only(0))
    assert {next_token(sampler, masked, LOGITS) for _ in range(20)} == {0}


def test_rows_of_the_head_behind_the_vocabulary_are_masked_too():
    padded = torch.cat([LOGITS, torch.full((4,), 99.0)])
    assert next_token(Sampler(GREEDY, 8), Masked(Only(3)), padded) == 3


def test_a_mask_binds_behind_thinking_and_the_opening_is_forced_before():
    constraint = Only(2)
    steering = Masked(constraint, end_think=END_THINK, opening=(6, 7))
    sampler = Sampler(GREEDY, 8)
    assert steering.free
    assert next_token(sampler, steering, LOGITS) == 7
    steering.take(END_THINK)
    assert not steering.free
    assert [next_token(sampler, steering, LOGITS) for _ in range(4)] == [6, 7, 2, 2]
    assert constraint.told == [2, 2]


def test_a_mask_without_thinking_has_no_opening():
    steering = Masked(Only(2), opening=OPENING)
    assert steering.forced() is None
    assert not steering.free


def test_a_mask_goes_on_where_an_answer_was_cut():
    constraint = Only(2)
    steering = Masked(constraint, end_think=END_THINK, opening=(6, 7))
    for token in (1, END_THINK, 6, 7, 4, END_THINK):
        steering.take(token)
    assert steering.forced() is None
    assert constraint.told == [4, END_THINK]


def test_a_constraint_that_allows_nothing_is_a_mistake():
    with pytest.raises(AssertionError, match="allows no token"):
        Masked(Only()).adjust(LOGITS)


def test_several_steer_together():
    class Ends(Steering):
        finish = "loop"

    one, two = Log(), Log(3)
    both = Together(one, two)
    assert both.forced() == 3
    both.take(3)
    assert one.told == two.told == [3]
    assert (both.forced(), both.free, both.finish) == (None, True, None)
    assert Together(one, Ends()).finish == "loop"
    narrowed = Together(Masked(Only(1, 2)), Masked(Only(2, 3)))
    assert not narrowed.free
    assert narrowed.adjust(LOGITS).isfinite().nonzero().tolist() == [[2]]
