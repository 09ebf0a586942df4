"""The compiled kernels: found, opened, called by pointer. They link to the C library alone."""

import ctypes
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Any, Final, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from qwen35cli.kernels import reference

# What torch calls the CPU -> the variants that run on it, best first. setup.py builds them.
VARIANTS: Final = {"AVX512": ("avx512", "avx2", "portable"), "AVX2": ("avx2", "portable")}
Foreign = Callable[..., Any]  # a C function
FEW = 8  # tokens at most of a decode step or of the verification of drafts


def built() -> dict[str, Path]:
    """The variants that were built and that this CPU runs, best first, and their files."""
    variants = VARIANTS.get(torch.backends.cpu.get_cpu_capability(), ("portable",))
    folder, suffix = Path(__file__).parent, EXTENSION_SUFFIXES[0]
    files = {variant: folder / f"_{variant}{suffix}" for variant in variants}
    return {variant: path for variant, path in files.items() if path.exists()}


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


def bf16_units() -> bool:
    """Whether this CPU multiplies bf16 matrices in hardware, through torch."""
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


@dataclass(frozen=True, slots=True)
class Native:
    """The ops of one compiled variant, on as many threads as `torch.get_num_threads()`.

    They take float32 activations; what has another dtype goes to the reference.
    """

    variant: str
    fork_join: int | None  # without it everything runs on the calling thread
    bf16_from: int  # tokens from which torch's bf16 GEMM is faster than `linear_of`
    linear_of: Foreign
    rms_norm_of: Foreign
    gated_rms_norm_of: Foreign
    delta_of: Foreign
    attention_of: Foreign
    attention_spans: Foreign
    attention_scratch: Foreign

    @classmethod
    def load(cls) -> Self | None:
        """The best variant for this CPU, or None where none was built."""
        for variant, path in built().items():
            return cls.open(variant, path)
        return None

    @classmethod
    def open(cls, variant: str, path: Path) -> Self:
        """The kernels in the shared library at `path`."""
        library = ctypes.CDLL(str(path))

        def function(name: str, arguments: str, result: str = "") -> Foreign:
            kinds = {
                "p": ctypes.c_void_p,
                "l": ctypes.c_long,
                "i": ctypes.c_int,
                "f": ctypes.c_float,
            }
            found: Any = getattr(library, name)
            found.argtypes = [kinds[letter] for letter in arguments]
            found.restype = kinds[result] if result else None
            return found

        return cls(
            variant=variant,
            fork_join=torch_fork_join(),
            bf16_from=FEW + 1 if bf16_units() else sys.maxsize,
            linear_of=function("linear", "pi" + "ppp" + "lll"),
            rms_norm_of=function("rms_norm", "pi" + "ppp" + "llf"),
            gated_rms_norm_of=function("gated_rms_norm", "pi" + "pppp" + "llf"),
            delta_of=function("delta", "pi" + "ppppppppp" + "llllll"),
            attention_of=function("attention", "pi" + "ppppp" + "llllllllll" + "i"),
            attention_spans=function("attention_spans", "illl", "l"),
            attention_scratch=function("attention_scratch", "llllll", "l"),
        )

    @property
    def description(self) -> str:
        """What runs, in one line."""
        wide = ", torch bf16 for prompts" if self.bf16_from < sys.maxsize else ""
        return f"C++ {self.variant}" + wide + ("" if self.fork_join else ", one thread")

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """See `reference.linear`. `weight` contiguous; fast where it is bf16.

        On a CPU with bf16 units, `x` of many tokens is rounded to bf16.
        """
        if x.dtype != torch.float32 or weight.dtype != torch.bfloat16:
            return reference.linear(x, weight, bias)
        N, K = weight.shape
        T = x.numel() // K
        if self.bf16_from <= T:
            out = F.linear(x.bfloat16(), weight).float()
        else:
            assert weight.is_contiguous()
            x = x.contiguous()
            out = torch.empty(*x.shape[:-1], N)
            self.linear_of(
                self.fork_join,
                torch.get_num_threads(),
                weight.data_ptr(),
                x.data_ptr(),
                out.data_ptr(),
                T,
                N,
                K,
            )
        return out if bias is None else out.add_(bias)

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """See `reference.rms_norm`. Fast where `weight` is bf16."""
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

    def gated_rms_norm(self, x: Tensor, gate: Tensor, weight: Tensor, eps: float) -> Tensor:
        """See `reference.gated_rms_norm`."""
        if x.dtype != torch.float32:
            return reference.gated_rms_norm(x, gate, weight, eps)
        x, gate, weight = x.contiguous(), gate.float().contiguous(), weight.float().contiguous()
        out = torch.empty_like(x)
        D = x.shape[-1]
        self.gated_rms_norm_of(
            self.fork_join,
            torch.get_num_threads(),
            x.data_ptr(),
            gate.data_ptr(),
            weight.data_ptr(),
            out.data_ptr(),
            x.numel() // D,
            D,
            eps,
        )
        return out

    def attention(self, q: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """See `reference.attention`. Fast for few tokens over a bf16 or float32 cache.

        `keys` and `values` have the same strides; their rows are contiguous.
        """
        B, T, H, Dh = q.shape
        KV, S = keys.shape[1:3]
        if T > FEW or q.dtype != torch.float32 or keys.dtype not in (torch.bfloat16, torch.float32):
            return reference.attention(q, keys, values)
        assert keys.stride() == values.stride() and keys.stride(3) == 1
        q = q.contiguous()
        out = torch.empty_like(q)
        threads = torch.get_num_threads()
        spans = self.attention_spans(threads, B, KV, S)
        scratch = torch.empty(self.attention_scratch(spans, B, T, H, Dh, KV))
        self.attention_of(
            self.fork_join,
            threads,
            q.data_ptr(),
            keys.data_ptr(),
            values.data_ptr(),
            out.data_ptr(),
            scratch.data_ptr(),
            spans,
            *(B, T, H, Dh, KV, S),
            *keys.stride()[:3],
            keys.dtype == torch.bfloat16,
        )
        return out

    def delta_step(
        self, q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor, state: Tensor
    ) -> tuple[Tensor, Tensor]:
        """See `reference.delta_step`. `state` is float32 and contiguous."""
        assert state.is_contiguous() and state.dtype == torch.float32
        B, H, K, V = state.shape
        inputs = [tensor.float().contiguous() for tensor in (q, k, v, g, beta)]
        out, corrections = torch.empty(B, H, V), torch.empty(B, H, V)
        self.delta_of(
            self.fork_join,
            torch.get_num_threads(),
            *(tensor.data_ptr() for tensor in inputs),
            state.data_ptr(),
            state.data_ptr(),
            out.data_ptr(),
            corrections.data_ptr(),
            *(B, 1, q.shape[1], H, K, V),
        )
        return out, corrections

    def delta_chunk(
        self, q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor, state: Tensor
    ) -> tuple[Tensor, Tensor]:
        """See `reference.delta_chunk`. Token by token: the state stays in the cache meanwhile."""
        B, H, K, V = state.shape
        inputs = [tensor.float().contiguous() for tensor in (q, k, v, g, beta, state)]
        T, G = q.shape[1:3]
        out, after = torch.empty(B, T, H, V), torch.empty_like(inputs[-1])
        self.delta_of(
            self.fork_join,
            torch.get_num_threads(),
            *(tensor.data_ptr() for tensor in inputs),
            after.data_ptr(),
            out.data_ptr(),
            None,
            *(B, T, G, H, K, V),
        )
        return out, after
