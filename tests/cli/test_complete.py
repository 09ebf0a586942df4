"""What a shell completes, through the variables and scripts by which it asks."""

import os
import shlex
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest
import typer

from qwen35cli.app.sessions import Store
from qwen35cli.app.transcript import StoredTurn
from qwen35cli.cli import app
from tests.scripted import PATIENCE, environment

SLOW = {"torch", "transformers", "PIL", "tokenizers", "numpy", "prompt_toolkit"}
PROGRAM = (
    "import sys\n"
    "from qwen35cli.cli import run\n"
    "try:\n"
    "    run([])\n"
    "finally:\n"
    "    loaded = {name.partition('.')[0] for name in sys.modules}\n"
    f"    assert not loaded & {SLOW}, loaded & {SLOW}\n"
)


@pytest.fixture
def home(tmp_path):
    """A home folder with models, a file of settings and nothing else."""
    for path, kind in (
        ("hub/models--Qwen--Qwen3.5-4B/snapshots/c0ffee", "qwen3_5"),
        ("hub/models--a--other/snapshots/1", "llama"),
        ("work/mine", "qwen3_5"),
        ("work/other", "llama"),
    ):
        (tmp_path / path).mkdir(parents=True)
        (tmp_path / path / "config.json").write_text(f'{{"model_type": "{kind}"}}')
    (tmp_path / "hub/models--Qwen--broken/snapshots/1").mkdir(parents=True)
    (tmp_path / "hub/models--Qwen--broken/snapshots/1/config.json").write_text("[")
    (tmp_path / "work/empty").mkdir()
    (tmp_path / "qwen35").mkdir()
    (tmp_path / "qwen35/config.toml").write_text("[presets.mine]\ntemp = 1\n[presets.more]\n")
    return tmp_path


def variables(home, **more):
    return environment(
        HF_HUB_CACHE=str(home / "hub"),
        XDG_CONFIG_HOME=str(home),
        XDG_DATA_HOME=str(home / "data"),
        **more,
    )


def offered(home, line):
    """What bash gets for a line that is not finished."""
    words = line.split(" ")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env=variables(
            home,
            _QWEN35_COMPLETE="complete_bash",
            COMP_WORDS="\n".join(words),
            COMP_CWORD=str(len(words) - 1),
        ),
        cwd=home / "work",
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        stdin=subprocess.DEVNULL,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.split()


def test_commands_flags_and_their_values(home):
    commands = typer.main.get_command(app).commands
    assert set(offered(home, "qwen35 ")) == set(commands) - {"bare"}
    assert offered(home, "qwen35 ask --te") == ["--temp"]
    assert offered(home, "qwen35 ask --quant i") == ["int8", "int4"]
    assert offered(home, "qwen35 chat --device ") == ["auto", "cpu", "cuda"]


def test_a_value_behind_an_equals_sign_that_bash_takes_apart(home):
    assert offered(home, "qwen35 ask --quant = i") == ["int8", "int4"]
    assert offered(home, "qwen35 ask --quant =") == ["bf16", "int8", "int4", "nf4"]
    assert offered(home, "qwen35 ask --model = ./m") == ["./mine"]
    assert offered(home, "qwen35 ask --quant = int4 --device = c") == ["cpu", "cuda"]
    assert offered(home, "qwen35 ask --quant = int4 --te") == ["--temp"]


def test_models(home):
    assert offered(home, "qwen35 ask --model ") == ["demo", "Qwen/Qwen3.5-4B", "mine"]
    assert offered(home, "qwen35 ask -m ./m") == ["./mine"]
    assert offered(home, "qwen35 vram -m Qwen/") == ["Qwen/Qwen3.5-4B"]
    assert offered(home, f"qwen35 ask -m {home}/work/") == [f"{home}/work/mine"]
    assert offered(home, "qwen35 ask -m /nowhere/") == []
    assert offered(home, "qwen35 ask -m ~nobody-there/") == []


def test_presets_of_the_card_and_of_files(home):
    assert offered(home, "qwen35 ask --preset ") == [
        *("general", "coding", "reasoning", "mine", "more"),
    ]
    assert offered(home, "qwen35 ask --preset m") == ["mine", "more"]
    (home / "qwen35/config.toml").write_text("broken")
    assert offered(home, "qwen35 ask --preset c") == ["coding"]


def test_sessions(home):
    with Store(home / "data/qwen35/sessions") as store:
        session = store.new("demo", "bf16", None, "thesis")
        turn = StoredTurn(parts=("q",), answer="a", thinking=False)
        id = store.save(replace(session, turns=(turn,))).id
    assert set(offered(home, "qwen35 chat --session ")) == {"thesis", "last", id}
    assert offered(home, "qwen35 ask --session th") == ["thesis"]


