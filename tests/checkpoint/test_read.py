"""Opening and loading: strict both ways, true to the bytes, and deaf to hostile folders."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from qwen35cli.checkpoint.header import Stored
from qwen35cli.checkpoint.names import CONFIG, INDEX, SINGLE
from qwen35cli.checkpoint.opened import open_checkpoint
from qwen35cli.checkpoint.read import _check_finite, load_weights
from qwen35cli.checkpoint.write import write_checkpoint
from qwen35cli.errors import ModelError
from qwen35cli.kernels import select
from qwen35cli.model.config import Config
from qwen35cli.model.qwen35 import Qwen35
from tests.tiny import checkpoint_state, tiny_config, tiny_model

CPU = torch.device("cpu")
NORM = "model.language_model.norm.weight"
A_LOG = "model.language_model.layers.0.linear_attn.A_log"


def meta_model(raw):
    with torch.device("meta"):
        return Qwen35(Config.from_dict(raw), select(CPU, "reference"))


def tiny_state(raw=None):
    return checkpoint_state(tiny_model(raw, dtype=torch.bfloat16))


def load(folder: Path) -> Qwen35:
    checkpoint = open_checkpoint(folder)
    with torch.device("meta"):
        model = Qwen35(checkpoint.config, select(CPU, "reference"))
    load_weights(model, checkpoint, CPU)
    return model


@pytest.fixture(scope="module")
def sound_state():
    return tiny_state()


@pytest.fixture
def sharded(tmp_path, sound_state):
    """A sound checkpoint in several files, to be damaged."""
    write_checkpoint(tmp_path / "model", sound_state, tiny_config(), shard_bytes=200_000)
    return tmp_path / "model"


def edit_index(folder, **changes):
    index = json.loads((folder / INDEX).read_text())
    index["weight_map"] |= {name.replace("__", "."): file for name, file in changes.items()}
    (folder / INDEX).write_text(json.dumps(index))


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("shard_bytes", [None, 200_000], ids=["one file", "shards"])
def test_what_was_written_is_read_to_the_bit(tmp_path, tied, shard_bytes):
    raw = tiny_config(tied=tied)
    source = tiny_model(raw, dtype=torch.bfloat16)
    write_checkpoint(tmp_path, checkpoint_state(source), raw, shard_bytes)
    model = load(tmp_path)
    expected = dict(source.named_parameters())
    for name, parameter in model.named_parameters():
        assert parameter.dtype == expected[name].dtype, name
        assert torch.equal(parameter, expected[name]), name
        assert not parameter.requires_grad
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16, torch.float32}


def test_reads_what_the_safetensors_library_wrote(tmp_path, sound_state):
    save_file({n: t.contiguous() for n, t in sound_state.items()}, tmp_path / SINGLE)
    (tmp_path / CONFIG).write_text(json.dumps(tiny_config()))
    model = load(tmp_path)
    assert torch.equal(model.language_model.norm.weight, sound_state[NORM])


def test_accepts_bfloat16_where_float32_is_kept_and_widens_it(tmp_path, sound_state):
    write_checkpoint(tmp_path, {n: t.bfloat16() for n, t in sound_state.items()}, tiny_config())
    a_log = load(tmp_path).language_model.layers[0].linear_attn.A_log
    assert a_log.dtype == torch.float32
    assert torch.equal(a_log, sound_state[A_LOG].bfloat16().float())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.int16])
def test_refuses_to_round(tmp_path, sound_state, dtype):
    write_checkpoint(tmp_path, sound_state | {NORM: sound_state[NORM].to(dtype)}, tiny_config())
    with pytest.raises(ModelError, match=rf"{NORM} is stored as \w+, it must be BF16"):
        load(tmp_path)


def test_missing_and_unexpected_tensors_are_listed_together(tmp_path, sound_state):
    state = {n: t for n, t in sound_state.items() if n not in (NORM, A_LOG)}
    state["model.language_model.layers.99.extra"] = torch.zeros(2)
    write_checkpoint(tmp_path, state, tiny_config())
    with pytest.raises(ModelError) as refusal:
        load(tmp_path)
    assert f"2 missing ({A_LOG}, {NORM})" in refusal.value.message
    assert "1 unexpected (model.language_model.layers.99.extra)" in refusal.value.message


def test_our_own_names_are_not_the_checkpoints(tmp_path, sound_state):
    state = {n.removeprefix("model."): t for n, t in sound_state.items()}
    write_checkpoint(tmp_path, state, tiny_config())
    with pytest.raises(ModelError, match="missing"):
        load(tmp_path)


def test_a_wrong_shape_is_named_with_both(tmp_path, sound_state):
    write_checkpoint(tmp_path, sound_state | {NORM: torch.zeros(65).bfloat16()}, tiny_config())
    with pytest.raises(ModelError, match=rf"{NORM} has the shape \[65\].*asks for \[64\]"):
        load(tmp_path)


@pytest.mark.parametrize("number", [float("nan"), -float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", [NORM, A_LOG, "model.language_model.embed_tokens.weight"])
def test_numbers_that_are_not_finite_are_refused(tmp_path, sound_state, name, number):
    tensor = sound_state[name].clone()
    tensor.view(-1)[-1] = number
    write_checkpoint(tmp_path, sound_state | {name: tensor}, tiny_config())
    with pytest.raises(ModelError, match=f"{name} holds numbers that are not finite"):
        load(tmp_path)


def test_the_largest_finite_numbers_pass(tmp_path, sound_state):
    big = torch.finfo(torch.bfloat16).max
    tensor = sound_state[NORM].clone()
    tensor[:4] = torch.tensor([big, -big, 0.0, -0.0])
    write_checkpoint(tmp_path, sound_state | {NORM: tensor}, tiny_config())
    assert torch.equal(load(tmp_path).language_model.norm.weight, tensor)


def test_parts_may_be_left_in_the_file(tmp_path, sound_state):
    write_checkpoint(tmp_path, sound_state, tiny_config())
    checkpoint = open_checkpoint(tmp_path)
    model = meta_model(tiny_config(vision=False, mtp=False))
    load_weights(model, checkpoint, CPU)
    assert not any(parameter.is_meta for parameter in model.parameters())


def test_a_checkpoint_that_dropped_its_mtp_layer_is_one_without(tmp_path, sound_state):
    write_checkpoint(
        tmp_path, {n: t for n, t in sound_state.items() if n[:4] != "mtp."}, tiny_config()
    )
    assert load(tmp_path).mtp is None


def test_half_an_mtp_layer_is_refused(tmp_path, sound_state):
    write_checkpoint(
        tmp_path, {n: t for n, t in sound_state.items() if n != "mtp.fc.weight"}, tiny_config()
    )
    with pytest.raises(ModelError, match=r"1 missing \(mtp.fc.weight\)"):
        load(tmp_path)


@pytest.mark.parametrize("tied", [True, False])
def test_a_head_that_the_config_does_not_expect_names_the_setting(tmp_path, tied):
    raw = tiny_config(tied=tied)
    write_checkpoint(tmp_path, tiny_state(tiny_config(tied=not tied)), raw)
    with pytest.raises(ModelError, match=r"lm_head\.weight") as refusal:
        load(tmp_path)
    assert f"set every tie_word_embeddings there to {str(not tied).lower()}" in refusal.value.hint
    assert "damaged" not in refusal.value.hint
    raw["tie_word_embeddings"] = raw["text_config"]["tie_word_embeddings"] = not tied
    (tmp_path / CONFIG).write_text(json.dumps(raw))
    load(tmp_path)


def test_a_vision_tower_that_is_not_there_names_the_setting(tmp_path, sound_state):
    state = {n: t for n, t in sound_state.items() if not n.startswith("model.visual.")}
    write_checkpoint(tmp_path, state, tiny_config())
    with pytest.raises(ModelError, match="missing") as refusal:
        load(tmp_path)
    assert "set vision_config to null in config.json" in refusal.value.hint
    (tmp_path / CONFIG).write_text(json.dumps(tiny_config() | {"vision_config": None}))
    assert load(tmp_path).visual is None


def test_names_that_the_config_does_not_expect_are_not_called_damage(tmp_path, sound_state):
    for name in ("half", "other"):
        state = {
            n.replace("language_model.", "") if name == "other" else n: t
            for n, t in sound_state.items()
            if name == "other" or n != "model.visual.merger.norm.weight"
        }
        write_checkpoint(tmp_path / name, state, tiny_config())
        with pytest.raises(ModelError, match="missing") as refusal:
            load(tmp_path / name)
        assert "or another program saved them under names of its own" in refusal.value.hint


# -- hostile folders ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "shard",
    [
        "../model.safetensors",
        "/etc/passwd",
        "a/b.safetensors",
        "x.bin",
        "..",
        "",
        "a\\b.safetensors",
    ],
)
def test_a_shard_is_a_plain_name(sharded, shard):
    edit_index(sharded, model__language_model__norm__weight=shard)
    with pytest.raises(ModelError, match="plain"):
        open_checkpoint(sharded)


def test_a_shard_may_not_link_out_of_the_folder(sharded, tmp_path):
    shard = next(sharded.glob("*-00001-of-*"))
    shard.rename(tmp_path / "elsewhere.safetensors")
    shard.symlink_to(tmp_path / "elsewhere.safetensors")
    with pytest.raises(ModelError, match="outside"):
        open_checkpoint(sharded)


def test_a_shard_may_link_to_the_blobs_of_its_cache(sharded, tmp_path):
    repo = tmp_path / "models--owner--name"
    (repo / "snapshots").mkdir(parents=True)
    snapshot = sharded.rename(repo / "snapshots" / "0123abcd")
    (repo / "blobs").mkdir()
    for number, path in enumerate(sorted(snapshot.iterdir())):
        path.rename(repo / "blobs" / str(number))
        path.symlink_to(Path("../../blobs") / str(number))
    load(snapshot)


def test_a_shard_may_link_to_the_blobs_that_repositories_share(sharded, tmp_path):
    snapshots = tmp_path / "models--owner--name" / "snapshots"
    snapshots.mkdir(parents=True)
    snapshot = sharded.rename(snapshots / "0123abcd")
    (snapshots.parent / "blobs").mkdir()
    (tmp_path / "blobs" / "ab").mkdir(parents=True)
    shard = next(snapshot.glob("*-00001-of-*"))
    shard.rename(tmp_path / "blobs" / "ab" / "abcd")
    (snapshots.parent / "blobs" / "1").symlink_to("../../blobs/ab/abcd")
    shard.symlink_to("../../blobs/1")
    load(snapshot)
    snapshots.parent.rename(tmp_path / "folder")
    with pytest.raises(ModelError, match="outside the checkpoint"):
        load(tmp_path / "folder" / "snapshots" / "0123abcd")


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: path.symlink_to(path)])
def test_a_shard_is_a_regular_file(sharded, make):
    shard = next(sharded.glob("*-00001-of-*"))
    shard.unlink()
    make(shard)
    with pytest.raises(ModelError):
        open_checkpoint(sharded)


def test_a_missing_shard_is_named(sharded):
    shard = next(sharded.glob("*-00002-of-*"))
    shard.unlink()
    with pytest.raises(ModelError, match=rf"lacks 1 of \d+ weight files .{shard.name}."):
        open_checkpoint(sharded)


def test_index_and_shard_must_agree(sharded):
    other = next(sharded.glob("*-00001-of-*")).name
    edit_index(sharded, model__language_model__norm__weight=other)
    with pytest.raises(ModelError, match=r"disagree.*norm\.weight"):
        open_checkpoint(sharded)


def test_a_tensor_in_two_shards_is_refused(sharded, sound_state):
    shard = next(sharded.glob("*-00001-of-*"))
    save_file(load_file(shard) | {NORM: sound_state[NORM]}, shard)
    with pytest.raises(ModelError, match=rf"1 not assigned to it \({NORM}\)"):
        open_checkpoint(sharded)


@pytest.mark.parametrize("file", [CONFIG, INDEX])
@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"\xff", b'{"a": 1, "a": 2}', b"[" * 100_000, b"{}", b" " * (5 * 2**20)],
    ids=["empty", "list", "bytes", "duplicate key", "nested", "nothing in it", "huge"],
)
def test_damaged_json_is_refused(sharded, file, content):
    (sharded / file).write_bytes(content)
    with pytest.raises(ModelError):
        open_checkpoint(sharded)


@pytest.mark.parametrize(
    "field", ["hidden_size", "num_hidden_layers", "vocab_size", "head_dim", "intermediate_size"]
)
@pytest.mark.parametrize("number", [0, -1, 10**9, 10**100, 1.5, "64", None, True])
def test_absurd_config_numbers_are_refused_before_anything_is_allocated(sharded, field, number):
    raw = tiny_config()
    raw["text_config"][field] = number
    (sharded / CONFIG).write_text(json.dumps(raw))
    with pytest.raises(ModelError, match=field):
        open_checkpoint(sharded)


def test_pickles_and_code_in_the_folder_are_not_touched(tmp_path):
    (tmp_path / CONFIG).write_text(json.dumps(tiny_config()))
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04cos\nsystem\n(S'touch owned'\ntR.")
    (tmp_path / "modeling_qwen3_5.py").write_text("raise SystemExit('executed')")
    with pytest.raises(ModelError, match="no weights"):
        open_checkpoint(tmp_path)


def test_a_file_cut_short_after_opening_is_an_error_not_a_signal(sharded):
    shard = next(sharded.glob("*-00001-of-*"))
    script = f"""
        import torch
        from pathlib import Path
        from qwen35cli.checkpoint.opened import open_checkpoint
        from qwen35cli.checkpoint.read import load_weights
        from qwen35cli.errors import ModelError
        from tests.checkpoint.test_read import CPU, meta_model
        from tests.tiny import tiny_config
        checkpoint = open_checkpoint(Path({str(sharded)!r}))
        with open({str(shard)!r}, "r+b") as file:
            file.truncate(100_000)
        try:
            load_weights(meta_model(tiny_config()), checkpoint, CPU)
        except ModelError as error:
            print(error)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    assert "cut short since it was opened" in done.stdout


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_peak_of_loading_is_the_weights_themselves(tmp_path):
    """32 MB in four matrices: a second copy of one of them would be seen."""
    folder, rows = tmp_path, 2**12
    state = {f"w{i}": torch.full((rows, 1024), 0.5, dtype=torch.bfloat16) for i in range(4)}
    write_checkpoint(folder, state, tiny_config())
    script = f"""
        import torch
        from pathlib import Path
        from qwen35cli.checkpoint.header import read_header
        from qwen35cli.checkpoint.opened import Checkpoint
        from qwen35cli.checkpoint.read import load_weights

        def peak():
            status = Path("/proc/self/status").read_text()  # ru_maxrss would count the parent's
            return int(status.split("VmHWM:")[1].split()[0]) * 1024

        model = torch.nn.Module()
        tensors = {{t.name: t for t in read_header(Path({str(folder / SINGLE)!r}))}}
        for t in tensors.values():
            empty = torch.empty(t.shape, dtype=t.dtype, device="meta")
            model.register_parameter(t.name, torch.nn.Parameter(empty))
        checkpoint = Checkpoint(Path({str(folder)!r}), None, {{}}, tensors)
        before = peak()
        load_weights(model, checkpoint, torch.device("cpu"))
        print((peak() - before) / checkpoint.nbytes)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    assert 0.9 < float(done.stdout) < 1.2


def test_no_bit_pattern_slips_through_the_check_for_finite_numbers():
    numbers = torch.arange(2**16, dtype=torch.int32).to(torch.int16).view(torch.bfloat16)
    stored = Stored("w", "BF16", (1,), Path("f"), 0)
    _check_finite(numbers[numbers.isfinite()].view(torch.uint8).numpy(), stored)
    bad = numbers[~numbers.isfinite()]
    assert len(bad) == 256
    for number in bad.split(1):
        with pytest.raises(ModelError):
            _check_finite(number.view(torch.uint8).numpy(), stored)
