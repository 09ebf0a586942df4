"""The whole DeltaNet layer between its projections, against the reference."""

import pytest
import torch

from qwen35cli.kernels import reference
from qwen35cli.kernels.operands import DeltaLog, DeltaWeights
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


def empty_log(B, T, G, H, K, V):
    C = 2 * G * K + H * V
    return DeltaLog(
        torch.empty(B, T, C), torch.empty(B, T, G, K), torch.empty(B, T, H, V), torch.empty(B, T, H)
    )


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


@pytest.mark.parametrize("T", [1, 2, 5, 9, 40])
@pytest.mark.parametrize(("B", "G", "H", "K", "V"), SHAPES)
@pytest.mark.parametrize("native", NATIVE, ids=name)
def test_delta_mix_logs_what_repeats_it(native, B, G, H, K, V, T, poisoned):
    torch.manual_seed(0)
    weights, arguments = weights_of(G, H, K, V), list(inputs(B, T, G, H, K, V))
    rows, before = memory(B, G, H, K, V)
    logs, states = [], []
    for mix in (reference.delta_mix, native.delta.delta_mix):
        log, state = empty_log(B, T, G, H, K, V), before.clone()
        mix(*arguments, weights, rows.clone(), state, log)
        logs.append(log)
        states.append(state)
    for field in ("k", "d", "g"):
        expected, actual = (getattr(log, field) for log in logs)
        torch.testing.assert_close(actual, expected, **TOLERANCE)
    state = before.clone()
    for t in range(T):
        k = logs[1].k[:, t].repeat_interleave(H // G, dim=1)
        state = torch.exp(logs[1].g[:, t])[..., None, None] * state
        state += k[..., None] * logs[1].d[:, t, :, None]
    torch.testing.assert_close(state, states[1], **TOLERANCE)


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
    expected = reference.delta_mix(
        *arguments, weights, step_rows, step_state, empty_log(2, T, *shape[1:])
    )
    torch.testing.assert_close(
        reference.delta_mix(*arguments, weights, rows, state), expected, **TOLERANCE
    )
    torch.testing.assert_close(state, step_state, **TOLERANCE)
    assert torch.equal(rows, step_rows)
