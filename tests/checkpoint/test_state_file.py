"""Files of saved state: what was written comes back, and what was changed since is noticed."""

import errno
import os
import stat

import pytest
import safetensors
import torch

from qwen35cli.checkpoint import state_file
from qwen35cli.checkpoint.state_file import DamagedStateError, open_state, write_state
from qwen35cli.errors import ModelError

TENSORS = {
    "tokens": torch.arange(11),
    "layers.3.keys": torch.randn(1, 2, 20, 8).bfloat16()[:, :, :11],  # a view
    "layers.3.keys.scale": torch.randn(1, 2, 11).bfloat16(),
    "codes": torch.randint(-127, 127, (1, 2, 11, 3), dtype=torch.int8),
    "places.0.layers.0.state": torch.randn(1, 4, 8, 8),
    "none": torch.empty(0, 4),
}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "state.safetensors"


def test_everything_comes_back(path):
    size = write_state(path, TENSORS, {"quant": "int4", "kv": "bf16"})
    assert size == path.stat().st_size
    file = open_state(path)
    assert (file.metadata["quant"], file.metadata["kv"]) == ("int4", "bf16")
    file.check()
    for name, tensor in TENSORS.items():
        assert torch.equal(file.fetch(name), tensor)
    with pytest.raises(KeyError):
        file.fetch("layers.4.keys")


def test_it_is_a_safetensors_file_for_its_owner_alone(path):
    write_state(path, TENSORS, {"quant": "int4"})
    with safetensors.safe_open(path, "pt") as file:
        assert set(file.keys()) == set(TENSORS)
        assert torch.equal(file.get_tensor("codes"), TENSORS["codes"])
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("at", [-1, -300, -600])
def test_a_flipped_bit_is_noticed(path, at):
    write_state(path, TENSORS, {})
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)
    with pytest.raises(DamagedStateError):
        open_state(path).check()


@pytest.mark.parametrize("keep", [0, 7, 100, -1])
def test_a_file_that_was_cut_is_refused(path, keep):
    write_state(path, TENSORS, {})
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ModelError):
        open_state(path)


def test_cut_after_it_was_opened(path):
    write_state(path, TENSORS, {})
    file = open_state(path)
    os.truncate(path, path.stat().st_size - 100)
    with pytest.raises(DamagedStateError):
        for name in TENSORS:
            file.fetch(name)


def test_a_full_disk_leaves_what_was_there(path, monkeypatch):
    write_state(path, TENSORS, {"quant": "int4"})
    before = path.read_bytes()

    def full(tensor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(state_file, "tensor_bytes", full)
    with pytest.raises(OSError, match="No space"):
        write_state(path, TENSORS, {"quant": "int8"})
    assert path.read_bytes() == before
    assert [each.name for each in path.parent.iterdir()] == [path.name]
