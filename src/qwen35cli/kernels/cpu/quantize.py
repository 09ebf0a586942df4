"""Quantizing in C++: the search for scales that takes torch a quarter of an hour for the 4B."""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from qwen35cli.kernels import reference

from .library import Foreign, Library

LONGEST = 256  # weights that the kernels take in a group


@dataclass(frozen=True, slots=True)
class QuantizeOps:
    """The ops of one compiled variant; what they do not take goes to the reference."""

    fork_join: int | None
    int4_of: Foreign
    int8_of: Foreign
    nf4_of: Foreign

    @classmethod
    def open(cls, library: Library) -> Self:
        """The ops of `library`."""
        return cls(
            fork_join=library.fork_join,
            int4_of=library.function("quantize_int4", "pi" + "ppp" + "llli"),
            int8_of=library.function("quantize_int8", "pi" + "ppp" + "lli"),
            nf4_of=library.function("quantize_nf4", "pi" + "pppp" + "lli"),
        )

    def int4(self, w: Tensor, group: int) -> tuple[Tensor, Tensor]:
        """See `reference.quantize_int4`. Groups of a multiple of 8 weights, up to 256, are fast."""
        if not _taken(w) or group % 8 or group > LONGEST:
            return reference.quantize_int4(w, group)
        w = w.contiguous()
        R, K = w.shape
        packed = torch.empty(R, -(-K // 8), dtype=torch.int32)
        scale = torch.empty(R, -(-K // group), dtype=torch.bfloat16)
        self.int4_of(
            self.fork_join,
            torch.get_num_threads(),
            w.data_ptr(),
            packed.data_ptr(),
            scale.data_ptr(),
            *(R, K, group, w.dtype == torch.bfloat16),
        )
        return packed, scale

    def int8(self, w: Tensor) -> tuple[Tensor, Tensor]:
        """See `reference.quantize_int8`."""
        if not _taken(w):
            return reference.quantize_int8(w)
        w = w.contiguous()
        R, K = w.shape
        packed = torch.empty(R, -(-K // 4), dtype=torch.int32)
        scale = torch.empty(R, 1, dtype=torch.bfloat16)
        self.int8_of(
            self.fork_join,
            torch.get_num_threads(),
            w.data_ptr(),
            packed.data_ptr(),
            scale.data_ptr(),
            *(R, K, w.dtype == torch.bfloat16),
        )
        return packed, scale

    def nf4(self, w: Tensor, block: int) -> tuple[Tensor, Tensor]:
        """See `reference.quantize_nf4`. Blocks up to 256 are fast."""
        if not _taken(w) or block > LONGEST:
            return reference.quantize_nf4(w, block)
        w = w.contiguous()
        table = torch.tensor(reference.NF4_TABLE)
        packed = torch.empty(w.numel() // 2, 1, dtype=torch.uint8)
        factor = torch.empty(-(-w.numel() // block))
        self.nf4_of(
            self.fork_join,
            torch.get_num_threads(),
            w.data_ptr(),
            table.data_ptr(),
            packed.data_ptr(),
            factor.data_ptr(),
            *(w.numel(), block, w.dtype == torch.bfloat16),
        )
        return packed, factor


def _taken(w: Tensor) -> bool:
    return w.device.type == "cpu" and w.dtype in (torch.float32, torch.bfloat16)
