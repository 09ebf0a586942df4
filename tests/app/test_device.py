"""How much memory can be had."""

import psutil
import pytest
import torch

from qwen35cli.app import device

CPU = torch.device("cpu")


def test_what_the_process_has_already_counts_as_free():
    own = psutil.Process().memory_info().rss
    total = psutil.virtual_memory().total
    assert own < device.free_bytes(CPU) <= total + own


@pytest.mark.parametrize(
    ("limit", "room"), [("max", None), ("500000000", 450_000_000), ("100000000", 50_000_000)]
)
def test_the_limit_of_a_container_counts(tmp_path, monkeypatch, limit, room):
    (tmp_path / "memory.max").write_text(f"{limit}\n")
    (tmp_path / "memory.current").write_text("80000000\n")
    (tmp_path / "memory.stat").write_text("anon 50000000\ninactive_file 30000000\n")
    monkeypatch.setattr(device, "CONTAINER", tmp_path)
    assert device._container_room() == room
    if room is not None:
        assert device.free_bytes(CPU) < room + psutil.Process().memory_info().rss * 1.2


def test_no_such_limits_elsewhere(tmp_path, monkeypatch):
    monkeypatch.setattr(device, "CONTAINER", tmp_path / "none")
    assert device._container_room() is None


def test_the_peak_is_at_least_what_is_there_now():
    now = psutil.Process().memory_info().rss
    block = bytearray(50_000_000)
    assert device.peak_bytes(CPU) >= now + len(block) // 2
