"""The delta rule of a decode step: in the interpreter here, compiled where a GPU is."""

from dataclasses import fields

import pytest
import torch

from qwen35cli.kernels import reference
from qwen35cli.kernels.operands import FEW, DeltaLog, DeltaWeights, Replay

pytest.importorskip("triton", reason="Triton has no wheel for this system")
from qwen35cli.kernels.triton import delta_step as module
from qwen35cli.kernels.triton.delta_step import DeltaLogs, delta_step, parts

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
SUMS = 5e-6  # of the largest: both sum in float32, in another order
# Triton's interpreter stores float32 as bf16 by truncation: up to one unit of the last place.
ROUNDING = 2**-8 if DEVICE.type == "cuda" else 2**-7
EPS = 0.05  # of the norm: large enough that it matters
# (G, H, K, V): programs hold a head whole up to V = 32.
SHAPES = [(1, 2, 16, 16), (2, 4, 32, 32), (1, 2, 64, 64), (2, 2, 16, 128)]
# Tokens read and how many of them stay.
STEPS = ((1, 1), (3, 2), (1, 0), (2, 2), (8, 5), (4, 0), (2, 1), (1, 1))


def nans(*shape, dtype=torch.float32):
    return torch.full(shape, torch.nan, device=DEVICE, dtype=dtype)


def agree(found, expected):
    """Rounded once where it is bf16. NaN agrees with nothing."""
    rounding = ROUNDING if found.dtype == torch.bfloat16 else 0.0
    away = (found.double() - expected.double()).abs()
    room = SUMS * expected.abs().max() + rounding * expected.abs()
    assert (away <= room).all(), f"{(away / expected.abs().max()).max():.2e} of the largest away"


class Layer:
    """A layer with the memory of both sides. Its convolution passes on what comes: `mixed`."""

    def __init__(self, G, H, K, V, dtype=torch.float32):
        self.G, self.H, self.K, self.V, self.C = G, H, K, V, 2 * G * K + H * V
        self.dtype = dtype  # of the outputs
        self.weights = DeltaWeights(
            torch.tensor([0.0, 0.0, 0.0, 1.0], device=DEVICE).repeat(self.C, 1, 1),
            torch.rand(H, device=DEVICE).mul(4).log(),
            torch.randn(H, device=DEVICE).bfloat16(),
            1 + 0.2 * torch.randn(V, device=DEVICE),
            EPS,
        )
        self.state = 0.3 * torch.randn(1, H, K, V, device=DEVICE)
        self.logs = DeltaLogs(nans(2, FEW, G, K), nans(2, FEW, H, V), nans(2, FEW, H))
        self.kept, self.parity = 0, int(torch.randint(2, ()))
        self.twin = self.state.clone()
        self.twin_logs = [
            DeltaLog(nans(1, FEW, self.C), nans(1, FEW, G, K), nans(1, FEW, H, V), nans(1, FEW, H))
            for _ in range(2)
        ]

    def tokens(self, T):
        """(T, C) before the convolution, z, gates; gates far out and a short key among them."""
        inputs = torch.randn(T, self.C, device=DEVICE)
        inputs[1:2, : 2 * self.G * self.K] *= 1e-3
        gates = 2 * torch.randn(T, 2 * self.H, device=DEVICE)
        gates[0, 0], gates[-1, self.H - 1] = 25.0, -25.0
        z = torch.randn(T, self.H * self.V, device=DEVICE).bfloat16()
        return inputs, z, gates

    def found(self, inputs, z, gates):
        """Outputs, and their sums of squares, of all rows. Moves on as if all tokens stayed."""
        T = len(inputs)
        mixed, wide_z, wide_gates = (
            nans(FEW, x.shape[1], dtype=x.dtype) for x in (inputs, z, gates)
        )
        mixed[:T] = torch.nn.functional.silu(inputs)
        wide_z[:T], wide_gates[:T] = z, gates
        control = [99, 99, self.kept, self.parity, 99]
        control = torch.tensor(control, dtype=torch.int32, device=DEVICE)
        out = nans(FEW, self.H * self.V, dtype=self.dtype)
        squares = nans(FEW, self.H, parts(self.V))
        delta_step(
            mixed, wide_z, wide_gates, self.weights, self.state, self.logs, control, out, squares, T
        )  # fmt: skip
        self.kept, self.parity = T, 1 - self.parity
        return out, squares

    def expected(self, inputs, z, gates):
        """The same of the reference, normed; `kept` and `parity` are those before `found`."""
        past, new = self.twin_logs[self.parity], self.twin_logs[1 - self.parity]
        a, b = gates.split(self.H, 1)
        rows = torch.zeros(1, 3, self.C, device=DEVICE)
        replay = Replay(past, self.kept, new)
        arguments = (x[None] for x in (inputs, z.float(), a, b))
        return reference.delta_mix(*arguments, self.weights, rows, self.twin, replay)[0]

    def normed(self, out, squares):
        """What the product behind makes of outputs in several parts."""
        if parts(self.V) == 1:
            return out
        factor = (squares.sum(-1) / self.V + EPS).rsqrt().repeat_interleave(self.V, 1)
        return (out * factor).to(out.dtype)


