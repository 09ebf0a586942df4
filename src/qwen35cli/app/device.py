"""What a model runs on, and how much memory can be had there."""

import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import psutil
import torch

from qwen35cli.errors import DeviceError

from .estimate import RUNTIME
from .source import DEMO, Source

CONTAINER = Path("/sys/fs/cgroup")  # of the process itself, seen from inside a container


def choose_device(asked: Literal["auto", "cpu", "cuda"], source: Source) -> torch.device:
    """The device asked for; `auto` is the GPU, and for the demo the CPU. Never a silent other."""
    if asked == "cpu" or (asked == "auto" and source.name == DEMO):
        return torch.device("cpu")
    return present_gpu("--device cpu (slow), or --model demo to look around")


def present_gpu(hint: str) -> torch.device:
    """The GPU of this machine.

    Raises:
        DeviceError: there is none; with `hint`.
    """
    if torch.cuda.is_available():
        return torch.device("cuda")
    version = torch.__version__.split("+")[0]
    why = "was built without CUDA" if torch.version.cuda is None else "sees no CUDA device"
    raise DeviceError(f"no usable GPU: torch {version} {why}", hint)


def free_bytes(device: torch.device) -> int:
    """Memory that a model can have on `device`, with what the estimate counts and is there already.

    On a GPU that is the context which asking makes; on a CPU this process as it stands. The limit
    of a container counts as well.
    """
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] + RUNTIME["cuda"][1]
    free = psutil.virtual_memory().available
    if (room := _container_room()) is not None:
        free = min(free, room)
    return free + psutil.Process().memory_info().rss


def _container_room() -> int | None:
    """What is left of the container's own limit; None where it has none."""
    try:
        limit = (CONTAINER / "memory.max").read_text().strip()
        used = int((CONTAINER / "memory.current").read_text())
        stat = (CONTAINER / "memory.stat").read_text()
    except (OSError, ValueError):  # no such limits here, or another system
        return None
    if not limit.isdigit():
        return None
    dropped = re.search(r"^inactive_file (\d+)$", stat, re.MULTILINE)  # given back when asked for
    return max(int(limit) - used + (int(dropped[1]) if dropped else 0), 0)


def seconds_of(run: Callable[[], object], device: torch.device, times: int) -> float:
    """What a run takes; on a GPU one among several, so that none waits for its launch."""
    if device.type != "cuda":
        start = time.perf_counter()
        run()
        return time.perf_counter() - start
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    begin.record()
    for _ in range(times):
        run()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / 1e3 / times


def peak_bytes(device: torch.device) -> int:
    """The most memory that this process has had: its tensors on a GPU, all of it on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "win32":
        return psutil.Process().memory_info().peak_wset
    import resource  # late: not on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1_024
