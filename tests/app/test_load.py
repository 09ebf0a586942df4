"""Device and context: the arithmetic, and what is refused with which numbers."""

import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from qwen35cli.app import load
from qwen35cli.app.estimate import Estimate, Setting, planned, size
from qwen35cli.engine.depth import Adaptive, Fixed
from qwen35cli.errors import DeviceError, DoesNotFitError, ModelError, UsageError
from qwen35cli.kernels import select
from qwen35cli.kernels.cpu.native import built
from qwen35cli.model.config import Config
from qwen35cli.model.siblings import SIBLINGS
from qwen35cli.quant.plan import recipe
from tests.tiny import tiny_config

CPU = torch.device("cpu")
CONFIG = Config.from_dict(tiny_config(max_position_embeddings=262_144, mtp=False))
ESTIMATE = Estimate(planned("tiny", CONFIG, recipe("bf16")), Setting(ctx=0, device="cpu"))
KV = 2 * 2 * 32 * 2 * 2  # keys and values, 2 heads of 32, bf16, 2 full-attention layers


def test_the_context_that_is_chosen():
    for asked, room, expected in (
        (None, 262_144, 131_072),
        (None, 50_000, 49_920),  # a default shrinks to what fits, in steps of 256
        (200_000, 262_144, 200_000),
        (50_000, 50_000, 50_000),
    ):
        free = ESTIMATE.fixed + room * KV
        assert load.choose_context(asked, ESTIMATE, free, "cpu") == expected


def test_a_context_that_was_asked_for_is_never_reduced():
    free = ESTIMATE.fixed + 50_000 * KV
    needed = re.escape(size(ESTIMATE.changed(ctx=200_000).total))
    with pytest.raises(DoesNotFitError, match=rf"200,000 tokens needs {needed} .* are free on cpu"):
        load.choose_context(200_000, ESTIMATE, free, "cpu")
    with pytest.raises(UsageError, match="300,000 tokens is more than the model's 262,144"):
        load.choose_context(300_000, ESTIMATE, 2**50, "cpu")
    with pytest.raises(DoesNotFitError) as caught:
        load.choose_context(None, ESTIMATE, ESTIMATE.fixed + 1_000 * KV, "cpu")
    assert caught.value.exit_code == 5


def test_what_does_not_fit_names_two_ways_out():
    free = ESTIMATE.fixed + 200_000 * KV * 2 // 3
    with pytest.raises(DoesNotFitError) as caught:
        load.choose_context(200_000, ESTIMATE, free, "cpu")
    assert caught.value.hint == "--kv-dtype int8, or --ctx 133120"
    with pytest.raises(DoesNotFitError) as caught:
        load.choose_context(200_000, ESTIMATE, 0, "cpu")
    assert caught.value.hint == "--model demo"


def test_what_does_not_fit_is_refused_before_the_weights_are_read(monkeypatch):
    monkeypatch.setattr(load, "free_bytes", lambda device: 100_000_000)
    options = load.LoadOptions(model="demo", device="cpu", ctx=4_096, kernels="reference")
    with pytest.raises(DoesNotFitError, match=r"95\.4 MiB are free on cpu, .* missing"):
        load.open_model(options)


def test_there_is_room_for_a_picture_where_one_may_come():
    options = load.LoadOptions(model="demo", device="cpu", ctx=512, kernels="reference")
    estimates = [
        load.open_model(replace(options, **more)).estimate
        for more in ({}, {"image_max_tokens": 16}, {"pictures": False})
    ]
    assert [each.setting.patches for each in estimates] == [(36_864 // 256,), (64,), ()]
    assert estimates[0].total > estimates[1].total > estimates[2].total


@pytest.mark.parametrize("name", ["patch_size", "temporal_patch_size", "merge_size"])
def test_pictures_cut_otherwise_than_the_vision_tower_reads_them_are_refused(tmp_path, name):
    folder = load.resolve("demo", None).folder
    raw = load.read_if_there(folder, "preprocessor_config.json")
    other = raw | {name: raw[name] + 1}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(other))
    config = Config.from_dict(load.read_if_there(folder, "config.json"))
    with pytest.raises(ModelError, match=f"has {name} {other[name]}, config.json {raw[name]}"):
        load.image_limits(config, tmp_path, None)


def test_a_config_that_finds_pictures_at_another_token_is_refused(tmp_path):
    shutil.copytree(load.resolve("demo", None).folder, tmp_path / "demo")
    path = tmp_path / "demo" / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"image_token_id": 5}))
    options = load.LoadOptions(model=str(tmp_path / "demo"), device="cpu", kernels="reference")
    with pytest.raises(ModelError, match="has the image_token_id 5, tokenizer"):
        load.open_model(options)


def test_a_folder_whose_name_is_no_utf8_runs(tmp_path):
    folder = tmp_path / os.fsdecode(b"demo\xff")
    shutil.copytree(load.resolve("demo", None).folder, folder)
    options = load.LoadOptions(model=str(folder), device="cpu", ctx=512)
    assert load.load(load.open_model(options)).runner.length == 0


