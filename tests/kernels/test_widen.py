"""Widened matrices and the products of many tokens with them, against plain torch."""

from dataclasses import replace

import pytest
import torch

from qwen35cli.kernels import reference
from qwen35cli.kernels.operands import NF4, Int4, Int8
from tests.kernels.test_linear import operand

triton = pytest.importorskip("triton", reason="Triton has no wheel for this system")
from qwen35cli.kernels.triton import linear, tiles  # noqa: E402  (they import Triton)
from qwen35cli.kernels.triton.widen import widen, widenable  # noqa: E402

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
TILED = ["int4-32", "int4-64", "int4-128"]
# Awkward ones: fewer and more inputs than a program's, no whole word, group, block or tile.
SHAPES = {
    "tiles": (48, 256),
    "more blocks than a program's": (32, 640),
    "a part of a word": (35, 101),
    "a part of a piece": (19, 68),
    "a part of a group": (48, 200),
    "few rows": (5, 128),
}
KINDS = [*TILED, "int8", "nf4-64", "nf4-16"]
# Of the rounded result: float32 sums in another order.
TOLERANCE = {
    torch.float32: {"rtol": 1e-5, "atol": 2e-5},
    torch.bfloat16: {"rtol": 1e-2, "atol": 1e-2},
}


def moved(weight):
    """On the device that runs."""
    if isinstance(weight, torch.Tensor):
        return weight.to(DEVICE)
    names = ("packed", "absmax", "table") if isinstance(weight, NF4) else ("packed", "scale")
    return replace(weight, **{name: getattr(weight, name).to(DEVICE) for name in names})


def check_rows(weight, first, count):
    """Bit by bit, between rows that must stay as they are."""
    prepared = tiles.prepare(weight)
    assert widenable(prepared)
    room = torch.full((count + 2, weight.shape[1]), 7.0, dtype=torch.bfloat16, device=DEVICE)
    widen(prepared, room[1:-1], first)
    expected = reference.dequantize(weight)[first : first + count].bfloat16()
    assert torch.equal(room[1:-1].view(torch.int16), expected.view(torch.int16))
    assert (room[[0, -1]] == 7.0).all()


@pytest.mark.parametrize("first, count", [(0, 64), (16, 32), (48, 16), (32, 0)])
@pytest.mark.parametrize("K", [128, 384, 640])
@pytest.mark.parametrize("kind", TILED)
def test_int4_is_widened_as_the_reference_rounds_it(kind, K, first, count):
    torch.manual_seed(K)
    check_rows(moved(operand(kind, 64, K)), first, count)


@pytest.mark.parametrize("first, count", [(0, 7), (3, 2), (6, 1), (0, 0)])
@pytest.mark.parametrize("K", [8, 72, 4_104])
def test_int8_is_widened_as_the_reference_rounds_it(K, first, count):
    torch.manual_seed(K)
    check_rows(moved(operand("int8", 7, K)), first, count)


