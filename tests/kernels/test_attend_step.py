"""Attention of a decode step in one launch: in the interpreter here, compiled where a GPU is."""

import pytest
import torch

from qwen35cli.kernels import reference
from qwen35cli.kernels.operands import AttentionMixer, Int8Rows

pytest.importorskip("triton", reason="Triton has no wheel for this system")
from qwen35cli.kernels.triton.attend_step import attend_room, attend_step, room_of

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
EPS = 1e-6
# Both round their results, the reference three times. On a GPU the weights of the softmax are
# rounded to bf16 too: of few keys, values of three that is a hundredth.
TOLERANCE = {"rtol": 2e-2, "atol": 1.2e-2 if torch.cuda.is_available() else 5e-3}
KINDS = [torch.bfloat16, torch.int8, torch.float32]


class Layer:
    """The memory of one attention layer, and what a step brings."""

    def __init__(self, H, KV, Dh, R, capacity, kind, start):
        self.H, self.KV, self.Dh, self.R = H, KV, Dh, R
        self.kind, self.start = kind, start
        self.norms = [(0.3 * torch.randn(Dh, device=DEVICE)).bfloat16() for _ in range(2)]
        self.keys, self.values = (self.rows(capacity, start) for _ in range(2))

    def rows(self, capacity, start):
        """Random ones up to `start`; what lies behind them must never be read."""
        shape = 1, self.KV, capacity, self.Dh
        past = torch.randn(1, start, self.KV, self.Dh, device=DEVICE).bfloat16()
        if self.kind == torch.int8:
            rows = Int8Rows(
                torch.full(shape, 99, dtype=torch.int8, device=DEVICE),
                torch.full(shape[:3], torch.nan, dtype=torch.bfloat16, device=DEVICE),
            )
        else:
            rows = torch.full(shape, torch.nan, dtype=self.kind, device=DEVICE)
        reference.store_rows(past, rows, 0)
        return rows

    def step(self, T):
        """q, k, v, cos, sin."""
        widths = 2 * self.H * self.Dh, self.KV * self.Dh, self.KV * self.Dh
        parts = [3 * torch.randn(T, width, device=DEVICE).bfloat16() for width in widths]
        angles = 100 * torch.randn(T, self.R, device=DEVICE)
        return *parts, angles.cos(), angles.sin()

    def copy(self):
        other = object.__new__(Layer)
        other.__dict__.update(self.__dict__)
        other.keys, other.values = (
            Int8Rows(rows.codes.clone(), rows.scale.clone())
            if isinstance(rows, Int8Rows)
            else rows.clone()
            for rows in (self.keys, self.values)
        )
        return other

    def expected(self, q, k, v, cos, sin):
        mixer = AttentionMixer((), *self.norms, self.H, None, self.keys, self.values)
        y = reference.attend(
            q[None], k[None], v[None], mixer, EPS, cos[None], sin[None], self.start
        )
        self.start += len(q)
        return y[0]

    def found(self, q, k, v, cos, sin, room):
        control = torch.tensor([self.start, 7, 7, 1, 7], dtype=torch.int32, device=DEVICE)
        out = torch.full((len(q), self.H * self.Dh), torch.nan, device=DEVICE).bfloat16()
        attend_step(
            q, k, v, *self.norms, EPS, cos, sin, control, self.keys, self.values, out, room
        )  # fmt: skip
        self.start += len(q)
        return out


def assert_rows_agree(found, expected):
    """Where a key is rounded to another bf16, its code may be the next."""
    if isinstance(found, Int8Rows):
        torch.testing.assert_close(found.scale, expected.scale, rtol=1e-2, atol=0, equal_nan=True)
        away = (found.codes.int() - expected.codes.int()).abs()
        assert away.max() <= 1 and (away > 0).float().mean() < 0.01
    else:
        torch.testing.assert_close(found, expected, rtol=1e-2, atol=1e-3, equal_nan=True)


def check(layer, room, steps):
    twin = layer.copy()
    for T in steps:
        arguments = layer.step(T)
        found = layer.found(*arguments, room)
        torch.testing.assert_close(found, twin.expected(*arguments), **TOLERANCE)
        assert_rows_agree(layer.keys, twin.keys)
        assert not room.arrived.any()
    if isinstance(layer.values, Int8Rows):  # what is not computed first is stored to the bit
        assert torch.equal(layer.values.codes, twin.values.codes)
        assert torch.equal(layer.values.scale.nan_to_num(), twin.values.scale.nan_to_num())
    else:
        assert torch.equal(layer.values.nan_to_num(), twin.values.nan_to_num())


@pytest.mark.parametrize("start", [0, 1, 15, 63, 64, 65, 129])
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_a_step_agrees_with_reference(kind, start, poisoned):
    torch.manual_seed(start)
    layer = Layer(4, 1, 32, 8, 140, kind, start)
    check(layer, attend_room(DEVICE, 4, 1, 32, 2, 140), (1, 2))


