"""Tables that fit: which columns are shown, and that nothing is cut."""

import io

import pytest
from rich.cells import cell_len
from rich.console import Console

from qwen35cli.cli.columns import fitted

NAMES = ["a", "名前" * 8, "n" * 30]
REST = {"size": ["1", "22", "333"], "kind": ["k" * 9] * 3, "where": ["w" * 20] * 3}


def drawn(columns):
    table = fitted("name", NAMES, REST, columns, order=("kind", "where", "size"), right=("size",))
    console = Console(file=io.StringIO(), width=columns or 240)
    console.print(table)
    return console.file.getvalue().splitlines()


@pytest.mark.parametrize(
    ("columns", "heads"),
    [
        (10, ["name"]),
        (30, ["name", "size"]),
        (50, ["name", "kind", "size"]),
        (80, ["name", "kind", "where", "size"]),
        (None, ["name", "kind", "where", "size"]),
    ],
)
def test_a_narrow_terminal_gets_fewer_columns_and_whole_ones(columns, heads):
    lines = drawn(columns)
    assert lines[0].split() == heads
    assert max(map(cell_len, lines)) <= (columns or 240)
    text = "".join(lines)
    assert text.count("n") - lines[0].count("n") == 30 and text.count("名前") == 8
    assert text.count("w" * 20) == (3 if "where" in heads else 0)
