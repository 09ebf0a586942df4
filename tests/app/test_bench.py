"""Measuring: lengths that are chosen, figures that follow from the runs, what a break leaves."""

import statistics
from types import SimpleNamespace

import pytest
import torch

from qwen35cli.app import bandwidth, bench, device
from qwen35cli.app.bench import BenchOptions, runs
from qwen35cli.app.bench.results import Decoded, Prefilled, Running
from qwen35cli.errors import DoesNotFitError, UsageError
from qwen35cli.kernels.operands import Int8Rows
from qwen35cli.model.cache import KVCache


@pytest.fixture(autouse=True)
def little(monkeypatch):
    """Less is read and decoded."""
    monkeypatch.setitem(bench.SWEPT, "cpu", 2**20)
    monkeypatch.setitem(bench.DECODED, "cpu", 3)


def prepared(**options):
    asked = BenchOptions(model="demo", device="cpu", **options)
    return asked, *bench.prepare(asked)


def measured(**options):
    return bench.load(*prepared(**options))


def test_what_is_asked_for_is_measured_rising_and_once():
    _, opened, prompts, contexts = prepared(prompts=(64, 16, 64), contexts=(200, 100))
    assert (prompts, contexts) == ((16, 64), (100, 200))
    assert opened.ctx == 200 + 3 + runs.UNTIMED + 2


def test_the_usual_lengths_are_those_that_there_is_room_for():
    _, opened, prompts, contexts = prepared()
    assert prompts == (128, 512)
    assert contexts[0] == 512 and contexts[-1] < opened.ctx
    assert bench._fitting((512, 4_096), 1_000) == (512,)
    assert bench._fitting((512, 4_096), 100) == (100,)


def test_more_than_the_model_takes_is_refused_with_what_it_does():
    with pytest.raises(UsageError, match="more than the model's") as caught:
        prepared(contexts=(10_000_000,))
    largest = int(caught.value.hint.removeprefix("--ctx "))
    assert prepared(contexts=(largest,))[3] == (largest,)
    with pytest.raises(UsageError, match="more than the model's") as caught:
        prepared(prompts=(64, 10_000_000), contexts=(64,))
    largest = int(caught.value.hint.removeprefix("--prefill "))
    assert prepared(prompts=(largest,))[2] == (largest,)


def test_more_than_fits_is_refused_in_the_figures_that_were_asked_for(monkeypatch):
    _, opened, _, _ = prepared(prompts=(16,), contexts=(16,))
    for module in (bench, bench.loading):
        monkeypatch.setattr(module, "free_bytes", lambda device: opened.estimate.total + 2**20)
    assert prepared(prompts=(16,), contexts=(16,))[1].ctx == opened.ctx
    with pytest.raises(DoesNotFitError, match=r"a context of 1,007 tokens needs .* are missing"):
        prepared(prompts=(16,), contexts=(1_000,))


def test_every_run_is_announced_and_its_figures_come_after():
    made = measured(prompts=(16,), contexts=(50,), runs=2)
    events = list(bench.run(made))
    assert events == [
        *(Running("prefill", 16, number, 2) for number in (1, 2)),
        made.prefilled[0],
        *(Running("decode", 50, number, 2) for number in (1, 2)),
        made.decoded[0],
    ]
    assert made.prefilled[0].runs == made.decoded[0].runs == 2
    assert made.prefilled[0].tokens_per_s > 0 and made.decoded[0].tokens_per_s > 0
    assert made.bandwidth == statistics.median(made.decoded[0].bandwidths)
    assert made.peak > 2**20


def test_the_buffer_that_is_read_is_no_part_of_the_peak(monkeypatch):
    made, order = measured(prompts=(16,), contexts=(50,), runs=1), []
    peak, buffer = bench.peak_bytes, bench.read_buffer
    monkeypatch.setattr(bench, "peak_bytes", lambda device: order.append("peak") or peak(device))
    monkeypatch.setattr(bench, "read_buffer", lambda *size: order.append("buffer") or buffer(*size))
    list(bench.run(made))
    assert order == ["peak", "buffer"]


def test_there_is_room_for_that_buffer_too(monkeypatch):
    _, opened, _, _ = prepared(contexts=(1_000,))
    monkeypatch.setitem(bench.SWEPT, "cpu", 2**28)
    monkeypatch.setattr(bench, "free_bytes", lambda device: opened.estimate.total + 2**28)
    prepared(contexts=(1_000,))
    monkeypatch.setattr(bench, "free_bytes", lambda device: opened.estimate.total + 2**27)
    with pytest.raises(DoesNotFitError, match="are missing"):
        prepared(prompts=(16,), contexts=(1_000,))


