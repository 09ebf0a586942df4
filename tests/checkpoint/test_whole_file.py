"""Files that are complete or absent, and what is forced to the disk."""

import json
import os
import subprocess
import sys

import pytest

from qwen35cli.checkpoint.whole_file import whole_file, write_json
from tests.scripted import PATIENCE, environment


def test_a_file_has_its_name_from_the_end_of_the_block_on(tmp_path):
    path = tmp_path / "x"
    with whole_file(path) as file:
        file.write(b"new")
        assert not path.exists()
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt), whole_file(path) as file:
        file.write(b"half")
        raise KeyboardInterrupt
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("durable", [True, False])
def test_only_what_is_durable_is_forced_to_the_disk(tmp_path, monkeypatch, durable):
    synced = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(os.fstat(descriptor).st_ino))
    with whole_file(tmp_path / "x", durable=durable) as file:
        file.write(b"new")
    order = [(tmp_path / "x").stat().st_ino, tmp_path.stat().st_ino]
    assert synced == (order if durable else [])


def test_json_is_readable_and_ends_its_line(tmp_path):
    write_json(tmp_path / "x", {"é": [1, None]})
    text = (tmp_path / "x").read_bytes().decode()
    assert text.endswith("}\n") and "é" in text
    assert json.loads(text) == {"é": [1, None]}


def test_it_needs_no_torch():
    program = "import sys, qwen35cli.checkpoint.whole_file; sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], env=environment(), timeout=PATIENCE)
    assert done.returncode == 0
