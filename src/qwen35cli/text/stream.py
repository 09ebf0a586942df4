"""Generated token ids to text, piece by piece, split into reasoning and answer."""

import codecs
from typing import Literal, NamedTuple

from .tokenizer import Tokenizer

Channel = Literal["reasoning", "answer"]


class Piece(NamedTuple):
    """Text that became complete, possibly empty, and where it belongs."""

    channel: Channel
    text: str


class Detokenizer:
    """Incremental UTF-8: bytes of an unfinished character wait, invalid ones become U+FFFD.

    All pieces together equal the decoding of all tokens at once.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, token: int) -> str:
        """The text that `token` completes; an added token gives its literal."""
        raw = self._tokenizer.token_bytes(token)
        if self._tokenizer.is_added(token):
            return self.flush() + raw.decode()
        return self._utf8.decode(raw)

    def flush(self) -> str:
        """The unfinished rest, as U+FFFD; to be called after the last token."""
        rest = self._utf8.decode(b"", final=True)
        self._utf8.reset()
        return rest


class Splitter:
    """Tells reasoning from answer by the `</think>` id; the same characters as text stay text.

    The first `</think>` and up to two newlines after it vanish, stop tokens always do.
    """

    def __init__(self, tokenizer: Tokenizer, *, thinking: bool) -> None:
        """`thinking`: the prompt ended inside a think block."""
        self.channel: Channel = "reasoning" if thinking else "answer"
        self._tokenizer = tokenizer
        self._detokenizer = Detokenizer(tokenizer)
        self._skip = 0  # newlines still to drop

    def feed(self, token: int) -> Piece:
        """The text that `token` completes."""
        if token in self._tokenizer.stop_ids:
            return self.flush()
        if token == self._tokenizer.special.end_think and self.channel == "reasoning":
            last = self.flush()
            self.channel, self._skip = "answer", 2
            return last
        text = self._detokenizer.feed(token)
        while self._skip and text.startswith("\n"):
            text, self._skip = text[1:], self._skip - 1
        if text:
            self._skip = 0
        return Piece(self.channel, text)

    def flush(self) -> Piece:
        """The unfinished rest; to be called after the last token."""
        return Piece(self.channel, self._detokenizer.flush())
