"""Conversations on disk: what was saved is read again, whatever was killed, damaged or typed."""

import errno
import json
import os
import re
import resource
import signal
import stat
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from qwen35cli.app import locks, sessions
from qwen35cli.app.sessions import FILE, IMAGES, Store
from qwen35cli.app.transcript import StoredPicture, StoredTurn
from qwen35cli.errors import Qwen35Error, UsageError
from tests.scripted import environment

ODD = "a\0b\x1b[31m \x9b \u202e \u2028 \ud800 😀 \r\n\t\\u0041 </think> ١ é e\u0301 \x7f"
PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256))
NOON = datetime(2026, 11, 26, 12, 0, tzinfo=UTC)


def turn(*parts, answer="Hello.", **more):
    return StoredTurn(parts=parts, answer=answer, thinking=False, **more)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "data" / "sessions"


@pytest.fixture
def store(folder):
    with Store(folder) as opened:
        yield opened


@pytest.fixture
def clock(monkeypatch):
    """Makes every look at the clock a minute later than the one before."""
    now = [NOON]

    def tick():
        now[0] += timedelta(minutes=1)
        return now[0]

    monkeypatch.setattr(sessions, "_now", tick)


def saved(store, *texts, name=None):
    """A session with such questions, closed."""
    session = store.new("demo", "bf16", name=name)
    session = store.save(replace(session, turns=tuple(turn(text) for text in texts)))
    store.close(session)
    return session


def left(folder):
    """Every file and folder below, without the locks."""
    return sorted(
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.name not in (sessions.LOCK, sessions.NAMES)
    )


# -- what is kept ----------------------------------------------------------------------------------


def test_what_was_saved_is_read_again(store, folder):
    session = store.new("Qwen/Qwen3.5-4B", "int4", system=ODD)
    picture = store.add_picture(session, ODD, PNG)
    turns = (
        turn(ODD, picture, ODD, answer=ODD, reasoning=ODD, finish="stop", reasoning_tokens=612),
        StoredTurn(parts=(picture,), thinking=True),
    )
    session = store.save(replace(session, turns=turns))
    assert Store(folder).read(session.id) == session
    assert Store(folder).picture(session, picture) == PNG
    assert store.open(session.id) == session
    assert session.created <= session.updated


def test_the_file_is_utf_8_and_has_nothing_that_a_terminal_obeys(store, folder):
    session = store.save(replace(store.new("demo", "bf16", ODD), turns=(turn("héllo 😀"),)))
    text = (folder / session.id / FILE).read_bytes().decode()
    assert "héllo 😀" in text
    assert not re.search(r"[\0-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", text)


def test_files_are_for_their_owner_alone(store, folder):
    session = store.new("demo", "bf16")
    picture = store.add_picture(session, "a.png", PNG)
    store.save(replace(session, turns=(turn(picture),)))
    for path in (folder, *folder.rglob("*")):
        mode = 0o700 if path.is_dir() else 0o600
        assert stat.S_IMODE(path.stat().st_mode) == mode, path


def test_an_id_says_when_it_began(store, monkeypatch):
    monkeypatch.setattr(sessions, "_now", lambda: NOON)
    assert store.new("demo", "bf16").id.startswith(f"{NOON.astimezone():%Y%m%d-%H%M}-")


def test_a_draw_that_is_taken_is_drawn_again(store, monkeypatch):
    draws = iter(["aaaa", "aaaa", "bbbb"])
    monkeypatch.setattr(sessions.secrets, "token_hex", lambda count: next(draws))
    monkeypatch.setattr(sessions, "_now", lambda: NOON)
    first, second = store.new("demo", "bf16"), store.new("demo", "bf16")
    assert (first.id[-4:], second.id[-4:]) == ("aaaa", "bbbb")


def test_a_session_in_which_nothing_was_said_leaves_nothing(store, folder):
    store.new("demo", "bf16")
    store.new("demo", "bf16", name="notes")
    assert [entry.label for entry in store.listing()] == ["notes"]  # the name is taken, though
    store.close()
    assert left(folder) == []


def test_what_was_taken_back_is_an_empty_session_and_stays(store, folder):
    session = store.new("demo", "bf16", name="notes")
    session = store.save(replace(session, turns=(turn("q"),)))
    store.save(replace(session, turns=()))
    store.close()
    assert store.read("notes").turns == ()


