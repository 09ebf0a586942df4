"""The reference ops against worked examples, independent formulas and each other."""

import math

import pytest
import torch

from qwen35cli.kernels import reference


def close(actual, expected, tolerance=1e-6):
    expected = torch.tensor(expected) if not isinstance(expected, torch.Tensor) else expected
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


def test_rms_norm_worked_example():
    x, w = torch.tensor([1.0, 2, -2, 4]), torch.tensor([0.5, -0.5, 0, 1])
    close(reference.rms_norm(x, w, 1e-6), [0.6, 0.4, -0.8, 3.2])


def test_gated_rms_norm_worked_example():
    x, w = torch.tensor([1.0, 2, -2, 4]), torch.tensor([1.0, 2, 0.5, 1])
    z = torch.tensor([0.0, 1, -1, 2])
    close(reference.gated_rms_norm(x, z, w, 1e-6), [0, 1.169694, 0.107577, 2.818550])


def test_gated_rms_norm_in_bfloat16_rounds_before_the_weight():
    from transformers.models.qwen3_5.modeling_qwen3_5 import Qwen3_5RMSNormGated

    torch.manual_seed(0)
    x, z = torch.randn(2, 50, 128).bfloat16()
    theirs = Qwen3_5RMSNormGated(128, eps=1e-6)
    theirs.weight.data.normal_(1, 0.3)
    with torch.no_grad():
        expected = theirs(x, z)
    assert torch.equal(reference.gated_rms_norm(x, z, theirs.weight.detach(), 1e-6), expected)


def test_causal_conv_worked_example():
    w = torch.tensor([0.1, 0.2, 0.3, 0.4]).view(1, 1, 4)
    x = torch.tensor([1.0, 2, 3, 4, 5]).view(1, 5, 1)
    before_silu = torch.tensor([0.4, 1.1, 2.0, 3.0, 4.0])
    y, rows = reference.causal_conv(x, w, torch.zeros(1, 3, 1))
    close(y.flatten(), torch.nn.functional.silu(before_silu))
    close(rows.flatten(), [3.0, 4, 5])


@pytest.mark.parametrize("cuts", [[1], [2, 3], [1, 2, 3, 4]])
def test_causal_conv_in_pieces_equals_whole(cuts):
    torch.manual_seed(0)
    x, w = torch.randn(2, 7, 5), torch.randn(5, 1, 4)
    whole, last = reference.causal_conv(x, w, torch.zeros(2, 3, 5))
    rows, pieces = torch.zeros(2, 3, 5), []
    for a, b in zip([0, *cuts], [*cuts, 7], strict=True):
        y, rows = reference.causal_conv(x[:, a:b], w, rows)
        pieces.append(y)
    close(torch.cat(pieces, dim=1), whole)
    close(rows, last)


def test_delta_gates_worked_example():
    g, beta = reference.delta_gates(
        torch.tensor([0.3]), torch.tensor([0.0]), torch.tensor([math.log(2)]), torch.tensor([0.2])
    )
    close(g, [-1.948154])
    close(beta, [0.5])


WORKED = {
    "q": [[3.0, 4], [0, 2], [1, 1]],
    "k": [[1.0, 0], [0.6, 0.8], [1, 1]],
    "v": [[1.0, 2], [3, -1], [0.5, 0.5]],
    "g": [-0.1, -0.2, -0.3],
    "beta": [0.5, 1, 0.25],
    "out": [[0.2121319, 0.4242639], [1.5581124, -0.8435711], [1.2733724, -0.2641491]],
    "state": [[1.2209558, 0.1495896], [1.3257896, -0.6778879]],
}


def test_delta_rule_worked_example_by_steps_and_by_chunk():
    q = reference.l2_norm(torch.tensor(WORKED["q"]))[None, :, None] * 2**-0.5
    k = reference.l2_norm(torch.tensor(WORKED["k"]))[None, :, None]
    v = torch.tensor(WORKED["v"])[None, :, None]
    g, beta = (torch.tensor(WORKED[name])[None, :, None] for name in ("g", "beta"))
    state = torch.zeros(1, 1, 2, 2)
    for t in range(3):
        y, _ = reference.delta_step(q[:, t], k[:, t], v[:, t], g[:, t], beta[:, t], state)
        close(y[0, 0], WORKED["out"][t])
    close(state[0, 0], WORKED["state"])
    y, state = reference.delta_chunk(q, k, v, g, beta, torch.zeros(1, 1, 2, 2))
    close(y[0, :, 0], WORKED["out"])
    close(state[0, 0], WORKED["state"])


