"""What the self-test does of each op: our result and its twin's, on the same inputs."""

from collections.abc import Callable, Iterator
from typing import Final

import torch
from torch import Tensor

from qwen35cli.engine.sampling import Sampling
from qwen35cli.kernels import reference
from qwen35cli.kernels.operands import (
    DRAWN,
    FEW,
    KEPT,
    NF4,
    PARITY,
    START,
    BlockWeights,
    Candidates,
    Control,
    DraftWeights,
    Int4,
    Int8,
    NoSteps,
    Rows,
    StepWeights,
)

from .self_test_inputs import (
    EPS,
    HEADS,
    KV,
    TAPS,
    VOCABULARY,
    C,
    D,
    Dh,
    H,
    K,
    Maker,
    R,
    V,
)

Pairs = Iterator[tuple[Tensor, Tensor]]  # what was found, and what was to be found


def _linear(make: Maker) -> Pairs:
    for kind in ("bf16", "int8", "int4", "nf4"):
        weight = make.matrix(kind, 48, D)
        ready = make.ready(weight)
        for tokens in (1, 3, 64):
            x = make.random(tokens, D)
            yield make.kernels.linear(x, ready, None), reference.linear(x, weight)


def _project(make: Maker) -> Pairs:
    x, weights = make.random(2, D), tuple(make.matrix(kind, 48, D) for kind in ("int4", "bf16"))
    found = make.kernels.project(x, tuple(map(make.ready, weights)))
    yield from zip(found, reference.project(x, weights), strict=True)


def _project_swiglu(make: Maker) -> Pairs:
    x, gate, up = make.random(2, D), make.matrix("int4", 48, D), make.matrix("int4", 48, D)
    found = make.kernels.project_swiglu(x, make.ready(gate), make.ready(up))
    yield found, reference.project_swiglu(x, gate, up)


def _rows(make: Maker) -> Pairs:
    ids = torch.tensor([[0, 7, 47]], device=make.device)
    for kind in ("bf16", "int8"):
        table = make.matrix(kind, 48, D)
        yield make.kernels.rows(make.ready(table), ids), reference.rows(table, ids)


def _prepare(make: Maker) -> Pairs:
    x, weight = make.random(9, 2 * D), make.matrix("int4", 64, 2 * D)
    yield make.kernels.linear(x, make.ready(weight), None), reference.linear(x, weight)


def _quantize_int4(make: Maker) -> Pairs:
    weight = make.floats(16, D)
    both = (
        quantize(weight, 32) for quantize in (make.kernels.quantize_int4, reference.quantize_int4)
    )
    found, expected = (reference.dequantize(Int4(*pair, (16, D), 32)) for pair in both)
    yield found, expected


def _quantize_int8(make: Maker) -> Pairs:
    weight = make.floats(16, D)
    both = (quantize(weight) for quantize in (make.kernels.quantize_int8, reference.quantize_int8))
    found, expected = (reference.dequantize(Int8(*pair, (16, D))) for pair in both)
    yield found, expected


def _quantize_nf4(make: Maker) -> Pairs:
    weight, table = make.floats(16, D), torch.tensor(reference.NF4_TABLE, device=make.device)
    both = (
        quantize(weight, 64) for quantize in (make.kernels.quantize_nf4, reference.quantize_nf4)
    )
    found, expected = (reference.dequantize(NF4(*pair, table, (16, D), 64)) for pair in both)
    yield found, expected


def _rms_norm(make: Maker) -> Pairs:
    x, weight = make.random(3, D), make.half(D)
    yield make.kernels.rms_norm(x, weight, EPS), reference.rms_norm(x, weight, EPS)


def _qk_norm_rotary(make: Maker) -> Pairs:
    q, k = make.random(1, 2, HEADS, Dh), make.random(1, 2, KV, Dh)
    angles = make.floats(1, 2, R)
    rest = make.half(Dh), make.half(Dh), EPS, angles.cos(), angles.sin()
    found = make.kernels.qk_norm_rotary(q, k, *rest)
    yield from zip(found, reference.qk_norm_rotary(q, k, *rest), strict=True)


def _store_rows(make: Maker) -> Pairs:
    x = make.random(1, 3, KV, Dh)
    for dtype in (torch.bfloat16, torch.int8):
        torch.manual_seed(1)
        ours = make.rows(dtype)
        torch.manual_seed(1)
        theirs = make.rows(dtype)
        make.kernels.store_rows(x, ours, 5)
        reference.store_rows(x, theirs, 5)
        yield from zip(_parts(ours), _parts(theirs), strict=True)


def _attention(make: Maker) -> Pairs:
    for dtype in (torch.bfloat16, torch.int8):
        keys, values = make.rows(dtype), make.rows(dtype)
        for tokens in (1, 9):
            q = make.random(1, tokens, HEADS, Dh)
            found = make.kernels.attention(q, keys, values)
            yield found, reference.attention(q, keys, values)


def _sigmoid_gate(make: Maker) -> Pairs:
    x, gate = make.random(1, 2, HEADS, Dh), make.random(1, 2, HEADS, Dh)
    yield make.kernels.sigmoid_gate(x, gate), reference.sigmoid_gate(x, gate)


def _delta_mix(make: Maker) -> Pairs:
    weights = make.delta_weights()
    for tokens in (1, 3, 20):
        inputs = [make.random(1, tokens, width) for width in (C, H * V, H, H)]
        rows, state = make.random(1, TAPS - 1, C), make.floats(1, H, K, V, scale=0.2)
        ours = rows.clone(), state.clone()
        found = make.kernels.delta_mix(*_four(inputs), weights, *ours, None)
        yield found, reference.delta_mix(*_four(inputs), weights, rows, state)
        yield from zip(ours, (rows, state), strict=True)


