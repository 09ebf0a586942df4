import pytest
import typer

from qwen35cli.cli import settings
from qwen35cli.cli.options import RoundCount, contexts, drafts, image_tokens, tokens


@pytest.mark.parametrize(
    ("text", "count"),
    [
        *(("8192", 8192), ("8_192", 8192), ("8,192", 8192), ("32k", 32768), ("25.6K", 26214)),
        *(("1M", 2**20), ("256k", 262144), (" 4k ", 4096), (512, 512)),
    ],
)
def test_token_counts(text, count):
    assert tokens(text) == count


def test_a_count_with_a_suffix_is_known_as_round():
    assert isinstance(tokens("1M"), RoundCount)
    assert not isinstance(tokens("1048576"), RoundCount)
    assert not isinstance(tokens(tokens("1_000")), RoundCount)
    assert isinstance(tokens(tokens("1k")), RoundCount)


@pytest.mark.parametrize("text", ["", "k", "3z", "-1", "0", "0k", "1.5", "1e3", "nan", "9" * 40])
def test_what_is_no_token_count(text):
    with pytest.raises(typer.BadParameter):
        tokens(text)


def test_several_counts_between_commas():
    assert contexts("8k,32k") == (8192, 32768)
    assert contexts("512, 4096,1_000") == (512, 4096, 1000)
    assert contexts("131,072") == (131_072,)
    assert contexts("128, 512") == (128, 512)
    assert contexts("1,048,576") == (2**20,)
    for text in ("128,512", "262,144"):  # one, or two?
        one, several = text.replace(",", ""), text.replace(",", ", ")
        with pytest.raises(typer.BadParameter, match=f"write {one}, or '{several}'"):
            contexts(text)


def test_numbers_of_drafts():
    assert [drafts(text) for text in ("auto", "off", "0", "1", "4")] == [
        *("auto", "off", "off", "1", "4"),
    ]
    for text in ("", "5", "-1", "12", "on", "1.5", "٣"):
        with pytest.raises(typer.BadParameter, match="from 1 to 4"):
            drafts(text)


def test_full_pictures():
    assert (image_tokens("full"), image_tokens("2k")) == (0, 2048)


@pytest.mark.parametrize(
    ("choice", "variables", "is_terminal", "expected"),
    [
        ("auto", {}, True, True),
        ("auto", {}, False, False),
        ("auto", {"NO_COLOR": "1"}, True, False),
        ("auto", {"NO_COLOR": ""}, True, True),
        ("auto", {"TERM": "dumb"}, True, False),
        ("auto", {"FORCE_COLOR": "1"}, False, True),
        ("always", {"NO_COLOR": "1"}, False, True),
        ("never", {"FORCE_COLOR": "1"}, True, False),
    ],
)
def test_colour(monkeypatch, choice, variables, is_terminal, expected):
    for name in ("NO_COLOR", "FORCE_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert settings.wants_color(choice, is_terminal=is_terminal) is expected
