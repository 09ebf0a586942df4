"""Random inputs of the self-test, tiny: activations, weights, layers."""

from dataclasses import replace
from typing import Final

import torch
from torch import Tensor

from qwen35cli.kernels import Kernels, reference
from qwen35cli.kernels.operands import (
    FEW,
    NF4,
    AttentionMixer,
    BlockWeights,
    DeltaLog,
    DeltaMixer,
    DeltaWeights,
    Int4,
    Int8,
    Int8Rows,
    Rows,
    Weight,
)

D, INNER, VOCABULARY, ROOM = 128, 128, 256, 32
HEADS, KV, Dh, R = 4, 2, 32, 4  # attention
G, H, K, V, TAPS = 1, 2, 32, 64, 4  # delta rule
C = 2 * G * K + H * V
EPS: Final = 1e-6


class Maker:
    """Random inputs on a device, in the dtype of its activations."""

    def __init__(self, kernels: Kernels, device: torch.device) -> None:
        self.kernels, self.device = kernels, device
        self.dtype = torch.bfloat16 if kernels.backend == "triton" else torch.float32

    def random(self, *shape: int, scale: float = 1.0) -> Tensor:
        """Activations."""
        return self.floats(*shape, scale=scale).to(self.dtype)

    def floats(self, *shape: int, scale: float = 1.0) -> Tensor:
        """Drawn on the CPU: the same on every device."""
        return torch.randn(*shape).mul(scale).to(self.device)

    def half(self, *shape: int, scale: float = 0.2) -> Tensor:
        """Small weights."""
        return self.floats(*shape, scale=scale).bfloat16()

    def matrix(self, kind: str, rows: int, columns: int) -> Weight:
        """Weights in the layout of a file, quantized by the reference."""
        weight = self.floats(rows, columns, scale=columns**-0.5)
        shape = rows, columns
        match kind:
            case "int4":
                return Int4(*reference.quantize_int4(weight, 32), shape, 32)
            case "int8":
                return Int8(*reference.quantize_int8(weight), shape)
            case "nf4":
                packed, absmax = reference.quantize_nf4(weight, 64)
                table = torch.tensor(reference.NF4_TABLE, device=self.device)
                return NF4(packed, absmax, table, shape, 64)
        return weight.bfloat16()

    def ready(self, weight: Weight) -> Weight:
        """In the layout of the kernels."""
        return self.kernels.prepare(weight)

    def rows(self, dtype: torch.dtype) -> Rows:
        """Keys or values of `ROOM` tokens."""
        if dtype != torch.int8:
            return self.floats(1, KV, ROOM, Dh).to(dtype)
        codes = torch.randint(-127, 128, (1, KV, ROOM, Dh), dtype=torch.int8)
        return Int8Rows(codes.to(self.device), self.half(1, KV, ROOM, scale=0.01).abs())

    def delta_weights(self) -> DeltaWeights:
        return DeltaWeights(
            conv=self.half(C, 1, TAPS, scale=0.5),
            a_log=torch.rand(H).add(0.1).log().to(self.device),
            dt_bias=self.half(H),
            norm=1 + self.floats(V, scale=0.2),
            eps=EPS,
        )

    def delta(self, kind: str) -> DeltaMixer:
        """A delta layer with a memory, and room for logs."""
        shapes = (FEW, C), (FEW, G, K), (FEW, H, V), (FEW, H)
        empty = [torch.zeros(2, 1, *shape, device=self.device) for shape in shapes]
        empty[0] = empty[0].to(self.dtype)
        return DeltaMixer(
            project=(
                self.matrix(kind, C, D),
                self.matrix(kind, H * V, D),
                self.half(H, D),
                self.half(H, D),
            ),
            weights=self.delta_weights(),
            out=self.matrix(kind, D, H * V),
            rows=self.random(1, TAPS - 1, C),
            state=self.floats(1, H, K, V, scale=0.2),
            logs=DeltaLog(*empty),
        )

    def attention(self, kind: str) -> AttentionMixer:
        """An attention layer with a memory."""
        return AttentionMixer(
            project=(
                self.matrix(kind, 2 * HEADS * Dh, D),
                self.matrix(kind, KV * Dh, D),
                self.matrix(kind, KV * Dh, D),
            ),
            q_norm=self.half(Dh),
            k_norm=self.half(Dh),
            heads=HEADS,
            out=self.matrix(kind, D, HEADS * Dh),
            keys=self.rows(torch.bfloat16),
            values=self.rows(torch.bfloat16),
        )

    def block(self, mixer: DeltaMixer | AttentionMixer, kind: str) -> BlockWeights:
        return BlockWeights(
            norm=self.half(D),
            post_norm=self.half(D),
            eps=EPS,
            mixer=mixer,
            gate=self.matrix(kind, INNER, D),
            up=self.matrix(kind, INNER, D),
            down=self.matrix(kind, D, INNER),
        )

    def blocks(self, kind: str) -> tuple[BlockWeights, ...]:
        """One of each; the same at every call, for each side writes to memories of its own."""
        torch.manual_seed(1)
        return self.block(self.delta(kind), kind), self.block(self.attention(kind), kind)

    def prepared(self, block: BlockWeights) -> BlockWeights:
        """The same block in the layout of the kernels."""
        mixer = block.mixer
        project = tuple(map(self.ready, mixer.project))
        return replace(
            block,
            mixer=replace(mixer, project=project, out=self.ready(mixer.out)),
            gate=self.ready(block.gate),
            up=self.ready(block.up),
            down=self.ready(block.down),
        )
