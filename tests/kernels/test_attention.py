import pytest
import torch

from qwen35cli.kernels import reference
from qwen35cli.kernels.operands import Int8Rows
from qwen35cli.kernels.triton import attention as prompt
from tests.kernels.twins import NATIVE, name

TOLERANCE = {"rtol": 1e-5, "atol": 1e-5}
KINDS = [torch.bfloat16, torch.float32, torch.int8]


def cached(x, kind, room=3):
    """`x` (B, KV, S, Dh) as the first rows of a longer cache."""
    B, KV, S, Dh = x.shape
    if kind == torch.int8:
        rows = Int8Rows(
            torch.empty(B, KV, S + room, Dh, dtype=torch.int8),
            torch.empty(B, KV, S + room, dtype=torch.bfloat16),
        )
        reference.store_rows(x.transpose(1, 2), rows, 0)
        return Int8Rows(rows.codes[:, :, :S], rows.scale[:, :, :S])
    rows = torch.full((B, KV, S + room, Dh), torch.nan, dtype=kind)
    rows[:, :, :S] = x
    return rows[:, :, :S]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("B", "T", "H", "KV", "Dh", "S"),
    [
        (1, 1, 4, 2, 32, 1),
        (1, 2, 5, 1, 7, 2),
        (2, 3, 6, 2, 20, 77),
        (1, 8, 16, 4, 64, 64),
        (1, 5, 4, 4, 16, 129),
        (1, 4, 8, 2, 72, 1_025),
        (2, 1, 8, 2, 256, 700),
        (1, 7, 3, 1, 40, 530),
        (1, 9, 4, 1, 16, 40),
        (1, 33, 4, 2, 16, 90),
    ],
)
@pytest.mark.parametrize("native", NATIVE, ids=name)
def test_attention_agrees_with_reference(native, B, T, H, KV, Dh, S, kind, poisoned):
    torch.manual_seed(0)
    q = torch.randn(B, T, H, Dh)
    keys, values = (cached(x, kind) for x in torch.randn(2, B, KV, S, Dh))
    expected = reference.attention(q, keys, values)
    torch.testing.assert_close(native.attention.attention(q, keys, values), expected, **TOLERANCE)


@pytest.mark.parametrize("native", NATIVE, ids=name)
def test_attention_agrees_with_reference_at_every_length(native, poisoned):
    torch.manual_seed(0)
    for S in range(1, 300, 7):
        T = min(S, 4)
        q = torch.randn(1, T, 2, 16)
        keys, values = (cached(x, torch.bfloat16) for x in torch.randn(2, 1, 1, S, 16))
        expected = reference.attention(q, keys, values)
        actual = native.attention.attention(q, keys, values)
        torch.testing.assert_close(actual, expected, **TOLERANCE)


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("native", NATIVE, ids=name)
def test_attention_joins_the_spans_of_any_number_of_threads(native, threads, poisoned):
    torch.manual_seed(0)
    q = torch.randn(1, 3, 8, 64)
    keys, values = (cached(x, torch.bfloat16) for x in torch.randn(2, 1, 2, 3_001, 64))
    expected = reference.attention(q, keys, values)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        actual = native.attention.attention(q, keys, values)
    finally:
        torch.set_num_threads(before)
    torch.testing.assert_close(actual, expected, **TOLERANCE)


@pytest.mark.parametrize("native", NATIVE, ids=name)
def test_attention_holds_scores_far_apart(native, poisoned):
    attention = native.attention.attention
    keys, values = torch.randn(1, 1, 300, 16), torch.randn(1, 1, 300, 16)
    keys[0, 0, 7] *= 1e4  # one key takes all the weight, in the first block
    q = torch.randn(1, 2, 2, 16)
    expected = reference.attention(q, keys, values)
    torch.testing.assert_close(attention(q, keys, values), expected, **TOLERANCE)
    keys[0, 0, 7] = torch.finfo(torch.float32).max / 1e30
    keys[0, 0, 298] = 300.0  # and one that only the last query sees
    expected = reference.attention(q, keys, values)
    torch.testing.assert_close(attention(q, keys, values), expected, **TOLERANCE)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("native", NATIVE, ids=name)
def test_store_rows_agrees_with_reference_to_the_bit(native, kind, poisoned):
    torch.manual_seed(0)
    x = torch.randn(2, 5, 3, 40) * torch.tensor([1e-3, 1.0, 300.0])[:, None]
    x[0, 2, 1] = 0.0  # a row without any scale
    x[0, 3, 1] = 1e-42
    made = []
    for store in (reference.store_rows, native.attention.store_rows):
        rows = cached(torch.zeros(2, 3, 20, 40), kind)
        store(x[:, :2], rows, 7)
        store(x[:, 2:], rows, 9)
        made.append(rows)
    if kind == torch.int8:
        assert torch.equal(made[0].scale, made[1].scale)
        assert torch.equal(made[0].codes, made[1].codes)
    else:
        assert torch.equal(made[0], made[1])


