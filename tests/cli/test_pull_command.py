"""`qwen35 pull`, `verify` and the first run: the whole program against a Hub on this machine."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pexpect
import pytest

from qwen35cli.cli import run
from tests.hub_server import COMMIT, REPO, etag, point_at, serving
from tests.scripted import PATIENCE, environment

NO_TOKEN = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")


@pytest.fixture
def files(checkpoint):
    """A checkpoint that answers, as files of a repository."""
    return {path.name: path.read_bytes() for path in Path(checkpoint).iterdir()}


@pytest.fixture
def hub(files):
    with serving(files | {"README.md": b"# Read me"}) as hub:
        yield hub


@pytest.fixture
def variables(hub, tmp_path):
    plain = {name: value for name, value in environment().items() if name not in NO_TOKEN}
    return plain | {
        "HF_ENDPOINT": hub.endpoint,
        "HF_HOME": str(tmp_path / "hf"),
        "XDG_DATA_HOME": str(tmp_path / "data"),
        "XDG_CACHE_HOME": str(tmp_path / "xdg"),
        "HOME": str(tmp_path),
    }


@pytest.fixture
def qwen35(hub, tmp_path, monkeypatch, capsys):
    """Carry out a call here, as in a pipe; what ended it."""
    point_at(hub, tmp_path / "hf" / "hub", monkeypatch)
    for name in ("XDG_DATA_HOME", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.setenv(name, str(tmp_path))

    def call(*arguments):
        with Path(os.devnull).open() as nothing, monkeypatch.context() as patch:
            patch.setattr(sys, "stdin", nothing)
            code = run(arguments)
        return subprocess.CompletedProcess(arguments, code, *capsys.readouterr())

    return call


@pytest.fixture
def process(variables):
    """Run a call in a pipe and in a process of its own, as for variables read at its start."""

    def call(*arguments, **more):
        return subprocess.run(
            [sys.executable, "-m", "qwen35cli", *arguments],
            env=variables | more,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
        )

    return call


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "hf" / "hub" / "models--owner--name" / "snapshots" / COMMIT


@pytest.fixture
def on_a_terminal(variables):
    children = []

    def spawn(*arguments, **more):
        child = pexpect.spawn(
            sys.executable,
            ["-m", "qwen35cli", *arguments],
            env=variables | {"TERM": "xterm"} | more,
            encoding="utf-8",
            timeout=PATIENCE,
            dimensions=(24, 120),
        )
        children.append(child)
        return child

    yield spawn
    for child in children:
        child.close(force=True)


def ended(child):
    child.expect(pexpect.EOF)
    child.wait()
    return child.exitstatus


# -- pull ------------------------------------------------------------------------------------------


def test_the_last_line_of_stdout_is_the_folder_alone(qwen35, folder, files):
    done = qwen35("pull", REPO)
    assert (done.returncode, done.stdout) == (0, f"{folder}\n")
    start, end = done.stderr.splitlines()
    assert start.startswith(f"downloading {REPO} c0ffee0: {len(files)} files, ")
    assert start.endswith("to ~/hf/hub (shared)")
    assert end.endswith(f"the hashes of all {len(files)} files are right")
    assert {path.name for path in folder.iterdir()} == files.keys()
    again = qwen35("pull", REPO, "-q", "--offline")
    assert (again.returncode, again.stdout, again.stderr) == (0, f"{folder}\n", "")


def test_what_was_pulled_answers(qwen35, hub):
    assert qwen35("pull", REPO).returncode == 0
    hub.asked.clear()
    answer = ("ask", "-m", REPO, "--device", "cpu", "--max-tokens", "2", "--no-think", "Hi")
    done = qwen35(*answer)
    assert done.returncode == 0, done.stderr
    assert not hub.asked


def test_a_dry_run_lists_and_writes_nothing(qwen35, hub, tmp_path):
    done = qwen35("pull", REPO, "--dry-run")
    assert done.returncode == 0
    rows = {line.split()[0]: line for line in done.stdout.splitlines()}
    assert rows["config.json"].endswith("to download")
    assert "README.md" not in rows
    assert "MB to download, and 10% more; " in done.stderr
    assert not (tmp_path / "hf").exists()
    assert {asked.path.partition("/")[2][:10] for asked in hub.asked} == {"api/models"}


def test_quantized_weights_are_made_too(qwen35):
    done = qwen35("pull", REPO, "--quant", "int8")
    assert done.returncode == 0, done.stderr
    made = Path(done.stdout.splitlines()[-1])
    assert json.loads((made / "manifest.json").read_text())["format"] == "int8"
    verified = qwen35("verify", REPO, "--json")
    paths = [each["path"] for each in json.loads(verified.stdout)["files"]]
    assert str(made / "model.safetensors") in paths
    (made / "config.json").write_text("{}")
    changed = qwen35("verify", REPO)
    assert changed.returncode == 3
    assert "hint: qwen35 quantize owner/name --format int8" in changed.stderr


@pytest.mark.parametrize("command", ["pull", "verify"])
def test_neither_imports_torch(variables, command):
    program = (
        "import sys\n"
        "from qwen35cli.cli import run\n"
        f"code = run(['pull', '{REPO}', '-q']) or run(['{command}', '{REPO}', '-q'])\n"
        "loaded = {name.partition('.')[0] for name in sys.modules}\n"
        "slow = loaded & {'torch', 'transformers', 'PIL', 'tokenizers', 'numpy'}\n"
        "sys.exit(', '.join(slow) or code)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env=variables, capture_output=True, timeout=PATIENCE
    )
    assert done.returncode == 0, done.stderr


def test_offline_opens_no_socket(qwen35, process, hub):
    done = qwen35("pull", REPO, "--offline")
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr == (
        "error: owner/name is not in the cache and --offline is set\n"
        "hint: qwen35 pull owner/name without it\n"
    )
    done = process("pull", REPO, HF_HUB_OFFLINE="1")
    assert "HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE is set" in done.stderr
    assert not hub.asked


def test_a_mirror_is_warned_of_and_hashed_all_the_same(process, hub):
    hub.fail("storage:", change=lambda data: b"!" + data[1:], times=2)
    done = process("pull", REPO, HF_TOKEN="hf_secret")
    first, hint, *_ = done.stderr.splitlines()
    assert first == (
        f"warning: your Hugging Face token goes to {hub.endpoint}, which HF_ENDPOINT names"
    )
    assert "HF_HUB_DISABLE_IMPLICIT_TOKEN=1" in hint
    assert done.returncode == 3
    assert "wrong content twice" in done.stderr
    assert "hf_secret" not in done.stderr + done.stdout
    silent = process("pull", REPO, HF_TOKEN="hf_secret", HF_HUB_DISABLE_IMPLICIT_TOKEN="1")
    assert "token" not in silent.stderr


def test_a_proxy_is_used(process, hub):
    """The proxy is the Hub's own server, which sees the whole address."""
    done = process(
        "pull", REPO, HF_ENDPOINT="http://hub.invalid", HTTP_PROXY=hub.endpoint, NO_PROXY=""
    )
    assert done.returncode == 3
    assert hub.asked[0].path.startswith("http://hub.invalid/api/models/owner/name")


