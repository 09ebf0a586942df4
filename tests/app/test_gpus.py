"""Cards by name, sizes by number."""

import pytest

from qwen35cli.app import gpus
from qwen35cli.app.estimate import GIB
from qwen35cli.errors import UsageError
from qwen35cli.kernels import triton


def test_the_table_is_whole():
    assert len(gpus.table()) == 134
    assert len({gpu.name for gpu in gpus.table()}) == 134
    assert all(gpu.usable > GIB and gpu.bandwidth_gbs > 50 for gpu in gpus.table())
    assert len(gpus.common()) == 12


def test_a_card_says_which_kernels_run_on_it():
    """By the bound of the kernels themselves; those that are shown unasked take them all."""
    assert gpus.LEAST == triton.LEAST
    assert all(gpu.kernels == ("triton", "reference") for gpu in gpus.common())
    for name, kernels in [
        ("Tesla T4", ("reference",)),
        ("GTX 1650", ("reference",)),
        ("TITAN RTX", ("reference",)),
        ("A100 SXM4 40GB", ("triton", "reference")),
        ("RTX 3050 8GB", ("triton", "reference")),
        ("RTX 5090", ("triton", "reference")),
        ("7900 XTX", ()),
        ("Apple M1 8GB", ()),
        ("8GB", None),
    ]:
        assert gpus.parse(name).kernels == kernels, name


@pytest.mark.parametrize("gpu", gpus.table(), ids=lambda gpu: gpu.name)
def test_every_card_is_found_by_its_own_name(gpu):
    assert gpus.parse(gpu.name) == gpu
    assert gpus.parse(gpu.name.lower()) == gpu


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("4090", "GeForce RTX 4090"),
        ("rtx 4090", "GeForce RTX 4090"),
        ("RTX4090", "GeForce RTX 4090"),
        ("4090 laptop", "GeForce RTX 4090 Laptop"),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", "GeForce RTX 4090 Laptop"),
        ("rtx-3060", "GeForce RTX 3060 12GB"),
        ("NVIDIA GeForce RTX 3060", "GeForce RTX 3060 12GB"),
        ("5060ti 16 GB", "GeForce RTX 5060 Ti 16GB"),
        ("RTX4070Ti", "GeForce RTX 4070 Ti"),
        ("RX7900XT", "Radeon RX 7900 XT"),
        ("T4", "Tesla T4"),
        ("L4", "L4"),
        ("L40S", "L40S"),
        ("h200", "H200"),
        ("NVIDIA A100-SXM4-80GB", "A100 SXM4 80GB"),
        ("7900 xtx", "Radeon RX 7900 XTX"),
    ],
)
def test_a_name_in_part(text, name):
    assert gpus.parse(text).name == name


@pytest.mark.parametrize(
    ("text", "offered"),
    [("A100", "A100 SXM4 80GB"), ("4060 ti", "GeForce RTX 4060 Ti 8GB"), ("2060", "2060 12GB")],
)
def test_a_name_of_several_lists_them(text, offered):
    with pytest.raises(UsageError, match=offered) as caught:
        gpus.parse(text)
    assert caught.value.hint.startswith("--gpu '")


@pytest.mark.parametrize("text", ["4091", "rtx 4900", "GeForce", "", "nonsense", "\x1b[31m", "-5"])
def test_an_unknown_name_offers_the_closest(text):
    with pytest.raises(UsageError, match="no GPU") as caught:
        gpus.parse(text)
    assert "a size such as --gpu 24GiB" in caught.value.hint
    if text in ("4091", "rtx 4900"):
        assert "RTX 4090" in caught.value.hint


@pytest.mark.parametrize(
    ("text", "near"),
    [
        ("RTX 2080", "GeForce RTX 2080 Ti"),
        ("RTX 4060 8GB", "GeForce RTX 4060 Ti 8GB"),
        ("GTX 1660", "GeForce GTX 1660 SUPER"),
    ],
)
def test_another_card_of_a_longer_name_is_offered_and_not_taken(text, near):
    with pytest.raises(UsageError, match=f"no GPU '{text}' is known") as caught:
        gpus.parse(text)
    assert caught.value.hint.startswith(f"--gpu {near!r}, or ")


@pytest.mark.parametrize("text", ["24G", "24GB", "24GiB", "24 gib", "24.0g"])
def test_a_size_is_in_binary_units_as_cards_are_sold(text):
    found = gpus.parse(text)
    assert (found.usable, found.name, found.bandwidth_gbs) == (24 * GIB, "24 GiB", None)


def test_no_memory_at_all_is_refused():
    with pytest.raises(UsageError, match="0 GiB"):
        gpus.parse("0GB")


@pytest.mark.parametrize(
    ("driver", "name"),
    [
        ("NVIDIA H100 80GB HBM3", "H100 SXM5 80GB"),
        ("NVIDIA H100 PCIe", "H100 PCIe 80GB"),
        ("NVIDIA RTX 6000 Ada Generation", "RTX 6000 Ada"),
        ("NVIDIA RTX PRO 6000 Blackwell Workstation Edition", "RTX PRO 6000 Blackwell"),
    ],
)
def test_a_card_is_known_by_what_its_driver_calls_it(driver, name):
    found = gpus.named(driver)
    assert found is not None and found.name == name


def test_what_a_driver_says_that_is_not_listed_is_no_card():
    assert gpus.named("Some Future GPU 9000") is None
