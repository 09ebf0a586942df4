"""How fast a device reads its memory: the ceiling of decoding.

The best of several sweeps over a buffer too large for any cache, on a CPU in huge pages, as the
weights are.
"""

import mmap
import sys
from typing import Final

import torch
from torch import Tensor

from .device import seconds_of

BUFFER_BYTES: Final = 2**30
SWEEPS: Final = 8
IN_A_ROW: Final = 4  # launched at once on a GPU
CPU: Final = torch.device("cpu")


def read_bandwidth(threads: int | None = None) -> float:
    """GB/s (10^9) that `threads` read together, by default as many as torch uses."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        return sweep(read_buffer(BUFFER_BYTES), SWEEPS)
    finally:
        torch.set_num_threads(before)


def sweep(buffer: Tensor, times: int) -> float:
    """GB/s (10^9) of the best of so many sweeps over a buffer."""
    return buffer.nbytes / min(_seconds(buffer) for _ in range(times)) / 1e9


def _seconds(buffer: Tensor) -> float:
    """Of a sweep."""
    if buffer.device.type == "cuda":
        buffer.sum()
    return seconds_of(buffer.sum, buffer.device, IN_A_ROW)


def read_buffer(size: int, device: torch.device = CPU) -> Tensor:
    """Float32 of `size` bytes; on a CPU in huge pages where the system has them."""
    if device.type != "cpu" or sys.platform != "linux":
        return torch.ones(size // 4, device=device)
    region = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    region.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(region, dtype=torch.float32).fill_(1)
