"""Cut a stream into units that do not depend on how it arrived."""

import re
from collections.abc import Iterator

from qwen35cli.cli.width import CJK

LONGEST = 200  # characters of a unit without a place to cut

# Up to a blank, a newline or a CJK character, and with it; else LONGEST characters.
_UNIT = re.compile(f"[^ \t\n{CJK}]{{0,{LONGEST - 1}}}[ \t\n{CJK}]|[^ \t\n{CJK}]{{{LONGEST}}}")


class Units:
    """Whoever decides once per unit decides alike however the text was cut."""

    def __init__(self) -> None:
        self._rest = ""

    def feed(self, piece: str) -> Iterator[str]:
        """The units that are whole now."""
        text = self._rest + piece
        end = 0
        for match in _UNIT.finditer(text):
            end = match.end()
            yield match[0]
        self._rest = text[end:]

    def end(self) -> Iterator[str]:
        """What is left, if anything."""
        if self._rest:
            yield self._rest
            self._rest = ""
