"""Holds an answer to a JSON schema: which tokens may come next.

The answer is JSON on one line, spaced as `json.dumps` does it, so no model can lose itself in
blanks. What has one spelling only is given as the tokens that the tokenizer itself would choose.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from llguidance import LLMatcher, LLParserLimits, LLTokenizer, TokenizerWrapper

from qwen35cli.errors import SchemaError

from .tokenizer import Tokenizer

if TYPE_CHECKING:
    from torch import Tensor

_NO_TOKEN = "\ufffd".encode()
_OPTIONS: Any = {
    "whitespace_flexible": False,
    "item_separator": ", ",
    "key_separator": ": ",
    "coerce_one_of": False,
    "lenient": False,
}


class _Vocabulary:
    """A tokenizer as llguidance wants it: the bytes of each token, empty for those never allowed.

    Added tokens have none, so nothing but the end of the answer can be one of them.
    """

    bos_token_id = None

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self.eos_token_id = tokenizer.special.im_end
        self.tokens = [
            b"" if tokenizer.is_added(token) else tokenizer.token_bytes(token)
            for token in range(tokenizer.vocab_size)
        ]
        self.tokens = [b"" if spelled == _NO_TOKEN else spelled for spelled in self.tokens]
        self._bytes = {spelled[0]: i for i, spelled in enumerate(self.tokens) if len(spelled) == 1}

    def __call__(self, text: bytes) -> list[int]:
        """The ids of `text`; byte for byte where the tokenizer would write it otherwise (NFC)."""
        ids = self._tokenizer.encode(text.decode())
        if b"".join(self.tokens[token] for token in ids) == text:
            return ids
        return [self._bytes[byte] for byte in text]


class _Bytes:
    """A vocabulary of bytes and an end, for schemas that are looked at before a model is there."""

    bos_token_id = None
    eos_token_id = 256
    tokens = (*(bytes([byte]) for byte in range(256)), b"")

    def __call__(self, text: bytes) -> list[int]:
        return list(text)


class Constraint:
    """The tokens that keep an answer on its way to JSON that satisfies a schema.

    The end of the turn (`<|im_end|>`) is allowed exactly when the JSON is complete; no other
    added token ever is. Making one takes about a second for a vocabulary of 248,077.
    """

    def __init__(self, schema: Mapping[str, Any], tokenizer: Tokenizer) -> None:
        """`schema`: from `read_schema`.

        Raises:
            SchemaError: the schema cannot be enforced.
        """
        self._vocab_size = tokenizer.vocab_size
        vocabulary = LLTokenizer(
            TokenizerWrapper(_Vocabulary(tokenizer)), slices=LLTokenizer.json_slices()
        )
        self._matcher = LLMatcher(vocabulary, _grammar(schema), log_level=0, limits=_limits())
        self._raise_if_broken()

    @property
    def accepting(self) -> bool:
        """Whether the JSON so far is complete."""
        return self._matcher.is_accepting()

    def allowed(self) -> "Tensor":
        """The tokens that may come next, (vocab_size,) bool on the CPU; at least one.

        Raises:
            SchemaError: none may, or the schema outgrew what can be followed.
        """
        import torch  # late: a wrong schema is refused without it

        packed = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        self._raise_if_broken()
        bits = np.unpackbits(packed, count=self._vocab_size, bitorder="little")
        if not bits.any():
            raise SchemaError("no answer can satisfy the schema", "simplify the schema")
        return torch.from_numpy(bits).view(torch.bool)

    def take(self, token: int) -> None:
        """`token` came next.

        Raises:
            SchemaError: it was not allowed, or the schema outgrew what can be followed.
        """
        self._matcher.consume_token(token)
        self._raise_if_broken()

    def restart(self) -> None:
        """Forget every token: the next one begins an answer."""
        self._matcher.reset()

    def _raise_if_broken(self) -> None:
        if reason := _broken(self._matcher):
            raise SchemaError(f"the schema cannot be enforced: {reason}", "simplify the schema")


def unenforceable(schema: Mapping[str, Any]) -> str | None:
    """Why no constraint can be made of a valid schema, in the words of llguidance."""
    try:
        grammar = _grammar(schema)
    except ValueError as error:
        return str(error)
    failed, messages = LLMatcher.validate_grammar_with_warnings(grammar, limits=_limits())
    if failed:
        return messages[0]
    matcher = _over_bytes(grammar)
    matcher.compute_bitmask()
    matcher.consume_tokens(matcher.compute_ff_tokens())  # as far as there is no choice
    matcher.compute_bitmask()
    return _broken(matcher)


def is_whole(schema: Mapping[str, Any], answer: str) -> bool:
    """Whether nothing but the end can follow `answer`, as it could the 1 of 12.

    Args:
        schema: one that can be enforced.
    """
    matcher = _over_bytes(_grammar(schema))
    written = [*answer.encode()]
    taken = matcher.try_consume_tokens(written)
    return taken == len(written) and matcher.is_accepting() and matcher.is_stopped()


def _over_bytes(grammar: str) -> LLMatcher:
    vocabulary = LLTokenizer(TokenizerWrapper(_Bytes()))
    return LLMatcher(vocabulary, grammar, log_level=0, limits=_limits())


def _broken(matcher: LLMatcher) -> str | None:
    """Why `matcher` cannot go on."""
    if not matcher.is_error():
        return None
    reason = matcher.get_error().partition("\n")[0]
    return "no answer can satisfy it" if reason.startswith("NoExtension") else reason


def _grammar(schema: Mapping[str, Any]) -> str:
    own = {key: value for key, value in schema.items() if key != "x-guidance"}  # its own options
    return LLMatcher.grammar_from_json_schema(own, overrides=_OPTIONS)


def _limits() -> LLParserLimits:
    return LLParserLimits(verbose_errors=False)
