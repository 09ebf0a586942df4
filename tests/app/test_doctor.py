"""The report: what is found, what is told of it, what is kept back, what must not stop it."""

import json
import os
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from qwen35cli.app import doctor, inventory
from qwen35cli.app.doctor import checkpoints, folders, patience, privacy, settings, versions
from qwen35cli.app.doctor.probe_process import Probed
from qwen35cli.app.doctor.report import Finding, Report, Section
from qwen35cli.checkpoint import verified
from qwen35cli.checkpoint.hub import HubFile, Repo
from qwen35cli.errors import Qwen35Error

# -- folders and checkpoints -----------------------------------------------------------------------


def test_folders_with_their_sizes(places):
    places.data.mkdir()
    (places.data / "a").write_bytes(b"x" * 1_000)
    section = folders.section(places)
    assert section.facts["data"]["bytes"] == 1_000
    assert not section.facts["cache"]["exists"]
    assert not section.problems


def test_a_file_in_the_place_of_a_folder(places):
    places.cache.write_text("")
    places.data.write_text("")
    found = folders.section(replace(places, data=places.data / "below"))
    assert [problem.what for problem in found.problems] == [
        f"{places.data / 'below'} lies below {places.data}, which is no folder",
        f"{places.cache} is no folder",
    ]


def test_a_full_disk_is_one_problem(places, monkeypatch):
    places.cache.mkdir()
    (places.cache / "state").write_bytes(b"x")
    usage = folders.shutil.disk_usage(places.data.parent)
    monkeypatch.setattr(folders.shutil, "disk_usage", lambda path: usage._replace(free=2**20))
    (problem,) = folders.section(places).problems
    assert problem.what.startswith("1.0 MiB are left on the disk of ")
    assert str(places.hub) in problem.what
    assert problem.mend.startswith("qwen35 rm --cache; qwen35 ls")
    (places.cache / "state").unlink()
    assert folders.section(places).problems[0].mend.startswith("qwen35 ls")


@pytest.mark.parametrize("read_only", [True, False])
def test_a_folder_that_cannot_be_written(places, monkeypatch, read_only):
    places.cache.mkdir()
    access = os.access
    monkeypatch.setattr(
        folders.os, "access", lambda path, mode: not mode & os.W_OK and access(path, mode)
    )
    monkeypatch.setattr(folders, "_is_read_only", lambda path: read_only)
    mends = {each.what: each.mend for each in folders.section(places).problems}
    mend = mends[f"{places.cache} cannot be written"]
    assert "export XDG_CACHE_HOME=DIR" in mend
    assert ("chown" in mend) is not read_only
    assert "chown" not in mends[f"{places.data} cannot be written"]  # it is not there yet


def test_a_disk_that_does_not_answer_is_a_problem(places, monkeypatch):
    monkeypatch.setattr(folders, "folder", lambda path: None)
    assert "does not answer" in folders.section(places).problems[0].what


def test_what_hangs_is_not_waited_for_and_what_fails_is_raised():
    start = time.monotonic()
    assert patience.within(0.1, lambda: time.sleep(5)) is None
    assert time.monotonic() - start < 3
    with pytest.raises(ZeroDivisionError):
        patience.within(1, lambda: 1 / 0)


def test_the_files_of_a_large_folder_are_counted_as_far_as_there_is_time(places, monkeypatch):
    places.data.mkdir()
    monkeypatch.setattr(folders, "COUNTING", -1.0)
    assert folders._folder(places.data).whole is False


def snapshot(places, *, weights=True):
    commit = "0123456789abcdef" * 2 + "01234567"
    folder = places.hub / "models--Qwen--Qwen3.5-0.8B" / "snapshots" / commit
    folder.mkdir(parents=True)
    demo = Path(doctor.__file__).parents[2] / "demo"
    for path in demo.iterdir():
        if weights or path.suffix != ".safetensors":
            (folder / path.name).write_bytes(path.read_bytes())
    return folder


def test_a_checkpoint_that_is_whole_is_told_as_that(places):
    snapshot(places)
    section = checkpoints.section(places)
    assert not section.problems
    assert "whole, not verified yet (qwen35 verify Qwen/Qwen3.5-0.8B)" in section.lines[-1][1]
    assert section.facts["items"][0]["verified"] is False


def note(places, folder):
    """Say of the files of a snapshot that they were verified."""
    repo = Repo("Qwen/Qwen3.5-0.8B", places.hub)
    files = {}
    for path in folder.iterdir():
        info = path.stat()
        file = HubFile(path.name, info.st_size, "0" * 40, None)
        files[path.name] = verified.Known(file, info.st_mtime_ns)
    verified.write(repo, folder.name, verified.Notes(True, files))