def check(layer, steps):
    for T, kept in steps:
        tokens = layer.tokens(T)
        before = [getattr(layer.logs, each.name).clone() for each in fields(DeltaLogs)]
        state, carried, parity = layer.state.clone(), layer.kept, layer.parity
        expected = layer.expected(*tokens)
        out, squares = layer.found(*tokens)
        agree(layer.normed(out, squares)[:T], expected)
        assert out[T:].isnan().all() and squares[T:].isnan().all()
        if carried:
            agree(layer.state, layer.twin)
        else:
            assert torch.equal(layer.state, state)
        new = layer.twin_logs[1 - parity]
        for each, old in zip(fields(DeltaLogs), before, strict=True):
            ours, theirs = getattr(layer.logs, each.name), getattr(new, each.name)
            agree(ours[1 - parity, :T], theirs[0, :T])
            assert torch.equal(ours[1 - parity, T:].nan_to_num(), old[1 - parity, T:].nan_to_num())
            assert torch.equal(ours[parity].nan_to_num(), old[parity].nan_to_num())
        layer.kept = kept


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_steps_of_which_some_tokens_are_taken_back_agree_with_reference(shape):
    torch.manual_seed(0)
    check(Layer(*shape), STEPS)


@pytest.mark.parametrize(
    ("columns", "whole", "V", "expected"),
    [(16, 64, 64, 1), (64, 32, 64, 1), (32, 32, 64, 2), (8, 16, 32, 4)],
)
def test_any_share_of_a_head_agrees_with_reference(columns, whole, V, expected, monkeypatch):
    monkeypatch.setattr(module, "COLUMNS", columns)
    monkeypatch.setattr(module, "WHOLE", whole)
    torch.manual_seed(columns)
    assert parts(V) == expected
    check(Layer(1, 2, 32, V), STEPS[:4])


@pytest.mark.parametrize("shape", SHAPES[1:3], ids=str)
def test_outputs_are_rounded_once(shape):
    torch.manual_seed(1)
    layer = Layer(*shape, dtype=torch.bfloat16)
    for T in (2, 1):
        tokens = layer.tokens(T)
        expected = layer.expected(*tokens)
        out, squares = layer.found(*tokens)
        factor = layer.normed(torch.ones_like(out, dtype=torch.float32), squares)
        agree(out[:T], expected / factor[:T])


@pytest.mark.parametrize("shape", SHAPES[1:3], ids=str)
def test_sums_of_squares_are_those_of_the_outputs(shape):
    torch.manual_seed(2)
    layer, T = Layer(*shape), 3
    inputs, z, gates = layer.tokens(T)
    new = layer.twin_logs[1 - layer.parity]
    layer.expected(inputs, z, gates)
    _, squares = layer.found(inputs, z, gates)
    G, H, K, V = shape
    q = reference.l2_norm(torch.nn.functional.silu(inputs[:, : G * K]).view(T, G, K)) * K**-0.5
    q = q.repeat_interleave(H // G, 1)
    for t in range(T):
        state = layer.twin.clone()
        reference.absorb(new, t + 1, torch.zeros(1, 3, layer.C, device=DEVICE), state)
        y = torch.einsum("hk,hkv->hv", q[t], state[0])
        agree(squares[t], y.square().view(H, parts(V), -1).sum(-1))


def same_bits(shape):
    """Tokens read at once and kept against the same read one by one."""
    layer = Layer(*shape)
    one_by_one = Layer(*shape)
    one_by_one.weights = layer.weights
    one_by_one.state.copy_(layer.state)
    for T in (3, 8, 1):
        tokens = layer.tokens(T)
        out, squares = layer.found(*tokens)
        for t in range(T):
            alone, alone_squares = one_by_one.found(*(x[t : t + 1] for x in tokens))
            assert torch.equal(alone[0], out[t])
            assert torch.equal(alone_squares[0], squares[t])
    last = layer.tokens(1)  # carries out the ones before
    layer.found(*last)
    one_by_one.found(*last)
    assert torch.equal(layer.state, one_by_one.state)


@pytest.mark.parametrize("shape", SHAPES[:3], ids=str)
def test_tokens_read_at_once_leave_the_bits_of_those_read_one_by_one(shape):
    torch.manual_seed(3)
    same_bits(shape)


@pytest.mark.parametrize("shape", SHAPES[1:3], ids=str)
def test_tokens_taken_back_leave_no_trace(shape):
    """Rejected ones, whatever they were, and then the right ones: the bits of never having read."""
    torch.manual_seed(4)
    layer = Layer(*shape)
    straight = Layer(*shape)
    straight.weights = layer.weights
    straight.state.copy_(layer.state)
    for T, kept in STEPS:
        right, wrong = layer.tokens(T), layer.tokens(T)
        drafted = [torch.cat([x[:kept], y[kept:]]) for x, y in zip(right, wrong, strict=True)]
        layer.found(*drafted)
        layer.kept = kept
        if kept:
            straight.found(*(x[:kept] for x in right))
    last = layer.tokens(2)
    out, squares = layer.found(*last)
    expected, expected_squares = straight.found(*last)
    assert torch.equal(out[:2], expected[:2]) and torch.equal(squares[:2], expected_squares[:2])
    assert torch.equal(layer.state, straight.state)


def test_many_steps_do_not_drift():
    torch.manual_seed(5)
    read = torch.randint(1, 4, (40,)).tolist()
    check(Layer(1, 2, 16, 16), [(T, int(torch.randint(T + 1, ()))) for T in read])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("T", [1, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_steps_at_the_shapes_of_4b_agree_with_reference(dtype, T):
    torch.manual_seed(T)
    layer = Layer(16, 32, 128, 128, dtype)
    if dtype == torch.float32:
        check(layer, ((T, T), (T, T - 1), (T, 0), (T, (T + 1) // 2), (1, 1), (T, T)))
        return
    for _ in range(3):
        tokens = layer.tokens(T)
        expected = layer.expected(*tokens)
        out, squares = layer.found(*tokens)
        factor = layer.normed(torch.ones_like(out, dtype=torch.float32), squares)
        agree(out[:T], expected / factor[:T])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_bits_at_the_shapes_of_4b_are_those_of_one_by_one():
    torch.manual_seed(6)
    same_bits((16, 32, 128, 128))
