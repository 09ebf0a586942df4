"""Lines that are broken between words, as wide characters count."""

from wcwidth import iter_graphemes

from .width import width


def rows(line: str, columns: int) -> list[str]:
    """`line` in rows of at most `columns`, cut at blanks where there are some."""
    found: list[str] = []
    row, used = "", 0
    for cluster in iter_graphemes(line.expandtabs(4)):
        size = width(cluster)
        if used + size > columns:
            head, blank, rest = row.rpartition(" ")
            if not blank or not head or cluster == " ":
                head, rest = row, ""
            found.append(head)
            row, used = rest, width(rest)
        if cluster == " " and found and not row:
            continue  # the line is broken here
        row, used = row + cluster, used + size
    return [*found, row] if row or not found else found