def test_without_a_name_it_goes(store, folder):
    """And `last` is not such a one: a system prompt alone, a question that was refused."""
    session = store.save(store.new("demo", "bf16", system="Be brief."))
    session = store.save(replace(session, turns=(turn("q", answer=None),)))
    store.save(replace(session, turns=()))
    assert store.listing()
    store.close()
    assert left(folder) == []

    session = store.new("demo", "bf16")
    store.save(replace(store.save(session), turns=(turn("q"),)))  # something was said after all
    store.close()
    assert len(store.read("last").turns) == 1


def test_pictures_that_no_turn_names_go_with_the_next_save(store, folder):
    session = store.new("demo", "bf16")
    one, two = (store.add_picture(session, "a.png", PNG + bytes([i])) for i in range(2))
    both = store.save(replace(session, turns=(turn(one, "?"), turn(two, one))))
    assert {path.name for path in (folder / session.id / IMAGES).iterdir()} == both.digests
    store.save(replace(both, turns=both.turns[:1]))
    assert [path.name for path in (folder / session.id / IMAGES).iterdir()] == [one.digest]


def test_the_same_picture_is_kept_once_and_mended(store, folder):
    session = store.new("demo", "bf16")
    picture = store.add_picture(session, "a.png", PNG)
    (folder / session.id / IMAGES / picture.digest).write_bytes(b"damaged")
    again = store.add_picture(session, "b.png", PNG)
    session = store.save(replace(session, turns=(turn(picture, again),)))
    assert store.picture(session, picture) == PNG
    assert len(list((folder / session.id / IMAGES).iterdir())) == 1


def test_what_only_we_can_get_wrong(store):
    session = store.new("demo", "bf16")
    with pytest.raises(ValueError, match="was not added"):
        store.save(replace(session, turns=(turn(StoredPicture("a.png", "0" * 64)),)))
    store.close(session)
    for write in (
        lambda: store.save(session),
        lambda: store.rename(session, "notes"),
        lambda: store.add_picture(session, "a.png", PNG),
    ):
        with pytest.raises(ValueError, match="not open for writing"):
            write()


# -- names -----------------------------------------------------------------------------------------


def test_a_session_is_found_by_what_people_type(store, clock, monkeypatch):
    draws = iter(["a1b2", "a1c3"])
    monkeypatch.setattr(sessions.secrets, "token_hex", lambda count: next(draws))
    older, newer = saved(store, "q", name="büro"), saved(store, "q")
    for name in (older.id, "büro", "bu\u0308ro", older.id[:13]):
        assert store.read(name).id == older.id
    assert store.read("last") == newer
    assert store.find("büro", whole=True) == store.find(older.id, whole=True) == older.id
    with pytest.raises(UsageError, match="no session is called"):
        store.find(older.id[:13], whole=True)
    with pytest.raises(UsageError, match="stands for 2 sessions") as caught:
        store.read("2026")
    assert older.id in caught.value.message
    with pytest.raises(UsageError, match="no session is called 'bürro'") as caught:
        store.read("bürro")
    assert caught.value.hint == "did you mean büro? qwen35 sessions ls lists them"
    for name in ("", "/", "..", "../x", "\0", "x" * 5_000, "büro\n", "\ud800"):
        with pytest.raises(UsageError, match="no session is called"):
            store.read(name)


def test_a_use_makes_it_the_last_and_a_name_does_not(store, clock):
    older, newer = saved(store, "q"), saved(store, "q")
    named = store.rename(store.open(older.id), "notes")
    store.close()
    assert store.read("last") == newer
    store.save(store.open("notes"))
    assert store.read("last").id == named.id


def test_without_sessions_there_is_no_last(store):
    assert store.listing() == []
    with pytest.raises(UsageError, match="no session is saved yet"):
        store.open("last")


def test_what_is_no_name_is_not_given(store, folder):
    session = store.save(replace(store.new("demo", "bf16"), turns=(turn("q"),)))
    for give in (
        lambda: store.new("demo", "bf16", name="last"),
        lambda: store.rename(session, "../x"),
    ):
        with pytest.raises(UsageError, match="cannot be the name of a session"):
            give()
    store.close()
    assert left(folder) == [session.id, f"{session.id}/{FILE}"]


def test_a_name_is_given_once(store, folder):
    first = saved(store, "q", name="notes")
    other = store.new("demo", "bf16")
    for taken in (
        lambda: store.new("demo", "bf16", name="notes"),
        lambda: store.rename(other, "notes"),
    ):
        with pytest.raises(UsageError, match=f"session {first.id} is called notes already"):
            taken()
    assert store.rename(store.open("notes"), "notes").name == "notes"  # its own
    store.rename(store.open("notes"), "more")
    assert store.rename(other, "notes") == store.read("notes")