def test_a_checkpoint_that_was_verified_is_told_as_that(places):
    note(places, snapshot(places))
    section = checkpoints.section(places)
    assert not section.problems
    assert section.lines[-1][1].endswith(": verified")
    assert section.facts["items"][0]["verified"] is True


def test_a_checkpoint_that_has_changed_since_is_a_problem(places):
    folder = snapshot(places)
    note(places, folder)
    os.utime(folder / "config.json", (1, 1))
    (problem,) = checkpoints.section(places).problems
    assert "has changed since it was verified" in problem.what
    assert problem.mend.startswith("qwen35 pull Qwen/Qwen3.5-0.8B")


def test_what_was_verified_is_looked_at_once(places, monkeypatch):
    note(places, snapshot(places))
    asked = []
    check = verified.check
    monkeypatch.setattr(
        verified, "check", lambda repo, commit: asked.append(commit) or check(repo, commit)
    )
    checkpoints.section(places)
    assert len(asked) == 1


def test_a_checkpoint_without_its_weights_is_a_problem(places):
    snapshot(places, weights=False)
    (problem,) = checkpoints.section(places).problems
    assert problem.what.startswith("Qwen/Qwen3.5-0.8B")
    assert problem.mend.startswith("qwen35 pull Qwen/Qwen3.5-0.8B")


def test_tuned_launches_that_are_damaged_are_a_problem(places):
    places.cache.mkdir()
    (places.cache / "launches.json").write_text("{")
    (problem,) = checkpoints.section(places).problems
    assert problem.mend == "qwen35 tune"


def test_without_checkpoints_the_command_that_fetches_one(places):
    section = checkpoints.section(places)
    assert not section.problems
    assert section.notes[0].mend == "qwen35 pull Qwen/Qwen3.5-4B"


# -- settings and environment ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("HF_TOKEN", "hf_abc", "set"),
        ("HF_TOKEN", "", "empty"),
        ("HUGGING_FACE_HUB_TOKEN", "hf_abc", "set"),
        ("QWEN35_PROMPT", "my diary", "set"),
        ("QWEN35_SYSTEM", "you are", "set"),
        ("QWEN35_API_KEY", "k", "set"),
        ("QWEN35_MAX_TOKENS", "9", "9"),
        ("QWEN35_CTX", "64k", "64k"),
        ("HTTPS_PROXY", "http://me:pw@proxy:80", "http://…@proxy:80"),
        ("https_proxy", "me:p:w@proxy:80", "…@proxy:80"),
        ("https_proxy", "http://me:p/w@x@proxy:80", "http://…@proxy:80"),
        ("LANG", "de_DE@euro", "de_DE@euro"),
        ("HF_ENDPOINT", "https://hub.example", "https://hub.example"),
        ("LD_LIBRARY_PATH", "x" * 500, "x" * 199 + "…"),
    ],
)
def test_secrets_and_what_was_said_stay_here(name, value, shown):
    assert privacy.shown_value(name, value) == shown


def test_variables_that_matter_and_no_others(options):
    told = {"HF_HOME": "/x", "https_proxy": "y", "SECRET_PLAN": "z", "QWEN35_CTXX": "1"}
    known = frozenset({"QWEN35_CTX"})
    section = settings.variables(replace(options, environment=told, known=known))
    assert section.facts["variables"] == {"HF_HOME": "/x", "QWEN35_CTXX": "1", "https_proxy": "y"}
    (problem,) = section.problems
    assert problem == Finding(
        "nothing reads the variable QWEN35_CTXX", "unset QWEN35_CTXX; did you mean QWEN35_CTX?"
    )


def test_where_a_setting_is_from_and_over_what(options):
    user, project = Path("/u.toml"), Path(".qwen35.toml")
    files = {
        user: {"ctx": "8k", "seed": 3, "chat": {"system": "a secret of mine", "temp": 0.5}},
        project: {"ctx": "16k"},
    }
    told = {"QWEN35_CTX": "32k", "QWEN35_MODEL": "", "QWEN35_OTHER": "x"}
    known = frozenset({"QWEN35_CTX", "QWEN35_MODEL"})
    section = settings.section(replace(options, files=files, environment=told, known=known))
    assert dict(section.lines) == {
        "ctx": "32k  (QWEN35_CTX; over 16k of .qwen35.toml; over 8k of /u.toml)",
        "seed": "3  (/u.toml)",
        "chat.system": "set  (/u.toml)",
        "chat.temp": "0.5  (/u.toml)",
    }
    assert section.facts["set"][0] == {
        "name": "ctx",
        "value": "32k",
        "origin": "QWEN35_CTX",
        "over": ["/u.toml", ".qwen35.toml"],
    }


