"""JSON from files that nobody vouches for."""

import json
from typing import Any

from qwen35cli.errors import ModelError

FETCH_AGAIN = "the file is damaged or was tampered with: fetch the checkpoint again"


def parse_object(text: bytes, where: str) -> dict[str, Any]:
    """The JSON object in `text`. A key that occurs twice is refused, as are NaN and Infinity.

    Raises:
        ModelError: it is something else; the message begins with `where`.
    """
    try:
        value = json.loads(text.decode(), object_pairs_hook=_unique, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError
        raise ModelError(f"{where} is not usable JSON: {str(error)[:120]}", FETCH_AGAIN) from None
    if not isinstance(value, dict):
        raise ModelError(f"{where} holds a JSON {type(value).__name__}, no object", FETCH_AGAIN)
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in pairs:
        if key in result:
            raise ValueError(f"the key {key[:80]!r} occurs twice")
        result[key] = value
    return result


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not a JSON number")
