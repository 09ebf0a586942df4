"""JSON from people and models, read strictly: what would be ambiguous or lost is refused."""

import json
from math import isinf
from pathlib import Path
from typing import Any

from qwen35cli.errors import UsageError

MAX_FILE_BYTES = 2**20
_MAX_DIGITS = 4_300  # above it Python does not read an integer


def loads(text: str) -> Any:
    """The value that `text` is the JSON of.

    Raises:
        ValueError: no JSON; a key twice in one object; NaN, Infinity or a number beyond 1e308;
            half a surrogate pair; nested too deeply. The message says what, and where if known.
    """
    try:
        value = json.loads(
            text,
            object_pairs_hook=_unique,
            parse_constant=_refuse,
            parse_float=_float,
            parse_int=_int,
        )
        json.dumps(value, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        what = error.msg[:1].lower() + error.msg[1:].removesuffix(" at")
        raise ValueError(f"{what} at line {error.lineno:,}, column {error.colno:,}") from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except UnicodeEncodeError as error:
        code = ord(error.object[error.start])
        raise ValueError(f"U+{code:04X} is half a surrogate pair, no character") from None
    return value


def read(path: Path, hint: str) -> Any:
    """The value in a JSON file, of at most `MAX_FILE_BYTES`; a byte order mark is no part of it.

    Raises:
        UsageError: missing, not to be read, too large, no UTF-8, or not what `loads` takes; with
            `hint` where the path may be meant otherwise.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        raise UsageError(f"no file at {path}", hint) from None
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}", hint) from None
    if len(data) > MAX_FILE_BYTES:
        raise UsageError(f"{path} has more than {MAX_FILE_BYTES:,} bytes, the most that is read")
    try:
        return loads(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{path} is not UTF-8: byte {error.start + 1:,} is 0x{data[error.start]:02x}",
            "save it as UTF-8",
        ) from None
    except ValueError as error:
        raise UsageError(f"{path} is not valid JSON: {error}") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in pairs:
        if key in result:
            raise ValueError(f"the key {key[:80]!r} occurs twice in one object")
        result[key] = value
    return result


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not a JSON number")


def _float(digits: str) -> float:
    value = float(digits)
    if isinf(value):
        raise ValueError(f"the number {digits[:40]} is out of range")
    return value


def _int(digits: str) -> int:
    if len(digits) > _MAX_DIGITS:
        raise ValueError(f"a number has {len(digits):,} digits, more than {_MAX_DIGITS:,}")
    return int(digits)
