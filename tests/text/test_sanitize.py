"""Nothing that a terminal would act upon passes, however the stream is cut."""

import itertools
import random
import re

import pytest

from qwen35cli.text.sanitize import Sanitizer, sanitize

HARMFUL = re.compile(r"[^\n\t\x20-\x7e\u00a0-\U0010ffff]|[\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
PAYLOADS = {
    "osc52": "\x1b]52;c;ZQ==\x07",
    "osc0": "\x1b]0;owned\x1b\\",
    "osc8": "\x1b]8;;http://e.vil\x1b\\bank\x1b]8;;\x1b\\",
    "dcs": "\x1bP1$r0m\x1b\\",
    "apc": "\x1b_Gf=100;AAAA\x1b\\",
    "csi": "\x1b[2J\x1b[H\x1b[31m",
    "reply": "\x1b[6n",
    "unterminated": "\x1b]0;no end",
    "c1": "\x9b31m\x90q\x9c\x9d0;t\x9c\x85",
    "cr": "safe\rEVIL\r\r\nok\r",
    "bs": "ab\b\bcd\x7f\x00",
    "bidi": "\u202eexe.\u202c \u2066x\u2069 \u202d\u2067",
    "surrogates": "a\ud83d b\udcff \udfff",
}
HARMLESS = "tab\tline\n[/b] [link=x]y[/link] :smile: <think> é 你好 👩‍👩‍👧‍👦 \u200f\u00ad"


def chunkings(text):
    """Every way to cut a short text; for a longer one every pair of cuts, and single characters."""
    inner = range(1, len(text))
    if len(text) <= 11:
        cuts = itertools.chain.from_iterable(
            itertools.combinations(inner, k) for k in range(len(text))
        )
    else:
        cuts = itertools.chain(itertools.combinations(inner, 2), [tuple(inner)])
    for cut in cuts:
        edges = [0, *cut, len(text)]
        yield [text[a:b] for a, b in itertools.pairwise(edges)]


@pytest.mark.parametrize("name", PAYLOADS)
def test_every_chunking_of_a_payload_is_harmless(name):
    payload = PAYLOADS[name]
    whole = sanitize(payload)
    assert not HARMFUL.search(whole)
    assert sanitize(whole) == whole
    for pieces in chunkings(payload):
        assert "".join(map(Sanitizer().feed, [""])) == ""
        sanitizer = Sanitizer()
        assert "".join([sanitizer.feed(piece) for piece in pieces]) == whole


def test_random_mixtures_are_harmless_and_independent_of_the_cuts():
    rng = random.Random(8)
    alphabet = "".join(PAYLOADS.values()) + HARMLESS + "\r\r\n\n" * 8
    for _ in range(3000):
        text = "".join(rng.choices(alphabet, k=rng.randint(0, 40)))
        whole = sanitize(text)
        assert not HARMFUL.search(whole)
        assert sanitize(whole) == whole
        cuts = sorted(rng.choices(range(len(text) + 1), k=rng.randint(0, 6)))
        sanitizer = Sanitizer()
        edges = itertools.pairwise([0, *cuts, len(text)])
        assert "".join([sanitizer.feed(text[a:b]) for a, b in edges]) == whole


def test_every_single_character_is_kept_or_shown_as_replaced():
    for code in range(0x3000):
        shown = sanitize(chr(code))
        if code == 13:
            assert shown == ""  # a CR that ends the text
        else:
            assert shown == ("\ufffd" if HARMFUL.search(chr(code)) else chr(code))


def test_ordinary_text_is_untouched():
    assert sanitize(HARMLESS) == HARMLESS
    assert sanitize("a\r\nb\r\n") == "a\nb\n"


def test_a_carriage_return_cannot_hide_what_came_before():
    assert sanitize("rm -rf /\rls") == "rm -rf /\ufffdls"
