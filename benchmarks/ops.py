"""How fast the CPU ops are at the shapes of the 4B, next to what the memory gives in the same run.

    python -m benchmarks.ops [--rounds 5]

Weights, caches and states are cold: each op goes through many copies in turn, more than the caches
hold. Every op is compared with the reference first. Prints a table and, last, one line of JSON.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from qwen35cli.kernels import reference
from qwen35cli.kernels.cpu import Native, torch_linear

COLD_BYTES = 400_000_000  # of weights per shape
LINEAR = {"gate|up": (9_216, 2_560), "down": (2_560, 9_216), "k": (1_024, 2_560)}
TOKENS = (1, 2, 4, 8, 16, 64, 512)
Row = dict[str, Any]


def seconds(call: Callable[[int], object], copies: int, rounds: int) -> float:
    """Median time of one call, each with the next copy."""
    times = []
    call(0)
    for _ in range(rounds):
        for copy in range(copies):
            start = time.perf_counter()
            call(copy)
            times.append(time.perf_counter() - start)
    return statistics.median(times)


def bandwidth(rounds: int) -> float:
    """GB/s of summing one gibibyte in torch: the best of the rounds; near what memory gives."""
    data = torch.ones(2**28)
    best = 0.0
    for _ in range(rounds):
        start = time.perf_counter()
        data.sum()
        best = max(best, data.nbytes / (time.perf_counter() - start) / 1e9)
    return best


def linear(native: Native | None, rounds: int) -> list[Row]:
    ways = {"torch": torch_linear} | ({native.variant: native.linear} if native else {})
    rows = []
    for name, (N, K) in LINEAR.items():
        copies = max(2, COLD_BYTES // (2 * N * K))
        weights = [torch.randn(N, K).bfloat16() for _ in range(copies)]
        for T in TOKENS:
            x = torch.randn(T, K)
            used = copies if T <= 16 else 2
            for way, call in ways.items():
                expected = reference.linear(x, weights[0])
                tolerance = 1e-3 if way != "torch" else 1.0  # torch rounds a single token to bf16
                torch.testing.assert_close(call(x, weights[0]), expected, rtol=0.02, atol=tolerance)
                taken = seconds(
                    lambda i, c=call, x=x, w=weights: c(x, w[i]), used, rounds if T <= 16 else 1
                )
                rows.append(row(f"linear {name} {N}x{K}", way, T, taken, 2 * N * K, 2 * T * N * K))
    return rows


def attention(native: Native, rounds: int) -> list[Row]:
    rows = []
    for S in (1_024, 4_096):
        caches = [torch.randn(2, 1, 4, S, 256).bfloat16() for _ in range(COLD_BYTES // (S * 4_096))]
        for T in (1, 4):
            q = torch.randn(1, T, 16, 256)
            ways = {"reference": reference.attention, native.variant: native.attention}
            torch.testing.assert_close(
                native.attention(q, *caches[0]), reference.attention(q, *caches[0])
            )
            for way, call in ways.items():
                taken = seconds(
                    lambda i, c=call, q=q, kv=caches: c(q, *kv[i]), min(len(caches), 24), rounds
                )
                rows.append(row(f"attention S={S}", way, T, taken, S * 4_096, 4 * T * 16 * S * 256))
    return rows


def delta(native: Native, rounds: int) -> list[Row]:
    B, G, H, K, V = 1, 16, 32, 128, 128
    states = [torch.randn(B, H, K, V) for _ in range(48)]
    rows = []
    for T in (1, 4, 64):
        q, k = F.normalize(torch.randn(2, B, T, G, K), dim=-1)
        inputs = [
            q * K**-0.5,
            k,
            torch.randn(B, T, H, V),
            -torch.rand(B, T, H),
            torch.rand(B, T, H),
        ]
        for way, ops in {"reference": reference, native.variant: native}.items():

            def call(i: int, ops: Any = ops, inputs: list[Tensor] = inputs, T: int = T) -> object:
                if T == 1:
                    return ops.delta_step(*(tensor[:, 0] for tensor in inputs), states[i])
                return ops.delta_chunk(*inputs, states[i])

            taken = seconds(call, len(states), rounds)
            rows.append(row("delta", way, T, taken, 2 * states[0].nbytes, 7 * T * H * K * V))
    return rows


def norms(native: Native, rounds: int) -> list[Row]:
    x, weight = torch.randn(1, 1, 2_560), torch.randn(2_560).bfloat16()
    rows = []
    for way, ops in {"reference": reference, native.variant: native}.items():
        taken = seconds(lambda _, ops=ops: ops.rms_norm(x, weight, 1e-6), 50, rounds)
        rows.append(row("rms_norm 2560", way, 1, taken, x.nbytes, 4 * x.numel()))
    return rows


def row(op: str, way: str, T: int, taken: float, nbytes: int, flops: int) -> Row:
    """One measurement; `nbytes` is what must be moved whatever the way."""
    return {
        "op": op,
        "way": way,
        "T": T,
        "ms": round(taken * 1e3, 4),
        "gb_per_s": round(nbytes / taken / 1e9, 1),
        "gflop_per_s": round(flops / taken / 1e9, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    native = Native.load()
    with torch.inference_mode():
        read = bandwidth(rounds)
        rows = linear(native, rounds)
        if native:
            rows += attention(native, rounds) + delta(native, rounds) + norms(native, rounds)
    print(f"{'op':28} {'way':10} {'T':>4} {'ms':>9} {'GB/s':>6} {'of read':>7} {'GFLOP/s':>8}")
    for r in rows:
        share = f"{r['gb_per_s'] / read:.0%}"
        print(
            f"{r['op']:28} {r['way']:10} {r['T']:4} {r['ms']:9.3f} {r['gb_per_s']:6.1f} {share:>7} "
            f"{r['gflop_per_s']:8.1f}"
        )
    machine = {
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "read_gb_per_s": round(read, 1),
    }
    print(json.dumps(machine | {"backend": native.description if native else "torch", "ops": rows}))


if __name__ == "__main__":
    main()
