"""A whole decode step in Triton against its plain twin: an attention and a DeltaNet layer."""

from dataclasses import replace

import pytest
import torch

from qwen35cli.kernels import reference
from qwen35cli.kernels.operands import (
    FEW,
    KEPT,
    PARITY,
    START,
    AttentionMixer,
    BlockWeights,
    Control,
    DeltaLog,
    DeltaMixer,
    DeltaWeights,
    Int4,
    Int8,
    Int8Rows,
    StepWeights,
)

pytest.importorskip("triton", reason="Triton has no wheel for this system")

from qwen35cli.kernels.triton import step, tiles
from qwen35cli.kernels.triton.launches import Launches

# Both round to bf16 on the way, and the norm of a delta head's output makes much of little. The
# interpreter cuts off where a GPU rounds.
TOLERANCE = 0.03 if torch.cuda.is_available() else 0.12
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
D, INNER, VOCABULARY, CAPACITY = 128, 128, 256, 40
H, KV, Dh, R = 4, 2, 32, 4  # attention
G, HEADS, K, V = 1, 2, 32, 64  # delta rule: heads that two programs share
C = 2 * G * K + HEADS * V


def matrix(kind, N, K):
    weight = torch.randn(N, K, device=DEVICE) / K**0.5
    if kind == "int8":
        return Int8(*reference.quantize_int8(weight), (N, K))
    if kind == "int4":
        return Int4(*reference.quantize_int4(weight, 32), (N, K), 32)
    return weight.bfloat16()


def half(*shape, scale=0.2):
    return torch.randn(*shape, device=DEVICE).mul(scale).bfloat16()


def weights(kind, kv_dtype=torch.bfloat16):
    """A delta layer and one of attention, with empty memories, random behind what is in use."""
    torch.manual_seed(0)
    other = "bf16" if kind == "bf16" else "int8"

    def cache():
        shape = 1, KV, CAPACITY, Dh
        if kv_dtype == torch.int8:
            codes = torch.randint(-127, 128, shape, dtype=torch.int8, device=DEVICE)
            # As large as the others: of huge keys the softmax makes much of little.
            return Int8Rows(codes, half(*shape[:3], scale=0.2 / 127).abs())
        return half(*shape)

    delta = DeltaMixer(
        (matrix(kind, C, D), matrix(kind, HEADS * V, D), half(HEADS, D), half(HEADS, D)),
        DeltaWeights(
            half(C, 1, 4, scale=0.5),
            torch.rand(HEADS, device=DEVICE).add(0.1).log(),
            half(HEADS),
            1 + 0.2 * torch.randn(V, device=DEVICE),
            1e-6,
        ),
        matrix(other, D, HEADS * V),
        half(1, 3, C),
        0.2 * torch.randn(1, HEADS, K, V, device=DEVICE),
        DeltaLog(
            torch.zeros(2, 1, FEW, C, device=DEVICE).bfloat16(),
            torch.zeros(2, 1, FEW, G, K, device=DEVICE),
            torch.zeros(2, 1, FEW, HEADS, V, device=DEVICE),
            torch.zeros(2, 1, FEW, HEADS, device=DEVICE),
        ),
    )
    attention = AttentionMixer(
        (matrix(kind, 2 * H * Dh, D), matrix(kind, KV * Dh, D), matrix(kind, KV * Dh, D)),
        half(Dh),
        half(Dh),
        H,
        matrix(other, D, H * Dh),
        cache(),
        cache(),
    )
    blocks = tuple(
        BlockWeights(
            half(D),
            half(D),
            1e-6,
            mixer,
            matrix(kind, INNER, D),
            matrix(kind, INNER, D),
            matrix(kind, D, INNER),
        )
        for mixer in (delta, attention)
    )
    table = matrix(other, VOCABULARY, D)
    return StepWeights(
        table, blocks, half(D), 1e-6, table, torch.rand(R, device=DEVICE), magnitude=1.1
    )


def prepared(made):
    """The same with what the kernels want: int4 in tiles."""

    def block(each):
        mixer = each.mixer
        mixer = replace(
            mixer, project=tuple(map(tiles.prepare, mixer.project)), out=tiles.prepare(mixer.out)
        )
        matrices = {name: tiles.prepare(getattr(each, name)) for name in ("gate", "up", "down")}
        return replace(each, mixer=mixer, **matrices)

    return replace(made, blocks=tuple(map(block, made.blocks)))


@pytest.mark.parametrize(
    ("kind", "kv_dtype"),
    [("int4", torch.bfloat16), ("int8", torch.int8), ("bf16", torch.bfloat16)],
    ids=str,
)
def test_a_step_is_that_of_the_plain_twin(kind, kv_dtype):
    made, twin = weights(kind, kv_dtype), weights(kind, kv_dtype)
    ours = step.token_step(prepared(made), Launches.of(DEVICE, {}))
    assert isinstance(ours, step.TritonStep)
    plain = reference.token_step(twin)
    control = Control.on(DEVICE)
    start = 5
    for tokens, kept in ((1, 1), (2, 1), (1, 0)):
        control.ids[:tokens] = torch.randint(VOCABULARY, (tokens,), device=DEVICE)
        control.numbers[START] = start
        found, expected = ours(control, tokens), plain(control, tokens)
        assert found.shape == (tokens, VOCABULARY)
        states = ours.hidden(tokens).float(), plain.hidden(tokens).float()
        for one, other in ((found, expected), states):
            assert (one - other).norm() < TOLERANCE * other.norm()
        start += kept
        control.numbers[KEPT] = kept
        control.numbers[PARITY] ^= 1


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"eps": 1e-6}, None),
        ({"head": torch.zeros(VOCABULARY, D)}, "head"),
    ],
)
def test_a_model_that_it_does_not_take_is_named(change, reason):
    made = replace(prepared(weights("int4")), **change)
    found = step.refusal(made)
    assert found is None if reason is None else reason in found
