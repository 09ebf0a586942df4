import pytest
import torch

from qwen35cli.engine.sampling import BLOCK, Sampler, Sampling, choose, largest
from qwen35cli.errors import ModelError, UsageError

GREEDY = Sampling(temperature=0)


def test_argmax_ignores_padding_rows():
    logits = torch.tensor([1.0, 3, 2, 9, 9])
    assert Sampler(GREEDY, vocab_size=3).sample(logits) == 1


def test_padding_rows_are_never_drawn():
    sampler = Sampler(Sampling(temperature=5.0, top_k=0, top_p=1.0), vocab_size=4)
    logits = torch.tensor([0.0, 0, 0, 0, 50, 50])
    assert {sampler.sample(logits) for _ in range(200)} == {0, 1, 2, 3}


def draws(count=20_000, **options):
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0, -5.0])
    sampler = Sampler(Sampling(**({"top_k": 0, "top_p": 1.0} | options)), vocab_size=5)
    found = torch.tensor([sampler.sample(logits) for _ in range(count)])
    return torch.bincount(found, minlength=5) / count, logits


def test_draws_follow_the_softmax_at_the_temperature():
    """20,000 draws: the largest deviation of a right sampler stays below 0.015 (4 sigma)."""
    for temperature in (0.5, 1.0, 2.0):
        shares, logits = draws(temperature=temperature)
        assert (shares - torch.softmax(logits / temperature, 0)).abs().max() < 0.015


def test_top_k_top_p_and_min_p_cut_and_renormalise():
    shares, logits = draws(top_k=2)
    assert shares[2:].sum() == 0
    assert abs(shares[0] - torch.softmax(logits[:2], 0)[0]) < 0.015
    # softmax = .64 .24 .09 .03 .00: .64 alone is below .7, so the second token still counts
    shares, _ = draws(top_p=0.7)
    assert shares[1] > 0.2
    assert shares[2:].sum() == 0
    shares, _ = draws(min_p=0.1)  # .09 / .64 is above a tenth, .03 / .64 below
    assert shares[2] > 0.05
    assert shares[3:].sum() == 0


def test_top_p_zero_still_leaves_the_best():
    assert draws(200, top_p=0.0)[0][0] == 1


def test_same_seed_same_tokens():
    logits = torch.randn(1000, generator=torch.Generator().manual_seed(1))
    runs = [
        [s.sample(logits) for _ in range(30)]
        for s in (Sampler(Sampling(seed=seed, top_k=0), 1000) for seed in (5, 5, 6))
    ]
    assert runs[0] == runs[1] != runs[2]


def test_presence_penalty_counts_each_generated_token_once():
    sampler = Sampler(Sampling(temperature=0, presence_penalty=1.5), vocab_size=3)
    logits = torch.tensor([5.0, 4.0, 3.0])
    # 5 -> 3.5 < 4; then 4 -> 2.5 < 3.5; from then on all three stand at 3.5, 2.5 and 3
    assert [sampler.sample(logits) for _ in range(4)] == [0, 1, 0, 0]
    assert logits.tolist() == [5, 4, 3]


def test_repetition_penalty_divides_above_and_multiplies_below_zero():
    sampler = Sampler(Sampling(temperature=0, repetition_penalty=2.0), vocab_size=2)
    assert [sampler.sample(torch.tensor([4.0, 3.0])) for _ in range(2)] == [0, 1]
    sampler = Sampler(Sampling(temperature=0, repetition_penalty=2.0), vocab_size=2)
    assert [sampler.sample(torch.tensor([-1.0, -1.5])) for _ in range(2)] == [0, 1]


def test_presets_follow_the_mode_and_flags_win():
    thinking = choose("general", thinking=True, seed=3, given={})
    assert (thinking.temperature, thinking.top_p, thinking.presence_penalty) == (1.0, 0.95, 1.5)
    assert thinking.seed == 3
    plain = choose("general", thinking=False, seed=0, given={"top_k": 5})
    assert (plain.temperature, plain.top_p, plain.top_k) == (0.7, 0.8, 5)
    assert choose("coding", thinking=False, seed=0, given={}) == choose(
        "general", thinking=False, seed=0, given={}
    )


def test_argmax_has_no_penalty_unless_one_is_given():
    assert choose("general", thinking=True, seed=0, given={"temperature": 0}).presence_penalty == 0
    given = {"temperature": 0, "presence_penalty": 1.0}
    assert choose("general", thinking=True, seed=0, given=given).presence_penalty == 1