@pytest.mark.parametrize(
    ("asked", "most", "expected"),
    [
        (2**20, 1_010_000, 1_010_000),  # `1M`
        (2**20, 2**20, 2**20),
        (2**20, 998_000, 2**20),  # more than 5 % above: refused later
        (900_000, 1_010_000, 900_000),
    ],
)
def test_a_round_count_a_little_above_the_most_is_the_most(asked, most, expected):
    assert load.rounded_context(asked, most) == expected


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_no_gpu_is_an_error_but_for_the_demo(tmp_path):
    demo = load.Source("demo", tmp_path, None)
    other = load.Source("./model", tmp_path, None)
    assert load.choose_device("auto", demo) == CPU
    assert load.choose_device("cpu", other) == CPU
    for asked in ("auto", "cuda"):
        with pytest.raises(DeviceError, match="no usable GPU") as caught:
            load.choose_device(asked, other)
        assert "--device cpu" in caught.value.hint


@pytest.mark.parametrize("steps_alike", [True, False])
@pytest.mark.parametrize("asked", ["auto", "off", 1, 4])
def test_auto_drafts_where_the_output_stays_the_same(asked, steps_alike):
    kernels = replace(select(CPU, "reference"), steps_alike=steps_alike)
    with_layer, without = (
        SimpleNamespace(config=Config.from_dict(tiny_config(mtp=mtp))) for mtp in (True, False)
    )
    expected = "off" if asked == "auto" and not steps_alike else asked
    assert load.choose_drafting(asked, with_layer, kernels) == expected
    if isinstance(asked, int):
        with pytest.raises(UsageError, match="no MTP layer") as caught:
            load.choose_drafting(asked, without, kernels)
        assert caught.value.hint == "--mtp off"
    else:
        assert load.choose_drafting(asked, without, kernels) == "off"


def test_the_depth_follows_the_option():
    assert load.depth_of("off") is None
    assert isinstance(load.depth_of("auto"), Adaptive)
    assert load.depth_of(3) == Fixed(3)


def test_the_layer_stays_in_its_file_where_nothing_drafts():
    options = load.LoadOptions(model="demo", device="cpu", ctx=512, kernels="reference")
    assert load.load(load.open_model(options)).runner.model.mtp is None
    drafting = load.load(load.open_model(replace(options, mtp=2)))
    assert drafting.runner.model.mtp is not None
    assert drafting.depth == Fixed(2)


@pytest.mark.parametrize("text", ["{", "[]", '{"a": ' * 100_000, "\xff"])
def test_damaged_small_files_are_refused(tmp_path, text):
    (tmp_path / "tokenizer_config.json").write_text(text, encoding="latin-1")
    with pytest.raises(ModelError):
        load.chat_template(tmp_path)


def test_a_folder_that_may_not_be_looked_into_is_an_error(tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "is_file", refuse)
    with pytest.raises(ModelError, match=f"^{tmp_path} cannot be read: permission denied"):
        load.open_model(load.LoadOptions(model=str(tmp_path)))


@pytest.mark.parametrize("name", ["chat_template.jinja", "tokenizer_config.json"])
def test_a_small_file_that_cannot_be_read_is_an_error(tmp_path, monkeypatch, name):
    def refuse(path, *_, **__):
        raise PermissionError(13, "Permission denied", str(path))

    (tmp_path / name).write_text("{}")
    monkeypatch.setattr(Path, "read_text", refuse)
    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(ModelError, match=f"/{name} cannot be read: Permission denied$"):
        load.chat_template(tmp_path)


def test_the_default_mode_is_read_off_the_template_that_is_there(tmp_path):
    assert load.chat_template(tmp_path) == ""
    (tmp_path / "tokenizer_config.json").write_text('{"chat_template": "inner"}')
    assert load.chat_template(tmp_path) == "inner"
    (tmp_path / "chat_template.jinja").write_text("own file")
    assert load.chat_template(tmp_path) == "own file"


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("... can't allocate memory: ..."),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate ..."),
    ],
)
def test_memory_that_runs_out_is_an_error_with_a_hint(error):
    with (
        pytest.raises(DoesNotFitError, match="memory ran out while reading") as caught,
        load.memory_errors("reading"),
    ):
        raise error
    assert "--ctx" in caught.value.hint


def test_other_errors_pass():
    with pytest.raises(RuntimeError, match="shape"), load.memory_errors("reading"):
        raise RuntimeError("shape")


@pytest.mark.skipif(not built(), reason="needs a compiled kernel")
def test_a_file_cut_short_in_use_is_said_in_one_line(tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(load.resolve("demo").folder, folder)
    script = f"""
        from qwen35cli.app.load import LoadOptions, load, open_model
        from qwen35cli.engine.runner import Prompt
        loaded = load(open_model(LoadOptions(model={str(folder)!r}, device="cpu", ctx=1024)))
        with open({str(folder / "model.safetensors")!r}, "r+b") as file:
            file.truncate(100_000)
        list(loaded.runner.prefill(Prompt((1, 2, 3))))
        print("not reached")
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == ModelError.exit_code
    assert done.stderr.startswith(f"error: a file of {folder} was cut short while it was in use\n")
    assert not done.stdout


@pytest.mark.parametrize("left", [2**33, 2**30, 0, -(2**30)])
def test_states_get_half_of_what_is_left_and_room_for_a_few(left):
    model = planned("4B", SIBLINGS["Qwen/Qwen3.5-4B"], recipe("int4"))
    estimate = Estimate(model, Setting(ctx=8_192, device="cpu"))
    assert 50 * 2**20 < estimate.state_bytes < 51 * 2**20  # rows are float32 on a CPU
    room = load.states_room(estimate, estimate.total + left)
    assert room == {2**33: 2**31, 2**30: 2**29}.get(left, 4 * estimate.state_bytes)
