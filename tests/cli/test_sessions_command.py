"""`qwen35 sessions`: both streams, exit codes, what is asked, what is imported."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pexpect
import pytest
import typer
from rich.cells import cell_len

from qwen35cli.app import sessions as use_case
from qwen35cli.app.sessions import FILE, Store
from qwen35cli.app.transcript import StoredTurn
from qwen35cli.cli import run
from qwen35cli.cli.sessions import complete, nbytes
from qwen35cli.cli.words import ago
from tests.scripted import PATIENCE, environment
from tests.scripted import offered as shell_offers

HOSTILE = "\x1b]52;c;aGk=\x07 \x9b2J \u202e \ud800 [/b] :smile: [link=x]y\r"
NOW = datetime.now(UTC)


@pytest.fixture
def variables(tmp_path):
    return {
        "XDG_DATA_HOME": str(tmp_path / "data"),
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
    }


@pytest.fixture
def qwen35(capfdbinary, monkeypatch, variables):
    """Run `qwen35 sessions` away from a terminal; exit code, stdout, stderr."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)

    def call(*arguments):
        with open(os.devnull) as null:  # noqa: PTH123
            monkeypatch.setattr("sys.stdin", null)
            code = run(["sessions", *map(str, arguments)])
        out, err = capfdbinary.readouterr()
        return code, out.decode(), err.decode()

    return call


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "data" / "qwen35" / "sessions"


@pytest.fixture
def made(folder, monkeypatch):
    """Make a session that was used so many hours ago; its id."""

    def make(*texts, name=None, hours=0.0, system=None, **more):
        monkeypatch.setattr(use_case, "_now", lambda: datetime.now(UTC) - timedelta(hours=hours))
        with Store(folder) as store:
            session = store.new("Qwen/Qwen3.5-4B", "int4", system, name)
            turns = (
                StoredTurn(parts=(text,), answer="Hello.", thinking=True, **more) for text in texts
            )
            return store.save(replace(session, turns=tuple(turns))).id

    return make


def ids(folder):
    return {entry.id for entry in Store(folder).listing()}


def states(tmp_path, **ages):
    """Files with saved state of a MiB each, used so many days ago."""
    folder = tmp_path / "cache" / "qwen35" / "states"
    folder.mkdir(parents=True)
    for name, days in ages.items():
        path = folder / f"{name}.safetensors"
        path.write_bytes(bytes(2**20))
        used = (datetime.now(UTC) - timedelta(days=days)).timestamp()
        os.utime(path, (used, used))
    return folder


# -- looking ---------------------------------------------------------------------------------------


def test_the_list(qwen35, made):
    old = made("Why is\nthe sky blue?", hours=30)
    made("Hi.", "And?", name="notes", hours=3)
    code, out, err = qwen35("ls")
    assert (code, err) == (0, "")
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert lines[0] == "session used turns size model begins"
    assert lines[1].startswith("notes 3 h ago 2 ")
    assert lines[1].endswith(" bytes Qwen/Qwen3.5-4B int4 Hi.")
    assert lines[2].startswith(f"{old} 1 d ago 1 ")
    assert lines[2].endswith("Why is the sky blue?")
    found = json.loads(qwen35("ls", "--json")[1])
    assert [each["name"] for each in found["sessions"]] == ["notes", None]
    assert found["sessions"][1] | {"bytes": 0, "created": "", "updated": ""} == {
        "id": old,
        "name": None,
        "model": "Qwen/Qwen3.5-4B",
        "quant": "int4",
        "turns": 1,
        "title": "Why is the sky blue?",
        "created": "",
        "updated": "",
        "bytes": 0,
        "fault": None,
    }
    assert found["bytes"] == sum(each["bytes"] for each in found["sessions"])


def test_nothing_to_list(qwen35):
    assert qwen35("ls") == (0, "", "no session is saved yet; qwen35 chat begins one\n")
    assert json.loads(qwen35("ls", "--json")[1]) == {"sessions": [], "bytes": 0}


