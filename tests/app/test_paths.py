"""Paths as they are typed, quoted and dropped."""

from pathlib import Path

import pytest

from qwen35cli.app import paths
from qwen35cli.app.paths import dropped, exists, in_a_folder, local_path, split_paths
from qwen35cli.errors import UsageError

SCREENSHOT = "Screenshot 2026-01-01 at 10.00.00\u202fAM.png"  # as macOS names them


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working folder with a few pictures."""
    monkeypatch.chdir(tmp_path)
    for name in ("cat.png", "a b.png", "it's.png", "notes.txt", SCREENSHOT):
        Path(name).touch()
    return tmp_path


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("a b.png", "a b.png"),
        ("~/a.png", "/home/me/a.png"),
        ("~no-such-user-here/a.png", "~no-such-user-here/a.png"),
        ("file:///tmp/a%20b%C3%A9.png", "/tmp/a bé.png"),
        ("FILE://localhost/tmp/a.png", "/tmp/a.png"),
    ],
)
def test_paths_are_read_as_people_and_file_managers_write_them(written, meant, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert str(local_path(written)) == meant


def test_a_windows_path_is_found_where_wsl_mounts_its_drive(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "WSL_DRIVES", tmp_path)
    assert local_path(r"C:\Users\me\a b.png") == Path(r"C:\Users\me\a b.png")
    (tmp_path / "c").mkdir()
    assert local_path(r"C:\Users\me\a b.png") == tmp_path / "c/Users/me/a b.png"
    assert local_path("c:/x.png") == local_path("file:///C:/x.png") == tmp_path / "c/x.png"


def test_a_file_url_of_another_machine_is_refused():
    with pytest.raises(UsageError, match="another machine, nas"):
        local_path("file://nas/share/a.png")
    for nothing in ("", "file://"):
        with pytest.raises(UsageError, match="empty"):
            local_path(nothing)


@pytest.mark.parametrize(
    ("paste", "meant"),
    [
        ("{home}/cat.png", ["{home}/cat.png"]),
        ("'{home}/a b.png' ", ["{home}/a b.png"]),
        (r"{home}/a\ b.png {home}/cat.png ", ["{home}/a b.png", "{home}/cat.png"]),
        ("file://{home}/a%20b.png\r\nfile://{home}/cat.png\r\n",
         ["file://{home}/a%20b.png", "file://{home}/cat.png"]),
        ("'{home}/it'\\''s.png'", ["{home}/it's.png"]),
        ("{home}/it's.png", ["{home}/it's.png"]),
        ("{home}/a b.png", ["{home}/a b.png"]),
        ("{home}/" + SCREENSHOT, ["{home}/" + SCREENSHOT]),
        (r'"C:\Users\me\a b.png"', [r"C:\Users\me\a b.png"]),
        (r"C:\Users\me\a.png", [r"C:\Users\me\a.png"]),
        ("cat.png", ["cat.png"]),
        ("/no/such.png", ["/no/such.png"]),
        ("{home}/my.heic", ["{home}/my.heic"]),
        ("{home}/notes.txt", None),
        ("{home}/cat.png what is this", None),
        ("no.png", None),
        ("https://example.com/cat.png", None),
        ("", None),
        ("\n", None),
        ("'", None),
        ("cat.png " * 10_000, None),
        ("\0/cat.png", None),
    ],
)  # fmt: skip
def test_a_paste_of_nothing_but_paths_is_a_drop(paste, meant, folder):
    home = str(folder)
    found = dropped(paste.replace("{home}", home))
    assert found == (meant and [path.replace("{home}", home) for path in meant])


def test_an_odd_quote_is_part_of_a_name():
    assert split_paths("it's.png") == ["it's.png"]
    assert split_paths("no'such.png") == ["no'such.png"]


@pytest.mark.parametrize(
    "name",
    [
        "",
        "\0",
        "a\0/b",
        "x" * 5_000,
        "x" * 300 + "/a.png",
        "file://[a.png",
        "file://nas/a",
        "/root/x",
    ],
)
def test_what_cannot_be_a_name_is_no_file(name):
    assert not exists(name)
    assert in_a_folder(name) == (name == "/root/x")


def test_a_damaged_url_is_refused():
    with pytest.raises(UsageError, match=r"file://\[a is no URL of a file"):
        local_path("file://[a")
