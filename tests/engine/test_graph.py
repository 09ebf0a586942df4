"""Steps that find their place on the device, and the loop that runs ahead, against the plain ones.

The steps are the plain twin here; those of the Triton kernels are compared with it in
tests/kernels/test_step.py, and both run in graphs where a GPU is.
"""

import itertools
from dataclasses import replace

import pytest
import torch

from qwen35cli.engine.ahead import run_ahead
from qwen35cli.engine.depth import Fixed, Rounds
from qwen35cli.engine.generate import Step, generate
from qwen35cli.engine.graph import RING, UNIFORMS, Ahead, Stepper
from qwen35cli.engine.runner import Prompt, Runner
from qwen35cli.engine.sampling import Sampler, Sampling
from qwen35cli.engine.speculate import speculate
from qwen35cli.errors import ModelError
from qwen35cli.kernels import reference, select
from qwen35cli.model.cache import DeltaCache
from qwen35cli.model.draft_head import DraftHead
from tests.engine.steered import CLOSING, END_THINK, STEERINGS, STUCK, thinking
from tests.engine.test_speculate import Scripted
from tests.tiny import tiny_config, tiny_model

CPU = torch.device("cpu")
GREEDY = Sampling(temperature=0)
SAMPLINGS = [
    GREEDY,
    Sampling(seed=7),
    Sampling(temperature=0.7, top_p=0.8, presence_penalty=1.5, seed=3),
    Sampling(temperature=1.3, top_k=5, min_p=0.05, repetition_penalty=1.3, seed=9),
]


class Draws:
    """Draws in plain torch."""

    def __init__(self, device, rows, vocab_size, numbers, slots):
        self.options, self.seen = torch.zeros(6), torch.zeros(rows, dtype=torch.uint8)
        self.uniforms, self.ring = torch.zeros(numbers), torch.zeros(slots, dtype=torch.int32)
        self.vocab_size = vocab_size

    def serves(self, options):
        return options.top_k > 0

    def begin(self, options, seen=()):
        values = (options.temperature, options.top_p, options.min_p, options.presence_penalty)
        self.options = torch.tensor([*values, options.repetition_penalty, options.top_k])
        self.seen.zero_()
        self.seen[list(seen)] = 1

    def mark(self, tokens, *, seen):
        self.seen[list(tokens)] = int(seen)

    def __call__(self, logits, control, tokens):
        reference.sample_step(
            logits,
            self.options,
            self.seen,
            self.uniforms,
            control.numbers,
            control.ids,
            self.ring,
            self.vocab_size,
            tokens,
        )

    def tensors(self):
        return []


@pytest.fixture(scope="module")
def kernels():
    return replace(select(CPU, "reference"), token_step=reference.token_step, draws=Draws)


@pytest.fixture(scope="module")
def runners(kernels):
    """Two of one model: with steps on the device, and without."""
    raw = tiny_config()

    def make(capacity=200):
        ours = Runner(tiny_model(raw, kernels=kernels), capacity=capacity, kv_dtype=torch.float32)
        plain = Runner(tiny_model(raw), capacity=capacity, kv_dtype=torch.float32)
        assert ours.stepper is not None and plain.stepper is None
        return ours, plain

    return make


def read(runner, ids=range(20, 50)):
    for event in runner.prefill(Prompt(tuple(ids))):
        logits = event.logits
    return logits


def tokens(events):
    return [(e.token, e.finish) for e in events if isinstance(e, Step)]


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_steps_follow_the_caches_through_prompts_and_rollbacks(runners):
    ours, plain = runners()
    for part in ([5, 6, 7, *range(40)], [9], [3, 4]):
        close(read(ours, part), read(plain, part))
        for token in (50, 51, 52):
            close(ours.step(token), plain.step(token))
    ours._read([60, 61, 62, 63])
    ours.keep(2)
    for token in (60, 61):
        plain.step(token)
    close(ours.step(70), plain.step(70))
    ours._read([80, 81])
    ours.keep(0)
    close(ours.step(71), plain.step(71))
    assert ours.length == plain.length


def test_steps_know_the_positions_behind_a_picture(runners):
    ours, plain = runners()
    for runner in (ours, plain):
        read(runner)
        runner.cache.position_delta = -7
    close(ours.step(50), plain.step(50))


