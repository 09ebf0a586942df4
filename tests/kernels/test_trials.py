"""The ways in which `qwen35 tune` launches the products of a step."""

from dataclasses import replace

import pytest
import torch

pytest.importorskip("triton", reason="Triton has no wheel for this system")

from qwen35cli.kernels.triton import launches, matvec
from qwen35cli.kernels.triton.matvec import Launch
from qwen35cli.kernels.triton.trials import Product, compiles_not, earlier, first, near
from qwen35cli.kernels.tuned import MOST_SPLIT, checked

TWELVE = Product("add", "int4", ((160, 1_536),))  # 10 tiles, 12 blocks
PRODUCTS = (
    Product("project", "int4", ((32, 256), (16, 256), (16, 256))),
    Product("project", "int8", ((32, 128), (32, 128))),
    Product("swiglu", "int4", ((32, 256), (32, 256))),
    Product("add", "bf16", ((32, 128),)),
    Product("head", "int8", ((48, 128),)),
)


def test_candidates_are_those_that_fit_and_that_a_file_may_hold():
    begun = list(first(TWELVE, overlap=True))
    found = begun + [other for launch in begun for other in near(TWELVE, launch)]
    found += [other for launch in found for other in earlier(TWELVE, launch)]
    assert all(TWELVE.fitted(launch) == launch and launch.overlap for launch in found)
    table = {"sm_90": {f"add 4 {i}x1": x.numbers for i, x in enumerate(found, 1)}}
    assert checked(table) == table
    assert {launch.split for launch in begun} == {1, 2, 3, 4, 6, 12}
    assert {launch.warps for launch in begun} == {1, 2, 4}
    assert {launch.tiles for launch in found} == {1, 2}
    pairs = [(launch.warps, launch.split) for launch in begun]
    assert len(pairs) == len({*pairs})


def test_what_is_left_of_a_warps_share_may_come_early_where_launches_overlap():
    launch = Launch(warps=2, ahead=1, split=1, overlap=True)
    assert [other.early for other in earlier(TWELVE, launch)] == [5, 2]
    assert not list(earlier(TWELVE, replace(launch, ahead=6)))
    assert not list(earlier(TWELVE, replace(launch, overlap=False)))


def test_only_add_splits_and_swiglu_has_one_tile():
    for product in PRODUCTS:
        begun = list(first(product, overlap=False))
        found = [other for launch in begun for other in (launch, *near(product, launch))]
        if product.op != "add":
            assert {launch.split for launch in found} == {1}
        if product.op == "swiglu":
            assert {launch.tiles for launch in found} == {1}


def test_the_file_and_the_kernels_agree_on_the_most_pieces():
    assert MOST_SPLIT == matvec.MOST_SPLIT


def test_only_what_does_no_harm_counts_as_not_compiling():
    from triton.compiler.errors import CompilationError
    from triton.runtime.errors import OutOfResources

    assert compiles_not(OutOfResources(300_000, 232_448, "shared memory"))
    assert compiles_not(CompilationError("", None, "no"))
    assert compiles_not(RuntimeError("PassManager::run failed"))
    assert not compiles_not(RuntimeError("CUDA error: an illegal memory access was encountered"))
    assert not compiles_not(torch.OutOfMemoryError("CUDA out of memory"))
    assert not compiles_not(AssertionError())


@pytest.mark.parametrize(
    ("capability", "driver", "overlap"),
    [((8, 9), 13_000, False), ((9, 0), 12_020, False), ((9, 0), 12_030, True),
     ((12, 0), 13_000, True)],
)  # fmt: skip
def test_launches_overlap_where_card_and_driver_can(monkeypatch, capability, driver, overlap):
    """An older driver would not have it in a graph; such run newer torch, of the same CUDA 12."""
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda device: capability)
    monkeypatch.setattr(launches, "cuda_of_driver", lambda: driver)
    made = launches.Launches.of(torch.device("cuda"), {})
    assert made.overlap == overlap
    assert made.of_key("add 4 2560x9216").overlap == overlap


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_driver_says_which_cuda_it_runs():
    assert launches.cuda_of_driver() >= 12_000
