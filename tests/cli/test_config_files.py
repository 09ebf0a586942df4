"""Files of settings: what is stronger than what, and what is refused, with file and line."""

import json
import os
import re
import subprocess
import time
from operator import attrgetter
from pathlib import Path
from unittest.mock import Mock

import pytest
import typer

from qwen35cli.app import toml_file
from qwen35cli.cli import app, ask, config, flags, options, run, values
from qwen35cli.cli.adjust import Adjustable
from qwen35cli.cli.terminal import Terminal
from qwen35cli.engine.sampling import PRESET_NAMES, Sampling
from qwen35cli.errors import UsageError
from tests.scripted import PATIENCE, command, environment

EXAMPLE = Path(__file__).parents[2] / "config.example.toml"


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """Folders for the system's, the user's and the project's file, and none of our variables."""
    for name in os.environ:
        if name.startswith("QWEN35_"):
            monkeypatch.delenv(name)
    for name in ("system", "user", "project"):
        (tmp_path / name / "qwen35").mkdir(parents=True)
    monkeypatch.setenv("XDG_CONFIG_DIRS", str(tmp_path / "system"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "user"))
    monkeypatch.chdir(tmp_path / "project")
    return tmp_path


def write(home, whose, text):
    path = home / whose / ("qwen35/config.toml" if whose != "project" else ".qwen35.toml")
    path.write_text(text)
    return path


def parse(*arguments):
    """The context of a command that was parsed as a call of the program parses it."""
    group = typer.main.get_command(app)
    root = group.make_context("qwen35", [*arguments])
    name, command, rest = group.resolve_command(root, [*arguments])
    return command.make_context(name, rest, parent=root)


def value(name, *arguments):
    return parse(*(arguments or ("ask", "q"))).params[name]


def refused(*arguments):
    with pytest.raises(UsageError) as caught:
        parse(*(arguments or ("ask", "q")))
    return caught.value


# -- what is stronger ------------------------------------------------------------------------------


def test_each_source_is_stronger_than_the_one_before(home, monkeypatch):
    assert value("max_tokens") == 32768
    write(home, "system", "max_tokens = 1")
    assert value("max_tokens") == 1
    write(home, "user", "max_tokens = 2")
    assert value("max_tokens") == 2
    write(home, "project", "max_tokens = 3")
    assert value("max_tokens") == 3
    monkeypatch.setenv("QWEN35_MAX_TOKENS", "4")
    assert value("max_tokens") == 4
    assert value("max_tokens", "ask", "--max-tokens", "5", "q") == 5


@pytest.mark.parametrize(
    ("key", "command", "texts", "expected"),
    [
        ("keep_thinking", "ask", ("true", "false", "true", "0", None), (True, False, True, False)),
        ("ctx", "ask", ("1024", '"2k"', '"3k"', "4k", "5k"), (1024, 2048, 3072, 4096, 5120)),
        ("gpu", "vram", ('"8G"', '"12G"', None, "16G", "24G"), ("8G", "12G", None, "16G", "24G")),
        (
            "prefill",
            "bench",
            ("16", '["32", 64]', None, "128, 256", "512"),
            ([(16,)], [(32,), (64,)], None, [(128,), (256,)], [(512,)]),
        ),
        (
            "plan_file",
            "quantize",
            ('"~/a"', '"b"', None, "c", "d"),
            (Path.home() / "a", Path("b"), None, Path("c"), Path("d")),
        ),
    ],
)
def test_so_it_is_for_switches_numbers_sizes_lists_and_paths(
    home, monkeypatch, key, command, texts, expected
):
    for whose, text, wanted in zip(("system", "user", "project"), texts, expected, strict=False):
        if text is not None:
            write(home, whose, f"{key} = {text}")
            assert value(key, command) == wanted
    monkeypatch.setenv(f"QWEN35_{key.upper()}", texts[3])
    assert value(key, command) == expected[3]
    if texts[4] is not None:
        assert value(key, command, f"--{key.replace('_', '-')}", texts[4]) == expected[4]


