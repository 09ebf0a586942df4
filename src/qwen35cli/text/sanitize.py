"""Make untrusted text safe to show: model output, file names, config strings, error texts."""

import re

REPLACEMENT = "\ufffd"

# C0 without tab and newline, DEL, C1, bidi overrides and isolates, lone surrogates.
_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


class Sanitizer:
    """Shows each unsafe character of a stream as U+FFFD and turns CR LF into LF.

    How the text is cut into pieces makes no difference, and a second pass changes nothing. A CR
    at the end of a piece waits for the next one; at the end of the stream it is dropped.
    """

    def __init__(self) -> None:
        self._held = ""  # "\r" when the last piece ended in one

    def feed(self, piece: str) -> str:
        """The safe form of the next piece."""
        if not piece:
            return ""
        text = self._held + piece
        self._held = "\r" if text.endswith("\r") else ""
        return _UNSAFE.sub(REPLACEMENT, text.removesuffix("\r").replace("\r\n", "\n"))


def sanitize(text: str) -> str:
    """The safe form of a whole text."""
    return Sanitizer().feed(text)
