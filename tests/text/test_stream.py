"""Streaming decodes to what one-shot decoding gives; reasoning is told from answer by id."""

import random

import pytest

from qwen35cli.text.stream import Detokenizer, Splitter

TEXT = "Zażółć 你好 👩‍👩‍👧‍👦 நன்றி <think> </think>\n\n é𝄞 end"


def stream(tokenizer, ids):
    detokenizer = Detokenizer(tokenizer)
    return [*map(detokenizer.feed, ids), detokenizer.flush()]


def one_shot(tokenizer, ids):
    """Decode the runs between added tokens whole."""
    text, run = "", b""
    for token in ids:
        if tokenizer.is_added(token):
            text += run.decode(errors="replace") + tokenizer.token_bytes(token).decode()
            run = b""
        else:
            run += tokenizer.token_bytes(token)
    return text + run.decode(errors="replace")


def byte_tokens(tokenizer, data):
    """One token per byte: the finest way to cut a text."""
    single = {tokenizer.token_bytes(i): i for i in range(tokenizer.vocab_size)}
    return [single[bytes([byte])] for byte in data]


def test_random_tokens_decode_as_in_one_shot(small):
    rng = random.Random(6)
    single = byte_tokens(small, range(256))
    added = list(small.added.values())
    for _ in range(1500):
        pool = rng.choices(
            [single, single[128:], added, range(small.vocab_size)], (4, 4, 1, 3), k=9
        )
        ids = [rng.choice(kind) for kind in pool]
        assert "".join(stream(small, ids)) == one_shot(small, ids)


def test_random_cuts_of_a_text_give_the_text(small):
    rng = random.Random(7)
    data = TEXT.encode()
    for _ in range(200):
        cuts = sorted(rng.sample(range(len(data)), 12))
        ids = []
        for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True):
            piece = data[start:end]
            try:
                ids += small.encode(piece.decode())
            except UnicodeDecodeError:
                ids += byte_tokens(small, piece)
        assert "".join(stream(small, ids)) == TEXT


def test_a_character_appears_with_its_last_byte(small):
    detokenizer = Detokenizer(small)
    fed = b""
    shown = ""
    for token in byte_tokens(small, TEXT.encode()):
        fed += small.token_bytes(token)
        shown += detokenizer.feed(token)
        assert shown == fed.decode(errors="ignore")


def test_an_added_token_closes_an_unfinished_character(small):
    ids = [*byte_tokens(small, "é".encode()[:1]), small.special.think]
    assert stream(small, ids) == ["", "\ufffd<think>", ""]


def test_the_real_vocabulary_streams_emoji(real):
    ids = real.encode(TEXT)
    assert "".join(stream(real, ids)) == TEXT


def split(tokenizer, ids, *, thinking=True):
    splitter = Splitter(tokenizer, thinking=thinking)
    texts = {"reasoning": "", "answer": ""}
    for channel, text in [*map(splitter.feed, ids), splitter.flush()]:
        texts[channel] += text
    return texts["reasoning"], texts["answer"]


@pytest.mark.parametrize(
    ("after", "answer"),
    [("\n\nyes", "yes"), ("\nyes", "yes"), ("yes", "yes"), ("\n\n\nyes", "\nyes"), ("a\n\nb",) * 2],
)
@pytest.mark.parametrize("by_bytes", [True, False])
def test_think_ends_at_the_control_id(small, after, answer, by_bytes):
    encode = (lambda t: byte_tokens(small, t.encode())) if by_bytes else small.encode
    ids = [*encode("hm\n\n"), small.special.end_think, *encode(after), small.special.im_end]
    assert split(small, ids) == ("hm\n\n", answer)


def test_a_typed_end_of_thinking_is_text(small):
    typed = small.encode("a </think>\n\nb")
    assert split(small, typed) == ("a </think>\n\nb", "")
    assert split(small, typed, thinking=False) == ("", "a </think>\n\nb")
    end = small.special.end_think
    assert split(small, [*typed, end, *typed, end])[1] == "a </think>\n\nb</think>"


def test_stop_tokens_are_not_shown(small):
    for stop in small.stop_ids:
        assert split(small, [*small.encode("ok"), stop], thinking=False) == ("", "ok")


def test_an_unfinished_character_stays_in_its_channel(small):
    half = byte_tokens(small, "é".encode()[:1])
    assert split(small, [*half, small.special.end_think, *half]) == ("\ufffd", "\ufffd")
