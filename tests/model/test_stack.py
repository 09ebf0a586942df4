"""All blocks in one call must equal the blocks op by op: bit for bit, for they are the same ops."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from qwen35cli.kernels import compiled, reference
from qwen35cli.kernels.operands import NF4, Int4, Int8
from tests.kernels.twins import NATIVE, name
from tests.tiny import tiny_config, tiny_model

CONFIGS = {
    "r = 2": {},
    "r = 1": {"value_heads": 2},
    "attention first": {
        "layers": 3,
        "layer_types": ["full_attention", "linear_attention", "full_attention"],
    },
    "delta alone": {"layers": 2},
}


class Leaf(nn.Module):
    """A matrix that is quantized."""

    def __init__(self, kernels, weight):
        super().__init__()
        self.kernels, self.operand = kernels, weight

    def forward(self, x):
        return self.kernels.linear(x, self.operand, None)


def quantize(model, kernels):
    """Each of a block's matrices in another format, another mixture in each block."""
    ways = {
        "int4": lambda w: Int4(*kernels.quantize_int4(w, 32), tuple(w.shape), 32),
        "int8": lambda w: Int8(*kernels.quantize_int8(w), tuple(w.shape)),
        "nf4": lambda w: nf4(*kernels.quantize_nf4(w, 64), tuple(w.shape)),
        "bf16": lambda w: w,
    }

    def nf4(packed, absmax, shape):
        return NF4(packed.reshape(-1, 1), absmax, torch.tensor(reference.NF4_TABLE), shape, 64)

    formats = list(ways)
    for number, block in enumerate(model.language_model.layers):
        names = [path for path, leaf in block.named_modules() if path.endswith("_proj")
                 or ".in_proj_" in path]  # fmt: skip
        for i, path in enumerate(names):
            parent = block.get_submodule(path.rpartition(".")[0])
            leaf = path.rpartition(".")[2]
            weight = ways[formats[(i + number) % len(formats)]](getattr(parent, leaf).weight.data)
            delattr(parent, leaf)
            setattr(parent, leaf, Leaf(kernels, weight))


def twins(native, quantized=False, **config):
    """A model that goes through its blocks in one call, and one that goes op by op."""
    models = []
    for kernels in (compiled(native), replace(compiled(native), stack=reference.op_by_op)):
        model = tiny_model(tiny_config(**config), dtype=torch.bfloat16, kernels=kernels)
        if quantized:
            quantize(model, kernels)
        models.append(model)
    return models


def forward(model, cache, ids):
    T = ids.shape[1]
    positions = torch.arange(cache.length, cache.length + T).expand(3, len(ids), T)
    return model.language_model(model.embed(ids), positions, cache)


def tokens(count, seed, batch=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 500, (batch, count), generator=generator)


def same(one, two):
    assert one.length == two.length
    for a, b in zip(one.layers, two.layers, strict=True):
        assert a.length == b.length
        if hasattr(a, "state"):
            assert torch.equal(a.state, b.state)
            assert torch.equal(a.rows, b.rows)


@pytest.mark.parametrize("kv_dtype", [torch.bfloat16, torch.int8, torch.float32])
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize("quantized", [False, True])
@pytest.mark.parametrize("drafts", [False, True])
@pytest.mark.parametrize("native", NATIVE, ids=name)
def test_stack_equals_blocks(native, drafts, quantized, config, kv_dtype, poisoned):
    model, plain = twins(native, quantized, **config)
    one, two = (m.make_cache(64, kv_dtype, drafts=drafts) for m in (model, plain))
    for seed, count in enumerate((11, 1, 2, 8, 1, 3, 9, 1)):
        ids = tokens(count, seed)
        assert torch.equal(forward(model, one, ids), forward(plain, two, ids))
        same(one, two)
    assert list(model.language_model._stacks.values()) != [None]
    assert list(plain.language_model._stacks.values()) == [None]


@pytest.mark.parametrize("kv_dtype", [torch.bfloat16, torch.int8])
@pytest.mark.parametrize("quantized", [False, True])
@pytest.mark.parametrize("read", [11, 150])
@pytest.mark.parametrize("native", NATIVE, ids=name)
def test_tokens_read_at_once_get_the_bits_of_tokens_read_alone(
    native, read, quantized, kv_dtype, poisoned
):
    """What `Kernels.steps_alike` promises, and speculation rests on; with rollbacks in between."""
    assert compiled(native).steps_alike
    for model in twins(native, quantized):
        plain, ahead = model.make_cache(240, kv_dtype), model.make_cache(240, kv_dtype, drafts=True)
        for cache in (plain, ahead):
            forward(model, cache, tokens(read, 0))
        for count, kept in ((2, 2), (5, 3), (8, 1), (1, 1), (4, 0), (3, 2), (8, 8), (6, 5), (1, 1)):
            ids, length = tokens(count, seed=count + kept), plain.length
            hidden = forward(model, ahead, ids)
            ahead.rollback(length + kept)
            for t in range(kept):
                step = forward(model, plain, ids[:, t : t + 1])
                assert torch.equal(step, hidden[:, t : t + 1])
                assert torch.equal(model.logits(step), model.logits(hidden)[:, t : t + 1])


@pytest.mark.parametrize("native", NATIVE[:1], ids=name)
def test_a_full_cache_is_refused_and_nothing_moves(native):
    model, _ = twins(native)
    cache = model.make_cache(12)
    forward(model, cache, tokens(11, 0))
    with pytest.raises(ValueError, match="13 tokens in a cache of 12"):
        forward(model, cache, tokens(2, 1))
    assert {layer.length for layer in cache.layers} == {11}


@pytest.mark.parametrize("native", NATIVE[:1], ids=name)
@pytest.mark.parametrize("what", ["a batch", "a wide convolution", "float32 weights"])
def test_what_it_does_not_know_goes_op_by_op(native, what):
    config = {"linear_conv_kernel_dim": 3} if what == "a wide convolution" else {}
    dtype = torch.float32 if what == "float32 weights" else torch.bfloat16
    model = tiny_model(tiny_config(**config), dtype=dtype, kernels=compiled(native))
    batch = 2 if what == "a batch" else 1
    cache = model.make_cache(16, batch=batch)
    forward(model, cache, tokens(3, 0, batch))
    assert list(model.language_model._stacks.values()) == [None]
