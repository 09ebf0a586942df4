"""Whole calls on a real, if random, checkpoint: from the folder's name to the answer's bytes."""

import json

import pytest
from PIL import Image

from qwen35cli.cli import run


@pytest.fixture
def ask(checkpoint, capfdbinary, monkeypatch):
    """Run `ask` on the checkpoint; its exit code and both streams."""

    def ask(*arguments):
        with open("/dev/null") as nothing:  # noqa: PTH123
            monkeypatch.setattr("sys.stdin", nothing)
            code = run(["ask", "-m", checkpoint, "--device", "cpu", "--ctx", "512", *arguments])
        out, err = capfdbinary.readouterr()
        return code, out, err.decode()

    return ask


def test_the_same_seed_gives_the_same_text(ask):
    flags = ("hi", "--no-think", "--max-tokens", "8", "--json", "--seed")
    one, two, other = (json.loads(ask(*flags, seed)[1]) for seed in ("1", "1", "2"))
    assert one["answer"] == two["answer"] != other["answer"]
    assert one["thinking"] == {"tokens": 0, "closed_by": "off"}
    assert (one["ctx"], one["usage"]["completion"], one["finish_reason"]) == (512, 8, "length")


def test_a_picture_is_read(ask, tmp_path):
    path = tmp_path / "red.png"
    Image.new("RGB", (64, 64), "red").save(path)
    code, out, _ = ask("what?", "-i", str(path), "--no-think", "--max-tokens", "4", "--json")
    assert code == 0
    assert json.loads(out)["usage"]["image"] == 4


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["x" * 600], 6, "the prompt has 62"),
        (["hi", "--ctx", "1M"], 2, "1,048,576 tokens is more than the model's 4,096"),
        (["hi", "--kernels", "none"], 2, "there are no kernels named 'none'"),
        (["hi", "-m", "nobody/nothing"], 3, "nobody/nothing is not in the local Hugging Face"),
        (["hi", "-m", "nothing"], 3, "there is no model 'nothing'"),
        (["hi", "-m", "/"], 3, "there is no config.json in /"),
    ],
)
def test_refusals(ask, arguments, code, message):
    actual, out, err = ask(*arguments)
    assert (actual, out) == (code, b"")
    assert message in err
    assert err.count("\n") == 2
