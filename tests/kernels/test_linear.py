import shutil
from dataclasses import replace

import pytest
import torch

from qwen35cli.kernels import reference
from qwen35cli.kernels.cpu import Native, torch_linear
from tests.kernels.twins import NATIVE, name

# Float32 sums in another order; torch's bf16 GEMV rounds a single token and its result to bf16.
TOLERANCE = {"exact": {"rtol": 1e-5, "atol": 2e-5}, "bf16": {"rtol": 2e-2, "atol": 2e-2}}

SHAPES = [(1, 1), (3, 5), (4, 16), (7, 13), (13, 64), (31, 100), (64, 33), (129, 257), (300, 40)]
TOKENS = [1, 2, 3, 4, 5, 6, 7, 8, 9, 33]


def exact(native: Native) -> Native:
    """`native` on a CPU without bf16 units, whatever this one has."""
    return replace(native, bf16_from=10**9)


def test_library_is_present_where_there_is_a_compiler():
    assert NATIVE or not shutil.which("g++")


def test_linear_runs_on_the_threads_of_torch():
    assert all(native.fork_join for native in NATIVE)


@pytest.mark.parametrize("bias", [None, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("T", TOKENS)
@pytest.mark.parametrize("native", NATIVE, ids=name)
def test_native_linear_agrees_with_reference(native, T, bias, poisoned):
    torch.manual_seed(0)
    for N, K in SHAPES:
        x, weight = torch.randn(T, K), torch.randn(N, K).div(K**0.5).bfloat16()
        added = None if bias is None else torch.randn(N).to(bias)
        expected = reference.linear(x, weight, added)
        actual = exact(native).linear(x, weight, added)
        torch.testing.assert_close(actual, expected, **TOLERANCE["exact"])


@pytest.mark.parametrize("T", TOKENS)
def test_torch_linear_agrees_with_reference(T, poisoned, monkeypatch):
    monkeypatch.setattr("qwen35cli.kernels.cpu.torch_ops.WIDENED_BYTES", 4_000)  # several blocks
    torch.manual_seed(0)
    for N, K in SHAPES:
        x, weight, bias = (
            torch.randn(T, K),
            torch.randn(N, K).div(K**0.5).bfloat16(),
            torch.randn(N),
        )
        for added in (None, bias):
            tolerance = TOLERANCE["bf16" if T == 1 else "exact"]
            expected = reference.linear(x, weight, added)
            torch.testing.assert_close(torch_linear(x, weight, added), expected, **tolerance)


@pytest.mark.parametrize("native", NATIVE, ids=name)
def test_linear_with_bf16_units_agrees_with_reference(native, poisoned):
    x, weight = torch.randn(9, 257), torch.randn(129, 257).div(16).bfloat16()
    actual = replace(native, bf16_from=9).linear(x, weight)
    assert actual.dtype == torch.float32
    torch.testing.assert_close(actual, reference.linear(x, weight), **TOLERANCE["bf16"])


@pytest.mark.parametrize("linear", [torch_linear, *(native.linear for native in NATIVE)])
def test_linear_keeps_leading_dims_and_takes_views_and_other_dtypes(linear, poisoned):
    x, weight = torch.randn(2, 3, 40), torch.randn(5, 20).div(4)
    half = x[..., ::2]  # not contiguous
    for kind in (torch.bfloat16, torch.float32):
        expected = reference.linear(half, weight.to(kind))
        torch.testing.assert_close(linear(half, weight.to(kind)), expected, **TOLERANCE["exact"])
    assert linear(half.bfloat16(), weight.bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("native", NATIVE, ids=name)
def test_linear_covers_every_row_whatever_the_threads(native, threads, poisoned):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for N in (1, 11, 12, 13, 24, 1_001):
            weight = torch.randn(N, 512).bfloat16()
            for T in (1, 5):
                x = torch.randn(T, 512)
                expected = reference.linear(x, weight)
                torch.testing.assert_close(
                    exact(native).linear(x, weight), expected, rtol=1e-4, atol=1e-4
                )
    finally:
        torch.set_num_threads(before)
