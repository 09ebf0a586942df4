"""JSON that any file and any terminal takes."""

import json
import re

# Exact in JSON, but not safe to show, or not to be encoded: written as \uXXXX.
ESCAPED = re.compile("[\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def json_text(value: object, indent: int | None = None) -> str:
    """`value` as JSON, whatever the texts in it hold."""
    text = json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False)
    return ESCAPED.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