def test_two_programs_do_not_give_a_name_at_once(store, folder, monkeypatch):
    monkeypatch.setattr(locks, "NAMING_S", 0.0)
    with store._naming("notes"), pytest.raises(Qwen35Error, match=r"holds .*names\.lock"):
        Store(folder).new("demo", "bf16", name="notes")
    assert left(folder) == []


# -- damage ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"version": 2}, "it has version 2, this qwen35 reads 1"),
        ({"turns": ["q"]}, "turn 1 is not made of"),
    ],
    ids=["version", "form"],
)
def test_what_is_not_as_we_write_it_is_refused(store, folder, change, reason):
    session = saved(store, "q")
    path = folder / session.id / FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    check_damaged(store, folder, session.id, reason)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not usable JSON"),
        (b'{"version": 1, "name', "not usable JSON"),
        (b"[]", "holds a JSON list"),
        (b"[" * 200_000, "not usable JSON"),
        (b'{"version": 1, "version": 1}', "occurs twice"),
        (b'{"version": NaN}', "not a JSON number"),
        (b'{"version": ' + b"9" * 5_000 + b"}", "not usable JSON"),
        (b"\xff\xfe{}", "not usable JSON"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_what_is_no_json_is_refused(store, folder, data, reason):
    session = saved(store, "q")
    (folder / session.id / FILE).write_bytes(data)
    check_damaged(store, folder, session.id, reason)


def test_what_is_no_file_is_refused_and_does_not_hang(store, folder, monkeypatch):
    piped, nested, large = (saved(store, "q") for _ in range(3))
    for session in (piped, nested):
        (folder / session.id / FILE).unlink()
    os.mkfifo(folder / piped.id / FILE)
    (folder / nested.id / FILE).mkdir()
    with (folder / large.id / FILE).open("r+b") as file:
        file.truncate(64 * 2**20 + 1)
    check_damaged(store, folder, piped.id, "it is not a regular file")
    check_damaged(store, folder, nested.id, "it is not a regular file")
    check_damaged(store, folder, large.id, "it has more than 64 MiB")


def check_damaged(store, folder, id, reason):
    """It is said, the others are listed, and the hint mends it."""
    sound = saved(store, "sound")
    for use in (store.read, store.open):
        with pytest.raises(Qwen35Error) as caught:
            use(id)
        assert caught.value.message.startswith(f"{folder / id / FILE} cannot be used: ")
        assert reason in caught.value.message
        assert len(caught.value.message) < 500
        assert caught.value.hint == f"qwen35 sessions rm {id} removes it"
    listed = {entry.id: entry for entry in store.listing()}
    assert reason in listed[id].fault and listed[id].session is None
    assert listed[sound.id].session == sound
    store.remove(id)
    assert id not in {entry.id for entry in store.listing()}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read and write everything")
def test_what_may_not_be_read_is_an_error(store, folder):
    session = saved(store, "q")
    (folder / session.id / FILE).chmod(0)
    with pytest.raises(Qwen35Error, match="Permission denied"):
        store.read(session.id)
    folder.chmod(0)
    with pytest.raises(Qwen35Error, match=f"could not read {folder}: Permission denied"):
        store.listing()
    folder.chmod(0o700)


def test_a_folder_that_cannot_be_is_an_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(Qwen35Error, match="could not make a session in"):
        Store(tmp_path / "file" / "sessions").new("demo", "bf16")


def test_other_things_in_the_folder_are_no_sessions(store, folder, tmp_path):
    session = saved(store, "q")
    (folder / "notes.txt").touch()
    (folder / "20261126-0912-a1b2").write_text("a file")
    (folder / "20261126-0912-a1b3").symlink_to(tmp_path)
    (folder / "20261126-0912-a1b4").mkdir()
    assert [entry.id for entry in store.listing()] == [session.id]
    with pytest.raises(UsageError, match="no session is called"):
        store.read("20261126-0912-a1b4")


def test_a_picture_that_changed_or_went_is_said(store, folder):
    session = store.new("demo", "bf16")
    picture = store.add_picture(session, "cat.png", PNG)
    session = store.save(replace(session, turns=(turn(picture),)))
    path = folder / session.id / IMAGES / picture.digest
    path.write_bytes(PNG[:-1] + b"x")
    with pytest.raises(Qwen35Error, match=r"the picture cat\.png .* its bytes have changed"):
        store.picture(session, picture)
    path.unlink()
    with pytest.raises(Qwen35Error, match="No such file") as caught:
        store.picture(session, picture)
    assert str(path) in caught.value.message
    assert f"qwen35 sessions rm {session.id}" in caught.value.hint


# -- a disk that is full, a process that is killed -------------------------------------------------


def test_a_full_disk_is_said_and_costs_nothing(store, folder):
    session = store.save(replace(store.new("demo", "bf16"), turns=(turn("q"),)))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4_096, limits[1]))
    try:
        with pytest.raises(Qwen35Error) as full:
            store.save(replace(session, turns=(turn("q" * 9_999),)))
        with pytest.raises(Qwen35Error, match="could not save"):
            store.add_picture(session, "a.png", bytes(9_999))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    path = folder / session.id / FILE
    assert full.value.message == f"could not save {path}: File too large"
    assert full.value.hint == "make room on that disk; -n saves nothing"
    assert store.read(session.id) == session
    assert not [each for each in left(folder) if "partial" in each]


