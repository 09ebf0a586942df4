"""The whole DeltaNet layer between its projections, against the reference."""

import pytest
import torch

from qwen35cli.kernels import reference
from qwen35cli.kernels.operands import FEW, DeltaLog, DeltaWeights, Replay
from tests.kernels.twins import NATIVE, name

SHAPES = [  # B, G, H, K, V
    (1, 1, 1, 4, 3),
    (1, 2, 2, 16, 16),
    (2, 2, 6, 32, 45),
    (1, 2, 4, 128, 128),
]
TOKENS = [1, 2, 3, 4, 5, 6, 7, 8, 9, 33, 130]
TOLERANCE = {"rtol": 1e-4, "atol": 2e-5}


def weights_of(G, H, K, V, dtype=torch.bfloat16):
    return DeltaWeights(
        conv=torch.randn(2 * G * K + H * V, 1, 4).to(dtype),
        a_log=torch.rand(H).add(0.02).log(),
        dt_bias=torch.randn(H).to(dtype),
        norm=1 + 0.2 * torch.randn(V),
        eps=1e-6,
    )


def inputs(B, T, G, H, K, V):
    C = 2 * G * K + H * V
    return (torch.randn(B, T, n) for n in (C, H * V, H, H))


def memory(B, G, H, K, V):
    return torch.randn(B, 3, 2 * G * K + H * V), torch.randn(B, H, K, V)


def empty_log(B, G, H, K, V):
    shapes = (2 * G * K + H * V,), (G, K), (H, V), (H,)
    return DeltaLog(*(torch.empty(B, FEW, *shape) for shape in shapes))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("T", TOKENS)
@pytest.mark.parametrize(("B", "G", "H", "K", "V"), SHAPES)
@pytest.mark.parametrize("native", NATIVE, ids=name)
def test_delta_mix_agrees_with_reference(native, B, G, H, K, V, T, dtype, poisoned):
    torch.manual_seed(0)
    weights, arguments = weights_of(G, H, K, V, dtype), list(inputs(B, T, G, H, K, V))
    rows, state = memory(B, G, H, K, V)
    actual_rows, actual_state = rows.clone(), state.clone()
    expected = reference.delta_mix(*arguments, weights, rows, state)
    actual = native.delta.delta_mix(*arguments, weights, actual_rows, actual_state)
    torch.testing.assert_close(actual, expected, **TOLERANCE)
    torch.testing.assert_close(actual_state, state, **TOLERANCE)
    assert torch.equal(actual_rows, rows)


@pytest.mark.parametrize(("B", "G", "H", "K", "V"), SHAPES)
@pytest.mark.parametrize("native", NATIVE, ids=name)
def test_delta_mix_replays_what_it_logged(native, B, G, H, K, V, poisoned):
    """Rounds of drafts, some of which stay: logs, outputs and memories equal the reference's."""
    torch.manual_seed(0)
    weights, (rows, state) = weights_of(G, H, K, V), memory(B, G, H, K, V)
    actual_rows, actual_state = rows.clone(), state.clone()
    past, actual_past = (empty_log(B, G, H, K, V) for _ in range(2))
    kept = 0
    for T, stay in ((1, 1), (4, 2), (8, 8), (2, 0), (5, 1), (3, 3), (12, 0)):
        arguments = list(inputs(B, T, G, H, K, V))
        log, actual_log = (empty_log(B, G, H, K, V) if T <= FEW else None for _ in range(2))
        before, rows_before = actual_state.clone(), actual_rows.clone()
        expected = reference.delta_mix(*arguments, weights, rows, state, Replay(past, kept, log))
        actual = native.delta.delta_mix(
            *arguments, weights, actual_rows, actual_state, Replay(actual_past, kept, actual_log)
        )
        torch.testing.assert_close(actual, expected, **TOLERANCE)
        torch.testing.assert_close(actual_state, state, **TOLERANCE)
        torch.testing.assert_close(actual_rows, rows, **TOLERANCE)
        if log is None:
            break
        for field in ("inputs", "k", "d", "g"):
            one, other = (getattr(each, field)[:, :T] for each in (actual_log, log))
            torch.testing.assert_close(one, other, **TOLERANCE)
        if not kept:  # the drafts themselves have touched nothing
            assert torch.equal(actual_state, before)
            assert torch.equal(actual_rows, rows_before)
        past, actual_past, kept = log, actual_log, stay


