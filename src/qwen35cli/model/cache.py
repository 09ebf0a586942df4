"""What the layers remember of the tokens so far.

Dtype policy: the delta state is always float32; convolution rows have the dtype of the activations;
keys and values have the dtype the cache was made with (bfloat16 unless chosen otherwise).

Two ways back: `rollback` is the short one (drafts of one round), `snapshot` and `restore` the long
one (an earlier turn). A key/value cache goes back by forgetting a count. A delta state cannot be
cut: it returns to a copy, and from there repeats the updates that are to stay.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol
from weakref import WeakSet

import torch
from torch import Tensor

from qwen35cli.kernels import Kernels
from qwen35cli.kernels.operands import DeltaLog, Int8Rows, Rows, key_heads
from qwen35cli.kernels.reference import until


class LayerCache(Protocol):
    """What the engine may ask of a layer's memory; the layer itself knows the concrete class."""

    length: int

    def hold(self) -> None:
        """From here on keep what `rollback` needs; ends an earlier hold."""
        ...

    def release(self) -> None:
        """Stop keeping it; `rollback` may then only go nowhere (delta) or anywhere (keys)."""
        ...

    def rollback(self, length: int) -> None:
        """Forget every token past `length`. Raises ValueError where that state was not kept."""
        ...

    def snapshot(self) -> Any:
        """What `restore` needs: delta state and rows copied to host memory, or just a length."""
        ...

    def restore(self, saved: Any) -> None:
        """Return to `saved`, taken from this cache. Raises ValueError where its keys are gone."""
        ...

    def nbytes(self) -> int:
        """Bytes allocated, counted alike on a real and on a meta device."""
        ...


@dataclass(eq=False, slots=True, weakref_slot=True)
class SavedKeys:
    """A length of a `KVCache`; `valid` until tokens below it are overwritten."""

    length: int
    valid: bool = True


class KVCache:
    """Normed, rotated keys and raw values of one attention layer, with room for `capacity` tokens.

    keys, values: (B, KV, capacity, Dh), or codes and scales where `dtype` is int8. Only the first
    `length` rows are ever read.
    """

    def __init__(
        self, batch: int, heads: int, capacity: int, width: int, dtype: torch.dtype
    ) -> None:
        def room() -> Rows:
            codes = torch.empty(batch, heads, capacity, width, dtype=dtype)
            if dtype != torch.int8:
                return codes
            return Int8Rows(codes, torch.empty(batch, heads, capacity, dtype=torch.bfloat16))

        self.length = 0
        self.capacity = capacity
        self.keys, self.values = room(), room()
        self._saved: WeakSet[SavedKeys] = WeakSet()

    def append(self, keys: Tensor, values: Tensor, kernels: Kernels) -> tuple[Rows, Rows]:
        """Write (B, T, KV, Dh) each behind what is there; returns views (B, KV, S, Dh) of it all.

        Raises:
            ValueError: more tokens than `capacity`.
        """
        start = self.length
        self.advance(keys.shape[1])
        kernels.store_rows(keys, self.keys, start)
        kernels.store_rows(values, self.values, start)
        return until(self.keys, self.length), until(self.values, self.length)

    def advance(self, tokens: int) -> None:
        """Move on by `tokens`, whose keys and values are about to be written.

        Raises:
            ValueError: more tokens than `capacity`.
        """
        end = self.length + tokens
        if end > self.capacity:
            raise ValueError(f"{end} tokens in a cache of {self.capacity}")
        self.length = end

    def hold(self) -> None:
        """Nothing to keep: forgetting is moving an integer."""

    def release(self) -> None:
        """Nothing was kept."""

    def rollback(self, length: int) -> None:
        if not 0 <= length <= self.length:
            raise ValueError(f"cannot roll {self.length} tokens back to {length}")
        self.length = length
        for saved in self._saved:
            saved.valid = saved.valid and saved.length <= length

    def snapshot(self) -> SavedKeys:
        saved = SavedKeys(self.length)
        self._saved.add(saved)
        return saved

    def restore(self, saved: SavedKeys) -> None:
        if not saved.valid or saved not in self._saved:
            raise ValueError(f"the keys up to token {saved.length} are gone")
        self.rollback(min(saved.length, self.length))
        self.length = saved.length

    def nbytes(self) -> int:
        return _nbytes(self.keys) + _nbytes(self.values)


def _nbytes(rows: Rows) -> int:
    return rows.nbytes if isinstance(rows, Tensor) else rows.codes.nbytes + rows.scale.nbytes


@dataclass(frozen=True, slots=True)
class SavedDelta:
    """State and rows of a `DeltaCache`, copied to host memory."""

    length: int
    state: Tensor
    rows: Tensor

    def nbytes(self) -> int:
        return self.state.nbytes + self.rows.nbytes


@dataclass(slots=True)
class _Held:
    """The state as `hold` found it, and what every call since did to it."""

    length: int
    state: Tensor
    rows: Tensor
    logs: list[DeltaLog] = field(default_factory=list)