@pytest.mark.parametrize("T", [1, 3, 8])
@pytest.mark.parametrize(
    ("H", "KV", "Dh", "R"), [(2, 1, 64, 8), (6, 2, 16, 8), (2, 2, 32, 5)], ids=str
)
@pytest.mark.parametrize("kind", KINDS[:2], ids=str)
def test_any_heads_and_tokens_agree_with_reference(kind, H, KV, Dh, R, T, poisoned):
    torch.manual_seed(T)
    check(Layer(H, KV, Dh, R, 110, kind, 100), attend_room(DEVICE, H, KV, Dh, T, 110), (T,))


@pytest.mark.parametrize("splits", [2, 3, 20])
@pytest.mark.parametrize("kind", KINDS[:2], ids=str)
def test_spans_of_several_tiles_and_groups_of_programs_agree(kind, splits, poisoned):
    torch.manual_seed(splits)
    layer = Layer(4, 1, 16, 4, 1_000, kind, 980)
    check(layer, room_of(DEVICE, 4, 1, 16, 3, splits), (3, 1, 2))


def test_a_token_does_not_see_those_after_it(poisoned):
    """The result of a token does not change with those after it."""
    torch.manual_seed(0)
    layer = Layer(4, 2, 32, 8, 80, torch.bfloat16, 70)
    room = attend_room(DEVICE, 4, 2, 32, 8, 80)
    arguments = layer.step(8)
    whole = layer.copy().found(*arguments, room)
    for T in (1, 4):
        found = layer.copy().found(*(x[:T].contiguous() for x in arguments), room)
        torch.testing.assert_close(found, whole[:T], rtol=1e-2, atol=1e-3)


def test_scores_far_apart_are_held(poisoned):
    torch.manual_seed(0)
    layer = Layer(4, 1, 32, 8, 210, torch.bfloat16, 200)
    layer.keys[0, 0, 7] *= 1e4  # one key takes all the weight
    layer.keys[0, 0, 150] *= -1e4
    check(layer, attend_room(DEVICE, 4, 1, 32, 2, 210), (1, 2))


def test_rows_without_magnitude_have_codes_of_zero(poisoned):
    torch.manual_seed(0)
    layer = Layer(2, 1, 32, 8, 40, torch.int8, 30)
    twin, room = layer.copy(), attend_room(DEVICE, 2, 1, 32, 2, 40)
    q, k, v, cos, sin = layer.step(2)
    k[0] = v[0] = 0.0
    found = layer.found(q, k, v, cos, sin, room)
    torch.testing.assert_close(found, twin.expected(q, k, v, cos, sin), **TOLERANCE)
    assert_rows_agree(layer.keys, twin.keys)
    assert_rows_agree(layer.values, twin.values)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("T", [1, 2, 4, 8])
@pytest.mark.parametrize("start", [0, 1, 100, 1_000, 5_000, 40_003])
@pytest.mark.parametrize("kind", KINDS[:2], ids=str)
def test_a_step_at_the_shapes_of_4b_agrees_with_reference(kind, start, T):
    torch.manual_seed(T)
    layer = Layer(16, 4, 256, 32, start + 32, kind, start)
    room = attend_room(DEVICE, 16, 4, 256, 8, 262_144)
    check(layer, room, (T, 1, T))
    before = layer.copy(), layer.step(T)
    results = [before[0].copy().found(*before[1], room) for _ in range(20)]
    assert all(torch.equal(each, results[0]) for each in results)  # and every time the same


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_one_graph_serves_every_length():
    torch.manual_seed(0)
    layer = Layer(16, 4, 256, 32, 9_000, torch.int8, 10)
    room = attend_room(DEVICE, 16, 4, 256, 1, 9_000)
    control = torch.tensor([10], dtype=torch.int32, device=DEVICE)
    arguments = layer.step(1)
    out = torch.empty(1, 4_096, dtype=torch.bfloat16, device=DEVICE)
    q, k, v, cos, sin = arguments

    def run():
        attend_step(
            q, k, v, *layer.norms, EPS, cos, sin, control, layer.keys, layer.values, out, room
        )  # fmt: skip

    run()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    for start in (10, 64, 500, 8_990):
        twin = Layer(16, 4, 256, 32, 9_000, torch.int8, start)
        twin.norms = layer.norms
        for ours, theirs in ((layer.keys, twin.keys), (layer.values, twin.values)):
            ours.codes.copy_(theirs.codes)
            ours.scale.copy_(theirs.scale)
        control.fill_(start)
        graph.replay()
        torch.testing.assert_close(out, twin.expected(*arguments), **TOLERANCE)
        assert_rows_agree(layer.keys, twin.keys)
