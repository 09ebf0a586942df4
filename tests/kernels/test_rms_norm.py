"""The norm of a CPU's compiled variants and that in Triton, against plain torch."""

import importlib.util

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


DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
ROUNDED = {torch.float32: TOLERANCE, torch.bfloat16: {"rtol": 4e-3, "atol": 1e-6}}
needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="Triton has no wheel for this system"
)


def check_triton(x, weight):
    """Half a unit of the last place from the norm in float64."""
    from qwen35cli.kernels.triton.rms_norm import rms_norm

    x, weight = x.to(DEVICE), weight.to(DEVICE)
    actual = rms_norm(x, weight, 1e-6)
    assert actual.dtype == x.dtype and actual.shape == x.shape and actual.is_contiguous()
    x64 = x.double()
    expected = x64 * torch.rsqrt(x64.square().mean(-1, keepdim=True) + 1e-6)
    torch.testing.assert_close(
        actual.double(), expected * (1 + weight.double()), **ROUNDED[x.dtype]
    )


@needs_triton
@pytest.mark.parametrize("weight_dtype", ROUNDED, ids=str)
@pytest.mark.parametrize("dtype", ROUNDED, ids=str)
@pytest.mark.parametrize("shape", [*SHAPES, (19, 256), (0, 8)], ids=str)
def test_rms_norm_in_triton_is_rounded_once(shape, dtype, weight_dtype, poisoned):
    torch.manual_seed(0)
    x, weight = torch.randn(shape).mul(3).to(dtype), torch.randn(shape[-1]).to(weight_dtype)
    check_triton(x, weight)


@needs_triton
def test_rms_norm_in_triton_takes_views(poisoned):
    torch.manual_seed(0)
    x = torch.randn(4, 6, 32).bfloat16()
    for view in (x[..., 16:], x[:, :, ::2], x.transpose(0, 1)[..., :16], x[::2, :3, :16]):
        check_triton(view, torch.randn(16).bfloat16())


@needs_triton
def test_rms_norm_in_triton_keeps_small_rows_small(poisoned):
    torch.manual_seed(0)
    x = torch.randn(4, 48) * torch.tensor([[0.0], [1e-6], [1e-3], [1e-2]])
    check_triton(x, torch.randn(48))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", ROUNDED, ids=str)
@pytest.mark.parametrize("shape", [(1, 2_048, 2_560), (1, 2_047, 16, 256), (9, 5_120)], ids=str)
def test_rms_norm_in_triton_at_the_shapes_of_4b(shape, dtype, poisoned):
    torch.manual_seed(0)
    check_triton(torch.randn(shape).mul(3).to(dtype), torch.randn(shape[-1]).bfloat16())
