"""`qwen35 ls`, `rm` and `info`: both streams, exit codes, what is asked, what is imported."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import pexpect
import pytest
from rich.cells import cell_len

from qwen35cli.app.sessions import Store
from qwen35cli.app.source import resolve
from qwen35cli.app.transcript import StoredTurn
from qwen35cli.cli import run
from qwen35cli.cli.words import size
from tests.hub_cache import ONE, TWO, add, contents
from tests.scripted import PATIENCE, environment, offered

HOSTILE = "\x1b]52;c;aGk=\x07 \x9b2J \u202e [/b] :smile: [link=x]y\r"
QWEN = "Qwen/Qwen3.5-4B"
DEMO = contents(resolve("demo").folder)


@pytest.fixture
def variables(tmp_path):
    return {
        "XDG_DATA_HOME": str(tmp_path / "data"),
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "XDG_STATE_HOME": str(tmp_path / "state"),
        "HF_HUB_CACHE": str(tmp_path / "hub"),
    }


@pytest.fixture
def hub(tmp_path):
    return tmp_path / "hub"


@pytest.fixture
def qwen35(capfdbinary, monkeypatch, variables, hub):
    """Run a call away from a terminal; exit code, stdout, stderr."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    for name in ("NO_COLOR", "FORCE_COLOR", "QWEN35_NO_HISTORY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(hub))

    def call(*arguments):
        with open(os.devnull) as null:  # noqa: PTH123
            monkeypatch.setattr("sys.stdin", null)
            code = run([*map(str, arguments)])
        out, err = capfdbinary.readouterr()
        return code, out.decode(), err.decode()

    return call


@pytest.fixture
def session(tmp_path):
    with Store(tmp_path / "data" / "qwen35" / "sessions") as store:
        made = store.new(QWEN, "int4", name="notes")
        turns = (StoredTurn(parts=("q",), answer="a", thinking=False, context_tokens=1_500),)
        return store.save(replace(made, turns=turns)).id


def state(tmp_path, name):
    path = tmp_path / "cache" / "qwen35" / "states" / f"{name}.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    head = (
        b'{"__metadata__":{"quant":"int4"},'
        b'"tokens":{"dtype":"I64","shape":[0],"data_offsets":[0,0]}}'
    )
    path.write_bytes(len(head).to_bytes(8, "little") + head)
    return path


def words(out):
    return [line.split() for line in out.splitlines()]


def harmless(text):
    return not any(
        (ord(c) < 32 and c != "\n") or 127 <= ord(c) < 160 or c == "\u202e" for c in text
    )


# -- ls --------------------------------------------------------------------------------------------


def test_nothing_is_kept(qwen35):
    assert qwen35("ls") == (0, "", "nothing is kept yet; qwen35 pull fetches a model\n")
    assert json.loads(qwen35("ls", "--json")[1]) == {"items": [], "bytes_by_kind": {}, "bytes": 0}


def test_the_list_and_its_sums(qwen35, hub, session, tmp_path):
    snapshot = add(hub, QWEN, DEMO)
    state(tmp_path, session)
    assert qwen35("quantize", "demo", "--format", "int8", "-q")[0] == 0
    code, out, err = qwen35("ls")
    assert (code, err) == (0, "")
    rows = words(out)
    assert rows[0] == ["name", "kind", "source", "format", "context", "size", "path"]
    nbytes = sum(map(len, DEMO.values()))
    assert rows[1] == [
        *(QWEN, "checkpoint", "Hugging", "Face", "bf16", "8,192"),
        *(*size(nbytes).split(), str(snapshot)),
    ]
    assert rows[2][:5] == ["demo:int8", "quantized", "demo", "int8", "8,192"]
    assert rows[3][:5] == ["notes", "session", QWEN, "int4", "1,500"]
    assert rows[4][:6] == ["state:notes", "state", "session", "notes", "int4", "0"]
    assert rows[5] == []
    assert rows[6] == ["checkpoints", *size(nbytes).split(), str(hub)]
    assert [row[0] for row in rows[6:]] == ["checkpoints", "quantized", "sessions", "saved", "in"]

    found = json.loads(qwen35("ls", "--json")[1])
    items = {item["name"]: item for item in found["items"]}
    assert list(items) == [QWEN, "demo:int8", "notes", "state:notes"]
    assert items[QWEN] | {"used": ""} == {
        "name": QWEN,
        "kind": "checkpoint",
        "source": "Hugging Face",
        "format": "bf16",
        "bytes": nbytes,
        "ctx": 8_192,
        "path": str(snapshot),
        "used": "",
        "fault": None,
        "unused": False,
        "pid": None,
        "revision": ONE,
        "verified": False,
    }
    assert found["bytes"] == sum(found["bytes_by_kind"].values())
    assert found["bytes"] == sum(item["bytes"] for item in found["items"])


