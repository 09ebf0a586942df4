"""All blocks in one call, against the reference; against op by op: tests/model/test_stack.py."""

from dataclasses import replace

import pytest
import torch

from qwen35cli.kernels import reference
from qwen35cli.kernels.operands import (
    FEW,
    AttentionMixer,
    BlockWeights,
    Candidates,
    DeltaLog,
    DeltaMixer,
    DeltaWeights,
    DraftWeights,
    Int8,
    Int8Rows,
    Replay,
)
from tests.kernels.twins import NATIVE, name

D, INNER, ROOM = 64, 96, 40
G, H, K, V, TAPS = 2, 4, 32, 48, 4
HEADS, KV, DH, R = 4, 2, 32, 8
C = 2 * G * K + H * V
TOLERANCE = {"rtol": 2e-4, "atol": 2e-4}


def random(*shape, scale=1.0):
    return torch.randn(*shape) * scale


def matrix(N, K):
    return random(N, K, scale=K**-0.5).bfloat16()


def room(dtype):
    if dtype != torch.int8:
        return torch.zeros(1, KV, ROOM, DH, dtype=dtype)
    codes = torch.zeros(1, KV, ROOM, DH, dtype=dtype)
    return Int8Rows(codes, torch.zeros(1, KV, ROOM, dtype=torch.bfloat16))


def delta():
    weights = DeltaWeights(
        random(C, 1, TAPS).bfloat16(), random(H), random(H).bfloat16(), random(V), 1e-6
    )
    project = (matrix(C, D), matrix(H * V, D), matrix(H, D), matrix(H, D))
    state, rows = random(1, H, K, V), random(1, TAPS - 1, C)
    return DeltaMixer(project, weights, matrix(D, H * V), rows, state)


def attention(dtype):
    project = (matrix(2 * HEADS * DH, D), matrix(KV * DH, D), matrix(KV * DH, D))
    norms = random(DH, scale=0.1).bfloat16(), random(DH, scale=0.1).bfloat16()
    return AttentionMixer(project, *norms, HEADS, matrix(D, HEADS * DH), room(dtype), room(dtype))


def blocks(dtype):
    """The same at every call: memories are written to."""
    torch.manual_seed(0)
    return tuple(
        BlockWeights(
            random(D, scale=0.1).bfloat16(),
            random(D, scale=0.1).bfloat16(),
            1e-6,
            mixer,
            matrix(INNER, D),
            matrix(INNER, D),
            matrix(D, INNER),
        )
        for mixer in (delta(), attention(dtype), delta(), attention(dtype))
    )


def logs():
    shapes = ((FEW, C), (FEW, G, K), (FEW, H, V), (FEW, H))
    return [DeltaLog(*(torch.empty(1, *shape) for shape in shapes)) for _ in range(2)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int8])
@pytest.mark.parametrize("logged", [False, True])
@pytest.mark.parametrize("native", NATIVE, ids=name)
def test_stack_agrees_with_reference(native, logged, dtype, poisoned):
    ours, theirs = blocks(dtype), blocks(dtype)
    compiled, plain = native.blocks.stack(ours), reference.stack(theirs)
    start, kept = 0, 0
    past, wanted_past = logs(), logs()
    for T in (1, 3, 8, 2, 1):
        x, angles = random(1, T, D), random(1, T, R)
        arguments = (x, angles.cos(), angles.sin(), start)
        found, expected = logs(), logs()
        before = x.clone()
        if logged:
            replays = [Replay(*parts) for parts in zip(past, (kept, kept), found, strict=True)]
            twins = [
                Replay(*parts) for parts in zip(wanted_past, (kept, kept), expected, strict=True)
            ]
            actual, wanted = compiled(*arguments, replays), plain(*arguments, twins)
        else:
            actual, wanted = compiled(*arguments, None), plain(*arguments, None)
        torch.testing.assert_close(actual, wanted, **TOLERANCE)
        assert torch.equal(x, before)
        if logged:
            for a, b in zip(found, expected, strict=True):
                for part in ("inputs", "k", "d", "g"):
                    one, other = getattr(a, part)[:, :T], getattr(b, part)[:, :T]
                    torch.testing.assert_close(one, other, **TOLERANCE)
        past, wanted_past, kept = found, expected, (T + 1) // 2
        start += kept if logged else T
    for one, other in zip(ours, theirs, strict=True):
        if isinstance(one.mixer, DeltaMixer):
            torch.testing.assert_close(one.mixer.state, other.mixer.state, **TOLERANCE)
            torch.testing.assert_close(one.mixer.rows, other.mixer.rows, **TOLERANCE)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.int8])
@pytest.mark.parametrize("embedding", ["bf16", "int8"])
@pytest.mark.parametrize("native", NATIVE, ids=name)
def test_draft_loop_agrees_with_reference(native, embedding, dtype, poisoned):
    loops = []
    for compiled in (True, False):
        torch.manual_seed(0)
        block = BlockWeights(
            random(D, scale=0.1).bfloat16(),
            random(D, scale=0.1).bfloat16(),
            1e-6,
            attention(dtype),
            matrix(INNER, D),
            matrix(INNER, D),
            matrix(D, INNER),
        )
        table = random(300, D)
        rows = table.bfloat16()
        if embedding == "int8":
            rows = Int8(*reference.quantize_int8(table), (300, D))
        norms = [random(D, scale=0.1).bfloat16() for _ in range(3)]
        fc = matrix(D, 2 * D)
        turning = torch.rand(R), 1.1
        weights = DraftWeights(rows, *norms[:2], fc, block, norms[2], 1e-6, rows, *turning)
        loop = native.blocks.draft_loop(weights) if compiled else reference.draft_loop(weights)
        loops.append(loop)
        head = [matrix(100, D), matrix(20, D), matrix(30, D)]
    ids = torch.randperm(50)[:30] + 150
    choices = [
        [Candidates(head[0], 0)],
        [Candidates(head[0], 0), Candidates(head[1], 280)],
        [Candidates(head[0], 0), Candidates(head[1], 280), Candidates(head[2], 0, ids)],
    ]
    start, made = 0, set()
    for turn in range(9):
        count = 1 + turn % 4
        arguments = ([turn], random(1, 1, D), 3 + start, start, count, choices[turn % 3])
        actual, expected = (loop(*arguments) for loop in loops)
        assert actual == expected
        start += 1 + turn % 2
        made.update(actual)
    assert len(made) > 8


@pytest.mark.parametrize("native", NATIVE[:1], ids=name)
def test_draft_loop_knows_what_it_can_read(native):
    torch.manual_seed(0)
    block = blocks(torch.bfloat16)[1]
    norms = [random(D).bfloat16() for _ in range(3)]
    table = matrix(300, D)
    fc, turning = matrix(D, 2 * D), torch.rand(R)
    known = DraftWeights(table, *norms[:2], fc, block, norms[2], 1e-6, table, turning, 1.0)
    assert native.blocks.draft_loop(known) is not None
    for part, other in (("embedding", table.float()), ("fc", known.fc.float())):
        assert native.blocks.draft_loop(replace(known, **{part: other})) is None
    assert native.blocks.draft_loop(replace(known, norm=norms[2].float())) is None