def test_a_full_cache_is_refused_before_anything_changes(runners):
    ours, plain = runners(capacity=31)
    for runner in (ours, plain):
        read(runner)
    with pytest.raises(ValueError, match="32 tokens in a cache of 31"):
        ours._read([1, 2])
    close(ours.step(50), plain.step(50))
    with pytest.raises(ValueError, match="32 tokens in a cache of 31"):
        ours.step(51)


@pytest.mark.parametrize("way", ["reset", "restore"])
def test_layers_that_were_left_out_of_step_go_on_in_step(runners, monkeypatch, way):
    """Steps take the log of one layer's last step for that of all; prompts and states do not."""
    ours, plain = runners()
    for runner in (ours, plain):
        read(runner)
    saved = ours.snapshot()
    advance, moved = DeltaCache.advance, []

    def interrupted(layer, tokens, **options):
        moved.append(layer)
        if len(moved) == 2:
            raise KeyboardInterrupt
        return advance(layer, tokens, **options)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(DeltaCache, "advance", interrupted)
        ours.step(50)
    if way == "reset":
        ours.reset()
        read(ours)
    else:
        ours.restore(saved)
    close(ours.step(51), plain.step(51))
    close(read(ours, [52, 53]), read(plain, [52, 53]))


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=str)
def test_the_device_draws_the_tokens_of_the_plain_loop(runners, sampling):
    found = []
    for runner in runners():
        sampler = Sampler(sampling, 500)
        ahead = runner.ahead(sampler)
        prompt = Prompt(tuple(range(20, 50)))
        if ahead is None:
            events = generate(runner, prompt, sampler, stop=frozenset(), max_tokens=30)
        else:
            events = run_ahead(runner, ahead, prompt, sampler, stop=frozenset(), max_tokens=30)
        found.append((tokens(events), runner.length))
    assert found[0] == found[1]


@pytest.mark.parametrize("name", STEERINGS)
@pytest.mark.parametrize("sampling", [*SAMPLINGS[::3], STUCK], ids=str)
def test_steered_tokens_are_those_of_the_plain_loop(runners, sampling, name):
    ours, plain = runners()
    options = {"stop": frozenset(), "max_tokens": 160 if sampling is STUCK else 50}
    prompt, sampler = Prompt(tuple(range(20, 50))), Sampler(sampling, 500)
    expected = tokens(generate(plain, prompt, sampler, steering=STEERINGS[name](), **options))
    sampler = Sampler(sampling, 500)
    steering = STEERINGS[name]()
    found = tokens(
        run_ahead(ours, ours.ahead(sampler), prompt, sampler, steering=steering, **options)
    )
    assert found == expected
    if sampling is STUCK and "loop" in name:
        assert END_THINK in [token for token, _ in found]
        assert found[-1][1] == "loop" or name != "a loop"
    assert ours.length == plain.length == 30 + len(found) - 1
    close(ours.step(77), plain.step(77))


@pytest.mark.parametrize("taken", [*range(1, 24), 40])
def test_closing_a_steered_answer_anywhere_leaves_what_the_plain_loop_leaves(runners, taken):
    """While the device draws, at both changes of hands, and while the host does."""
    ours, plain = runners()
    sampler, prompt = Sampler(SAMPLINGS[2], 500), Prompt(tuple(range(20, 50)))
    ahead, steering = ours.ahead(sampler), thinking(5, patience=3)
    events = run_ahead(ours, ahead, prompt, sampler, stop=frozenset(), steering=steering)
    steps = list(itertools.islice((e for e in events if isinstance(e, Step)), taken))
    events.close()
    assert ours.length == 30 + taken - 1
    read(plain)
    for step in steps[:-1]:
        plain.step(step.token)
    close(ours.step(77), plain.step(77))


