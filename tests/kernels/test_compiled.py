"""The kernels compiled for cards that are not here, by Triton's own assembler."""

import os
import re
import subprocess
import sys

import pytest

from tests.scripted import said_by

pytest.importorskip("triton", reason="Triton has no wheel for this system")


DECODE = {
    "_embed_step", "_project", "_delta_step", "_add", "_swiglu", "_attend_step", "_peaks", "_draw"
}  # fmt: skip
DRAFTS = {"_join", "_best_rows", "_pick"}
PROMPT = {
    "_rms_norm", "_widen_int4", "_widen_int8", "_convolve", "_score", "_solve", "_carry",
    "_gated_norm", "_swiglu",
}  # fmt: skip


def test_all_kernels_fit_the_cards_of_desktops(tmp_path):
    flags = {"86": ("--tokens", "1"), "120": ("--tokens", "2")}  # RTX 30; RTX 50, with overlap
    running = [
        subprocess.Popen(
            [sys.executable, "-m", "scripts.compile_kernels", "--formats", "int4", "--arch", *each],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"TRITON_CACHE_DIR": str(tmp_path)},
        )
        for each in ((arch, *more) for arch, more in flags.items())
    ]
    for arch, process in zip(flags, running, strict=True):
        out, err = process.communicate()
        assert process.returncode == 0, out + err
        assert set(re.findall(rf"^sm_{arch} (\w+) ", out, re.MULTILINE)) == DECODE | DRAFTS | PROMPT
        assert "Warning" not in err


# What a conversation launches after the compiling of the warm-up, which is wanted again here.
WARM_UP = """
import json
from collections import Counter
from types import SimpleNamespace

from scripts.compile_kernels import CPU, TOKENS, Card, _model  # first: it wants no interpreter
import torch
import triton
from triton.runtime import driver

from qwen35cli.app import warm_up
from qwen35cli.engine.runner import Prompt, Runner
from qwen35cli.engine.sampling import Sampler, Sampling
from qwen35cli.kernels.triton import delta_chunk, fuse
from qwen35cli.kernels.triton.kernel import launched_by
from qwen35cli.model.qwen35 import Qwen35

torch.set_grad_enabled(False)
fuse()
driver.set_active(Card(86))
delta_chunk._stages = lambda q: delta_chunk.stages(q.dtype, 99 * 1_024)
Qwen35.activation_dtype = property(lambda self: torch.bfloat16)
compiled = []
triton.knobs.compilation.listener = lambda **about: compiled.append(about["metadata"]["name"])

torch.set_num_threads(2)
runner = Runner(_model("int4"), capacity=512)
opened = SimpleNamespace(mtp=1, tokenizer=SimpleNamespace(vocab_size=TOKENS))
warm_up._compile(SimpleNamespace(runner=runner, opened=opened))
ahead, launched = list(compiled), Counter()

def wanted(kernel, grid, arguments, options):
    launched[kernel.name] += 1
    kernel.compile(*arguments, **options)

with launched_by(wanted):
    for length in (300, 1, 3, 8, 9, 48):
        list(runner.prefill(Prompt((1,) * length)))
    stepper = runner.stepper
    for tokens in (1, 2):
        logits = stepper.reads(tokens)
    draws = stepper._draws(Sampler(Sampling(), TOKENS))
    draws(logits[1], stepper.control, 1)
print(json.dumps([ahead, compiled[len(ahead):], launched]))
"""


def test_the_warm_up_compiles_what_prompts_and_steps_launch(tmp_path):
    ahead, after, launched = said_by(tmp_path, WARM_UP)
    assert {*ahead} == {*launched} == DECODE | PROMPT
    assert not after
