"""How fast this machine reads memory: `python -m benchmarks.bandwidth`. The ceiling of decoding.

The best of several sweeps over a buffer too large for any cache, in huge pages as the weights are.
"""

import mmap
import sys
import time

import torch

BUFFER_BYTES = 2**30
SWEEPS = 8


def read_bandwidth(threads: int | None = None) -> float:
    """GB/s (10^9) that `threads` read together, by default as many as torch uses."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        buffer = read_buffer(BUFFER_BYTES)
        seconds = []
        for _ in range(SWEEPS):
            start = time.perf_counter()
            buffer.sum()
            seconds.append(time.perf_counter() - start)
    finally:
        torch.set_num_threads(before)
    return BUFFER_BYTES / min(seconds) / 1e9


def read_buffer(size: int) -> torch.Tensor:
    """Float32 of `size` bytes, in huge pages where the system has them."""
    if sys.platform != "linux":
        return torch.ones(size // 4)
    region = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    region.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(region, dtype=torch.float32).fill_(1)


if __name__ == "__main__":
    for count in sorted({1, torch.get_num_threads()}):
        print(f"{count} threads: {read_bandwidth(count):.1f} GB/s")
