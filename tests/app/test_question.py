"""Texts and pictures in the order given, and what each came from."""

import dataclasses
import hashlib
import io
from pathlib import Path

import pytest
from PIL import Image

from qwen35cli.app.question import (
    Question,
    decode,
    load_picture,
    load_pictures,
    read_document,
    spaced,
    text_parts,
)
from qwen35cli.errors import UsageError
from qwen35cli.text.template import ImagePart, Text
from tests import fakes


def encoded(format, size=(40, 30), color="red"):
    file = io.BytesIO()
    Image.new("RGB", size, color).save(file, format)
    return file.getvalue()


def png(size=(40, 30), color="red"):
    return encoded("PNG", size, color)


@pytest.fixture
def opened():
    return fakes.fake_opened()


def test_files_then_stdin_then_prompt_with_a_blank_line_between(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("a.txt").write_text("\nAlpha\r\n\n")
    Path("b.txt").write_text("Beta")
    parts = text_parts(["a.txt", "b.txt"], b"piped\n", "why?")
    assert parts == (
        *("File: a.txt\n\nAlpha\n\n", "File: b.txt\nBeta\n\n"),
        *("piped\n\n", "why?"),
    )


def test_what_stands_before_the_prompt_is_the_same_for_every_prompt(tmp_path):
    path = tmp_path / "big.txt"
    path.write_text("big\n" * 100)
    first, second = (text_parts([str(path)], None, prompt) for prompt in ("q1", "q2"))
    assert first[0] == second[0]
    assert first[1:] == ("q1",)


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        ([], ()),
        (["", "\n\r\n"], ()),
        (["\n a \n"], (" a ",)),
        (["a", "", "b"], ("a\n\n", "b")),
        (["a", "b", "\n"], ("a\n\n", "b")),
    ],
)
def test_empty_texts_leave_no_blank_line(texts, expected):
    assert spaced(texts) == expected


def test_every_text_is_a_part_of_the_message_and_pictures_stand_in_place(opened):
    picture = load_picture(opened, png(), "a.png")
    asked = Question(("File: x\n\n", "see ", picture, "", "?"))
    assert asked.message.content == (
        *(Text("File: x\n\n"), Text("see "), ImagePart(picture.patches.tokens), Text("?")),
    )
    assert asked.text == "File: x\n\nsee ?"
    assert asked.pictures == (picture,)
    assert Question.of("hi") == Question(("hi",))


def test_a_picture_keeps_its_file_and_the_digest_of_it(opened, tmp_path):
    data = png()
    path = tmp_path / "a.png"
    path.write_bytes(data)
    [from_file] = load_pictures(opened, [str(path)])
    [from_stdin] = load_pictures(opened, ["-"], {"-": data})
    restored = load_picture(opened, from_file.data, from_file.name)
    for picture in (from_file, from_stdin, restored):
        assert picture.data == data
        assert picture.digest == hashlib.sha256(data).hexdigest()
        assert picture.patches.pixels.equal(from_file.patches.pixels)
    assert (from_stdin.name, restored.name) == ("stdin", str(path))
    assert str(data) not in repr(from_file)


def test_bytes_that_were_given_go_before_a_file_of_that_name(opened, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("clipboard").write_bytes(png(color="blue"))
    given = {"clipboard": png()}
    [from_given, from_file] = load_pictures(opened, ["clipboard", "./clipboard"], given)
    assert from_given.data == given["clipboard"]
    assert from_file.data == png(color="blue")


def test_a_checkpoint_without_a_vision_tower_takes_none(opened):
    blind = dataclasses.replace(opened, image_limits=None)
    assert load_pictures(blind, []) == ()
    for load in (
        lambda: load_pictures(blind, ["nothing.png"]),
        lambda: load_picture(blind, png(), "clipboard"),
    ):
        with pytest.raises(UsageError, match="fake takes no pictures"):
            load()


def test_a_missing_picture_is_named_as_it_was_given(opened, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    Path("screenshot_12.png").write_bytes(png())
    for prefix in ("./", "", "~/", f"{tmp_path}/"):
        with pytest.raises(UsageError) as caught:
            load_pictures(opened, [f"{prefix}screenshot-12.png"])
        assert caught.value.message == f"no image at {prefix}screenshot-12.png"
        assert caught.value.hint == f"did you mean {prefix}screenshot_12.png?"
    with pytest.raises(UsageError) as caught:
        load_pictures(opened, [f"file://{tmp_path}/screenshot%2D12.png"])
    assert caught.value.message == f"no image at {tmp_path}/screenshot-12.png"
    assert caught.value.hint == f"did you mean {tmp_path}/screenshot_12.png?"


def test_hints_can_be_pasted_whatever_the_name(opened, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="is a URL") as caught:
        load_pictures(opened, ["HTTPS://x.org/a.png?w=1&h=2"])
    assert caught.value.hint == "curl -L 'HTTPS://x.org/a.png?w=1&h=2' | qwen35 ask -i - \"…\""
    Path("my cat.png").write_bytes(png())
    with pytest.raises(UsageError, match="is a picture") as caught:
        read_document("my cat.png")
    assert caught.value.hint == "-i 'my cat.png', or /image 'my cat.png' in a chat"


def test_a_document_counts_bytes_and_keeps_its_name_on_one_line(tmp_path):
    path = tmp_path / "a\x1b[2J\nb.txt"
    path.write_text("né")
    document = read_document(str(path))
    assert document.nbytes == 3
    assert document.part == f"File: {tmp_path}/a\ufffd[2J\ufffdb.txt\nné"
    assert str(document).endswith("b.txt 3 bytes")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"ab\0c", "binary: a zero byte at offset 2"),
        (b"ab\xff", "not UTF-8: byte 0xff at offset 2"),
        (b"\x89PNG\r\n\x1a\n", "is a picture, not text"),
        ("text".encode("utf-16"), "is UTF-16, not UTF-8"),
    ],
)
def test_a_file_that_holds_no_text_is_refused(data, message, tmp_path):
    path = tmp_path / "x"
    path.write_bytes(data)
    with pytest.raises(UsageError, match=message):
        read_document(str(path))


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
def test_a_picture_of_each_format_is_told_from_text(format):
    with pytest.raises(UsageError, match="x is a picture, not text") as caught:
        decode(encoded(format), "x", "as a picture")
    assert caught.value.hint == "as a picture"


def test_a_byte_order_mark_is_no_text():
    assert decode("\ufeffa\ufeff".encode(), "x", "") == "a\ufeff"


@pytest.mark.parametrize("text", ["GIF89a is a format", "BMW is a car", "RIFF and WEBP"])
def test_text_about_a_format_is_text(text):
    assert decode(text.encode(), "x", "") == text


@pytest.mark.parametrize("name", ["no.txt", "no/no.txt", "a\0b", "x" * 5_000, "a.txt/b"])
def test_a_file_that_is_not_there_is_an_error_with_a_hint(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("a.txt").write_text("a")
    with pytest.raises(UsageError, match=r"no file at|cannot read") as caught:
        read_document(name)
    assert caught.value.hint


def test_the_nearest_file_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("notes.txt").write_text("a")
    with pytest.raises(UsageError) as caught:
        read_document("./note.txt")
    assert caught.value.hint == "did you mean ./notes.txt?"
