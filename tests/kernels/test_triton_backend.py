"""Where the Triton kernels refuse to run, where they keep what they compile, and why a model is
decoded op by op."""

import os
import subprocess
import sys
from importlib.metadata import version

import pytest
import torch

from qwen35cli.checkpoint.names import ours, theirs
from qwen35cli.errors import DeviceError
from qwen35cli.kernels import reference, select, triton
from qwen35cli.kernels.operands import Int4, NoSteps
from qwen35cli.kernels.triton import tiles
from qwen35cli.model.config import Config
from qwen35cli.model.qwen35 import Qwen35
from qwen35cli.quant.plan import assign, recipe
from qwen35cli.quant.swap import prepare, swap
from tests.tiny import tiny_config

CUDA = torch.device("cuda")


@pytest.fixture
def card(monkeypatch):
    """A GPU of some compute capability, as far as torch tells."""

    def make(major, minor, name="Some Card"):
        monkeypatch.setattr("torch.cuda.get_device_capability", lambda device: (major, minor))
        monkeypatch.setattr("torch.cuda.get_device_name", lambda device: name)

    return make


def test_without_triton_the_way_out_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "triton", None)
    with pytest.raises(DeviceError, match="triton, which is not installed") as caught:
        select(CUDA)
    assert "--kernels reference" in caught.value.hint


def test_a_card_that_is_too_old_is_refused_with_the_reason(card):
    card(7, 5, "GeForce RTX 2080")
    with pytest.raises(DeviceError, match=r"GeForce RTX 2080 \(sm_75\) is older .* \(sm_80\)") as e:
        select(CUDA)
    assert "--kernels reference" in e.value.hint
    assert select(CUDA, "reference").backend == "reference"  # what the user allowed


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (RuntimeError("Failed to find C compiler. Please specify via CC …"), "needs a C compiler"),
        (subprocess.CalledProcessError(1, ["/usr/bin/gcc", "main.c"]), "driver: gcc failed"),
        (AssertionError("libcuda.so cannot found!\n"), "does not find libcuda"),
    ],
)
def test_a_driver_that_triton_cannot_reach_is_said_in_one_line(
    card, monkeypatch, tmp_path, error, message
):
    import triton as package

    def fail(self):
        raise error

    card(9, 0)
    monkeypatch.setattr(type(package.runtime.driver), "active", property(fail))
    monkeypatch.setattr(triton, "keep_compiled", lambda folder, device: None)
    with pytest.raises(DeviceError, match=message) as caught:
        select(CUDA, cache=tmp_path)
    assert "--kernels reference" in caught.value.hint
    assert "\n" not in caught.value.message


def test_other_errors_of_triton_pass():
    with pytest.raises(RuntimeError, match="PassManager"), triton.compile_errors():
        raise RuntimeError("PassManager::run failed")


@pytest.fixture
def untold(monkeypatch, tmp_path):
    """Triton's cache folder as it is when nobody said where; back to what it was, afterwards."""
    import triton as package

    cache = package.knobs.cache
    monkeypatch.delenv("TRITON_CACHE_DIR", raising=False)
    with package.knobs.cache.scope():
        yield cache


def test_what_is_compiled_is_kept_apart_by_card_and_versions(card, untold, tmp_path):
    card(9, 0, "NVIDIA H200 / 141 GB")
    triton.keep_compiled(tmp_path, CUDA)
    place = triton.compiled_folder()
    assert place.parent == tmp_path / "triton" and place.is_dir()
    assert place.name.startswith("sm_90-NVIDIA-H200-141-GB-cuda")
    assert f"-triton{version('triton')}" in place.name


def test_the_users_own_folder_stays(card, untold, tmp_path, monkeypatch):
    card(9, 0)
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "mine"))
    triton.keep_compiled(tmp_path, CUDA)
    assert triton.compiled_folder() == tmp_path / "mine"


