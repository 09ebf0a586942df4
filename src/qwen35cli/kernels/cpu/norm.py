"""The compiled RMSNorm."""

from dataclasses import dataclass

import torch
from torch import Tensor

from qwen35cli.kernels import reference

from .library import Foreign, Library


@dataclass(frozen=True, slots=True)
class NormOps:
    """For float32 activations and bf16 weights; what has another dtype goes to the reference."""

    fork_join: int | None
    rms_norm_of: Foreign

    @classmethod
    def open(cls, library: Library) -> "NormOps":
        return cls(library.fork_join, library.function("rms_norm", "pi" + "ppp" + "llf"))

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """See `reference.rms_norm`."""
        if x.dtype != torch.float32 or weight.dtype != torch.bfloat16:
            return reference.rms_norm(x, weight, eps)
        x, weight = x.contiguous(), weight.contiguous()
        out = torch.empty_like(x)
        D = x.shape[-1]
        self.rms_norm_of(
            self.fork_join,
            torch.get_num_threads(),
            x.data_ptr(),
            weight.data_ptr(),
            out.data_ptr(),
            x.numel() // D,
            D,
            eps,
        )
        return out
