"""All blocks of a model in one compiled call, for a decode step, and all drafts of a round."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from qwen35cli.kernels.operands import (
    FEW,
    NF4,
    AttentionMixer,
    BlockWeights,
    Candidates,
    DeltaMixer,
    DraftLoop,
    DraftWeights,
    Int4,
    Replay,
    Stack,
    key_heads,
)
from qwen35cli.kernels.reference import text_angles

from .attention import SIZES, AttentionOps, parts
from .delta import TAPS, DeltaOps, replayed
from .library import Foreign, Library, alike, longs
from .linear import compiled, matrix

DELTA, ATTENTION = range(2)  # as in blocks.cpp
MOST_CANDIDATES = 16  # as there


@dataclass(frozen=True, slots=True)
class BlockOps:
    """Makes `Stack`s."""

    fork_join: int | None
    blocks_of: Foreign
    draft_of: Foreign
    attention: AttentionOps
    delta: DeltaOps

    @classmethod
    def open(cls, library: Library, attention: AttentionOps, delta: DeltaOps) -> "BlockOps":
        """Of one compiled variant, whose other ops are given."""
        return cls(
            library.fork_join,
            library.function("blocks", "pi" + "plp" + "ppp" + "lp" + "pp" + "lllf"),
            library.function("draft", "pi" + "ppp" + "pll" + "ppp" + "lp" + "llfp"),
            attention,
            delta,
        )

    def stack(self, blocks: tuple[BlockWeights, ...]) -> Stack | None:
        """See `reference.stack`. None where an op of the model would go to the reference."""
        kinds = {type(block.mixer) for block in blocks}
        shared = {(block.eps, *block.gate.shape) for block in blocks}
        if len({_sizes(block.mixer) for block in blocks}) > len(kinds) or len(shared) > 1:
            return None
        return CompiledStack(self, blocks) if all(map(self._knows, blocks)) else None

    def draft_loop(self, weights: DraftWeights) -> DraftLoop | None:
        """See `reference.draft_loop`. None where an op would go to the reference."""
        norms = (weights.embedding_norm, weights.hidden_norm, weights.norm)
        known = self._knows(weights.block) and compiled(weights.fc)
        if not known or not all(norm.dtype == torch.bfloat16 for norm in norms):
            return None
        if isinstance(weights.embedding, Int4 | NF4) or not compiled(weights.embedding):
            return None
        assert weights.eps == weights.block.eps
        return CompiledDrafts(self, weights)

    def _knows(self, block: BlockWeights) -> bool:
        mixer = block.mixer
        matrices = (*mixer.project, mixer.out, block.gate, block.up, block.down)
        if not all(map(compiled, matrices)):
            return False
        if not block.norm.dtype == block.post_norm.dtype == torch.bfloat16:
            return False
        if isinstance(mixer, AttentionMixer):
            codes = parts(mixer.keys)[0]
            return len(codes) == 1 and codes.dtype in SIZES
        weights, state = mixer.weights, mixer.state
        floats = (mixer.rows, state, weights.a_log, weights.norm)
        if len(state) != 1 or not all(t.dtype == torch.float32 for t in floats):
            return False
        fits = self.delta.fits(key_heads(mixer.rows.shape[2], state), *state.shape[1:])
        return bool(weights.conv.shape[2] == TAPS and weights.eps == block.eps and fits)


def _sizes(mixer: DeltaMixer | AttentionMixer) -> tuple[object, ...]:
    """What all mixers of a kind have to agree in."""
    if isinstance(mixer, DeltaMixer):
        return *mixer.state.shape, *mixer.rows.shape
    codes = parts(mixer.keys)[0]
    return mixer.heads, *codes.shape, *codes.stride(), codes.dtype


class CompiledStack:
    """The blocks as the C++ side reads them; keeps every tensor whose address it has taken."""

    def __init__(self, ops: BlockOps, blocks: tuple[BlockWeights, ...]) -> None:
        self.ops = ops
        self.held: list[object] = [blocks]
        self.eps = blocks[0].eps
        mixers = [block.mixer for block in blocks]
        delta = next((mixer for mixer in mixers if isinstance(mixer, DeltaMixer)), None)
        attention = next((mixer for mixer in mixers if isinstance(mixer, AttentionMixer)), None)
        inner, D = blocks[0].gate.shape
        G = H = K = V = heads = KV = Dh = step = size = 0
        if delta is not None:
            G, (H, K, V) = key_heads(delta.rows.shape[2], delta.state), delta.state.shape[1:]
        if attention is not None:
            codes = parts(attention.keys)[0]
            heads, KV, Dh = attention.heads, codes.shape[1], codes.shape[3]
            step, size = codes.stride(1), SIZES[codes.dtype]
        self.attention_sizes = (heads, Dh, KV)
        # Blocks run one after the other, so they share the room for what they compute.
        widest = [max(mixer.project[i].shape[0] for mixer in mixers if i < len(mixer.project))
                  for i in range(4 if delta is not None else 3)]  # fmt: skip
        self.projected = [self._room(width) for width in widest]
        self.out, self.inner = self._room(D), self._room(inner)
        room = [self._room(n) for n in (D, max(H * V, heads * Dh), heads * Dh, KV * Dh)]
        self.layers = longs([field for block in blocks for field in self._block(block)])
        self.count = len(blocks)
        self.sizes = (D, inner, G, H, K, V, heads, KV, Dh)
        self.rest = (step, size, *room)

    def __call__(
        self, x: Tensor, cos: Tensor, sin: Tensor, start: int, replays: Sequence[Replay] | None
    ) -> Tensor:
        """See `Stack`."""
        B, T, _ = x.shape
        assert B == 1 and T <= FEW and x.dtype == cos.dtype == sin.dtype == torch.float32
        x = x.clone(memory_format=torch.contiguous_format)
        cos, sin = cos.contiguous(), sin.contiguous()
        threads = torch.get_num_threads()
        heads, Dh, KV = self.attention_sizes
        spans, scratch = 0, None
        if heads:
            sizes = (1, T, heads, Dh, KV, start + T)
            spans, scratch = self.ops.attention.scratch(threads, *sizes)
        self.ops.blocks_of(
            self.ops.fork_join,
            threads,
            self.layers,
            self.count,
            longs((*self.sizes, cos.shape[-1], *self.rest)),
            x.data_ptr(),
            cos.data_ptr(),
            sin.data_ptr(),
            spans,
            None if scratch is None else scratch.data_ptr(),
            *(replayed(replays) if replays else (None, None, 0)),
            *(T, start),
            self.eps,
        )
        return x

    def _room(self, width: int) -> int:
        """Address of float32 for that much of each token."""
        room = torch.empty(FEW, width)
        self.held.append(room)
        return room.data_ptr()

    def _alike(self, *weights: Tensor) -> tuple[int, ...]:
        """Addresses of small weights, and whether they are bf16."""
        kept = alike(*weights)
        self.held += kept
        return (*(weight.data_ptr() for weight in kept), int(kept[0].dtype == torch.bfloat16))

    def _block(self, block: BlockWeights) -> tuple[int, ...]:
        """The fields of `Layer` in blocks.cpp."""
        mixer = block.mixer
        projections = [
            matrix(weight, room)
            for weight, room in zip(mixer.project, self.projected, strict=False)
        ]
        nothing = (0,) * len(projections[0])
        projections += [nothing] * (4 - len(projections))
        return (
            ATTENTION if isinstance(mixer, AttentionMixer) else DELTA,
            *self._alike(block.norm, block.post_norm)[:2],
            *(field for projection in projections for field in projection),
            *matrix(mixer.out, self.out),
            *matrix(block.gate, self.inner),
            *matrix(block.up),
            *matrix(block.down, self.out),
            *(self._attention(mixer) if isinstance(mixer, AttentionMixer) else self._delta(mixer)),
        )

    def _delta(self, mixer: DeltaMixer) -> tuple[int, ...]:
        weights = mixer.weights
        conv, dt_bias, half = self._alike(weights.conv, weights.dt_bias)
        a_log, norm = weights.a_log, weights.norm
        floats = (a_log, norm, mixer.rows, mixer.state)
        assert all(t.dtype == torch.float32 and t.is_contiguous() for t in floats)
        return conv, dt_bias, *(tensor.data_ptr() for tensor in floats), half

    def _attention(self, mixer: AttentionMixer) -> tuple[int, ...]:
        q_norm, k_norm, half = self._alike(mixer.q_norm, mixer.k_norm)
        (keys, key_scale), (values, value_scale) = parts(mixer.keys), parts(mixer.values)
        assert keys.stride() == values.stride() and keys.stride()[2:] == (keys.shape[3], 1)
        cached = (keys.data_ptr(), values.data_ptr(), key_scale or 0, value_scale or 0)
        return q_norm, k_norm, *cached, half


class CompiledDrafts:
    """The MTP layer as the C++ side reads it; keeps every tensor whose address it has taken."""

    pairs = 1

    def __init__(self, ops: BlockOps, weights: DraftWeights) -> None:
        self.ops = ops
        self.stack = CompiledStack(ops, (weights.block,))
        D = weights.fc.shape[0]
        self.x, self.joined, self.hidden = torch.empty(D), torch.empty(2 * D), torch.empty(D)
        norms = [
            norm.contiguous()
            for norm in (weights.embedding_norm, weights.hidden_norm, weights.norm)
        ]
        self.weights, self.norms = weights, norms
        self.fields = longs(
            [
                *matrix(weights.embedding),
                *matrix(weights.fc, self.x.data_ptr()),
                *(tensor.data_ptr() for tensor in (*norms, self.joined, self.hidden)),
            ]
        )

    def __call__(
        self,
        ids: Sequence[int],
        hidden: Tensor,
        position: int,
        start: int,
        count: int,
        candidates: Sequence[Candidates],
    ) -> list[int]:
        """See `DraftLoop`."""
        (token,) = ids
        assert hidden.dtype == torch.float32 and hidden.shape[:2] == (1, 1)
        assert len(candidates) <= MOST_CANDIDATES
        cos, sin = text_angles(position, count, self.weights.frequencies, self.weights.magnitude)
        hidden, threads = hidden.contiguous(), torch.get_num_threads()
        heads, Dh, KV = self.stack.attention_sizes
        spans, scratch = self.ops.attention.scratch(threads, 1, 1, heads, Dh, KV, start + count)
        logits = torch.empty(sum(each.rows.shape[0] for each in candidates))
        fields: list[int] = []
        at = logits.data_ptr()
        for each in candidates:
            table = 0
            if each.ids is not None:
                assert each.ids.dtype == torch.int64 and each.ids.is_contiguous()
                table = each.ids.data_ptr()
            fields += (*matrix(each.rows, at), each.first, table)
            at += each.rows.shape[0] * logits.itemsize
        drafts = torch.empty(count, dtype=torch.int64)
        self.ops.draft_of(
            self.ops.fork_join,
            threads,
            self.fields,
            self.stack.layers,
            longs((*self.stack.sizes, cos.shape[-1], *self.stack.rest)),
            longs(fields),
            len(candidates),
            token,
            hidden.data_ptr(),
            cos.data_ptr(),
            sin.data_ptr(),
            spans,
            scratch.data_ptr(),
            count,
            start,
            self.stack.eps,
            drafts.data_ptr(),
        )
        return drafts.tolist()
