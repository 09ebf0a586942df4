"""Bytes of files and downloads, as people read them. Memory is told by `estimate.size`."""


def size(count: int) -> str:
    """Bytes for people, in decimal units, as files are listed."""
    if count >= 1e8:
        return f"{count / 1e9:.2f} GB"
    return f"{count / 1e6:.2f} MB" if count >= 1e5 else f"{count:,} bytes"