def test_the_first_of_the_systems_folders_is_the_strongest(home, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_DIRS", f"{home / 'system'}{os.pathsep}{home / 'other'}")
    (home / "other/qwen35").mkdir(parents=True)
    (home / "other/qwen35/config.toml").write_text("seed = 1\ntop_k = 1")
    write(home, "system", "seed = 2")
    assert (value("seed"), value("top_k")) == (2, 1)


def test_a_file_that_is_named_stands_in_for_the_users(home, monkeypatch):
    write(home, "user", "seed = 1")
    write(home, "project", "top_k = 3")
    other = home / "other.toml"
    other.write_text("seed = 2")
    monkeypatch.setenv("QWEN35_CONFIG", str(other))
    assert (value("seed"), value("top_k")) == (2, 3)
    other.write_text("temp = 0.5")
    assert value("seed") is None
    assert value("seed", "ask", "--config", os.devnull, "q") is None
    error = refused("ask", "--config", str(home / "none.toml"), "q")
    assert error.message == f"there is no file {home / 'none.toml'}"


def test_the_table_of_a_command_counts_in_its_file(home):
    write(home, "system", "[ask]\ntemp = 0.1\ntop_k = 1")
    write(home, "user", "temp = 0.2\n[ask]\nseed = 3\n[chat]\nseed = 4")
    assert (value("temp"), value("top_k"), value("seed")) == (0.2, 1, 3)
    assert (value("temp", "chat"), value("top_k", "chat"), value("seed", "chat")) == (0.2, None, 4)
    assert value("seed", "bare", "-p", "q") == 3  # flags without a command are an ask


def test_values_go_through_the_parsers_of_the_flags(home):
    text = 'ctx = "64k"\nimage_max_tokens = "full"\nmtp = 2\nthink = false\nkv_dtype = "int8"\n'
    write(home, "user", text + 'temp = "0.5"\ntools = "~/t.json"\n')
    params = parse("ask", "q").params
    assert isinstance(params["ctx"], values.RoundCount)
    assert (params["ctx"], params["image_max_tokens"], params["mtp"]) == (65536, 0, "2")
    assert (params["think"], params["kv_dtype"], params["temp"]) == (False, "int8", 0.5)
    assert Path(params["tools"]) == Path.home() / "t.json"
    write(home, "user", 'ctx = ["8k", 16384, "32k,64k"]')
    assert list(value("ctx", "vram")) == [(8192,), (16384,), (32768, 65536)]


def test_a_switch_of_a_file_can_be_taken_back(home, monkeypatch):
    write(home, "user", "think = true\nno_save = true")
    assert value("think", "ask", "--no-think", "q") is False
    monkeypatch.setenv("QWEN35_NO_SAVE", "0")
    assert value("no_save") is False


def counted(monkeypatch, *arguments):
    """The flags that `ask` goes by."""
    found = []
    monkeypatch.setattr(ask, "answer_once", lambda context, prompt, flags: found.append(flags))
    assert run(["ask", *arguments]) == 0
    return found[0]


def test_of_two_that_exclude_each_other_the_stronger_source_counts(home, monkeypatch):
    def output(*arguments):
        flags = counted(monkeypatch, *arguments, "q")
        return flags.output.json, flags.output.stream_json

    write(home, "system", "[ask]\njson = true")
    assert output("--stream-json") == (False, True)
    assert output() == (True, False)
    write(home, "user", "stream_json = true")
    assert output() == (False, True)
    monkeypatch.setenv("QWEN35_JSON", "1")
    assert output() == (True, False)
    monkeypatch.setenv("QWEN35_STREAM_JSON", "1")
    assert output() == (True, True)  # the command decides, and refuses them
    assert output("--json") == (True, False)


@pytest.mark.parametrize(
    ("text", "typed", "off", "on"),
    [
        ("no_save = true", ["-c"], "session.no_save", "session.go_on"),
        ("no_save = true", ["--session", "a"], "session.no_save", "session.session"),
    ],
)
def test_what_is_typed_counts_against_a_file(home, monkeypatch, text, typed, off, on):
    write(home, "user", text)
    assert attrgetter(off)(counted(monkeypatch, "q"))
    flags = counted(monkeypatch, *typed, "q")
    assert attrgetter(on)(flags)
    assert not attrgetter(off)(flags)


@pytest.mark.parametrize(
    ("text", "typed", "yields", "built_in"),
    [
        ("think_budget = 0", ["--think"], "thinking.think_budget", 4096),
        ("think = true", ["--think-budget", "0"], "thinking.think", None),
        ('kernels = "triton"', ["--device", "cpu"], "model.kernels", None),
        ('device = "cpu"', ["--kernels", "triton"], "model.device", "auto"),
    ],
)
def test_a_value_that_cannot_be_beside_a_stronger_one_yields(
    home, monkeypatch, text, typed, yields, built_in
):
    write(home, "user", text)
    assert attrgetter(yields)(counted(monkeypatch, "q")) != built_in
    assert attrgetter(yields)(counted(monkeypatch, *typed, "q")) == built_in


def test_one_that_can_be_beside_it_does_not_yield(home, monkeypatch):
    write(home, "user", 'think_budget = "2k"\nkernels = "reference"')
    flags = counted(monkeypatch, "--think", "--device", "cpu", "q")
    assert (flags.thinking.think_budget, flags.model.kernels) == (2048, "reference")
    monkeypatch.setenv("QWEN35_THINK_BUDGET", "0")
    monkeypatch.setenv("QWEN35_THINK", "1")  # of the same source: the budget decides
    assert counted(monkeypatch, "q").thinking.think_budget == 0


@pytest.mark.parametrize("flag", ["--format", "--quant"])
def test_groups_of_a_file_are_not_for_a_format_that_is_typed_and_has_none(home, capsys, flag):
    write(home, "user", "group = 64")
    command = ["quantize", "demo", "--dry-run"] if flag == "--format" else ["vram", "4B"]
    assert run([*command, flag, "int8"]) == 0
    assert "int8" in capsys.readouterr().out
    assert run([*command, flag, "int8", "--group", "64"]) == 2


@pytest.mark.parametrize(
    ("text", "typed", "off", "on"),
    [
        ("quiet = true", ["-v"], "quiet", "verbose"),
        ("no_color = true", ["--color", "always"], "no_color", "color"),
    ],
)
def test_what_is_typed_counts_for_the_terminal_too(home, monkeypatch, text, typed, off, on):
    told = []
    monkeypatch.setattr(Terminal, "configure", lambda self, flags: told.append(flags))
    write(home, "user", text)
    for arguments in ([], typed):
        counted(monkeypatch, *arguments, "q")
    assert [getattr(flags, off) for flags in told] == [True, False]
    assert getattr(told[1], on)


def test_a_prompt_that_is_typed_counts_before_that_of_a_variable(monkeypatch):
    monkeypatch.setenv("QWEN35_PROMPT", "x")
    assert counted(monkeypatch, "q").input.prompt_flag is None
    assert counted(monkeypatch).input.prompt_flag == "x"
    assert counted(monkeypatch, "-p", "y", "q").input.prompt_flag == "y"


def test_a_file_that_wants_raw_answers_leaves_the_terminal_alone(home, monkeypatch, capsys):
    monkeypatch.setattr("qwen35cli.cli.terminal._is_terminal", lambda _: True)
    answered = []
    monkeypatch.setattr(ask, "_answer", lambda *given: answered.append(given[-1].output.raw))
    write(home, "user", "[ask]\nraw = true")
    assert run(["ask", "q"]) == 0
    assert run(["ask", "-o", str(home / "answer"), "q"]) == 0
    assert answered == [False, True]
    assert run(["ask", "--raw", "q"]) == 2
    assert "error:\x1b[0m --raw could send control characters" in capsys.readouterr().err


def test_a_chat_refuses_only_what_is_typed(home, monkeypatch, capsys):
    monkeypatch.setattr("qwen35cli.cli.stdin.is_terminal", lambda: True)
    monkeypatch.setattr("qwen35cli.cli.repl.Repl", Mock())
    write(home, "user", 'json = true\nraw = true\nschema = "a"')
    assert run(["chat", "--model", "demo"]) == 0
    assert run(["chat", "--model", "demo", "--json"]) == 2
    assert "error: --json: for one answer, not for a chat\n" in capsys.readouterr().err


def test_a_model_of_the_file_is_that_of_every_command(home):
    write(home, "user", 'model = "demo"')
    assert value("model") == value("model", "quantize") == value("model_flag", "vram") == "demo"


def test_what_another_command_takes_is_not_looked_at(home):
    write(home, "user", '[vram]\ngpu = 5\n[quantize]\nformat = "x"')
    assert value("seed") is None
    assert "gpu takes" in refused("vram").message


# -- what is refused -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "line", "message", "hint"),
    [
        (r'schema = "a\u0000/b"', 1, "schema takes no zero character", 'schema = "text"'),
        (r'tools = "a\u0000/b"', 1, "tools takes no zero character", 'tools = "text"'),
        ("\n# a\ntemprature = 1", 3, "there is no setting 'temprature'", "did you mean temp?"),
        ("top-p = 1", 1, "there is no setting 'top-p'", "did you mean top_p?"),
        ('kv = "int8"', 1, "there is no setting 'kv'", "did you mean kv_dtype?"),
        ("no_think = true", 1, "there is no setting 'no_think'", "did you mean think?"),
        ("[asc]\ntemp = 1", 1, "there is no setting 'asc'", "did you mean ask?"),
        ("seed = 1\n[ask]\ngpu = 5", 3, "there is no setting 'gpu' of ask", "names of flags"),
        ("[bare]\ntemp = 1", 1, "there is no setting 'bare'", ""),
        ("ask = 1", 1, "ask is a command, and so a table", "[ask]"),
        ('prompt = "x"', 1, "prompt is said with each call, not in a file", "--prompt"),
        ("[sessions]\nyes = true", 2, "there is no setting 'yes' of sessions", ""),
        ('think = "yes"', 1, "think takes true or false, not 'yes'", "think = true"),
        ('tools = "~nobody-there/t"', 1, "tools takes a path, below the folder of a user", ""),
        ("quant = 8", 1, "quant takes text in quotes, not 8", 'quant = "text"'),
        ("temp = true", 1, "temp takes a number, or text, not true", "temp = 2"),
        ("seed = 1\nmodel = {a = 1}", 2, "model takes text in quotes, not a table", ""),
        ("ctx = [1, 2]", 1, "ctx takes a number, or text, not a list", ""),
        ("stats = 1979-05-27", 1, "stats takes true or false, not datetime.date", ""),
        ('quant = "int7"', 1, "quant: 'int7' is not one of 'bf16', 'int8'", "qwen35 ask --help"),
        ('ctx = "zz"', 1, "ctx: 'zz' is not a token count", "qwen35 ask --help"),
        ("top_k = 1.5", 1, "top_k: '1.5' is not a whole number from 0 to", "qwen35 ask --help"),
        ("\ntemp = 500", 2, "temp: '500' is not a number from 0 to 100", "qwen35 ask --help"),
        ("[ask]\nmin_p = nan", 2, "min_p: 'nan' is not a number from 0 to 1", ""),
        ("seed = -1", 1, "seed: '-1' is not a whole number from 0 to 9,223,372,036", ""),
        ('kernels = "fast"', 1, "kernels: 'fast' is not one of 'cpu', 'triton'", ""),
        ('preset = "wild"', 1, "preset: 'wild' is not one of general, coding, reasoning", ""),
        ("[presets.a]\ntemperature = 1", 2, "a preset has no 'temperature'", "did you mean temp?"),
        ("[presets.a]\ntop_k = 1.5", 2, "top_k takes a whole number from 0 to 2,147,483,647", ""),
        ('[presets.a]\ntemp = "1"', 2, "temp takes a number from 0 to 100, not '1'", "temp = 1"),
        ("[presets.a]\ntop_k = 1\ntop_p = 3", 3, "top_p takes a number from 0 to 1, not 3", ""),
        ("[presets]\na = 1", 2, "'a' is no table", "[presets.NAME]"),
        ("presets = 1", 1, "presets is a table of tables", ""),
        ("seed = 1\ntemp =\n", 2, "invalid value", "in quotes"),
        ("temp = 1\ntemp = 2", 2, "cannot overwrite a value", ""),
        ('seed = 1\nsystem = """a\n\nb', 4, "", ""),
        ('\nsystem = """\nx = 1\n"""\nx = 2', 5, "there is no setting 'x'", ""),
        ('ask.temp = 1\nask.x = "a"', 2, "there is no setting 'x' of ask", ""),
    ],
)
def test_what_is_wrong_is_named_with_file_and_line(home, text, line, message, hint):
    path = write(home, "user", text)
    error = refused()
    assert error.message.startswith(f"{path}, line {line}: {message}")
    assert hint in error.hint