@pytest.mark.parametrize(
    "given", [{"temperature": -1}, {"top_p": 1.5}, {"top_k": -1}, {"repetition_penalty": 0}]
)
def test_values_out_of_range_are_refused(given):
    with pytest.raises(UsageError, match="must be from"):
        choose("general", thinking=True, seed=0, given=given)


def test_unknown_preset_is_refused():
    with pytest.raises(UsageError, match="no preset 'wild'"):
        choose("wild", thinking=True, seed=0, given={})


@pytest.mark.parametrize("size", [5, BLOCK, 40 * BLOCK, 40 * BLOCK + 7])
@pytest.mark.parametrize("count", [1, 5, 20, 39, 41])
@pytest.mark.parametrize("seed", range(3))
def test_the_largest_logits_are_those_of_a_full_sort(size, count, seed):
    values = torch.randn(size, generator=torch.Generator().manual_seed(seed))
    values[-1] += 3.0  # in the rest behind the whole blocks
    count = min(count, size)
    best, places = largest(values, count)
    assert torch.equal(best, values.sort(descending=True).values[:count])
    assert torch.equal(values[places], best)
    assert len(set(places.tolist())) == count


def test_the_random_numbers_of_the_next_draws_are_told_and_still_taken():
    def sampler():
        return Sampler(Sampling(seed=3, top_k=2, top_p=1.0), vocab_size=2)

    told, plain = sampler(), sampler()
    logits = torch.zeros(2)  # draws 0 or 1, as the number is below a half or not
    order = torch.topk(logits, 2).indices.tolist()
    stream = told.random()
    numbers = torch.cat([torch.rand(count, generator=stream) for count in (10, 30)])
    drawn = [told.sample(logits) for _ in range(15)]
    assert torch.equal(torch.rand(25, generator=told.random()), numbers[15:])
    drawn += [told.sample(logits) for _ in range(25)]
    assert drawn == [plain.sample(logits) for _ in range(40)]
    assert drawn == [order[int(number >= 0.5)] for number in numbers]


CUT = [
    GREEDY,
    Sampling(temperature=0, presence_penalty=1.5, repetition_penalty=1.3),
    Sampling(seed=5),
    Sampling(temperature=0.7, presence_penalty=1.5, repetition_penalty=1.3, seed=6),
    Sampling(top_k=0, top_p=1.0, min_p=0.02, seed=7),
]


@pytest.mark.parametrize("sampling", CUT, ids=str)
@pytest.mark.parametrize("cut", [0, 1, 17, 40])
def test_an_answer_that_was_cut_goes_on_with_the_tokens_it_would_have_had(sampling, cut):
    logits = torch.randn(60, 400, generator=torch.Generator().manual_seed(2))
    whole = Sampler(sampling, 400)
    tokens = [whole.sample(row) for row in logits]
    again = Sampler(sampling, 400)
    again.take(tokens[:cut])
    assert [again.sample(row) for row in logits[cut:]] == tokens[cut:]


def test_a_token_that_was_forced_is_penalized_and_takes_a_random_number_too():
    logits = torch.tensor([3.0, 2.0])
    penalized = Sampler(Sampling(temperature=0, presence_penalty=1.5), vocab_size=2)
    penalized.take([0])
    assert penalized.sample(logits) == 1
    one, other = (Sampler(Sampling(seed=3), vocab_size=300) for _ in range(2))
    row = torch.zeros(300)
    one.take([9])
    other.sample(row)
    assert [one.sample(row) for _ in range(20)] == [other.sample(row) for _ in range(20)]


@pytest.mark.parametrize("temperature", [0, 1.0])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_what_overflowed_is_no_token(temperature, value):
    logits = torch.zeros(BLOCK * 40)
    logits[7] = value
    sampler = Sampler(Sampling(temperature=temperature), len(logits))
    with pytest.raises(ModelError, match="computes no numbers"):
        sampler.sample(logits)
    assert not sampler.generated


def test_tokens_that_a_grammar_rules_out_are_infinitely_unlikely():
    logits = torch.full((BLOCK * 40,), -torch.inf)
    logits[9] = 1.0
    for temperature in (0, 1.0):
        assert Sampler(Sampling(temperature=temperature), len(logits)).sample(logits) == 9
