"""The step in which `qwen35 tune` measures, interpreted: what it launches, and how often."""

from dataclasses import replace

import pytest
import torch

pytest.importorskip("triton", reason="Triton has no wheel for this system")

from qwen35cli.app import chain, tune
from qwen35cli.app.estimate import planned
from qwen35cli.app.random_model import shortened
from qwen35cli.kernels.triton import matvec
from qwen35cli.kernels.triton.launches import Launches
from qwen35cli.model.config import Config
from qwen35cli.model.siblings import SIBLINGS
from qwen35cli.quant.plan import recipe
from tests.tiny import tiny_config

CPU = torch.device("cpu")
RAW = tiny_config(
    vocab=256, layers=4, hidden_size=128, intermediate_size=128, linear_value_head_dim=32
)


@pytest.fixture
def model():
    return planned("tiny", Config.from_dict(RAW), recipe("int4"))


def test_a_product_is_launched_in_a_step_as_it_is_tried(model, monkeypatch):
    monkeypatch.setattr(chain, "ROUNDS", 1)
    launched = []
    launch = matvec.fitted
    monkeypatch.setattr(
        matvec, "fitted", lambda each, weights: launched.append(each) or launch(each, weights)
    )
    table = {f"{op} {bits}": [1, 1, 1, 1, 0] for op in ("project", "swiglu", "add", "head")
             for bits in (4, 8)}  # fmt: skip
    steps = chain.Chain(model, CPU, Launches(table, overlap=False))
    product = next(each for each in tune.products(model) if each.key == "add 8 128x128")
    tried = matvec.Launch(warps=2, ahead=1)
    assert product.fitted(tried) == tried
    steps.compile(product.key, [matvec.Launch(warps=1, ahead=1), tried])
    assert steps.seconds(product.key, tried) > 0
    layers = len(RAW["text_config"]["layer_types"])
    del launched[: 2 * (4 * layers + 1)]  # what was compiled
    # Warmed up and measured: four launches over matrices a layer and the head, `add` twice each.
    assert len(launched) == 2 * (4 * layers + 1)
    assert launched.count(tried) == 2 * layers
    assert steps.launches.of_key(product.key) == tried  # from here on


@pytest.mark.parametrize(
    ("layers", "period", "kept"), [(32, 4, 8), (24, 4, 8), (4, 4, 4), (12, 6, 12), (6, 1, 6)]
)
def test_whole_periods_of_layers_are_kept(layers, period, kept):
    config = SIBLINGS["Qwen/Qwen3.5-4B"]
    kinds = tuple(
        "linear_attention" if (i + 1) % period else "full_attention" for i in range(layers)
    )
    text = replace(config.text, layer_types=kinds)
    short = shortened(replace(config, text=text), chain.LEAST)
    assert short.text.layer_types == kinds[:kept]
    assert short.vision is None and short.text.mtp_num_hidden_layers == 0
