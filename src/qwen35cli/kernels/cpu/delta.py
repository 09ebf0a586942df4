"""The compiled DeltaNet layer."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from qwen35cli.kernels import reference
from qwen35cli.kernels.operands import FEW, DeltaLog, DeltaWeights, Replay, key_heads

from .library import Foreign, Library, Longs, alike, longs

TAPS = 4  # width of the convolution that is compiled


@dataclass(frozen=True, slots=True)
class DeltaOps:
    """`delta_mix` for float32 activations; what has another dtype goes to the reference."""

    fork_join: int | None
    mix_of: Foreign
    fits: Foreign

    @classmethod
    def open(cls, library: Library) -> "DeltaOps":
        return cls(
            library.fork_join,
            library.function("delta_mix", "pi" + "p" * 13 + "ll" + "llllll" + "fi"),
            library.function("delta_fits", "llll", "i"),
        )

    def delta_mix(
        self,
        qkv: Tensor,
        z: Tensor,
        a: Tensor,
        b: Tensor,
        weights: DeltaWeights,
        rows: Tensor,
        state: Tensor,
        replay: Replay | None = None,
    ) -> Tensor:
        """See `reference.delta_mix`. Token by token, whatever T: the state stays in the cache."""
        B, T, C = qkv.shape
        H, K, V = state.shape[1:]
        G = key_heads(C, state)
        conv, dt_bias, a_log, norm = weights.conv, weights.dt_bias, weights.a_log, weights.norm
        if qkv.dtype != torch.float32 or conv.shape[2] != TAPS or not self.fits(G, H, K, V):
            return reference.delta_mix(qkv, z, a, b, weights, rows, state, replay)
        assert state.is_contiguous() and rows.is_contiguous()
        assert state.dtype == rows.dtype == a_log.dtype == norm.dtype == torch.float32
        conv, dt_bias = alike(conv, dt_bias)
        qkv, z, a, b = (tensor.contiguous() for tensor in (qkv, z, a, b))
        y = torch.empty(B, T, H * V)
        self.mix_of(
            self.fork_join,
            torch.get_num_threads(),
            qkv.data_ptr(),
            z.data_ptr(),
            a.data_ptr(),
            b.data_ptr(),
            conv.data_ptr(),
            dt_bias.data_ptr(),
            a_log.data_ptr(),
            norm.data_ptr(),
            rows.data_ptr(),
            state.data_ptr(),
            y.data_ptr(),
            *((None, None, 0) if replay is None else replayed((replay,))),
            FEW,
            *(B, T, G, H, K, V),
            weights.eps,
            conv.dtype == torch.bfloat16,
        )
        return y


def replayed(replays: Sequence[Replay]) -> tuple[Longs, Longs | None, int]:
    """`past`, `log` and `kept` of delta.cpp, for layers that all keep as much."""
    first = replays[0]
    past = _pointers(replay.past for replay in replays)
    log = None
    if first.log is not None:
        log = _pointers(replay.log for replay in replays if replay.log is not None)
    return past, log, first.kept


def _pointers(logs: Iterable[DeltaLog]) -> Longs:
    """The fields of `Log` in ops.h, for each."""
    tensors = [tensor for log in logs for tensor in (log.inputs, log.k, log.d, log.g)]
    return longs([tensor.data_ptr() for tensor in tensors])
