"""The command as a process: signals, streams that are closed or full, what is imported."""

import os
import shlex
import signal
import subprocess
import sys

import pytest

from tests import fakes
from tests.scripted import PATIENCE, command, environment


@pytest.fixture
def start():
    """Start a process; if it still runs at the end it is killed."""
    started = []

    def start(command):
        process = subprocess.Popen(
            command,
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_sigterm_stops_the_answer_and_keeps_it(tmp_path, start):
    process = start(command(tmp_path, [["begun", fakes.WAIT, "!", "never"]], "ask", "q"))
    assert process.stdout.read(5) == b"begun"
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, err) == (130, b"(interrupted)\n")
    assert out in (b"\n", b"!\n")  # the signal may come before the next token or after it


def test_a_second_ctrl_c_leaves_at_once(tmp_path, start):
    process = start(command(tmp_path, [["begun", fakes.STUCK, "never"]], "ask", "q"))
    assert process.stdout.read(5) == b"begun"
    while process.poll() is None:  # the model stands still, and reads no flag
        process.send_signal(signal.SIGINT)
        try:
            process.wait(0.2)
        except subprocess.TimeoutExpired:
            continue
    assert process.returncode == 130
    assert b"never" not in process.stdout.read()


def test_a_second_ctrl_c_leaves_the_part_beside_the_file(tmp_path):
    turns = [["begun", fakes.CTRL_C, fakes.CTRL_C, "never"]]
    path = tmp_path / "out" / "a"
    path.parent.mkdir()
    line = command(tmp_path, turns, "ask", "q", "-o", str(path))
    done = subprocess.run(line, env=environment(), capture_output=True, timeout=PATIENCE)
    assert done.returncode == 130
    assert done.stderr.decode() == f"the part so far is in {path}.partial\n"
    assert [entry.name for entry in path.parent.iterdir()] == ["a.partial"]
    assert (path.parent / "a.partial").read_text() == "begun"


LINES = [["line\n", "line\n"]]


