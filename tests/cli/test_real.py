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


def test_a_budget_of_nothing_is_no_thinking(ask):
    flags = ("hi", "--max-tokens", "8", "--json", "--seed", "1")
    one, other = (
        json.loads(ask(*flags, *more)[1])
        for more in (["--no-think"], ["--think", "--think-budget", "0"])
    )
    for key in ("answer", "usage", "sampling", "thinking"):
        assert one[key] == other[key]


def test_thinking_that_has_no_room_is_said(ask):
    code, _, err = ask("hi", "--think", "--answer-reserve", "482")
    assert "warning: the context of 512 tokens left no room to think\n" in err
    code, _, err = ask("hi", "--think", "--answer-reserve", "488")  # that prompt is longer
    assert code == 6, err


def test_drafts_change_the_report_and_not_the_answer(ask):
    flags = ("hi", "--no-think", "--max-tokens", "40", "--json", "--seed", "1", "--mtp")
    plain, *others = (json.loads(ask(*flags, mtp)[1]) for mtp in ("off", "auto", "1", "4"))
    assert plain["mtp"] is None
    for mode, result in zip(("auto", "1", "4"), others, strict=True):
        assert (result["answer"], result["usage"]) == (plain["answer"], plain["usage"])
        mtp = result["mtp"]
        assert mtp["mode"] == mode
        assert set(mtp) == {"mode", "rounds", "tokens_per_round", "acceptance", "round_cost"}
        assert len(mtp["rounds"]) == len(mtp["round_cost"]) == 5
        made = sum(mtp["rounds"]) * mtp["tokens_per_round"]
        # The first token comes of the prompt. Two may be none of the answer's: one at its start
        # that completes no character yet, and the one that ends it.
        assert -1.1 < made - result["usage"]["completion"] < 1.1
    assert others[1]["mtp"]["rounds"][2:] == [0, 0, 0]


def test_drafts_are_told_under_stats_and_v(ask):
    _, _, err = ask("hi", "--no-think", "--max-tokens", "20", "--stats", "-v", "--mtp", "2")
    assert " tokens a round · " in err
    assert "drafts: " in err and "rounds of 2" in err and "accepted by depth" in err
    assert "mtp 2" in err
    _, _, err = ask("hi", "--no-think", "--max-tokens", "20", "--stats", "--mtp", "off")
    assert "round" not in err


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
        (["hi", "--kernels", "none"], 2, "'none' is not one of 'cpu', 'triton', 'reference'"),
        (["hi", "--mtp", "5"], 2, "5 is not auto, off or a number from 1 to 4"),
        (["hi", "-m", "nobody/nothing"], 3, "nobody/nothing is not on this machine"),
        (["hi", "-m", "nothing"], 3, "there is no model 'nothing'"),
        (["hi", "-m", "/"], 3, "there is no config.json in /"),
    ],
)
def test_refusals(ask, arguments, code, message):
    actual, out, err = ask(*arguments)
    assert (actual, out) == (code, b"")
    assert message in err
    assert err.count("\n") == 2
