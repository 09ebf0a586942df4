"""Kernels for NVIDIA GPUs in Triton: no compiler of CUDA at the user's side, none of C++."""

import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import torch

from qwen35cli.errors import DeviceError

LEAST: Final = (8, 0)  # compute capability: tensor cores for bfloat16
WAY_OUT: Final = "--kernels reference runs without Triton, slower"


def require(device: torch.device, cache: Path | None = None) -> None:
    """Refuse where these kernels cannot run; what they compile goes into `cache` from here on.

    Raises:
        DeviceError: Triton is not installed, or cannot reach the driver; or `device` is no GPU, and
            Triton does not interpret, or one that is too old.
    """
    try:
        import triton
    except ImportError:
        raise DeviceError(
            "the Triton kernels need the package triton, which is not installed",
            f"pip install triton (on Windows triton-windows); {WAY_OUT}",
        ) from None
    if device.type != "cuda":
        if triton.knobs.runtime.interpret:
            return
        raise DeviceError(
            f"the Triton kernels run on an NVIDIA GPU, not on {device.type}",
            "--device cuda, or --kernels cpu",
        )
    capability = torch.cuda.get_device_capability(device)
    if capability < LEAST:
        raise DeviceError(
            f"{torch.cuda.get_device_name(device)} (sm_{capability[0]}{capability[1]}) is older "
            f"than the Triton kernels need (sm_{LEAST[0]}{LEAST[1]}): it has no tensor cores for "
            "bfloat16",
            f"{WAY_OUT}; or --device cpu",
        )
    if cache is not None:
        keep_compiled(cache, device)
    fuse()
    with compile_errors():
        triton.runtime.driver.active.get_current_target()


def fuse() -> None:
    """Let products and sums be one instruction, unless TRITON_DEFAULT_FP_FUSION says otherwise.

    Triton up to 3.8 does so by itself, 3.9 warns where nobody says so, and 3.10 will not.
    """
    import triton

    if "TRITON_DEFAULT_FP_FUSION" not in os.environ:
        triton.knobs.language.default_fp_fusion = True


def keep_compiled(folder: Path, device: torch.device) -> None:
    """Have Triton keep what it compiles below `folder`, unless TRITON_CACHE_DIR says where.

    Raises:
        DeviceError: nothing can be written there.
    """
    import triton

    cache = triton.knobs.cache
    if cache.dir != cache.get_triton_dir("cache"):
        return
    place = folder / "triton" / place_name(device)
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DeviceError(
            f"compiled kernels cannot be kept in {place}: {error.strerror}",
            f"TRITON_CACHE_DIR=DIR names another folder; {WAY_OUT}",
        ) from None
    cache.dir = str(place)


def place_name(device: torch.device) -> str:
    """Tells apart what is compiled by other versions, or for other cards."""
    import triton

    major, minor = torch.cuda.get_device_capability(device)
    name = re.sub(r"[^A-Za-z0-9]+", "-", torch.cuda.get_device_name(device)).strip("-")
    versions = f"cuda{torch.version.cuda}-triton{triton.__version__}"
    return f"sm_{major}{minor}-{name}-{versions}"


def compiled_folder() -> Path:
    """Where Triton keeps what it compiles."""
    import triton

    return Path(triton.knobs.cache.dir)


@contextmanager
def compile_errors() -> Iterator[None]:
    """Turn what Triton says where it cannot build its link to the driver into one error.

    It is C, built once by the compiler of this machine, when the first kernel is launched.
    """
    try:
        yield
    except subprocess.CalledProcessError as error:
        raise DeviceError(
            f"Triton could not build its link to the GPU driver: {Path(error.cmd[0]).name} failed",
            f"install the headers of Python (apt install python3-dev), once; {WAY_OUT}",
        ) from None
    except (RuntimeError, AssertionError) as error:
        if "Failed to find C compiler" in str(error):
            raise DeviceError(
                "Triton needs a C compiler to build its link to the GPU driver, and finds none",
                f"apt install gcc, once, or CC=PATH names one; {WAY_OUT}",
            ) from None
        if "libcuda.so" in str(error):
            raise DeviceError(
                "Triton does not find libcuda.so.1, the library of the GPU driver",
                f"TRITON_LIBCUDA_PATH=DIR names its folder; {WAY_OUT}",
            ) from None
        raise
