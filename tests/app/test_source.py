"""What is taken for a checkpoint, and what people give instead."""

import shutil

import pytest

from qwen35cli.app.source import local_folder, resolve
from qwen35cli.errors import ModelError


@pytest.mark.parametrize(
    ("files", "given", "message", "hint"),
    [
        (["q4.gguf"], "q4.gguf", "is a GGUF file: llama.cpp reads those", "Qwen/Qwen3.5-4B"),
        (["Q4.GGUF"], "Q4.GGUF", "is a GGUF file: llama.cpp reads those", "Qwen/Qwen3.5-4B"),
        (["q4.gguf"], "", "but GGUF files: llama.cpp reads those", "Qwen/Qwen3.5-4B"),
        (["adapter_config.json"], "", "it is a LoRA adapter", "Qwen/Qwen3.5-4B"),
        (["model.bin"], "model.bin", "a model is the folder that it lies in", "Qwen/Qwen3.5-4B"),
        (["config.json", "model.bin"], "model.bin", "the folder that it lies in", "{folder}"),
        (["notes.txt"], "", "there is no config.json in", "--model demo"),
    ],
)
def test_what_is_no_checkpoint_is_said_for_what_it_is(tmp_path, files, given, message, hint):
    folder = tmp_path / "some where"
    folder.mkdir()
    for name in files:
        (folder / name).touch()
    with pytest.raises(ModelError) as refused:
        resolve(str(folder / given))
    assert message in refused.value.message
    assert refused.value.hint.endswith(hint.format(folder=f"'{folder}'"))


def test_a_path_of_a_file_is_no_hub_id(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "q4.gguf").touch()
    with pytest.raises(ModelError, match="is a GGUF file"):
        local_folder("mine/q4.gguf")
    monkeypatch.chdir(tmp_path / "mine")
    (tmp_path / "mine" / "model.safetensors").touch()
    with pytest.raises(ModelError, match="is a file"):
        local_folder("./model.safetensors")
    monkeypatch.chdir(tmp_path)
    shutil.rmtree(tmp_path / "mine")
    assert local_folder("mine/q4.gguf") is None


def test_a_file_with_the_name_of_a_size_is_not_in_its_way(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "4B").touch()
    assert local_folder("4B") is None
