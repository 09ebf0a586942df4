import pytest
import torch

from qwen35cli.kernels import reference
from tests.kernels.twins import NATIVE, name

TOLERANCE = {"rtol": 1e-5, "atol": 1e-5}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize(
    ("B", "T", "H", "KV", "Dh", "S"),
    [
        (1, 1, 4, 2, 32, 1),
        (1, 2, 5, 1, 7, 2),
        (2, 3, 6, 2, 20, 77),
        (1, 8, 16, 4, 64, 64),
        (1, 5, 4, 4, 16, 129),
        (2, 1, 8, 2, 256, 700),
        (1, 9, 4, 1, 16, 40),
    ],
)
@pytest.mark.parametrize("native", NATIVE, ids=name)
def test_attention_agrees_with_reference(native, B, T, H, KV, Dh, S, dtype, poisoned):
    torch.manual_seed(0)
    q = torch.randn(B, T, H, Dh)
    keys, values = torch.randn(2, B, KV, S + 3, Dh).to(dtype)[
        ..., :S, :
    ]  # a part of a longer cache
    expected = reference.attention(q, keys, values)
    torch.testing.assert_close(native.attention(q, keys, values), expected, **TOLERANCE)


@pytest.mark.parametrize("native", NATIVE, ids=name)
def test_attention_holds_scores_far_apart(native, poisoned):
    keys, values = torch.randn(1, 1, 300, 16), torch.randn(1, 1, 300, 16)
    keys[0, 0, 7] *= 1e4  # one key takes all the weight, in the first block
    q = torch.randn(1, 2, 2, 16)
    expected = reference.attention(q, keys, values)
    torch.testing.assert_close(native.attention(q, keys, values), expected, **TOLERANCE)
    keys[0, 0, 7] = torch.finfo(torch.float32).max / 1e30
    keys[0, 0, 298] = 300.0  # and one that only the last query sees
    expected = reference.attention(q, keys, values)
    torch.testing.assert_close(native.attention(q, keys, values), expected, **TOLERANCE)
