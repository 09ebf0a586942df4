"""`qwen35 tune` without a GPU: which launches a model makes, and how the best is found."""

import json

import pytest
import torch

from qwen35cli.app import tune, tuned
from qwen35cli.app.estimate import planned
from qwen35cli.errors import DeviceError, DoesNotFitError, UsageError
from qwen35cli.kernels.triton.launches import Launches
from qwen35cli.kernels.triton.matvec import Launch
from qwen35cli.kernels.triton.trials import Product
from qwen35cli.model.config import Config
from qwen35cli.model.siblings import SIBLINGS
from qwen35cli.quant.plan import recipe
from tests.fakes import TimedSteps
from tests.tiny import tiny_config

CPU = torch.device("cpu")
ADD = Product("add", "int4", ((32, 512),))  # 2 tiles, 4 blocks
HEAD = Product("head", "int8", ((32, 128),))


def model(quant, raw=None):
    config = Config.from_dict(raw) if raw else SIBLINGS["Qwen/Qwen3.5-4B"]
    return planned("some", config, recipe(quant))


@pytest.fixture
def job(tmp_path):
    def make(*products, before=None):
        some = model("int4")
        return tune.Job(CPU, "Some Card", "sm_90", some, products, tmp_path, before or {})

    return make


def fastest(wanted):
    """Steps that take 1 µs with one launch, and more for each number that differs."""

    def time(key, launch):
        pairs = zip(launch.numbers, wanted, strict=True)
        return (1 + sum(one != other for one, other in pairs)) * 1e-6

    return TimedSteps(time)


@pytest.mark.parametrize(
    ("quant", "keys"),
    [
        (
            "int4",
            "project 4 12288x2560, add 8 2560x4096, swiglu 4 18432x2560, add 4 2560x9216, "
            "project 4 10240x2560, head 8 248320x2560",
        ),
        (
            "bf16",
            "project 16 12288x2560, add 16 2560x4096, swiglu 16 18432x2560, add 16 2560x9216, "
            "project 16 10240x2560, head 16 248320x2560",
        ),
    ],
)
def test_the_launches_of_the_4b(quant, keys):
    found = tune.products(model(quant))
    assert ", ".join(product.key for product in found) == keys
    delta = found[0]
    assert delta.shapes == ((8_192, 2_560), (4_096, 2_560))
    assert found[4].shapes == ((8_192, 2_560), (1_024, 2_560), (1_024, 2_560))


def test_what_is_decoded_op_by_op_is_refused():
    with pytest.raises(UsageError, match="op by op, nf4 has no fused kernels") as caught:
        tune.products(model("nf4"))
    assert caught.value.hint == "--quant int4"
    with pytest.raises(UsageError, match="a matrix of 320 x 64 is no whole tiles"):
        tune.products(model("int8", tiny_config()))


@pytest.mark.parametrize("wanted", [(1, 1, 1, 1, 0), (2, 2, 2, 1, 0), (1, 1, 2, 4, 0)])
def test_the_best_is_found_and_kept(job, wanted):
    steps = fastest(wanted)
    *trying, choice = tune.run(job(ADD), steps)
    assert all(isinstance(event, tune.Trying) and event.key == ADD.key for event in trying)
    after = choice.after
    assert after.numbers == [*wanted]
    assert choice.after_s == 1e-6
    assert choice.before_s > 1e-6
    assert choice.tried == len({*steps.measured}) and not choice.failed
    assert tuned.read(job().cache) == {"sm_90": {ADD.key: [*wanted]}}


def test_launches_are_compiled_together_before_they_are_measured(job):
    steps = fastest((1, 1, 2, 4, 0))
    events = list(tune.run(job(ADD), steps))
    compiled = [launch for batch in steps.compiled for launch in batch]
    assert [*dict.fromkeys(steps.measured)] == compiled
    assert len(steps.compiled) == 2  # warps and split, then blocks ahead and tiles
    counts = [event.compiling for event in events if isinstance(event, tune.Trying)]
    assert [count for count in counts if count] == [len(batch) for batch in steps.compiled]


def test_what_is_hardly_better_changes_nothing(job):
    seen = []

    def time(key, launch):
        seen.append(launch)
        return 1e-6 if launch == seen[0] else 0.999e-6

    *_, choice = tune.run(job(HEAD), TimedSteps(time))
    assert choice.tried > 1
    assert choice.after == choice.before == seen[0]
    assert choice.after_s == choice.before_s


def test_a_product_is_measured_beside_what_was_found_for_those_before(job):
    found = {}

    def time(key, launch):
        found[key] = launch
        return 1e-6 / launch.warps

    for event in tune.run(job(HEAD, ADD), TimedSteps(time)):
        if isinstance(event, tune.Choice) and event.key == HEAD.key:
            chosen = event.after
    assert found[HEAD.key] == chosen


def test_a_lucky_moment_does_not_decide(job):
    """What was the fastest only while it was tried is not taken."""
    times = {}

    def time(key, launch):
        first = times.setdefault(launch, len(times)) == len(times) - 1
        return 0.5e-6 if launch.warps == 1 and first and len(times) > 1 else 1e-6

    *_, choice = tune.run(job(HEAD), TimedSteps(time))
    assert choice.after == choice.before


def test_a_launch_of_the_file_is_where_it_starts(job):
    before = {"default": {ADD.key: [2, 1, 2, 2, 0]}, "sm_80": {"head 8": [4, 1, 1, 1, 0]}}
    *_, choice = tune.run(job(ADD, before=before), fastest((2, 1, 2, 2, 0)))
    assert choice.after == choice.before == Launch(2, 1, 2, 2)
    assert tuned.read(job().cache)["sm_80"] == before["sm_80"]


def test_what_does_not_compile_is_left_out(job):
    from triton.runtime.errors import OutOfResources

    def time(key, launch):
        if launch.ahead > 1:
            raise OutOfResources(2, 1, "shared memory")
        return 1e-6

    *_, choice = tune.run(job(ADD), TimedSteps(time))
    assert choice.failed > 0
    assert choice.after.ahead == 1
    with pytest.raises(DeviceError, match="no launch of head 8 32x128 runs"):
        list(tune.run(job(HEAD), fail(OutOfResources(2, 1, "shared memory"))))


def fail(error):
    def time(key, launch):
        raise error

    return TimedSteps(time)


def test_what_goes_wrong_otherwise_is_not_taken_for_that(job):
    with pytest.raises(RuntimeError, match="illegal memory access"):
        list(tune.run(job(HEAD), fail(RuntimeError("CUDA error: an illegal memory access"))))
    with pytest.raises(DoesNotFitError, match="memory ran out while tuning"):
        list(tune.run(job(HEAD), fail(torch.OutOfMemoryError("CUDA out of memory"))))


def test_what_was_found_before_an_interruption_is_kept(job):
    events = tune.run(job(HEAD, ADD), fastest((1, 1, 1, 1, 0)))
    for event in events:
        if isinstance(event, tune.Choice):
            break
    events.close()
    assert tuned.read(job().cache) == {"sm_90": {HEAD.key: [1, 1, 1, 1, 0]}}


def test_a_step_takes_them_from_the_file(job):
    list(tune.run(job(HEAD), fastest((2, 1, 1, 1, 0))))
    text = json.loads((job().cache / tuned.NAME).read_text())
    launches = Launches.of(CPU, {"default": text["sm_90"]})
    assert launches.of_key(HEAD.key) == Launch(2, 1, 1, 1)
