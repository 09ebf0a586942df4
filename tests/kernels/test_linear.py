"""Products with matrices of every kind, against plain torch."""

import shutil
from dataclasses import replace

import pytest
import torch

from qwen35cli.kernels import reference
from qwen35cli.kernels.cpu import Native, torch_ops
from qwen35cli.kernels.cpu.linear import LinearOps
from qwen35cli.kernels.operands import NF4, Int4, Int8
from tests.kernels.twins import NATIVE, name

# Float32 sums in another order; torch's bf16 GEMV rounds a single token and its result to bf16.
TOLERANCE = {"exact": {"rtol": 1e-5, "atol": 2e-5}, "bf16": {"rtol": 2e-2, "atol": 2e-2}}

SHAPES = [(1, 1), (3, 5), (4, 16), (7, 13), (13, 64), (31, 100), (64, 33), (129, 257), (300, 40)]
QUANTIZED_SHAPES = [*SHAPES, (24, 1_024), (67, 1_351)]
TOKENS = [1, 2, 3, 4, 5, 6, 7, 8, 9, 33]
KINDS = ["bf16", "int4-32", "int4-64", "int4-128", "int8", "nf4-64", "nf4-16"]
INT4 = [kind for kind in KINDS if kind.startswith("int4")]


def exact(native: Native) -> LinearOps:
    """The ops of `native` on a CPU without bf16 units, whatever this one has."""
    return with_bf16_units(native, 10**9, 10**9)


def with_bf16_units(native: Native, bf16_from: int, widen_from: int) -> LinearOps:
    """The ops of `native` on a CPU whose bf16 units pay from so many tokens on."""
    counts = dict.fromkeys((Int4, Int8, NF4), widen_from)
    return replace(native.matrices, bf16_from=bf16_from, widen_from=counts)


def pack(codes, bits):
    """(N, K) integers -> (N, words) int32, the lowest bits first; padded with the code of zero."""
    each = 32 // bits
    missing = -codes.shape[1] % each
    codes = torch.nn.functional.pad(codes, (0, missing), value=2 ** (bits - 1)).long()
    shifts = torch.arange(0, 32, bits)
    words = (codes.unflatten(1, (-1, each)) << shifts).sum(-1)
    return torch.where(words >= 2**31, words - 2**32, words).int()


