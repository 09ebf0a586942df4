import pytest
import torch

from qwen35cli.engine.guards import ALARM, GRAM, PATIENCE, AnswerGuard, Repeats
from qwen35cli.engine.sampling import Sampler, Sampling
from qwen35cli.engine.steering import next_token
from tests.engine.steered import CLOSING, END_THINK, VOCAB, Nowhere, thinking

GREEDY = Sampling(temperature=0)


def logits(likeliest, second=None):
    values = torch.zeros(VOCAB)
    values[likeliest] = 20.0
    if second is not None:
        values[second] = 10.5
    return values


def drawn(guard, wanted):
    """What comes where the model wants these tokens, up to the end of the thinking."""
    sampler, found = Sampler(GREEDY, VOCAB), []
    for token in wanted:
        found.append(next_token(sampler, guard, logits(token)))
    return found


def test_the_closing_is_forced_at_the_end_of_a_sentence_behind_the_budget():
    guard = thinking(3)
    found = drawn(guard, [11, 22, 31, 32, 44, 50, *range(100, 105)])
    assert found == [11, 22, 31, 32, 44, *CLOSING, 104]  # 44 ends a sentence, 22 was too early
    assert guard.closed_by == "budget"
    assert guard.free


def test_only_behind_the_budget_is_the_device_not_free():
    guard = thinking(3)
    for count, token in enumerate([31, 32, 34, 35, 37]):
        assert guard.free == (count < 3)
        guard.take(token)


def test_where_no_sentence_ends_it_waits_for_the_end_of_a_word():
    """Words end before ids that divide by 3."""
    guard = thinking(1)
    found = drawn(guard, [1] * PATIENCE + [100, 101, 102, 200, 201, 202, 203, 204])
    assert found == [1] * PATIENCE + [100, 101, *CLOSING, 204]
    assert guard.closed_by == "budget"


def test_where_no_word_ends_it_closes_anyway():
    guard = thinking(1, breaks=Nowhere())
    found = drawn(guard, [1] * (1 + 2 * PATIENCE + len(CLOSING)))
    assert found == [1] * (1 + 2 * PATIENCE) + list(CLOSING)


def test_thinking_that_the_model_closes_is_left_alone():
    for wanted in ([7, END_THINK, 9, 10, 11], [7, 8, 10, 13, END_THINK, 9, 10, 11] + [11] * 200):
        guard = thinking(3)
        assert drawn(guard, wanted) == wanted
        assert guard.closed_by == "model"
        assert guard.free


def test_where_the_model_begins_the_closing_itself_the_rest_follows():
    guard = thinking(2)
    assert drawn(guard, [1, 2, CLOSING[0], 4, 5, 6, 7]) == [1, 2, *CLOSING]
    early = thinking(2)
    assert drawn(early, [CLOSING[0], 2]) == [CLOSING[0], 2]


def test_only_tokens_of_thinking_count():
    guard = thinking(3)
    assert drawn(guard, [1, END_THINK, *[11] * 50]) == [1, END_THINK, *[11] * 50]
    assert thinking(None).free


def test_no_limit_is_no_limit():
    guard = thinking(None)
    assert drawn(guard, [11] * 500) == [11] * 500


def test_a_budget_of_nothing_and_a_closing_that_does_not_close_are_refused():
    with pytest.raises(ValueError, match="a budget of 0 tokens"):
        thinking(0)
    with pytest.raises(ValueError, match="has to end the thinking"):
        thinking(5, closing=(1, 2))


def test_a_cut_answer_goes_on_in_the_middle_of_the_closing():
    whole = drawn(thinking(3), [11, 22, 31, 32, 44, 50, *range(100, 105)])
    for cut in range(len(whole) + 1):
        guard = thinking(3)
        for token in whole[:cut]:
            guard.take(token)
        rest = [11, 22, 31, 32, 44, 50, *range(100, 105)][cut:]
        assert drawn(guard, rest) == whole[cut:]
        assert guard.closed_by == "budget"


