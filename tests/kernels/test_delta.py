import pytest
import torch
import torch.nn.functional as F

from qwen35cli.kernels import reference
from tests.kernels.twins import NATIVE, name

SHAPES = [(1, 1, 1, 4, 3), (1, 2, 2, 16, 16), (2, 2, 6, 32, 45), (1, 2, 4, 128, 128)]
TOLERANCE = {"rtol": 1e-4, "atol": 1e-5}


def inputs(B, T, G, H, K, V):
    q, k = F.normalize(torch.randn(2, B, T, G, K), dim=-1)
    return q * K**-0.5, k, torch.randn(B, T, H, V), -torch.rand(B, T, H), torch.rand(B, T, H)


@pytest.mark.parametrize(("B", "G", "H", "K", "V"), SHAPES)
@pytest.mark.parametrize("native", NATIVE, ids=name)
def test_delta_step_agrees_with_reference(native, B, G, H, K, V, poisoned):
    torch.manual_seed(0)
    expected_state = torch.randn(B, H, K, V)
    actual_state = expected_state.clone()
    for _ in range(8):
        step = [tensor[:, 0] for tensor in inputs(B, 1, G, H, K, V)]
        expected = reference.delta_step(*step, expected_state)
        torch.testing.assert_close(native.delta_step(*step, actual_state), expected, **TOLERANCE)
        torch.testing.assert_close(actual_state, expected_state, **TOLERANCE)


@pytest.mark.parametrize("T", [1, 2, 7, 65])
@pytest.mark.parametrize(("B", "G", "H", "K", "V"), SHAPES)
@pytest.mark.parametrize("native", NATIVE, ids=name)
def test_delta_chunk_agrees_with_reference(native, B, G, H, K, V, T, poisoned):
    torch.manual_seed(0)
    state, arguments = torch.randn(B, H, K, V), inputs(B, T, G, H, K, V)
    before = state.clone()
    expected = reference.delta_chunk(*arguments, state)
    torch.testing.assert_close(native.delta_chunk(*arguments, state), expected, **TOLERANCE)
    assert torch.equal(state, before)


@pytest.mark.parametrize("native", NATIVE, ids=name)
def test_delta_step_stays_with_reference_for_512_tokens(native, poisoned):
    torch.manual_seed(0)
    expected_state = torch.zeros(1, 2, 32, 32)
    actual_state = expected_state.clone()
    arguments = inputs(1, 512, 1, 2, 32, 32)
    for t in range(512):
        step = [tensor[:, t] for tensor in arguments]
        reference.delta_step(*step, expected_state)
        native.delta_step(*step, actual_state)
    torch.testing.assert_close(actual_state, expected_state, **TOLERANCE)
