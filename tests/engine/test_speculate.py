"""Speculation against the plain loop: the same tokens, and the same memory, whatever is drafted."""

import copy
import itertools
from dataclasses import replace

import pytest
import torch

from qwen35cli.engine.depth import MOST, Fixed, Rounds
from qwen35cli.engine.generate import Step, generate
from qwen35cli.engine.runner import Prefill, Prompt, Runner
from qwen35cli.engine.sampling import Sampler, Sampling
from qwen35cli.engine.speculate import speculate
from qwen35cli.kernels import reference, select
from qwen35cli.kernels.cpu import linear
from qwen35cli.model.draft_head import DraftHead
from qwen35cli.model.rotary import prompt_positions
from tests.engine.steered import CLOSING, STEERINGS, STUCK, thinking
from tests.engine.test_runner import IMAGE, RAW, ids_of, prompt_with_pictures
from tests.tiny import tiny_model

VOCAB = 508  # the last four are picture tokens
PROMPT = Prompt(ids_of(20))
ALIKE = Sampling(temperature=0)
DRAWN = Sampling(temperature=1.5, top_k=0, top_p=1.0, seed=11)


@pytest.fixture(scope="module")
def model():
    """In bfloat16 and compiled, where tokens read at once get the bits of tokens read alone.

    So of a CPU without bf16 units: with them a prompt's roundings depend on how it is cut.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(linear, "bf16_units", lambda: False)
        kernels = select(torch.device("cpu"), "cpu")
    return tiny_model(RAW, dtype=torch.bfloat16, kernels=kernels)


def runner(model, capacity=400, drafts=True, chunk=512):
    head = DraftHead(model.kernels, model.head.stored(), tokens=VOCAB, control=500, common=300)
    return Runner(model, capacity=capacity, chunk=chunk, draft_head=head if drafts else None)


class Scripted:
    """Drafts of which the first so many are right, and as many a round as the script says.

    The layer drafts as well, so that its memory goes through it all.
    """

    def __init__(self, engine, truth, prompt, script):
        self.engine, self.truth, self.prompt = engine, truth, prompt
        self.rounds = itertools.cycle(script)
        self.real, engine.drafter.draft = engine.drafter.draft, self.draft

    def choose(self):
        count, self.right = next(self.rounds)
        return count

    def record(self, drafts, looked, accepted, seconds):
        assert accepted == min(self.right, drafts, looked)

    def draft(self, token, count):
        assert len(self.real(token, count)) == count
        at = self.engine.length - len(self.prompt.ids)
        assert token == self.truth[at]
        follow = [*self.truth, *[0] * MOST][at + 1 : at + 1 + count]
        return [t if i < self.right else (t + 1) % VOCAB for i, t in enumerate(follow)]


def tokens_of(events):
    return [event for event in events if isinstance(event, Step)]


def plain(model, prompt=PROMPT, sampling=ALIKE, capacity=400, **options):
    engine = runner(model, capacity, drafts=False)
    options = {"stop": frozenset()} | options
    return tokens_of(generate(engine, prompt, Sampler(sampling, VOCAB), **options)), engine


def start(model, script, prompt=PROMPT, sampling=ALIKE, capacity=400, **options):
    """A speculating loop whose drafts follow the script, and its engine."""
    truth = [s.token for s in plain(model, prompt, sampling, 400, max_tokens=120)[0]]
    engine = runner(model, capacity)
    depth = Scripted(engine, truth, prompt, script)
    options = {"stop": frozenset()} | options
    sampler = Sampler(sampling, VOCAB)
    return (
        speculate(engine, prompt, sampler, depth=depth, rounds=Rounds(), **options),
        engine,
    )


def absorbed(layer):
    """State and rows of a delta layer with the log of the last step carried out, aside."""
    aside = copy.copy(layer)
    aside.state, aside.rows = layer.state.clone(), layer.rows.clone()
    aside.absorb()
    return aside.state, aside.rows


def same_memory(engine, other):
    """Both hold the tokens that plain decoding would have left; what follows has the same bits."""
    assert engine.length == other.length
    for one, two in zip(engine.cache.layers, other.cache.layers, strict=True):
        if hasattr(one, "state"):
            torch.testing.assert_close(absorbed(one), absorbed(two))  # but for fused roundings
        else:
            kept = slice(0, engine.length)
            assert torch.equal(one.keys[:, :, kept], two.keys[:, :, kept])
            assert torch.equal(one.values[:, :, kept], two.values[:, :, kept])
    if engine.length < engine.capacity:
        assert torch.equal(engine.step(7), other.step(7))


def same_drafter(engine, other):
    for each in (engine, other):
        each.drafter._catch_up()
    length = engine.length - 1  # the last token's pair waits for the next
    assert engine.cache.mtp.length - engine.drafter._drafted == length
    assert other.cache.mtp.length == length
    for part in ("keys", "values"):
        one, two = (getattr(each.cache.mtp, part)[:, :, :length] for each in (engine, other))
        torch.testing.assert_close(one, two, rtol=2e-2, atol=2e-2)  # bfloat16


PATTERNS = [[(count, right)] for count in range(MOST + 1) for right in range(count + 1)]


@pytest.mark.parametrize("sampling", [ALIKE, DRAWN], ids=["argmax", "drawn"])
@pytest.mark.parametrize(
    "script",
    [
        *PATTERNS,
        [(4, 4), (0, 0), (2, 1)],  # no drafts behind a round that was all right
        [(3, 0), (0, 0), (0, 0), (1, 1)],
        [(4, 2), (1, 0), (3, 3), (0, 0), (2, 0)],
    ],
    ids=str,
)
def test_forced_acceptance_gives_the_plain_tokens(model, script, sampling):
    expected, theirs = plain(model, sampling=sampling, max_tokens=60)
    events, ours = start(model, script, sampling=sampling, max_tokens=60)
    assert tokens_of(events) == expected
    same_memory(ours, theirs)


@pytest.mark.parametrize("name", STEERINGS)
@pytest.mark.parametrize("sampling", [STUCK, DRAWN], ids=["stuck", "drawn"])
@pytest.mark.parametrize("drafts", [0, 1, 4])
def test_steered_tokens_are_those_of_the_plain_loop(model, name, sampling, drafts):
    options = {"stop": frozenset(), "max_tokens": 160 if sampling is STUCK else 50}
    sampler, theirs = Sampler(sampling, 500), runner(model, drafts=False)
    expected = generate(theirs, PROMPT, sampler, steering=STEERINGS[name](), **options)
    expected = tokens_of(expected)
    ours = runner(model)
    options |= {"depth": Fixed(drafts), "rounds": Rounds(), "steering": STEERINGS[name]()}
    assert tokens_of(speculate(ours, PROMPT, Sampler(sampling, 500), **options)) == expected
    same_memory(ours, theirs)
    if sampling is STUCK and name == "a loop":
        assert expected[-1].finish == "loop"


@pytest.mark.parametrize("taken", range(1, 24))
def test_closing_a_steered_answer_anywhere_leaves_what_the_plain_loop_leaves(model, taken):
    ours, theirs = runner(model), runner(model)
    options = {"stop": frozenset()}
    extra = {"depth": Fixed(3), "rounds": Rounds()}
    loops = [
        speculate(ours, PROMPT, Sampler(DRAWN, 500), steering=thinking(5), **extra, **options),
        generate(theirs, PROMPT, Sampler(DRAWN, 500), steering=thinking(5), **options),
    ]
    for loop in loops:
        steps = itertools.islice((e for e in loop if isinstance(e, Step)), taken)
        assert len(list(steps)) == taken
        loop.close()
    same_drafter(ours, theirs)
    same_memory(ours, theirs)


def test_nothing_is_drafted_where_the_next_token_is_known(model):
    rounds = Rounds()
    options = {"stop": frozenset(), "max_tokens": 5 + len(CLOSING)}
    steering = thinking(5, patience=0)
    options |= {"depth": Fixed(1), "rounds": rounds, "steering": steering}
    steps = tokens_of(speculate(runner(model), PROMPT, Sampler(ALIKE, VOCAB), **options))
    assert tuple(step.token for step in steps[5:]) == CLOSING
    assert rounds.count[0] >= len(CLOSING) - 1


@pytest.mark.parametrize("taken", range(1, 14))
@pytest.mark.parametrize(
    "script", [[(4, 4)], [(3, 1)], [(4, 2), (0, 0)], [(2, 2), (4, 0)]], ids=str
)
def test_closing_anywhere_leaves_what_the_plain_loop_leaves(model, script, taken):
    events, ours = start(model, script)
    theirs = runner(model)
    other = generate(theirs, PROMPT, Sampler(ALIKE, VOCAB), stop=frozenset())
    for loop in (events, other):
        steps = itertools.islice((e for e in loop if isinstance(e, Step)), taken)
        assert len(list(steps)) == taken
        loop.close()
    same_drafter(ours, theirs)
    same_memory(ours, theirs)
    more = Prompt(ids_of(9, seed=3))
    ends = []
    for engine in (ours, theirs):
        *_, last = engine.prefill(more)
        ends.append(last.logits)
    assert torch.equal(*ends)


@pytest.mark.parametrize("at", range(2, 9))
@pytest.mark.parametrize("script", [[(4, 4)], [(3, 2)]], ids=str)
def test_a_stop_token_inside_a_run_ends_it(model, script, at):
    free, _ = plain(model, sampling=DRAWN, max_tokens=20)
    stop = {"stop": frozenset({free[at].token})}
    expected, theirs = plain(model, sampling=DRAWN, **stop)
    events, ours = start(model, script, sampling=DRAWN, **stop)
    assert tokens_of(events) == expected
    assert expected[-1].finish == "stop"
    same_memory(ours, theirs)


@pytest.mark.parametrize("limit", range(1, 13))
@pytest.mark.parametrize("script", [[(4, 4)], [(4, 1)], [(0, 0), (3, 3)]], ids=str)
def test_budget_and_context_end_where_the_plain_loop_ends(model, script, limit):
    for options in ({"max_tokens": limit}, {"capacity": 20 + limit - 1}):
        expected, theirs = plain(model, **options)
        events, ours = start(model, script, **options)
        assert tokens_of(events) == expected
        same_memory(ours, theirs)


def test_penalties_count_as_if_token_by_token(model):
    for temperature in (0, 1.0):
        sampling = Sampling(
            temperature=temperature, presence_penalty=1.5, repetition_penalty=1.3, seed=4
        )
        expected, _ = plain(model, sampling=sampling, max_tokens=80)
        assert expected != plain(model, sampling=ALIKE, max_tokens=80)[0]
        for script in ([(4, 4)], [(4, 2), (3, 0)]):
            events, _ = start(model, script, sampling=sampling, max_tokens=80)
            assert tokens_of(events) == expected


def test_two_thousand_tokens_of_the_layers_own_drafts(model):
    expected, theirs = plain(model, sampling=DRAWN, capacity=2_100, max_tokens=2_000)
    ours = runner(model, capacity=2_100)
    rounds = Rounds()
    depths = itertools.cycle([Fixed(n) for n in (4, 1, 0, 3, 2)])

    class Changing:
        def choose(self):
            return next(depths).drafts

        def record(self, *outcome):
            pass

    events = speculate(
        ours,
        PROMPT,
        Sampler(DRAWN, VOCAB),
        stop=frozenset(),
        max_tokens=2_000,
        depth=Changing(),
        rounds=rounds,
    )
    assert tokens_of(events) == expected
    assert all(rounds.count)
    same_memory(ours, theirs)


@pytest.mark.parametrize("chunk", [5, 512])
def test_after_pictures_tokens_and_keys_of_the_layer_are_right(model, chunk):
    """The layer's keys against one pass of it over everything, with the positions of pictures."""
    prompt = prompt_with_pictures()
    expected, _ = plain(model, prompt, max_tokens=30)
    engine = runner(model, chunk=chunk)
    events = speculate(
        engine,
        prompt,
        Sampler(ALIKE, VOCAB),
        stop=frozenset(),
        max_tokens=30,
        depth=Fixed(3),
        rounds=Rounds(),
    )
    steps = tokens_of(events)
    assert steps == expected

    ids = torch.tensor([[*prompt.ids, *[s.token for s in steps[:-1]]]])
    positions, _ = prompt_positions(ids[0].tolist(), IMAGE, [p.grid for p in prompt.images], 2)
    with torch.inference_mode():
        x = model.embed(ids)
        pictures = [model.visual(p.pixels.bfloat16(), [p.grid]) for p in prompt.images]
        x[ids == IMAGE] = torch.cat(pictures).to(x.dtype)
        hidden = model.language_model(x, positions)
        cache = model.make_cache(400, drafts=True).mtp
        model.mtp(x[:, 1:], hidden[:, :-1], positions[..., :-1], cache)
    engine.drafter._catch_up()
    length = engine.length - 1
    assert engine.cache.mtp.length >= length == cache.length
    for part in ("keys", "values"):
        actual, wanted = (getattr(c, part)[:, :, :length] for c in (engine.cache.mtp, cache))
        assert (actual - wanted).norm() < 0.02 * wanted.norm()  # bfloat16