def test_every_file_is_held_to_it(home):
    write(home, "user", "temp = 1")
    path = write(home, "system", "\nx = 1")
    assert refused().message.startswith(f"{path}, line 2: ")
    path.unlink()
    write(home, "project", "seed = 1\ntemp = 500")
    assert refused().message == ".qwen35.toml, line 2: temp: '500' is not a number from 0 to 100"
    write(home, "user", "\n\n[vram]\ngroup = 48\n")
    path = home / "user/qwen35/config.toml"
    assert refused("vram").message == f"{path}, line 4: group: '48' is not one of 32, 64, 128"


@pytest.mark.parametrize("key", ["model", "device", "tools", "yes", "kernels", "quant", "schema"])
def test_a_project_sets_no_paths_no_model_and_no_device(home, key):
    write(home, "project", f'ctx = "4k"\n{key} = "x"')
    error = refused()
    assert error.message == f".qwen35.toml, line 2: the file of a project may not set {key}"
    assert error.hint == f"set it in {home / 'user/qwen35/config.toml'}"
    write(home, "project", f'[ask]\n{key} = "x"')
    assert f"line 2: the file of a project may not set {key}" in refused("vram").message


def test_what_a_project_may_set_are_keys_that_ask_has():
    assert set(config.keys(typer.main.get_command(app).commands["ask"])) >= config.PROJECT


