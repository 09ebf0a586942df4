"""What a quantized folder states of itself, and every way in which it can be untrue."""

import json
import os
from pathlib import Path

import pytest

from qwen35cli.app import verify
from qwen35cli.checkpoint import manifest
from qwen35cli.checkpoint.manifest import MANIFEST, Manifest, Origin
from qwen35cli.checkpoint.write import Entry
from qwen35cli.errors import ModelError
from qwen35cli.quant.plan import INT8, KEEP, Plan, recipe

PLAN = recipe("int4")


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "source"
    folder.mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json", "LICENSE.txt", "notes.txt"):
        (folder / name).write_text(name)
    return folder


@pytest.fixture
def folder(tmp_path, source):
    folder = tmp_path / "quantized"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"weights" * 1_000)
    (folder / "config.json").write_bytes(b"{}")
    files = {
        name: Entry((folder / name).stat().st_size, manifest.sha256_of(folder / name))
        for name in ("model.safetensors", "config.json")
    }
    origin = Origin.of(source, "./source", None)
    rules = manifest.rules_of(PLAN)
    manifest.write_manifest(folder, Manifest("qwen35cli 0.1.0", "int4", rules, origin, files))
    return folder


def change(folder, **values):
    path = folder / MANIFEST
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_it_reads_back_as_written(folder, source):
    found = manifest.check_manifest(folder)
    assert found.source == Origin.of(source, "./source", None)
    assert (found.format, found.rules) == ("int4", manifest.rules_of(PLAN))
    assert found.is_of(Origin.of(source, "another name", None), PLAN)
    assert manifest.is_manifest_of_ours(folder)


def test_the_origin_is_what_belongs_to_the_checkpoint(source):
    files = Origin.of(source, "", None).files
    assert set(files) == {"config.json", "model.safetensors", "tokenizer.json", "LICENSE.txt"}


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_source_that_changed_is_another(folder, source, name):
    (source / name).write_text("changed")
    assert not manifest.check_manifest(folder).is_of(Origin.of(source, "", None), PLAN)


def test_another_revision_or_plan_is_another(folder, source):
    found = manifest.check_manifest(folder)
    assert not found.is_of(Origin.of(source, "", "main"), PLAN)
    assert not found.is_of(Origin.of(source, "", None), recipe("int4", 64))
    assert not found.is_of(Origin.of(source, "", None), recipe("int8"))


@pytest.mark.parametrize("offset", [0, 3_333, 6_999])
def test_one_flipped_byte_is_found_and_named(folder, offset):
    path = folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[offset] ^= 1
    path.write_bytes(content)
    manifest.check_manifest(folder)  # which looks at sizes
    events = verify.run(str(folder), None, folder)
    [wrong] = [each for each in events if isinstance(each, verify.Finding) and not each.is_right]
    assert wrong.path == path
    assert wrong.mends == f"qwen35 quantize ./source --format int4 -o {folder} --force"


@pytest.mark.parametrize(
    ("revision", "group", "rules", "flags"),
    [
        ("c0ffee", None, (), " --revision c0ffee"),
        (None, 32, (), " --group 32"),
        (None, None, (("*.mlp.*", INT8),), " --plan-file FILE"),
        ("c0ffee", 128, (("*", KEEP),), " --revision c0ffee --group 128 --plan-file FILE"),
    ],
)
def test_the_command_that_makes_it_again_makes_the_same(source, revision, group, rules, flags):
    plan = Plan("nf4", (*rules, *recipe("nf4", group).rules))
    origin = Origin.of(source, "my source", revision)
    made = Manifest("qwen35cli 0.1.0", "nf4", manifest.rules_of(plan), origin, {})
    command = f"qwen35 quantize 'my source' --format nf4{flags} -o 'a folder' --force"
    assert manifest.again(made, Path("a folder")) == command


def test_a_file_of_another_size_is_refused(folder):
    with (folder / "model.safetensors").open("ab") as file:
        file.write(b"x")
    with pytest.raises(ModelError, match=r"has 7,001 bytes, manifest\.json says 7,000") as caught:
        manifest.check_manifest(folder)
    assert "qwen35 quantize ./source --format int4" in caught.value.hint


def test_a_missing_file_is_refused(folder):
    (folder / "config.json").unlink()
    with pytest.raises(ModelError, match=r"config\.json cannot be read: No such file"):
        manifest.check_manifest(folder)


def test_a_folder_without_a_manifest_was_never_finished(folder):
    (folder / MANIFEST).unlink()
    with pytest.raises(ModelError, match=r"no manifest\.json: they are not complete") as caught:
        manifest.check_manifest(folder)
    assert "qwen35 quantize" in caught.value.hint
    assert not manifest.is_manifest_of_ours(folder)


def test_a_pipe_is_not_waited_for(folder):
    (folder / MANIFEST).unlink()
    os.mkfifo(folder / MANIFEST)
    with pytest.raises(ModelError, match="is no regular file"):
        manifest.read_manifest(folder)
    assert not manifest.is_manifest_of_ours(folder)


def test_another_version_is_refused(folder):
    change(folder, version=2)
    with pytest.raises(ModelError, match="has the version 2, known is 1") as caught:
        manifest.check_manifest(folder)
    assert "qwen35 quantize ./source --format int4" in caught.value.hint
    change(folder, source={"name": 5}, format=["int4"])
    with pytest.raises(ModelError, match="has the version 2") as caught:
        manifest.check_manifest(folder)
    assert "qwen35 quantize MODEL --format int4" in caught.value.hint


@pytest.mark.parametrize(
    "values",
    [
        {"files": {"../config.json": {"size": 1, "sha256": ""}}},
        {"files": {"/etc/passwd": {"size": 1, "sha256": ""}}},
        {"files": {"..": {"size": 1, "sha256": ""}}},
        {"files": {"": {"size": 1, "sha256": ""}}},
        {"files": {"a\0b": {"size": 1, "sha256": ""}}},
        {"files": {"\ud800": {"size": 1, "sha256": ""}}},
        {"files": {"x": 1}},
        {"files": []},
        {"source": None},
        {"source": {"name": "x"}},
        {"source": {"name": "x", "folder": "x", "revision": 5, "files": {}}},
        {"plan": [1]},
        {"format": "int5"},
    ],
)
def test_what_is_no_manifest_is_refused(folder, values):
    change(folder, **values)
    with pytest.raises(ModelError, match="is damaged"):
        manifest.check_manifest(folder)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"version": 1, "version": 1}'])
def test_what_is_no_json_is_refused(folder, text):
    (folder / MANIFEST).write_text(text)
    with pytest.raises(ModelError, match=MANIFEST.replace(".", r"\.")) as caught:
        manifest.check_manifest(folder)
    assert "fetch" not in caught.value.hint
    assert not manifest.is_manifest_of_ours(folder)
