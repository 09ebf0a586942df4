"""How each product of a step is launched, measured once for each GPU and shipped as data.

Nothing is tuned in front of a waiting user. `qwen35 tune` measures what is not in the file.
"""

import ctypes
import json
import os
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Final

import torch

from qwen35cli.kernels.operands import Weight
from qwen35cli.kernels.tuned import Op, Tuned

from .matvec import Launch, bits

SHIPPED: Final = "launches.json"
# CUDA of the driver from which on graphs know of overlapping launches (CUDA Programming Guide, CUDA
# Graphs, on edge data).
OVERLAPPED_GRAPHS: Final = 12_030


class Launches:
    """Launches by op, kind and shape, for one device.

    Args:
        overlap: whether a launch may start while the one before ends.
        table: as in `launches.json`, for one architecture; "op bits" stands for any shape.
    """

    def __init__(
        self, table: Mapping[str, list[int]], *, overlap: bool, arch: str = "default"
    ) -> None:
        self.table, self.arch = dict(table), arch
        self.overlap = overlap

    @classmethod
    def of(cls, device: torch.device, more: Tuned) -> "Launches":
        """Those shipped for the architecture of `device`, with `more` over them."""
        arch = architecture(device)
        overlap = arch != "default" and int(arch.removeprefix("sm_")) >= 90
        if device.type == "cuda":
            overlap = overlap and cuda_of_driver() >= OVERLAPPED_GRAPHS
        shipped = json.loads((resources.files(__package__) / SHIPPED).read_text())
        table = shipped["default"] | shipped.get(arch, {}) | dict(more.get(arch, {}))
        return cls(table, overlap=overlap, arch=arch)

    def find(self, op: Op, *weights: Weight) -> Launch:
        """For one launch over these matrices of one kind, the rows of all together."""
        return self.of_key(key(op, *weights))

    def of_key(self, name: str) -> Launch:
        """For what `key` calls a launch."""
        found = self.table.get(name) or self.table[name.rpartition(" ")[0]]
        warps, ahead, tiles, split, early = found
        return Launch(warps, ahead, tiles, split, early, self.overlap)


def architecture(device: torch.device) -> str:
    """What the table calls the kind of GPU, such as `sm_90`."""
    if device.type != "cuda":
        return "default"
    major, minor = torch.cuda.get_device_capability(device)
    return f"sm_{major}{minor}"


def cuda_of_driver() -> int:
    """The newest CUDA that the driver of the GPU runs, 12_030 for 12.3."""
    driver = ctypes.CDLL("nvcuda.dll" if os.name == "nt" else "libcuda.so.1")  # torch loaded it
    version = ctypes.c_int()
    driver.cuDriverGetVersion(ctypes.byref(version))
    return version.value


def key(op: Op, *weights: Weight) -> str:
    """What the table calls a launch, such as `add 4 2560x9216`."""
    return key_of(op, bits(weights[0]), [weight.shape for weight in weights])


def key_of(op: Op, bits: int, shapes: Sequence[Sequence[int]]) -> str:
    """The same for matrices (N, K) of so many bits: the rows of all together."""
    return f"{op} {bits} {sum(N for N, _ in shapes)}x{shapes[0][1]}"
