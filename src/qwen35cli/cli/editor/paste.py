"""Long pastes, each folded into one mark of the line that is edited."""

import re

SHOWN_LINES = 40
SHOWN_CHARACTERS = 100_000  # of a longer text each key would take noticeable time to draw

# A mark is a lone high surrogate: no keyboard, file or terminal can bring one about.
_FIRST, _LAST = 0xD800, 0xDBFF
MARK = re.compile("[\ud800-\udbff]")


def normalized(text: str) -> str:
    """A paste with line feeds alone at the ends of its lines, and nothing that reads as a mark."""
    return MARK.sub("\ufffd", text.replace("\r\n", "\n").replace("\r", "\n"))


class Pastes:
    """The texts behind the marks. A mark may be moved, copied and deleted like any character."""

    def __init__(self) -> None:
        self._texts: dict[str, str] = {}

    def fold(self, text: str) -> str:
        """What stands in the line for a paste: the text itself, or a mark where it is long."""
        if _lines(text) <= SHOWN_LINES and len(text) <= SHOWN_CHARACTERS:
            return text
        mark = chr(_FIRST + len(self._texts) % (_LAST - _FIRST + 1))
        self._texts[mark] = text
        return mark

    def fold_again(self, text: str) -> str:
        """`text` with every paste that it holds unchanged folded as before."""
        for mark, pasted in sorted(self._texts.items(), key=lambda item: -len(item[1])):
            text = text.replace(pasted, mark)
        return text

    def expand(self, text: str) -> str:
        """`text` with every mark replaced by what it stands for."""
        return MARK.sub(lambda mark: self._texts.get(mark[0], ""), text)

    def label(self, mark: str) -> str:
        """How a mark is shown."""
        text = self._texts.get(mark, "")
        lines = _lines(text)
        if lines <= SHOWN_LINES:
            return f"[pasted {len(text):,} characters]"
        return f"[pasted {lines:,} lines]"


def _lines(text: str) -> int:
    return text.count("\n") + (not text.endswith("\n"))