def test_a_damaged_one_is_listed_with_the_rest_and_the_hint_works(qwen35, made, folder):
    bad, good = made("q", hours=1), made("q")
    (folder / bad / FILE).write_text("{")
    code, out, err = qwen35("ls")
    assert code == 0
    assert good in out and "damaged" in next(line for line in out.splitlines() if bad in line)
    assert err.startswith(f"warning: session {bad} is damaged: it is not usable JSON")
    listed = json.loads(qwen35("ls", "--json")[1])["sessions"]
    assert {each["id"]: bool(each["fault"]) for each in listed} == {bad: True, good: False}
    code, out, err = qwen35("show", bad)
    assert (code, out) == (1, "")
    hint = err.splitlines()[1].removeprefix("hint: qwen35 sessions ").removesuffix(" removes it")
    code, out, _ = qwen35(*hint.split(), "-y")
    assert code == 0 and out.startswith(f"session {bad} · damaged · ")
    assert ids(folder) == {good}


def test_a_conversation_without_the_thinking(qwen35, made):
    id = made("Hi.", name="notes", hours=2, system="Be brief.", reasoning="hm", finish="length")
    code, out, err = qwen35("show", "last")
    assert (code, err) == (0, "")
    assert out == (
        f"{id} · notes · Qwen/Qwen3.5-4B int4 · 1 turn · used 2 h ago\n\n"
        "system:\nBe brief.\n\nuser:\nHi.\n\nassistant:\nHello.\n\n[length]\n"
    )
    code, out, err = qwen35("show", "notes", "--json")
    assert (code, err, out.count("\n")) == (0, "", 1)
    assert json.loads(out)["turns"][0]["reasoning"] == "hm"


@pytest.mark.parametrize(
    "arguments",
    [
        "ls",
        "ls --json",
        "show last",
        "show last --json",
        "export last",
        "export last --format json",
        "rm last --dry-run",
    ],
)
def test_no_control_character_comes_through(qwen35, made, folder, arguments):
    id = made(HOSTILE, system=HOSTILE, finish=HOSTILE, reasoning=HOSTILE)
    path = folder / id / FILE
    raw = json.loads(path.read_text())
    raw["model"] = raw["quant"] = HOSTILE
    path.write_text(json.dumps(raw))
    code, out, err = qwen35(*arguments.split())
    assert code == 0
    for text in (out, err):
        assert not any((ord(c) < 32 and c != "\n") or 127 <= ord(c) < 160 for c in text)
        assert "\u202e" not in text
    if arguments == "show last --json":
        assert json.loads(out)["turns"][0]["parts"] == [HOSTILE]  # and yet exact
    if arguments.startswith("show"):
        assert "[/b] :smile: [link=x]y" in out


def test_an_export_is_alone_on_stdout_or_whole_in_a_file(qwen35, made, tmp_path):
    made("Hi.", name="notes")
    code, out, err = qwen35("export", "notes")
    assert (code, err) == (0, "")
    assert out.startswith("# notes\n") and out.endswith("## Assistant\n\nHello.\n")
    assert qwen35("export", "notes", "-o", tmp_path / "n.md") == (0, "", "")
    assert (tmp_path / "n.md").read_text() == out
    code, out, err = qwen35("export", "notes", "--format", "json")
    assert (code, err) == (0, "")
    assert json.loads(out)["name"] == "notes"
    code, out, err = qwen35("export", "notes", "-o", tmp_path)
    assert (code, out) == (2, "")
    assert "is a folder" in err


def test_an_unknown_name_offers_the_nearest(qwen35, made):
    made("q", name="notes")
    for command in ("show", "export", "rm"):
        code, out, err = qwen35(command, "nots")
        assert (code, out) == (2, "")
        assert err == (
            "error: no session is called 'nots'\n"
            "hint: did you mean notes? qwen35 sessions ls lists them\n"
        )


# -- changing --------------------------------------------------------------------------------------


def test_a_new_name(qwen35, made):
    id = made("q")
    made("q", name="taken")
    assert qwen35("rename", id, "notes") == (0, "", f"session {id} is called notes now\n")
    code, _, err = qwen35("rename", "notes", "taken")
    assert code == 2 and "is called taken already" in err
    code, _, err = qwen35("rename", "notes", "../x")
    assert code == 2 and "cannot be the name" in err
    assert qwen35("show", "notes")[0] == 0