def test_a_cache_that_cannot_be_written_is_an_error(process, tmp_path):
    (tmp_path / "file").touch()
    done = process("pull", REPO, HF_HUB_CACHE=str(tmp_path / "file" / "hub"))
    assert done.returncode == 1
    assert done.stderr.splitlines()[-2].startswith(f"error: could not write {tmp_path}/file/hub/")
    assert done.stderr.splitlines()[-1] == "hint: HF_HUB_CACHE=DIR names another folder"


def test_a_full_disk_is_exit_5_and_is_gone_on_from(variables, qwen35, tmp_path, files):
    limit = "import resource, sys, qwen35cli.cli as cli\n" + (
        "resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, resource.RLIM_INFINITY))\n"
        f"sys.exit(cli.run(['pull', '{REPO}']))\n"
    )
    done = subprocess.run(
        [sys.executable, "-B", "-c", limit], env=variables, capture_output=True, text=True
    )
    assert done.returncode == 5
    assert "is full: File too large" in done.stderr
    blobs = tmp_path / "hf" / "hub" / "models--owner--name" / "blobs"
    part = blobs / f"{etag('model.safetensors', files['model.safetensors'])}.part"
    assert part.stat().st_size == 60_000
    assert qwen35("pull", REPO).returncode == 0


@pytest.mark.parametrize("name", ["nonsense", "a/b/c", "../..", "owner/na--me"])
def test_names_that_are_no_models(qwen35, hub, name):
    done = qwen35("pull", name)
    assert (done.returncode, done.stdout) == (3, "")
    assert not hub.asked


