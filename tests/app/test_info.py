"""What is said of a checkpoint agrees with its tensors, with its manifest and with what is made."""

import os
import shutil

import pytest
import torch

from qwen35cli.app import info, quantize
from qwen35cli.app.estimate import class_of
from qwen35cli.app.items import Places
from qwen35cli.app.source import resolve
from qwen35cli.checkpoint import verified
from qwen35cli.checkpoint.hub import HubFile, Repo
from qwen35cli.checkpoint.opened import open_checkpoint
from qwen35cli.checkpoint.verified import Known, Notes
from qwen35cli.errors import ModelError, UsageError
from qwen35cli.kernels import select
from qwen35cli.model.qwen35 import Qwen35
from qwen35cli.quant.plan import recipe
from tests.hub_cache import ONE, TWO, add, contents
from tests.tiny import tiny_config, write_tiny_checkpoint

DEMO = contents(resolve("demo").folder)
FORMATS = ("int8", "int4", "nf4")
REPO = "me/fine-tune"


@pytest.fixture
def places(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return Places(data=tmp_path / "data", cache=tmp_path / "cache", hub=tmp_path / "hub")


def made(source, format, target):
    job = quantize.job(source, recipe(format), target)
    for _ in quantize.run(job, kernels=select(torch.device("cpu"), "reference")):
        pass
    return job


@pytest.mark.parametrize("untied", [False, True])
def test_the_classes_hold_all_tensors_and_all_weights(places, tmp_path, untied):
    raw = tiny_config(tied=not untied, layers=4)
    folder = write_tiny_checkpoint(tmp_path / "tiny", raw)
    found = info.look(str(folder), None, places)
    checkpoint = open_checkpoint(folder)
    assert sum(part.nbytes for part in found.parts) == checkpoint.nbytes
    assert sum(part.tensors for part in found.parts) == len(checkpoint.tensors)
    with torch.device("meta"):
        model = Qwen35(checkpoint.config, select(torch.device("cpu"), "reference"))
    assert found.weights == sum(each.numel() for each in model.parameters())
    kinds = {part.name: part.stored for part in found.parts}
    assert kinds["mlp"] == ("bf16",) and set(kinds["small"]) == {"bf16", "f32"}
    assert ("head" in kinds) == untied


@pytest.mark.parametrize("format", FORMATS)
def test_the_bytes_foretold_are_those_that_quantize_writes(places, tmp_path, format):
    source = resolve(str(write_tiny_checkpoint(tmp_path / "tiny", tiny_config(layers=4))))
    job = made(source, format, tmp_path / "q")
    before, after = (info.look(str(tmp_path / name), None, places) for name in ("tiny", "q"))
    assert before.sizes[format] == job.nbytes == after.checkpoint.nbytes
    assert before.sizes["bf16"] == before.checkpoint.nbytes
    assert after.weights == before.weights and after.sizes == {}
    if format == info.DEFAULT_PLAN:
        planned = {part.name: (part.planned, part.planned_nbytes) for part in before.parts}
        assert planned == {part.name: (part.stored, part.nbytes) for part in after.parts}
    for part in after.parts:
        own = [t for name, t in after.checkpoint.tensors.items() if class_of(name) == part.name]
        assert part.nbytes == sum(each.nbytes for each in own)


def test_a_quantized_folder_says_where_it_is_from_and_its_hashes(places):
    source, plan = resolve("demo"), recipe("int8")
    target = quantize.place(places.data, source, plan)
    made(source, "int8", target)
    for name in ("demo:int8", f"{target.parent.name}/int8", str(target)):
        found = info.look(name, None, places)
        assert found.checkpoint.folder == target and found.kind == "quantized here"
        assert found.manifest.source.name == "demo"
        files = {file.name: file for file in found.files}
        assert files.keys() == found.manifest.files.keys()
        assert all(len(file.sha256) == 64 for file in files.values())
    shutil.copytree(target, target.parents[1] / "demo-other" / "int8")
    with pytest.raises(UsageError, match="stands for 2 things"):
        info.look("demo:int8", None, places)
    os.truncate(target / "model.safetensors", 5)
    with pytest.raises(ModelError):
        info.look(str(target), None, places)


def test_a_snapshot_its_hashes_and_whether_it_was_verified(places):
    one = add(places.hub, REPO, DEMO, ref="main")
    two = add(places.hub, REPO, DEMO | {"LICENSE": b"of the second"}, TWO)
    for name, folder in ((REPO, one), (f"{REPO}@{TWO[:12]}", two), (f"{REPO}@{TWO}", two)):
        found = info.look(name, None, places)
        assert (found.checkpoint.folder, found.source.name) == (folder, REPO)
        assert (found.kind, found.is_verified) == ("Hugging Face", False)
        assert {file.sha256 for file in found.files} == {None}
    assert info.look(REPO, TWO, places).checkpoint.folder == two
    repo = Repo(REPO, places.hub)
    files = {}
    for name, data in DEMO.items():
        blob = (one / name).resolve()
        file = HubFile(name, len(data), blob.name, None)
        files[name] = Known(file, blob.stat().st_mtime_ns)
    verified.write(repo, ONE, Notes(True, files))
    found = info.look(REPO, None, places)
    assert found.is_verified is True
    hashes = {file.name: file.sha256 for file in found.files}
    assert hashes == {name: known.file.etag for name, known in files.items()}
    os.utime(one / "tokenizer.json", (1, 1))
    with pytest.raises(ModelError, match="changed since it was verified"):
        info.look(REPO, None, places)


@pytest.mark.parametrize("name", ["nothing", "me/nothing", "demo:int8", f"{REPO}@{ONE}"])
def test_what_is_not_there(places, name):
    with pytest.raises(ModelError) as refusal:
        info.look(name, None, places)
    assert refusal.value.hint


def test_what_the_list_shows_is_found_though_it_is_not_the_default(places):
    folder = add(places.hub, REPO, DEMO)  # at a commit that no branch is at
    assert info.look(REPO, None, places).checkpoint.folder == folder
    add(places.hub, REPO, DEMO, TWO)
    with pytest.raises(UsageError, match="stands for 2 things"):
        info.look(REPO, None, places)


def test_of_a_snapshot_that_is_not_whole_it_says_what_is_missing(places):
    folder = add(places.hub, REPO, DEMO, ref="main")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="has no weights"):
        info.look(REPO, None, places)


def test_a_folder_that_is_no_qwen35(places, tmp_path):
    (tmp_path / "config.json").write_text('{"architectures": ["BertModel"]}')
    with pytest.raises(ModelError, match="is a BertModel model"):
        info.look(str(tmp_path), None, places)