def test_removing_needs_a_yes(qwen35, made, folder):
    one, two = made("q", name="one"), made("q")
    code, out, err = qwen35("rm", "one")
    assert (code, out) == (2, "")
    assert err.endswith("hint: -y removes without asking, --dry-run lists what would go\n")
    code, out, err = qwen35("rm", "one", two, one, "--dry-run")
    assert code == 0
    assert sorted(line.split(" · ")[0] for line in out.splitlines()) == sorted(
        [f"session {one} one", f"session {two}"]
    )
    assert err.endswith(" would be freed; nothing was removed\n")
    assert ids(folder) == {one, two}
    code, out, err = qwen35("rm", "one", "-y")
    assert code == 0
    assert out.startswith(f"session {one} one · 1 turn · ")
    assert err.endswith(" bytes freed\n")
    assert ids(folder) == {two}


def test_saved_state_goes_with_its_session(qwen35, made, folder, tmp_path):
    one, two = made("q"), made("q")
    cache = states(tmp_path, **{one: 1, two: 1, "prompt-1": 1})
    with Store(folder) as store:
        store.open(one)
        assert qwen35("rm", one, "-y")[0] == 2
    assert len(list(cache.iterdir())) == 3
    code, out, err = qwen35("rm", one, "-y")
    assert code == 0
    assert [line.split(" · ")[0] for line in out.splitlines()] == [
        f"session {one}",
        f"state {one}.safetensors",
    ]
    assert err == "1.0 MiB freed\n"
    assert {path.stem for path in cache.iterdir()} == {two, "prompt-1"}


def test_no_variable_says_yes(qwen35, made, folder, monkeypatch):
    id = made("q")
    monkeypatch.setenv("QWEN35_YES", "1")
    assert qwen35("rm", id)[0] == 2
    assert ids(folder) == {id}


def test_one_unknown_name_and_nothing_is_removed(qwen35, made, folder):
    id = made("q", name="notes")
    assert qwen35("rm", "notes", "more", "-y")[0] == 2
    assert ids(folder) == {id}


def test_what_is_open_elsewhere_is_not_removed(qwen35, made, folder):
    id = made("q", name="notes")
    with Store(folder) as store:
        store.open("notes")
        code, out, err = qwen35("rm", "notes", "-y")
        assert (code, out) == (2, "")
        assert f"is open in another qwen35 (pid {os.getpid()})" in err
    assert ids(folder) == {id}


def test_state_goes_before_conversations(qwen35, made, folder, tmp_path):
    cache = states(tmp_path, old=3, new=1)
    first, second = made("q" * 2**20, hours=2), made("q" * 2**20, hours=1)
    code, out, err = qwen35("prune")
    assert (code, out) == (0, "")
    assert err == "4.0 MiB are kept, 16.00 GiB may be: nothing to remove\n"
    code, out, _ = qwen35("prune", "--keep", "3.5M", "--dry-run")
    assert (code, out) == (0, "state old.safetensors · 1.0 MiB\n")
    assert qwen35("prune", "--keep", "3.5M")[0] == 2
    code, out, err = qwen35("prune", "--keep", "3.5M", "-y")
    assert (code, out) == (0, "state old.safetensors · 1.0 MiB\n")
    assert err == "1.0 MiB freed\n"
    assert [path.name for path in cache.iterdir()] == ["new.safetensors"]
    code, out, _ = qwen35("prune", "--keep", "0", "-y")
    assert code == 0
    assert [line.split(" · ")[0] for line in out.splitlines()] == [
        "state new.safetensors",
        f"session {first}",
    ]
    assert ids(folder) == {second}


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("2G", 2**31),
        ("2gb", 2**31),
        (" 2 GiB ", 2**31),
        ("1.5k", 1536),
        ("3T", 3 * 2**40),
    ],
)
def test_sizes(text, size):
    assert nbytes(text) == size


@pytest.mark.parametrize("text", ["", "2", "G", "-1G", "2X", "1e3G", "2 G B", "9999999G", "٣G"])
def test_what_is_no_size(text):
    with pytest.raises(typer.BadParameter, match="is not a size"):
        nbytes(text)


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (-30, "just now"),
        (0, "just now"),
        (59.9, "just now"),
        (60, "1 min ago"),
        (3_599, "59 min ago"),
        (3_600, "1 h ago"),
        (86_399, "23 h ago"),
        (86_400, "1 d ago"),
        (30 * 86_400 - 1, "29 d ago"),
    ],
)
def test_ages(seconds, said):
    assert ago(NOW - timedelta(seconds=seconds), NOW) == said