@pytest.mark.parametrize("model", ["demo"])
def test_what_is_here_anyway_gives_its_folder(qwen35, hub, model):
    done = qwen35("pull", model)
    assert done.returncode == 0
    assert (Path(done.stdout.strip()) / "config.json").is_file()
    assert not hub.asked


@pytest.mark.parametrize(("name", "hint"), [("9B", "did you mean Qwen/Qwen3.5-9B?"), ("", "demo,")])
def test_a_name_that_is_none_has_a_hint(qwen35, hub, name, hint):
    done = qwen35("pull", name)
    assert done.returncode == 3
    assert done.stderr.splitlines()[1].startswith(f"hint: {hint}")


def test_what_another_program_left_wrong_is_not_quantized(qwen35, folder, tmp_path):
    qwen35("pull", REPO)
    shutil.rmtree(folder.parents[1] / "qwen35")
    data = bytearray((folder / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (folder / "model.safetensors").write_bytes(data)
    done = qwen35("quantize", REPO, "--format", "int8")
    assert done.returncode == 3
    assert "model.safetensors is not what it was: its hash is " in done.stderr
    assert done.stderr.splitlines()[-1] == f"hint: qwen35 pull {REPO} --revision {COMMIT}"
    assert not [*tmp_path.glob("data/**/*.safetensors")]


# -- interruptions ---------------------------------------------------------------------------------


def begun(variables, tmp_path, files, *arguments):
    """A pull that is in the middle of the weights."""
    process = subprocess.Popen(
        [sys.executable, "-m", "qwen35cli", "pull", REPO, *arguments],
        env=variables,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    blobs = tmp_path / "hf" / "hub" / "models--owner--name" / "blobs"
    part = blobs / f"{etag('model.safetensors', files['model.safetensors'])}.part"
    end = time.monotonic() + PATIENCE
    while not (part.exists() and part.stat().st_size > 20_000):
        assert time.monotonic() < end and process.poll() is None, process.stderr.read()
        time.sleep(0.01)
    return process, part


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGKILL, -9), (signal.SIGINT, 130), (signal.SIGTERM, 130)]
)
def test_a_killed_pull_goes_on(variables, qwen35, hub, tmp_path, files, folder, number, code):
    hub.delay = 0.01
    process, part = begun(variables, tmp_path, files)
    process.send_signal(number)
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == code
    if code == 130:
        assert "are here, the same command goes on)" in err.splitlines()[-1]
    there = part.stat().st_size
    assert there > 20_000
    assert not folder.exists()
    hub.asked.clear()
    hub.delay = 0.0
    done = qwen35("pull", REPO)
    assert (done.returncode, done.stdout) == (0, f"{folder}\n")
    assert "of it here already" in done.stderr
    asked = [each for each in hub.gets("/xet/") if "range" in each.headers]
    assert [each.headers["range"] for each in asked] == [f"bytes={there}-"]
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == files
    assert not hub.gets("/tree/")  # the listing was kept
    assert not [*part.parent.glob("*.part*")]


