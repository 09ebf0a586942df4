"""SwiGLU in Triton against plain torch."""

import pytest
import torch

from qwen35cli.kernels import reference

triton = pytest.importorskip("triton", reason="Triton has no wheel for this system")
from qwen35cli.kernels.triton.swiglu import swiglu  # noqa: E402  (it imports Triton)

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
TOLERANCE = {
    torch.float32: {"rtol": 1e-5, "atol": 1e-6},
    torch.bfloat16: {"rtol": 4e-3, "atol": 1e-6},  # half a unit of the last place
}


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("shape", [(1,), (3, 7), (2, 5, 1_000), (0, 4)], ids=str)
def test_swiglu_agrees_with_reference(shape, dtype, poisoned):
    torch.manual_seed(0)
    gate, up = (torch.randn(*shape, device=DEVICE).mul(5).to(dtype) for _ in range(2))
    actual = swiglu(gate, up)
    assert actual.dtype == dtype and actual.shape == gate.shape
    expected = reference.swiglu(gate.double(), up.double())
    torch.testing.assert_close(actual.double(), expected, **TOLERANCE[dtype])


def test_swiglu_takes_views_and_large_gates(poisoned):
    gate = torch.tensor([[-3e38, 1.0], [-100.0, 1.0], [100.0, 1.0], [3e38, 1.0]], device=DEVICE)
    up = torch.ones(2, 4, device=DEVICE).T
    actual = swiglu(gate[:, :1], up[:, :1])
    torch.testing.assert_close(actual, reference.swiglu(gate[:, :1], up[:, :1]))