def test_a_new_session_is_on_the_disk_down_to_its_name(store, folder, monkeypatch):
    session = store.new("demo", "bf16")
    synced, sync = [], os.fsync

    def record(descriptor):
        synced.append(os.fstat(descriptor).st_ino)
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", record)
    picture = store.add_picture(session, "a.png", PNG)
    store.save(replace(session, turns=(turn(picture),)))
    home = folder / session.id
    order = (home / IMAGES / picture.digest, home / IMAGES, home / FILE, home, folder)
    assert synced == [path.stat().st_ino for path in order]


def test_what_would_not_be_read_again_is_not_written(store, monkeypatch):
    session = store.save(replace(store.new("demo", "bf16"), turns=(turn("q"),)))
    monkeypatch.setattr(sessions, "MAX_BYTES", 2**20)
    with pytest.raises(Qwen35Error, match=r"would take 1\.0 MiB, at most 1 are read again"):
        store.save(replace(session, turns=(turn("q" * 2**20),)))
    assert store.read(session.id) == session


KILLED = """
import shutil, sys
from dataclasses import replace
from pathlib import Path
from qwen35cli.app.sessions import LOCK, Store
from qwen35cli.app.transcript import StoredTurn
from qwen35cli.errors import UsageError
from tests.killed import dying_at, in_child

folder, kept = Path(sys.argv[1]) / "sessions", Path(sys.argv[1]) / "kept"
DATA = {"one": b"1" * 5_000, "two": b"2" * 5_000}

def turn(*parts):
    return StoredTurn(parts=parts, answer="a", thinking=False)

with Store(kept) as store:
    before = store.new("demo", "bf16", name="notes")
    one = store.add_picture(before, "one", DATA["one"])
    before = store.save(replace(before, turns=(turn(one),)))

def ask():
    store = Store(folder)
    session = store.open("notes")
    two = store.add_picture(session, "two", DATA["two"])
    store.save(replace(session, turns=(*session.turns, turn("q", two))))

def undo():
    store = Store(folder)
    session = store.open("notes")
    store.save(replace(session, turns=()))

def rename():
    store = Store(folder)
    store.rename(store.open("notes"), "other")

def remove():
    store = Store(folder)
    store.remove(store.find("notes"))

def begin():
    store = Store(folder)
    session = store.new("demo", "bf16", name="new")
    store.add_picture(session, "one", DATA["one"])
    store.save(replace(session, turns=(turn(one),)))

def outcome():
    # what is there is whole, its pictures too
    found = {}
    for entry in Store(folder).listing():
        assert not entry.fault, entry
        for stored in entry.session.turns:
            for part in stored.parts:
                if not isinstance(part, str):
                    assert Store(folder).picture(entry.session, part) == DATA[part.name]
        found[entry.session.name] = len(entry.session.turns)
    return found

WORK = {
    ask: [{"notes": 1}, {"notes": 2}],
    undo: [{"notes": 1}, {"notes": 0}],
    rename: [{"notes": 1}, {"other": 1}],
    remove: [{"notes": 1}, {}],
    begin: [{"notes": 1}, {"notes": 1, "new": 0}, {"notes": 1, "new": 1}],
}
deaths = 0
for work, allowed in WORK.items():
    for number in range(1, 100):
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(kept, folder)
        lived = in_child(dying_at(number, work))
        found = outcome()
        assert found in allowed, (work, number, found)
        if lived:
            assert found == allowed[-1], (work, number, found)
        # and one goes on from there: the lock is free, what was left lying is gone
        with Store(folder) as store:
            store.new("demo", "bf16")
            for name in found:
                store.save(store.open(name))
        assert outcome() == found
        named = {digest for each in store.listing() for digest in each.session.digests}
        files = {path.name for path in folder.rglob("*") if path.is_file()}
        assert files - named <= {LOCK, "session.json", ".names.lock"}, files
        assert len([each for each in folder.iterdir() if each.is_dir()]) == len(found)
        if lived:
            break
        deaths += 1
    assert lived, work
sys.stdout.write(str(deaths))
"""


