"""int4 in tiles: the same codes and scales elsewhere, as the kernels expect them."""

from dataclasses import replace

import pytest
import torch

from qwen35cli.kernels import reference, select
from qwen35cli.kernels.operands import Int4
from qwen35cli.quant.leaves import Int4Linear
from tests.kernels.test_linear import operand

pytest.importorskip("triton", reason="Triton has no wheel for this system")
from qwen35cli.kernels.triton.tiles import is_tiled, natural, prepare, tileable

GROUPS = [32, 64, 128]
SHAPES = [(16, 128), (48, 128), (16, 384), (64, 640)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("group", GROUPS)
def test_the_layout_of_the_file_comes_back(group, shape):
    torch.manual_seed(group)
    weight = operand(f"int4-{group}", *shape)
    tiled = prepare(weight)
    assert isinstance(tiled, Int4) and is_tiled(tiled) and not is_tiled(weight)
    assert (tiled.shape, tiled.group) == (weight.shape, weight.group)
    back = natural(tiled)
    assert torch.equal(back.packed, weight.packed) and torch.equal(back.scale, weight.scale)


@pytest.mark.parametrize("group", GROUPS)
def test_tiles_are_as_many_bytes_and_contiguous(group):
    weight = operand(f"int4-{group}", 48, 384)
    tiled = prepare(weight)
    for found, expected in ((tiled.packed, weight.packed), (tiled.scale, weight.scale)):
        assert (found.dtype, found.nbytes) == (expected.dtype, expected.nbytes)
        assert found.is_contiguous()


@pytest.mark.parametrize("group", GROUPS)
def test_every_code_and_scale_is_where_the_formula_says(group):
    torch.manual_seed(group)
    N, K = 48, 384
    weight = operand(f"int4-{group}", N, K)
    tiled = prepare(weight)
    assert tiled.packed.shape == (N // 16, K // 128, 2, 32, 4)
    for row, column in zip(
        torch.randint(N, (300,)).tolist(), torch.randint(K, (300,)).tolist(), strict=True
    ):
        i, h, r = row // 16, row // 8 % 2, row % 8
        b, s, c, rest = column // 128, column // 32 % 4, column // 8 % 4, column % 8
        v = rest // 4 + 2 * (rest // 2 % 2)
        word = int(tiled.packed[i, b, h, 4 * r + c, v])
        code = word >> 4 * (s + 4 * (rest % 2)) & 15
        assert code == int(weight.packed[row, column // 8]) >> 4 * rest & 15
        # Groups lie in pairs, so that a word has the scales of two; one of 128 is a block itself.
        side = 1 if group == 128 else 2
        inside = column % 128 // group
        scale = tiled.scale[i, b, inside // side, row % 16, inside % side]
        assert scale == weight.scale[row, column // group]


@pytest.mark.parametrize("shape", [(8, 128), (24, 128), (16, 64), (16, 200), (1, 1), (32, 129)])
def test_what_is_not_whole_tiles_is_left_alone(shape):
    weight = operand("int4-64", *shape)
    assert not tileable(shape)
    assert prepare(weight) is weight


@pytest.mark.parametrize("kind", ["int8", "bf16", "nf4-64"])
def test_other_kinds_are_left_alone(kind):
    weight = operand(kind, 32, 256)
    assert tileable((32, 256))
    assert prepare(weight) is weight


def test_a_leaf_holds_its_codes_once():
    """What is laid out anew takes the place of what was loaded: no byte is held twice."""
    kernels = replace(select(torch.device("cpu"), "reference"), prepare=prepare)
    leaf = Int4Linear((32, 256), 32, kernels).to_empty(device="cpu")
    packed, scale = reference.quantize_int4(torch.randn(32, 256), 32)
    leaf.weight_packed.data, leaf.weight_scale.data = packed, scale
    x = torch.randn(2, 256)
    expected = leaf(x)
    before = sum(parameter.nbytes for parameter in leaf.parameters())
    leaf.prepare()
    assert sum(parameter.nbytes for parameter in leaf.parameters()) == before
    made = leaf.operand
    assert is_tiled(made)
    assert made.packed.data_ptr() == leaf.weight_packed.data_ptr() != packed.data_ptr()
    assert made.scale.data_ptr() == leaf.weight_scale.data_ptr()
    assert torch.equal(reference.linear(x, natural(made)), expected)