@pytest.mark.parametrize("kv_dtype", ["bf16", "int8"])
def test_decoding_stands_where_it_is_asked_to(kv_dtype, monkeypatch):
    made = measured(prompts=(16,), contexts=(50, 90), runs=1, kv_dtype=kv_dtype)
    generate, seen = runs.generate, []

    def watched(runner, prompt, sampler, **rest):
        before = runner.length + len(prompt.ids)
        yield from generate(runner, prompt, sampler, **rest)
        seen.append((before, runner.length))

    monkeypatch.setattr(runs, "generate", watched)
    list(bench.run(made))
    most = 3 + runs.UNTIMED - 1  # the last token is not read
    assert {before for before, _ in seen} == {50, 90}
    assert {after for before, after in seen if before == 90} <= {90 + 2, 90 + most}
    assert made.loaded.runner.length == 0


def test_caches_are_filled_with_numbers_that_can_be():
    for kv_dtype in ("bf16", "int8"):
        made = measured(prompts=(16,), contexts=(2_500,), kv_dtype=kv_dtype)  # more than is drawn
        bench.fill(made.loaded.runner)
        layer = next(x for x in made.loaded.runner.cache.layers if isinstance(x, KVCache))
        keys = layer.keys
        assert layer.capacity > runs.BLOCK
        if isinstance(keys, Int8Rows):
            assert keys.codes.float().std((0, 1, 3)).min() > 20
            assert keys.scale.float().min() > 0
        else:
            assert keys.float().std((0, 1, 3)).min() > 0.3


def test_bytes_of_a_token_grow_with_its_context():
    made = measured(prompts=(16,), contexts=(50, 90), runs=1)
    list(bench.run(made))
    near, far = made.decoded
    estimate = made.opened.estimate
    assert far.nbytes - near.nbytes == 40 * estimate.kv_per_token


def test_figures_follow_from_the_runs():
    read = Prefilled(100, (1.0, 2.0, 50.0))
    assert (read.first_token_s, read.tokens_per_s) == (2.0, 50.0)
    assert read.speeds == [100.0, 50.0, 2.0]
    decoded = Decoded(10, 16, 10**9, (2.0, 4.0, 3.0), (8.0, 8.0, 4.0))
    assert decoded.tokens_per_s == 3.0
    assert decoded.share == 0.5  # of 0.25, 0.5 and 0.75


def test_what_breaks_off_leaves_what_was_measured():
    made = measured(prompts=(16, 32), contexts=(50,), runs=3)
    events = bench.run(made)
    for event in events:
        if event == Running("prefill", 32, 3, 3):
            events.close()
    assert [len(read.seconds) for read in made.prefilled] == [3, 2]
    assert made.decoded == [] and made.bandwidth is None
    assert made.peak is not None


def test_where_it_ran_is_told():
    here = measured(prompts=(16,), contexts=(50,)).here
    assert here.torch == torch.__version__
    assert here.threads == torch.get_num_threads()
    assert here.device and here.driver is None


def test_a_sweep_takes_the_best_and_leaves_the_threads(monkeypatch):
    buffer = bandwidth.read_buffer(2**20)
    assert buffer.nbytes == 2**20 and bool((buffer == 1).all())
    clock = iter([0.0, 2.0, 2.0, 3.0])
    monkeypatch.setattr(device, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    assert bandwidth.sweep(buffer, 2) == pytest.approx(2**20 / 1e9)
    monkeypatch.undo()
    monkeypatch.setattr(bandwidth, "BUFFER_BYTES", 2**20)
    before = torch.get_num_threads()
    assert bandwidth.read_bandwidth(1) > 0
    assert torch.get_num_threads() == before


def test_on_a_gpu_several_sweeps_are_timed_at_once(monkeypatch):
    done = []

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self):
            done.append("event")

        def synchronize(self):
            done.append("wait")

        def elapsed_time(self, later):
            return 8.0  # ms

    monkeypatch.setattr(torch.cuda, "Event", Event)
    device, swept = torch.device("cuda"), lambda: done.append("sweep")
    buffer = SimpleNamespace(device=device, nbytes=2 * 10**9, sum=swept)
    assert bandwidth.sweep(buffer, 1) == pytest.approx(1_000)
    assert done == ["sweep", "event", *["sweep"] * 4, "event", "wait"]