def test_what_is_wrong_is_listed_and_the_hint_works(qwen35, hub, tmp_path):
    snapshot = add(hub, QWEN, DEMO)
    os.truncate(snapshot / "model.safetensors", 5_000_000)
    code, out, err = qwen35("ls")
    assert code == 0
    assert words(out)[1][4] == "unusable"
    assert err.startswith(f"warning: {QWEN} cannot be used: model.safetensors has 5,000,000 bytes")
    hint = err.splitlines()[1]
    assert hint.startswith(f"hint: qwen35 pull {QWEN} fetches what is missing, qwen35 rm ")
    command = hint.partition(", qwen35 ")[2].removesuffix(" removes it")
    assert qwen35(*command.split(), "-y")[:2] == (0, f"checkpoint {QWEN} · 5.14 MB\n")
    assert qwen35("ls")[1] == ""


@pytest.mark.parametrize("arguments", ["ls", "ls --json", "rm --cache --dry-run"])
def test_no_control_character_comes_through(qwen35, hub, tmp_path, session, arguments):
    path = tmp_path / "data" / "qwen35" / "sessions" / session / "session.json"
    raw = json.loads(path.read_text())
    raw["model"] = raw["quant"] = HOSTILE
    path.write_text(json.dumps(raw))
    state(tmp_path, HOSTILE.replace("/", "")).write_bytes(b"x")
    text = {"architectures": ["Qwen3_5ForConditionalGeneration"], HOSTILE: 1}
    add(hub, QWEN, DEMO | {"config.json": json.dumps(text).encode()})
    folder = tmp_path / "data" / "qwen35" / "quantized" / HOSTILE.replace("/", "") / "int8"
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text(json.dumps({"version": HOSTILE}))
    code, out, err = qwen35(*arguments.split())
    assert code == 0 and out
    assert harmless(out) and harmless(err)
    if arguments == "ls":
        assert "[b] :smile: [link=x]y" in out  # neither markup nor emoji is read


def test_weights_of_a_source_that_went_are_said_to_be_unused(qwen35, hub):
    add(hub, "me/tune", DEMO, ref="main")
    assert qwen35("quantize", "me/tune", "--format", "int8", "-q")[0] == 0
    code, out, err = qwen35("rm", "me/tune", "-y")
    assert (code, out) == (0, "checkpoint me/tune · 5.63 MB\n")
    assert err == (
        "5.63 MB freed\n"
        "me/tune:int8, made from me/tune, stays: qwen35 rm me/tune:int8 frees 3.88 MB\n"
    )
    code, out, err = qwen35("ls")
    assert words(out)[1][3:5] == ["int8,", "unused"]
    assert err.startswith("warning: me/tune:int8 is not used by itself: me/tune, of which it was")
    folder = err.partition("--model ")[2].partition(" runs")[0]
    assert qwen35("ask", "-m", folder, "--device", "cpu", "--dry-run", "Hi.")[0] == 0


# -- rm --------------------------------------------------------------------------------------------


def test_removing_needs_a_yes(qwen35, hub, session, tmp_path):
    add(hub, QWEN, DEMO)
    path = state(tmp_path, session)
    code, out, err = qwen35("rm", QWEN)
    assert (code, out) == (2, "")
    assert err.endswith("hint: -y removes without asking, --dry-run lists what would go\n")
    code, out, err = qwen35("rm", "notes", QWEN, "notes", "--dry-run")
    assert code == 0
    assert [line.split(" · ")[0] for line in out.splitlines()] == [
        f"checkpoint {QWEN}",
        "session notes",
        "state state:notes",
    ]
    total = json.loads(qwen35("ls", "--json")[1])["bytes"]
    assert err == f"{size(total)} would be freed; nothing was removed\n"
    assert path.exists()
    code, again, err = qwen35("rm", "notes", QWEN, "-y")
    assert (code, again, err) == (0, out, f"{size(total)} freed\n")
    assert json.loads(qwen35("ls", "--json")[1])["items"] == []


def test_no_variable_says_yes(qwen35, session, monkeypatch):
    monkeypatch.setenv("QWEN35_YES", "1")
    assert qwen35("rm", "notes")[0] == 2
    assert "notes" in qwen35("ls")[1]


