"""The section on kernels: what the process that runs torch tells, and the self-test in it."""

import json
import signal
import subprocess
import sys
import time
import warnings
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from qwen35cli.app.doctor import gpus, kernels, probe, probe_process, self_test, versions
from qwen35cli.app.doctor.probe_process import Probed
from qwen35cli.app.doctor.report import Finding
from qwen35cli.app.doctor.self_test_ops import CHECKS
from qwen35cli.kernels import cpu, select

CPU = torch.device("cpu")
TORCH = {"version": "2.13.0", "cuda": "13.0", "cpu_capability": "AVX2", "threads": 2}


# -- the self-test --------------------------------------------------------------------------------


@pytest.mark.parametrize("op", self_test.overridden(select(CPU)))
def test_kernels_of_this_cpu_pass(op):
    tested = self_test.test(op, select(CPU), CPU)
    assert tested.passed, tested
    assert tested.error is not None


@pytest.mark.parametrize("op", ["linear", "prepare", "project", "project_swiglu", "rows"])
def test_without_compiled_kernels_those_of_torch_pass(op, monkeypatch):
    monkeypatch.setattr(cpu.Native, "load", lambda: None)
    chosen = select(CPU)
    assert op in self_test.overridden(chosen)
    tested = self_test.test(op, chosen, CPU)
    assert tested.passed, tested


@pytest.mark.parametrize("op", ["linear", "project_swiglu", "rms_norm", "delta_mix", "draws"])
def test_interpreted_triton_kernels_pass(op):
    pytest.importorskip("triton", reason="Triton has no wheel for this system")
    tested = self_test.test(op, select(CPU, "triton"), CPU)
    assert tested.passed, tested


@pytest.mark.parametrize("backend", ["cpu", "triton"])
def test_every_op_that_a_backend_has_of_its_own_is_tested(backend):
    if backend == "triton":
        pytest.importorskip("triton", reason="Triton has no wheel for this system")
    assert set(self_test.overridden(select(CPU, backend))) <= CHECKS.keys()


def test_the_reference_has_nothing_of_its_own():
    assert self_test.overridden(select(CPU, "reference")) == []


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (lambda x, weight, eps: x, "from its twin"),
        (lambda x, weight, eps: x * torch.nan, "it computes NaN"),
        (lambda x, weight, eps: x[:1], "shape (1, 128) instead of (3, 128)"),
        (lambda x, weight, eps: 1 / 0, "ZeroDivisionError: division by zero"),
    ],
)
def test_a_kernel_that_is_wrong_fails(broken, message):
    tested = self_test.test("rms_norm", replace(select(CPU), rms_norm=broken), CPU)
    assert not tested.passed
    assert message in tested.message


@pytest.mark.parametrize("op", ["stack", "draft_loop"])
def test_a_kernel_that_takes_nothing_fails(op):
    tested = self_test.test(op, replace(select(CPU), **{op: lambda weights: None}), CPU)
    assert not tested.passed
    assert "taken" in tested.message


# -- the process that runs torch ------------------------------------------------------------------


def probe_script(monkeypatch, script):
    """Let the probe be another program."""
    start = subprocess.Popen

    def other(command, **rest):
        return start([sys.executable, "-c", script], **rest)

    monkeypatch.setattr(probe_process.subprocess, "Popen", other)


def run_probe(options, silence=30.0):
    with probe_process.started(options) as running:
        return running.listen(lambda text: None, silence)


def test_the_probe_tells_torch_kernels_and_tests(options):
    found = run_probe(options)
    assert found.torch["version"] == torch.__version__
    assert found.died is None and found.complete
    assert found.kernels["backend"] in ("cpu", "triton")
    assert found.tests and all(each["passed"] for each in found.tests)


def test_a_kernel_that_ends_the_process_is_named(options, monkeypatch):
    told = "\n".join(map(json.dumps, ({"torch": TORCH}, {"gpus": []}, {"testing": "linear"})))
    script = f"print({told!r}, flush=True); import os; os.kill(os.getpid(), 4)"
    probe_script(monkeypatch, script)
    found = run_probe(options)
    assert found.died == f"was ended by {signal.Signals(4).name}"
    (problem,) = kernels.section(options, found).problems
    assert problem.what.endswith("was ended by SIGILL in the test of linear")
    assert "export QWEN35_KERNELS=reference" in problem.mend


@pytest.mark.parametrize(
    ("found", "mend"),
    [
        (Probed(died="x"), "pip install --force-reinstall torch"),
        (Probed(died="x", torch=TORCH), "nvidia-smi"),
        (Probed(died="x", torch=TORCH, looked=True), "pip install --force-reinstall --no-deps"),
    ],
)
def test_what_mends_an_early_end_is_by_how_far_it_came(options, found, mend):
    (problem,) = kernels.section(options, found).problems
    assert mend in problem.mend


def test_a_probe_that_hangs_is_ended(options, monkeypatch):
    probe_script(monkeypatch, "import time; print('{}', flush=True); time.sleep(60)")
    start = time.monotonic()
    found = run_probe(options, silence=0.5)
    assert time.monotonic() - start < 10
    assert found.died == "said nothing for 0 s"


def test_what_others_print_is_passed_over_and_the_last_error_is_told(options, monkeypatch):
    script = "import sys; print('hello'); print('[1]'); sys.exit('no memory')"
    probe_script(monkeypatch, script)
    assert run_probe(options).died == "ended with code 1: no memory"


