"""Going back must equal never having gone ahead."""

import pytest
import torch

from tests.tiny import tiny_model


@pytest.fixture(scope="module")
def model():
    return tiny_model()


def tokens(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 500, (1, count), generator=generator)


def forward(model, cache, ids):
    T = ids.shape[1]
    positions = torch.arange(cache.length, cache.length + T).expand(3, 1, T)
    return model.language_model(model.embed(ids), positions, cache)


def one_by_one(model, cache, ids):
    if not ids.shape[1]:
        return None
    steps = [forward(model, cache, ids[:, t : t + 1]) for t in range(ids.shape[1])]
    return torch.cat(steps, dim=1)


@pytest.fixture
def cache(model):
    cache = model.make_cache(200, torch.float32, drafts=True)
    forward(model, cache, tokens(37))
    return cache


def twin(model):
    cache = model.make_cache(200, torch.float32)
    forward(model, cache, tokens(37))
    return cache


def same_memory(a, b):
    """Carries out what is left to do in both."""
    assert a.length == b.length
    for x, y in zip(a.layers, b.layers, strict=True):
        if hasattr(x, "state"):
            x.absorb()
            y.absorb()
            assert torch.equal(x.state, y.state)
            assert torch.equal(x.rows, y.rows)
        else:
            n = a.length
            assert torch.equal(x.keys[:, :, :n], y.keys[:, :, :n])
            assert torch.equal(x.values[:, :, :n], y.values[:, :, :n])


@pytest.mark.parametrize("drafted", [1, 2, 3, 4, 7, 8])
def test_rollback_of_drafts_equals_never_having_drafted(model, drafted):
    drafts, after = tokens(drafted, seed=1), tokens(5, seed=2)
    for kept in range(drafted, -1, -1):
        never, cache = twin(model), model.make_cache(200, torch.float32, drafts=True)
        forward(model, cache, tokens(37))
        one_by_one(model, never, drafts[:, :kept])
        forward(model, cache, drafts)
        assert cache.length == 37 + drafted
        cache.rollback(37 + kept)
        assert cache.length == 37 + kept
        expected, actual = one_by_one(model, never, after), one_by_one(model, cache, after)
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


def test_steps_that_stay_leave_what_plain_steps_leave(model, cache):
    never = twin(model)
    for ids in (tokens(1), tokens(1, seed=1), tokens(60, seed=2), tokens(1, seed=3)):
        expected = forward(model, never, ids)
        assert torch.equal(forward(model, cache, ids), expected)
    same_memory(cache, never)


def test_rollback_twice_and_going_on(model, cache):
    never = twin(model)
    one_by_one(model, never, tokens(2, seed=1))
    one_by_one(model, never, tokens(3, seed=3))
    forward(model, cache, torch.cat([tokens(2, seed=1), tokens(4, seed=5)], dim=1))
    cache.rollback(37 + 4)
    cache.rollback(37 + 2)
    one_by_one(model, cache, tokens(3, seed=3))
    cache.rollback(cache.length)
    expected, actual = (one_by_one(model, c, tokens(1)) for c in (never, cache))
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


def test_rollback_past_the_last_step_is_refused(model, cache):
    with pytest.raises(ValueError, match="cannot roll 37 tokens back to 36"):
        cache.layers[0].rollback(36)
    one_by_one(model, cache, tokens(2))
    with pytest.raises(ValueError, match="cannot roll 39 tokens back to 37; kept: from 38"):
        cache.layers[0].rollback(37)
    cache.rollback(38)
    forward(model, cache, tokens(9))
    with pytest.raises(ValueError, match="kept: from 47"):
        cache.layers[0].rollback(46)
    plain = twin(model)
    forward(model, plain, tokens(2))
    with pytest.raises(ValueError, match="kept: from 39"):
        plain.layers[0].rollback(38)


def test_a_snapshot_holds_what_stays_of_the_last_step(model, cache):
    never = twin(model)
    one_by_one(model, never, tokens(2, seed=1))
    forward(model, cache, torch.cat([tokens(2, seed=1), tokens(3, seed=5)], dim=1))
    cache.rollback(39)
    saved = cache.snapshot()
    forward(model, cache, tokens(4, seed=6))
    cache.restore(saved)
    assert cache.length == 39
    expected, actual = (one_by_one(model, c, tokens(3)) for c in (never, cache))
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


def test_restore_equals_never_having_left(model, cache):
    saved = cache.snapshot()
    forward(model, cache, tokens(50, seed=4))
    cache.restore(saved)
    same_memory(cache, twin(model))
    never = twin(model)
    expected = forward(model, never, tokens(9, seed=5))
    assert torch.equal(forward(model, cache, tokens(9, seed=5)), expected)


