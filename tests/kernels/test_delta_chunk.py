"""The delta rule by chunks in Triton: in the interpreter here, compiled where a GPU is.

The judge of the rule is `reference.delta_step` in float64, token by token: it knows no chunks.
"""

import pytest
import torch

from qwen35cli.kernels import reference
from qwen35cli.kernels.operands import FEW, DeltaLog, DeltaWeights, Replay

pytest.importorskip("triton", reason="Triton has no wheel for this system")

# Poisoning asks for deterministic ops, and on a GPU torch complains of those it has not.
pytestmark = pytest.mark.filterwarnings("ignore:.*[Dd]eterministic")

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
SMALL = (1, 1, 2, 16, 32)  # B, G, H, K, V
OTHER = (2, 2, 4, 32, 16)
LARGE = (1, 16, 32, 128, 128)  # the 4B
# bf16 keys are exact, and of float32 numbers 16 bits enter the products.
TOLERANCE = {
    torch.float32: {"rtol": 1e-4, "atol": 1e-5},
    torch.bfloat16: {"rtol": 1e-3, "atol": 2e-4},
}
# Of whole results, relative: convolution and norm round to bf16; the interpreter cuts off instead.
CLOSE = {torch.float32: 1e-5, torch.bfloat16: 1e-2}


def distance(actual, expected):
    """Relative, over all elements; NaN where one is missing."""
    return float((actual.double() - expected.double()).norm() / expected.double().norm())


def random(*shape):
    return torch.randn(*shape, device=DEVICE)


def operands(shape, T, dtype, decay=0.1):
    """q, k, v, g, beta and a state that is not zero."""
    B, G, H, K, V = shape
    q = reference.l2_norm(random(B, T, G, K)).mul(K**-0.5).to(dtype)
    k = reference.l2_norm(random(B, T, G, K)).to(dtype)
    g = -decay * torch.rand(B, T, H, device=DEVICE)
    beta = torch.rand(B, T, H, device=DEVICE)
    return q, k, random(B, T, H, V).to(dtype), g, beta, random(B, H, K, V)


def by_steps(q, k, v, g, beta, state):
    q, k, v, g, beta, state = (x.double() for x in (q, k, v, g, beta, state.clone()))
    outputs = []
    for t in range(q.shape[1]):
        y, _ = reference.delta_step(q[:, t], k[:, t], v[:, t], g[:, t], beta[:, t], state)
        outputs.append(y)
    return torch.stack(outputs, dim=1), state


def check(arguments, dtype, chunk=64):
    from qwen35cli.kernels.triton import delta_chunk

    before = arguments[-1].clone()
    actual, after = delta_chunk.delta_chunk(*arguments, chunk)
    assert (actual.dtype, after.dtype) == (torch.float32, torch.float32)
    assert torch.equal(arguments[-1], before)
    expected, expected_after = by_steps(*arguments)
    torch.testing.assert_close(actual.double(), expected, **TOLERANCE[dtype])
    torch.testing.assert_close(after.double(), expected_after, **TOLERANCE[dtype])


@pytest.mark.parametrize(
    ("shape", "T", "decay", "chunk", "dtype"),
    [
        (SMALL, 9, 0.1, 64, torch.float32),
        (SMALL, 9, 0.1, 64, torch.bfloat16),
        (SMALL, 63, 1e-4, 64, torch.bfloat16),
        (SMALL, 64, 1.0, 64, torch.float32),
        (SMALL, 65, 30.0, 64, torch.bfloat16),
        (SMALL, 130, 0.1, 64, torch.float32),
        (SMALL, 50, 0.1, 32, torch.bfloat16),
        (SMALL, 33, 0.1, 16, torch.float32),
        (OTHER, 65, 0.1, 64, torch.bfloat16),
    ],
)
def test_chunks_equal_steps(shape, T, decay, chunk, dtype, poisoned):
    torch.manual_seed(T)
    check(operands(shape, T, dtype, decay), dtype, chunk)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_equal_keys_do_not_explode(dtype, poisoned):
    """Powers of a triangle of ones reach 10**18 before they cancel: the inverse takes none."""
    torch.manual_seed(0)
    q, k, v, g, beta, state = operands(SMALL, 64, dtype)
    k = k[:, :1].expand_as(k).contiguous()
    check((q, k, v, 1e-4 * g, 0.98 + 0.02 * beta, state), dtype)