def test_a_kill_at_any_step_leaves_the_old_or_the_new(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path)],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=900,  # some fifty processes, and all they write is synced
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 20


# -- several programs ------------------------------------------------------------------------------

HOLD = """
import sys, time
from pathlib import Path
from qwen35cli.app.sessions import Store
store = Store(Path(sys.argv[1]))
store.open("notes")
print("open", flush=True)
time.sleep(300)
"""


def test_a_second_program_is_told_who_has_the_session(store, folder):
    session = saved(store, "q", name="notes")
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], env=environment(), stdout=subprocess.PIPE
    ) as holder:
        try:
            assert holder.stdout.readline() == b"open\n"
            for _ in range(2):  # the first attempt takes nothing from what the second is told
                with pytest.raises(UsageError) as caught:
                    store.open("notes")
                assert caught.value.message == (
                    f"session {session.id} is open in another qwen35 (pid {holder.pid})"
                )
            assert "--session NAME takes another" in caught.value.hint
            with pytest.raises(UsageError, match=f"pid {holder.pid}"):
                store.remove(session.id)
            assert store.read("notes") == session  # to look at it is free
            assert [entry.id for entry in store.listing()] == [session.id]
        finally:
            holder.send_signal(signal.SIGKILL)
    assert store.open("notes") == session


def test_a_session_is_open_once_in_a_process_too(store, folder):
    saved(store, "q", name="notes")
    assert store.open("notes") == store.open("notes")
    with pytest.raises(UsageError, match=f"pid {os.getpid()}"):
        Store(folder).open("notes")
    store.close()
    with Store(folder) as other:
        other.open("notes")
    store.open("notes")


def test_what_others_begin_is_not_swept(store, folder):
    session = store.new("demo", "bf16")
    saved(Store(folder), "q")
    assert store.save(replace(session, turns=(turn("q"),))) == store.read(session.id)


def test_an_open_session_may_be_removed_by_who_has_it(store, folder):
    session = saved(store, "q")
    store.open(session.id)
    store.remove(session.id)
    store.close()
    assert left(folder) == []


def test_what_is_removed_is_gone_before_its_files_are(store, folder, monkeypatch):
    one, two = saved(store, "q"), saved(store, "q")
    with monkeypatch.context() as patched:
        patched.setattr(sessions.shutil, "rmtree", broken_rmtree)
        with pytest.raises(Qwen35Error, match=f"could not remove .*{one.id}: Input/output error"):
            store.remove(one.id)
    assert [entry.id for entry in store.listing()] == [two.id]
    store.close(store.new("demo", "bf16"))
    assert left(folder) == [two.id, f"{two.id}/{FILE}"]


def broken_rmtree(path, ignore_errors=False):
    if not ignore_errors:
        raise OSError(errno.EIO, os.strerror(errno.EIO))


# -- room ------------------------------------------------------------------------------------------


def test_the_oldest_go_first_and_the_youngest_stays(store, folder, clock):
    made = [saved(store, "q" * 1_000 * i) for i in range(1, 5)]
    sizes = {entry.id: entry.nbytes for entry in store.listing()}
    total = sum(sizes.values())

    def going(cap):
        return [entry.id for entry in store.excess(cap)]

    first, second, third, _ = (session.id for session in made)
    assert sizes[first] > 1_000
    assert going(total) == []
    assert going(total - 1) == [first]
    assert going(total - sizes[first]) == [first]
    assert going(total - sizes[first] - 1) == [first, second]
    assert going(0) == going(-1) == [first, second, third]
    store.open(second)
    assert going(0) == [first, third]
    assert [entry.id for entry in Store(folder).excess(0)] == [first, third]