@pytest.mark.parametrize(("B", "G", "H", "K", "V"), SHAPES)
@pytest.mark.parametrize("native", NATIVE, ids=name)
def test_steps_with_a_log_have_the_bits_of_steps_without(native, B, G, H, K, V, poisoned):
    torch.manual_seed(0)
    weights, (rows, state) = weights_of(G, H, K, V), memory(B, G, H, K, V)
    logged_rows, logged_state = rows.clone(), state.clone()
    past, kept = empty_log(B, G, H, K, V), 0
    for T in (1, 4, 1, 8, 20):
        arguments = list(inputs(B, T, G, H, K, V))
        log = empty_log(B, G, H, K, V) if T <= FEW else None
        expected = native.delta.delta_mix(*arguments, weights, rows, state)
        actual = native.delta.delta_mix(
            *arguments, weights, logged_rows, logged_state, Replay(past, kept, log)
        )
        assert torch.equal(actual, expected)
        past, kept = log, T
    assert torch.equal(logged_rows, rows)
    assert torch.equal(logged_state, state)


@pytest.mark.parametrize("native", NATIVE, ids=name)
def test_delta_mix_stays_with_reference_for_512_tokens(native, poisoned):
    torch.manual_seed(0)
    shape = (1, 1, 2, 32, 32)
    weights, (rows, state) = weights_of(*shape[1:]), memory(*shape)
    actual_rows, actual_state = rows.clone(), state.clone()
    for _ in range(512):
        step = list(inputs(1, 1, 1, 2, 32, 32))
        expected = reference.delta_mix(*step, weights, rows, state)
        actual = native.delta.delta_mix(*step, weights, actual_rows, actual_state)
        torch.testing.assert_close(actual, expected, **TOLERANCE)
    torch.testing.assert_close(actual_state, state, **TOLERANCE)


@pytest.mark.parametrize("native", NATIVE, ids=name)
def test_delta_mix_takes_views_and_extreme_gates(native, poisoned):
    torch.manual_seed(0)
    weights, (rows, state) = weights_of(1, 2, 16, 16), memory(1, 1, 2, 16, 16)
    joined = torch.randn(1, 3, 64 + 32 + 2 + 2)
    joined[..., -4:] = torch.tensor(
        [90.0, -90.0, 90.0, -90.0]
    )  # decays and strengths at their ends
    arguments = joined.split([64, 32, 2, 2], dim=-1)
    actual_rows, actual_state = rows.clone(), state.clone()
    expected = reference.delta_mix(*arguments, weights, rows, state)
    actual = native.delta.delta_mix(*arguments, weights, actual_rows, actual_state)
    torch.testing.assert_close(actual, expected, **TOLERANCE)
    torch.testing.assert_close(actual_state, state, **TOLERANCE)


def test_reference_by_chunks_equals_reference_by_steps():
    torch.manual_seed(0)
    shape, T = (2, 2, 4, 16, 24), 70
    weights, arguments = weights_of(*shape[1:]), list(inputs(2, T, *shape[1:]))
    rows, state = memory(*shape)
    step_rows, step_state = rows.clone(), state.clone()
    steps = [
        reference.delta_mix(*(x[:, t : t + 1] for x in arguments), weights, step_rows, step_state)
        for t in range(T)
    ]
    actual = reference.delta_mix(*arguments, weights, rows, state)
    torch.testing.assert_close(actual, torch.cat(steps, dim=1), **TOLERANCE)
    torch.testing.assert_close(state, step_state, **TOLERANCE)
    assert torch.equal(rows, step_rows)