def test_saved_state_alone(qwen35, session, tmp_path):
    nothing = "there is no saved state: nothing to remove\n"
    assert qwen35("rm", "--cache", "-y") == (0, "", nothing)
    path = state(tmp_path, session)
    line = f"state state:notes · {path.stat().st_size} bytes\n"
    assert qwen35("rm", "--cache", "-y")[:2] == (0, line)
    assert not path.exists()
    assert "notes" in qwen35("ls")[1]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "nothing is named that could go"),
        (["nots"], 2, "nothing is called 'nots'\nhint: did you mean notes?"),
        (["notes", "nothing", "-y"], 2, "nothing is called 'nothing'"),
        (["demo", "-y"], 2, "demo is a part of the program"),
        (["notes", "--cache", "-y"], 2, "notes has no saved state"),
    ],
)
def test_refusals_remove_nothing(qwen35, session, arguments, code, message):
    actual, out, err = qwen35("rm", *arguments)
    assert (actual, out) == (code, "")
    assert message in err
    assert "notes" in qwen35("ls")[1]


def test_what_is_open_elsewhere_stays(qwen35, session, tmp_path):
    with Store(tmp_path / "data" / "qwen35" / "sessions") as store:
        store.open("notes")
        code, out, err = qwen35("rm", "notes", "-y")
    assert (code, out) == (2, "")
    assert f"is open in another qwen35 (pid {os.getpid()})" in err
    assert "notes" in qwen35("ls")[1]


def test_one_of_two_revisions(qwen35, hub):
    add(hub, QWEN, DEMO)
    add(hub, QWEN, DEMO, TWO)
    code, out, err = qwen35("rm", QWEN, "-y")
    assert (code, out) == (2, "")
    assert f"stands for 2 things: {QWEN}@aaaaaaaaaaaa, {QWEN}@bbbbbbbbbbbb" in err
    code, out, err = qwen35("rm", f"{QWEN}@aaaaaaaaaaaa", "-y")
    assert (code, err) == (0, "0 bytes freed\n")
    assert qwen35("info", QWEN, "--revision", TWO)[0] == 0


# -- info ------------------------------------------------------------------------------------------


def test_a_checkpoint_in_words(qwen35):
    code, out, err = qwen35("info", "demo")
    assert (code, err) == (0, "")
    assert "layers        6: 4 DeltaNet, 2 attention; 128 wide, MLP 384\n" in out
    assert "context       8,192 tokens\n" in out
    rows = words(out)
    assert ["all", "140", "2,738,080", "5,476,448", "3,183,952"] in rows
    assert ["MLP", "18", "884,736", "1,769,472", "bf16", "int4-g32", "497,952"] in rows
    code, out, err = qwen35("info", "demo", "--json")
    assert (code, err, out.count("\n")) == (0, "", 1)
    found = json.loads(out)
    assert (found["model"], found["kind"], found["format"]) == (
        *("demo", "a part of the program", "bf16"),
    )
    assert found["bytes"] == sum(part["bytes"] for part in found["tensors"]) == 5_476_448
    assert found["quantized_bytes"]["int4"] == 3_183_952
    assert found["config"]["text_config"]["hidden_size"] == 128
    assert (found["manifest"], found["verified"], found["revision"]) == (None, None, None)


def test_quantized_weights_in_words(qwen35):
    qwen35("quantize", "demo", "--format", "int8", "-q")
    code, out, err = qwen35("info", "demo:int8")
    assert (code, err) == (0, "")
    assert "made from     demo\n" in out and "int8 lm_head.weight\n" in out
    found = json.loads(qwen35("info", "demo:int8", "--json")[1])
    for file in found["files"]:
        assert f"{file['sha256']}  {file['bytes']:>14,}  {file['name']}\n" in out
    assert found["manifest"]["source"] == "demo"
    assert "quantization_config" not in found["config"]
    assert found["quantized_bytes"] is None


def test_a_hostile_folder(qwen35, tmp_path):
    folder = tmp_path / HOSTILE.replace("/", "")
    folder.mkdir()
    for name, data in DEMO.items():
        (folder / name).write_bytes(data)
    (folder / f"LICENSE{HOSTILE.replace('/', '')}").write_text("x")
    raw = json.loads(DEMO["config.json"]) | {"extra": HOSTILE}
    (folder / "config.json").write_text(json.dumps(raw))
    for arguments in ([], ["--json"]):
        code, out, err = qwen35("info", folder, *arguments)
        assert (code, err) == (0, "")
        assert harmless(out)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nothing", "there is no model 'nothing'"),
        ("me/nothing", "me/nothing is not in the local Hugging Face cache"),
    ],
)
def test_what_is_not_there(qwen35, name, message):
    code, out, err = qwen35("info", name)
    assert (code, out) == (3, "")
    assert err.startswith(f"error: {message}") and err.count("\n") == 2


