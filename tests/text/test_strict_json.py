"""JSON that people and models write, and what is refused of it."""

import os
from pathlib import Path

import pytest

from qwen35cli.errors import UsageError
from qwen35cli.text.strict_json import MAX_FILE_BYTES, loads, read


def test_what_is_unambiguous_is_read():
    text = '\n {"a": [1, -2.5e3, true, null], "é": "\\ud83d\\ude00 \\n"} '
    assert loads(text) == {"a": [1, -2500.0, True, None], "é": "😀 \n"}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "expecting value at line 1, column 1"),
        ('{"a": 1,\n "b" 2}', "expecting ':' delimiter at line 2, column 6"),
        ('{"a": {"b": 1, "b": 2}}', "the key 'b' occurs twice in one object"),
        ('{"a": 1, "\\u0061": 2}', "the key 'a' occurs twice in one object"),
        ("[NaN]", "NaN is not a JSON number"),
        ("[-Infinity]", "-Infinity is not a JSON number"),
        ("[1e999]", "the number 1e999 is out of range"),
        ("9" * 5_000, "a number has 5,000 digits, more than 4,300"),
        ('"\\ud800"', "U+D800 is half a surrogate pair, no character"),
        ("[" * 100_000, "it is nested too deeply"),
        ('{"a": 1} {"a": 1}', "extra data at line 1, column 10"),
        ('{"a": "b', "unterminated string starting at line 1, column 7"),
        ('["a\nb"]', "invalid control character at line 1, column 4"),
        ("{'a': 1}", "expecting property name enclosed in double quotes at line 1, column 2"),
    ],
)
def test_the_rest_is_refused_with_its_place(text, why):
    with pytest.raises(ValueError) as caught:
        loads(text)
    assert str(caught.value) == why


def test_a_file_may_begin_with_a_byte_order_mark(tmp_path):
    path = tmp_path / "a.json"
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}')
    assert read(path, "") == {"a": 1}


def test_a_pipe_is_read_as_a_file():
    reading, writing = os.pipe()
    os.write(writing, b"[1]")
    os.close(writing)
    assert read(Path(f"/dev/fd/{reading}"), "") == [1]
    os.close(reading)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no file at {}"),
        (b'{"a": "\xff"}', "{} is not UTF-8: byte 8 is 0xff"),
        (b"{", "{} is not valid JSON: expecting property name enclosed in double quotes at line 1"),
        (b" " * (MAX_FILE_BYTES + 1), "{} has more than 1,048,576 bytes, the most that is read"),
    ],
)
def test_a_file_that_is_not_usable_is_named(tmp_path, content, message):
    path = tmp_path / "a.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError) as caught:
        read(path, "look elsewhere")
    assert caught.value.message.startswith(message.format(path))
    assert caught.value.hint == ("look elsewhere" if content is None else caught.value.hint)


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(UsageError, match="cannot be read: Is a directory"):
        read(tmp_path, "")