@pytest.mark.parametrize("seconds", [30 * 86_400, 10**9, -3_600])
def test_what_is_long_ago_or_to_come_is_a_date(seconds):
    then = NOW - timedelta(seconds=seconds)
    assert ago(then, NOW) == f"{then.astimezone():%Y-%m-%d}"


# -- as a process ----------------------------------------------------------------------------------


def on_a_terminal(variables, *arguments, columns=80):
    return pexpect.spawn(
        sys.executable,
        ["-m", "qwen35cli", "sessions", *arguments],
        env=environment(TERM="xterm", NO_COLOR="1", **variables),
        dimensions=(40, columns),
        timeout=PATIENCE,
        encoding="utf-8",
    )


@pytest.mark.parametrize(
    ("answer", "code", "goes"),
    [
        ("y\r", 0, True),
        ("YES\r", 0, True),
        ("n\r", 0, False),
        ("\r", 0, False),
        ("yo\r", 0, False),
        ("\x04", 0, False),  # Ctrl-D
        ("\x03", 130, False),  # Ctrl-C
    ],
)
def test_a_terminal_is_asked(made, folder, variables, answer, code, goes):
    id = made("q", name="notes")
    child = on_a_terminal(variables, "rm", "notes")
    child.expect_exact(f"session {id} notes · 1 turn · ")
    child.expect(r"remove this, [\d,]+ bytes\? \[y/N\]")
    child.send(answer)
    child.expect_exact(" freed" if goes else "nothing was removed" if code == 0 else pexpect.EOF)
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == code
    assert ids(folder) == (set() if goes else {id})


@pytest.mark.parametrize(
    ("columns", "heads"),
    [
        (20, ["session"]),
        (30, ["session", "used"]),
        (50, ["session", "used", "turns", "size"]),
        (70, ["session", "used", "turns", "size", "begins"]),
        (110, ["session", "used", "turns", "size", "begins"]),
        (140, ["session", "used", "turns", "size", "model", "begins"]),
    ],
)
def test_the_list_fits_the_terminal(made, variables, columns, heads):
    id = made("Why is the sky blue, and why not green? 空はなぜ青いのですか " + "x" * 99, hours=3)
    made("q", name="n" * 64)
    child = on_a_terminal(variables, "ls", columns=columns)
    lines = child.read().splitlines()
    child.close()
    assert child.exitstatus == 0
    assert lines[0].split() == heads
    assert max(map(cell_len, lines)) <= columns
    assert sum(line.count("n") for line in lines[1:] if set(line.split()[0]) == {"n"}) >= 64
    row = next(line for line in lines if line.startswith(id))
    assert ("3 h ago" in row) == ("used" in heads)
    assert ("Why is the sky" in row and row.endswith("…")) == ("begins" in heads)


SLOW_IMPORTS = {"torch", "transformers", "PIL", "tokenizers", "numpy", "prompt_toolkit"}


@pytest.mark.parametrize(
    "arguments",
    [
        ["-h"],
        ["ls"],
        ["ls", "--json"],
        ["show", "last"],
        ["export", "last"],
        ["rename", "last", "notes"],
        ["rm", "last", "-y"],
        ["prune", "--keep", "0", "-y"],
    ],
    ids=" ".join,
)
def test_nothing_slow_is_imported(made, variables, arguments):
    made("q", hours=1)
    made("q")
    program = (
        "import sys\n"
        "from qwen35cli.cli import run\n"
        f"code = run({['sessions', *arguments]})\n"
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


@pytest.mark.parametrize(
    ("words", "offered"),
    [("show n", ["notes"]), ("rm -y last", ["last"]), ("rename ", ["ID", "last", "notes"])],
)
def test_the_shell_completes_names(made, folder, variables, words, offered):
    id = made(HOSTILE, name="notes")
    found = shell_offers(f"qwen35 sessions {words}", **variables)
    assert sorted(found) == sorted(each.replace("ID", id) for each in offered)


def test_completion_is_silent_where_there_is_nothing_to_read(qwen35, folder):
    assert complete("") == []
    folder.parent.mkdir(parents=True)
    folder.touch()
    assert complete("") == []
    assert qwen35("ls")[0] == 1
