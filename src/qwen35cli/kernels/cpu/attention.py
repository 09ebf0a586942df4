"""The compiled parts of an attention layer."""

from dataclasses import dataclass

import torch
from torch import Tensor

from qwen35cli.kernels import reference
from qwen35cli.kernels.operands import Rows

from .library import Foreign, Library, alike

SIZES = {torch.float32: 4, torch.bfloat16: 2, torch.int8: 1}  # bytes; what a cache may hold


@dataclass(frozen=True, slots=True)
class AttentionOps:
    """For float32 activations; what has another dtype goes to the reference."""

    fork_join: int | None
    attention_of: Foreign
    spans_of: Foreign
    scratch_of: Foreign
    store_of: Foreign
    norm_rotary_of: Foreign
    gate_of: Foreign

    @classmethod
    def open(cls, library: Library) -> "AttentionOps":
        function = library.function
        return cls(
            library.fork_join,
            attention_of=function("attention", "pi" + "ppppppp" + "lllllllll" + "i"),
            spans_of=function("attention_spans", "illll", "l"),
            scratch_of=function("attention_scratch", "illllll", "l"),
            store_of=function("store_rows", "pi" + "ppp" + "lllllll" + "i"),
            norm_rotary_of=function("qk_norm_rotary", "pi" + "ppppfpppp" + "lllllll" + "i"),
            gate_of=function("sigmoid_gate", "pi" + "ppp" + "lllll"),
        )

    def attention(self, q: Tensor, keys: Rows, values: Rows) -> Tensor:
        """See `reference.attention`.

        Keys and values have the same strides, and the rows of a head follow one another.
        """
        B, T, H, Dh = q.shape
        stored, key_scale = parts(keys)
        others, value_scale = parts(values)
        if q.dtype != torch.float32 or stored.dtype not in SIZES or stored.stride()[2:] != (Dh, 1):
            return reference.attention(q, keys, values)
        assert stored.stride() == others.stride() and stored.dtype == others.dtype
        KV, S = stored.shape[1:3]
        q = q.contiguous()
        out = torch.empty_like(q)
        threads = torch.get_num_threads()
        spans, scratch = self.scratch(threads, B, T, H, Dh, KV, S)
        self.attention_of(
            self.fork_join,
            threads,
            q.data_ptr(),
            stored.data_ptr(),
            others.data_ptr(),
            key_scale,
            value_scale,
            out.data_ptr(),
            scratch.data_ptr(),
            *(spans, B, T, H, Dh, KV, S),
            *stored.stride()[:2],
            SIZES[stored.dtype],
        )
        return out

    def scratch(
        self, threads: int, B: int, T: int, H: int, Dh: int, KV: int, S: int
    ) -> tuple[int, Tensor]:
        """How many spans `attention` cuts S keys into, and the memory that it needs for them."""
        spans = self.spans_of(threads, B, T, KV, S)
        return spans, torch.empty(self.scratch_of(threads, spans, B, T, H, Dh, KV))

    def store_rows(self, x: Tensor, rows: Rows, start: int) -> None:
        """See `reference.store_rows`. The rows of a head follow one another."""
        B, T, KV, Dh = x.shape
        stored, scale = parts(rows)
        if x.dtype != torch.float32 or stored.dtype not in SIZES:
            return reference.store_rows(x, rows, start)
        assert stored.stride()[2:] == (Dh, 1) and start + T <= stored.shape[2]
        x = x.contiguous()
        self.store_of(
            self.fork_join,
            torch.get_num_threads(),
            x.data_ptr(),
            stored.data_ptr(),
            scale,
            *(B, T, KV, Dh),
            *stored.stride()[:2],
            start,
            SIZES[stored.dtype],
        )

    def qk_norm_rotary(
        self,
        q: Tensor,
        k: Tensor,
        q_weight: Tensor,
        k_weight: Tensor,
        eps: float,
        cos: Tensor,
        sin: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """See `reference.qk_norm_rotary`. `q` may be a part of wider heads."""
        B, T, H, Dh = q.shape
        if q.dtype != torch.float32 or k.dtype != torch.float32 or q.stride(3) != 1:
            return reference.qk_norm_rotary(q, k, q_weight, k_weight, eps, cos, sin)
        q_weight, k_weight = alike(q_weight, k_weight)
        q = _evenly_spaced(q)
        k, cos, sin = k.contiguous(), cos.contiguous(), sin.contiguous()
        q_out, k_out = torch.empty(B, T, H, Dh), torch.empty_like(k)
        self.norm_rotary_of(
            self.fork_join,
            torch.get_num_threads(),
            q.data_ptr(),
            k.data_ptr(),
            q_weight.data_ptr(),
            k_weight.data_ptr(),
            eps,
            cos.data_ptr(),
            sin.data_ptr(),
            q_out.data_ptr(),
            k_out.data_ptr(),
            *(B * T, H, k.shape[2], Dh, cos.shape[2]),
            *(q.stride(2), q.stride(1)),
            q_weight.dtype == torch.bfloat16,
        )
        return q_out, k_out

    def sigmoid_gate(self, x: Tensor, gate: Tensor) -> Tensor:
        """See `reference.sigmoid_gate`. `gate` may be a part of wider heads."""
        if x.dtype != torch.float32 or gate.dtype != torch.float32 or gate.stride(3) != 1:
            return reference.sigmoid_gate(x, gate)
        B, T, H, Dh = x.shape
        x, gate = x.contiguous(), _evenly_spaced(gate)
        y = torch.empty_like(x)
        self.gate_of(
            self.fork_join,
            torch.get_num_threads(),
            x.data_ptr(),
            gate.data_ptr(),
            y.data_ptr(),
            *(B * T, H, Dh),
            *(gate.stride(2), gate.stride(1)),
        )
        return y


def parts(rows: Rows) -> tuple[Tensor, int | None]:
    """Elements, and the address of their scales."""
    if isinstance(rows, Tensor):
        return rows, None
    codes, scale = rows.codes, rows.scale
    batch, head, row = codes.stride()[:3]
    assert scale.stride() == (batch // row, head // row, 1) and scale.dtype == torch.bfloat16
    return codes, scale.data_ptr()


def _evenly_spaced(x: Tensor) -> Tensor:
    """`x` (B, T, H, Dh) such that one step leads from each token to the next, over batches too."""
    B, T = x.shape[:2]
    return x if B == 1 or x.stride(0) == T * x.stride(1) else x.contiguous()