class DeltaCache:
    """The memory of one Gated DeltaNet layer; its size does not depend on the length.

    state: (B, H, K, V) float32. rows: (B, W - 1, C), the last inputs of the convolution before the
    SiLU, oldest first.
    """

    def __init__(
        self,
        batch: int,
        heads: int,
        key_width: int,
        value_width: int,
        rows: int,
        channels: int,
        dtype: torch.dtype,
    ) -> None:
        self.length = 0
        self.state = torch.zeros(batch, heads, key_width, value_width)
        self.rows = torch.zeros(batch, rows, channels, dtype=dtype)
        self._held: _Held | None = None

    @property
    def holding(self) -> bool:
        return self._held is not None

    def advance(self, tokens: int, inputs: Tensor | None = None) -> DeltaLog | None:
        """Move on by `tokens`, which are about to enter state and rows.

        Args:
            inputs: what enters the convolution, (B, tokens, C); where it is not known yet, the log
                has room for it.

        Returns:
            What is to be filled in, where a `rollback` may ask for it.
        """
        self.length += tokens
        if self._held is None:
            return None
        B, H, K, V = self.state.shape
        C = self.rows.shape[2]
        new = self.state.new_empty
        if inputs is None:
            inputs = self.rows.new_empty(B, tokens, C)
        G = key_heads(C, self.state)
        log = DeltaLog(inputs, new(B, tokens, G, K), new(B, tokens, H, V), new(B, tokens, H))
        self._held.logs.append(log)
        return log

    def hold(self) -> None:
        self._held = _Held(self.length, self.state.clone(), self.rows.clone())

    def release(self) -> None:
        self._held = None

    def rollback(self, length: int) -> None:
        if length == self.length:
            return
        held = self._held
        if held is None or not held.length <= length <= self.length:
            kept = "nothing before it" if held is None else f"{held.length} to {self.length}"
            raise ValueError(f"cannot roll {self.length} tokens back to {length}; kept: {kept}")
        stay = length - held.length
        held.logs = _first(held.logs, stay)
        inputs = torch.cat([held.rows, *(log.inputs for log in held.logs)], dim=1)
        self.rows.copy_(inputs[:, stay:])
        self.state.copy_(held.state)
        for log in held.logs:
            _repeat(log, self.state)
        self.length = length

    def snapshot(self) -> SavedDelta:
        host = torch.device("cpu")
        return SavedDelta(
            self.length,
            self.state.to(host, copy=True),
            self.rows.to(host, copy=True),
        )

    def restore(self, saved: SavedDelta) -> None:
        self._held = None
        self.state.copy_(saved.state)
        self.rows.copy_(saved.rows)
        self.length = saved.length

    def nbytes(self) -> int:
        return self.state.nbytes + self.rows.nbytes


def _first(logs: Sequence[DeltaLog], tokens: int) -> list[DeltaLog]:
    """What the first `tokens` of all did."""
    kept = []
    for log in logs:
        if tokens > 0:
            parts = (log.inputs, log.k, log.d, log.g)
            kept.append(DeltaLog(*(part[:, :tokens] for part in parts)))
        tokens -= log.g.shape[1]
    return kept


def _repeat(log: DeltaLog, state: Tensor) -> None:
    """Do to `state` what the delta rule did, in the same order and precision."""
    share = log.d.shape[2] // log.k.shape[2]
    keys = log.k.repeat_interleave(share, dim=2)  # (B, T, H, K)
    for t in range(log.g.shape[1]):
        state.mul_(torch.exp(log.g[:, t])[..., None, None])
        state.add_(keys[:, t, :, :, None] * log.d[:, t, :, None])


@dataclass(frozen=True, slots=True)
class Saved:
    """A snapshot of a whole `Cache`."""

    length: int
    position_delta: int
    layers: tuple[Any, ...]
    mtp: Any

    def nbytes(self) -> int:
        return sum(saved.nbytes() for saved in self.layers if isinstance(saved, SavedDelta))


class Cache:
    """The memory of the whole model: one entry per layer, and the MTP layer's own keys.

    `position_delta` is added to the index of a token to get its position (negative after pictures).
    The MTP cache is filled only by whoever drafts, so its length is its own affair.
    """

    def __init__(self, layers: Sequence[KVCache | DeltaCache], mtp: KVCache | None) -> None:
        self.layers = tuple(layers)
        self.mtp = mtp
        self.position_delta = 0

    @property
    def length(self) -> int:
        return self.layers[0].length

    def advance(self, tokens: int) -> list[DeltaLog] | None:
        """Move all layers on by `tokens` that are about to be written.

        Returns:
            What is to be filled in for the delta layers, where a `rollback` may ask for it.

        Raises:
            ValueError: there is no room for them; nothing has moved.
        """
        for layer in self.layers:
            if isinstance(layer, KVCache):
                layer.advance(tokens)
        logs = [layer.advance(tokens) for layer in self.layers if isinstance(layer, DeltaCache)]
        return [log for log in logs if log is not None] or None

    def hold(self) -> None:
        for layer in self.layers:
            layer.hold()

    def release(self) -> None:
        for layer in self.layers:
            layer.release()

    def rollback(self, length: int) -> None:
        """Forget every token past `length` in all layers; the MTP keys are cut to it as well."""
        for layer in self.layers:
            layer.rollback(length)
        if self.mtp is not None:
            self.mtp.rollback(min(length, self.mtp.length))

    def reset(self) -> None:
        """Forget everything."""
        for layer in self.layers:
            if isinstance(layer, KVCache):
                layer.rollback(0)
            else:
                layer.release()
                layer.state.zero_()
                layer.rows.zero_()
                layer.length = 0
        if self.mtp is not None:
            self.mtp.rollback(0)
        self.position_delta = 0

    def snapshot(self) -> Saved:
        return Saved(
            self.length,
            self.position_delta,
            tuple(layer.snapshot() for layer in self.layers),
            None if self.mtp is None else self.mtp.snapshot(),
        )

    def restore(self, saved: Saved) -> None:
        for layer, state in zip(self.layers, saved.layers, strict=True):
            layer.restore(state)
        if self.mtp is not None:
            self.mtp.restore(saved.mtp)
        self.position_delta = saved.position_delta

    def nbytes(self) -> int:
        layers = sum(layer.nbytes() for layer in self.layers)
        return layers + (0 if self.mtp is None else self.mtp.nbytes())