def test_files_that_cannot_be_read(home, monkeypatch):
    path = home / "user/qwen35/config.toml"
    path.write_bytes(b"seed = 1\nsystem = '\xff'")
    assert refused().message == f"{path}, line 2: it is not UTF-8"
    path.unlink()
    path.mkdir()
    assert refused().message == f"{path} cannot be read: it is not a regular file"
    path.rmdir()
    path.write_bytes(b"#" * (toml_file.MOST_BYTES + 1))
    assert refused().message == f"{path} cannot be read: it has more than 1 MiB"
    assert refused().hint == "it takes a file of at most 1 MiB that you may read"
    path.write_bytes(b"\xef\xbb\xbfseed = 5\r\ntop_k = 3\r\n")  # as an editor on Windows leaves it
    assert (value("seed"), value("top_k")) == (5, 3)
    path.unlink()
    os.mkfifo(home / "project/.qwen35.toml")  # nobody writes into it: reading would never end
    assert refused().message == ".qwen35.toml cannot be read: it is not a regular file"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed = " + "[" * 5_000 + "]" * 5_000, " cannot be read: a value is too long or too deep"),
        ("seed = " + "9" * 5_000, " cannot be read: a value is too long or too deep"),
        ("# sead\n" * 100_000 + "sead = 1", ": there is no setting 'sead'"),
        ("#\n" * 400_000 + "sead = 1", ", line 400001: there is no setting 'sead'"),
        ('system = """\n' + "x\n" * 400_000 + '"""\nsead = 1', ", line 400003: there is no"),
        ("seed = 1\x00", ", line 1: expected newline or end of document"),
    ],
    ids=["deep", "long", "often", "late", "text", "null"],
)
def test_a_file_made_to_harm_is_refused_at_once(home, text, message):
    write(home, "project", text)
    start = time.process_time()
    assert refused("ls").message.startswith(f".qwen35.toml{message}")
    assert time.process_time() - start < 10  # it was minutes, a parse for each line


