"""Removing what is kept on disk: what goes with what, how much that frees, and how it goes."""

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from qwen35cli.checkpoint import hub_removal
from qwen35cli.errors import Qwen35Error, UsageError

from . import quantized_folder
from .inventory import Inventory
from .items import Item
from .private_files import disk_errors
from .quantized_folder import PARTIAL
from .sessions import Store

HISTORY_S = 2.0  # patience with a program that writes to the history just now


@dataclass(frozen=True, slots=True)
class Removal:
    """What is to go, and the bytes that this frees: of the Hub's cache what nothing else uses.

    Attributes:
        unused: weights that were quantized from what goes, and stay.
    """

    items: Sequence[Item]
    freed: int
    unused: Sequence[Item]


def removal(inventory: Inventory, names: Sequence[str], *, cache_only: bool = False) -> Removal:
    """What is to go: the things of these names, with the saved state of sessions.

    Args:
        cache_only: saved state only, of the sessions that are named, or all where none is.

    Raises:
        UsageError: a name is unknown or not clear, or has no saved state.
        Qwen35Error: another process writes one of them.
    """
    chosen = [inventory.find(name) for name in names]
    if cache_only:
        chosen = _cached(inventory, chosen)
    else:
        chosen += [state for item in chosen for state in inventory.states_of(item)]
        chosen += _unfinished_of(inventory, chosen)
    items = [item for item in inventory.items if any(item is each for each in chosen)]
    for item in items:
        if item.pid is not None:
            raise Qwen35Error(
                f"{item.name} is being written by another qwen35 (pid {item.pid})",
                "wait for it, or stop it first",
            )
    snapshots = [item.snapshot for item in items if item.snapshot is not None]
    with disk_errors("read", inventory.places.hub):
        freed = hub_removal.freed(inventory.places.hub, snapshots)
    freed += sum(item.nbytes for item in items if item.snapshot is None)
    return Removal(items, freed, inventory.made_from(items))


def _cached(inventory: Inventory, chosen: Sequence[Item]) -> list[Item]:
    if not chosen:
        states = inventory.places.cache / "states"
        return [
            item
            for item in inventory.items
            if item.kind == "state" or (item.path.parent == states and item.pid is None)
        ]
    found = []
    for item in chosen:
        states_of = [item] if item.kind == "state" else inventory.states_of(item)
        if not states_of:
            raise UsageError(f"{item.name} has no saved state", "qwen35 ls lists what there is")
        found += states_of
    return found


def _unfinished_of(inventory: Inventory, chosen: Sequence[Item]) -> list[Item]:
    """What was downloaded in part for repositories of which no checkpoint stays."""
    staying = {
        item.snapshot.repo
        for item in inventory.items
        if item.kind == "checkpoint" and item.snapshot and not any(item is c for c in chosen)
    }
    going = {item.snapshot.repo for item in chosen if item.snapshot} - staying
    return [
        item
        for item in inventory.items
        if item.kind == "unfinished" and item.snapshot and item.snapshot.repo in going
    ]


def remove(inventory: Inventory, removal: Removal) -> Iterator[Item]:
    """Remove them one after the other; each is yielded when it is gone.

    Raises:
        Qwen35Error: another program holds one, or it cannot be removed; those before are gone.
    """
    by_repo: dict[str, list[Item]] = {}
    for item in removal.items:
        if item.snapshot is not None:
            by_repo.setdefault(item.snapshot.repo, []).append(item)
    for items in by_repo.values():
        with disk_errors("remove", items[0].path):
            hub_removal.remove(
                inventory.places.hub, [item.snapshot for item in items if item.snapshot]
            )
        yield from items
    for item in removal.items:
        if item.snapshot is None:
            with disk_errors("remove", item.path):
                _remove(item)
            yield item


def _remove(item: Item) -> None:
    path = item.path
    if item.kind == "session":
        Store(path.parent).remove(item.id)
    elif item.kind == "quantized":
        quantized_folder.remove(path)
    elif item.kind == "unfinished" and path.is_dir():
        found = PARTIAL.fullmatch(path.name)
        assert found
        quantized_folder.remove_begun(path.with_name(found[1]))
    elif item.kind == "history":
        _remove_history(path)
    elif path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _remove_history(path: Path) -> None:
    from filelock import FileLock, Timeout  # late: 50 ms

    lock = path.with_name(f".{path.name}.lock")
    try:
        with FileLock(lock, timeout=HISTORY_S, mode=0o600):
            path.unlink(missing_ok=True)
    except Timeout:
        raise Qwen35Error(f"another qwen35 holds {lock}", "try again") from None