def test_a_folder_that_cannot_be_made_is_an_error(card, untold, tmp_path):
    card(9, 0)
    (tmp_path / "triton").write_text("a file")
    with pytest.raises(DeviceError, match="cannot be kept in") as caught:
        triton.keep_compiled(tmp_path, CUDA)
    assert "TRITON_CACHE_DIR" in caught.value.hint


@pytest.mark.parametrize("group", [32, 64, 128])
def test_what_is_prepared_holds_the_same_matrix(group):
    codes = torch.randint(-(2**31), 2**31 - 1, (32, 32), dtype=torch.int32)
    weight = Int4(codes, torch.randn(32, 256 // group).bfloat16(), (32, 256), group)
    plain, tiled = reference.prepare(weight), tiles.prepare(weight)
    assert tiled.packed.shape != plain.packed.shape
    again = tiles.natural(tiled)
    assert torch.equal(again.packed, plain.packed)
    assert torch.equal(again.scale, plain.scale)


# -- which models are decoded op by op -------------------------------------------------------------

FITTING = {
    "hidden_size": 128,
    "intermediate_size": 256,
    "linear_value_head_dim": 32,
}
NARROW = {
    "mrope_interleaved": True,
    "mrope_section": [3, 3, 2],
    "rope_type": "default",
    "rope_theta": 10_000_000,
    "partial_rotary_factor": 1 / 6,
}


def steps(format, **text):
    """What a model of these shapes, in a format, gets of the Triton kernels; nothing is run."""
    raw = tiny_config(vision=False, mtp=False, layers=4, **FITTING | text)
    with torch.device("meta"):
        model = Qwen35(Config.from_dict(raw), select(torch.device("cpu"), "triton"))
    schemes = assign(recipe(format), {name: p.shape for name, p in theirs_of(model)})
    swap(model, {ours(name): scheme for name, scheme in schemes.items()})
    model.to_empty(device="cpu")
    prepare(model)
    return model.token_step(model.make_cache(64, undo=True))


def theirs_of(model):
    return [(theirs(name), parameter) for name, parameter in model.named_parameters()]


@pytest.mark.parametrize("format", ["bf16", "int8", "int4"])
def test_a_model_that_fits_is_stepped_through(format):
    assert not isinstance(steps(format), NoSteps)


@pytest.mark.parametrize(
    ("format", "text", "reason"),
    [
        ("nf4", {}, "a matrix is nf4"),
        ("int4", {"hidden_size": 192}, "is 512 x 192, no whole tiles"),
        ("int8", {"intermediate_size": 200}, "a matrix is 200 x 128, no whole tiles"),
        (
            "bf16",
            {"value_heads": 8, "linear_value_head_dim": 48},
            "DeltaNet heads are 32 and 48 wide",
        ),
        ("int8", {"head_dim": 96, "rope_parameters": NARROW}, "attention heads are 96 wide"),
        ("bf16", {"linear_conv_kernel_dim": 3}, "the convolutions have 3 taps, not 4"),
    ],
)
def test_one_that_does_not_is_not_and_says_why(format, text, reason):
    found = steps(format, **text)
    assert isinstance(found, NoSteps)
    assert reason in found.reason


@pytest.mark.parametrize(("said", "fused"), [(None, True), ("0", False), ("1", True)])
def test_products_are_fused_with_sums_unless_the_user_says_otherwise(said, fused, monkeypatch):
    import triton as package

    monkeypatch.delenv("TRITON_DEFAULT_FP_FUSION", raising=False)
    if said is not None:
        monkeypatch.setenv("TRITON_DEFAULT_FP_FUSION", said)
    with package.knobs.language.scope():
        package.knobs.language.reset()
        triton.fuse()
        assert package.knobs.language.default_fp_fusion is fused
        assert os.environ["TRITON_DEFAULT_FP_FUSION"] in ("1", said)  # 3.9 warns where it is unset