@pytest.mark.parametrize("command", ["pull", "verify", "quantize", "tune", "vram"])
def test_models_as_arguments(home, command):
    assert "Qwen/Qwen3.5-4B" in offered(home, f"qwen35 {command} ")


def test_settings_that_are_broken_do_not_matter(home):
    (home / "qwen35/config.toml").write_text("broken")
    assert offered(home, "qwen35 ask --quant b") == ["bf16"]
    assert offered(home, "qwen35 se") == ["sessions"]


def for_zsh(home, program, line):
    """The process that answers zsh for a line."""
    return subprocess.run(
        [sys.executable, "-c", program],
        env=variables(home, _QWEN35_COMPLETE="complete_zsh", _TYPER_COMPLETE_ARGS=line),
        cwd=home / "work",
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        stdin=subprocess.DEVNULL,
    )


@pytest.mark.parametrize(
    ("line", "first"),
    [
        ("qwen35 vr", '"vram":"Say how much memory a model needs, before it is loaded."'),
        ("qwen35 ask -m d", '"demo":"in the package"'),
    ],
)
def test_descriptions_for_zsh_import_no_rich(home, line, first):
    program = PROGRAM + "    assert not sys.modules['rich']\n"
    done = for_zsh(home, program, line)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"_arguments '*: :(({first}")


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_the_script_for_bash_does_it_in_bash(home):
    program = home / "bin/qwen35"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m qwen35cli "$@"\n')
    program.chmod(0o755)
    script = """
        eval "$(qwen35 --show-completion bash)"
        complete -p qwen35
        COMP_WORDS=(qwen35 ask --preset m) COMP_CWORD=3
        _qwen35_completion qwen35
        printf '<%s>\n' "${COMPREPLY[@]}"
    """
    path = f"{program.parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "--norc", "-c", script],
        env=variables(home, PATH=path, _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1"),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        stdin=subprocess.DEVNULL,
    )
    assert done.stderr == ""
    first, *rest = done.stdout.splitlines()
    assert "-F _qwen35_completion qwen35" in first
    assert rest == ["<mine>", "<more>"]


def test_it_can_be_installed(home):
    line = [sys.executable, "-m", "qwen35cli", "--install-completion", "fish"]
    done = subprocess.run(
        line,
        env=variables(home, HOME=str(home), _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1"),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    assert "qwen35" in (home / ".config/fish/completions/qwen35.fish").read_text()


@pytest.mark.skipif(shutil.which("zsh") is None, reason="no zsh")
@pytest.mark.parametrize("line", ["qwen35 ask --preset ", "qwen35 ask --session ", "qwen35 info "])
def test_zsh_runs_nothing_that_a_name_or_a_message_says(home, line):
    command = r"\$(touch run)"
    (home / "qwen35/config.toml").write_text(f"[presets.'{command}']\n[presets.mine]\n")
    (home / f"work/{command}").mkdir()
    (home / f"work/{command}/config.json").write_text('{"model_type": "qwen3_5"}')
    with Store(home / "data/qwen35/sessions") as store:
        session = store.new("demo", "bf16", None, "thesis")
        turn = StoredTurn(parts=(f"What does {command} do, or a \\",), answer="a", thinking=False)
        store.save(replace(session, turns=(turn,)))
    done = for_zsh(home, PROGRAM, line)
    # What zsh's _arguments does with the words between the double parentheses.
    script = """
        _arguments() { local action=${1#*: :}; eval "words=( ${action[3,-3]} )" }
        eval "$1" && print -l -- $words
    """
    shown = subprocess.run(
        ["zsh", "-f", "-c", script, "zsh", done.stdout],
        cwd=home / "work",
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        stdin=subprocess.DEVNULL,
    )
    assert (shown.stderr, list(home.rglob("run"))) == ("", [])
    assert {"mine:", "thesis:What does $(touch run) do, or a ", "mine:folder"} & {
        row.replace(str(home / "qwen35/config.toml"), "") for row in shown.stdout.splitlines()
    }


def test_a_name_that_needs_quotes_is_left_to_the_shell(home):
    for name in ("my own", 'a"b', "c*"):
        (home / "work" / name).mkdir()
        (home / "work" / name / "config.json").write_text('{"model_type": "qwen3_5"}')
    assert offered(home, "qwen35 info ") == ["demo", "Qwen/Qwen3.5-4B", "mine"]