def test_two_snapshots_of_one_conversation_restore_in_any_order(model, cache):
    early = cache.snapshot()
    forward(model, cache, tokens(20, seed=1))
    late = cache.snapshot()
    forward(model, cache, tokens(5, seed=2))
    cache.restore(late)
    cache.restore(early)
    assert cache.length == 37
    with pytest.raises(ValueError, match="up to token 57 are gone"):
        cache.restore(late)  # its keys lie past the point returned to


def test_snapshot_keeps_the_position_delta(model, cache):
    cache.position_delta = -6
    saved = cache.snapshot()
    cache.position_delta = 0
    cache.restore(saved)
    assert cache.position_delta == -6


def test_reset_forgets_everything(model, cache):
    cache.reset()
    forward(model, cache, tokens(37))
    same_memory(cache, twin(model))


def test_more_tokens_than_capacity_is_refused(model, cache):
    with pytest.raises(ValueError, match="201 tokens in a cache of 200"):
        forward(model, cache, tokens(164))


def test_keys_in_8_bits_take_half_and_lose_little():
    from qwen35cli.kernels import select

    for backend in ("reference", "cpu"):
        model = tiny_model(kernels=select(torch.device("cpu"), backend))
        exact, small = (model.make_cache(200, kind) for kind in (torch.float32, torch.int8))
        whole, pieces = tokens(60), (40, 1, 1, 4, 14)
        outputs = []
        for cache in (exact, small):
            parts = whole.split(pieces, dim=1)
            outputs.append(torch.cat([forward(model, cache, part) for part in parts], dim=1))
        noise = (outputs[1] - outputs[0]).norm() / outputs[0].norm()
        assert 0 < noise < 0.02
        keys = [cache.layers[3] for cache in (exact, small)]
        assert keys[1].nbytes() == 2 * 2 * 200 * (32 + 2)
        assert keys[0].nbytes() == 2 * 2 * 200 * 32 * 4


def test_keys_in_8_bits_go_back_as_others_do(model):
    def made():
        cache = model.make_cache(200, torch.int8, drafts=True)
        forward(model, cache, tokens(37))
        return cache

    cache, never = made(), made()
    saved = cache.snapshot()
    forward(model, cache, tokens(4, seed=1))
    cache.rollback(37)
    expected = one_by_one(model, never, tokens(3, seed=2))
    assert torch.equal(one_by_one(model, cache, tokens(3, seed=2)), expected)
    cache.restore(saved)
    assert torch.equal(one_by_one(model, cache, tokens(3, seed=2)), expected)


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16, torch.int8])
def test_compiled_kernels_remember_what_the_reference_does(kind):
    from qwen35cli.kernels import select

    outputs = []
    for backend in ("reference", "cpu"):
        model = tiny_model(kernels=select(torch.device("cpu"), backend))
        cache = model.make_cache(200, kind, drafts=True)
        parts = [forward(model, cache, tokens(n, seed=n)) for n in (37, 1, 8, 9)]
        forward(model, cache, tokens(6, seed=1))
        cache.rollback(37 + 18 + 2)
        parts.append(one_by_one(model, cache, tokens(3, seed=2)))
        outputs.append(torch.cat(parts, dim=1))
    tolerance = 2e-4 if kind == torch.float32 else 2e-2  # the same value may round to its neighbour
    torch.testing.assert_close(outputs[1], outputs[0], rtol=tolerance, atol=tolerance)


def test_bytes_are_counted_alike_on_meta():
    real = tiny_model().make_cache(300, drafts=True)
    from qwen35cli.kernels import select
    from qwen35cli.model.config import Config
    from qwen35cli.model.qwen35 import Qwen35
    from tests.tiny import tiny_config

    with torch.device("meta"):
        model = Qwen35(Config.from_dict(tiny_config()), select(torch.device("cpu"), "reference"))
        # On the meta device activations count as bfloat16, on a CPU as float32.
        meta = model.make_cache(300, drafts=True)
    kv = 2 * 2 * 300 * 32 * 2  # keys and values, heads, tokens, width, bfloat16
    state = 4 * 32 * 48 * 4
    channels = 2 * 2 * 32 + 4 * 48
    rows = 3 + 2 * 8  # of inputs: the last ones, and those of two logs
    logs = 2 * 8 * 4 * (2 * 32 + 4 * 48 + 4)  # keys, corrections and decays
    assert real.nbytes() == 3 * kv + 6 * (state + logs + 4 * rows * channels)
    assert meta.nbytes() == 3 * kv + 6 * (state + logs + 2 * rows * channels)
