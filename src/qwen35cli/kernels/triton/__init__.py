"""Kernels for NVIDIA GPUs in Triton: no compiler of CUDA at the user's side, none of C++."""

import torch

from qwen35cli.errors import DeviceError


def require(device: torch.device) -> None:
    """Refuse where these kernels cannot run.

    Raises:
        DeviceError: Triton is not installed, or `device` is no GPU and Triton does not interpret.
    """
    try:
        import triton
    except ImportError:
        raise DeviceError(
            "the Triton kernels need the package triton, which is not installed",
            "pip install triton, or --kernels reference",
        ) from None
    if device.type != "cuda" and not triton.knobs.runtime.interpret:
        raise DeviceError(
            f"the Triton kernels run on an NVIDIA GPU, not on {device.type}",
            "--device cuda, or leave out --kernels",
        )
