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
from torch import Tensor

from qwen35cli.kernels import reference
from qwen35cli.kernels.cpu import Native, torch_ops
from qwen35cli.kernels.operands import NF4, DeltaWeights, Int4, Int8, Int8Rows, Rows, Weight

COLD_BYTES = 400_000_000  # of weights per shape
LINEAR = {"gate|up": (9_216, 2_560), "down": (2_560, 9_216), "k": (1_024, 2_560)}
TOKENS = (1, 2, 4, 8, 16, 64, 512)
KINDS = ("bf16", "int4", "int8", "nf4")
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


def matrix(kind: str, N: int, K: int) -> Weight:
    """A random matrix (N, K), in the layout of the files."""
    if kind == "bf16":
        return torch.randn(N, K).bfloat16()
    if kind == "nf4":
        packed = torch.randint(0, 256, (N * K // 2, 1), dtype=torch.uint8)
        return NF4(packed, torch.rand(N * K // 64), torch.linspace(-1, 1, 16), (N, K), 64)
    words = torch.randint(-(2**31), 2**31, (N, K // (8 if kind == "int4" else 4))).int()
    if kind == "int8":
        return Int8(words, torch.rand(N, 1).div(70).bfloat16(), (N, K))
    return Int4(words, torch.randn(N, K // 32).div(4).bfloat16(), (N, K), 32)


def weight_bytes(weight: Weight) -> int:
    """What is read of a matrix: codes and scales."""
    if isinstance(weight, Tensor):
        return weight.nbytes
    scale = weight.absmax if isinstance(weight, NF4) else weight.scale
    return weight.packed.nbytes + scale.nbytes


def linear(native: Native | None, rounds: int) -> list[Row]:
    ways: dict[str, Any] = {"torch": torch_ops}
    ways |= {native.variant: native.matrices} if native else {}
    return [
        measured
        for kind in KINDS
        for name, (N, K) in LINEAR.items()
        for way, ops in ways.items()
        for measured in products(kind, name, N, K, way, ops, rounds)
    ]


def products(kind: str, name: str, N: int, K: int, way: str, ops: Any, rounds: int) -> list[Row]:
    """One matrix shape by one way; integer kernels round the activations."""
    files = [matrix(kind, N, K)]
    nbytes = weight_bytes(files[0])
    files += [matrix(kind, N, K) for _ in range(max(1, COLD_BYTES // nbytes - 1))]
    weights = [torch_ops.prepare(file) if way == "torch" else file for file in files]
    rows = []
    for T in TOKENS:
        x = torch.randn(T, K)
        expected = reference.linear(x, files[0])
        off = (ops.linear(x, weights[0]) - expected).norm() / expected.norm()
        assert off < 0.02, f"{kind} {name} T={T}: {way} is off by {off:.1%}"
        used = len(weights) if T <= 16 else 2
        taken = seconds(lambda i, x=x: ops.linear(x, weights[i]), used, rounds if T <= 16 else 1)
        rows.append(row(f"{kind} {name} {N}x{K}", way, T, taken, nbytes, 2 * T * N * K))
    return rows


def cached_rows(kind: torch.dtype, S: int) -> Rows:
    """Random keys or values of S tokens, as a cache of `kind` holds them."""
    x = torch.randn(1, S, 4, 256)
    shape = (1, 4, S)
    if kind == torch.int8:
        rows: Rows = Int8Rows(
            torch.empty(*shape, 256, dtype=kind), torch.empty(shape, dtype=torch.bfloat16)
        )
    else:
        rows = torch.empty(*shape, 256, dtype=kind)
    reference.store_rows(x, rows, 0)
    return rows


def attention(native: Native, rounds: int) -> list[Row]:
    rows = []
    ways = {"reference": reference.attention, native.variant: native.attention.attention}
    for kind in (torch.bfloat16, torch.int8):
        for S in (1_024, 4_096, 16_384):
            nbytes = S * 4 * 256 * 2 * kind.itemsize
            copies = max(2, min(24, COLD_BYTES // nbytes))
            caches = [(cached_rows(kind, S), cached_rows(kind, S)) for _ in range(copies)]
            for T in (1, 2, 4, 8, 512):
                q = torch.randn(1, T, 16, 256)
                torch.testing.assert_close(*(call(q, *caches[0]) for call in ways.values()))
                used = copies if T < 512 else 1
                for way, call in ways.items():
                    taken = seconds(lambda i, c=call, q=q, kv=caches: c(q, *kv[i]), used, rounds)
                    name = f"attention {str(kind).removeprefix('torch.')} S={S}"
                    rows.append(row(name, way, T, taken, nbytes, 4 * T * 16 * S * 256))
    return rows


def delta(native: Native, rounds: int) -> list[Row]:
    G, H, K, V = 16, 32, 128, 128
    C = 2 * G * K + H * V
    layers = [
        DeltaWeights(
            conv=torch.randn(C, 1, 4).bfloat16(),
            a_log=torch.rand(H),
            dt_bias=torch.randn(H).bfloat16(),
            norm=torch.ones(V),
            eps=1e-6,
        )
        for _ in range(48)
    ]
    past = [torch.randn(1, 3, C) for _ in layers]
    states = [torch.randn(1, H, K, V) for _ in layers]
    ways = {"reference": reference.delta_mix, native.variant: native.delta.delta_mix}
    rows = []
    for T in (1, 2, 4, 8, 64, 512):
        inputs = qkv, z, a, b = tuple(torch.randn(1, T, n) for n in (C, H * V, H, H))
        one, other = (
            call(qkv, z, a, b, layers[0], past[0].clone(), states[0].clone())
            for call in ways.values()
        )
        torch.testing.assert_close(
            one,
            other,
            rtol=1e-3,
            atol=1e-4,
        )
        for way, call in ways.items():
            taken = seconds(
                lambda i, c=call, x=inputs: c(*x, layers[i], past[i], states[i]),
                len(layers) if T < 64 else 2,
                rounds,
            )
            rows.append(row("delta_mix", way, T, taken, 2 * states[0].nbytes, 7 * T * H * K * V))
    return rows


def small(native: Native, rounds: int) -> list[Row]:
    """The ops between the others: their price is the call."""
    x, weight = torch.randn(1, 1, 2_560), torch.randn(2_560).bfloat16()
    heads, k, gates = (
        torch.randn(1, 1, 16, 512),
        torch.randn(1, 1, 4, 256),
        torch.randn(2, 1, 1, 32),
    )
    q, gate = heads.chunk(2, dim=-1)
    y, scale = torch.randn(1, 1, 16, 256), torch.randn(256).bfloat16()
    room = cached_rows(torch.int8, 64)
    rows = []
    for way in ("reference", native.variant):
        norms, mixers = (
            (reference, reference) if way == "reference" else (native.norms, native.attention)
        )
        calls: dict[str, Callable[[int], object]] = {
            "rms_norm 2560": lambda _, ops=norms: ops.rms_norm(x, weight, 1e-6),
            "qk_norm_rotary": lambda _, ops=mixers: ops.qk_norm_rotary(
                q, k, scale, scale, 1e-6, *gates
            ),
            "store_rows int8": lambda _, ops=mixers: ops.store_rows(k, room, 5),
            "sigmoid_gate": lambda _, ops=mixers: ops.sigmoid_gate(y, gate),
        }
        for name, call in calls.items():
            rows.append(row(name, way, 1, seconds(call, 50, rounds), 4 * 2_560, 4 * 2_560))
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
            rows += attention(native, rounds) + delta(native, rounds) + small(native, rounds)
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