def test_help_does_not_care(home, capsys):
    write(home, "user", "broken")
    for arguments in (["--help"], ["ask", "--help"], ["--version"]):
        assert run(arguments) == 0
    assert run(["ask", "q"]) == 2
    path = home / "user/qwen35/config.toml"
    assert f"error: {path}, line 1: expected '='" in capsys.readouterr().err


def test_a_variable_that_nothing_reads_is_told(home, monkeypatch, capsys):
    monkeypatch.setenv("QWEN35_TEMPP", "1")
    monkeypatch.setenv("QWEN35_FORMAT", "int8")  # of another command
    assert run(["vram", "demo", "--gpu", "24G", "-q"]) == 0
    assert capsys.readouterr().err == ""
    assert run(["vram", "demo", "--gpu", "24G"]) == 0
    assert capsys.readouterr().err == (
        "warning: nothing reads the variable QWEN35_TEMPP\n"
        "hint: unset QWEN35_TEMPP; did you mean QWEN35_TEMP?\n"
    )


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        (
            ("ask", "--temp", "x", "q"),
            "invalid value for '--temp': 'x' is not a number from 0 to 100",
            "ask",
        ),
        (("ask", "--top-k", "1.5", "q"), "'--top-k': '1.5' is not a whole number from 0", "ask"),
        (("ask", "--quant", "int7", "q"), "'--quant': 'int7' is not one of 'bf16'", "ask"),
        (("vram", "--batch", "0"), "'0' is not a whole number from 1 to 4,096", "vram"),
        (("ask", "--quant"), "option '--quant' requires an argument", "ask"),
        (("-p",), "option '-p' requires an argument", ""),
    ],
)
def test_values_that_are_not_possible(capsys, arguments, message, hint):
    assert run([*arguments]) == 2
    error, help = capsys.readouterr().err.splitlines()
    assert message in error
    assert help == " ".join(f"hint: qwen35 {hint} --help".split())


