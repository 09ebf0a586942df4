"""Where a line of people's text is broken."""

import pytest

from qwen35cli.cli.width import width
from qwen35cli.cli.wrap import rows


@pytest.mark.parametrize(
    ("line", "columns", "broken"),
    [
        ("", 5, [""]),
        ("one two three", 8, ["one two", "three"]),
        ("hello world again", 11, ["hello world", "again"]),
        ("hello   world", 5, ["hello", "world"]),
        ("hello ", 5, ["hello"]),
        ("abcdefgh ij", 5, ["abcde", "fgh", "ij"]),
        ("  indented text", 10, ["  indented", "text"]),
        ("中文中文", 5, ["中文", "中文"]),
    ],
)
def test_a_line_is_broken_at_blanks_which_no_row_begins_with(line, columns, broken):
    assert rows(line, columns) == broken
    assert all(width(row) <= columns for row in broken)
