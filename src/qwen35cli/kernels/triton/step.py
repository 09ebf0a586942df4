"""A whole decode step of a model in about five launches a layer, made to be captured in a graph.

Whatever changes from step to step lies in device memory: the tokens, their number in the caches,
the position, what stays of the last step (`Control`).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass

import torch
from torch import Tensor

from qwen35cli.kernels.operands import (
    FEW,
    NF4,
    AttentionMixer,
    BlockWeights,
    Control,
    DeltaMixer,
    Int8Rows,
    NoSteps,
    StepWeights,
    Weight,
)

from .attend_step import Room as AttendRoom
from .attend_step import attend_room, attend_step
from .delta_step import DeltaLogs, delta_step, parts
from .embed_step import embed_step, embeddable
from .launches import Launches
from .matvec import (
    Convolution,
    Gates,
    HeadSquares,
    Pieces,
    Stream,
    add,
    bits,
    parts_of,
    project,
    readable,
    swiglu,
)


def refusal(weights: StepWeights) -> str | None:
    """Why the kernels do not read this model, or None: they take int4, int8 or bf16, of one kind a
    launch, in whole tiles."""
    if not embeddable(weights.embedding):
        return f"the embedding is {_described(weights.embedding)}"
    if not readable(weights.head):
        return f"the head is {_described(weights.head)}"
    return next(filter(None, map(refused, weights.blocks)), None)


def refused(block: BlockWeights) -> str | None:
    """The same for a block."""
    mixer = block.mixer
    together = [mixer.project[:2] if isinstance(mixer, DeltaMixer) else mixer.project]
    together += [(block.gate, block.up), (mixer.out,), (block.down,)]
    for matrices in together:
        for each in matrices:
            if not readable(each):
                return f"a matrix is {_described(each)}"
        if len({(bits(each), parts_of(each)[2]) for each in matrices}) > 1:
            return "matrices that are read together have several formats"
    if isinstance(mixer, AttentionMixer):
        width = mixer.q_norm.shape[0]
        return f"attention heads are {width} wide, no power of two" if width & (width - 1) else None
    K, V = mixer.state.shape[2:]
    taps = mixer.weights.conv.shape[2]
    if K & (K - 1) or V & (V - 1):
        return f"DeltaNet heads are {K} and {V} wide, not powers of two"
    if parts(V) > 1 and V % (64 if bits(mixer.out) == 8 else 32):
        return f"DeltaNet heads are {V} wide, no whole blocks"
    if taps != 4:
        return f"the convolutions have {taps} taps, not 4"
    if not all(isinstance(w, Tensor) and w.dtype == torch.bfloat16 for w in mixer.project[2:]):
        return "the gates of DeltaNet layers are not in bf16"
    return "no step can be taken back" if mixer.logs is None else None


def _described(weight: Weight) -> str:
    """A matrix that the kernels do not read: for its format, or for its shape."""
    if isinstance(weight, NF4):
        return "nf4"
    if isinstance(weight, Tensor) and weight.dtype != torch.bfloat16:
        return f"in {str(weight.dtype).removeprefix('torch.')}"
    N, K = weight.shape
    return f"{N:,} x {K:,}, no whole tiles"


@dataclass(frozen=True, slots=True)
class Room:
    """Memory that the launches of a few blocks pass on to each other, one block after the other."""

    streams: tuple[Stream, Stream]
    pieces: Pieces
    cos: Tensor  # (8, R), and so the next
    sin: Tensor
    mixed: Tensor  # (8, C) float32
    z: Tensor  # (8, H * V) bf16, and so on
    gates: Tensor  # (8, 2 H) float32
    delta: Tensor
    squares: Tensor  # (8, H, parts) float32
    qkv: Tensor
    attended: Tensor
    inner: Tensor
    attend: AttendRoom | None  # of attention, where there is any

    @classmethod
    def of(cls, blocks: Sequence[BlockWeights], angles: int, device: torch.device) -> "Room":
        """For these blocks, of which positions turn `angles` pairs of channels."""
        D = blocks[0].norm.shape[0]
        delta = [b.mixer for b in blocks if isinstance(b.mixer, DeltaMixer)]
        attention = [b.mixer for b in blocks if isinstance(b.mixer, AttentionMixer)]

        def room(width: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
            return torch.zeros(FEW, width, dtype=dtype, device=device)

        H, V = delta[0].state.shape[1::2] if delta else (0, 16)
        C = delta[0].rows.shape[2] if delta else 0
        widths = [mixer.out.shape[1] for mixer in attention] or [0]
        sides = [sum(w.shape[0] for w in mixer.project) for mixer in attention] or [0]
        attend = None
        if attention:
            keys = attention[0].keys
            KV, S, Dh = (keys.codes if isinstance(keys, Int8Rows) else keys).shape[1:]
            attend = attend_room(device, attention[0].heads, KV, Dh, FEW, S)
        return cls(
            streams=(Stream.room(D, device), Stream.room(D, device)),
            pieces=Pieces.room(D, device),
            cos=room(angles, torch.float32),
            sin=room(angles, torch.float32),
            mixed=room(C, torch.float32),
            z=room(H * V),
            gates=room(2 * H, torch.float32),
            delta=room(H * V),
            squares=torch.zeros(FEW, H, parts(V), device=device),
            qkv=room(max(sides)),
            attended=room(max(widths)),
            inner=room(max(block.gate.shape[0] for block in blocks)),
            attend=attend,
        )


def held(room: object) -> Iterator[Tensor]:
    """The tensors of a room and of the rooms in it."""
    if isinstance(room, Tensor):
        yield room
    elif isinstance(room, tuple):
        for each in room:
            yield from held(each)
    elif is_dataclass(room):
        for field in fields(room):
            yield from held(getattr(room, field.name))


def token_step(weights: StepWeights, launches: Launches) -> "TritonStep | NoSteps":
    """Steps of a model with its memory, if the kernels take it. See `reference.token_step`."""
    reason = refusal(weights)
    return TritonStep(weights, launches) if reason is None else NoSteps(reason)


class TritonStep:
    """Steps of one model, with the buffers that they share."""

    def __init__(self, weights: StepWeights, launches: Launches) -> None:
        assert refusal(weights) is None
        self.weights, self.launches = weights, launches
        device = weights.norm.device
        self.room = Room.of(weights.blocks, len(weights.frequencies), device)
        self.logits = torch.zeros(FEW, weights.head.shape[0], device=device)

    def __call__(self, control: Control, tokens: int) -> Tensor:
        """Enqueue a step. Reads `control`, and leaves it; the logits are overwritten by the next.

        Returns:
            (tokens, V) float32 logits.
        """
        w, r, launches = self.weights, self.room, self.launches
        embed_step(
            control.ids, w.embedding, w.blocks[0].norm, w.frequencies, w.magnitude,
            control.numbers, r.streams[0], r.cos, r.sin, tokens, overlap=launches.overlap,
        )  # fmt: skip
        norms = [*(block.norm for block in w.blocks[1:]), w.norm]
        for block, norm in zip(w.blocks, norms, strict=True):
            run_block(block, norm, r, control.numbers, tokens, launches)
        launch = launches.find("head", w.head)
        project(r.streams[0], w.eps, (w.head,), self.logits, tokens, launch)
        return self.logits[:tokens]

    def hidden(self, tokens: int) -> Tensor:
        """See `operands.TokenStep`."""
        stream, w = self.room.streams[0], self.weights
        squares = stream.squares[:tokens].sum(1, keepdim=True)
        normed = stream.scaled[:tokens] * torch.rsqrt(squares / stream.x.shape[1] + w.eps)
        return normed.to(torch.bfloat16)[None]

    def tensors(self) -> list[Tensor]:
        """See `operands.TokenStep`."""
        return [*held(self.room), self.logits]


def run_block(
    block: BlockWeights,
    norm: Tensor,
    room: Room,
    numbers: Tensor,
    tokens: int,
    launches: Launches,
) -> None:
    """Five launches, from the first stream back into it, ready for `norm`, the next one.

    Args:
        norm: (D,) as an offset from one.
        numbers: of the `Control`.
    """
    first, second = room.streams
    if isinstance(block.mixer, DeltaMixer):
        _delta(block, block.mixer, room, numbers, tokens, launches)
    else:
        _attention(block, block.mixer, room, numbers, tokens, launches)
    launch = launches.find("swiglu", block.gate, block.up)
    inner = room.inner[:, : block.gate.shape[0]]
    swiglu(second, block.eps, block.gate, block.up, inner, tokens, launch)
    launch = launches.find("add", block.down)
    add(inner, block.down, second, first, norm, room.pieces, tokens, launch)


def _delta(
    block: BlockWeights,
    mixer: DeltaMixer,
    room: Room,
    numbers: Tensor,
    tokens: int,
    launches: Launches,
) -> None:
    """Everything up to the second norm: three launches."""
    first, second = room.streams
    logs = mixer.logs
    assert logs is not None
    qkv, z, a, b = mixer.project
    assert isinstance(a, Tensor) and isinstance(b, Tensor)
    launch = launches.find("project", qkv, z)
    project(
        first, block.eps, (qkv, z), room.z, tokens, launch,
        convolution=Convolution(
            mixer.weights.conv, mixer.rows, logs.inputs[:, 0], room.mixed, numbers
        ),
        gates=Gates(a, b, room.gates),
    )  # fmt: skip
    V = mixer.state.shape[3]
    delta_step(
        room.mixed, room.z, room.gates, mixer.weights, mixer.state,
        DeltaLogs(logs.k[:, 0], logs.d[:, 0], logs.g[:, 0]), numbers,
        room.delta, room.squares, tokens,
        overlap=launches.overlap,
    )  # fmt: skip
    heads = HeadSquares(room.squares, V, mixer.weights.eps) if parts(V) > 1 else None
    launch = launches.find("add", mixer.out)
    add(
        room.delta, mixer.out, first, second, block.post_norm, room.pieces, tokens, launch,
        heads=heads,
    )  # fmt: skip


def _attention(
    block: BlockWeights,
    mixer: AttentionMixer,
    room: Room,
    numbers: Tensor,
    tokens: int,
    launches: Launches,
) -> None:
    """The same of a layer of attention."""
    first, second = room.streams
    assert room.attend is not None
    launch = launches.find("project", *mixer.project)
    project(first, block.eps, mixer.project, room.qkv, tokens, launch)
    q, k, v = room.qkv[:tokens].split([weight.shape[0] for weight in mixer.project], dim=1)
    attend_step(
        q, k, v, mixer.q_norm, mixer.k_norm, block.eps, room.cos[:tokens], room.sin[:tokens],
        numbers, mixer.keys, mixer.values, room.attended[:tokens], room.attend,
        overlap=launches.overlap,
    )  # fmt: skip
    launch = launches.find("add", mixer.out)
    add(
        room.attended, mixer.out, first, second, block.post_norm, room.pieces, tokens, launch
    )  # fmt: skip