@pytest.mark.parametrize(
    ("variable", "text", "why", "arguments"),
    [
        ("QWEN35_THINK", "maybe", "it takes true or false", ("ask", "q")),
        ("QWEN35_TEMP", "500", "'500' is not a number from 0 to 100", ("ask", "q")),
        ("QWEN35_SEED", "-1", "'-1' is not a whole number from 0 to 9,", ("bare", "-p", "q")),
        ("QWEN35_CTX", "many", "'many' is not a token count", ("chat",)),
        ("QWEN35_DEVICE", "gpu", "'gpu' is not one of 'auto', 'cpu', 'cuda'", ("bench",)),
        ("QWEN35_BATCH", "0", "'0' is not a whole number from 1 to 4,096", ("vram",)),
        ("QWEN35_GROUP", "7", "'7' is not one of 32, 64, 128", ("quantize",)),
    ],
)
def test_a_variable_whose_value_is_not_possible_is_named(
    monkeypatch, capsys, variable, text, why, arguments
):
    monkeypatch.setenv(variable, text)
    assert run([*arguments]) == 2
    assert capsys.readouterr().err.startswith(f"error: {variable}: {why}")


def test_a_flag_that_is_not_possible_is_named_and_not_its_variable(monkeypatch, capsys):
    monkeypatch.setenv("QWEN35_TEMP", "1")
    assert run(["ask", "--temp", "500", "q"]) == 2
    assert "QWEN35_TEMP" not in capsys.readouterr().err


# -- presets ---------------------------------------------------------------------------------------