def test_without_settings_all_is_as_built_in(options):
    assert settings.section(options).lines == [("settings", "all as built in")]


def test_the_home_folder_is_a_tilde_everywhere(monkeypatch):
    monkeypatch.setattr(Path, "home", lambda: Path("/home/me"))
    finding = Finding("/home/me/x is bad, /home/meg/y not", "rm /home/me")
    facts = {"a": ["/home/me/x", 3], "/home/me/b": {"c": "/home/me"}}
    section = Section("s", [("x", "in /home/me/x")], facts, [finding])
    found = privacy.tidy(Report([section], [finding]))
    assert found.problems == [Finding("~/x is bad, /home/USER/y not", "rm ~")]
    assert found.sections[0].lines == [("x", "in ~/x")]
    assert found.sections[0].facts == {"a": ["~/x", 3], "~/b": {"c": "~"}}


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("/home/me/a", "~/a"),
        ("in /home/bob/a:/home/eve", "in /home/USER/a:/home/USER"),
        ("/mnt/me/a /scratch/me", "/mnt/USER/a /scratch/USER"),
        ("/mnt/meme/me.txt", "/mnt/meme/me.txt"),
        (r"C:\Users\bob\a", r"C:\Users\USER\a"),
        ("/usr/home is no /data/home", "/usr/home is no /data/home"),
    ],
)
def test_nobody_is_named(path, shown, monkeypatch):
    monkeypatch.setattr(Path, "home", lambda: Path("/home/me"))
    found = privacy.tidy(Report([Section("s", [("x", path)], {"x": path})]))
    assert found.sections[0].lines == [("x", shown)]
    assert found.sections[0].facts == {"x": shown}


def test_without_a_home_folder_the_report_is_written(monkeypatch):
    def nowhere():
        raise RuntimeError("no home")

    monkeypatch.setattr(Path, "home", nowhere)
    assert privacy.tidy(Report([Section("s", [("x", "/a")], {})])).sections[0].lines[0][1] == "/a"


# -- the whole -------------------------------------------------------------------------------------


@pytest.fixture
def unprobed(monkeypatch):
    """The whole report, without the process that runs torch."""

    @contextmanager
    def started(options):
        yield SimpleNamespace(listen=lambda say: Probed(died="was not started"))

    monkeypatch.setattr(doctor, "started", started)


def test_a_section_that_breaks_is_a_problem_and_the_others_are_there(
    options, unprobed, monkeypatch
):
    def broken(options):
        raise RuntimeError("the index is odd")

    monkeypatch.setattr(doctor.machine, "section", broken)
    found = doctor.examine(options, lambda text: None)
    assert [problem.what for problem in found.problems if "system" in problem.what] == [
        "system could not be looked at: RuntimeError: the index is odd"
    ]
    names = [section.name for section in found.sections]
    assert names[0] == "versions" and names[-1] == "environment" and "checkpoints" in names
    assert json.dumps([dict(section.facts) for section in found.sections])


def test_what_cannot_be_listed_is_a_problem_with_a_way_out(options, unprobed, monkeypatch):
    def refused(places):
        raise Qwen35Error("could not read /x: Permission denied", "")

    monkeypatch.setattr(inventory, "look", refused)
    found = doctor.examine(options, lambda text: None)
    assert Finding(
        "could not read /x: Permission denied", "give it to this user, or remove it"
    ) in list(found.problems)


def test_a_folder_of_no_use_is_told_once(options, unprobed):
    options.places.cache.write_text("")
    found = doctor.examine(options, lambda text: None)
    about = [each.what for each in found.problems if str(options.places.cache) in each.what]
    assert about == [f"{options.places.cache} is no folder"]


def test_what_is_installed_suits_what_we_ask_for():
    assert versions.unmet() == ([], [])


def test_packages_that_are_missing_or_old_are_named(monkeypatch):
    monkeypatch.setattr(
        versions.metadata, "requires", lambda name: ["nowhere>=1", "numpy>=99", "a; extra == 'b'"]
    )
    problems = versions.section().problems
    assert [problem.mend for problem in problems] == [
        "pip install nowhere",
        'pip install "numpy>=99"',
    ]
