"""A whole decode step of a model in about five launches a layer, made to be captured in a graph.

Whatever changes from step to step lies in device memory: the tokens, their number in the caches,
the position, what stays of the last step (`Control`).
"""

from dataclasses import dataclass, fields

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
    return next(filter(None, map(_refused, weights.blocks)), None)


def _refused(block: BlockWeights) -> str | None:
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
    """Memory that the launches of a step pass on to each other; shared by all steps of a model."""

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
    logits: Tensor  # (8, V) float32


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
        D = weights.norm.shape[0]
        delta = [b.mixer for b in weights.blocks if isinstance(b.mixer, DeltaMixer)]
        attention = [b.mixer for b in weights.blocks if isinstance(b.mixer, AttentionMixer)]

        def room(width: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
            return torch.zeros(FEW, width, dtype=dtype, device=device)

        H, V = delta[0].state.shape[1::2] if delta else (16, 16)
        C = delta[0].rows.shape[2] if delta else 16
        widths = [mixer.out.shape[1] for mixer in attention] or [16]
        sides = [sum(w.shape[0] for w in mixer.project) for mixer in attention] or [16]
        self.room = Room(
            streams=(Stream.room(D, device), Stream.room(D, device)),
            pieces=Pieces.room(D, device),
            cos=room(len(weights.frequencies), torch.float32),
            sin=room(len(weights.frequencies), torch.float32),
            mixed=room(C, torch.float32),
            z=room(H * V),
            gates=room(2 * H, torch.float32),
            delta=room(H * V),
            squares=torch.zeros(FEW, H, parts(V), device=device),
            qkv=room(max(sides)),
            attended=room(max(widths)),
            inner=room(max(block.gate.shape[0] for block in weights.blocks)),
            logits=room(weights.head.shape[0], torch.float32),
        )
        self.attend_room = None
        if attention:
            keys = attention[0].keys
            KV, S, Dh = (keys.codes if isinstance(keys, Int8Rows) else keys).shape[1:]
            self.attend_room = attend_room(device, attention[0].heads, KV, Dh, FEW, S)

    def __call__(self, control: Control, tokens: int) -> Tensor:
        """Enqueue a step. Reads `control`, and leaves it; the logits are overwritten by the next.

        Returns:
            (tokens, V) float32 logits.
        """
        w, r, overlap = self.weights, self.room, self.launches.overlap
        first, second = r.streams
        blocks = w.blocks
        embed_step(
            control.ids, w.embedding, blocks[0].norm, w.frequencies, w.magnitude,
            control.numbers, first, r.cos, r.sin, tokens, overlap=overlap,
        )  # fmt: skip
        for block, following in zip(blocks, (*blocks[1:], None), strict=True):
            norm = w.norm if following is None else following.norm
            mixer = block.mixer
            if isinstance(mixer, DeltaMixer):
                self._delta(block, mixer, control, tokens)
            else:
                self._attention(block, mixer, control, tokens)
            launch = self.launches.find("swiglu", block.gate, block.up)
            inner = r.inner[:, : block.gate.shape[0]]
            swiglu(second, block.eps, block.gate, block.up, inner, tokens, launch)
            launch = self.launches.find("add", block.down)
            add(inner, block.down, second, first, norm, r.pieces, tokens, launch)
        launch = self.launches.find("head", w.head)
        project(first, w.eps, (w.head,), r.logits, tokens, launch)
        return r.logits[:tokens]

    def hidden(self, tokens: int) -> Tensor:
        """See `operands.TokenStep`."""
        stream, w = self.room.streams[0], self.weights
        squares = stream.squares[:tokens].sum(1, keepdim=True)
        normed = stream.scaled[:tokens] * torch.rsqrt(squares / stream.x.shape[1] + w.eps)
        return normed.to(torch.bfloat16)[None]

    def tensors(self) -> list[Tensor]:
        """See `operands.TokenStep`."""
        r, attend = self.room, self.attend_room
        rooms = (r, *r.streams, r.pieces, *(() if attend is None else (attend,)))
        found = (getattr(room, field.name) for room in rooms for field in fields(room))
        return [each for each in found if isinstance(each, Tensor)]

    def _delta(self, block: BlockWeights, mixer: DeltaMixer, control: Control, tokens: int) -> None:
        """Everything up to the second norm: five launches' first three."""
        r, logs = self.room, mixer.logs
        assert logs is not None
        first, second = r.streams
        qkv, z, a, b = mixer.project
        assert isinstance(a, Tensor) and isinstance(b, Tensor)
        launch = self.launches.find("project", qkv, z)
        convolution = Convolution(
            mixer.weights.conv, mixer.rows, logs.inputs[:, 0], r.mixed, control.numbers
        )
        gates = Gates(a, b, r.gates)
        project(
            first, block.eps, (qkv, z), r.z, tokens, launch, convolution=convolution, gates=gates
        )
        V = mixer.state.shape[3]
        delta_step(
            r.mixed, r.z, r.gates, mixer.weights, mixer.state,
            DeltaLogs(logs.k[:, 0], logs.d[:, 0], logs.g[:, 0]), control.numbers,
            r.delta, r.squares, tokens,
            overlap=self.launches.overlap,
        )  # fmt: skip
        heads = HeadSquares(r.squares, V, mixer.weights.eps) if parts(V) > 1 else None
        launch = self.launches.find("add", mixer.out)
        add(
            r.delta, mixer.out, first, second, block.post_norm, r.pieces, tokens, launch,
            heads=heads,
        )  # fmt: skip

    def _attention(
        self, block: BlockWeights, mixer: AttentionMixer, control: Control, tokens: int
    ) -> None:
        r = self.room
        assert self.attend_room is not None
        first, second = r.streams
        launch = self.launches.find("project", *mixer.project)
        project(first, block.eps, mixer.project, r.qkv, tokens, launch)
        sides = [weight.shape[0] for weight in mixer.project]
        q, k, v = r.qkv[:tokens].split(sides, dim=1)
        attend_step(
            q, k, v, mixer.q_norm, mixer.k_norm, block.eps, r.cos[:tokens], r.sin[:tokens],
            control.numbers, mixer.keys, mixer.values, r.attended[:tokens], self.attend_room,
            overlap=self.launches.overlap,
        )  # fmt: skip
        launch = self.launches.find("add", mixer.out)
        add(
            r.attended, mixer.out, first, second, block.post_norm, r.pieces, tokens, launch
        )  # fmt: skip