def test_rows_in_8_bits_are_near_what_was_stored():
    x = torch.randn(1, 50, 2, 64, generator=torch.Generator().manual_seed(0))
    rows = cached(x.transpose(1, 2), torch.int8)
    back = (rows.codes.float() * rows.scale[..., None].float()).transpose(1, 2)
    step = x.abs().amax(-1, keepdim=True) / 127
    assert ((back - x).abs() <= step * 0.76).all()  # half a step, and a rounded scale at the ends


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize(
    ("B", "T", "H", "KV", "Dh", "R"),
    [(1, 1, 4, 2, 32, 8), (2, 3, 5, 1, 21, 10), (1, 9, 16, 4, 256, 32), (2, 33, 2, 2, 64, 16)],
)
@pytest.mark.parametrize("native", NATIVE, ids=name)
def test_qk_norm_rotary_agrees_with_reference(native, B, T, H, KV, Dh, R, dtype, poisoned):
    torch.manual_seed(0)
    q, _ = torch.randn(B, T, H, 2 * Dh).chunk(2, dim=-1)  # next to its gate
    k, angles = torch.randn(B, T, KV, Dh), torch.randn(B, T, R) * 100
    weights = torch.randn(2, Dh).to(dtype)
    arguments = (q, k, *weights, 1e-6, angles.cos(), angles.sin())
    expected = reference.qk_norm_rotary(*arguments)
    torch.testing.assert_close(native.attention.qk_norm_rotary(*arguments), expected, **TOLERANCE)


@pytest.mark.parametrize(
    ("B", "T", "H", "Dh"), [(1, 1, 4, 32), (2, 3, 5, 21), (1, 9, 16, 256), (2, 33, 2, 64)]
)
@pytest.mark.parametrize("native", NATIVE, ids=name)
def test_sigmoid_gate_agrees_with_reference(native, B, T, H, Dh, poisoned):
    torch.manual_seed(0)
    _, gate = torch.randn(B, T, H, 2 * Dh).mul(30).chunk(2, dim=-1)
    x = torch.randn(B, T, H, Dh)
    expected = reference.sigmoid_gate(x, gate)
    torch.testing.assert_close(native.attention.sigmoid_gate(x, gate), expected, **TOLERANCE)


def plain_flash(q, k, v, causal):
    """What `prompt.flash` is on a GPU, on paper."""
    scores = q @ k.transpose(2, 3) * q.shape[-1] ** -0.5
    if causal:
        scores = scores.masked_fill(torch.ones(scores.shape[2:]).triu(1).bool(), -torch.inf)
    return scores.softmax(-1) @ v, scores.logsumexp(-1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("block", [7, 50, 64])
@pytest.mark.parametrize(
    ("B", "T", "H", "KV", "Dh", "S"),
    [
        (1, 9, 4, 2, 16, 9),
        (1, 9, 4, 2, 16, 10),
        (1, 12, 6, 1, 8, 112),
        (2, 33, 4, 4, 16, 90),
        (1, 50, 4, 2, 16, 257),
    ],
)
def test_blocks_of_the_past_join_to_attention(B, T, H, KV, Dh, S, block, kind, poisoned):
    torch.manual_seed(0)
    q = 3 * torch.randn(B, T, H, Dh)
    keys, values = (cached(x, kind) for x in torch.randn(2, B, KV, S, Dh))
    expected = reference.attention(q, keys, values)
    found = prompt.joined(q, keys, values, plain_flash, block)
    torch.testing.assert_close(found, expected, **TOLERANCE)


def test_blocks_whose_scores_are_far_apart_join(poisoned):
    torch.manual_seed(0)
    q, keys, values = torch.randn(1, 9, 2, 16), torch.randn(1, 1, 99, 16), torch.randn(1, 1, 99, 16)
    keys[0, 0, 7] *= 1e4  # some queries take all their weight there, others none
    expected = reference.attention(q, keys, values)
    found = prompt.joined(q, keys, values, plain_flash, 20)
    torch.testing.assert_close(found, expected, **TOLERANCE)


def test_on_a_cpu_a_prompt_is_read_by_the_reference():
    q, keys = torch.randn(1, 9, 2, 16).bfloat16(), torch.randn(1, 1, 20, 16).bfloat16()
    assert torch.equal(prompt.attention(q, keys, keys), reference.attention(q, keys, keys))


def test_the_flash_kernel_takes_and_returns_what_is_relied_on():
    schema = torch.ops.aten._scaled_dot_product_flash_attention.default._schema
    names = [argument.name for argument in schema.arguments[:6]]
    assert names == ["query", "key", "value", "dropout_p", "is_causal", "return_debug_mask"]
    assert [each.name for each in schema.returns[:2]] == ["output", "logsumexp"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(("T", "past"), [(9, 0), (64, 100), (257, 40_000), (2_048, 17_000)])
@pytest.mark.parametrize("kind", [torch.bfloat16, torch.int8])
def test_a_prompt_at_the_shapes_of_4b_agrees_with_reference(kind, T, past):
    torch.manual_seed(0)
    q = torch.randn(1, T, 16, 256).bfloat16().cuda()
    rows = [cached(x, kind) for x in torch.randn(2, 1, 4, past + T, 256).bfloat16()]
    keys, values = (
        Int8Rows(each.codes.cuda(), each.scale.cuda())
        if isinstance(each, Int8Rows)
        else each.cuda()
        for each in rows
    )
    found = prompt.attention(q, keys, values)
    expected = reference.attention(q.float(), keys, values)
    # Flash attention rounds the weights of the softmax to bf16.
    torch.testing.assert_close(found.float(), expected, rtol=2e-2, atol=1.2e-2)
