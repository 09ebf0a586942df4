"""A memory as named tensors, and back: what a file of saved state holds.

`tokens` are the keys of the log; `places` one row for each state: tokens, position offset, keys of
the MTP layer (-1: it had none), whether it is kept before others. Keys and values stand there once,
up to the last place; each place has its own delta states, convolution rows, and the last token's
state for the MTP layer.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from qwen35cli.kernels.operands import Int8Rows, Rows
from qwen35cli.model.cache import DeltaCache, KVCache, Saved, SavedDelta

from .memory import Memory, Place, shared_prefix
from .runner import State

Fetch = Callable[[str], Tensor]


def tensors_of(memory: Memory, places: Sequence[Place]) -> dict[str, Tensor]:
    """Everything that `fill` needs to return to `places`; keys and values are views.

    Args:
        memory: whose caches hold the keys up to the last of them.
        places: some of its own, by rising length; at least one.
    """
    length, cache = places[-1].length, memory.cache
    table = []
    tensors = {"tokens": torch.tensor(memory.log[:length])}
    for number, place in enumerate(places):
        saved, name = place.state.cache, f"places.{number}"
        mtp = -1 if saved.mtp is None else saved.mtp.length
        table.append([place.length, saved.position_delta, mtp, int(place.kept)])
        for index, layer in enumerate(saved.layers):
            if isinstance(layer, SavedDelta):
                tensors[f"{name}.layers.{index}.state"] = layer.state
                tensors[f"{name}.layers.{index}.rows"] = layer.rows
        if place.state.drafter is not None:
            tensors[f"{name}.hidden"], tensors[f"{name}.position"] = place.state.drafter
    tensors["places"] = torch.tensor(table)
    for index, each in enumerate(cache.layers):
        if isinstance(each, KVCache):
            tensors |= _rows(f"layers.{index}", each, length)
    if cache.mtp is not None:
        tensors |= _rows("mtp", cache.mtp, max(0, table[-1][2]))
    return tensors


def fill(memory: Memory, fetch: Fetch, keys: Sequence[int] | None = None) -> int:
    """Put what `tensors_of` gave back into an empty memory, and return to its last place.

    Args:
        memory: made as the one it comes from; what it holds is forgotten.
        fetch: gives the tensors by name, states in memory of their own; KeyError where there is
            none.
        keys: of what will be read next: only what is shared with it is taken over. None: all.

    Returns:
        Tokens that need not be read again: up to the last place that is shared and has room; 0
        where none is and has.

    Raises:
        ValueError, KeyError: the tensors do not belong to such a memory; it is left empty.
    """
    memory.forget()
    tokens, places = contents(fetch)
    shared = len(tokens) if keys is None else min(shared_prefix(tokens, keys), len(keys) - 1)
    table = [row for row in places if row[0] <= min(shared, memory.capacity)]
    if not table:
        return 0
    try:
        _fill(memory, fetch, table)
    except BaseException:
        memory.forget()
        raise
    memory.resume(tokens[: table[-1][0]])
    return int(table[-1][0])


def contents(fetch: Fetch) -> tuple[list[int], list[list[int]]]:
    """The keys of the log, and the row of each place.

    Raises:
        ValueError, KeyError: the tensors are not as `tensors_of` makes them.
    """
    tokens, places = fetch("tokens"), fetch("places")
    if tokens.dim() != 1 or places.shape[1:] != (4,):
        raise ValueError(f"tokens {tuple(tokens.shape)}, places {tuple(places.shape)}")
    if tokens.dtype != torch.int64 or places.dtype != torch.int64:
        raise ValueError(f"tokens of {tokens.dtype}, places of {places.dtype}")
    return tokens.tolist(), places.tolist()


@torch.inference_mode()
def _fill(memory: Memory, fetch: Fetch, table: list[list[int]]) -> None:
    cache = memory.cache
    _check(table)
    for index, layer in enumerate(cache.layers):
        if isinstance(layer, KVCache):
            _read_rows(fetch, f"layers.{index}", layer, table[-1][0])
    if cache.mtp is not None and table[-1][2] >= 0:
        _read_rows(fetch, "mtp", cache.mtp, table[-1][2])
    for number, (length, position_delta, mtp, kept) in enumerate(table):
        name = f"places.{number}"
        layers: list[object] = []
        for index, layer in enumerate(cache.layers):
            if isinstance(layer, KVCache):
                layer.advance(length - layer.length)
                layers.append(layer.snapshot())
            else:
                layers.append(_delta(fetch, f"{name}.layers.{index}", layer, length))
        saved_mtp = None
        if cache.mtp is not None:
            cache.mtp.advance(max(0, mtp - cache.mtp.length))
            saved_mtp = cache.mtp.snapshot()
        drafter = None
        if memory.runner.drafter is not None and mtp >= 0:
            hidden, position = fetch(f"{name}.hidden"), fetch(f"{name}.position")
            width = memory.runner.model.config.text.hidden_size
            if (hidden.shape, position.shape) != ((1, 1, width), (3, 1, 1)):
                raise ValueError(f"{name}: {tuple(hidden.shape)}, {tuple(position.shape)}")
            drafter = hidden.to(memory.runner.model.device, copy=True), position.clone()
        saved = Saved(length, position_delta, tuple(layers), saved_mtp)
        memory.places.append(Place(State(saved, drafter), bool(kept)))
    memory.runner.restore(memory.places[-1].state)


def _check(table: list[list[int]]) -> None:
    lengths = [row[0] for row in table]
    if lengths != sorted(set(lengths)) or lengths[0] < 1:
        raise ValueError(f"states after {lengths} tokens")


def _delta(fetch: Fetch, name: str, layer: DeltaCache, length: int) -> SavedDelta:
    state, rows = fetch(f"{name}.state"), fetch(f"{name}.rows")
    for given, own in ((state, layer.state), (rows, layer.rows)):
        if given.shape != own.shape or given.dtype != own.dtype:
            raise ValueError(f"{name} is {given.dtype} {tuple(given.shape)}")
    return SavedDelta(length, state, rows)


def _parts(rows: Rows) -> dict[str, Tensor]:
    """The tensors that hold rows, with the number of tokens in dimension 2."""
    if isinstance(rows, Int8Rows):
        return {"": rows.codes, ".scale": rows.scale}
    return {"": rows}


def _rows(name: str, cache: KVCache, length: int) -> dict[str, Tensor]:
    return {
        f"{name}.{kind}{part}": tensor[:, :, :length]
        for kind, rows in (("keys", cache.keys), ("values", cache.values))
        for part, tensor in _parts(rows).items()
    }


def _read_rows(fetch: Fetch, name: str, cache: KVCache, length: int) -> None:
    for key, room in _rows(name, cache, length).items():
        given = fetch(key)
        given = given[:, :, :length] if given.dim() == room.dim() else given
        if given.dtype != room.dtype or given.shape != room.shape:
            raise ValueError(f"{key} is {given.dtype} {tuple(given.shape)}")
        room.copy_(given)
