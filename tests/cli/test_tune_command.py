"""`qwen35 tune` on the command line: both streams, exit codes."""

import json
from dataclasses import replace

import pytest
import torch

from qwen35cli.app import tune, tuned
from qwen35cli.app.estimate import planned
from qwen35cli.cli import run
from qwen35cli.kernels.triton.trials import Product
from qwen35cli.model.siblings import SIBLINGS
from qwen35cli.quant.plan import recipe
from tests.fakes import TimedSteps

PRODUCTS = (
    Product("add", "int4", ((32, 256),)),
    Product("head", "int8", ((32, 128),)),
)
BEFORE = {"default": {"add 4 32x256": [4, 2, 1, 2, 0]}}


@pytest.fixture
def qwen35(capfdbinary, monkeypatch, tmp_path):
    """Run `qwen35 tune` on a card that is not there; exit code, stdout, stderr."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    measured = tune.run
    steps = TimedSteps(lambda key, launch: (4 if launch.split == 1 else 2) * 1e-6)

    def job(options):
        cpu = torch.device("cpu")
        model = planned("4B", SIBLINGS["Qwen/Qwen3.5-4B"], recipe("int4"))
        return tune.Job(cpu, "Some Card", "sm_90", model, PRODUCTS, options.cache, BEFORE)

    monkeypatch.setattr(tune, "prepare", job)
    monkeypatch.setattr(tune, "run", lambda job: measured(job, steps))

    def call(*arguments):
        code = run(["tune", *arguments])
        out, err = capfdbinary.readouterr()
        return code, out.decode(), err.decode()

    return call


def test_a_table_on_stdout_and_the_file_in_the_cache(qwen35, tmp_path):
    code, out, err = qwen35("4B")
    assert code == 0
    rows = [line.split() for line in out.splitlines()]
    assert rows[0][:3] == ["launch", "weights", "shape"]
    assert rows[1] == ["add", "4", "bit", "32x256", "2.00", "2.00", "1", "1", "1", "2", "0"]
    path = tmp_path / "qwen35" / tuned.NAME
    assert err == (
        "tuning 2 launches on Some Card, minutes, once\n"
        f"kept in {path}: ask and chat use it from now on\n"
    )
    assert {*json.loads(path.read_text())["sm_90"]} == {"add 4 32x256", "head 8 32x128"}


def test_json_is_one_object(qwen35):
    code, out, _ = qwen35("--json", "-q")
    assert (code, out.count("\n")) == (0, 1)
    found = json.loads(out)
    assert (found["gpu"], found["arch"]) == ("Some Card", "sm_90")
    add = found["launches"][0]
    assert add["key"] == "add 4 32x256"
    assert (add["before_us"], add["after_us"]) == (2.0, 2.0)
    assert {"warps", "ahead", "tiles", "split", "early"} == add["after"].keys()


def test_a_file_that_is_replaced_is_said(qwen35, monkeypatch):
    prepare = tune.prepare
    monkeypatch.setattr(tune, "prepare", lambda options: replace(prepare(options), damaged="bad"))
    assert "warning: bad; it is made anew\n" in qwen35()[2]


def test_ctrl_c_keeps_what_was_found(qwen35, monkeypatch):
    steps = tune.run

    def interrupted(job):
        events = steps(job)
        for event in events:
            yield event
            if isinstance(event, tune.Choice):
                raise KeyboardInterrupt

    monkeypatch.setattr(tune, "run", interrupted)
    code, out, err = qwen35()
    assert (code, out) == (130, "")
    assert err.endswith("(interrupted; 1 of 2 are kept)\n")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_no_gpu_is_exit_4(capfdbinary):
    assert run(["tune", "4B"]) == 4
    out, err = capfdbinary.readouterr()
    assert out == b""
    assert err.startswith(b"error: no usable GPU: torch ")