def test_what_is_not_there_to_verify_sends_nobody_to_the_demo(qwen35):
    code, out, err = qwen35("verify", "me/nothing")
    assert (code, out) == (3, "")
    assert err == (
        "error: me/nothing is not in the local Hugging Face cache\n"
        "hint: qwen35 pull me/nothing fetches it\n"
    )


# -- as a process ----------------------------------------------------------------------------------


def on_a_terminal(variables, *arguments, columns=80):
    return pexpect.spawn(
        sys.executable,
        ["-m", "qwen35cli", *arguments],
        env=environment(TERM="xterm", NO_COLOR="1", **variables),
        dimensions=(40, columns),
        timeout=PATIENCE,
        encoding="utf-8",
    )


@pytest.mark.parametrize(
    ("answer", "code", "goes"),
    [("y\r", 0, True), ("\r", 0, False), ("\x04", 0, False), ("\x03", 130, False)],
)
def test_a_terminal_is_asked(hub, variables, answer, code, goes):
    snapshot = add(hub, QWEN, DEMO)
    child = on_a_terminal(variables, "rm", QWEN)
    child.expect_exact(f"checkpoint {QWEN} · 5.63 MB")
    child.expect_exact("remove this, 5.63 MB? [y/N]")
    child.send(answer)
    child.expect_exact(" freed" if goes else "nothing was removed" if code == 0 else pexpect.EOF)
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == code
    assert snapshot.exists() != goes


@pytest.mark.parametrize(
    ("columns", "heads"),
    [
        (20, ["name"]),
        (32, ["name", "size"]),
        (60, ["name", "kind", "format", "context", "size"]),
        (90, ["name", "kind", "source", "format", "context", "size"]),
        (400, ["name", "kind", "source", "format", "context", "size", "path"]),
    ],
)
def test_the_list_fits_the_terminal(hub, session, variables, columns, heads):
    add(hub, QWEN, DEMO)
    add(hub, "me/a-fine-tune-with-a-long-name", DEMO)
    child = on_a_terminal(variables, "ls", columns=columns)
    lines = child.read().splitlines()
    child.close()
    assert child.exitstatus == 0
    assert lines[0].split() == heads
    assert max(map(cell_len, lines)) <= columns
    joined = "".join(line.split()[0] if line.split() else " " for line in lines)
    assert "me/a-fine-tune-with-a-long-name" in joined


SLOW_IMPORTS = {"torch", "transformers", "PIL", "tokenizers", "numpy", "prompt_toolkit"}


@pytest.mark.parametrize(
    "arguments",
    [
        ["ls", "-h"],
        ["rm", "-h"],
        ["info", "-h"],
        ["ls"],
        ["ls", "--json"],
        ["info", "demo"],
        ["info", QWEN, "--json"],
        ["rm", "notes", "--dry-run"],
        ["rm", "notes", QWEN, f"{QWEN}:unfinished", "launches", "-y"],
        ["rm", "--cache", "-y"],
    ],
    ids=" ".join,
)
def test_nothing_slow_is_imported_and_no_socket_is_opened(
    hub, session, tmp_path, variables, arguments
):
    add(hub, QWEN, DEMO)
    (hub / "models--Qwen--Qwen3.5-4B" / "blobs" / "x.part").write_bytes(b"x")
    state(tmp_path, session)
    (tmp_path / "cache" / "qwen35" / "launches.json").write_text("{}")
    program = (
        "import socket, sys\n"
        "def refuse(*_): raise RuntimeError('the network was asked')\n"
        "socket.socket.connect = socket.getaddrinfo = refuse\n"
        "from qwen35cli.cli import run\n"
        f"code = run({arguments})\n"
        "loaded = {name.partition('.')[0] for name in sys.modules}\n"
        f"sys.exit(', '.join(loaded & {SLOW_IMPORTS}) or code)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment(**variables),
        capture_output=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr


def test_the_shell_completes_names(hub, session, variables):
    add(hub, QWEN, DEMO)
    assert offered("qwen35 rm -y ", **variables) == [QWEN, "notes"]
