"""What values are read from text, and which are refused."""

from math import nextafter

import pytest
import typer

from qwen35cli.cli.values import (
    GROUPS,
    NUMBERS,
    Number,
    RoundCount,
    contexts,
    drafts,
    group,
    image_tokens,
    tokens,
)
from qwen35cli.engine.sampling import Sampling
from qwen35cli.errors import UsageError
from qwen35cli.quant.plan import GROUPS as IN_FORMATS


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


def test_numbers_in_a_range():
    temp, count = Number(0, 100), Number(1, 4096, whole=True)
    assert [temp.read(text) for text in ("0", "1e2", "0.5", 7)] == [0, 100, 0.5, 7]
    assert [count.read(text) for text in ("1", "4,096", "1_000", 5)] == [1, 4096, 1000, 5]
    assert (str(temp), str(count)) == (
        "a number from 0 to 100",
        "a whole number from 1 to 4,096",
    )


@pytest.mark.parametrize("text", ["", "hot", "-0.1", "100.1", "nan", "inf", "-inf", "1e999", "0,7"])
def test_what_is_no_number_of_a_range(text):
    with pytest.raises(typer.BadParameter, match=f"'{text}' is not a number from 0 to 100"):
        Number(0, 100).read(text)


@pytest.mark.parametrize("text", ["", "x", "0", "4097", "1.5", "1e2", "9" * 5000])
def test_what_is_no_whole_number_of_a_range(text):
    with pytest.raises(typer.BadParameter, match="is not a whole number from 1") as caught:
        Number(1, 4096, whole=True).read(text)
    assert len(str(caught.value.message)) < 100


def test_of_a_file_only_numbers_count():
    assert [each in Number(0, 1) for each in (1, 0.5, True, "1", None, [1])] == [
        *(True, True, False, False, False, False),
    ]
    assert [each in Number(0, 1, whole=True) for each in (1, 1.0, False)] == [True, False, False]


@pytest.mark.parametrize("key", NUMBERS)
def test_the_ranges_are_those_of_the_sampling(key):
    number = NUMBERS[key]
    field = "temperature" if key == "temp" else key
    for edge, away in ((number.low, -1), (number.high, 1)):
        Sampling(**{field: edge})
        beyond = edge + away if number.whole else nextafter(edge, edge + away)
        assert beyond not in number
        with pytest.raises(UsageError, match=field):
            Sampling(**{field: beyond})


def test_groups_are_those_of_the_formats():
    assert [group(text) for text in (*GROUPS, 32)] == [32, 64, 128, 32]
    assert {*map(int, GROUPS)} == {size for sizes in IN_FORMATS.values() for size in sizes}
    for text in ("48", "", "0", 7):
        with pytest.raises(typer.BadParameter, match="is not one of 32, 64, 128"):
            group(text)
