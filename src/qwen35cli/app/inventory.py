"""Everything that is kept on disk or used from there, and which of it a name means."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches

from qwen35cli.errors import UsageError

from . import finding
from .items import KINDS, Item, Places, total
from .source import DEMO


@dataclass(frozen=True, slots=True)
class Inventory:
    """All of it, in the order of the list."""

    places: Places
    items: Sequence[Item]

    @property
    def nbytes(self) -> int:
        return total(self.items)

    def find(self, name: str) -> Item:
        """The thing that is called `name`; what the list calls so comes before other names.

        Raises:
            UsageError: there is none, or there are several.
        """
        found = [item for item in self.items if name == item.name]
        found = found or [item for item in self.items if name in item.names]
        if len(found) == 1:
            return found[0]
        if found:
            own = ", ".join(item.name for item in found[:4]) + (" …" if len(found) > 4 else "")
            raise UsageError(
                f"{name[:80]!r} stands for {len(found)} things: {own}",
                "one of these names, or each of them",
            )
        if name == DEMO:
            raise UsageError("demo is a part of the program", "qwen35 ls lists what can go")
        near = get_close_matches(name, sorted(item.name for item in self.items), 1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise UsageError(f"nothing is called {name[:80]!r}", f"{hint}qwen35 ls lists the names")

    def states_of(self, item: Item) -> list[Item]:
        """The saved state of a session."""
        if item.kind != "session":
            return []
        return [each for each in self.items if each.kind == "state" and each.id == item.id]

    def made_from(self, items: Sequence[Item]) -> list[Item]:
        """The weights that were quantized from any of `items`, and are none of these."""
        folders = {item.path.resolve() for item in items}
        return [each for each in self.items if each.made_from in folders and each not in items]


def look(places: Places) -> Inventory:
    """Find everything; what is damaged or half made is listed as that.

    Raises:
        Qwen35Error: a folder cannot be read.
    """
    order = list(KINDS)
    items = sorted(finding.everything(places), key=lambda item: order.index(item.kind))  # stable
    return Inventory(places, _named(items))


def weights(places: Places) -> Inventory:
    """Of checkpoints and quantized weights alone.

    Raises:
        Qwen35Error: a folder cannot be read.
    """
    items = [item for item in finding.weights(places) if item.kind != "unfinished"]
    return Inventory(places, _named(items))


def _named(items: Sequence[Item]) -> list[Item]:
    """The items, each with the names first that no other has."""
    known = Counter(name for item in items for name in item.names)
    return [
        replace(item, names=tuple(sorted(item.names, key=lambda name: known[name] > 1)))
        for item in items
    ]
