"""The GPU benchmark, as far as it is no measuring: a GPU is seldom at hand to find its mistakes."""

import json

import pytest
import torch

pytest.importorskip("triton", reason="Triton has no wheel for this system")

from benchmarks import decode_gpu, readme
from benchmarks.random_model import random_model
from qwen35cli.kernels import select

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize("format", ["int4", "int8", "bf16"])
@pytest.mark.parametrize("exact", [False, True], ids=["bf16", "float32"])
def test_the_reference_has_the_weights_of_a_model_that_drafts(format, exact):
    raw = decode_gpu.quick().raw
    model = random_model(raw, format, DEVICE, select(DEVICE, "triton"), drafts=True)
    twin = decode_gpu.reference_of(model, raw, format, exact)
    assert twin.kernels.backend == "reference"
    assert twin.state_dict().keys() == model.state_dict().keys()
    held, given = twin.mtp.norm.weight, model.mtp.norm.weight
    assert held.dtype == (torch.float32 if exact else given.dtype)
    assert torch.equal(held.float(), given.float())


def test_launches_that_are_not_there_are_not_left_out_silently(tmp_path, capsys):
    with pytest.raises(SystemExit):
        decode_gpu.main(["--quick", "--launches", str(tmp_path)])
    assert f"no launches.json in {tmp_path}" in capsys.readouterr().err


def test_a_result_without_a_peer_fills_no_readme():
    result = json.loads((readme.RESULTS / "decode-gpu.json").read_text())
    del result["peers"]["nf4"]
    with pytest.raises(SystemExit, match="has no nf4"):
        readme.gpu(result)
    del result["peers"]
    with pytest.raises(SystemExit, match="has no transformers and no nf4"):
        readme.gpu(result)
