"""How fast this machine reads memory: `python -m benchmarks.bandwidth`. The ceiling of decoding."""

import torch

from qwen35cli.app.bandwidth import read_bandwidth

if __name__ == "__main__":
    for count in sorted({1, torch.get_num_threads()}):
        print(f"{count} threads: {read_bandwidth(count):.1f} GB/s")