def test_two_at_once_share_one_download(variables, hub, tmp_path, files, folder):
    hub.delay = 0.03  # the first is not to end before the second begins
    first, _ = begun(variables, tmp_path, files)
    second, _ = begun(variables, tmp_path, files)
    results = [process.communicate(timeout=PATIENCE) for process in (first, second)]
    assert [process.returncode for process in (first, second)] == [0, 0], results
    assert [out for out, _ in results] == [f"{folder}\n"] * 2
    assert "is downloading or removing owner/name; waiting for it" in results[1][1]
    weights = etag("model.safetensors", files["model.safetensors"])
    assert len(hub.gets(weights)) == 1


def test_who_waits_takes_over_from_who_is_killed(variables, hub, tmp_path, files, folder):
    hub.delay = 0.01
    first, _ = begun(variables, tmp_path, files)
    second, _ = begun(variables, tmp_path, files)
    time.sleep(0.5)
    first.kill()
    first.communicate()
    out, _ = second.communicate(timeout=PATIENCE)
    assert (second.returncode, out) == (0, f"{folder}\n")
    asked = hub.gets(etag("model.safetensors", files["model.safetensors"]))
    assert ["range" in each.headers for each in asked] == [False, True]


def test_hugging_faces_own_download_waits_for_ours(variables, hub, tmp_path, files):
    hub.delay = 0.01
    process, _ = begun(variables, tmp_path, files)
    program = (
        "from huggingface_hub import hf_hub_download\n"
        f"print(open(hf_hub_download('{REPO}', 'model.safetensors'), 'rb').read(8))\n"
    )
    theirs = subprocess.run(
        [sys.executable, "-c", program], env=variables, capture_output=True, text=True
    )
    assert theirs.stdout == f"{files['model.safetensors'][:8]}\n", theirs.stderr
    process.communicate(timeout=PATIENCE)
    assert process.returncode == 0
    asked = hub.gets(f"/xet/{etag('model.safetensors', files['model.safetensors'])}")
    assert len(asked) == 1


# -- on a terminal ---------------------------------------------------------------------------------


def test_progress_is_for_terminals(on_a_terminal, hub):
    hub.delay = 0.01
    child = on_a_terminal("pull", REPO)
    child.expect(r"model.safetensors")
    child.expect(r"all files; resumes if stopped")
    assert ended(child) == 0


def test_no_bars_where_they_are_switched_off(on_a_terminal, hub):
    child = on_a_terminal("pull", REPO, HF_HUB_DISABLE_PROGRESS_BARS="1")
    assert ended(child) == 0
    assert "━" not in child.before


@pytest.mark.parametrize(("answer", "code"), [("n", 3), ("y", 0)])
def test_a_token_for_another_host_is_asked_about(on_a_terminal, hub, answer, code):
    child = on_a_terminal("pull", REPO, HF_TOKEN="hf_secret")
    child.expect_exact("go on? [Y/n]")
    assert not hub.asked
    child.sendline(answer)
    assert ended(child) == code
    assert bool(hub.asked) is (code == 0)


def test_ctrl_c_on_a_terminal_keeps_the_part(on_a_terminal, hub, tmp_path):
    hub.delay = 0.05
    child = on_a_terminal("pull", REPO)
    child.expect("model.safetensors")  # which takes long; the others end before the key arrives
    child.expect("resumes if stopped")
    child.sendintr()
    assert ended(child) == 130
    assert "(interrupted; " in child.before
    assert [*tmp_path.rglob("*.part")]


# -- verify ----------------------------------------------------------------------------------------