@pytest.mark.parametrize("kind", [*TILED, "int8"])
def test_every_code_is_widened(kind):
    K = 4_096
    if kind == "int8":
        words = torch.arange(K).mul(67).remainder(256).to(torch.uint8).expand(16, K).contiguous()
        scale = torch.randn(16, 1).bfloat16()
        weight = Int8(words.view(torch.int32), scale, (16, K))
    else:
        group = int(kind.split("-")[1])
        codes = torch.arange(16 * K).mul(7).remainder(16).int().view(16, K)
        scale = torch.randn(16, K // group).bfloat16()
        scale[:, :4] = torch.tensor([0.0, -(2.0**-126), -3e38 / 16, 2.0**100])
        weight = Int4(reference.pack(codes, 4), scale, (16, K), group)
    check_rows(moved(weight), 0, 16)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("kind", KINDS)
def test_linear_agrees_with_reference(kind, shape, dtype, small, poisoned):
    torch.manual_seed(0)
    weight = moved(operand(kind, *shape))
    x = torch.randn(2, 5, shape[1], device=DEVICE).to(dtype)
    bias = torch.randn(shape[0], device=DEVICE) if kind != "int4-64" else None
    actual = linear.linear(x, tiles.prepare(weight), bias)
    assert actual.dtype == dtype and actual.is_contiguous()
    if dtype == torch.bfloat16:  # from the weights as they are rounded, in float64
        weight = reference.dequantize(weight).bfloat16()
        bias = None if bias is None else bias.bfloat16()
    expected = reference.linear(x.double(), weight, bias)
    torch.testing.assert_close(actual.double(), expected, **TOLERANCE[dtype])


@pytest.fixture
def small(monkeypatch):
    """Tiles and blocks of a few rows, so that small matrices have several, and a last one."""
    monkeypatch.setattr(linear, "TILE_BYTES", 16 * 1_024)
    monkeypatch.setattr(linear, "ROWS", 16)
    monkeypatch.setattr(linear, "BLOCK_WEIGHTS", 4_096)


@pytest.mark.parametrize("kind", KINDS)
def test_no_matrix_is_widened_whole(kind, small, monkeypatch):
    widened = []
    dequantize = reference.dequantize
    monkeypatch.setattr(linear, "widen", lambda weight, out, first: widened.append(out.numel()))
    monkeypatch.setattr(
        reference, "dequantize", lambda part: widened.append(part.shape) or dequantize(part)
    )
    weight = tiles.prepare(operand(kind, 160, 128))
    linear.linear(torch.zeros(9, 128, dtype=torch.bfloat16), weight)
    if widenable(weight):
        assert widened == [64 * 128, 64 * 128, 32 * 128]  # of 16 KiB, 8 KiB the last
    else:
        assert widened == [(32, 128)] * 5


@pytest.mark.parametrize("shape", [(1,), (1, 1), (8,), (2, 3), (0,)], ids=str)
def test_linear_takes_any_number_of_tokens(shape, small, poisoned):
    torch.manual_seed(0)
    weight = moved(operand("int8", 33, 64))
    x = torch.randn(*shape, 128, device=DEVICE).bfloat16()[..., 64:]
    expected = reference.linear(x, weight)
    actual = linear.linear(x, weight)
    assert actual.shape == expected.shape
    torch.testing.assert_close(actual, expected, **TOLERANCE[torch.bfloat16])


def test_plain_matrices_are_multiplied_as_they_are():
    x, weight = torch.randn(9, 32).bfloat16(), torch.randn(7, 32).bfloat16()
    bias = torch.randn(7)
    assert torch.equal(linear.linear(x, weight, bias), reference.linear(x, weight, bias))


@pytest.mark.parametrize("kinds", [("int4-32", "int4-32"), ("int8", "bf16")], ids=str)
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_swiglu_is_made_of_both_products(dtype, kinds, poisoned):
    torch.manual_seed(0)
    weights = [moved(operand(kind, 32, 128)) for kind in kinds]
    prepared = [tiles.prepare(weight) for weight in weights]
    x = torch.randn(1, 9, 128, device=DEVICE).to(dtype)
    expected = reference.project_swiglu(x, *weights)
    actual = linear.project_swiglu(x, *prepared)
    torch.testing.assert_close(actual, expected, **TOLERANCE[dtype])
    for each, weight in zip(linear.project(x, tuple(prepared)), weights, strict=True):
        torch.testing.assert_close(each, reference.linear(x, weight), **TOLERANCE[dtype])


@pytest.mark.parametrize("N", [1, 32, 1_024, 4_096, 9_216, 248_320])
@pytest.mark.parametrize("K", [128, 2_560, 9_216, 5_120])
def test_tiles_of_rows_are_bounded_and_alike(N, K):
    count = linear._tile(N, K)
    assert 0 < count <= N and count * K * 2 <= linear.TILE_BYTES
    assert count == N or count % linear.ROWS == 0
    last = N - (-(-N // count) - 1) * count
    assert count == last or last > 0.5 * count or 10 * count < N


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("shape", [(9_216, 2_560), (2_560, 9_216), (8_192, 2_560)], ids=str)
@pytest.mark.parametrize("kind", [*TILED, "int8"])
def test_products_at_the_shapes_of_4b(kind, shape, poisoned):
    torch.manual_seed(0)
    weight = moved(operand(kind, *shape))
    check_rows(weight, 0, shape[0])
    check_rows(weight, 4_608 % shape[0], 512)
    for T in (1, 9, 512):
        x = torch.randn(T, shape[1], device=DEVICE).bfloat16()
        expected = x.float() @ reference.dequantize(weight).bfloat16().float().T
        actual = linear.linear(x, tiles.prepare(weight))
        torch.testing.assert_close(actual.float(), expected, **TOLERANCE[torch.bfloat16])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_head_is_never_widened_whole():
    torch.manual_seed(0)
    N, K = 248_320, 2_560
    words = torch.randint(-(2**31), 2**31, (N, K // 4), dtype=torch.int32, device=DEVICE)
    scale = torch.rand(N, 1, device=DEVICE).add(0.5).div(70 * K**0.5).bfloat16()
    head, x = Int8(words, scale, (N, K)), torch.randn(1, K, device=DEVICE).bfloat16()
    linear.linear(x, head)
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    actual = linear.linear(x, head)
    assert torch.cuda.max_memory_allocated() - before < 64 << 20
    for first in (0, 124_160, N - 256):
        part = Int8(words[first : first + 256], scale[first : first + 256], (256, K))
        expected = reference.linear(x.float(), part)
        found = actual[:, first : first + 256].float()
        torch.testing.assert_close(found, expected, rtol=2e-2, atol=2e-2)