@pytest.mark.parametrize("where", ["drafting", "reading"])
def test_an_interruption_in_a_round_takes_the_round_back(model, monkeypatch, where):
    expected, theirs = plain(model, max_tokens=6)
    ours = runner(model)
    events = speculate(
        ours,
        PROMPT,
        Sampler(ALIKE, VOCAB),
        stop=frozenset(),
        depth=Fixed(3),
        rounds=Rounds(),
    )
    got = [next(e for e in events if isinstance(e, Step)) for _ in range(6)]
    assert [s.token for s in got] == [s.token for s in expected]

    def interrupted(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        if where == "drafting":
            patch.setattr(DraftHead, "candidates", property(interrupted))
        else:
            patch.setattr(ours, "_read", interrupted)
        with pytest.raises(KeyboardInterrupt):
            list(events)
    again = runner(model)
    for _ in again.prefill(Prompt(PROMPT.ids + tuple(s.token for s in expected[:-1]))):
        pass
    same_drafter(ours, again)
    same_memory(ours, theirs)


@pytest.mark.parametrize("picture", [False, True])
def test_drafts_in_one_call_are_those_made_one_by_one(model, picture):
    """Compiled, where a call takes one pair, and the plain twin, where it takes those of the last
    round too; behind a picture the axes of a position differ, and nobody takes them at once."""
    prompt = PROMPT
    if picture:
        whole = prompt_with_pictures()
        prompt = Prompt(whole.ids[:-3], whole.images)
        assert prompt.ids[-1] == IMAGE
    engines = [runner(model)]
    for loop in (reference.draft_by_draft, reference.draft_loop):
        kernels = replace(model.kernels, draft_loop=loop)
        engines.append(runner(tiny_model(RAW, dtype=torch.bfloat16, kernels=kernels)))
    for engine in engines:
        list(engine.prefill(prompt))
    loops = [engine.drafter._loop for engine in engines]
    assert [loop and loop.pairs for loop in loops] == [1, None, 8]
    token, made = 3, []
    for count in (4, 1, 3, 2, 4):
        first, *others = (engine.look_ahead(token, count)[0] for engine in engines)
        assert all(other == first for other in others)
        made += first
        for engine in engines:
            engine.keep(1 + count // 2)
        token = 17 * count
    assert len(set(made)) > 5
    for engine in engines:
        engine.drafter._catch_up()
    first, *others = (engine.cache.mtp for engine in engines)
    for other in others:
        assert first.length == other.length
        for one, two in zip(first.tensors(), other.tensors(), strict=True):
            torch.testing.assert_close(
                one[:, :, : first.length].float(), two[:, :, : first.length].float(),
                rtol=0.03, atol=0.03,
            )  # fmt: skip


class Chain:
    """A decoder whose next token depends on the last alone; its drafts are arbitrary."""

    capacity = 10**9

    def __init__(self, table):
        self.table, self.length = table, 0
        self.random = torch.Generator().manual_seed(1)

    def prefill(self, prompt):
        self.length = 1
        yield Prefill(1, 1, self.table[prompt.ids[-1]])

    def step(self, token):
        self.length += 1
        return self.table[token]

    def look_ahead(self, token, count, checks=None):
        drafts = torch.randint(len(self.table), (count,), generator=self.random).tolist()
        return drafts, self.table[[token, *drafts]]

    def keep(self, count):
        self.length += count


@pytest.mark.parametrize("drafts", [0, 1, 2, 4])
def test_tokens_follow_the_targets_distribution(drafts):
    """24,000 tokens: which token follows which, against the table; 4.5 sigma of each share."""
    torch.manual_seed(0)
    table = torch.randn(4, 4) * 1.5
    events = speculate(
        Chain(table),
        Prompt((0,)),
        Sampler(Sampling(temperature=1.0, top_k=0, top_p=1.0, seed=drafts), 4),
        stop=frozenset(),
        max_tokens=24_000,
        depth=Fixed(drafts),
        rounds=(rounds := Rounds()),
    )
    tokens = [step.token for step in tokens_of(events)]
    pairs = torch.zeros(4, 4)
    for pair in itertools.pairwise(tokens):
        pairs[pair] += 1
    visits = pairs.sum(1, keepdim=True)
    shares = torch.softmax(table, dim=1)
    bound = 4.5 * (shares * (1 - shares) / visits).sqrt()
    assert ((pairs / visits - shares).abs() < bound).all()
    assert visits.min() > 1_000
    if drafts:
        assert 0.15 < rounds.acceptance[0] < 0.35  # of arbitrary drafts among four


def test_rounds_count_what_was_compared():
    rounds = Rounds()
    rounds.record(0, 0, 0, 1.0)
    rounds.record(3, 3, 3, 1.5)
    rounds.record(3, 2, 1, 1.7)
    rounds.record(3, 1, 1, 1.6)  # a stop token came before the others were looked at
    assert rounds.count == [1, 0, 0, 3, 0]
    assert rounds.tokens_per_round == (4 + 5) / 4
    assert rounds.acceptance == [1.0, 0.5, 1.0, None]
    assert (rounds.cost(3), rounds.cost(2)) == (1.6, None)