def test_a_torch_that_cannot_be_imported(options, tmp_path):
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text('raise ImportError("libtorch is gone")')
    environment = {"PYTHONPATH": str(tmp_path)}
    found = run_probe(replace(options, environment=environment))
    assert found.unimportable == "ImportError: libtorch is gone"
    section = kernels.section(options, found)
    assert section.lines == [("kernels", "not known: torch cannot be imported")]
    assert section.problems == [
        Finding(
            "torch cannot be imported: ImportError: libtorch is gone",
            "pip install --force-reinstall torch",
        )
    ]


def test_a_torch_that_is_not_there_is_told_where_versions_are(options, monkeypatch):
    monkeypatch.setattr(kernels, "version", lambda package: None)
    found = Probed(unimportable="ModuleNotFoundError: No module named 'torch'")
    assert not kernels.section(options, found).problems


@pytest.fixture
def told(monkeypatch):
    """Run the probe in this process; what it told. `auto` is a GPU that it does not have."""
    said = {}
    device = probe._device
    monkeypatch.setattr(probe, "tell", said.__setitem__)
    monkeypatch.setattr(
        probe, "_device", lambda asked: torch.device("cuda") if asked == "auto" else device(asked)
    )

    def run(cache, device="auto", kernels=""):
        monkeypatch.setattr(sys, "argv", ["probe", device, kernels, str(cache)])
        with warnings.catch_warnings():
            probe.main()
        return said

    return run


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_gpu_that_is_asked_for_and_absent_is_one_problem(options, told, tmp_path):
    options = replace(options, device="cuda")
    problem = told(tmp_path, device="cuda")["problem"]
    assert "no usable GPU" in problem["message"]
    found = Probed(torch=TORCH, problem=Finding(problem["message"], problem["hint"]))
    assert len(gpus.section(options, found, None).problems) == 1
    assert not kernels.section(options, found).problems


def test_kernels_that_there_are_not_are_a_problem(told, tmp_path):
    assert told(tmp_path, kernels="fast")["problem"] == {
        "message": "there are no kernels named 'fast'",
        "hint": "--kernels reference | cpu | triton",
    }


def test_a_driver_that_fails(told, monkeypatch, tmp_path):
    def full():
        raise RuntimeError("CUDA error: out of memory\nfor debugging consider …")

    monkeypatch.setattr(probe, "_gpus", full)
    problem = told(tmp_path)["problem"]
    assert problem["message"] == ("the GPU cannot be used: RuntimeError: CUDA error: out of memory")
    assert problem["hint"].startswith("nvidia-smi")


def test_a_gpu_without_triton(told, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "triton", None)
    problem = told(tmp_path)["problem"]
    assert (
        problem["message"] == "the Triton kernels need the package triton, which is not installed"
    )
    assert problem["hint"].startswith("pip install triton")


def test_a_gpu_that_is_too_old(told, monkeypatch, tmp_path):
    pytest.importorskip("triton", reason="Triton has no wheel for this system")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (6, 1))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "GTX 1060")
    problem = told(tmp_path)["problem"]
    assert problem["message"].startswith("GTX 1060 (sm_61) is older than the Triton kernels need")
    assert "--device cpu" in problem["hint"]


# -- what is made of it ----------------------------------------------------------------------------


def kernels_of(**table):
    found = {"backend": "cpu", "description": "C++", "chosen": "the default on cpu"}
    return Probed(torch=TORCH, kernels=found | table, _done=True)


def test_why_a_variant_runs(options):
    section = kernels.section(
        options, kernels_of(suitable=["avx2", "portable"], built=["avx2", "portable"])
    )
    assert dict(section.lines)["why"].startswith("avx2 is the best of those built")
    assert not section.problems and not section.notes


def test_a_better_variant_that_was_not_built_is_a_note(options):
    section = kernels.section(
        options, kernels_of(suitable=["avx512", "avx2", "portable"], built=["portable"])
    )
    assert not section.problems
    assert section.notes[0].what == "this CPU runs avx512 too, and those kernels were not built"


def test_no_variant_is_a_problem_with_the_command_that_mends_it(options):
    (problem,) = kernels.section(options, kernels_of(suitable=["portable"], built=[])).problems
    assert "were not built" in problem.what
    assert "pip install --force-reinstall --no-deps --no-cache-dir" in problem.mend


@pytest.mark.parametrize(
    ("origin", "again"),
    [
        (None, "qwen35cli"),
        ('{"url": "file:///a b", "dir_info": {"editable": true}}', "-e '/a b'"),
        ('{"url": "file:///x", "dir_info": {}}', "/x"),
        ('{"url": "https://x/q", "vcs_info": {"vcs": "git"}}', "git+https://x/q"),
    ],
)
def test_it_is_built_again_from_where_it_came(origin, again, monkeypatch):
    from_pip = SimpleNamespace(read_text=lambda name: origin)
    monkeypatch.setattr(versions.metadata, "distribution", lambda package: from_pip)
    monkeypatch.setattr(versions.shutil, "which", lambda name: None)
    assert versions.build_again().startswith("install a C++ compiler")
    assert versions.build_again().endswith(f"--no-cache-dir {again}")


def test_a_test_that_failed_is_a_problem(options):
    found = kernels_of(suitable=["avx2"], built=["avx2"])
    found.take({"tested": {"op": "rows", "passed": True, "ms": 1.0, "message": ""}})
    found.take({"tested": {"op": "linear", "passed": False, "ms": 1.0, "message": "it is off"}})
    section = kernels.section(options, found)
    assert ("FAILED", "linear: it is off") in section.lines
    (problem,) = section.problems
    assert problem.what == "kernels do not compute what they should: linear"
