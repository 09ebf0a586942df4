"""`vram --measure`: what it makes of what it finds. The runs on a CPU are in `tests/cli`."""

import json

import pytest
import torch

from qwen35cli.app import measure
from qwen35cli.app.estimate import MIB, Estimate, Setting, planned
from qwen35cli.cli import run
from qwen35cli.model.config import Config
from qwen35cli.quant.plan import recipe
from tests.tiny import tiny_config


def test_the_parts_add_up_to_the_total_on_both_sides():
    config = Config.from_dict(tiny_config())
    for setting in (
        Setting(ctx=512, drafts=2),
        Setting(ctx=512, triton=True),
        Setting(ctx=512, patches=(64,), device="cpu"),
    ):
        needs = Estimate(planned("tiny", config, recipe("bf16")), setting)
        *parts, total = measure._lines(needs, (5, 4, 3, 2, 1))
        assert total.name == "total"
        assert sum(line.predicted for line in parts) == total.predicted == needs.total
        assert sum(line.measured for line in parts) == total.measured == 15


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_context_that_cannot_be_made_is_not_guessed(monkeypatch):
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda: (2**30, 2**31))
    assert measure.context_bytes() is None


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("kv_dtype", ["bf16", "int8"])
def test_a_gpu_takes_what_was_estimated(kv_dtype, capfdbinary):
    code = run(["vram", "demo", "--measure", "--json", "--ctx", "8k", "--kv-dtype", kv_dtype])
    out, err = capfdbinary.readouterr()
    assert code == 0, err
    answer = json.loads(out)
    parts = {part["name"]: part for part in answer["measured"]["parts"]}
    total = parts.pop("total")
    assert answer["total_bytes"] == total["predicted_bytes"]
    assert sum(part["measured_bytes"] for part in parts.values()) == total["measured_bytes"]
    for name in ("weights", "caches"):
        found, expected = (parts[name][key] for key in ("measured_bytes", "predicted_bytes"))
        assert found == pytest.approx(expected, abs=MIB)  # torch rounds each tensor up to 512 bytes
    assert 50 * MIB < parts["runtime"]["measured_bytes"] < 1_500 * MIB
    assert parts["slack"]["measured_bytes"] >= 0
