"""The demo's tokenizer: pipeline and added tokens of the real one over a small vocabulary."""

from collections.abc import Iterator
from pathlib import Path
from random import Random

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from tokenizers.trainers import BpeTrainer

from . import faq
from .tasks import Kind, make_talk

BASE_VOCABULARY = 2_000
PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}"
    r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPECIAL = (
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>"),
    *("<|box_start|>", "<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>"),
    *("<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>"),
)
PLAIN = (
    *("<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>"),
    *("<|fim_pad|>", "<|repo_name|>", "<|file_sep|>", "<tool_response>", "</tool_response>"),
    *("<think>", "</think>"),
)
SPEECH = (
    *("<|audio_start|>", "<|audio_end|>", "<tts_pad>", "<tts_text_bos>", "<tts_text_eod>"),
    *("<tts_text_bos_single>", "<|audio_pad|>"),
)


def added_tokens() -> list[AddedToken]:
    """The 33 added tokens in the order of the real vocabulary."""
    return [
        AddedToken(text, normalized=False, special=text not in PLAIN)
        for text in (*SPECIAL, *PLAIN, *SPEECH)
    ]


def train_tokenizer(seed: int = 0) -> Tokenizer:
    """Byte-level BPE over what the tasks say. The same seed gives the same tokenizer."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(
        vocab_size=BASE_VOCABULARY,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_corpus(Random(seed)), trainer)
    tokenizer.add_tokens(added_tokens())
    return tokenizer


def _corpus(rng: Random) -> Iterator[str]:
    kinds: tuple[Kind, ...] = ("faq", "faq", "sum", "recall")
    for _ in range(6_000):
        for turn in make_talk(rng.choice(kinds), rng, longest=30).turns:
            yield from (turn.question, turn.thought, turn.answer)
    for intent in faq.INTENTS:
        yield from (intent.answer, intent.thought) * 40


def load_tokenizer(path: Path) -> Tokenizer:
    return Tokenizer.from_file(str(path))
