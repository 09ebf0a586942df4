"""A compiled variant of the kernels: its functions, with the types of their arguments."""

import ctypes
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

Foreign = Callable[..., Any]  # a C function
Longs = ctypes.Array[ctypes.c_long]
KINDS: Final = {
    "p": ctypes.c_void_p,
    "l": ctypes.c_long,
    "i": ctypes.c_int,
    "f": ctypes.c_float,
}


def torch_fork_join() -> int | None:
    """Address of GOMP_parallel in the OpenMP runtime that torch runs on; None where it has another.

    A second runtime in the process would fight with torch's over the cores.
    """
    for name in ("libtorch_cpu.so", "libtorch_cpu.dylib"):
        path = Path(torch.__file__).parent / "lib" / name
        if path.exists():
            function = getattr(ctypes.CDLL(str(path)), "GOMP_parallel", None)
            return ctypes.cast(function, ctypes.c_void_p).value if function else None
    return None


def alike(*weights: Tensor) -> tuple[Tensor, ...]:
    """Small weights as the C++ side takes them: all in bf16 where they are, or else in float32."""
    half = all(weight.dtype == torch.bfloat16 for weight in weights)
    return tuple((weight if half else weight.float()).contiguous() for weight in weights)


def longs(values: Collection[int]) -> Longs:
    """Numbers and addresses, as a C function takes a struct of them."""
    return (ctypes.c_long * len(values))(*values)


@dataclass(frozen=True, slots=True)
class Library:
    """The shared library of one variant."""

    handle: ctypes.CDLL
    fork_join: int | None  # without it everything runs on the calling thread

    @classmethod
    def open(cls, path: Path) -> "Library":
        return cls(ctypes.CDLL(str(path)), torch_fork_join())

    def function(self, name: str, arguments: str, result: str = "") -> Foreign:
        """The function `name`; `arguments` and `result` are spelt in letters of `KINDS`."""
        found: Any = getattr(self.handle, name)
        found.argtypes = [KINDS[letter] for letter in arguments]
        found.restype = KINDS[result] if result else None
        return found
