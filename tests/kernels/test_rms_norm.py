import pytest
import torch

from qwen35cli.kernels import reference
from tests.kernels.twins import NATIVE, name

SHAPES = [(1,), (3, 7), (2, 5, 128), (1, 2_560), (9, 4_001)]
TOLERANCE = {"rtol": 1e-5, "atol": 1e-6}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("native", NATIVE, ids=name)
def test_rms_norm_agrees_with_reference(native, shape, dtype, poisoned):
    x, weight = torch.randn(shape) * 3, torch.randn(shape[-1]).to(dtype)
    expected = reference.rms_norm(x, weight, 1e-6)
    torch.testing.assert_close(native.norms.rms_norm(x, weight, 1e-6), expected, **TOLERANCE)


@pytest.mark.parametrize("native", NATIVE, ids=name)
def test_rms_norm_takes_views(native, poisoned):
    x, weight = torch.randn(4, 6, 32), torch.randn(16)
    half = x[..., 16:]
    expected = reference.rms_norm(half, weight.bfloat16(), 1e-6)
    torch.testing.assert_close(
        native.norms.rms_norm(half, weight.bfloat16(), 1e-6), expected, **TOLERANCE
    )
