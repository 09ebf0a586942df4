"""A variable that looks like ours and that nothing reads."""

import difflib
from collections.abc import Set


def unread(variable: str, known: Set[str]) -> tuple[str, str]:
    """That nothing reads it, and what mends that: which of the `known` ones may be meant."""
    near = difflib.get_close_matches(variable, sorted(known), 1)
    meant = f"; did you mean {near[0]}?" if near else ""
    return f"nothing reads the variable {variable}", f"unset {variable}{meant}"
