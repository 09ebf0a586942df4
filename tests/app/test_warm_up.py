"""What happens between loading and the first question: what is compiled, and when it is said."""

import subprocess
from dataclasses import replace
from io import StringIO
from types import SimpleNamespace

import pytest
import torch

from qwen35cli.app import warm_up
from qwen35cli.cli import start
from qwen35cli.cli.terminal import Terminal
from qwen35cli.engine.depth import Fixed
from qwen35cli.engine.memory import Memory
from qwen35cli.engine.runner import Prefill
from qwen35cli.errors import DeviceError
from qwen35cli.kernels import select
from tests.fakes import fake_loaded, fake_opened

pytest.importorskip("triton", reason="Triton has no wheel for this system")
from qwen35cli.kernels.triton import launches


class Recorder:
    """A runner that notes what it is asked for."""

    op_by_op = None
    chunk, capacity = 2_048, 1_000

    def __init__(self, steps=True):
        self.calls = []
        self.read = []
        self.length = 0
        self.stepper = (
            SimpleNamespace(
                reads=SimpleNamespace(prepare=self.note("graph")),
                launch=lambda counts, sampler: self.calls.append(("launch", *counts)),
            )
            if steps
            else None
        )
        self.keep, self.look_ahead = self.note("keep"), self.note("look_ahead")
        self.ahead = lambda sampler: self.calls.append("drawing")
        self.checks = lambda sampler: "checks"

    def note(self, name):
        return lambda *numbers: self.calls.append((name, *numbers))

    def reset(self):
        self.length = 0
        self.calls.append("reset")

    def prefill(self, prompt):
        self.length = len(prompt.ids) - 100
        self.read.extend(prompt.ids)
        self.calls.append(("prefill", len(prompt.ids)))
        yield Prefill(1, 1)


@pytest.fixture
def loaded(monkeypatch, tmp_path):
    """A model on a GPU, as far as can be told from here."""
    monkeypatch.setattr(warm_up, "compiled_folder", lambda: tmp_path / "compiled")
    monkeypatch.setattr("torch.cuda.synchronize", lambda device: None)
    monkeypatch.setattr(launches, "architecture", lambda device: "sm_90")
    monkeypatch.setattr(launches, "cuda_of_driver", lambda: 13_000)

    def make(*, mtp="off", device="cuda", steps=True, **more):
        kernels = replace(select(torch.device("cpu"), "reference"), backend="triton")
        opened = replace(
            fake_opened(), device=torch.device(device), kernels=kernels, mtp=mtp, **more
        )
        opened.checkpoint.schemes = {}
        depth = Fixed(mtp) if isinstance(mtp, int) else None
        return replace(fake_loaded(opened, []), memory=Memory(Recorder(steps)), depth=depth)

    return make


def test_the_first_time_a_prompt_is_read_and_all_graphs_are_made(loaded):
    first, again = loaded(), loaded()
    events = list(warm_up.run(first))
    assert all(event.compiles for event in events)
    assert [event.share for event in events] == [0, 1 / 4, 1 / 2, 3 / 4, 1]
    assert first.runner.calls == [
        ("prefill", 1_000),  # compiled alone
        ("launch", 1),
        "reset",
        ("prefill", 1_000),
        ("look_ahead", 0, 0),
        ("keep", 1),
        "reset",
        ("graph", 1),
        "drawing",
        "reset",
    ]
    assert not any(event.compiles for event in warm_up.run(again))
    assert again.runner.calls == [("graph", 1), "drawing", "reset"]


def test_drafts_need_graphs_of_their_rounds_and_no_drawing(loaded):
    """Behind a round of which one token stayed, two, and so on: as many pairs come with a draft.
    At the end of a budget there are fewer drafts."""
    drafting = loaded(mtp=2)
    list(warm_up.run(drafting))
    counts = (2, 2), (2, 3), (2, 1), (1, 1)
    rounds = [(("look_ahead", 0, count, "checks"), ("keep", stay)) for count, stay in counts]
    assert ("launch", 1, 2, 3) in drafting.runner.calls
    graphs = drafting.runner.calls[7:]
    assert graphs == [("graph", 1), ("prefill", 1), *sum(rounds, ()), "reset", "reset"]


@pytest.mark.parametrize(("vocab_size", "read"), [(248_077, 65_536), (65_537, 65_536), (300, 0)])
def test_graphs_of_drafts_know_of_copied_rows(loaded, monkeypatch, vocab_size, read):
    drafting = loaded(mtp=1)
    list(warm_up.run(drafting))
    monkeypatch.setattr(drafting.opened.tokenizer, "vocab_size", vocab_size)
    drafting.runner.read.clear()
    list(warm_up.run(drafting))
    assert drafting.runner.read == [read]


def test_what_is_decoded_op_by_op_is_compiled_too(loaded):
    plain = loaded(steps=False)
    list(warm_up.run(plain))
    assert ("look_ahead", 0, 0) in plain.runner.calls


def test_other_models_and_launches_are_compiled_again(loaded):
    list(warm_up.run(loaded()))
    for more in ({"kv_dtype": "int8"}, {"tuned": {"sm_90": {"head 8": [4, 1, 1, 1]}}}, {"mtp": 1}):
        assert next(warm_up.run(loaded(**more))).compiles


def test_a_driver_that_lets_launches_overlap_has_kernels_of_its_own(loaded, monkeypatch):
    list(warm_up.run(loaded()))
    monkeypatch.setattr(launches, "cuda_of_driver", lambda: 12_020)
    assert next(warm_up.run(loaded())).compiles


def test_nothing_is_done_on_a_cpu_or_with_other_kernels(loaded):
    assert not list(warm_up.run(loaded(device="cpu")))
    other = loaded()
    plain = replace(other, opened=replace(other.opened, kernels=select(torch.device("cpu"))))
    assert not list(warm_up.run(plain))
    assert not plain.runner.calls


def test_work_that_fails_is_not_marked_as_done(loaded):
    broken = loaded()

    def fail(count):
        raise subprocess.CalledProcessError(1, ["/usr/bin/gcc"])

    broken.runner.stepper.reads.prepare = fail
    with pytest.raises(DeviceError, match="gcc failed"):
        list(warm_up.run(broken))
    assert next(warm_up.run(loaded())).compiles


def test_it_is_said_before_and_after_once(loaded):
    what = "compiling GPU kernels for this model, once"
    for expected in (f"{what}: about a minute\n{what} … 0 s\n", ""):
        screen = StringIO()
        start.warm_up(loaded(), Terminal(StringIO(), screen))
        assert screen.getvalue() == expected


def test_a_model_that_is_decoded_op_by_op_is_said_so(loaded, monkeypatch):
    slow = loaded(steps=False)
    slow.runner.op_by_op = "a matrix is nf4"
    slow.opened.checkpoint.format = "nf4"
    monkeypatch.setattr("qwen35cli.app.load.load", lambda opened, pictures: slow)
    screen = StringIO()
    start.load(slow.opened, Terminal(StringIO(), screen))
    text = screen.getvalue()
    assert "warning: the fused kernels do not take this model, a matrix is nf4" in text
    assert "hint: --quant int4" in text