def test_the_device_draws_before_and_behind_what_is_forced(runners, monkeypatch):
    ours, _ = runners()
    log = []
    start, token = Ahead.start, Ahead.token
    monkeypatch.setattr(Ahead, "start", lambda self, *a: (log.append("start"), start(self, *a)))
    monkeypatch.setattr(Ahead, "token", lambda self, n: (log.append(n), token(self, n))[1])
    sampler = Sampler(GREEDY, 500)
    events = run_ahead(
        ours,
        ours.ahead(sampler),
        Prompt((1, 2, 3)),
        sampler,
        stop=frozenset(),
        max_tokens=5 + len(CLOSING) + 4,
        steering=thinking(5, patience=0),
    )
    drawn = [token for token, _ in tokens(events)]
    assert log == ["start", 0, 1, 2, 3, 4, "start", 0, 1, 2, 3]
    assert drawn[5:10] == list(CLOSING)


@pytest.mark.parametrize("cut", [3, 8, 12, 30])
@pytest.mark.parametrize("sampling", [SAMPLINGS[2], STUCK], ids=str)
def test_a_cut_answer_goes_on_as_if_it_had_not_been_cut(runners, sampling, cut):
    ours, plain = runners()
    prompt = Prompt(tuple(range(20, 50)))

    def steering():
        return STEERINGS["a budget, then a loop"]()

    options = {"stop": frozenset()}
    sampler = Sampler(sampling, 500)
    whole = tokens(generate(plain, prompt, sampler, steering=steering(), max_tokens=40, **options))
    before = [token for token, _ in whole[:cut]]
    sampler, again = Sampler(sampling, 500), steering()
    sampler.take(before)
    for token in before:
        again.take(token)
    prompt = Prompt((*prompt.ids, *before))
    options |= {"steering": again, "max_tokens": 40 - cut}
    assert tokens(run_ahead(ours, ours.ahead(sampler), prompt, sampler, **options)) == whole[cut:]


def test_what_the_device_cannot_draw_is_left_to_the_host(runners):
    ours, _ = runners()
    assert ours.ahead(Sampler(Sampling(top_k=0), 500)) is None


def test_random_numbers_do_not_run_out(runners, monkeypatch):
    """More tokens than there are numbers on the device: they are renewed by halves."""
    monkeypatch.setattr("qwen35cli.engine.graph.UNIFORMS", 8)
    drawn = []
    for runner in runners():
        sampler = Sampler(Sampling(seed=11), 500)
        ahead = runner.ahead(sampler)
        prompt, stop = Prompt(tuple(range(20, 50))), frozenset()
        if ahead is None:
            events = generate(runner, prompt, sampler, stop=stop, max_tokens=50)
        else:
            assert len(ahead.drawing.uniforms) == 8
            events = run_ahead(runner, ahead, prompt, sampler, stop=stop, max_tokens=50)
        drawn.append(tokens(events))
    assert drawn[0] == drawn[1]
    assert UNIFORMS > 2 * RING  # as it is shipped


@pytest.mark.parametrize("end", ["stop", "closed", "length", "context"])
def test_the_step_too_many_is_taken_back(runners, end):
    ours, plain = runners(capacity=36 if end == "context" else 200)
    sampler = Sampler(GREEDY, 500)
    greedy = [
        token
        for token, _ in tokens(
            generate(plain, Prompt(tuple(range(20, 50))), sampler, stop=frozenset(), max_tokens=6)
        )
    ]
    stop = frozenset(greedy[4:5]) if end == "stop" else frozenset()
    at = greedy.index(greedy[4]) if end == "stop" else None
    sampler = Sampler(GREEDY, 500)
    most = 5 if end == "length" else None
    events = run_ahead(
        ours, ours.ahead(sampler), Prompt(tuple(range(20, 50))), sampler, stop=stop, max_tokens=most
    )
    seen = []
    for event in events:
        if isinstance(event, Step):
            seen.append(event)
            if end == "closed" and len(seen) == 3:
                events.close()
    assert seen[-1].finish == (None if end == "closed" else end)
    if end == "stop":
        assert len(seen) == at + 1
    assert ours.length == 30 + len(seen) - 1
    if end == "context":
        assert ours.length == ours.capacity
        return
    # Going on gives what a runner gives that never went too far.
    plain.reset()
    read(plain)
    for step in seen[:-1]:
        plain.step(step.token)
    close(ours.step(77), plain.step(77))