def test_the_words_for_a_shell_are_written_as_an_answer_is():
    line = f"{sys.executable} -m qwen35cli --show-completion bash"
    script, full = (
        subprocess.run(
            ["bash", "-c", each],
            env=environment(),
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        for each in (line, f"{line} > /dev/full")
    )
    assert (script.returncode, script.stderr) == (0, "")
    assert script.stdout.startswith("_qwen35_completion()")
    assert full.returncode == 1
    assert full.stderr == "error: could not write the answer: No space left on device\n"


@pytest.mark.parametrize(
    ("redirection", "code", "out", "err"),
    [
        (
            ">&-",
            1,
            "",
            "error: stdout is closed, there is nowhere to write\n"
            "hint: end the command with > FILE\n",
        ),
        ("2>&-", 0, "line\nline\n\n", ""),
        ("<&-", 0, "line\nline\n\n", ""),
        (">/dev/full", 1, "", "error: could not write the answer: No space left on device\n"),
    ],
)
def test_streams_that_are_closed_or_full(tmp_path, redirection, code, out, err):
    line = shlex.join(command(tmp_path, LINES, "ask", "q"))
    done = subprocess.run(
        ["bash", "-c", f"{line} {redirection}"],
        env=environment(),
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=PATIENCE,
    )
    assert (done.returncode, done.stdout, done.stderr) == (code, out, err)


@pytest.mark.parametrize(("name", "sign"), [("stdout", ">>"), ("stderr", "2>>")])
def test_o_adds_to_the_file_that_a_stream_is(tmp_path, name, sign):
    log = tmp_path / "log"
    log.write_text("before\n")
    line = shlex.join(command(tmp_path, LINES, "ask", "q", "-o", f"/dev/{name}"))
    subprocess.run(
        ["bash", "-c", f"{line} {sign} {shlex.quote(str(log))}"],
        env=environment(),
        stdin=subprocess.DEVNULL,
        timeout=PATIENCE,
        check=True,
    )
    assert log.read_text() == "before\nline\nline\n\n"


@pytest.mark.parametrize(
    ("name", "sign"), [("/dev/fd/3", "3"), ("/proc/self/fd/3", "3"), ("/dev/stdout", "1")]
)
def test_o_writes_where_an_open_file_stands(tmp_path, name, sign):
    line = shlex.join(command(tmp_path, LINES, "ask", "q", "-o", name))
    subprocess.run(
        ["bash", "-c", f"{{ echo before >&{sign}; {line}; echo after >&{sign}; }} {sign}> log"],
        env=environment(),
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        timeout=PATIENCE,
        check=True,
    )
    assert (tmp_path / "log").read_text() == "before\nline\nline\n\nafter\n"


@pytest.mark.parametrize("merged", [False, True], ids=["stdout", "both-streams"])
def test_a_reader_that_went_away_ends_it_quietly(tmp_path, merged):
    read, write = os.pipe()
    os.close(read)  # as `| head` does, but before the first byte: no race
    done = subprocess.run(
        command(tmp_path, LINES, "ask", "q", "-v"),
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=write,
        stderr=write if merged else subprocess.PIPE,
        timeout=PATIENCE,
    )
    os.close(write)
    assert done.returncode == 141
    assert merged or b"Traceback" not in done.stderr
    assert merged or b"Exception" not in done.stderr


SLOW_IMPORTS = {"torch", "transformers", "PIL", "tokenizers", "numpy", "prompt_toolkit"}


@pytest.mark.parametrize(
    "arguments", [["--help"], ["ask", "--help"], ["quantize", "-h"], ["--version"], ["chta"]]
)
def test_help_imports_nothing_slow(arguments):
    program = (
        "import sys\n"
        "from qwen35cli.cli import run\n"
        f"run({arguments})\n"
        "loaded = {name.partition('.')[0] for name in sys.modules}\n"
        f"sys.exit(', '.join(loaded & {SLOW_IMPORTS}) or None)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment(), capture_output=True, timeout=PATIENCE
    )
    assert done.returncode == 0, done.stderr


def test_ctrl_c_anywhere_ends_with_its_code_and_no_trace(tmp_path):
    """While the status is cleared at the end, and in text that is executed, as that of a dataclass
    is: of that `python -m` keeps in mind that it was interrupted."""
    (tmp_path / "interrupted.py").write_text(
        "from qwen35cli.__main__ import main\n"
        "from qwen35cli.cli import terminal\n"
        "def again(self):\n"
        "    exec('raise KeyboardInterrupt')\n"
        "terminal.Terminal.clear_status = again\n"
        "main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "interrupted", "--version"],
        env=environment(),
        cwd=tmp_path,
        capture_output=True,
        timeout=PATIENCE,
    )
    assert (done.returncode, done.stderr) == (130, b"")


def test_the_module_runs_as_the_command_does():
    line = [sys.executable, "-m", "qwen35cli", "--version"]
    done = subprocess.run(line, env=environment(), capture_output=True, timeout=PATIENCE)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"qwen35 0.1.0\n", b"")


@pytest.mark.parametrize(
    ("name", "value"), [("HF_HUB_DOWNLOAD_TIMEOUT", "10s"), ("HF_ENDPOINT", "http://[::1")]
)
@pytest.mark.parametrize("arguments", ["ls", "pull me/it", "info me/it", "doctor"])
def test_a_variable_that_huggingface_hub_cannot_read_is_said(arguments, name, value):
    done = subprocess.run(
        [sys.executable, "-m", "qwen35cli", *arguments.split()],
        env=environment(**{name: value}),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: huggingface_hub cannot read one of its variables: ")
    assert name in done.stderr


SHOW_WAITING = """
import os, sys
from qwen35cli.__main__ import main
sys.argv = ["qwen35", "--version"]
try:
    main()
finally:
    print(os.environ.get("GOMP_SPINCOUNT"), "torch" in sys.modules)
"""


@pytest.mark.parametrize(
    ("variables", "spins"),
    [({}, "4000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, "None")],
)
def test_how_threads_wait_is_set_before_torch_is_there(variables, spins):
    kept = environment()
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        kept.pop(name, None)
    line = [sys.executable, "-c", SHOW_WAITING]
    done = subprocess.run(line, env=kept | variables, capture_output=True, timeout=PATIENCE)
    assert done.stdout.decode().split()[-2:] == [spins, "False"]
