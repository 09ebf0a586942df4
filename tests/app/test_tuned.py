"""The file of launches that `qwen35 tune` writes: whole, and read by nobody's leave but ours."""

import json
import os
from importlib import resources
from pathlib import Path

import pytest

from qwen35cli.app import tuned
from qwen35cli.app.load import LoadOptions, open_model
from qwen35cli.errors import Qwen35Error
from qwen35cli.kernels.tuned import checked

NAME = "add 4 2560x9216"


def test_what_was_written_is_read_again_and_the_rest_stays(tmp_path):
    folder = tmp_path / "cache" / "qwen35"
    assert tuned.read(folder) == tuned.read(None) == {}
    tuned.write(folder, "sm_90", {NAME: [4, 3, 1, 6, 0], "head 8": [4, 2, 2, 1, 0]}, {})
    tuned.write(folder, "sm_89", {NAME: [8, 1, 1, 3, 0]}, tuned.read(folder))
    path = tuned.write(folder, "sm_90", {NAME: [4, 1, 1, 9, 0]}, tuned.read(folder))
    assert tuned.read(folder) == json.loads(path.read_text())
    assert tuned.read(folder) == {
        "sm_89": {NAME: [8, 1, 1, 3, 0]},
        "sm_90": {NAME: [4, 1, 1, 9, 0], "head 8": [4, 2, 2, 1, 0]},
    }
    assert [each.name for each in folder.iterdir()] == ["launches.json"]


def test_the_shipped_file_is_one_of_them():
    text = (resources.files("qwen35cli.kernels.triton") / "launches.json").read_text()
    assert checked(json.loads(text)) == json.loads(text)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "not usable JSON"),
        ('{"sm_90": {"add 4 2560x92', "not usable JSON"),
        ('{"a": ' * 100_000, "not usable JSON"),
        ("\xff\xfe", "not usable JSON"),
        ('{"sm_90": {}, "sm_90": {}}', "occurs twice"),
        ("[]", "holds a JSON list"),
        ('{"model_type": "qwen3_5"}', "'model_type' is no architecture such as sm_90"),
        ('{"sm_90": [4, 1, 1, 1, 0]}', "sm_90 holds no object"),
        (" " * (2**20 + 1), "it has more than 1 MiB"),
        *(
            (json.dumps({"sm_90": {name: value}}), reason)
            for name, value, reason in (
                (NAME, "4 1 1 1", f"sm_90: {NAME} is no list of five numbers"),
                (NAME, [4, 1, 1], "no list of five numbers"),
                (NAME, [3, 1, 1, 1, 0], "has '3' as its warps"),
                (NAME, [2**70, 1, 1, 1, 0], "as its warps"),
                (NAME, [True, 1, 1, 1, 0], "has 'True' as its warps"),
                (NAME, [4.0, 1, 1, 1, 0], "has '4.0' as its warps"),
                (NAME, [4, 0, 1, 1, 0], "has '0' as its blocks ahead"),
                (NAME, [4, 10, 1, 1, 0], "has '10' as its blocks ahead"),
                (NAME, [4, 1, -1, 1, 0], "has '-1' as its tiles"),
                (NAME, [4, 1, 3, 1, 0], "has '3' as its tiles"),
                (NAME, [4, 1, 1, 13, 0], "has '13' as its split"),
                (NAME, [4, 1, 1, None, 0], "has 'None' as its split"),
                (NAME, [4, 1, 1, 1, -1], "has '-1' as its early blocks"),
                (NAME, [4, 1, 1, 1, 1_025], "has '1025' as its early blocks"),
                ("head 8", [4, 1, 1, 2, 0], "has '2' as its split"),  # only `add` splits
            )
        ),
    ],
    ids=lambda value: value[:40],
)
def test_what_is_damaged_or_foreign_is_an_error_that_names_the_file(tmp_path, text, reason):
    path = tmp_path / "launches.json"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(Qwen35Error, match=r"launches\.json holds no launches") as caught:
        tuned.read(tmp_path)
    assert reason in caught.value.message
    assert "\n" not in caught.value.message and len(caught.value.message) < 400
    assert "qwen35 tune" in caught.value.hint


def test_names_of_another_version_are_left_out(tmp_path):
    known = {"head 8": [4, 2, 1, 1, 0]}
    later = {"add 2 2560x9216": [99], "project 4 2560x": [4, 1, 1, 1, 0], "fuse": {"a": 1}}
    (tmp_path / "launches.json").write_text(json.dumps({"sm_120": known | later}))
    assert tuned.read(tmp_path) == {"sm_120": known}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read and write everything")
def test_what_may_not_be_read_or_written_is_an_error(tmp_path):
    path = tuned.write(tmp_path, "sm_90", {NAME: [4, 1, 1, 1, 0]}, {})
    path.chmod(0)
    with pytest.raises(Qwen35Error, match="Permission denied"):
        tuned.read(tmp_path)
    tmp_path.chmod(0o500)
    with pytest.raises(Qwen35Error, match="could not write"):
        tuned.write(tmp_path, "sm_90", {}, {})


def test_a_folder_that_cannot_be_is_an_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(Qwen35Error, match="could not write"):
        tuned.write(tmp_path / "file" / "cache", "sm_90", {}, {})


def test_only_the_kernels_that_are_launched_so_read_it(tmp_path):
    (tmp_path / "launches.json").write_text("damaged")

    def opened(kernels):
        return open_model(
            LoadOptions(model="demo", device="cpu", kernels=kernels, ctx=64, cache=tmp_path)
        )

    assert opened("reference").tuned == {}
    with pytest.raises(Qwen35Error, match=r"launches\.json"):
        opened("triton")
    (tmp_path / "launches.json").write_text(json.dumps({"sm_90": {NAME: [4, 1, 1, 1, 0]}}))
    assert opened("triton").tuned == {"sm_90": {NAME: [4, 1, 1, 1, 0]}}


def test_no_path_of_ours_is_meant(tmp_path):
    (tmp_path / "launches.json").mkdir()
    with pytest.raises(Qwen35Error, match="it is not a regular file"):
        tuned.read(Path(tmp_path))