def test_the_step_after_a_token_is_on_its_way_before_the_token_is_read(runners, monkeypatch):
    ours, _ = runners()
    log = []
    launch, token = Ahead.launch, Ahead.token
    monkeypatch.setattr(Ahead, "launch", lambda self: (log.append("launch"), launch(self)))
    monkeypatch.setattr(
        Ahead, "token", lambda self, number: (log.append(number), token(self, number))[1]
    )
    sampler = Sampler(GREEDY, 500)
    events = run_ahead(
        ours, ours.ahead(sampler), Prompt((1, 2, 3)), sampler, stop=frozenset(), max_tokens=3
    )
    assert len(tokens(events)) == 3
    assert log == ["launch", 0, "launch", 1, 2]


@pytest.mark.parametrize("sampling", SAMPLINGS[:2], ids=str)
@pytest.mark.parametrize("taken", [0, 5])
@pytest.mark.parametrize("drafting", [False, True])
def test_an_answer_ends_with_an_error_where_the_model_overflows(
    runners, checking, drafting, taken, sampling
):
    prompt, sampler = Prompt((1, 2, 3)), Sampler(sampling, 500)
    if drafting:
        ours, _, expected = checking(prompt, sampling, max_tokens=20)
        options = {"depth": Fixed(3), "rounds": Rounds(), "checks": ours.checks(sampler)}
        events = speculate(ours, prompt, sampler, stop=frozenset(), **options)
    else:
        ours, plain = runners()
        expected = tokens(
            generate(plain, prompt, Sampler(sampling, 500), stop=frozenset(), max_tokens=20)
        )
        events = run_ahead(ours, ours.ahead(sampler), prompt, sampler, stop=frozenset())
    found = []
    with pytest.raises(ModelError, match="computes no numbers"):
        while True:
            if len(found) == taken:
                with torch.inference_mode():
                    ours.model.language_model.norm.weight.fill_(torch.inf)
            found += tokens([next(events)])
    assert found == expected[: len(found)]
    assert taken <= len(found) <= taken + 4  # those that were drawn before
    assert set(sampler.generated) == {token for token, _ in found}
    assert ours.length - len(prompt.ids) in ({len(found) - 1, len(found)} if found else {0})


def test_a_cache_that_cannot_be_undone_has_no_log():
    model = tiny_model()
    caches = [layer for layer in model.make_cache(10).layers if isinstance(layer, DeltaCache)]
    assert all(layer.logs is None for layer in caches)
    caches = [
        layer for layer in model.make_cache(10, undo=True).layers if isinstance(layer, DeltaCache)
    ]
    assert all(layer.logs is not None for layer in caches)
    assert model.make_cache(10, undo=True).mtp is None


def test_steps_made_ahead_of_the_first_question_serve_it(runners):
    """As before a chat begins, in inference mode; the questions come outside of it."""
    sampler = Sampler(GREEDY, 512)
    ours, plain = runners()
    with torch.inference_mode():
        ours.stepper.reads.prepare(1)
        made = ours.ahead(sampler)
    prompt = Prompt(tuple(range(20, 30)))
    options = {"stop": frozenset(), "max_tokens": 4}
    found = tokens(run_ahead(ours, ours.ahead(sampler), prompt, sampler, **options))
    assert ours.ahead(sampler) is made
    assert found == tokens(generate(plain, prompt, Sampler(GREEDY, 512), **options))


# -- drafts that are checked on the device ---------------------------------------------------------


@pytest.fixture(scope="module")
def checking(kernels):
    """A runner that drafts, and what the plain loop says behind a prompt."""
    raw = tiny_config()

    def make(prompt, sampling, capacity=200, **options):
        plain = Runner(tiny_model(raw), capacity=capacity, kv_dtype=torch.float32)
        events = generate(plain, prompt, Sampler(sampling, 500), stop=frozenset(), **options)
        expected = tokens(events)
        model = tiny_model(raw, kernels=kernels)
        head = DraftHead(model.kernels, model.head.stored(), tokens=500, control=500)
        ours = Runner(model, capacity=capacity, kv_dtype=torch.float32, draft_head=head)
        return ours, plain, expected

    return make


SCRIPTS = [[(1, 1)], [(3, 3)], [(4, 2), (2, 0)], [(4, 4), (0, 0), (3, 1), (4, 0), (1, 0)]]