def _stack(make: Maker) -> Pairs:
    for kind in ("bf16", "int4"):
        ours = make.kernels.stack(tuple(map(make.prepared, make.blocks(kind))))
        if ours is None:
            raise ValueError(f"{kind} blocks are not taken")
        theirs = reference.stack(make.blocks(kind))
        for start, tokens in ((4, 1), (5, 3)):
            x, angles = make.random(1, tokens, D), make.floats(1, tokens, R)
            rest = angles.cos(), angles.sin(), start, None
            yield ours(x, *rest), theirs(x, *rest)


def _draft_loop(make: Maker) -> Pairs:
    def weights() -> DraftWeights:
        torch.manual_seed(389)  # none of the drafts below is a close call
        block = make.block(make.attention("bf16"), "bf16")
        table, fc = make.matrix("int8", VOCABULARY, D), make.matrix("bf16", D, 2 * D)
        return DraftWeights(
            embedding=table,
            embedding_norm=make.half(D),
            hidden_norm=make.half(D),
            fc=fc,
            block=block,
            norm=make.half(D),
            eps=EPS,
            head=table,
            frequencies=make.floats(R).abs(),
            magnitude=1.0,
        )

    ours, theirs = make.kernels.draft_loop(weights()), reference.draft_loop(weights())
    if ours is None:
        raise ValueError("the layer is not taken")
    head = [Candidates(weights().head, 0)]
    for ids, start, count in (([3], 5, 4), ([3, 7, 200], 6, 2)):
        if len(ids) <= ours.pairs:
            rest = ids, make.random(1, len(ids), D), start + 4, start, count, head
            yield torch.tensor(ours(*rest)), torch.tensor(theirs(*rest))


def _token_step(make: Maker) -> Pairs:
    for kind in ("bf16", "int4"):
        ours = make.kernels.token_step(_step_weights(make, kind, make.prepared))
        if isinstance(ours, NoSteps):
            raise ValueError(f"a model in {kind} is not taken: {ours.reason}")
        theirs = reference.token_step(_step_weights(make, kind, lambda block: block))
        control = Control.on(make.device)
        for start, tokens, kept in ((5, 1, 0), (6, 2, 1)):
            control.ids[:tokens] = torch.randint(VOCABULARY, (tokens,)).to(make.device)
            control.numbers[START], control.numbers[KEPT] = start, kept
            yield ours(control, tokens).clone(), theirs(control, tokens)
            control.numbers[PARITY] ^= 1


def _step_weights(
    make: Maker, kind: str, ready: Callable[[BlockWeights], BlockWeights]
) -> StepWeights:
    blocks = tuple(map(ready, make.blocks(kind)))
    table = make.matrix("bf16" if kind == "bf16" else "int8", VOCABULARY, D)
    frequencies = make.floats(R).abs()
    return StepWeights(table, blocks, make.half(D), EPS, table, frequencies, magnitude=1.0)


def _draws(make: Maker) -> Pairs:
    assert make.kernels.draws is not None
    count, slots, known = 4, 8, VOCABULARY - 8
    drawing = make.kernels.draws(make.device, VOCABULARY, known, count, slots)
    for sampling in (Sampling(temperature=0), Sampling(temperature=1.0, top_k=20, top_p=0.9)):
        drawing.begin(sampling)
        drawing.uniforms.copy_(torch.rand(count).to(make.device))
        options = torch.tensor(
            [
                *(sampling.temperature, sampling.top_p, sampling.min_p),
                *(sampling.presence_penalty, sampling.repetition_penalty, sampling.top_k),
            ]
        )
        control, seen = Control.on(make.device), torch.zeros(VOCABULARY, dtype=torch.uint8)
        uniforms, numbers = drawing.uniforms.cpu(), torch.zeros(DRAWN + 1, dtype=torch.int32)
        ids, ring = torch.zeros(FEW, dtype=torch.int64), torch.zeros(slots, dtype=torch.int32)
        for _ in range(count):
            logits = make.floats(VOCABULARY, scale=3.0)
            drawing(logits, control, 1)
            reference.sample_step(
                logits.cpu(), options, seen, uniforms, numbers, ids, ring, known, 1
            )
            yield control.ids[:1].cpu(), ids[:1]


def _four(inputs: list[Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    qkv, z, a, b = inputs
    return qkv, z, a, b


def _parts(rows: Rows) -> tuple[Tensor, ...]:
    return (rows,) if isinstance(rows, Tensor) else (rows.codes, rows.scale)


CHECKS: Final[dict[str, Callable[[Maker], Pairs]]] = {
    "linear": _linear,
    "project": _project,
    "project_swiglu": _project_swiglu,
    "rows": _rows,
    "prepare": _prepare,
    "quantize_int4": _quantize_int4,
    "quantize_int8": _quantize_int8,
    "quantize_nf4": _quantize_nf4,
    "rms_norm": _rms_norm,
    "qk_norm_rotary": _qk_norm_rotary,
    "store_rows": _store_rows,
    "attention": _attention,
    "sigmoid_gate": _sigmoid_gate,
    "delta_mix": _delta_mix,
    "stack": _stack,
    "draft_loop": _draft_loop,
    "token_step": _token_step,
    "draws": _draws,
}
