"""Names of models and folders that can be none, given to every command that takes one."""

import pytest

from qwen35cli.cli import run

COMMANDS = {
    "ask": ["--device", "cpu", "hi", "--model"],
    "bench": ["--device", "cpu"],
    **{command: [] for command in ("info", "pull", "quantize", "verify", "vram")},
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("name", ["~nouser/x/y", "~nouser", "a" * 300, "b/" * 200, ""])
def test_what_can_be_no_model_is_none(capsys, command, name):
    assert run([command, *COMMANDS[command], name]) == 3
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"error: there is no model {name!r}: ")
    assert "this is a bug" not in err


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("name", ["demo", "folder"])
def test_a_revision_is_of_a_hub_id_alone(capsys, monkeypatch, tmp_path, command, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    assert run([command, "--revision", "main", *COMMANDS[command], name]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err == (
        f"error: {name} has no revisions: --revision main is for a Hub id\n"
        "hint: leave out --revision\n"
    )


def test_a_revision_of_the_settings_is_of_their_model(capsys, monkeypatch):
    monkeypatch.setenv("QWEN35_REVISION", "main")
    assert run(["info", "demo"]) == 0
    assert run(["vram", "-m", "demo"]) == 0
    capsys.readouterr()
    monkeypatch.setenv("QWEN35_MODEL", "demo")
    for arguments in (["info"], ["ask", "--device", "cpu", "hi"]):
        assert run(arguments) == 2
        assert "demo has no revisions" in capsys.readouterr().err


def test_a_folder_that_may_not_be_looked_into_is_said(capsys, monkeypatch):
    def refused(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.is_dir", refused)
    assert run(["verify", "secret/x/y"]) == 3
    assert capsys.readouterr().err == "error: secret/x/y cannot be read: permission denied\n"


def test_weights_for_the_home_of_nobody_go_where_a_shell_would_put_them(
    capsys, monkeypatch, tmp_path
):
    monkeypatch.chdir(tmp_path)
    assert run(["quantize", "demo", "-o", "~nouser"]) == 0
    assert capsys.readouterr().out == f"{tmp_path}/~nouser\n"


def test_a_current_folder_that_was_removed_is_said(capsys, monkeypatch, tmp_path):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert run(["ls"]) == 1
    assert capsys.readouterr() == (
        "",
        "error: the current folder was removed\nhint: cd to one that is there\n",
    )