def test_decays_of_any_strength_meet_in_a_chunk(poisoned):
    """exp(-G) alone would overflow: only differences of G are taken, and none above zero."""
    torch.manual_seed(0)
    q, k, v, g, beta, state = operands(SMALL, 100, torch.float32)
    g[:, ::3] -= 90.0
    g[:, 1::3] = 0.0
    check((q, k, v, g, beta, state), torch.float32)


def layer(shape, T, dtype):
    """Arguments of `delta_mix`: activations, weights, rows and state."""
    B, G, H, K, V = shape
    C = 2 * G * K + H * V
    activations = [random(B, T, n).to(dtype) for n in (C, H * V, H, H)]
    weights = DeltaWeights(
        conv=random(C, 1, 4).to(dtype),
        a_log=torch.rand(H, device=DEVICE).add(0.02).log(),
        dt_bias=random(H).to(dtype),
        norm=1 + 0.2 * random(V),
        eps=1e-6,
    )
    return activations, weights, random(B, 3, C).to(dtype), random(B, H, K, V)


def widened(activations, weights):
    """The same in float32, for a reference that rounds nothing in between."""
    wide = DeltaWeights(
        weights.conv.float(),
        weights.a_log.float(),
        weights.dt_bias.float(),
        weights.norm.float(),
        weights.eps,
    )
    return [x.float() for x in activations], wide


def check_mix(activations, weights, rows, state, replay=None):
    from qwen35cli.kernels.triton import delta_chunk

    dtype = activations[0].dtype
    plain, wide = widened(activations, weights)
    wide_rows, wide_state = rows.to(torch.float32, copy=True), state.clone()
    expected = reference.delta_mix(*plain, wide, wide_rows, wide_state, replay)
    actual = delta_chunk.delta_mix(*activations, weights, rows, state, replay)
    assert (actual.dtype, actual.shape) == (dtype, expected.shape)
    assert distance(actual, expected) < CLOSE[dtype]
    assert distance(state, wide_state) < CLOSE[dtype]
    assert torch.equal(rows.float(), wide_rows)


@pytest.mark.parametrize(
    ("shape", "T", "dtype"),
    [
        (SMALL, 9, torch.bfloat16),
        (SMALL, 64, torch.float32),
        (SMALL, 130, torch.bfloat16),
        ((1, 1, 3, 32, 16), 33, torch.float32),  # a part of a block of channels
        (OTHER, 63, torch.float32),
        (OTHER, 9, torch.bfloat16),
    ],
)
def test_layer_agrees_with_reference(shape, T, dtype, poisoned):
    torch.manual_seed(T)
    check_mix(*layer(shape, T, dtype))


def test_layer_goes_on_from_what_it_left(poisoned):
    """Two calls in a row are one: rows and state carry everything."""
    from qwen35cli.kernels.triton import delta_chunk

    torch.manual_seed(0)
    activations, weights, rows, state = layer(SMALL, 50, torch.float32)
    whole_rows, whole_state = rows.clone(), state.clone()
    whole = delta_chunk.delta_mix(*activations, weights, whole_rows, whole_state)
    parts = [
        delta_chunk.delta_mix(*(x[:, part] for x in activations), weights, rows, state)
        for part in (slice(0, 37), slice(37, 50))
    ]
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(state, whole_state, rtol=1e-4, atol=1e-5)
    assert torch.equal(rows, whole_rows)


