"""Display widths, and where a line may break between two characters."""

import re
from collections.abc import Iterator

from wcwidth import iter_graphemes, wcswidth, wcwidth

# Scripts without spaces between words, and their punctuation; as the inside of a [class].
CJK = (
    "\u1100-\u11ff\u2e80-\u9fff\ua960-\ua97f\uac00-\ud7ff\uf900-\ufaff"
    "\ufe30-\ufe4f\uff00-\uffef\U00020000-\U0003ffff"
)
is_cjk = re.compile(f"[{CJK}]").match

# Never first, never last on a line beside CJK.
_NOT_FIRST = frozenset(
    "、。，．・：；？！）〕］｝〉》」』】〙〗〟’”»ーぁぃぅぇぉっゃゅょァィゥェォッャュョ々〻…‥～%.,:;!?)]}'\""
)
_NOT_LAST = frozenset("（〔［｛〈《「『【〘〖〝‘“«([{$¥￥＄")
_CLUSTER = 16  # characters, beyond which what joins them is left out of account


def width(text: str) -> int:
    """Columns that `text` takes; control characters take none."""
    if text.isascii() and text.isprintable():
        return len(text)
    cells = wcswidth(text)
    return cells if cells >= 0 else sum(max(0, wcwidth(char)) for char in text)


def clusters(text: str) -> Iterator[str]:
    """What may not be torn apart: runs of ASCII, and grapheme clusters of the rest."""
    if text.isascii():
        yield text
        return
    run = ""
    for cluster in iter_graphemes(text):
        if cluster.isascii():
            run += cluster
            continue
        if run:
            yield run
            run = ""
        yield cluster
    if run:
        yield run


def joined(before: str, after: str) -> bool:
    """Whether `after` starts inside the last cluster of `before`."""
    if after[0].isascii():
        return False
    return len(list(iter_graphemes(before[-_CLUSTER:] + after[0]))) == len(
        list(iter_graphemes(before[-_CLUSTER:]))
    )


def may_break(before: str, after: str) -> bool:
    """Whether a line may end between two clusters that no blank parts."""
    if not (is_cjk(before[-1]) or is_cjk(before[0]) or is_cjk(after[0])):
        return False
    return after[0] not in _NOT_FIRST and before[-1] not in _NOT_LAST