@pytest.mark.parametrize("script", SCRIPTS, ids=str)
@pytest.mark.parametrize("sampling", SAMPLINGS, ids=str)
def test_tokens_drawn_behind_drafts_are_those_of_the_plain_loop(checking, sampling, script):
    """Whatever was drawn behind a draft that was wrong leaves no trace."""
    prompt = Prompt(tuple(range(20, 50)))
    ours, plain, expected = checking(prompt, sampling, max_tokens=60)
    sampler = Sampler(sampling, 500)
    checks, drawn = ours.checks(sampler), []
    read = checks.read
    checks.read = lambda ids: (drawn.append(len(ids)), read(ids))[1]
    depth = Scripted(ours, [token for token, _ in expected], prompt, script)
    for _ in range(2):  # a second answer begins anew
        sampler = Sampler(sampling, 500)
        checks = ours.checks(sampler)
        options = {"stop": frozenset(), "depth": depth, "rounds": Rounds(), "max_tokens": 60}
        ours.reset()
        depth.rounds = itertools.cycle(script)
        assert tokens(speculate(ours, prompt, sampler, checks=checks, **options)) == expected
    assert max(drawn) == 1 + max(count for count, _ in script)
    behind = Sampler(sampling, 500)
    behind.take([token for token, _ in expected])
    assert sampler.random().get_state().equal(behind.random().get_state())
    close(ours.step(77), plain.step(77))


@pytest.mark.parametrize("name", STEERINGS)
@pytest.mark.parametrize("sampling", [*SAMPLINGS[::3], STUCK], ids=str)
def test_steered_drafts_are_checked_by_who_may(checking, sampling, name):
    """The device draws where the steering leaves it free, the host where it does not."""
    options = {"max_tokens": 160 if sampling is STUCK else 50, "steering": STEERINGS[name]()}
    prompt = Prompt(tuple(range(20, 50)))
    ours, plain, expected = checking(prompt, sampling, **options)
    sampler = Sampler(sampling, 500)
    options |= {"depth": Fixed(3), "rounds": Rounds(), "steering": STEERINGS[name]()}
    options |= {"stop": frozenset(), "checks": ours.checks(sampler)}
    assert tokens(speculate(ours, prompt, sampler, **options)) == expected
    close(ours.step(77), plain.step(77))


def test_what_the_device_cannot_draw_is_checked_by_the_host(checking):
    ours, _, _ = checking(Prompt((1, 2, 3)), GREEDY, max_tokens=1)
    assert ours.checks(Sampler(Sampling(top_k=0), 500)) is None


def test_without_room_for_a_graph_nothing_is_drawn_ahead(runners):
    """Asked at the end of the context, or of one that is shorter than the longest step."""
    sampler = Sampler(GREEDY, 500)
    ours, plain = runners(capacity=6)
    assert ours.ahead(sampler) is None
    found, expected = (
        tokens(generate(each, Prompt((20, 21)), Sampler(GREEDY, 500), stop=frozenset()))
        for each in (ours, plain)
    )
    assert found == expected and found[-1][1] == "context"

    ours, _ = runners(capacity=20)
    read(ours, range(20, 33))
    assert ours.ahead(sampler) is None
    ours.reset()
    assert ours.ahead(sampler) is not None


@pytest.mark.parametrize("capacity", range(40, 46))
def test_at_the_end_of_the_context_no_graph_is_made(checking, monkeypatch, capacity):
    """To be captured a step is run once, with room for the most tokens."""
    prompt = Prompt(tuple(range(20, 50)))
    ours, _, expected = checking(prompt, GREEDY, capacity=capacity)
    assert expected[-1][1] == "context"
    lengths = []
    captured = Stepper.captured
    monkeypatch.setattr(
        Stepper, "captured", lambda self, run: (lengths.append(ours.length), captured(self, run))[1]
    )
    depth = Scripted(ours, [token for token, _ in expected], prompt, [(4, 4)])
    sampler = Sampler(GREEDY, 500)
    options = {"depth": depth, "rounds": Rounds(), "checks": ours.checks(sampler)}
    assert tokens(speculate(ours, prompt, sampler, stop=frozenset(), **options)) == expected
    assert all(length + 8 <= capacity for length in lengths)
