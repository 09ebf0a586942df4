"""`qwen35 quantize`, and `--quant` of `ask`: both streams, exit codes, signals on a terminal."""

import json
import os
import signal
import subprocess
import sys

import pexpect
import pytest

from qwen35cli.app import quantize, stored
from qwen35cli.cli import making, run
from tests.proved import proved
from tests.scripted import PATIENCE, environment


@pytest.fixture
def qwen35(capfdbinary, monkeypatch, tmp_path):
    """Run a call with an empty data folder; exit code, stdout, stderr."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))

    def call(*arguments):
        with open("/dev/null") as nothing:  # noqa: PTH123
            monkeypatch.setattr("sys.stdin", nothing)
            code = run(arguments)
        out, err = capfdbinary.readouterr()
        return code, out.decode(), err.decode()

    return call


# -- quantize --------------------------------------------------------------------------------------


def test_stdout_is_the_path_alone(qwen35, tmp_path):
    target = tmp_path / "q 4"
    code, out, err = qwen35("quantize", "demo", "-o", str(target))
    assert (code, out) == (0, f"{target}\n")
    assert err.startswith("int4: 5.48 MB to 3.18 MB in ")
    assert proved(target).format == "int4"
    assert {path.name for path in tmp_path.iterdir()} == {"q 4"}


def test_the_result_answers(qwen35, tmp_path):
    target = tmp_path / "q"
    assert qwen35("quantize", "demo", "--format", "int8", "-o", str(target), "-q")[0] == 0
    question = ("What is 345 + 78?", "--no-think", "--temp", "0", "--json")
    code, out, err = qwen35("ask", "-m", str(target), "--device", "cpu", *question)
    assert (code, err) == (0, "")
    answer = json.loads(out)
    assert answer["answer"].endswith("345 + 78 = 423")
    assert (answer["quant"], answer["kv_dtype"]) == ("int8", "bf16")


def test_a_second_call_finds_it_done(qwen35, tmp_path):
    qwen35("quantize", "demo", "--format", "int8")
    code, out, err = qwen35("quantize", "demo", "--format", "int8")
    [place] = (tmp_path / "data" / "qwen35" / "quantized").glob("demo-*/int8")
    assert (code, out) == (0, f"{place}\n")
    assert err == f"{place} is up to date; --force makes it again\n"


def test_the_plan_is_printed_and_nothing_written(qwen35, tmp_path):
    plan = tmp_path / "plan.toml"
    plan.write_text('[tensors]\n"*.layers.2.mlp.up_proj.weight" = "keep"\n')
    code, out, err = qwen35("quantize", "demo", "--plan", "--plan-file", str(plan))
    assert (code, err) == (0, "")
    rows = {tuple(line.split()[:2]): line.split()[2:] for line in out.splitlines()}
    up = "model.language_model.layers.*.mlp.up_proj.weight"
    assert rows[up, "int4-g32"][0] == "5"
    assert rows[up, "as"][:2] == ["it", "is"] or "1" in rows[up, "as"]
    assert rows["model.language_model.embed_tokens.weight", "int8"][0] == "1"
    assert {path.name for path in tmp_path.iterdir()} == {"plan.toml"}


def test_a_dry_run_gives_sizes_and_writes_nothing(qwen35, tmp_path):
    code, out, err = qwen35("quantize", "demo", "--dry-run")
    assert (code, err) == (0, "")
    assert [line.split("  ")[0] for line in out.splitlines()] == [
        *("", "weights", "bits per weight", "read per token", "free on the disk"),
    ]
    assert "5.48 MB   3.18 MB" in out
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["nothing"], 3, "there is no model 'nothing'"),
        (["demo", "--format", "int3"], 2, "'int3' is not one of"),
        (["demo", "--group", "48"], 2, "'48' is not one of 32, 64, 128"),
        (["demo", "--plan-file", "/no/such"], 2, "/no/such cannot be read"),
        (["demo", "-o", "/etc"], 2, "/etc exists, and qwen35 quantize did not write it"),
        (["demo", "-o", "/dev/null"], 2, "/dev/null is a file"),
        (["demo", "-o", "/proc/x/y"], 1, "could not write /proc/x/y"),
        (["demo", "-o", "/proc/x"], 1, "could not write /proc/x: No such file"),
        (["demo", "-o", "a" * 300], 2, "cannot be written: File name too long"),
    ],
)
def test_refusals(qwen35, arguments, code, message):
    actual, out, err = qwen35("quantize", *arguments)
    assert (actual, out) == (code, "")
    assert message in err
    assert err.count("\n") <= 2


def test_a_full_disk_is_one_clear_line(qwen35, tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("qwen35cli.checkpoint.whole_file.os.fsync", full)
    code, out, err = qwen35("quantize", "demo", "-o", str(tmp_path / "q"))
    assert (code, out) == (5, "")
    assert err.startswith(f"error: the disk was full before {tmp_path / 'q'} was complete")
    assert not list(tmp_path.iterdir())


def slow(tmp_path, *arguments):
    """A call of `quantize` that stands still in its middle until a signal comes."""
    script = tmp_path / "slow.py"
    script.write_text(
        "import sys, time\n"
        "from qwen35cli.app import quantize\n"
        "from qwen35cli.cli import run\n"
        "real = quantize.quantize_checkpoint\n"
        "def slow(*arguments):\n"
        "    for number, item in enumerate(real(*arguments)):\n"
        "        yield item\n"
        "        if number == 50:\n"
        "            time.sleep(600)\n"
        "quantize.quantize_checkpoint = slow\n"
        "sys.exit(run(sys.argv[1:]))\n"
    )
    return [sys.executable, str(script), "quantize", "demo", *arguments]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_end_it_clean(tmp_path, number):
    target = tmp_path / "out" / "q"
    process = subprocess.Popen(
        slow(tmp_path, "-o", str(target)),
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    while process.poll() is None and not list(tmp_path.glob("out/q.partial-*/model.*")):
        pass
    process.send_signal(number)
    out, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, out) == (130, b""), err
    assert err == b"(interrupted)\n"
    assert not list((tmp_path / "out").iterdir())


def test_ctrl_c_on_a_terminal(tmp_path):
    target = tmp_path / "out" / "q"
    line = slow(tmp_path, "-o", str(target))
    child = pexpect.spawn(
        line[0], line[1:], env=environment(TERM="xterm"), timeout=PATIENCE, encoding="utf-8"
    )
    child.expect(r"quantizing demo ━+─+ +\d+%")
    while not list(tmp_path.glob("out/q.partial-*/model.*")):
        pass
    child.sendintr()
    child.expect(r"\(interrupted\)")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 130
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize(
    ("share", "seconds", "shown"),
    [
        (0.0, 0.0, "─" * 24 + "   0%"),
        (0.5, 1.0, "━" * 12 + "─" * 12 + "  50%"),
        (0.25, 30.0, "━" * 6 + "─" * 18 + "  25% · 1:30 left"),
        (1.0, 9.0, "━" * 24 + " 100%"),
    ],
)
def test_the_bar(share, seconds, shown):
    assert making.bar(share, seconds) == shown


# -- --quant ---------------------------------------------------------------------------------------

QUESTION = ("ask", "-m", "demo", "What is 345 + 78?", "--no-think", "--temp", "0")


def test_weights_are_made_once_on_the_way_to_an_answer(qwen35):
    code, out, err = qwen35(*QUESTION, "--quant", "int8")
    assert (code, out.endswith("345 + 78 = 423\n")) == (0, True)
    first, second = err.splitlines()
    assert first == "quantizing to int8, once … 5.48 MB"
    assert second.startswith("quantizing to int8, once … ")
    assert second.endswith(" s")
    assert qwen35(*QUESTION, "--quant", "int8") == (0, out, "")


def test_v_names_the_format_and_the_kernels(qwen35):
    _, _, err = qwen35(*QUESTION, "--quant", "int8", "-v", "--kernels", "reference")
    assert "demo int8 · cpu · reference kernels (plain torch)" in err


def test_an_install_without_compiled_kernels_says_so(qwen35, monkeypatch):
    monkeypatch.setattr("qwen35cli.kernels.cpu.Native.load", lambda: None)
    code, _, err = qwen35(*QUESTION, "--kernels", "cpu")
    assert code == 0
    assert err.startswith("warning: the C++ kernels were not built when qwen35 was installed")
    assert err.count("\n") == 2


def test_int8_keys_and_values(qwen35):
    code, out, err = qwen35(*QUESTION, "--kv-dtype", "int8", "--json")
    assert (code, err) == (0, "")
    answer = json.loads(out)
    assert (answer["kv_dtype"], answer["quant"]) == ("int8", "bf16")
    assert answer["answer"].endswith("345 + 78 = 423")


def test_a_large_checkpoint_is_not_quantized_unasked(qwen35, monkeypatch):
    for module in (stored, making):
        monkeypatch.setattr(module, "SMALL_BYTES", 1_000)
    code, out, err = qwen35(*QUESTION)
    assert (code, out) == (2, "")
    assert err == (
        "error: demo has no int4 weights yet, 0.0 GB made once from 0.0 GB\n"
        "hint: qwen35 quantize demo --format int4; -y makes them now, --quant bf16 runs without "
        "them\n"
    )
    code, out, err = qwen35(*QUESTION, "-y", "-q", "--json")
    assert (code, err, json.loads(out)["quant"]) == (0, "", "int4")


def test_a_quantized_folder_and_another_quant(qwen35, tmp_path):
    target = str(tmp_path / "q")
    qwen35("quantize", "demo", "-o", target)
    code, _, err = qwen35("ask", "-m", target, "--device", "cpu", "hi", "--quant", "int8")
    assert code == 2
    assert err.startswith(f"error: {target} is quantized already, as int4; --quant int8 needs")


def test_a_cut_file_is_said_with_the_command_that_makes_it_again(qwen35, tmp_path):
    target = tmp_path / "q"
    qwen35("quantize", "demo", "-o", str(target))
    os.truncate(target / "model.safetensors", 1_000_000)
    code, _, err = qwen35("ask", "-m", str(target), "--device", "cpu", "hi")
    assert code == 3
    assert "has 1,000,000 bytes, manifest.json says" in err
    assert f"hint: qwen35 quantize demo --format int4 -o {target} --force\n" in err
    code, out, _ = qwen35("quantize", "demo", "--format", "int4", "-o", str(target), "--force")
    assert (code, out) == (0, f"{target}\n")
    assert quantize.check_manifest(target)
