"""Written checkpoints: the layout others expect, and no half file under a final name."""

import hashlib
import io
import json
from typing import ClassVar

import pytest
import torch
from safetensors.torch import load, load_file

from qwen35cli.checkpoint import write
from qwen35cli.checkpoint.names import CONFIG, INDEX, SINGLE
from qwen35cli.checkpoint.write import (
    Entry,
    TensorStream,
    streamed,
    write_checkpoint,
    write_tensors,
)

STATE = {
    "b": torch.arange(12.0).view(3, 4).bfloat16(),
    "a": torch.arange(5, dtype=torch.bfloat16),
    "wide": torch.tensor([1.0, -2.0]),
    "t": torch.arange(6.0).view(2, 3).t(),  # not contiguous
    "scalar": torch.tensor(3, dtype=torch.uint8),
}


def test_one_file_reads_back_through_the_safetensors_library(tmp_path):
    write_checkpoint(tmp_path, STATE, {"x": "é"})
    found = load_file(tmp_path / SINGLE)
    assert found.keys() == STATE.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in STATE.items())
    assert json.loads((tmp_path / CONFIG).read_text()) == {"x": "é"}
    assert {path.name for path in tmp_path.iterdir()} == {SINGLE, CONFIG}


def test_shards_are_named_like_the_original_and_indexed(tmp_path):
    write_checkpoint(tmp_path, STATE, {}, shard_bytes=30)
    index = json.loads((tmp_path / INDEX).read_text())
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in STATE.values())
    assert index["weight_map"]["b"] == "model.safetensors-00001-of-00003.safetensors"
    for file in set(index["weight_map"].values()):
        listed = {name for name, where in index["weight_map"].items() if where == file}
        assert load_file(tmp_path / file).keys() == listed


def test_wide_formats_come_first_then_by_name(tmp_path):
    write_tensors(tmp_path / "x.safetensors", STATE, STATE.__getitem__)
    raw = (tmp_path / "x.safetensors").read_bytes()
    length = int.from_bytes(raw[:8], "little")
    assert length % 8 == 0
    assert list(json.loads(raw[8 : 8 + length])) == ["t", "wide", "a", "b", "scalar"]


def test_a_failure_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "x.safetensors"
    write_tensors(path, STATE, STATE.__getitem__)
    before = path.read_bytes()

    def fetch(name):
        if name == "b":
            raise RuntimeError("disk on fire")
        return STATE[name]

    with pytest.raises(RuntimeError, match="fire"):
        write_tensors(path, STATE, fetch)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_single_file_replaces_an_older_index(tmp_path):
    write_checkpoint(tmp_path, STATE, {}, shard_bytes=30)
    write_checkpoint(tmp_path, STATE, {})
    assert not (tmp_path / INDEX).exists()


def test_a_stream_reads_back_and_knows_its_hash(tmp_path):
    path = tmp_path / "x.safetensors"
    with streamed(path, STATE) as stream:
        for name, tensor in STATE.items():
            stream.write(name, tensor)
    found = load_file(path)
    assert all(torch.equal(found[name], tensor) for name, tensor in STATE.items())
    content = path.read_bytes()
    assert stream.entry() == Entry(len(content), hashlib.sha256(content).hexdigest())
    assert list(tmp_path.iterdir()) == [path]


def test_a_stream_writes_whole_blocks(monkeypatch):
    class Recording(io.BytesIO):
        sizes: ClassVar[list[int]] = []

        def write(self, data):
            self.sizes.append(len(data))
            return super().write(data)

    monkeypatch.setattr(write, "BLOCK", 16)
    file = Recording()
    stream = TensorStream(file, STATE)
    for name, tensor in STATE.items():
        stream.write(name, tensor)
    stream.finish()
    assert {size % 16 for size in file.sizes[:-1]} == {0}
    content = file.getvalue()
    assert stream.entry() == Entry(len(content), hashlib.sha256(content).hexdigest())
    found = load(content)
    assert all(torch.equal(found[name], tensor) for name, tensor in STATE.items())


@pytest.mark.parametrize(
    "names", [[], ["b"], ["a", "b"], ["b", "a", "wide", "t"]], ids=["none", "one", "order", "last"]
)
def test_a_stream_that_is_not_as_laid_out_leaves_no_file(tmp_path, names):
    path = tmp_path / "x.safetensors"
    with (
        pytest.raises(ValueError, match=r"laid out is|was not written"),
        streamed(path, STATE) as stream,
    ):
        for name in names:
            stream.write(name, STATE[name])
    assert not list(tmp_path.iterdir())
