"""The section on GPUs: what the driver tells, and why torch uses none."""

from dataclasses import replace

import pytest

from qwen35cli.app.doctor import gpus, nvidia, patience
from qwen35cli.app.doctor.nvidia import Card, Cards, Holder
from qwen35cli.app.doctor.probe_process import Probed

TORCH = {"version": "2.13.0", "cuda": "13.0", "cpu_capability": "AVX2", "threads": 2}
CARD = Card("0", "RTX 4090", "570.1", "8.9", 24 * 2**30, 5 * 2**30, 19 * 2**30, ())


def gpu_problems(options, found, cards):
    section = gpus.section(options, found, cards)
    return [problem.what for problem in section.problems]


@pytest.fixture
def no_card(monkeypatch, tmp_path):
    monkeypatch.setattr(nvidia, "DRIVER", tmp_path / "none")
    monkeypatch.setattr(nvidia, "PCI", tmp_path / "pci")


def test_a_torch_without_cuda_beside_a_gpu(options):
    found = Probed(torch=TORCH | {"cuda": None, "version": "2.13.0+cpu"})
    section = gpus.section(options, found, Cards((CARD,), "13.0"))
    assert section.problems[0].what == (
        "there is an NVIDIA GPU, and torch 2.13.0+cpu was built without CUDA"
    )
    assert section.problems[0].mend.startswith("pip install --force-reinstall torch")


def test_a_driver_that_is_too_old(options):
    assert gpu_problems(options, Probed(torch=TORCH), Cards((CARD,), "12.4")) == [
        "the NVIDIA driver 570.1 runs CUDA up to 12.4, torch was built for 13.0"
    ]


@pytest.mark.parametrize(("newest", "other"), [("12.4", True), ("11.8", False)])
def test_an_older_build_of_torch_where_the_driver_takes_it(options, newest, other):
    section = gpus.section(options, Probed(torch=TORCH), Cards((CARD,), newest))
    mend = section.problems[0].mend
    assert mend.startswith("update the driver")
    assert ("whl/cu126" in mend) is other


def test_minor_versions_of_cuda_run_on_each_other(options):
    found = Probed(torch=TORCH | {"cuda": "13.2"}, warnings=["cuInit failed"])
    assert gpu_problems(options, found, Cards((CARD,), "13.0")) == [
        "torch sees no GPU: cuInit failed"
    ]


def test_gpus_that_a_variable_hides(options):
    hiding = replace(options, environment={"CUDA_VISIBLE_DEVICES": ""})
    assert gpu_problems(hiding, Probed(torch=TORCH), Cards((CARD,), "13.0")) == [
        "CUDA_VISIBLE_DEVICES hides the GPUs"
    ]


def test_a_gpu_without_a_driver_is_found_on_the_bus(options, no_card):
    card = nvidia.PCI / "0000:01:00.0"
    card.mkdir(parents=True)
    (card / "vendor").write_text("0x10de\n")
    (card / "class").write_text("0x030000\n")
    section = gpus.section(options, Probed(torch=TORCH), None)
    assert "its driver is not loaded" in section.problems[0].what
    assert not gpus.section(replace(options, device="cpu"), Probed(torch=TORCH), None).problems


def test_a_container_is_given_its_gpu_by_who_starts_it(options, no_card, monkeypatch):
    monkeypatch.setattr(nvidia, "has_nvidia_card", lambda: True)
    for inside, mend in ((True, "docker run --gpus all"), (False, "install NVIDIA's driver")):
        monkeypatch.setattr(gpus, "in_container", lambda inside=inside: inside)
        (problem,) = gpus.section(options, Probed(torch=TORCH), None).problems
        assert problem.mend.startswith(mend)


def test_no_gpu_is_no_problem_and_not_even_a_note_for_the_cpu(options, no_card):
    section = gpus.section(options, Probed(torch=TORCH), None)
    assert not section.problems and "--device cpu" in section.notes[0].mend
    assert not gpus.section(replace(options, device="cpu"), Probed(torch=TORCH), None).notes


def test_who_holds_the_memory_is_told(options):
    holders = nvidia.parse_holders("GPU-1, 77, /home/me/bin/python, 1024\nGPU-1, 78, x, 512\n")
    text = "0, RTX 4090, GPU-1, 570.1, 8.9, 24564, 2048, 22516\nbroken line\n"
    (card,) = nvidia.parse_cards(text, holders)
    assert card.holders == (Holder(77, "python", 2**30), Holder(78, "x", 2**29))
    gpu = {"index": 0, "name": "RTX 4090", "capability": "8.9"}
    found = Probed(torch=TORCH, gpus=[gpu | {"total_bytes": 2**34, "free_bytes": 2**33}])
    section = gpus.section(options, found, Cards((card,), "13.0"))
    assert not section.problems
    line = dict(section.lines)["GPU 0"]
    assert "held by python (pid 77) 1.00 GiB, x (pid 78) 512.0 MiB" in line
    assert line.endswith("the driver and what it does not name 512.0 MiB")


def test_figures_that_the_driver_does_not_know_are_left_out(options):
    text = "0, GB10, GPU-1, 580.1, 12.1, [N/A], [N/A], [N/A]\n"
    (card,) = nvidia.parse_cards(text, {})
    section = gpus.section(options, Probed(torch=TORCH), Cards((card,), "13.0"))
    assert dict(section.lines)["GPU 0"] == "GB10, sm_121"


def fake_smi(tmp_path, monkeypatch, script):
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")


def test_nvidia_smi_that_fails_says_why(tmp_path, monkeypatch):
    fake_smi(tmp_path, monkeypatch, "echo NVIDIA-SMI has failed; exit 9")
    assert nvidia.cards() == Cards(failure="NVIDIA-SMI has failed")


def test_nvidia_smi_that_hangs_is_not_waited_for(tmp_path, monkeypatch):
    fake_smi(tmp_path, monkeypatch, "exec sleep 60")
    assert patience.ask(["nvidia-smi"], 0.2) == patience.Done(None, "")


def test_no_nvidia_smi_is_fine(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert nvidia.cards() is None
    assert patience.ask(["nvidia-smi"]) is None