def operand(kind, N, K):
    """A random matrix with outputs of about one; scales of both signs where the format has them."""
    if kind == "bf16":
        return torch.randn(N, K).div(K**0.5).bfloat16()
    if kind == "int8":
        scale = (torch.rand(N, 1) + 0.5).div(70 * K**0.5).bfloat16()
        return Int8(pack(torch.randint(1, 256, (N, K)), 8), scale, (N, K))
    size = int(kind.split("-")[1])
    if kind.startswith("int4"):
        scale = torch.randn(N, -(-K // size)).div(4 * K**0.5).bfloat16()
        return Int4(pack(torch.randint(0, 16, (N, K)), 4), scale, (N, K), size)
    packed = torch.randint(0, 256, (-(-N * K // 2), 1), dtype=torch.uint8)
    absmax = torch.rand(-(-N * K // size)).add(0.5).mul(2 / K**0.5)
    return NF4(packed, absmax, torch.linspace(-1, 1, 16) ** 3, (N, K), size)


def product(x, weight):
    """In float64, with the activations rounded as the kernels round them."""
    if isinstance(weight, Int4):
        x = reference.rounded(x, 32, 127)
    elif isinstance(weight, Int8):
        x = reference.rounded(x, 256, 32_767)
    plain = weight if isinstance(weight, torch.Tensor) else reference.dequantize(weight)
    return (x.double() @ plain.double().T).float()


ROUNDED = 0.012  # of the length of a result: what rounding 32 activations to int8 may move it


@pytest.fixture
def threads():
    """Sets the number of threads for one test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


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
        x, weight = torch.randn(T, K), operand("bf16", N, K)
        added = None if bias is None else torch.randn(N).to(bias)
        expected = reference.linear(x, weight, added)
        actual = exact(native).linear(x, weight, added)
        torch.testing.assert_close(actual, expected, **TOLERANCE["exact"])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("T", TOKENS)
@pytest.mark.parametrize("native", NATIVE, ids=name)
def test_native_linear_multiplies_quantized_weights(native, T, kind, poisoned):
    torch.manual_seed(0)
    for N, K in QUANTIZED_SHAPES:
        x, weight = torch.randn(T, K), operand(kind, N, K)
        actual = exact(native).linear(x, weight)
        torch.testing.assert_close(actual, product(x, weight), **TOLERANCE["exact"])


@pytest.mark.parametrize(("kind", "most"), [*((k, 1e-2) for k in INT4), ("int8", 1e-4)])
@pytest.mark.parametrize("native", NATIVE, ids=name)
def test_rounding_of_activations_costs_little(native, kind, most):
    torch.manual_seed(0)
    x, weight = torch.randn(5, 1_024), operand(kind, 256, 1_024)
    expected = reference.linear(x, weight)
    error = exact(native).linear(x, weight) - expected
    assert error.norm() < most * expected.norm()


@pytest.mark.parametrize("extreme", [-1, 1])
@pytest.mark.parametrize("kind", ["int4-32", "int8", "nf4-64"])
@pytest.mark.parametrize("native", NATIVE, ids=name)
def test_integer_sums_have_room_for_the_extremes(native, kind, extreme):
    N, K = 24, 2_560
    low, high = (0, 15) if kind != "int8" else (0, 255)
    weight = operand(kind, N, K)
    for code in (low, high):
        if kind == "nf4-64":
            weight = replace(weight, packed=torch.full_like(weight.packed, code * 17))
        else:
            codes = torch.full((N, K), code)
            weight = replace(weight, packed=pack(codes, 4 if kind == "int4-32" else 8))
        x = torch.full((3, K), 1e5 * extreme)
        expected = product(x, weight)
        torch.testing.assert_close(exact(native).linear(x, weight), expected, rtol=1e-5, atol=1.0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("native", NATIVE, ids=name)
def test_odd_activations(native, kind, poisoned):
    """Zeros, numbers too small or large to be squared, one outlier, and what is not finite."""
    weight, linear = operand(kind, 40, 512), exact(native).linear
    x = torch.randn(6, 512)
    x[0] = 0
    x[1, :256] = 0
    x[2, 7] = 1e5
    x[3, 40:50] = 1e-38
    x[4] *= 1e-20
    x[5] *= 1e30
    for row in x:
        torch.testing.assert_close(
            linear(row[None], weight),
            product(row[None], weight),
            rtol=1e-4,
            atol=1e-5 * float(row.abs().max()),
        )
    for bad in (torch.nan, torch.inf, -torch.inf):
        y = torch.randn(3, 512)
        y[1, 100] = bad
        out = linear(y, weight)
        assert not out[1].isfinite().all()
        assert out[[0, 2]].isfinite().all()
        if bad is torch.nan or not isinstance(weight, torch.Tensor | NF4):
            assert out[1].isnan().all()


@pytest.mark.parametrize("T", [1, 3, 9, 33])
@pytest.mark.parametrize("native", NATIVE, ids=name)
def test_project_multiplies_several_kinds_at_once(native, T, poisoned):
    torch.manual_seed(0)
    K = 384
    weights = tuple(
        operand(kind, N, K) for N, kind in zip((70, 33, 300, 7, 41), KINDS[::-1], strict=False)
    )
    weights += (operand("bf16", 32, K), operand("bf16", 5, K))
    x = torch.randn(2, T, K)
    results = exact(native).project(x, weights)
    for result, weight in zip(results, weights, strict=True):
        torch.testing.assert_close(result, product(x, weight), **TOLERANCE["exact"])
    for result, plain in zip(results, reference.project(x, weights), strict=True):
        assert (result - plain).norm() < ROUNDED * plain.norm()


@pytest.mark.parametrize("kinds", [("int4-32", "int4-32"), ("bf16", "bf16"), ("int8", "int4-64")])
@pytest.mark.parametrize("T", [1, 2, 9, 33])
@pytest.mark.parametrize("native", NATIVE, ids=name)
def test_project_swiglu_agrees_with_its_parts(native, T, kinds, poisoned):
    torch.manual_seed(0)
    for N in (1, 203):
        gate, up = (operand(kind, N, 160) for kind in kinds)
        x = torch.randn(T, 160)
        expected = reference.swiglu(product(x, gate), product(x, up))
        actual = exact(native).project_swiglu(x, gate, up)
        torch.testing.assert_close(actual, expected, **TOLERANCE["exact"])
        plain = reference.project_swiglu(x, gate, up)
        assert N == 1 or (actual - plain).norm() < 2 * ROUNDED * plain.norm()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("native", NATIVE, ids=name)
def test_threads_change_no_bit(native, kind, threads):
    torch.manual_seed(0)
    weight, other = operand(kind, 1_001, 512), operand("int4-32", 700, 512)
    for T in (1, 4, 9):
        x, results = torch.randn(T, 512), []
        for count in (1, 2, 3):
            threads(count)
            results.append(exact(native).project(x, (weight, other)))
            results.append((exact(native).linear(x, weight), exact(native).linear(x, other)))
        for result in results[1:]:
            assert all(torch.equal(a, b) for a, b in zip(result, results[0], strict=True))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("native", NATIVE, ids=name)
def test_bf16_units_are_given_widened_blocks(native, kind, poisoned, monkeypatch):
    monkeypatch.setattr("qwen35cli.kernels.cpu.linear.WIDENED_BYTES", 40_000)  # several blocks
    torch.manual_seed(0)
    ops = with_bf16_units(native, 9, 9)
    for N, K in [(129, 257), (300, 512), (3, 5)]:
        x, weight = torch.randn(9, K), operand(kind, N, K)
        actual = ops.linear(x, weight)
        assert actual.dtype == torch.float32
        expected = reference.linear(x, weight)
        torch.testing.assert_close(actual, expected, **TOLERANCE["bf16"])
        torch.testing.assert_close(
            ops.project_swiglu(x, weight, weight),
            reference.swiglu(expected, expected),
            rtol=0.1,
            atol=0.1,
        )


@pytest.mark.parametrize("native", NATIVE, ids=name)
def test_bf16_units_leave_few_tokens_to_the_integer_kernels(native):
    kinds = ("int4-32", "bf16", "int8")
    weights = (operand(kinds[0], 40, 64), operand(kinds[1], 8, 64), operand(kinds[2], 13, 64))
    ops = with_bf16_units(native, 9, 20)
    x = torch.randn(10, 64)
    for result, weight, form in zip(
        ops.project(x, weights), weights, ("exact", "bf16", "exact"), strict=True
    ):
        torch.testing.assert_close(result, product(x, weight), **TOLERANCE[form])


@pytest.mark.parametrize("kind", INT4)
@pytest.mark.parametrize("native", NATIVE, ids=name)
def test_int4_gives_a_token_the_same_bits_among_many(native, kind, poisoned):
    """Rows of one lane, groups behind the row, and more tokens than stay in the cache at once."""
    torch.manual_seed(0)
    for N, K, T in [(37, 100, 9), (37, 100, 13), (70, 2_600, 150), (33, 40_000, 21)]:
        x, weight = torch.randn(T, K), operand(kind, N, K)
        ops = exact(native)
        alone = torch.cat([ops.linear(x[t : t + 1], weight) for t in range(T)])
        assert torch.equal(ops.linear(x, weight), alone)


@pytest.mark.parametrize("native", NATIVE, ids=name)
def test_rows_of_int8_are_looked_up(native, poisoned):
    for K in (64, 65):
        weight = operand("int8", 30, K)
        ids = torch.tensor([[3, 0, 29], [3, 3, 1]])
        assert torch.equal(native.matrices.rows(weight, ids), reference.rows(weight, ids))
    for wrong in (30, -1):
        with pytest.raises(IndexError):
            native.matrices.rows(weight, torch.tensor([0, wrong]))
    plain = torch.randn(30, 8).bfloat16()
    assert torch.equal(native.matrices.rows(plain, ids), reference.rows(plain, ids))


@pytest.mark.parametrize("linear", [torch_ops.linear, *(n.matrices.linear for n in NATIVE)])
def test_linear_keeps_leading_dims_and_takes_views_and_other_dtypes(linear, poisoned):
    x, weight = torch.randn(2, 3, 40), torch.randn(5, 20).div(4)
    half = x[..., ::2]  # not contiguous
    for kind in (torch.bfloat16, torch.float32):
        expected = reference.linear(half, weight.to(kind))
        torch.testing.assert_close(linear(half, weight.to(kind)), expected, **TOLERANCE["exact"])
    assert linear(half.bfloat16(), weight.bfloat16()).dtype == torch.bfloat16
    int4 = operand("int4-32", 5, 20)
    torch.testing.assert_close(
        linear(half.bfloat16(), int4), reference.linear(half.bfloat16(), int4)
    )


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("native", NATIVE, ids=name)
def test_linear_covers_every_row_whatever_the_threads(native, count, threads, poisoned):
    threads(count)
    for N in (1, 11, 12, 13, 24, 1_001):
        for kind in ("bf16", "int4-32", "int8", "nf4-64"):
            weight = operand(kind, N, 512)
            for T in (1, 5):
                x = torch.randn(T, 512)
                actual = exact(native).linear(x, weight)
                torch.testing.assert_close(actual, product(x, weight), **TOLERANCE["exact"])


# --- An install without a compiler


@pytest.mark.parametrize("T", TOKENS)
def test_torch_linear_agrees_with_reference(T, poisoned, monkeypatch):
    monkeypatch.setattr("qwen35cli.kernels.cpu.torch_ops.WIDENED_BYTES", 4_000)  # several blocks
    torch.manual_seed(0)
    for N, K in SHAPES:
        x, weight, bias = torch.randn(T, K), operand("bf16", N, K), torch.randn(N)
        for added in (None, bias):
            tolerance = TOLERANCE["bf16" if T == 1 else "exact"]
            expected = reference.linear(x, weight, added)
            torch.testing.assert_close(torch_ops.linear(x, weight, added), expected, **tolerance)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("T", [1, 5, 33])
def test_torch_ops_multiply_quantized_weights(T, kind, poisoned, monkeypatch):
    monkeypatch.setattr("qwen35cli.kernels.cpu.torch_ops.WIDENED_BYTES", 4_000)
    torch.manual_seed(0)
    for N, K in [*QUANTIZED_SHAPES, (32, 256)]:
        x, weight = torch.randn(T, K), operand(kind, N, K)
        expected = reference.linear(x, weight)
        for form in (weight, torch_ops.prepare(weight)):
            torch.testing.assert_close(torch_ops.linear(x, form), expected, **TOLERANCE["bf16"])
            (projected,) = torch_ops.project(x, (form,))
            torch.testing.assert_close(projected, expected, **TOLERANCE["bf16"])
        both = torch_ops.project_swiglu(x, form, form)
        torch.testing.assert_close(both, reference.swiglu(expected, expected), rtol=0.1, atol=0.1)


@pytest.mark.skipif(
    torch.backends.cpu.get_cpu_capability() == "DEFAULT", reason="torch's ops are slow here"
)
def test_torch_ops_get_the_form_they_want():
    assert torch_ops.prepare(operand("int4-64", 32, 256)).packed.dtype == torch.uint8
    assert torch_ops.prepare(operand("int8", 5, 64)).packed.dtype == torch.int8
    for kind, N, K in [
        ("int4-64", 31, 256),
        ("int4-64", 32, 250),
        ("int8", 5, 65),
        ("nf4-64", 8, 64),
    ]:
        weight = operand(kind, N, K)
        assert torch_ops.prepare(weight) is weight


def test_torch_rows_are_those_of_the_file():
    weight, ids = operand("int8", 30, 64), torch.tensor([[3, 29]])
    expected = reference.rows(weight, ids)
    for form in (weight, torch_ops.prepare(weight)):
        assert torch.equal(torch_ops.rows(form, ids), expected)