def sampling(*arguments):
    """What `ask` samples by."""
    seen = []

    class Seen(Exception): ...

    def command(context, prompt=None, *, flags):
        seen.append(Adjustable(flags).options(thinking=True).sampling)
        raise Seen

    command.__annotations__ = {
        "context": typer.Context,
        "prompt": options.Prompt,
        "flags": options.Flags,
    }
    probe = typer.Typer()
    probe.command("ask")(flags.grouped(command))
    probe.command("other")(lambda: None)
    with pytest.raises(Seen):
        probe(["ask", *arguments], standalone_mode=False)
    return seen[0]


def test_presets_of_files(home):
    write(home, "system", "[presets.mine]\ntop_k = 9\n[presets.rest]\ntop_k = 1")
    write(
        home, "user", 'preset = "mine"\n[presets.mine]\ntemp = 0.1\n[presets.coding]\nmin_p = 0.2'
    )
    general = Sampling(temperature=1.0, top_p=0.95, top_k=20, presence_penalty=1.5, seed=1)
    mine = sampling("--seed", "1")
    assert (mine.temperature, mine.top_k, mine.presence_penalty) == (0.1, 20, 1.5)
    assert sampling("--preset", "general", "--seed", "1") == general
    assert sampling("--preset", "rest").top_k == 1
    coding = sampling("--preset", "coding")
    assert (coding.temperature, coding.min_p) == (0.6, 0.2)
    assert sampling("--temp", "0.3").temperature == 0.3
    write(home, "project", "[presets.rest]\ntop_k = 2")
    assert sampling("--preset", "rest").top_k == 2
    with pytest.raises(
        typer.BadParameter, match="not one of general, coding, reasoning, mine, rest"
    ):
        parse("ask", "--preset", "wild", "q")


def test_a_preset_that_is_greedy_takes_no_penalty(home):
    write(home, "user", "[presets.greedy]\ntemp = 0")
    assert sampling("--preset", "greedy").presence_penalty == 0


def test_the_presets_of_the_flags_are_those_of_the_engine():
    assert options.PRESETS == PRESET_NAMES


def test_the_whole_program_goes_by_the_file(home, tmp_path):
    write(home, "user", "temp = 0.25\nctx = 2048\n[ask]\njson = true")
    line = command(tmp_path, [["done"]], "ask", "q")
    done = subprocess.run(
        line,
        env=environment(XDG_CONFIG_HOME=str(home / "user")),
        capture_output=True,
        timeout=PATIENCE,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result["answer"], result["sampling"]["temperature"]) == ("done", 0.25)


# -- the example -----------------------------------------------------------------------------------


def uncommented():
    return re.sub(r"^#(?=\w+ = )", "", EXAMPLE.read_text(), flags=re.MULTILINE)


def commands():
    return typer.main.get_command(app).commands


def keys_of(command):
    if not hasattr(command, "commands"):
        return set(config.keys(command))
    return set().union(*map(keys_of, command.commands.values()))


def test_the_example_changes_nothing_as_it_is(home):
    (home / "user/qwen35/config.toml").write_text(EXAMPLE.read_text())
    given = parse("ask", "q").params
    (home / "user/qwen35/config.toml").unlink()
    assert given == parse("ask", "q").params


@pytest.mark.parametrize("name", [name for name in commands() if name != "sessions"])
def test_what_the_example_shows_is_possible(home, name):
    (home / "user/qwen35/config.toml").write_text(uncommented())
    arguments = {"ask": ["q"], "rm": ["demo"]}.get(name, [])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(home))
        parse(name, *arguments)


def test_the_example_has_every_flag(home):
    import tomllib

    data = tomllib.loads(uncommented())
    presets = data.pop("presets")
    written = {key for key in data if key not in commands()}
    for name in commands():
        written |= set(data.get(name, {}))
    assert written == set().union(*map(keys_of, commands().values()))
    assert set().union(*presets.values()) <= set(config.SAMPLING)
    marked = [each for each in EXAMPLE.read_text().split("\n\n") if "project." in each]
    assert set(re.findall(r"^#(\w+) = ", "\n".join(marked), re.M)) == config.PROJECT
