"""`qwen35 bench` on the command line: both streams, exit codes."""

import json
from contextlib import closing

import pytest
import torch

from qwen35cli.app import bench as measuring
from qwen35cli.app.bench.results import Prefilled, Running
from qwen35cli.cli import run
from qwen35cli.cli.terminal import Terminal

BENCH = ("bench", "demo", "--prefill", "16", "--ctx", "50", "--runs", "2")


@pytest.fixture
def qwen35(capfdbinary, monkeypatch, tmp_path):
    """Run a command in folders of its own; exit code, stdout, stderr."""
    for name in ("DATA", "CACHE", "STATE", "CONFIG"):
        monkeypatch.setenv(f"XDG_{name}_HOME", str(tmp_path / name.lower()))
    monkeypatch.setitem(measuring.SWEPT, "cpu", 2**20)
    monkeypatch.setitem(measuring.DECODED, "cpu", 3)

    def call(*arguments):
        code = run(arguments)
        out, err = capfdbinary.readouterr()
        return code, out.decode(), err.decode()

    return call


def test_a_table_on_stdout(qwen35):
    code, out, err = qwen35(*BENCH)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == "demo · bf16 weights · bf16 KV"
    assert f"torch {torch.__version__}" in lines[1]
    assert lines[3].split() == ["prompt", "tokens/s", "of", "all", "runs", "first", "token"]
    assert lines[4].split()[0] == "16"
    assert lines[7].split()[0] == "50" and lines[7].endswith("%")
    assert lines[-1].startswith("medians of 2 runs · 3 tokens decoded in each · loaded in ")
    assert "peak memory" in lines[-1] and "GB/s" in lines[-1]


def test_the_tables_are_whole_in_60_columns(qwen35, monkeypatch):
    monkeypatch.setattr(Terminal, "columns", 60)
    _, out, _ = qwen35(*BENCH)
    assert max(map(len, out.splitlines())) <= 60
    assert "…" not in out
    assert f"torch {torch.__version__}" in out


def test_an_object_for_programs(qwen35):
    code, out, _ = qwen35(*BENCH, "--kv-dtype", "int8", "--json")
    assert (code, out.count("\n")) == (0, 1)
    found = json.loads(out)
    assert (found["model"], found["kv_dtype"], found["interrupted"]) == ("demo", "int8", False)
    (read,), (decoded,) = found["prefill"], found["decode"]
    assert read["tokens"] == 16 and len(read["seconds"]) == 2
    assert decoded["ctx"] == 50 and len(decoded["runs_tokens_per_s"]) == 2
    assert decoded["bandwidth_share"] > 0
    assert found["peak_bytes"] > 0 and found["machine"]["kernels"]


def test_results_come_one_by_one_under_v(qwen35):
    err = qwen35(*BENCH, "-v")[2]
    assert "16 tokens read at" in err and "decoding behind 50 tokens" in err


def test_ctrl_c_tells_what_was_measured(qwen35, monkeypatch):
    whole = measuring.run

    def interrupted(bench):
        for event in whole(bench):
            yield event
            if isinstance(event, Prefilled):
                raise KeyboardInterrupt

    monkeypatch.setattr(measuring, "run", interrupted)
    code, out, err = qwen35(*BENCH)
    assert code == 130
    assert out.splitlines()[4].split()[0] == "16"
    assert "of bandwidth" not in out
    assert err == "(interrupted; 1 of 2 were measured, the last in 2 of 2 runs)\n"
    code, out, _ = qwen35(*BENCH, "--json")
    assert code == 130 and json.loads(out)["interrupted"] is True


@pytest.mark.parametrize(
    ("phase", "number", "said"),
    [
        ("prefill", 2, "one run · "),
        ("prefill", 3, "medians of 2 runs · "),
        ("decode", 2, "medians of 1 to 3 runs · "),
    ],
)
def test_the_medians_are_of_the_runs_that_were_made(qwen35, monkeypatch, phase, number, said):
    whole = measuring.run

    def interrupted(bench):
        with closing(whole(bench)) as events:
            for event in events:
                yield event
                if isinstance(event, Running) and (event.phase, event.number) == (phase, number):
                    raise KeyboardInterrupt

    monkeypatch.setattr(measuring, "run", interrupted)
    code, out, _ = qwen35(*BENCH, "--runs", "3")
    assert code == 130
    assert out.splitlines()[-1].startswith(said)


@pytest.mark.parametrize("where", ["prepare", "load", "run"])
def test_ctrl_c_before_anything_was_measured(qwen35, monkeypatch, where):
    def interrupted(*rest):
        raise KeyboardInterrupt

    monkeypatch.setattr(measuring, where, interrupted)
    assert qwen35(*BENCH) == (130, "", "(interrupted; nothing was measured)\n")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--runs", "0"), 2, "'0' is not a whole number from 1 to 1,000"),
        (("--ctx", "many"), 2, "is not a token count"),
        (("--ctx", "10M"), 2, "more than the model's"),
        (("--quant", "int3"), 2, "int3"),
        (("--kernels", "fast"), 2, "'fast' is not one of"),
    ],
)
def test_what_cannot_be_measured_is_refused(qwen35, arguments, code, message):
    found, out, err = qwen35("bench", "demo", *arguments)
    assert (found, out) == (code, "")
    assert message in err


def test_without_a_gpu_the_hint_is_a_call_of_bench(qwen35, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    code, _, err = qwen35("bench", "demo", "--device", "cuda")
    assert code == 4
    assert err.endswith("hint: --device cpu (slow), or qwen35 bench demo to look around\n")


def test_a_model_that_is_not_there_is_exit_3(qwen35):
    assert qwen35("bench", "./nowhere", "--device", "cpu")[0] == 3