def test_layer_takes_views_and_extreme_gates(poisoned):
    torch.manual_seed(0)
    activations, weights, rows, state = layer(SMALL, 20, torch.float32)
    joined = torch.cat(activations, dim=-1)
    joined[..., -4:] = torch.tensor([90.0, -90.0, 90.0, -90.0])
    views = joined.split([x.shape[-1] for x in activations], dim=-1)
    check_mix(views, weights, rows, state)


def empty_log(shape, dtype):
    B, G, H, K, V = shape
    inputs = random(B, FEW, 2 * G * K + H * V).to(dtype)
    k = reference.l2_norm(random(B, FEW, G, K))
    return DeltaLog(inputs, k, random(B, FEW, H, V), -torch.rand(B, FEW, H, device=DEVICE))


@pytest.mark.parametrize("kept", [0, 2, 8])
def test_layer_carries_out_the_past_log_first(kept, poisoned):
    torch.manual_seed(0)
    replay = Replay(empty_log(SMALL, torch.float32), kept, None)
    check_mix(*layer(SMALL, 12, torch.float32), replay)


@pytest.mark.parametrize("case", ["few", "logged", "width", "double"])
def test_the_rest_goes_to_the_reference(case):
    from qwen35cli.kernels.triton import delta_chunk

    torch.manual_seed(0)
    shape = (1, 1, 2, 16, 24) if case == "width" else SMALL
    dtype = torch.float64 if case == "double" else torch.float32
    activations, weights, rows, state = layer(
        shape, 12 if case in ("width", "double") else 8, dtype
    )
    replays = [None, None]
    if case == "logged":
        past = empty_log(shape, dtype)
        replays = [Replay(past, 1, empty_log(shape, dtype)) for _ in range(2)]
    other_rows, other_state = rows.clone(), state.clone()
    actual = delta_chunk.delta_mix(*activations, weights, rows, state, replays[0])
    expected = reference.delta_mix(*activations, weights, other_rows, other_state, replays[1])
    assert torch.equal(actual, expected)
    assert torch.equal(state, other_state)
    assert torch.equal(rows, other_rows)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_chunks_equal_steps_at_full_size(dtype, poisoned):
    torch.manual_seed(0)
    check(operands(LARGE, 2_048, dtype, decay=0.02), dtype)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("T", [512, 2_048, 2_047])
def test_layer_at_full_size(T, poisoned):
    """Against float64 from where the convolution rounds on: what is left is two roundings."""
    from qwen35cli.kernels.triton import delta_chunk

    torch.manual_seed(0)
    (qkv, z, a, b), weights, rows, state = layer(LARGE, T, torch.bfloat16)
    B, G, H, K, V = LARGE
    mixed, last = reference.causal_conv(qkv.float(), weights.conv.float(), rows.float())
    q, k, v = mixed.bfloat16().split([G * K, G * K, H * V], dim=-1)
    q = reference.l2_norm(q.reshape(B, T, G, K)) * K**-0.5
    k, v = reference.l2_norm(k.reshape(B, T, G, K)), v.reshape(B, T, H, V)
    g, beta = reference.delta_gates(a, b, weights.a_log, weights.dt_bias)
    expected, after = by_steps(q, k, v, g, beta, state)
    z = z.view(B, T, H, V)
    expected = reference.gated_rms_norm(expected.float(), z.float(), weights.norm, weights.eps)
    actual = delta_chunk.delta_mix(qkv, z.flatten(2), a, b, weights, rows, state)
    assert distance(actual, expected.flatten(2)) < 5e-3
    assert distance(state, after) < 1e-3
    assert torch.equal(rows.float(), last)


@pytest.mark.parametrize(
    ("kib", "dtype", "expected"),
    [
        (227, torch.bfloat16, 3),  # H200
        (163, torch.bfloat16, 2),  # A100
        (99, torch.bfloat16, 1),  # RTX 30 to 50
        (227, torch.float32, 1),
    ],
)
def test_chunks_in_flight_are_those_that_shared_memory_has_room_for(kib, dtype, expected):
    from qwen35cli.kernels.triton import delta_chunk

    assert delta_chunk.stages(dtype, kib * 1_024) == expected
