"""A conversation as it is kept: written and read again, with all that is none refused."""

import json
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from qwen35cli.app.json_text import json_text
from qwen35cli.app.transcript import (
    Session,
    StoredPicture,
    StoredTurn,
    as_json,
    checked_name,
    export,
    from_json,
    spoken,
)
from qwen35cli.errors import UsageError

ODD = "a\0b\x1b[31m \x9b \u202e \u2028 \ud800 😀 \r\n\t\\u0041 </think> ١ é e\u0301 \x7f"
CAT = StoredPicture("cat.png", "0" * 64)
NOON = datetime(2026, 11, 26, 12, 0, tzinfo=UTC)
ID = "20261126-1200-a1b2"


def turn(*parts, answer="Hello.", **more):
    return StoredTurn(parts=parts, answer=answer, thinking=False, **more)


def session(*turns, name=None, system=None):
    return Session(
        id=ID,
        name=name,
        model="demo",
        quant="bf16",
        created=NOON,
        updated=NOON + timedelta(minutes=1),
        system=system,
        turns=turns,
    )


def raw(session):
    """The object that is on the disk."""
    value = json.loads(json_text(as_json(session)))
    assert value.pop("id") == ID
    return value


def test_one_blank_line_stands_between_the_parts_of_a_question():
    """As in the prompt that was sent, whose texts end with it."""
    asked = session(
        turn(CAT, "File: a.txt\n  one\n\ntwo\n\n", "What is it?", "\n\nAnswer in JSON.")
    )
    (_, text), _ = spoken(asked)
    assert text == "[cat.png]\n\nFile: a.txt\n  one\n\ntwo\n\nWhat is it?\n\nAnswer in JSON."


# -- names -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a", "7", "büro", "A-b_c.d", "x" * 64, "20261126"])
def test_names(name):
    assert checked_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        *("", "last", "-a", ".a", "_a", "a b", "a/b", "..", "a\n", "a\0", "a\u202e", "a:b"),
        *("x" * 65, "20261126-0912-a1b2", "\ud800", "😀"),
    ],
)
def test_what_is_no_name(name):
    with pytest.raises(UsageError, match="cannot be the name of a session"):
        checked_name(name)


@pytest.mark.parametrize("name", ["last", "20261126-0912-a1b2"])
def test_a_name_that_means_a_session_already_is_told_as_that(name):
    with pytest.raises(UsageError, match="cannot be the name of a session") as caught:
        checked_name(name)
    assert caught.value.hint.startswith("another name: ")


def test_a_name_is_kept_composed():
    assert checked_name("bu\u0308ro") == "büro"


# -- written and read ------------------------------------------------------------------------------


def test_what_is_written_is_read_again():
    kept = session(
        turn(ODD, CAT, ODD, answer=ODD, reasoning=ODD, finish="stop", reasoning_tokens=612),
        StoredTurn(parts=(CAT,), thinking=True),
        name="büro",
        system=ODD,
    )
    assert from_json(ID, raw(kept)) == kept


@pytest.mark.parametrize("indent", [None, 2])
def test_json_is_exact_and_has_nothing_that_a_terminal_obeys(indent):
    text = json_text({"héllo 😀": ODD}, indent)
    assert json.loads(text) == {"héllo 😀": ODD}
    assert "héllo 😀" in text.encode().decode()
    assert not re.search(r"[\0-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", text)


def deep(raw):
    raw["turns"][0]["parts"][0] = {"picture": "a.png", "sha256": "../../etc/passwd"}


CHANGES = {
    "not made of": lambda raw: raw.pop("model"),
    "it is not made of": lambda raw: raw.update(extra=1),
    "it has version 2, this qwen35 reads 1": lambda raw: raw.update(version=2),
    "version is a JSON bool": lambda raw: raw.update(version=True),
    "turns is a JSON dict": lambda raw: raw.update(turns={}),
    "name is a JSON int": lambda raw: raw.update(name=1),
    "'../x' cannot be a name": lambda raw: raw.update(name="../x"),
    "Invalid isoformat": lambda raw: raw.update(created="yesterday"),
    "no time with its zone": lambda raw: raw.update(updated="2026-11-26T09:12"),
    "'0001-": lambda raw: raw.update(updated="0001-01-01T00:00:00+00:00"),
    "turn 1 is not made of": lambda raw: raw["turns"].insert(0, "q"),
    "turn 1: thinking is a JSON int": lambda raw: raw["turns"][0].update(thinking=1),
    "turn 1: answer is a JSON list": lambda raw: raw["turns"][0].update(answer=[]),
    "turn 1: answer_tokens is a JSON float": lambda raw: raw["turns"][0].update(answer_tokens=1.0),
    "answer_tokens cannot be -1": lambda raw: raw["turns"][0].update(answer_tokens=-1),
    "turn 1: a part is not made of": lambda raw: raw["turns"][0].update(parts=[None]),
    "is no SHA-256": deep,
}


@pytest.mark.parametrize("reason", CHANGES)
def test_what_is_not_as_we_write_it_is_refused(reason):
    value = raw(session(turn("q")))
    CHANGES[reason](value)
    with pytest.raises(ValueError, match=re.escape(reason)) as caught:
        from_json(ID, value)
    assert len(str(caught.value)) < 300


# -- for people ------------------------------------------------------------------------------------


def test_the_exports():
    kept = session(
        turn(CAT, "What is it?", answer="A cat.", reasoning="whiskers", finish="stop"),
        turn("And?", answer="It sl", finish="interrupted"),
        turn("Go on.", answer=None),
        name="notes",
        system="Be brief.",
    )
    assert export(kept, "md") == (
        f"# notes\n\ndemo bf16 · {NOON.astimezone():%Y-%m-%d %H:%M}\n\n"
        "## System\n\nBe brief.\n\n"
        "## User\n\n[cat.png]\n\nWhat is it?\n\n## Assistant\n\nA cat.\n\n"
        "## User\n\nAnd?\n\n## Assistant\n\nIt sl\n\n[interrupted]\n\n"
        "## User\n\nGo on.\n\n## Assistant\n\n[no answer yet]\n"
    )
    found = json.loads(export(kept, "json"))
    assert (found["id"], found["version"]) == (ID, 1)
    assert found["turns"][0]["reasoning"] == "whiskers"
    assert found["turns"][0]["parts"] == [
        {"picture": "cat.png", "sha256": CAT.digest},
        "What is it?",
    ]


def test_a_title_is_one_short_line():
    assert session().title == ""
    assert session(turn("\n a\n\tb ")).title == "a b"
    assert session(turn(CAT, "why?")).title == "[cat.png] why?"
    assert session(turn("x" * 10**6)).title == "x" * 79 + "…"


def test_a_session_is_called_by_its_name_or_else_its_id():
    assert session().label == ID
    assert replace(session(), name="notes").label == "notes"
