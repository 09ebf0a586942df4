"""Models of noise for the benchmarks: their formats are true, and what they say is finite."""

import pytest
import torch

from benchmarks.random_model import random_model
from qwen35cli.app.random_model import SPREAD
from qwen35cli.engine.runner import Prompt, Runner
from qwen35cli.kernels import reference, select
from qwen35cli.kernels.operands import Int4, Int8
from tests.tiny import tiny_config

CPU = torch.device("cpu")


@pytest.mark.parametrize("format", ["bf16", "int8", "int4"])
def test_a_random_model_has_its_format_and_talks(format):
    model = random_model(tiny_config(), format, CPU, select(CPU, "reference"))
    assert model.visual is None and model.mtp is None
    kinds = {"bf16": torch.Tensor, "int8": Int8, "int4": Int4}
    gate = model.language_model.layers[0].mlp.gate_proj.operand
    assert isinstance(gate, kinds[format])
    out = model.language_model.layers[3].self_attn.o_proj.operand
    assert isinstance(out, torch.Tensor if format == "bf16" else Int8)
    for weight in (gate, out, model.head.operand):
        plain = weight if isinstance(weight, torch.Tensor) else reference.dequantize(weight)
        assert float(plain.float().std()) == pytest.approx(SPREAD, rel=0.1)
        assert abs(float(plain.float().mean())) < SPREAD / 10
    runner = Runner(model, capacity=16)
    (*_, last) = runner.prefill(Prompt(tuple(range(1, 9))))
    logits = [last.logits, *(runner.step(token) for token in (3, 4))]
    assert all(bool(each.isfinite().all()) and float(each.std()) > 0.01 for each in logits)


def test_the_same_seed_gives_the_same_model():
    first, second, third = (
        random_model(tiny_config(), "int4", CPU, select(CPU, "reference"), seed).state_dict()
        for seed in (1, 1, 2)
    )
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not all(torch.equal(first[name], third[name]) for name in first)
