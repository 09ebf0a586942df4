"""Tables for terminals of any width."""

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from .terminal import WIDE

if TYPE_CHECKING:
    from rich.table import Table

GAP = 2  # columns between two of a table's
LEAST = 20  # columns of the names, of which the rest takes none


def fitted(
    head: str,
    names: Sequence[str],
    rest: Mapping[str, Sequence[str]],
    columns: int | None,
    *,
    order: Sequence[str],
    right: Collection[str],
) -> "Table":
    """A line for each name. A narrow terminal gets fewer columns, none of them cut.

    Args:
        rest: cells by the head of their column; the first are the last to go.
        columns: of the terminal; None: a pipe or a file, which gets all.
        order: of the heads from left to right.
        right: which are aligned so.
    """
    from rich.cells import cell_len  # late: not for --help
    from rich.table import Table

    longest = max(map(cell_len, (head, *names)))
    room = columns or WIDE
    name = min(longest, max(LEAST, room // 3), room)
    shown, room = [], room - name
    for each, cells in rest.items():
        width = GAP + max(map(cell_len, (each, *cells)))
        if width > room and columns is not None:
            break
        shown.append(each)
        room -= width
    made = Table(box=None, pad_edge=False)
    made.add_column(head, overflow="fold", width=min(longest, name + max(room, 0)))
    for each in (each for each in order if each in shown):
        made.add_column(each, justify="right" if each in right else "left", overflow="fold")
    for row, label in enumerate(names):
        made.add_row(label, *(rest[each][row] for each in order if each in shown))
    return made
