"""What runs torch, as a process of its own: `python -m qwen35cli.app.doctor.probe`.

So the report is written whatever happens here: torch missing, a driver that hangs, a kernel that
ends the process. Each line on stdout is a JSON object with one key, and is there before what may
fail next.
"""

import json
import os
import sys
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qwen35cli.errors import DeviceError, Qwen35Error

from .probe_process import NO_GPU
from .versions import build_again

if TYPE_CHECKING:
    import torch


def main() -> None:
    """Arguments: device (auto, cpu or cuda), kernels or "", cache folder."""
    asked, kernels, cache = sys.argv[1:4]
    warnings.simplefilter("always")
    warnings.showwarning = _warn
    try:
        import torch
    except Exception as error:  # whatever a broken installation raises
        tell("unimportable", _first_line(error))
        return
    tell("torch", _torch(torch.__version__))
    try:
        try:
            tell("gpus", _gpus())
        except RuntimeError as error:  # the driver's: its errors have no type of their own
            raise DeviceError(f"the GPU cannot be used: {_first_line(error)}", NO_GPU) from None
        device = _device(asked)
        _kernels(device, kernels or None, Path(cache))
    except Qwen35Error as error:
        tell("problem", {"message": error.message, "hint": error.hint})


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]


def tell(key: str, value: object) -> None:
    """A line for the parent."""
    sys.stdout.write(json.dumps({key: value}) + "\n")
    sys.stdout.flush()


def _warn(message: Warning | str, *rest: object, **more: object) -> None:
    tell("warning", " ".join(str(message).split())[:400])


def _torch(version: str) -> dict[str, Any]:
    import torch

    return {
        "version": version,
        "cuda": torch.version.cuda,
        "hip": getattr(torch.version, "hip", None),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
    }


def _gpus() -> list[dict[str, Any]]:
    """Those that torch can use."""
    import torch

    if not torch.cuda.is_available():
        return []
    found = []
    for index in range(torch.cuda.device_count()):
        major, minor = torch.cuda.get_device_capability(index)
        free, total = torch.cuda.mem_get_info(index)
        found.append(
            {
                "index": index,
                "name": torch.cuda.get_device_name(index),
                "capability": f"{major}.{minor}",
                "total_bytes": total,
                "free_bytes": free,
            }
        )
    return found


def _device(asked: str) -> "torch.device":
    """What the kernels are looked at for: the GPU where there is one, unless it is said.

    Raises:
        DeviceError: a GPU is asked for, and there is none.
    """
    import torch

    from qwen35cli.app.device import present_gpu

    if asked == "cuda":
        return present_gpu("--device cpu (slow), or a build of torch with CUDA")
    usable = asked == "auto" and torch.cuda.is_available()
    return torch.device("cuda" if usable else "cpu")


def _kernels(device: "torch.device", backend: str | None, cache: Path) -> None:
    """Which run and why, then each of them against its twin."""
    from qwen35cli.app import tuned
    from qwen35cli.kernels import DEFAULTS, select

    from . import self_test

    name = backend or DEFAULTS[device.type]
    launches = tuned.read(cache) if name == "triton" else {}
    try:
        kernels = select(device, name, launches, cache)
    except OSError as error:
        raise DeviceError(
            f"the compiled kernels cannot be loaded: {error}", build_again()
        ) from None
    found: dict[str, Any] = {
        "backend": kernels.backend,
        "device": device.type,
        "description": kernels.description,
        "chosen": "asked for" if backend else f"the default on {device.type}",
        "tuned": sorted(launches),
    }
    tell("kernels", found | (_variants() if name == "cpu" else {}))
    for op in self_test.overridden(kernels):
        tell("testing", op)
        tell("tested", asdict(self_test.test(op, kernels, device)))
    tell("done", True)


def _variants() -> dict[str, Any]:
    """Of the compiled kernels: which there are, which this CPU runs, best first."""
    from qwen35cli.kernels.cpu.native import built, suitable

    return {"suitable": suitable(), "built": list(built())}


if __name__ == "__main__":
    main()
    os._exit(0)  # all is told: taking torch down takes as long as half its import
