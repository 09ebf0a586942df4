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
    cache = model.make_cache(200, torch.float32)
    forward(model, cache, tokens(37))
    return cache


def twin(model):
    cache = model.make_cache(200, torch.float32)
    forward(model, cache, tokens(37))
    return cache


def same_memory(a, b):
    assert a.length == b.length
    for x, y in zip(a.layers, b.layers, strict=True):
        if hasattr(x, "state"):
            assert torch.equal(x.state, y.state)
            assert torch.equal(x.rows, y.rows)
        else:
            n = a.length
            assert torch.equal(x.keys[:, :, :n], y.keys[:, :, :n])
            assert torch.equal(x.values[:, :, :n], y.values[:, :, :n])


@pytest.mark.parametrize("drafted", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("at_once", [True, False])
def test_rollback_of_drafts_equals_never_having_drafted(model, cache, drafted, at_once):
    drafts, after = tokens(drafted, seed=1), tokens(5, seed=2)
    for kept in range(drafted, -1, -1):
        never = twin(model)
        one_by_one(model, never, drafts[:, :kept])
        cache.hold()
        (forward if at_once else one_by_one)(model, cache, drafts)
        assert cache.length == 37 + drafted
        cache.rollback(37 + kept)
        if not at_once:
            same_memory(cache, never)
        expected, actual = one_by_one(model, never, after), one_by_one(model, cache, after)
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)
        cache.rollback(37)
        same_memory(cache, twin(model))


def test_rollback_twice_and_going_on_while_held(model, cache):
    never = twin(model)
    one_by_one(model, never, tokens(2, seed=1))
    one_by_one(model, never, tokens(3, seed=3))
    cache.hold()
    one_by_one(model, cache, tokens(6, seed=1))
    cache.rollback(37 + 4)
    cache.rollback(37 + 2)
    one_by_one(model, cache, tokens(3, seed=3))
    same_memory(cache, never)


def test_rollback_past_what_was_kept_is_refused(model, cache):
    with pytest.raises(ValueError, match="cannot roll 37 tokens back to 36"):
        cache.layers[0].rollback(36)
    cache.hold()
    one_by_one(model, cache, tokens(2))
    with pytest.raises(ValueError, match="kept: 37 to 39"):
        cache.layers[0].rollback(36)
    cache.release()
    with pytest.raises(ValueError, match="nothing before it"):
        cache.layers[0].rollback(38)


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
        cache = model.make_cache(200, torch.int8)
        forward(model, cache, tokens(37))
        return cache

    cache, never = made(), made()
    saved = cache.snapshot()
    cache.hold()
    one_by_one(model, cache, tokens(4, seed=1))
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
        cache = model.make_cache(200, kind)
        parts = [forward(model, cache, tokens(n, seed=n)) for n in (37, 1, 8, 9)]
        cache.hold()
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
    rows = 3 * (2 * 2 * 32 + 4 * 48)
    assert real.nbytes() == 3 * kv + 6 * (state + 4 * rows)
    assert meta.nbytes() == 3 * kv + 6 * (state + 2 * rows)
