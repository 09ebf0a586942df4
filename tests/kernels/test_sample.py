"""The choice of a token in Triton against the host's sampler and plain torch."""

from dataclasses import dataclass, replace

import pytest
import torch

from qwen35cli.engine.sampling import PRESETS, Sampler, Sampling
from qwen35cli.kernels import reference
from qwen35cli.kernels.operands import DRAWN, Control

triton = pytest.importorskip("triton", reason="Triton has no wheel for this system")
from qwen35cli.kernels.triton import sample  # noqa: E402  (it imports Triton)

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
RING, NUMBERS = 8, 4  # fewer than draws: both wrap around
SIZES = [(112, 100, 10), (1_024, 1_000, 2)]  # rows, vocab_size, draws: interpreted, they take time
OFTEN = 10 if torch.cuda.is_available() else 1
PENALTIES = {"presence_penalty": 1.5, "repetition_penalty": 1.3}
SETTINGS = {
    "plain": Sampling(top_k=20, top_p=1.0),
    "one": Sampling(top_k=1),
    "all kept": Sampling(top_k=64, top_p=1.0),
    "little mass": Sampling(top_k=64, top_p=0.3),
    "no mass": Sampling(top_p=0.0),
    "min_p": Sampling(top_k=40, top_p=1.0, min_p=0.2),
    "cold": Sampling(temperature=0.01, top_k=64),
    "hot": Sampling(temperature=100.0, top_k=64, top_p=0.9),
    "penalties": Sampling(temperature=0.7, **PENALTIES),
    "reward": Sampling(presence_penalty=-2.0, repetition_penalty=0.8),
    "repetition": Sampling(top_k=8, repetition_penalty=1.3),
    "greedy": Sampling(temperature=0),
    "greedy, penalties": Sampling(temperature=0, **PENALTIES),
}


@dataclass
class State:
    """What a caller of `draw` holds."""

    options: torch.Tensor
    seen: torch.Tensor
    uniforms: torch.Tensor
    control: torch.Tensor
    ids: torch.Tensor
    ring: torch.Tensor

    def all(self):
        return self.options, self.seen, self.uniforms, self.control, self.ids, self.ring


def numbers(sampler, count):
    return torch.rand(count, generator=sampler.random())


def state(sampling, rows, device=DEVICE, ids=torch.int64):
    made = State(
        options=sample.options_of(sampling),
        seen=torch.zeros(rows, dtype=torch.uint8),
        uniforms=numbers(Sampler(sampling, rows), NUMBERS),
        control=torch.tensor([100, -7, 0, 0, 0], dtype=torch.int32),
        ids=torch.full((3,), -1, dtype=ids),
        ring=torch.full((RING,), -1, dtype=torch.int32),
    )
    return State(*(each.to(device) for each in made.all()))


def drawn(logits, sampling, vocab_size, *, steps, room=None):
    """The tokens of some draws, from (steps, rows) or from the same (rows,) logits."""
    rows = logits.shape[-1]
    room = room or sample.sample_room(DEVICE, rows, vocab_size)
    held = state(sampling, rows)
    stream = Sampler(sampling, vocab_size).random()
    tokens = []
    for step, row in enumerate(logits.to(DEVICE).expand(steps, rows)):
        if step % NUMBERS == 0:
            held.uniforms.copy_(torch.rand(NUMBERS, generator=stream))
        sample.draw(row.contiguous(), *held.all(), room, 1)
        tokens.append(int(held.ids[0]))
        assert held.ring[step % RING] == tokens[-1]
    assert held.seen.nonzero().flatten().tolist() == sorted(set(tokens))
    return tokens


def expected(logits, sampling, vocab_size, *, steps):
    sampler = Sampler(sampling, vocab_size)
    return [sampler.sample(row) for row in logits.expand(steps, logits.shape[-1])]


def random(*shape, seed=0, scale=2.0):
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def agree(logits, sampling, vocab_size, steps):
    found = drawn(logits, sampling, vocab_size, steps=steps)
    assert found == expected(logits, sampling, vocab_size, steps=steps)
    return found


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("name", SETTINGS)
def test_the_tokens_are_those_of_the_host(name, size):
    rows, vocab_size, steps = size
    logits = random(rows, seed=rows)
    logits[vocab_size:] = 100.0
    agree(logits, replace(SETTINGS[name], seed=len(name)), vocab_size, OFTEN * steps)


@pytest.mark.parametrize("name", ["penalties", "all kept", "greedy"])
def test_they_are_in_a_larger_vocabulary(name):
    agree(random(OFTEN, 5_008, seed=5), SETTINGS[name], 5_000, OFTEN)


