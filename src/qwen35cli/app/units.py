"""Counts, long lines, bytes of files, as people read them. Memory: `estimate.size`."""


def counted(count: int, what: str) -> str:
    """So many of something, which has an `s` where they are not one."""
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def size(count: int) -> str:
    """Bytes for people, in decimal units, as files are listed."""
    if count >= 1e8:
        return f"{count / 1e9:.2f} GB"
    return f"{count / 1e6:.2f} MB" if count >= 1e5 else f"{count:,} bytes"


def cut(line: str, most: int) -> str:
    """The line, or what of it fits into so many characters, with an ellipsis."""
    return line if len(line) <= most else line[: most - 1] + "…"
