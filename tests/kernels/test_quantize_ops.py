"""Quantizing in C++ against plain torch: the same error, and but for ties the same codes."""

import pytest
import torch

from qwen35cli.kernels import reference
from qwen35cli.kernels.operands import NF4, Int4
from tests.kernels.twins import NATIVE, name
from tests.quant.matrices import KINDS

SHAPES = [(1, 32), (3, 64), (5, 250), (33, 97), (64, 640), (2, 2)]


@pytest.mark.parametrize("twin", NATIVE, ids=name)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("group", [8, 32, 64, 128, 256])
def test_int4_errs_no_more_than_the_reference(twin, dtype, group, poisoned):
    for kind, make in KINDS.items():
        for shape in SHAPES:
            w = make(*shape).to(dtype)
            found, expected = twin.quantize.int4(w, group), reference.quantize_int4(w, group)
            operands = [Int4(*pair, w.shape, group) for pair in (found, expected)]
            assert compare(w, found, expected, operands), kind


@pytest.mark.parametrize("twin", NATIVE, ids=name)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("block", [2, 32, 64, 256])
def test_nf4_errs_no_more_than_the_reference(twin, dtype, block, poisoned):
    table = torch.tensor(reference.NF4_TABLE)
    for kind, make in KINDS.items():
        for shape in SHAPES:
            w = make(shape[0], shape[1] + shape[0] * shape[1] % 2).to(dtype)
            w = w if w.numel() % 2 == 0 else w[:, :-1]
            found, expected = twin.quantize.nf4(w, block), reference.quantize_nf4(w, block)
            operands = [NF4(*pair, table, w.shape, block) for pair in (found, expected)]
            assert compare(w, found, expected, operands), kind


def compare(w, found, expected, operands) -> bool:
    """Shapes alike, error no larger by more than a millionth, nearly all codes the same.

    Of few weights, which may be met almost exactly, the error itself is known less well: that of
    float32 sums enters it times the weights. And weights in bf16 give scales of least squares that
    lie halfway between two of bf16, where float32 sums in another order round to the other side.
    """
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)
    errors = [
        float((reference.dequantize(operand) - w.float()).square().sum()) for operand in operands
    ]
    same = (found[0] == expected[0]).float().mean()
    slack = 1e-6 * (errors[1] * float(w.float().square().sum())) ** 0.5 * (w.numel() < 10_000)
    slack += 1e-4 * errors[1] * (w.dtype == torch.bfloat16)
    return errors[0] <= errors[1] * (1 + 1e-6) + slack and same > 0.99


@pytest.mark.parametrize("twin", NATIVE, ids=name)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(1, 1), (3, 64), (5, 250), (33, 97), (300, 640), (2, 3)])
def test_int8_is_the_reference_to_the_bit(twin, dtype, shape, poisoned):
    for make in KINDS.values():
        w = make(*shape).to(dtype)
        w[0] = 0
        for ours, theirs in zip(twin.quantize.int8(w), reference.quantize_int8(w), strict=True):
            assert torch.equal(ours, theirs)


@pytest.mark.parametrize("twin", NATIVE, ids=name)
def test_one_thread_gives_what_two_give(twin):
    w = KINDS["gauss"](256, 512)
    before = torch.get_num_threads()
    try:
        for op in (lambda: twin.quantize.int4(w, 32), lambda: twin.quantize.nf4(w, 64)):
            torch.set_num_threads(1)
            one = op()
            torch.set_num_threads(2)
            assert all(torch.equal(a, b) for a, b in zip(one, op(), strict=True))
    finally:
        torch.set_num_threads(before)
