"""What `qwen35 tune` launches: the products of a step, in every way that fits."""

from dataclasses import replace

import pytest
import torch

from qwen35cli.kernels.operands import Int4
from qwen35cli.kernels.triton import launches, matvec, tiles
from qwen35cli.kernels.triton.matvec import Launch
from qwen35cli.kernels.triton.trials import Product, Trials, compiles_not, copies_of, nbytes
from qwen35cli.kernels.tuned import MOST_SPLIT, checked

CPU = torch.device("cpu")
PRODUCTS = (
    Product("project", "int4", 32, ((32, 256), (16, 256), (16, 256))),
    Product("project", "int8", 0, ((32, 128), (32, 128)), heads=2, width=16),
    Product("swiglu", "int4", 128, ((32, 256), (32, 256))),
    Product("add", "bf16", 0, ((32, 128),)),
    Product("add", "int8", 0, ((32, 256),), heads=2, width=128),
    Product("head", "int8", 0, ((48, 128),)),
)


@pytest.mark.parametrize("product", PRODUCTS, ids=lambda product: product.key)
def test_every_product_runs_as_it_does_in_a_step(product):
    trials = Trials(product, CPU, 2, overlap=False)
    assert len(trials.copies) == copies_of(product, CPU) == 2
    assert product.key == launches.key(product.op, *trials.copies[0])
    assert all(matvec.readable(weight) for weight in trials.copies[0])
    first = next(trials.first())
    for run in trials.runs(first):
        run()


def test_random_int4_has_the_layout_of_prepared():
    for group in (32, 64, 128):
        (made,) = Trials(
            Product("head", "int4", group, ((32, 256),)), CPU, 1, overlap=False
        ).copies[0]
        file = Int4(
            torch.zeros(32, 32, dtype=torch.int32),
            torch.zeros(32, 256 // group, dtype=torch.bfloat16),
            (32, 256),
            group,
        )
        kept = tiles.prepare(file)
        for name in ("packed", "scale"):
            assert getattr(made, name).shape == getattr(kept, name).shape
            assert getattr(made, name).dtype == getattr(kept, name).dtype
        assert nbytes(made) == nbytes(kept)


def test_candidates_are_those_that_fit_and_that_a_file_may_hold():
    product = Product("add", "int4", 32, ((160, 1_536),))  # 10 tiles, 12 blocks
    trials = Trials(product, CPU, 1, overlap=True)
    first = list(trials.first())
    found = first + [other for launch in first for other in trials.near(launch)]
    found += [other for launch in found for other in trials.earlier(launch)]
    assert all(trials.fitted(launch) == launch and launch.overlap for launch in found)
    table = {"sm_90": {f"add 4 {i}x1": x.numbers for i, x in enumerate(found, 1)}}
    assert checked(table) == table
    assert {launch.split for launch in first} == {1, 2, 3, 4, 6, 12}
    assert {launch.warps for launch in first} == {1, 2, 4}
    assert {launch.tiles for launch in found} == {1, 2}
    pairs = [(launch.warps, launch.split) for launch in first]
    assert len(pairs) == len({*pairs})


def test_what_is_left_of_a_warps_share_may_come_early_where_launches_overlap():
    product = Product("add", "int4", 32, ((160, 1_536),))  # 12 blocks
    launch = Launch(warps=2, ahead=1, split=1, overlap=True)
    early = [other.early for other in Trials(product, CPU, 1, overlap=True).earlier(launch)]
    assert early == [5, 2]
    whole = replace(launch, ahead=6)
    assert not list(Trials(product, CPU, 1, overlap=True).earlier(whole))
    assert not list(Trials(product, CPU, 1, overlap=False).earlier(launch))


def test_only_add_splits_and_swiglu_has_one_tile():
    for product in PRODUCTS:
        trials = Trials(product, CPU, 1, overlap=False)
        found = [other for first in trials.first() for other in (first, *trials.near(first))]
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


@pytest.mark.parametrize("split", [1, 3])
@pytest.mark.parametrize(
    ("kind", "group"), [("int4", 32), ("int4", 64), ("int4", 128), ("int8", 0), ("bf16", 0)]
)
def test_what_is_fetched_early_are_the_weights_behind_those_fetched_first(
    kind, group, split, monkeypatch
):
    N, K = 32, 1_536
    (matrix,) = (
        trials := Trials(Product("add", kind, group, ((N, K),)), CPU, 1, overlap=False)
    ).copies[0]
    fetched, options = set(), Launch.options.fget

    def fetch_early(ptrs, BYTES, COUNT):
        starts = ptrs.handle.data.reshape(-1, 32)[:, : int(COUNT)]
        for start in starts.flatten().tolist():
            bytes_ = range(start, start + int(BYTES))
            assert start % 16 == 0 == len(bytes_) % 16 and fetched.isdisjoint(bytes_)
            fetched.update(bytes_)

    monkeypatch.setattr(tiles, "fetch_early", fetch_early)
    monkeypatch.setattr(
        Launch, "options", property(lambda self: options(self) | {"EARLY": self.early})
    )
    launch = trials.fitted(Launch(warps=2, ahead=1, split=split, early=100))
    trials.runs(launch)[0]()
    parts = [matrix] if kind == "bf16" else [matrix.packed, *([matrix.scale] * (kind == "int4"))]
    inside = {
        place for part in parts for place in range(part.data_ptr(), part.data_ptr() + part.nbytes)
    }
    assert fetched < inside
    assert len(fetched) == len(inside) * launch.early // (launch.early + launch.ahead)
