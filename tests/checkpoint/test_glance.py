"""A glance says what opening would, and never raises."""

import json
import os
import subprocess
import sys
import textwrap

import pytest

from qwen35cli.checkpoint.glance import glance
from qwen35cli.checkpoint.names import CONFIG, INDEX, SINGLE
from qwen35cli.checkpoint.opened import open_checkpoint
from qwen35cli.errors import ModelError
from tests.tiny import tiny_config, write_tiny_checkpoint


@pytest.fixture
def folder(tmp_path):
    """A sound checkpoint, to be damaged."""
    return write_tiny_checkpoint(tmp_path / "model", tiny_config())


def edit(folder, **changes):
    raw = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(raw | changes))


def test_of_a_sound_one_nothing_is_said(folder):
    seen, opened = glance(folder), open_checkpoint(folder)
    assert (seen.format, seen.fault, seen.is_certain) == ("bf16", "", True)
    assert seen.config.text.max_context == opened.config.text.max_context


@pytest.mark.parametrize(
    ("damage", "knows"),
    [
        (lambda f: (f / CONFIG).unlink(), ""),
        (lambda f: (f / CONFIG).write_text("{"), ""),
        (lambda f: edit(f, text_config=None), "kind"),
        (lambda f: edit(f, quantization_config={"quant_method": "gptq"}), "config"),
        (lambda f: (f / SINGLE).unlink(), "format"),
        (lambda f: os.truncate(f / SINGLE, 9), "format"),
        (lambda f: os.truncate(f / SINGLE, 20_000), "format"),
        (lambda f: (f / SINGLE).write_bytes((8).to_bytes(8, "little") + b"{\xff}     "), "format"),
        (lambda f: (f / INDEX).write_text('{"weight_map": {"x": "1.safetensors"}}'), "format"),
        (lambda f: (f / INDEX).mkdir(), "format"),
    ],
)
def test_what_is_wrong_is_said_as_opening_says_it(folder, damage, knows):
    damage(folder)
    with pytest.raises(ModelError) as refusal:
        open_checkpoint(folder)
    seen = glance(folder)
    assert seen.fault == refusal.value.message.replace(f"{folder}/", "")
    assert seen.is_certain == (knows != "")
    assert (seen.config is not None) == (knows in ("config", "format"))
    assert (seen.format != "") == (knows == "format")


@pytest.mark.parametrize("named", [["BertModel"], [], None, "Qwen3_5ForConditionalGeneration"])
def test_another_model_is_none(folder, named):
    edit(folder, architectures=named)
    assert glance(folder) is None


def test_in_the_hubs_cache_a_file_is_called_by_its_name(folder, tmp_path):
    repo = tmp_path / "models--me--tune"
    (repo / "snapshots").mkdir(parents=True)
    snapshot = folder.rename(repo / "snapshots" / "0123abcd")
    (repo / "blobs").mkdir()
    (snapshot / SINGLE).rename(repo / "blobs" / "ab")
    (snapshot / SINGLE).symlink_to("../../blobs/ab")
    assert glance(snapshot).fault == ""
    os.truncate(repo / "blobs" / "ab", 20_000)
    assert glance(snapshot).fault.startswith(f"{SINGLE} has 20,000 bytes, its header describes")
    with pytest.raises(ModelError) as refusal:
        open_checkpoint(snapshot)
    assert refusal.value.message.startswith(f"{snapshot / SINGLE} has 20,000 bytes")


def test_torch_stays_out(folder):
    script = f"""
    import sys
    from pathlib import Path
    from qwen35cli.checkpoint.glance import glance

    assert glance(Path({str(folder)!r})).fault == ""
    assert not {{"torch", "numpy"}} & sys.modules.keys()
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=True)
