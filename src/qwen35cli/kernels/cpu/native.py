"""The compiled kernels: found, opened, called by pointer. They link to the C library alone."""

import sys
from dataclasses import dataclass
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Final, Self

import torch

from .attention import AttentionOps
from .blocks import BlockOps
from .delta import DeltaOps
from .library import Library
from .linear import LinearOps
from .norm import NormOps
from .quantize import QuantizeOps

# What torch calls the CPU -> the variants that may run on it, best first. setup.py builds them.
VARIANTS: Final = {
    "AVX512": ("avx512vnni", "avx512", "avx2", "portable"),
    "AVX2": ("avxvnni", "avx2", "portable"),
}
# What a variant needs besides, by the names of `torch.cpu.get_capabilities`.
NEEDED: Final = {"avx512vnni": "avx512_vnni", "avxvnni": "avx_vnni"}


def suitable() -> list[str]:
    """The variants that this CPU runs, best first, built or not."""
    has = torch.cpu.get_capabilities()
    return [
        variant
        for variant in VARIANTS.get(torch.backends.cpu.get_cpu_capability(), ("portable",))
        if variant not in NEEDED or has.get(NEEDED[variant])
    ]


def built() -> dict[str, Path]:
    """The variants that were built and that this CPU runs, best first, and their files."""
    folder, suffix = Path(__file__).parent, EXTENSION_SUFFIXES[0]
    files = {variant: folder / f"_{variant}{suffix}" for variant in suitable()}
    return {variant: path for variant, path in files.items() if path.exists()}


@dataclass(frozen=True, slots=True)
class Native:
    """The ops of one compiled variant, on as many threads as `torch.get_num_threads()`.

    They take float32 activations; what has another dtype goes to the reference.
    """

    variant: str
    fork_join: int | None  # without it everything runs on the calling thread
    matrices: LinearOps
    norms: NormOps
    attention: AttentionOps
    delta: DeltaOps
    quantize: QuantizeOps
    blocks: BlockOps

    @classmethod
    def load(cls) -> Self | None:
        """The best variant for this CPU, or None where none was built."""
        for variant, path in built().items():
            return cls.open(variant, path)
        return None

    @classmethod
    def open(cls, variant: str, path: Path) -> Self:
        """The kernels in the shared library at `path`."""
        library = Library.open(path)
        attention, delta = AttentionOps.open(library), DeltaOps.open(library)
        return cls(
            variant=variant,
            fork_join=library.fork_join,
            matrices=LinearOps.open(library),
            norms=NormOps.open(library),
            attention=attention,
            delta=delta,
            quantize=QuantizeOps.open(library),
            blocks=BlockOps.open(library, attention, delta),
        )

    @property
    def description(self) -> str:
        """What runs, in one line."""
        wide = ", torch bf16" if self.matrices.bf16_from < sys.maxsize else ""
        return f"C++ {self.variant}" + wide + ("" if self.fork_join else ", one thread")
