"""The runner against one forward over everything, and the plain loop on top of it."""

import pytest
import torch

from qwen35cli.engine.generate import Step, generate
from qwen35cli.engine.runner import Prompt, Runner
from qwen35cli.engine.sampling import Sampler, Sampling
from qwen35cli.errors import ContextFullError
from qwen35cli.images.preprocess import Patches
from qwen35cli.model.rotary import prompt_positions
from tests.tiny import tiny_config, tiny_model

RAW = tiny_config()
IMAGE = RAW["image_token_id"]


@pytest.fixture(scope="module")
def model():
    return tiny_model(RAW)


def runner(model, capacity=400, chunk=512):
    return Runner(model, capacity=capacity, kv_dtype=torch.float32, chunk=chunk)


def ids_of(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randint(0, 500, (count,), generator=generator).tolist())


def picture(h, w, seed=0):
    pixels = torch.randn(h * w, 1536, generator=torch.Generator().manual_seed(seed))
    return Patches(pixels=pixels, grid=(1, h, w), tokens=h * w // 4, size=(16 * w, 16 * h))


def last_logits(events):
    *_, last = events
    return last.logits


def whole(model, prompt):
    """Logits of every position by one pass without a cache."""
    grids = [p.grid for p in prompt.images]
    positions, _ = prompt_positions(prompt.ids, IMAGE, grids, 2)
    ids = torch.tensor([prompt.ids])
    x = model.embed(ids)
    if prompt.images:
        x[ids == IMAGE] = torch.cat([model.visual(p.pixels, [p.grid]) for p in prompt.images])
    return model.logits(model.language_model(x, positions))[0]


def prompt_with_pictures():
    ids = (1, 2, 3, *[IMAGE] * 6, 4, 5, *[IMAGE] * 12, 6, 7, 8)
    return Prompt(ids, (picture(4, 6), picture(8, 6, seed=1)))


@pytest.mark.parametrize("chunk", [1, 5, 64, 100, 512])
def test_chunks_of_any_size_give_the_same_logits(model, chunk):
    prompt = Prompt(ids_of(130))
    events = list(runner(model, chunk=chunk).prefill(prompt))
    assert [e.done for e in events] == [*range(chunk, 130, chunk), 130]
    assert all(e.logits is None for e in events[:-1])
    torch.testing.assert_close(events[-1].logits, whole(model, prompt)[-1], rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("chunk", [4, 7, 512])
def test_pictures_and_steps_after_them_equal_one_pass(model, chunk):
    prompt, tail = prompt_with_pictures(), (9, 10, 11)
    expected = whole(model, Prompt(prompt.ids + tail, prompt.images))
    engine = runner(model, chunk=chunk)
    got = [last_logits(engine.prefill(prompt)), *(engine.step(token) for token in tail)]
    torch.testing.assert_close(
        torch.stack(got), expected[len(prompt.ids) - 1 :], rtol=2e-4, atol=2e-4
    )


def test_a_second_prompt_goes_on_where_the_first_ended(model):
    first, second = prompt_with_pictures(), Prompt((1, 2, *[IMAGE] * 6, 3), (picture(6, 4, 7),))
    engine = runner(model)
    list(engine.prefill(first))
    actual = last_logits(engine.prefill(second))
    joined = Prompt(first.ids + second.ids, first.images + second.images)
    torch.testing.assert_close(actual, whole(model, joined)[-1], rtol=2e-4, atol=2e-4)
    assert engine.length == len(joined.ids)


def test_reset_starts_over(model):
    prompt = prompt_with_pictures()
    engine = runner(model)
    first = last_logits(engine.prefill(prompt))
    engine.step(3)
    engine.reset()
    assert torch.equal(last_logits(engine.prefill(prompt)), first)


def test_a_prompt_longer_than_the_context_is_refused_and_nothing_read(model):
    engine = runner(model, capacity=50)
    with pytest.raises(ContextFullError, match="60 tokens, the context 50: 10 too many"):
        list(engine.prefill(Prompt(ids_of(60))))
    assert engine.length == 0


def test_pictures_that_do_not_match_the_image_tokens_are_refused(model):
    with pytest.raises(ValueError, match="6 image tokens for a picture of 12"):
        list(runner(model).prefill(Prompt((1, *[IMAGE] * 6), (picture(8, 6),))))
    with pytest.raises(ValueError, match="1 pictures for 0 runs"):
        list(runner(model).prefill(Prompt((1, 2), (picture(4, 6),))))


def greedy(model):
    return Sampler(Sampling(temperature=0), vocab_size=512)


def generated(model, prompt, **options):
    engine = runner(model, capacity=options.pop("capacity", 400))
    events = generate(engine, prompt, greedy(model), **({"stop": frozenset()} | options))
    return [event for event in events if isinstance(event, Step)], engine


def test_greedy_tokens_equal_the_slow_loop_without_a_cache(model):
    prompt = Prompt(ids_of(20))
    steps, _ = generated(model, prompt, max_tokens=12)
    ids = prompt.ids
    for step in steps:
        assert step.token == int(whole(model, Prompt(ids))[-1].argmax())
        ids += (step.token,)
    assert [s.finish for s in steps] == [None] * 11 + ["length"]


def test_a_stop_token_is_yielded_and_marked(model):
    prompt = Prompt(ids_of(20))
    free, _ = generated(model, prompt, max_tokens=12)
    stop = free[4].token
    first = next(i for i, s in enumerate(free) if s.token == stop)
    steps, _ = generated(model, prompt, stop=frozenset({stop}))
    assert [s.token for s in steps] == [s.token for s in free[: first + 1]]
    assert steps[-1].finish == "stop"


def test_a_full_context_ends_with_its_own_reason(model):
    steps, engine = generated(model, Prompt(ids_of(20)), capacity=25)
    assert len(steps) == 6  # five fit, and the sixth is known without being read
    assert steps[-1].finish == "context"
    assert engine.length == 25


def test_closing_leaves_the_caches_as_if_only_the_yielded_had_been(model):
    engine = runner(model)
    events = generate(engine, Prompt(ids_of(20)), greedy(model), stop=frozenset())
    taken = [next(events) for _ in range(5)]  # one chunk of prompt, four tokens
    events.close()
    assert isinstance(taken[-1], Step)
    assert engine.length == 20 + 3
