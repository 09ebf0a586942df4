"""`qwen35 doctor` on the command line: both streams, exit codes."""

import json
import os
import subprocess
import sys
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch

from qwen35cli.app import doctor as looking
from qwen35cli.app.doctor.probe_process import Probed
from qwen35cli.app.doctor.report import Finding, Report, Section
from qwen35cli.cli import app, run
from qwen35cli.cli.doctor import FENCE, OPENING, text
from qwen35cli.cli.variables import variables


@pytest.fixture
def qwen35(capfdbinary, monkeypatch, tmp_path):
    """Run a command in folders of its own; exit code, stdout, stderr."""
    for name in ("DATA", "CACHE", "STATE", "CONFIG"):
        monkeypatch.setenv(f"XDG_{name}_HOME", str(tmp_path / name.lower()))
    for name in [name for name in os.environ if name.startswith("QWEN35_")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(looking, "hub_folder", lambda: tmp_path / "hub")

    def call(*arguments):
        code = run(arguments)
        out, err = capfdbinary.readouterr()
        return code, out.decode(), err.decode()

    return call


@pytest.fixture
def unprobed(monkeypatch):
    """Without the process that runs torch: a second less."""
    table = {"backend": "reference", "description": "plain torch", "chosen": "asked for"}
    probed = Probed(torch={"cuda": None, "cpu_capability": "AVX2", "threads": 2}, kernels=table)

    @contextmanager
    def started(options):
        yield SimpleNamespace(listen=lambda say: probed)

    monkeypatch.setattr(looking, "started", started)


def test_neither_help_imports_torch():
    script = (
        "import sys\n"
        "from qwen35cli.cli import run\n"
        "assert run(['doctor', '--help']) == run(['bench', '--help']) == 0\n"
        "sys.exit('torch' in sys.modules)\n"
    )
    assert subprocess.run([sys.executable, "-c", script], stdout=subprocess.DEVNULL).returncode == 0


def test_a_report_that_can_be_pasted(qwen35):
    code, out, err = qwen35("doctor", "--device", "cpu")
    assert (code, err) == (0, ""), out
    lines = out.splitlines()
    assert lines[:3] == [OPENING, "", FENCE + "text"]
    assert lines[-2:] == ["nothing is wrong", FENCE]
    assert f"torch:           {torch.__version__}" in lines
    for name in ("versions", "system", "gpu", "kernels", "folders", "checkpoints", "environment"):
        assert f"[{name}]" in lines
    assert "0 failed" in out


def test_the_report_for_programs(qwen35):
    code, out, _ = qwen35("doctor", "--device", "cpu", "--json")
    assert (code, out.count("\n")) == (0, 1)
    found = json.loads(out)
    assert found["ok"] is True and found["problems"] == []
    assert found["kernels"]["tests"] and found["kernels"]["died"] is None


def test_what_is_wrong_comes_last_with_what_mends_it(qwen35):
    code, out, _ = qwen35("doctor", "--device", "cpu", "--kernels", "fast")
    assert code == 1
    assert out.splitlines()[-4:] == [
        "[wrong]",
        "- there are no kernels named 'fast'",
        "  --kernels reference | cpu | triton",
        FENCE,
    ]


def test_a_broken_file_of_settings_is_a_part_of_the_report(qwen35, unprobed, tmp_path):
    folder = tmp_path / "config" / "qwen35"
    folder.mkdir(parents=True)
    (folder / "config.toml").write_text("ctxx = 3\n")
    code, out, err = qwen35("doctor", "--device", "cpu", "--json")
    assert (code, err) == (1, "")
    (problem,) = json.loads(out)["problems"]
    assert problem["what"].endswith("config.toml, line 1: there is no setting 'ctxx'")


def wrong(qwen35):
    """What `doctor` finds wrong, and what mends it."""
    code, out, err = qwen35("doctor", "--device", "cpu", "--json")
    found = [(problem["what"], problem["mend"]) for problem in json.loads(out)["problems"]]
    assert (code, err) == (bool(found), "")
    return found


def test_settings_of_other_commands_are_looked_at_too(qwen35, unprobed, tmp_path):
    file = tmp_path / "config" / "qwen35" / "config.toml"
    file.parent.mkdir(parents=True)
    file.write_text('seed = 3\n[chat]\nctx = "many"\n')
    why = "ctx: 'many' is not a token count such as 8192, 32k or 1M"
    assert wrong(qwen35) == [(f"{file}, line 3: {why}", "qwen35 chat --help")]
    file.write_text('seed = 3\n[chat]\nctx = "8k"\n')
    assert wrong(qwen35) == []


def test_variables_that_a_command_does_not_take(qwen35, unprobed, monkeypatch):
    monkeypatch.setenv("QWEN35_CTX", "8k,32k")  # several are for vram and bench
    monkeypatch.setenv("QWEN35_CTXX", "1")
    why = "'8k,32k' is not a token count such as 8192, 32k or 1M"
    assert wrong(qwen35) == [
        (f"QWEN35_CTX is not for qwen35 chat, ask: {why}", "unset QWEN35_CTX"),
        ("nothing reads the variable QWEN35_CTXX", "unset QWEN35_CTXX; did you mean QWEN35_CTX?"),
    ]


def test_files_of_settings_hold_for_the_report_too(qwen35, tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text('kernels = "reference"\nsystem = "a secret of mine"\n')
    code, out, _ = qwen35("doctor", "--device", "cpu", "--config", str(file))
    assert code == 0
    assert "plain torch; asked for" in out
    assert f"set  ({file})" in out and "a secret of mine" not in out


def test_nothing_secret_is_told(qwen35, unprobed, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_very_secret")
    monkeypatch.setenv("QWEN35_PROMPT", "dear diary")
    monkeypatch.setenv("HTTPS_PROXY", "http://me:hunter2@proxy:1")
    for form in ((), ("--json",)):
        _, out, _ = qwen35("doctor", "--device", "cpu", "--kernels", "reference", *form)
        assert "HF_TOKEN" in out and "proxy:1" in out
        for secret in ("very_secret", "diary", "hunter2"):
            assert secret not in out


def test_no_flag_has_a_variable_that_the_report_calls_unknown():
    import typer

    known = set(variables(typer.main.get_command(app)))
    assert {"QWEN35_CTX", "QWEN35_DEVICE", "QWEN35_RUNS"} <= known


def test_hostile_names_cannot_leave_the_report():
    section = Section("environment", [("TERM", "\x1b[2J```\nx")], {})
    out = text(Report([section], [Finding("bad\x1b]0;", "run ```")]))
    assert "\x1b" not in out
    assert out.count(FENCE) == 2


def test_ctrl_c_is_130(qwen35, monkeypatch):
    def interrupted(options, say):
        raise KeyboardInterrupt

    monkeypatch.setattr(looking, "examine", interrupted)
    assert qwen35("doctor") == (130, "", "")


def test_a_report_without_torch(tmp_path):
    """The whole program: what cannot be imported keeps the rest from nothing."""
    stub = tmp_path / "torch"
    stub.mkdir()
    (stub / "__init__.py").write_text('raise ImportError("libtorch is gone")')
    done = subprocess.run(
        [sys.executable, "-m", "qwen35cli", "doctor"],
        env={**os.environ, "PYTHONPATH": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout.splitlines()[-4:] == [
        "[wrong]",
        "- torch cannot be imported: ImportError: libtorch is gone",
        "  pip install --force-reinstall torch",
        FENCE,
    ]
