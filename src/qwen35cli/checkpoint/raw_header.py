"""How a safetensors file begins, as the JSON that it is. Free of torch.

The format: 8 bytes with the length of the header, little-endian; the header, a JSON object with
dtype, shape and byte range of each tensor; the data.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qwen35cli.errors import ModelError

from .strict_json import FETCH_AGAIN, parse_object

MAX_HEADER_BYTES = 4 * 2**20  # the 27B, in one file, takes 0.2


@dataclass(frozen=True, slots=True)
class RawHeader:
    """What a file says of itself; nothing of it is checked but that it is JSON."""

    entries: dict[str, Any]  # by tensor
    metadata: Any
    begin: int  # of the data, in bytes from the start of the file
    size: int  # of the file

    @property
    def described(self) -> int:
        """Bytes that the file should have.

        Raises:
            ValueError: the entries do not say.
        """
        end = 0
        for entry in self.entries.values():
            offsets = entry.get("data_offsets") if isinstance(entry, dict) else None
            if not isinstance(offsets, list) or not offsets or type(offsets[-1]) is not int:
                raise ValueError("a tensor without data_offsets")
            end = max(end, offsets[-1])
        return self.begin + end


def raw_header(path: Path) -> RawHeader:
    """Read how the file at `path` begins.

    Raises:
        ModelError: it does not begin as the format asks for.
        OSError: it cannot be read.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or not 2 <= length <= min(size - 8, MAX_HEADER_BYTES):
            raise ModelError(
                f"{path}: a header of {length:,} bytes in a file of {size:,}; "
                f"at most {MAX_HEADER_BYTES:,} are allowed",
                FETCH_AGAIN,
            )
        text = file.read(length)
    if not text.startswith(b"{"):
        raise ModelError(f"{path}: the header does not begin with {{", FETCH_AGAIN)
    entries = parse_object(text, f"{path}: the header")
    metadata = entries.pop("__metadata__", {})
    return RawHeader(entries, metadata, 8 + length, size)