def test_tokens_of_another_budget_are_taken_as_they_are():
    guard = thinking(2)
    for token in [1, 2, 4, CLOSING[0], 7, 8, END_THINK, 9]:  # it would have gone on with CLOSING
        guard.take(token)
    assert guard.closed_by == "model"
    assert guard.free


CYCLE = [3, 1, 4, 1, 5, 9, 2, 6, 8, 7]


def test_the_alarm_comes_soon_behind_a_loop_and_never_without_one():
    repeats = Repeats()
    fresh = torch.randint(10_000, (3_000,), generator=torch.Generator().manual_seed(1)).tolist()
    assert not any(repeats.alarm(token) for token in fresh)
    alarms = [repeats.alarm(token) for token in CYCLE * 5]
    # a first copy, and the runs that reach into it from before, are new
    assert alarms.index(True) == len(CYCLE) + GRAM - 1 + ALARM - 1


def test_quoting_oneself_now_and_then_is_no_loop():
    repeats = Repeats()
    numbers = iter(range(1_000, 100_000))
    for _ in range(30):
        assert not any(repeats.alarm(token) for token in CYCLE)
        assert not any(repeats.alarm(next(numbers)) for _ in range(40))


def stuck(second):
    """Where the model wants a cycle, and another token less and less below it."""
    while True:
        yield from (logits(token, second) for token in CYCLE if token != END_THINK)


def test_in_a_loop_the_end_of_thinking_becomes_likelier_until_it_comes():
    guard, sampler, found = thinking(loops=True), Sampler(GREEDY, VOCAB), []
    for row in stuck(END_THINK):
        found.append(next_token(sampler, guard, row))
        if found[-1] == END_THINK:
            break
    assert guard.closed_by == "loop"
    assert guard.free
    cycle = len(CYCLE) - 1
    alarm = cycle + GRAM - 1 + ALARM  # tokens
    assert len(found) == alarm + 5  # 9.5 behind, 2 a token
    assert next_token(sampler, guard, logits(77)) == 77


def test_a_model_that_will_not_close_is_closed():
    guard, sampler, found = thinking(loops=True), Sampler(GREEDY, VOCAB), []
    for row in stuck(None):
        row[END_THINK] = -1_000
        found.append(next_token(sampler, guard, row))
        if guard.closed_by and guard.free:
            break
    assert found[-len(CLOSING) :] == list(CLOSING)
    assert guard.closed_by == "loop"
    alarm = len(CYCLE) - 1 + GRAM - 1 + ALARM
    assert alarm + PATIENCE <= len(found) - len(CLOSING) <= alarm + PATIENCE + 3


def test_loops_can_be_left_alone():
    guard = thinking(None, loops=False)
    assert drawn(guard, CYCLE[:4] * 100) == CYCLE[:4] * 100


@pytest.mark.parametrize("period", [1, 2, 7, 16, 24, 128])
def test_an_answer_that_only_copies_itself_ends_and_keeps_one_copy(period):
    guard, before, copy = AnswerGuard(end_think=None), list(range(900, 930)), list(range(period))
    for token in before:
        guard.take(token)
    copies = -(-max(3 * period, 48) // period)
    for number in range(copies * period):
        assert guard.finish is None
        guard.take(copy[number % period])
        if guard.finish:
            break
    assert number + 1 == max(3 * period, 48)
    assert guard.finish == "loop"
    assert guard.keep == len(before) + period


def test_longer_periods_and_copies_with_a_difference_are_no_loop():
    guard = AnswerGuard(end_think=None)
    for token in [*range(129)] * 6:
        guard.take(token)
        assert guard.finish is None
    for number in range(40):
        for token in (1, 2, 3, 4, 5, 1_000 + number):
            guard.take(token)
            assert guard.finish is None
    assert guard.keep is None


def test_thinking_is_no_answer_and_what_stands_between_counts_as_answer():
    guard = AnswerGuard(end_think=END_THINK)
    for token in [1] * 100:
        guard.take(token)
    assert guard.finish is None
    guard.take(END_THINK)
    for token in [77, *[8, 9] * 24]:
        assert guard.finish is None
        guard.take(token)
    assert (guard.finish, guard.keep) == ("loop", 3)