@pytest.mark.parametrize("sampling", [PRESETS["general", True], PRESETS["reasoning", False]])
def test_they_are_as_the_logits_change(sampling):
    steps = 8 * OFTEN
    found = agree(random(steps, 208, seed=1, scale=4.0), sampling, 200, steps)
    assert len(set(found)) > 4


@pytest.mark.parametrize("name", ["penalties", "repetition", "greedy, penalties"])
def test_they_are_where_all_logits_are_negative(name):
    agree(random(112, seed=6) - 10, SETTINGS[name], 100, 6 * OFTEN)


@pytest.mark.parametrize("name", ["plain", "greedy", "all kept"])
@pytest.mark.parametrize("vocab_size", [1, 5, 33])
def test_vocabularies_smaller_than_what_is_kept(vocab_size, name):
    agree(random(40, seed=vocab_size), SETTINGS[name], vocab_size, 3)


def test_impossible_tokens_are_never_drawn():
    logits = torch.full((1_024,), float("-inf"))
    possible = [3, 40, 700, 999]
    logits[possible] = torch.tensor([1.0, -2.0, 0.5, 0.0])
    found = agree(logits, Sampling(top_k=64, top_p=1.0, temperature=3.0), 1_000, 2 * OFTEN)
    assert set(found) <= set(possible)


def test_the_first_of_equals_is_the_likeliest():
    logits = torch.zeros(1_024)
    logits[[810, 70, 75, 200]] = 1.0
    assert drawn(logits, SETTINGS["greedy"], 1_000, steps=1) == [70]
    assert drawn(logits, Sampling(top_k=1), 1_000, steps=1) == [70]
    logits = torch.tensor([-1.0, -0.0, 0.0])
    assert drawn(logits, SETTINGS["greedy"], 3, steps=1) == [1]


@pytest.mark.parametrize(("top_k", "steps"), [(1, 1), (7, 3), (64, 1)])
def test_many_equals_are_kept_from_the_lowest_id_on(top_k, steps, monkeypatch):
    """More than are sorted reach the last that is kept: they are searched one by one."""
    monkeypatch.setattr(sample, "ROOM", 128)
    logits = torch.zeros(304)
    logits[:4] = -1.0
    sampling = Sampling(temperature=100.0, top_k=top_k, top_p=1.0)
    room = sample.sample_room(DEVICE, 304, 300)
    found = drawn(logits, sampling, 300, steps=steps, room=room)
    uniforms = numbers(Sampler(sampling, 300), steps)
    assert found == [4 + int(number * top_k) for number in uniforms]
    assert not room.counters.any()


@pytest.mark.parametrize("limit", [128, 1_024])
def test_the_likeliest_may_all_be_neighbours(limit, monkeypatch):
    """Their group has one best, and the other groups are poor: many tokens are candidates."""
    monkeypatch.setattr(sample, "ROOM", limit)
    logits = random(1_024, seed=3, scale=0.1)
    logits[960:992] += 5
    logits[-8:] = 50.0
    agree(logits, Sampling(top_k=25, top_p=1.0, temperature=5.0), 1_000, OFTEN)


@pytest.mark.parametrize("ids", [torch.int32, torch.int64])
@pytest.mark.parametrize("name", ["penalties", "greedy, penalties", "min_p"])
def test_all_that_is_written_is_as_the_reference_writes_it(name, ids):
    rows, vocab_size = 112, 101
    room = sample.sample_room(DEVICE, rows, vocab_size)
    ours, plain = (state(SETTINGS[name], rows, device, ids) for device in (DEVICE, "cpu"))
    for step in range(9):
        logits = random(rows, seed=step)
        tokens = 1 + step % 3
        sample.draw(logits.to(DEVICE), *ours.all(), room, tokens)
        reference.sample_step(logits, *plain.all(), vocab_size, tokens)
        for found, wanted in zip(ours.all(), plain.all(), strict=True):
            assert torch.equal(found.cpu(), wanted)
    assert plain.control.tolist() == [100 + 3 * (1 + 2 + 3), -7, 3, 1, 9]
    assert plain.ids.tolist()[1:] == [-1, -1]
    assert not room.counters.any()


