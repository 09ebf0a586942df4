"""The files with saved state: listed, removed, and counted until there is room."""

import os
from datetime import UTC, datetime

import pytest

from qwen35cli.app.states_folder import SavedState, over, remove_state, saved_states
from qwen35cli.errors import Qwen35Error

LONG_AGO = datetime.fromtimestamp(0, UTC)


def test_saved_states_are_listed_by_use(tmp_path):
    assert saved_states(tmp_path / "none") == []
    for name, age in (("b.safetensors", 2), ("a.safetensors", 1), ("c.txt", 3)):
        (tmp_path / name).write_bytes(bytes(age))
        os.utime(tmp_path / name, (1_000 - age, 1_000 - age))
    (tmp_path / "d.safetensors").symlink_to(tmp_path / "c.txt")
    found = saved_states(tmp_path)
    assert [(state.path.name, state.nbytes) for state in found] == [
        ("b.safetensors", 2),
        ("a.safetensors", 1),
    ]
    assert found[0] == SavedState(tmp_path / "b.safetensors", 2, datetime.fromtimestamp(998, UTC))
    remove_state(found[0])
    remove_state(found[0])  # gone already
    assert saved_states(tmp_path) == found[1:]


def test_what_cannot_be_read_or_removed_is_an_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(Qwen35Error, match=f"could not read {tmp_path / 'file'}: Not a directory"):
        saved_states(tmp_path / "file")
    with pytest.raises(Qwen35Error, match=f"could not remove {tmp_path}: "):
        remove_state(SavedState(tmp_path, 0, LONG_AGO))


@pytest.mark.parametrize(
    ("nbytes", "taken"), [(-1, 0), (0, 0), (1, 1), (5, 1), (6, 2), (11, 3), (99, 3)]
)
def test_no_more_goes_than_must(tmp_path, nbytes, taken):
    states = [SavedState(tmp_path, size, LONG_AGO) for size in (5, 5, 1)]
    assert over(states, nbytes) == states[:taken]
