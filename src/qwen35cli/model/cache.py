"""What the layers remember of the tokens so far.

Dtype policy: the delta state is always float32; convolution rows have the dtype of the activations;
keys and values have the dtype the cache was made with (bfloat16 unless chosen otherwise).

Two ways back: `rollback` is the short one (within the last few tokens), `snapshot` and `restore`
the long one (an earlier turn). A key/value cache goes back by forgetting a count. A delta state
cannot be cut: it stays behind by the last step, whose updates stand in a log, and the next step
carries out those that are to stay.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol
from weakref import WeakSet

import torch
from torch import Tensor

from qwen35cli.kernels import Kernels
from qwen35cli.kernels.operands import FEW, DeltaLog, Int8Rows, Replay, Rows, key_heads
from qwen35cli.kernels.reference import absorb, one_log, until


class LayerCache(Protocol):
    """What the engine may ask of a layer's memory; the layer itself knows the concrete class."""

    length: int

    def rollback(self, length: int) -> None:
        """Forget every token past `length`. Raises ValueError where that cannot be had back."""
        ...

    def reaches(self, length: int) -> bool:
        """Whether `rollback` can go back to `length`."""
        ...

    def snapshot(self) -> Any:
        """What `restore` needs: delta state and rows copied to host memory, or just a length."""
        ...

    def restore(self, saved: Any) -> None:
        """Return to `saved`, taken from this cache. Raises ValueError where its keys are gone."""
        ...

    def tensors(self) -> list[Tensor]:
        """All memory that is allocated."""
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

    def reaches(self, length: int) -> bool:
        return 0 <= length <= self.length

    def rollback(self, length: int) -> None:
        if not self.reaches(length):
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

    def tensors(self) -> list[Tensor]:
        rows = self.keys, self.values
        return [
            tensor
            for each in rows
            for tensor in ((each,) if isinstance(each, Tensor) else (each.codes, each.scale))
        ]

    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors())


@dataclass(frozen=True, slots=True)
class SavedDelta:
    """State and rows of a `DeltaCache`, copied to host memory."""

    length: int
    state: Tensor
    rows: Tensor

    def nbytes(self) -> int:
        return self.state.nbytes + self.rows.nbytes


class DeltaCache:
    """The memory of one Gated DeltaNet layer; its size does not depend on the length.

    state: (B, H, K, V) float32. rows: (B, W - 1, C), the last inputs of the convolution before the
    SiLU, oldest first. With `undo`, both leave out what stands in the log of the last step. logs:
    two of these, the one of the last step and the one that the next writes; `last` tells them apart
    and `kept` is how many of its tokens stay.
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
        *,
        undo: bool = False,
    ) -> None:
        self.length = 0
        self.state = torch.zeros(batch, heads, key_width, value_width)
        self.rows = torch.zeros(batch, rows, channels, dtype=dtype)
        G = key_heads(channels, self.state)

        self.logs: Final = (
            DeltaLog(
                torch.empty(2, batch, FEW, channels, dtype=dtype),
                torch.empty(2, batch, FEW, G, key_width),
                torch.empty(2, batch, FEW, heads, value_width),
                torch.empty(2, batch, FEW, heads),
            )
            if undo
            else None
        )
        self._logs = None if self.logs is None else (one_log(self.logs, 0), one_log(self.logs, 1))
        self.last = 0
        self.kept = 0

    def advance(self, tokens: int, *, undo: bool = True) -> Replay | None:
        """Move on by `tokens`, which are about to enter the memory; says how.

        Args:
            undo: whether they may be taken back; without, what comes of them has the bits that a
                cache without logs gives.
        """
        self.length += tokens
        if self._logs is None:
            return None
        past, kept = self._logs[self.last], self.kept
        undo = undo and tokens <= FEW
        self.last = 1 - self.last
        self.kept = tokens if undo else 0
        return Replay(past, kept, self._logs[self.last] if undo else None)

    def reaches(self, length: int) -> bool:
        return self.length - self.kept <= length <= self.length

    def rollback(self, length: int) -> None:
        """Forget every token past `length`: of the last step, if it had at most `FEW`."""
        first = self.length - self.kept
        if length == self.length:
            return
        if not self.reaches(length):
            raise ValueError(
                f"cannot roll {self.length} tokens back to {length}; kept: from {first}"
            )
        self.kept = length - first
        self.length = length

    def absorb(self) -> None:
        """Carry out what stays of the last step; `rollback` then goes nowhere."""
        if self._logs is not None:
            absorb(self._logs[self.last], self.kept, self.rows, self.state)
        self.kept = 0

    def clear(self) -> None:
        """Forget everything."""
        self.kept = self.length = self.last = 0
        self.state.zero_()
        self.rows.zero_()

    def snapshot(self) -> SavedDelta:
        self.absorb()
        host = torch.device("cpu")
        return SavedDelta(
            self.length,
            self.state.to(host, copy=True),
            self.rows.to(host, copy=True),
        )

    def restore(self, saved: SavedDelta) -> None:
        self.kept = self.last = 0  # `last` too: steps take it for that of all layers
        self.state.copy_(saved.state)
        self.rows.copy_(saved.rows)
        self.length = saved.length

    def tensors(self) -> list[Tensor]:
        both = self.logs
        logs = [] if both is None else [both.inputs, both.k, both.d, both.g]
        return [self.state, self.rows, *logs]

    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors())


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

    def advance(self, tokens: int, *, undo: bool = True) -> list[Replay] | None:
        """Move all layers on by `tokens` that are about to be written; `undo`: see `DeltaCache`.

        Returns:
            How the delta layers take them, where they may be taken back.

        Raises:
            ValueError: there is no room for them; nothing has moved.
        """
        for layer in self.layers:
            if isinstance(layer, KVCache):
                layer.advance(tokens)
        deltas = [layer for layer in self.layers if isinstance(layer, DeltaCache)]
        steps = [layer.advance(tokens, undo=undo) for layer in deltas]
        return [step for step in steps if step is not None] or None

    def reaches(self, length: int) -> bool:
        """Whether `rollback` can go back to `length`."""
        return all(layer.reaches(length) for layer in self.layers)

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
                layer.clear()
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

    def tensors(self) -> list[Tensor]:
        """All memory that is allocated."""
        memories = [*self.layers, *([] if self.mtp is None else [self.mtp])]
        return [tensor for memory in memories for tensor in memory.tensors()]

    def nbytes(self) -> int:
        """Bytes allocated, counted alike on a real and on a meta device."""
        return sum(tensor.nbytes for tensor in self.tensors())
