"""Files of a checkpoint folder: found, bounded, and never followed out of it."""

import errno
import json
import os

import pytest

from qwen35cli.checkpoint.folder import (
    MAX_JSON_BYTES,
    read_json,
    reading,
    regular_file,
    weight_files,
)
from qwen35cli.checkpoint.names import CONFIG, INDEX, SINGLE
from qwen35cli.errors import ModelError


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda path: None, "cannot be read: No such file"),
        (lambda path: path.symlink_to("gone"), "cannot be read: No such file"),
        (lambda path: path.symlink_to(path), "cannot be read: Too many levels of symbolic links"),
        (lambda path: path.symlink_to("/etc/passwd"), "links to /etc/passwd, outside"),
        (lambda path: path.mkdir(), "is no regular file"),
        (os.mkfifo, "is no regular file"),
    ],
    ids=["missing", "broken link", "circle", "outside", "folder", "pipe"],
)
def test_a_file_is_one_and_within(tmp_path, make, why):
    make(tmp_path / CONFIG)
    for read in (regular_file, read_json):
        with pytest.raises(ModelError) as refusal:
            read(tmp_path, CONFIG)
        assert refusal.value.message.startswith(f"{tmp_path / CONFIG} {why}")
        assert refusal.value.hint


def test_a_folder_may_be_reached_by_a_link(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / CONFIG).write_text('{"a": 1}')
    (tmp_path / "link").symlink_to("folder")
    assert read_json(tmp_path / "link", CONFIG) == {"a": 1}


def test_json_is_read_up_to_a_size(tmp_path):
    for size in (MAX_JSON_BYTES, MAX_JSON_BYTES + 1):
        (tmp_path / CONFIG).write_bytes(b"{}".ljust(size))
        if size == MAX_JSON_BYTES:
            assert read_json(tmp_path, CONFIG) == {}
        else:
            with pytest.raises(ModelError, match="more than the 4,194,304 bytes allowed"):
                read_json(tmp_path, CONFIG)


def test_what_the_disk_refuses_is_an_error_of_the_checkpoint(tmp_path):
    with (
        pytest.raises(ModelError, match=f"{tmp_path} cannot be read: Input/output error"),
        reading(tmp_path),
    ):
        raise OSError(errno.EIO, os.strerror(errno.EIO))


def test_the_weight_files_there_or_not(tmp_path):
    assert weight_files(tmp_path) == {}
    (tmp_path / SINGLE).touch()
    assert weight_files(tmp_path) == {SINGLE: None}
    weight_map = {"c": "2.safetensors", "a": "1.safetensors", "b": "2.safetensors"}
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": weight_map}))
    found = weight_files(tmp_path)
    assert found == {"1.safetensors": {"a"}, "2.safetensors": {"b", "c"}}
    assert list(found) == sorted(found)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ({}, "has no weight_map"),
        ({"weight_map": {}}, "has no weight_map"),
        ({"weight_map": ["a"]}, "has no weight_map"),
        ({"weight_map": {"a": 1}}, "names the file '1'"),
        ({"weight_map": {"\ud800": "1.safetensors"}}, r": '\\ud800' is not a tensor name"),
        ({"weight_map": {"a" * 257: "1.safetensors"}}, ": 'a{80}' is not a tensor name"),
        ({"weight_map": {"a": ["1.safetensors"]}}, "names the file"),
        ({"weight_map": {"a": "../1.safetensors"}}, "names the file '../1.safetensors'"),
        ([], "holds a JSON list, no object"),
    ],
)
def test_an_index_that_is_none(tmp_path, content, why):
    (tmp_path / INDEX).write_text(json.dumps(content))
    with pytest.raises(ModelError, match=why):
        weight_files(tmp_path)
