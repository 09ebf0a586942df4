"""Byte-level BPE: text to token ids and token ids to bytes, from a folder's `tokenizer.json`.

Text never becomes a control token. The file is parsed once; encoding uses a second pipeline that
shares its BPE model, normalizer and pre-tokenizer but knows no added tokens. Control ids are
placed by number, looked up in `Tokenizer.added`.
"""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Self

import tokenizers
from tokenizers.models import BPE

from qwen35cli.errors import ModelError, UsageError

RUNS = 1_024  # of text between control tokens whose ids are kept, those used last
MAX_FILE_BYTES = 64 * 2**20  # the real file has 12.8 MB
_NO_TOKEN = "\ufffd".encode()
_SEE_FOLDER = "copy tokenizer.json again from the repository the weights came from"


def _byte_stand_ins() -> dict[str, int]:
    """GPT-2's printable stand-in for each byte, as character -> byte."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = sorted(set(range(256)) - set(plain))
    return {chr(byte): byte for byte in plain} | {chr(256 + i): b for i, b in enumerate(rest)}


_BYTE = _byte_stand_ins()


@dataclass(frozen=True, slots=True, kw_only=True)
class SpecialTokens:
    """Ids of the control tokens that the program itself places or reads."""

    im_start: int
    im_end: int
    endoftext: int
    vision_start: int
    vision_end: int
    image_pad: int
    video_pad: int
    think: int
    end_think: int
    tool_call: int
    end_tool_call: int
    tool_response: int
    end_tool_response: int

    @classmethod
    def from_added(cls, added: Mapping[str, int]) -> Self:
        """Look every name up by its literal.

        Raises:
            KeyError: a literal that the tokenizer lacks.
        """
        return cls(**{f.name: added[_literal(f.name)] for f in fields(cls)})


def _literal(name: str) -> str:
    """`im_start` -> `<|im_start|>`, `think` -> `<think>`, `end_think` -> `</think>`."""
    if name.removeprefix("end_") in ("think", "tool_call", "tool_response"):
        return f"</{name[4:]}>" if name.startswith("end_") else f"<{name}>"
    return f"<|{name}|>"


def check_unicode(text: str) -> None:
    """Refuse a text that cannot be encoded.

    Raises:
        UsageError: it holds a lone surrogate, as of bytes that are no UTF-8.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UsageError(
            f"text is not valid Unicode: U+{ord(text[error.start]):04X} "
            f"at character {error.start + 1:,}",
            "only UTF-8 is read; iconv -f LATIN1 -t UTF-8 converts the common other encoding",
        ) from None


class Tokenizer:
    """Encodes text and names tokens.

    Attributes:
        added: literal -> id of every added token, such as `<|im_start|>`.
        special: the ids the program uses.
        stop_ids: tokens that end a turn.
        vocab_size: ids below it can have a token; rows of the output head from it on have none.
    """

    def __init__(self, parsed: tokenizers.Tokenizer, path: Path) -> None:
        """Take over a parsed file.

        Raises:
            ModelError: not a byte-level BPE, or a control token is missing.
        """
        self._path = path
        self._parsed = parsed
        model = parsed.model
        if not isinstance(model, BPE) or any(model.token_to_id(c) is None for c in _BYTE):
            raise ModelError(f"{path} is not a byte-level BPE over all 256 bytes", _SEE_FOLDER)
        self._encoded = lru_cache(RUNS)(self._encode)  # a chat renders its past at each turn
        self._plain = tokenizers.Tokenizer(model)
        if parsed.normalizer is not None:
            self._plain.normalizer = parsed.normalizer
        if parsed.pre_tokenizer is not None:
            self._plain.pre_tokenizer = parsed.pre_tokenizer

        self._literals = {i: t.content for i, t in parsed.get_added_tokens_decoder().items()}
        self.added = {literal: i for i, literal in self._literals.items()}
        try:
            self.special = SpecialTokens.from_added(self.added)
        except KeyError as missing:
            raise ModelError(f"{path} has no token {missing.args[0]}", _SEE_FOLDER) from None
        self.stop_ids = frozenset({self.special.im_end, self.special.endoftext})
        self.vocab_size = max(self._plain.get_vocab_size(), *(i + 1 for i in self._literals))

    @classmethod
    def from_folder(cls, folder: Path) -> Self:
        """Read `folder`/tokenizer.json.

        Raises:
            ModelError: missing, not a regular file, too large, damaged, or of another kind.
        """
        path = folder / "tokenizer.json"
        if not path.is_file():
            raise ModelError(f"{path} does not exist or is not a file", _SEE_FOLDER)
        try:
            size = path.stat().st_size
            if size > MAX_FILE_BYTES:
                raise ModelError(f"{path} has {size:,} bytes, at most {MAX_FILE_BYTES:,} are read")
            parsed = tokenizers.Tokenizer.from_buffer(path.read_bytes())
        except ModelError:
            raise
        except OSError as error:
            raise ModelError(f"{path} cannot be read: {error.strerror}") from error
        except Exception as error:  # the library raises plain Exception for whatever is wrong
            raise ModelError(f"{path} is damaged: {error}", _SEE_FOLDER) from error
        return cls(parsed, path)

    def encode(self, text: str) -> list[int]:
        """The ids of `text`, in which no added token occurs whatever the text says.

        Raises:
            UsageError: the text holds a lone surrogate (bytes that were not UTF-8); replacing it
                in silence would change what was asked.
            ModelError: the vocabulary spells plain text with control or out-of-range ids.
        """
        return self.encode_marked(text, ())[0]

    def encode_marked(self, text: str, marks: Sequence[int]) -> tuple[list[int], list[int]]:
        """The ids of `text`, and how many of them lie whole before each of `marks`.

        Args:
            text: as for `encode`, which also says what is raised.
            marks: places in `text`, in characters.
        """
        ids, counts = self._encoded(text, tuple(marks))
        return [*ids], [*counts]

    def _encode(self, text: str, marks: tuple[int, ...]) -> tuple[list[int], list[int]]:
        check_unicode(text)
        encoding = self._plain.encode(text, add_special_tokens=False)
        ids: list[int] = encoding.ids
        if max(ids, default=0) >= self.vocab_size or not self._literals.keys().isdisjoint(ids):
            raise ModelError(f"{self._path} gives plain text control or unknown ids", _SEE_FOLDER)
        ends = [end for _, end in encoding.offsets] if marks else []
        return ids, [bisect_right(ends, mark) for mark in marks]

    def token_bytes(self, token: int) -> bytes:
        """The bytes `token` stands for: part of a UTF-8 text, or an added token's literal.

        An id without a token gives U+FFFD.
        """
        if literal := self._literals.get(token):
            return literal.encode()
        spelled = self._plain.id_to_token(token)
        if spelled is None:
            return _NO_TOKEN
        try:
            return bytes([_BYTE[c] for c in spelled])
        except KeyError:  # not spelled in stand-ins: taken literally, as the library does
            return spelled.encode()

    def is_added(self, token: int) -> bool:
        """Whether `token` is an added token, special or not."""
        return token in self._literals