def delta_inputs(T, B=2, G=2, H=4, K=16, V=24, strongest=16.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    q, k = torch.randn(2, B, T, G, K, generator=generator)
    v = torch.randn(B, T, H, V, generator=generator)
    rate = torch.linspace(0.001, strongest, H)  # from slow heads to ones that forget at once
    g = -rate * torch.rand(B, T, H, generator=generator)
    beta = torch.rand(B, T, H, generator=generator)
    state = torch.randn(B, H, K, V, generator=generator)
    return reference.l2_norm(q) * K**-0.5, reference.l2_norm(k), v, g, beta, state


def stepped(q, k, v, g, beta, state):
    """`delta_step` over all tokens, in the precision of `state`."""
    state, outputs = state.clone(), []
    for t in range(q.shape[1]):
        y, _ = reference.delta_step(q[:, t], k[:, t], v[:, t], g[:, t], beta[:, t], state)
        outputs.append(y)
    return torch.stack(outputs, dim=1), state


@pytest.mark.parametrize("T", [2, 63, 64, 65, 130])
@pytest.mark.parametrize("chunk", [16, 64, 128])
def test_delta_chunk_equals_steps(T, chunk):
    inputs = delta_inputs(T)
    expected, expected_state = stepped(*inputs)
    y, state = reference.delta_chunk(*inputs, chunk)
    close(y, expected, 2e-5)
    close(state, expected_state, 2e-5)


def test_delta_rule_does_not_drift_over_512_steps():
    """Errors in a recurrence add up: 512 float32 steps, by both forms, against float64."""
    inputs = delta_inputs(512, strongest=2.0)
    q, k, v, g, beta, state = (tensor.double() for tensor in inputs)
    exact = []
    for t in range(512):  # the formula of the paper, in plain float64
        share = 2
        kk, qq = (x[:, t].repeat_interleave(share, dim=1) for x in (k, q))
        state = torch.exp(g[:, t])[..., None, None] * state
        recalled = torch.einsum("bhkv,bhk->bhv", state, kk)
        d = beta[:, t][..., None] * (v[:, t] - recalled)
        state = state + torch.einsum("bhk,bhv->bhkv", kk, d)
        exact.append(torch.einsum("bhkv,bhk->bhv", state, qq))
    expected = torch.stack(exact, dim=1).float()
    for y, last in (stepped(*inputs), reference.delta_chunk(*inputs)):
        close(y, expected, 5e-6)
        close(last, state.float(), 2e-5)


@pytest.mark.parametrize(
    ("T", "S"), [(1, 1), (1, 300), (5, 5), (3, 40), (17, 100), (64, 200)], ids=str
)
@pytest.mark.parametrize("block", [2048, 32, 7])
def test_attention_equals_a_masked_softmax(monkeypatch, T, S, block):
    monkeypatch.setattr(reference, "KEY_BLOCK", block)
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(2, T, 6, 8, generator=generator)
    keys, values = torch.randn(2, 2, 2, S, 8, generator=generator)
    k, v = (x.repeat_interleave(3, dim=1) for x in (keys, values))
    scores = torch.einsum("bthd,bhsd->bhts", q, k) / 8**0.5
    mask = torch.arange(S) > torch.arange(S - T, S)[:, None]
    weights = scores.masked_fill(mask, -torch.inf).softmax(-1)
    expected = torch.einsum("bhts,bhsd->bthd", weights, v)
    close(reference.attention(q, keys, values), expected, 1e-5)


def test_rotary_worked_example():
    from qwen35cli.model.config import RotaryConfig
    from qwen35cli.model.rotary import Rotary

    rotary = Rotary(RotaryConfig(theta=1e7, dim=64, sections=(11, 11, 10), yarn=None))
    x = torch.cat([torch.arange(64) / 10, torch.full((192,), 7.0)])
    cos, sin = rotary(torch.tensor([3, 5, 7]).view(3, 1, 1))
    y = reference.rotary(x.view(1, 1, 1, 256), cos, sin)[0, 0, 0]
    close(y[:3], [-0.451584, -0.494692, -2.045238], 2e-6)
    close(y[32:35], [-3.167976, -3.264243, -2.723417], 2e-6)
    assert (y[64:] == 7).all()


def test_yarn_frequencies_worked_example():
    from qwen35cli.model.config import RotaryConfig, Yarn
    from qwen35cli.model.rotary import Rotary

    yarn = Yarn(factor=4.0, original_max_position_embeddings=262_144, beta_fast=32.0, beta_slow=1.0)
    rotary = Rotary(RotaryConfig(theta=1e7, dim=64, sections=(11, 11, 10), yarn=yarn))
    close(rotary.frequencies[[0, 1, 2, 3]], [1, 0.60429639, 0.36517413, 0.22067341])
    wanted = {14: 8.6596432e-4, 15: 4.7423982e-4, 18: 7.2173874e-5, 21: 8.7597701e-6}
    for i, value in (wanted | {22: 3.8498163e-6}).items():
        assert float(rotary.frequencies[i]) == pytest.approx(value, rel=1e-6)
    assert rotary.magnitude == pytest.approx(1.1386294)