def test_verify_names_the_file_and_the_command(qwen35, folder):
    qwen35("pull", REPO)
    right = qwen35("verify", REPO)
    assert right.returncode == 0
    assert all(line.startswith("ok ") for line in right.stdout.splitlines())
    assert right.stderr.endswith(": every hash is right\n")
    data = bytearray((folder / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (folder / "model.safetensors").write_bytes(data)
    wrong = qwen35("verify", REPO)
    assert wrong.returncode == 3
    [line] = [line for line in wrong.stdout.splitlines() if line.startswith("CHANGED")]
    assert "model.safetensors" in line
    assert wrong.stderr.splitlines()[-1] == f"hint: qwen35 pull {REPO} --revision {COMMIT}"
    refused = qwen35("ask", "-m", REPO, "--device", "cpu", "Hi")
    assert refused.returncode == 3
    assert "does not have the content that was published" in refused.stderr
    assert qwen35("pull", REPO, "--revision", COMMIT).returncode == 0
    told = qwen35("verify", REPO, "--json")
    assert json.loads(told.stdout)["ok"] is True


# -- first run -------------------------------------------------------------------------------------

ASK = ("-m", REPO, "--device", "cpu", "--max-tokens", "2", "--no-think")


@pytest.mark.parametrize("command", ["ask", "chat"])
def test_in_a_pipe_the_command_to_type_is_named(qwen35, hub, command):
    done = qwen35(command, *ASK, "Hi")
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr == (
        "error: owner/name is not on this machine\n"
        "hint: qwen35 pull owner/name; -y downloads it now; --model demo runs at once\n"
    )
    assert not hub.asked


def test_the_default_model_is_refused_with_its_size(qwen35, hub):
    done = qwen35("ask", "--device", "cpu", "Hi")
    assert done.returncode == 3
    assert done.stderr.startswith(
        "error: Qwen/Qwen3.5-4B is not on this machine, 9.34 GB to download\n"
        "hint: qwen35 pull Qwen/Qwen3.5-4B; "
    )
    assert not hub.asked


def test_yes_downloads_in_a_pipe(qwen35, hub):
    done = qwen35("ask", *ASK, "-y", "Hi")
    assert done.returncode == 0, done.stderr
    assert "downloading owner/name" in done.stderr
    assert "downloading" not in done.stdout


def test_offline_does_not_ask(qwen35, hub):
    done = qwen35("ask", *ASK, "-y", "--offline", "Hi")
    assert done.returncode == 3
    assert "not in the cache and --offline is set" in done.stderr
    assert not hub.asked


def test_a_terminal_is_asked_once_with_sizes_and_place(on_a_terminal, qwen35, hub):
    child = on_a_terminal("ask", *ASK, "Hi")
    child.expect(r"owner/name is not on this machine yet")
    child.expect(r"download [\d.]+ .?[Bb]\w* to ~/hf/hub\? \[Y/n\]")
    assert not hub.gets("/resolve/")
    child.sendline("")
    assert ended(child) == 0
    assert qwen35("ask", *ASK, "Hi").returncode == 0


@pytest.mark.parametrize(("said", "code"), [("n\r", 3), ("\x03", 130)])
def test_no_is_no(on_a_terminal, hub, said, code):
    child = on_a_terminal("ask", *ASK, "Hi")
    child.expect_exact("[Y/n]")
    child.send(said)
    assert ended(child) == code
    assert not hub.gets("/resolve/")


def test_keys_pressed_before_the_question_are_no_answer(on_a_terminal, hub):
    child = on_a_terminal("ask", *ASK, "Hi")
    child.send("y\ry\r")
    child.expect_exact("[Y/n]")
    child.send("n\r")
    assert ended(child) == 3
    assert not hub.gets("/resolve/")


def test_without_input_nobody_is_asked(on_a_terminal, hub):
    child = on_a_terminal("ask", *ASK, "--no-input", "Hi")
    assert ended(child) == 3
    assert "[Y/n]" not in child.before


def test_what_would_not_run_is_said_before_the_download(qwen35, hub):
    more = ("-m", "Qwen/Qwen3.5-9B", "--ctx", "1010000", "--device", "cpu")
    done = qwen35("ask", *more, "-y", "Hi")
    assert done.returncode == 2
    assert "a context of 1,010,000 tokens is more than the model's 262,144" in done.stderr
    assert not hub.asked


def test_a_machine_without_a_gpu_is_told_before_the_download(qwen35, hub, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    done = qwen35("ask", "-m", REPO, "-y", "Hi")
    assert done.returncode == 4
    assert "no usable GPU" in done.stderr
    assert not hub.asked


assert os.name == "posix"  # pseudo-terminals and signals
