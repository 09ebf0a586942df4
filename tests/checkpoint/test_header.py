"""Hostile and damaged safetensors files: each is refused, and the message says what is wrong."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from qwen35cli.checkpoint.dtypes import DTYPES
from qwen35cli.checkpoint.header import ITEMSIZE, read_header
from qwen35cli.checkpoint.raw_header import MAX_HEADER_BYTES
from qwen35cli.errors import ModelError

F32_PAIR = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


def raw_file(path: Path, header: object, data: bytes = b"", length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + data)
    return path


def test_the_sizes_of_numbers_are_those_of_torch():
    assert {name: dtype.itemsize for name, dtype in DTYPES.items()} == ITEMSIZE


def test_agrees_with_the_safetensors_library(tmp_path):
    path = tmp_path / "model.safetensors"
    state = {
        "b.weight": torch.randn(3, 5).bfloat16(),
        "a": torch.randn(7),
        "scalar": torch.tensor(2.0),
        "empty": torch.empty(0, 4),
        "bytes": torch.arange(9, dtype=torch.uint8),
    }
    save_file(state, path, metadata={"format": "pt"})
    found = {tensor.name: tensor for tensor in read_header(path)}
    assert found.keys() == state.keys()
    for name, tensor in state.items():
        stored = found[name]
        assert (stored.shape, stored.dtype) == (tuple(tensor.shape), tensor.dtype)
        with path.open("rb") as file:
            file.seek(stored.offset)
            assert (
                file.read(stored.nbytes) == tensor.reshape(-1).view(torch.uint8).numpy().tobytes()
            )


@pytest.mark.parametrize(
    ("header", "data", "said"),
    [
        pytest.param(b'{"a":1,"a":2}', b"", "twice", id="duplicate key"),
        pytest.param(b' {"a":1}', b"", "begin", id="leading space"),
        pytest.param(b"[1, 2]", b"", "begin", id="no object"),
        pytest.param(b"{\xff\xfe}", b"", "JSON", id="bad UTF-8"),
        pytest.param(b'{"a":' + b"[" * 200_000, b"", "JSON", id="deep nesting"),
        pytest.param(b'{"a":NaN}', b"", "NaN", id="NaN in the header"),
        pytest.param({"../../etc/passwd": F32_PAIR}, bytes(8), "name", id="path as a name"),
        pytest.param({"a\x1b[31m": F32_PAIR}, bytes(8), "name", id="escape in a name"),
        pytest.param({"a" * 300: F32_PAIR}, bytes(8), "name", id="long name"),
        pytest.param({"a": [1]}, b"", "data_offsets", id="entry is a list"),
        pytest.param({"a": F32_PAIR | {"x": 1}}, bytes(8), "no more", id="extra field"),
        pytest.param({"a": F32_PAIR | {"dtype": "F99"}}, bytes(8), "F99", id="unknown dtype"),
        pytest.param({"a": F32_PAIR | {"shape": [-2]}}, bytes(8), "shape", id="negative dimension"),
        pytest.param(
            {"a": F32_PAIR | {"shape": [True, 2]}}, bytes(8), "shape", id="bool dimension"
        ),
        pytest.param({"a": F32_PAIR | {"shape": [2.0]}}, bytes(8), "shape", id="float dimension"),
        pytest.param(
            {"a": F32_PAIR | {"shape": [2**62, 2**62]}}, bytes(8), "takes", id="shape overflow"
        ),
        pytest.param({"a": F32_PAIR | {"shape": [3]}}, bytes(8), "8 bytes.*12", id="size mismatch"),
        pytest.param(
            {"a": F32_PAIR | {"data_offsets": [8, 0]}}, bytes(8), "bytes", id="backward range"
        ),
        pytest.param(
            {"a": F32_PAIR | {"data_offsets": [0]}}, bytes(8), "data_offsets", id="half a range"
        ),
        pytest.param(
            {"a": F32_PAIR | {"data_offsets": [-8, 0]}},
            bytes(8),
            "data_offsets",
            id="negative range",
        ),
        pytest.param(
            {"a": F32_PAIR, "b": F32_PAIR | {"data_offsets": [16, 24]}},
            bytes(24),
            "hole",
            id="hole",
        ),
        pytest.param(
            {"a": F32_PAIR, "b": F32_PAIR | {"data_offsets": [4, 12]}},
            bytes(12),
            "overlap",
            id="overlap",
        ),
        pytest.param({"a": F32_PAIR, "b": F32_PAIR}, bytes(8), "overlap", id="shared bytes"),
        pytest.param({"a": F32_PAIR}, bytes(7), "cut short", id="truncated"),
        pytest.param({"a": F32_PAIR}, bytes(9), "trailing", id="trailing bytes"),
        pytest.param({"__metadata__": {"a": 1}}, b"", "metadata", id="metadata of numbers"),
    ],
)
def test_refuses(tmp_path, header, data, said):
    path = raw_file(tmp_path / "model.safetensors", header, data)
    with pytest.raises(ModelError, match=said) as refusal:
        read_header(path)
    assert refusal.value.hint


@pytest.mark.parametrize("length", [0, 1, 200 * 10**6, 2**40, 2**64 - 1])
def test_refuses_an_absurd_header_length(tmp_path, length):
    path = raw_file(tmp_path / "model.safetensors", b"{}", bytes(64), length)
    with pytest.raises(ModelError, match=f"header of {length:,} bytes"):
        read_header(path)


def test_refuses_a_header_past_the_limit_even_where_the_file_has_it(tmp_path):
    path = raw_file(tmp_path / "model.safetensors", b"{}" + b" " * MAX_HEADER_BYTES)
    with pytest.raises(ModelError, match="at most"):
        read_header(path)


@pytest.mark.parametrize("content", [b"", b"\x02\x00", b"\x02" + bytes(7)])
def test_refuses_a_file_without_room_for_a_header(tmp_path, content):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(ModelError):
        read_header(path)