@pytest.mark.parametrize("name", ["greedy", "plain", "penalties"])
@pytest.mark.parametrize("ill", [torch.nan, -torch.nan, torch.inf, "all nan", "all impossible"])
def test_the_host_is_told_of_what_overflowed(name, ill, monkeypatch):
    """The device goes on with a token that the next step can be run with."""
    monkeypatch.setattr(sample, "ROOM", 128)
    rows, vocab_size = 304, 300
    room = sample.sample_room(DEVICE, rows, vocab_size)
    ours, plain = (state(SETTINGS[name], rows, device) for device in (DEVICE, "cpu"))
    for step in range(3):
        logits = random(rows, seed=step)
        logits[vocab_size:] = torch.nan  # the padding may hold anything
        if step == 1:
            if isinstance(ill, str):
                logits[:] = torch.nan if ill == "all nan" else -torch.inf
            else:
                logits[77] = ill
        sample.draw(logits.to(DEVICE), *ours.all(), room, 1)
        reference.sample_step(logits, *plain.all(), vocab_size, 1)
        assert 0 <= int(ours.ids[0]) < vocab_size
        assert not room.counters.any()
        for part in ("seen", "control", "ring"):
            assert torch.equal(getattr(ours, part).cpu(), getattr(plain, part))
    first, second, third = ours.ring[:3].tolist()
    assert second == -1 and min(first, third) >= 0
    assert ours.seen.nonzero().flatten().tolist() == sorted({first, third})


def test_one_room_serves_whatever_the_options_are():
    """A graph is captured once: the options are read from the device."""
    logits = random(112, seed=9).to(DEVICE)
    room = sample.sample_room(DEVICE, 112, 100)
    held = state(Sampling(), 112)
    for sampling in SETTINGS.values():
        held.options.copy_(sample.options_of(sampling))
        held.seen.zero_()
        held.control[4] = 3
        sample.draw(logits, *held.all(), room, 1)
        plain = state(sampling, 112, "cpu")
        plain.uniforms.copy_(held.uniforms)
        plain.control[4] = 3
        reference.sample_step(logits.cpu(), *plain.all(), 100, 1)
        assert held.ids[0] == plain.ids[0]


@pytest.mark.parametrize("name", ["plain", "penalties", "reward", "greedy, penalties"])
def test_draws_go_on_in_the_middle_of_an_answer(name):
    """Behind tokens that others chose: with the penalties and the random numbers of the host."""
    rows, vocab_size, before = 112, 100, [7, 0, 7, 99, 31]
    draws = sample.Draws(DEVICE, rows, vocab_size, NUMBERS, RING)
    control = Control.on(DEVICE)
    for given in ([3, 4, 5], before):  # of the first nothing may be left
        sampler = Sampler(SETTINGS[name], vocab_size)
        sampler.take(given)
        draws.begin(SETTINGS[name], sampler.generated)
        draws.uniforms.copy_(numbers(sampler, NUMBERS))
        control.numbers[DRAWN] = 0
        for step in range(NUMBERS):
            logits = random(rows, seed=step)
            draws(logits.to(DEVICE), control, 1)
            # The id waits for the device; the ring lies in the memory of the host.
            assert int(control.ids[0]) == draws.ring[step] == sampler.sample(logits)
        assert set(draws.seen.nonzero().flatten().tolist()) == set(sampler.generated)


@pytest.mark.parametrize("name", ["plain", "penalties", "reward", "greedy, penalties"])
def test_tokens_that_came_or_never_did_are_marked(name):
    rows, vocab_size, given = 112, 100, list(range(0, 100, 3))
    draws = sample.Draws(DEVICE, rows, vocab_size, NUMBERS, RING)
    control, sampler = Control.on(DEVICE), Sampler(SETTINGS[name], vocab_size)
    sampler.take(given)
    draws.begin(SETTINGS[name], [*range(50)])
    draws.mark([token for token in range(50) if token % 3], seen=False)
    draws.mark([token for token in given if token >= 50], seen=True)
    draws.mark([], seen=True)
    draws.uniforms.copy_(numbers(sampler, NUMBERS))
    for step in range(NUMBERS):
        logits = random(rows, seed=step)
        draws(logits.to(DEVICE), control, 1)
        assert int(control.ids[0]) == draws.ring[step] == sampler.sample(logits)


def test_only_draws_from_few_are_servable():
    assert all(sample.servable(each) for each in (*SETTINGS.values(), *PRESETS.values()))
    assert sample.servable(Sampling(temperature=0, top_k=0))
    assert not sample.servable(Sampling(top_k=0))
    assert not sample.servable(Sampling(top_k=65))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", SETTINGS)
def test_the_whole_vocabulary(name):
    agree(random(60, 248_320, seed=4, scale=3.0), SETTINGS[name], 248_077, 60)
