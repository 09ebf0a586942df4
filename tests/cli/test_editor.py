"""The line editor: most keys through a pipe, what the screen shows through a pseudo-terminal."""

import io
import os
import re
import signal
import stat
import subprocess
import sys
import termios
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pexpect
import pyte
import pytest
from prompt_toolkit.application import create_app_session
from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.document import Document
from prompt_toolkit.input import create_pipe_input

from qwen35cli.cli.editor import ANY_FILE, PICTURES, PLACEHOLDER, Editor, Hooks, history
from qwen35cli.cli.editor.completion import Completions
from qwen35cli.cli.editor.paste import SHOWN_CHARACTERS, Pastes
from qwen35cli.cli.signals import ending_as_interrupt
from qwen35cli.errors import InterruptedByUser, UsageError
from tests.scripted import PATIENCE, environment

ENTER, ESCAPE, TAB, BACKSPACE = "\r", "\x1b", "\t", "\x7f"
UP, DOWN, LEFT = "\x1b[A", "\x1b[B", "\x1b[D"
START, END, UNDO = "\x01", "\x05", "\x1f"
LONG = "".join(f"line {i}\n" for i in range(214))


def pasted(text):
    return f"\x1b[200~{text}\x1b[201~"


@pytest.fixture(autouse=True)
def terminal(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("VISUAL", raising=False)
    monkeypatch.delenv("EDITOR", raising=False)


@contextmanager
def keyboard():
    with create_pipe_input() as keys, create_app_session(input=keys):
        yield keys


@contextmanager
def typing(pipe, *keys):
    """Type, then hang up: what waits for more keys ends with EOFError."""

    def type_all():
        for each in keys:
            pipe.send_text(each)
        pipe.close()

    typist = threading.Thread(target=type_all)  # a pipe does not hold a long paste
    typist.start()
    try:
        yield
    finally:
        pipe.pipe.close_read()  # a typist whom nobody reads any more must not wait
        typist.join()  # the keyboard hangs up too, and a pipe is not to be closed by two at once


def typed(keys, *, history_file=None, default="", **more):
    """What an editor gives for these keys."""
    with keyboard() as pipe, typing(pipe, keys):
        return Editor(history_file, **more).read(default)


def several(*lines, history_file=None, **more):
    """What one editor gives for one message after another, each typed once it is asked for."""
    with keyboard() as pipe:
        editor = Editor(history_file, **more)
        read = []
        for line in lines:
            threading.Thread(target=pipe.send_text, args=[line]).start()
            read.append(editor.read())
        return read


# -- keys -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        ("hello" + ENTER, "hello"),
        (ENTER, ""),
        ("日本語 👍🏽" + LEFT + BACKSPACE + ENTER, "日本語 🏽"),
        ("a\nb" + ENTER, "a\nb"),
        ("a" + ESCAPE + ENTER + "b" + ENTER, "a\nb"),
        ("a\x1b[13;2ub" + ENTER, "a\nb"),
        ("a\x1b[27;2;13~b" + ENTER, "a\nb"),
        ("ab\x1b[13;5u", "ab"),
        ("lost\x03kept" + ENTER, "kept"),
        ("ab" + START + "\x04" + ENTER, "b"),
    ],
)
def test_keys(keys, text):
    assert typed(keys) == text


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        ('"""a\r b\r"""\r', "a\n b"),
        ('"""a"""\r', "a"),
        ('"""\r\r"""\r', ""),
        ('"""def f():\r  """Says."\r"""\r', 'def f():\n  """Says."'),
        ('"""a""" is quoted\r', '"""a""" is quoted'),
        ('say """a"""\r', 'say """a"""'),
        (pasted('"""Docs.\n"""\nimport os') + ENTER, '"""Docs.\n"""\nimport os'),
        (pasted('"""Docs."""\nx = """a"""') + ENTER, '"""Docs."""\nx = """a"""'),
    ],
)
def test_blocks(keys, text):
    assert typed(keys) == text


def test_leaving():
    with pytest.raises(EOFError):
        typed("\x04")
    with pytest.raises(KeyboardInterrupt):
        typed("\x03")
    with pytest.raises(KeyboardInterrupt):
        typed("text\x03\x03")


def test_a_closed_terminal_ends_the_reading():
    with keyboard() as pipe:
        pipe.close()
        with pytest.raises(EOFError):
            Editor(None).read()


def test_a_message_that_came_back_stands_in_the_line_with_the_cursor_behind_it():
    assert typed("!" + ENTER, default="a\nb") == "a\nb!"


def test_what_is_typed_after_enter_is_for_the_next_message():
    with keyboard() as pipe, typing(pipe, "one\rtwo\r"):
        editor = Editor(None)
        assert [editor.read(), editor.read()] == ["one", "two"]


# -- history ----------------------------------------------------------------------------------


def test_up_and_down_move_by_line_first():
    assert several("one\r", "two\nlines\r", UP + "!\r")[2] == "two\nlines!"
    assert several("one\r", "two\nlines\r", UP * 3 + "!\r")[2] == "one!"
    assert several("one\r", "two\nlines\r", UP * 3 + DOWN + "!\r")[2] == "two!\nlines"
    assert several("one\r", "a\nb" + UP + "!\r")[1] == "a!\nb"


def test_a_search_finds_an_earlier_message():
    lines = several("the first\r", "another\r", "\x12first" + ENTER + END + "!" + ENTER)
    assert lines[2] == "the first!"


def test_ctrl_c_ends_a_search_only():
    assert several("the first\r", "mine\x12first\x03!\r")[1] == "mine!"


def test_messages_of_earlier_runs(tmp_path):
    file = tmp_path / "state" / "history"
    assert typed("one\n  two\n\n+three\r", history_file=file) == "one\n  two\n\n+three"
    assert typed("\x1b[200~b\xe4d\x1b[201~ 日本\r", history_file=file) == "bäd 日本"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert typed(UP + ENTER, history_file=file) == "bäd 日本"
    assert typed(UP * 2 + ENTER, history_file=file) == "one\n  two\n\n+three"


def test_a_message_that_begins_with_a_blank_or_comes_twice_is_not_kept(tmp_path):
    file = tmp_path / "history"
    several("kept\r", " secret\r", "again\r", "again\r", history_file=file)
    assert "secret" not in file.read_text()
    assert file.read_text().count("again") == 1
    assert typed(UP * 2 + ENTER, history_file=file) == "kept"


def test_damaged_and_open_history_is_read_as_far_as_it_goes(tmp_path):
    file = tmp_path / "history"
    file.write_bytes(
        b"junk\n\x00\x00\n# 2026\n+first\n\xff\xfe\n# \n+sec\xffond\n+line\n# cut\n+thi"
    )
    file.chmod(0o644)
    entries = history.Messages(file, str).load_history_strings()
    assert list(entries) == ["thi", "sec\udcffond\nline", "first"]
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert typed("new\r", history_file=file) == "new"
    assert typed(UP + ENTER, history_file=file) == "new"


def test_the_oldest_messages_go_from_a_full_file(tmp_path, monkeypatch):
    monkeypatch.setattr(history, "CAP_BYTES", 2_000)
    monkeypatch.setattr(history, "KEPT_BYTES", 1_000)
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "history")
    kept = history.Messages(link, str)
    for i in range(60):
        kept.append_string(f"message {i}\nof two lines")
        assert (tmp_path / "history").stat().st_size <= 2_000
    entries = list(history.Messages(link, str).load_history_strings())
    assert 10 < len(entries) < 50
    assert entries == [f"message {i}\nof two lines" for i in range(59, 59 - len(entries), -1)]
    assert link.is_symlink()
    assert stat.S_IMODE((tmp_path / "history").stat().st_mode) == 0o600

    kept.append_string("x" * 1_500)  # more than is kept: there until the next
    assert list(history.Messages(link, str).load_history_strings()) == ["x" * 1_500]
    kept.append_string("small")
    assert next(iter(history.Messages(link, str).load_history_strings())) == "small"
    kept.append_string("y" * 2_001)  # more than there may be: for this run alone
    assert next(iter(kept.load_history_strings())) == "y" * 2_001
    assert next(iter(history.Messages(link, str).load_history_strings())) == "small"
    assert sorted(p.name for p in tmp_path.iterdir()) == [".history.lock", "history", "link"]


def test_several_programs_write_one_history(tmp_path):
    file = tmp_path / "history"
    program = f"""
import sys
from pathlib import Path
from qwen35cli.cli.editor import history
history.CAP_BYTES, history.KEPT_BYTES = 20_000, 15_000
messages = history.Messages(Path({str(file)!r}), str)
for i in range(300):
    messages.append_string(f"{{sys.argv[1]}} {{i}}\\nsecond line of {{sys.argv[1]}} {{i}}")
sys.exit(bool(messages.problem))
"""
    running = [
        subprocess.Popen([sys.executable, "-c", program, name], env=environment())
        for name in ("one", "two")
    ]
    assert [process.wait(PATIENCE) for process in running] == [0, 0]
    entries = [entry.split("\n") for entry in history.Messages(file, str).load_history_strings()]
    assert len(entries) > 150
    assert all(second == f"second line of {first}" for first, second in entries)
    for name in ("one", "two"):  # none is lost, and each is in its order
        numbers = [int(first.split()[1]) for first, _ in entries if first.startswith(name)]
        assert numbers == list(range(299, 299 - len(numbers), -1))


@pytest.mark.parametrize("kind", ["folder", "pipe", "no folder"])
def test_a_history_that_cannot_be_kept_is_told_once(tmp_path, kind):
    file, told = tmp_path / "history", []
    if kind == "folder":
        file.mkdir()
    elif kind == "pipe":
        os.mkfifo(file)
    else:
        (tmp_path / "state").write_text("")
        file = tmp_path / "state" / "history"
    hooks = Hooks(on_error=lambda message, hint: told.append(message))
    assert several("one\r", UP + ENTER, history_file=file, hooks=hooks) == ["one", "one"]
    assert len(told) == 1
    assert told[0].startswith(f"messages are not kept for later runs: {file}: ")


def test_a_history_that_fails_later_is_told_too(tmp_path, monkeypatch):
    told = []
    hooks = Hooks(on_error=lambda message, hint: told.append(message))

    def full(path, entry):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(history, "_append", full)
    read = several("one\r", "two\r", UP * 2 + ENTER, history_file=tmp_path / "h", hooks=hooks)
    assert read == ["one", "two", "one"]
    assert len(told) == 1
    assert told[0].endswith("No space left on device")


# -- paste ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "one",
        "one\ntwo\n",
        "\n\n",
        "x" * (SHOWN_CHARACTERS + 1),
        LONG,
        "a\x03\x04\x07\x1b[31mb\x1b\x1bc\t\x00",  # no key of these is pressed
        '"""',
        "日本語 👍🏽\n" * 50,
    ],
)
def test_a_paste_is_text_and_is_not_sent(text):
    assert typed("<" + pasted(text) + ">" + ENTER) == f"<{text}>"
    assert typed("<" + pasted(text.replace("\n", "\r\n")) + ">" + ENTER) == f"<{text}>"
    assert typed("<" + pasted(text.replace("\n", "\r")) + ">" + ENTER) == f"<{text}>"


def test_a_paste_that_is_not_utf_8_keeps_its_bytes():
    with keyboard() as pipe:
        pipe.send_bytes(b"\x1b[200~b\xe4d\x1b[201~\r")
        assert Editor(None).read() == "b\udce4d"


def test_forty_lines_are_shown_and_more_are_folded():
    pastes = Pastes()
    assert pastes.fold("a\n" * 40) == "a\n" * 40
    marks = [pastes.fold("a\n" * 40 + "a"), pastes.fold("b\n" * 1_214), pastes.fold("x" * 10**6)]
    assert [len(mark) for mark in marks] == [1, 1, 1]
    labels = ["[pasted 41 lines]", "[pasted 1,214 lines]", "[pasted 1,000,000 characters]"]
    assert [pastes.label(mark) for mark in marks] == labels
    folded = f"{marks[1]} and {marks[0]}{marks[1]}"
    full = "b\n" * 1_214 + " and " + "a\n" * 40 + "a" + "b\n" * 1_214
    assert pastes.expand(folded) == full
    assert pastes.fold_again(full) == folded


def test_a_label_that_is_typed_is_text():
    label = "[pasted 214 lines]"
    assert typed(pasted(LONG) + label + pasted(label) + ENTER) == LONG + label * 2


def test_one_backspace_removes_a_folded_paste():
    assert typed("a" + pasted(LONG) + "b" + LEFT + BACKSPACE + ENTER) == "ab"
    assert typed("a" + pasted(LONG) + BACKSPACE + UNDO + ENTER) == "a" + LONG
    assert typed("a " + pasted(LONG) + "\x17b\x19" + ENTER) == "a b" + LONG  # cut and put back


def test_the_history_holds_the_full_text(tmp_path):
    file = tmp_path / "history"
    typed("see " + pasted(LONG) + ENTER, history_file=file)
    assert typed(UP + "!" + ENTER, history_file=file) == "see " + LONG + "!"


def test_one_key_leads_past_a_long_message(tmp_path):
    file = tmp_path / "history"
    lines = several("one\r", "see " + pasted(LONG) + ENTER, UP * 2 + "!\r", history_file=file)
    assert lines[2] == "one!"
    assert several("see " + pasted(LONG) + ENTER, UP + BACKSPACE + "this\r")[1] == "see this"
    keys = UP * 2 + ENTER  # of an earlier run it is not known what was pasted
    assert typed(keys, history_file=file) == "see " + LONG
    assert typed(UP * 3 + DOWN + "!\r", history_file=file) == "one!!"


def test_a_message_that_came_back_is_folded_again():
    keys = ["see " + pasted(LONG) + ENTER, BACKSPACE + "nothing" + ENTER]
    with keyboard() as pipe, typing(pipe, *keys):
        editor = Editor(None)
        text = editor.read()
        assert editor.read(default=text) == "see nothing"


def test_a_paste_of_pictures_becomes_what_the_owner_says():
    asked = []

    def on_paste(text):
        asked.append(text)
        return "[image 1] " if text.endswith(".png") else None

    hooks = Hooks(on_paste=on_paste)
    keys = "see " + pasted("/a b.png") + "and " + pasted("text\r\n") + pasted(LONG) + ENTER
    assert typed(keys, hooks=hooks) == "see [image 1] and text\n" + LONG
    assert asked == ["/a b.png", "text\n", LONG]


# -- the owner's work -------------------------------------------------------------------------


def test_ctrl_v_inserts_what_came_from_the_clipboard_and_ctrl_o_toggles():
    found, toggled = ["[image 2] ", None], []
    hooks = Hooks(on_clipboard=lambda: found.pop(0), on_toggle_thinking=lambda: toggled.append("!"))
    assert typed("a\x16b\x16c\x0f\x0f" + ENTER, hooks=hooks) == "a[image 2] bc"
    assert toggled == ["!", "!"]


@pytest.mark.parametrize("key", ["\x16", "\x0f", pasted("a.png")])
def test_an_error_with_a_hint_is_told_and_the_line_stays(key):
    told = []

    def fail(*_):
        raise UsageError("no picture", "copy one")

    hooks = Hooks(
        on_paste=fail,
        on_clipboard=fail,
        on_toggle_thinking=fail,
        on_error=lambda message, hint: told.append((message, hint)),
    )
    expected = "linea.png" if "a.png" in key else "line"
    assert typed("line" + key + ENTER, hooks=hooks) == expected
    assert told == [("no picture", "copy one")]


@pytest.mark.parametrize("key", ["\x16", "\x0f", pasted("a.png")])
@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt, InterruptedByUser("x")])
def test_any_other_error_reaches_the_caller(key, error):
    def fail(*_):
        raise error

    hooks = Hooks(on_paste=fail, on_clipboard=fail, on_toggle_thinking=fail)
    with pytest.raises(error if isinstance(error, type) else type(error)):
        typed("line" + key + ENTER, hooks=hooks)


def test_an_error_in_a_completion_reaches_the_caller():
    with pytest.raises(ZeroDivisionError):
        typed("/set " + TAB + ENTER, commands={"/set": lambda typed: [1 / 0]})


def test_sigterm_raises_what_its_handler_raises_wherever_it_arrives():
    def send():
        time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGTERM)

    def send_soon():
        pool.submit(send)

    with ending_as_interrupt(), keyboard() as pipe, ThreadPoolExecutor() as pool:
        handler = signal.getsignal(signal.SIGTERM)
        pipe.send_text("\x16")  # a key that is read, so that the signal finds it waiting for more
        with pytest.raises(InterruptedByUser):
            Editor(None, hooks=Hooks(on_clipboard=send_soon)).read()
        assert signal.getsignal(signal.SIGTERM) is handler

    with ending_as_interrupt():  # while the owner's work is done
        hooks = Hooks(on_clipboard=lambda: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(InterruptedByUser):
            typed("a\x16b" + ENTER, hooks=hooks)

    def values(typed):  # inside of a callback of the event loop
        os.kill(os.getpid(), signal.SIGTERM)
        return []

    with ending_as_interrupt(), pytest.raises(InterruptedByUser):
        typed("/set " + TAB, commands={"/set": values})


# -- the external editor ----------------------------------------------------------------------


@pytest.fixture
def program(tmp_path, monkeypatch):
    def program(lines):
        path = tmp_path / "an editor"
        path.write_text("#!/bin/sh\n" + lines)
        path.chmod(0o755)
        monkeypatch.setenv("VISUAL", f"'{path}' --wait")

    return program


def test_ctrl_g_opens_the_full_text(program, tmp_path):
    program(f'cp "$2" "{tmp_path}/seen"; ls -ld "$(dirname "$2")" > "{tmp_path}/mode"\n')
    assert typed("see " + pasted(LONG) + "\x07!" + ENTER) == f"see {LONG}!"
    assert (tmp_path / "seen").read_text() == "see " + LONG
    assert (tmp_path / "mode").read_text().startswith("drwx------")


def test_what_was_saved_stands_in_the_line_and_pastes_stay_folded(program):
    program('{ cat "$2"; printf "\\r\\nmore\\n"; } > "$2.new" && mv "$2.new" "$2"\n')
    keys = pasted(LONG) + "text\x07!"
    assert typed(keys + ENTER) == LONG + "text\nmore!"
    assert typed(keys + UP + START + "\x04" + ENTER) == "text\nmore!"
    assert typed(keys + UNDO * 2 + ENTER) == LONG + "text"


@pytest.mark.parametrize(
    ("lines", "message"),
    [("exit 3\n", "ended with 3"), ('rm "$2"\n', "is gone"), ("kill -9 $$\n", "ended with -9")],
)
def test_an_editor_that_fails_leaves_the_text(program, lines, message):
    told = []
    program(lines)
    hooks = Hooks(on_error=lambda message, hint: told.append(message))
    assert typed("text\x07!" + ENTER, hooks=hooks) == "text!"
    assert len(told) == 1
    assert message in told[0]


@pytest.mark.parametrize(
    ("name", "message"),
    [("no-such-editor", "cannot start"), ("'open", "cannot read"), ("", "no ed")],
)
def test_no_editor_is_told(monkeypatch, name, message):
    told = []
    monkeypatch.setenv("EDITOR", name)
    monkeypatch.setenv("PATH", "")
    hooks = Hooks(on_error=lambda message, hint: told.append((message, hint)))
    assert typed("text\x07!" + ENTER, hooks=hooks) == "text!"
    assert message in told[0][0]
    assert told[0][1] == "export EDITOR=nano"


def test_sigterm_ends_the_external_editor_too(program, tmp_path):
    program(
        f'trap "touch {tmp_path}/told; exit" TERM; sleep .2; kill -TERM $PPID; sleep 9 & wait\n'
    )
    with ending_as_interrupt(), pytest.raises(InterruptedByUser):
        typed("text\x07!" + ENTER)
    assert (tmp_path / "told").exists()


# -- completion -------------------------------------------------------------------------------

COMMANDS = {
    "/image": PICTURES,
    "/load": lambda typed: ["my chat", "my cat", "other"],
    "/read": ANY_FILE,
    "/regen": None,
    "/set": lambda typed: ["0.7", "1.0"] if typed.startswith("temp ") else ["temp", "top-p"],
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    for name in (
        "cat.PNG",
        "cat.txt",
        "a b.jpg",
        "it's.gif",
        ".hidden.png",
        'say "x".png',
        "n\nl.png",
    ):
        (tmp_path / name).write_text("")
    (tmp_path / "my dir").mkdir()
    (tmp_path / "my dir" / "in.webp").write_text("")
    (tmp_path / "b\x1b[31m").mkdir()
    os.mkfifo(tmp_path / "pipe.png")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def completed(text):
    """Every text that Tab could make of `text`."""
    document = Document(text)
    found = Completions(COMMANDS).get_completions(document, CompleteEvent())
    return [text[: len(text) + each.start_position] + each.text for each in found]


@pytest.mark.parametrize(
    ("text", "completions"),
    [
        ("/", ["/image ", "/load ", "/read ", "/regen", "/set "]),
        ("/re", ["/read ", "/regen"]),
        ("/x", []),
        ("hello /re", []),
        ("hello", []),
        ("", []),
        ("a\n/re", []),
        ("/regen ", []),
        ("/set ", ["/set temp", "/set top-p"]),
        ("/set to", ["/set top-p"]),
        ("/set temp 0", ["/set temp 0.7"]),
        ("/load my", ["/load my chat", "/load my cat"]),
        ("/load my ca", ["/load my cat"]),
    ],
)
def test_commands_and_values(text, completions):
    assert completed(text) == completions


@pytest.mark.parametrize(
    ("text", "completions"),
    [
        ("/image c", ["/image cat.PNG"]),
        ("/read c", ["/read cat.PNG", "/read cat.txt"]),
        ("/image a", ['/image "a b.jpg"']),
        ("/image a\\ b", ['/image "a b.jpg"']),
        ("/image 'a ", ["/image 'a b.jpg'"]),
        ('/image "a b.jpg" c', ['/image "a b.jpg" cat.PNG']),
        ("/image it", ['/image "it\'s.gif"']),
        ("/image say", ["/image 'say \"x\".png'"]),
        ("/image m", ['/image "my dir/']),
        ('/image "my dir/', ['/image "my dir/in.webp"']),
        ("/image .h", ["/image .hidden.png"]),
        ("/image n", []),  # nobody could type it
        ("/image p", []),  # a pipe
        ("/image gone/", []),
        ("/image ~nobody-of-that-name/", []),
        ("/image a\x00/", []),
        ("see @cat.t", ["see @cat.txt"]),
        ("@a", ['@"a b.jpg"']),
        ("don't @'a", ["don't @'a b.jpg'"]),
        ("me@cat", []),
        ("look at ./c", ["look at ./cat.PNG"]),
        ("/image ~", ["/image ~/"]),
        ("/image ~/c", ["/image ~/cat.PNG"]),
        ("/image ~/a", ['/image "~/a b.jpg"']),
        ("{home}/c", ["{home}/cat.PNG"]),
        ("see {home}/my", ['see "{home}/my dir/']),
    ],
)
def test_paths(folder, text, completions):
    text = text.replace("{home}", str(folder))
    assert completed(text) == [each.replace("{home}", str(folder)) for each in completions]


def test_an_escape_in_a_name_is_not_offered(folder):
    assert completed("/read b") == []


def test_tab_inserts_what_is_common_and_the_only_one_whole(folder):
    assert typed("/i" + TAB + "c" + TAB + ENTER, commands=COMMANDS) == "/image cat.PNG"
    assert typed("/r" + TAB + "ad x" + ENTER, commands=COMMANDS) == "/read x"
    assert typed("/load o" + TAB + ENTER, commands=COMMANDS) == "/load other"
    assert typed("no" + TAB + "thing" + ENTER, commands=COMMANDS) == "nothing"


# -- the screen -------------------------------------------------------------------------------

PROGRAM = """
import sys
from pathlib import Path
from qwen35cli.cli.editor import ANY_FILE, Editor, Hooks
from qwen35cli.cli.signals import ending_as_interrupt
from qwen35cli.errors import InterruptedByUser

def boom():
    raise ZeroDivisionError

def on_paste(text):
    if not text.endswith(".png"):
        return None
    print("image 1: cat.png", file=sys.stderr)
    return "[image 1] "

path = Path(sys.argv[1]) if sys.argv[1:] else None
hooks = Hooks(on_paste=on_paste if path is None else None, on_clipboard=boom)
editor = Editor(path, hooks=hooks, commands={"/image": ANY_FILE, "/info": None})
default = ""
with ending_as_interrupt():
    while True:
        try:
            text = editor.read(default)
            print("got", ascii(text))
            default = "back" if text == "default" else ""
        except KeyboardInterrupt:
            print("Ctrl-C")
        except EOFError:
            sys.exit(0)
        except (InterruptedByUser, ZeroDivisionError) as error:
            print("raised", type(error).__name__)
            sys.exit(3)
"""


class Screen:
    """The editor in a pseudo-terminal, and what a person would see."""

    def __init__(self, *arguments, columns=80, rows=24, **more):
        self.process = pexpect.spawn(
            sys.executable,
            ["-c", PROGRAM, *arguments],
            env=environment(**{"TERM": "xterm-256color", "NO_COLOR": ""} | more),
            dimensions=(rows, columns),
            encoding="utf-8",
            timeout=PATIENCE,
        )
        self.send = self.process.send
        self._cooked = termios.tcgetattr(self.process.child_fd)
        self.raw = ""
        self._screen = pyte.Screen(columns, rows)
        self._stream = pyte.Stream(self._screen)

    @property
    def lines(self):
        return [line.rstrip() for line in "\n".join(self._screen.display).rstrip().split("\n")]

    @property
    def cursor(self):
        return self._screen.cursor.y, self._screen.cursor.x

    def shows(self, *lines):
        """Wait until the last lines are these."""
        self._until(lambda: self.lines[-len(lines) :] == list(lines), lines)

    def _until(self, condition, what):
        end = time.monotonic() + 30
        while not condition():
            assert time.monotonic() < end, (what, self.lines)
            try:
                piece = self.process.read_nonblocking(4096, 0.05)
            except pexpect.TIMEOUT:
                continue
            self.raw += piece
            self._stream.feed(piece)
            if "\x1b[6n" in piece:  # where is the cursor?
                self.send(f"\x1b[{self.cursor[0] + 1};{self.cursor[1] + 1}R")

    def resize(self, columns, rows):
        self._screen.resize(rows, columns)
        self.process.setwinsize(rows, columns)

    def end(self):
        """The exit code; the terminal must be as it was."""
        self.process.expect(pexpect.EOF)
        self.raw += self.process.before
        assert termios.tcgetattr(self.process.child_fd) == self._cooked
        assert self.raw.count("\x1b[?2004h") == 0 or self.raw.rindex(
            "\x1b[?2004l"
        ) > self.raw.rindex("\x1b[?2004h")
        self.process.wait()
        return self.process.exitstatus


@pytest.fixture
def screen():
    started = []

    def screen(*arguments, **more):
        started.append(Screen(*arguments, **more))
        return started[-1]

    yield screen
    for each in started:
        each.process.close(force=True)


def test_what_is_seen_of_a_conversation(screen):
    seen = screen()
    seen.shows(f">>> {PLACEHOLDER}")
    assert "\x1b[0;2m" in seen.raw
    assert seen.cursor == (0, 4)
    seen.send("日本語a" + LEFT)
    seen.shows(">>> 日本語a")
    seen._until(lambda: seen.cursor == (0, 10), "cursor")  # each of them is two columns wide
    seen.send("\x05\nsecond")
    seen.shows(">>> 日本語a", "second")  # no prefix before a further line
    seen.send(ENTER)
    seen.shows("got '\\u65e5\\u672c\\u8a9ea\\nsecond'", f">>> {PLACEHOLDER}")

    seen.send(pasted("/home/me/cat.png") + "what is it?")
    seen.shows("image 1: cat.png", ">>> [image 1] what is it?")
    seen.send("\x03")
    seen.shows("image 1: cat.png", f">>> {PLACEHOLDER}")

    seen.send(pasted(LONG) + "?")
    seen.shows(">>> [pasted 214 lines]?")
    seen._until(lambda: seen.cursor[1] == 23, "cursor")
    seen.send(LEFT + LEFT)
    seen._until(lambda: seen.cursor[1] == 4, "cursor")
    seen.send("\x03")
    seen.shows(f">>> {PLACEHOLDER}")
    seen.send("\x12sec")
    seen.shows(">>> 日本語a", "second", "I-search backward: sec")
    seen.send(ENTER + "\x03default\r")
    seen.shows("got 'default'", ">>> back")
    seen.send(ENTER)
    seen.shows(">>> back", "got 'back'", f">>> {PLACEHOLDER}")
    seen.send("\x04")
    assert seen.end() == 0


def test_a_narrow_terminal_that_grows(screen):
    seen = screen(columns=20, rows=10)
    seen.shows(">>> Type a message,", "drop an image path,", "/help")
    seen.send("/" + TAB + TAB)
    seen.shows(">>> /i", "       /image", "       /info")
    seen.send(TAB)
    seen.shows(">>> /image", "       /image", "       /info")
    seen.send(ENTER)  # takes it, and sends nothing
    seen.shows(">>> /image")
    seen.send("\x03" + "word " * 8)
    seen.shows(">>> word word word w", "ord word word word w", "ord")
    seen.resize(60, 10)
    seen.shows(">>> " + "word " * 7 + "word")
    seen.send("\x03\x04")
    assert seen.end() == 0


def test_hostile_text_is_shown_harmless(screen, tmp_path):
    file = tmp_path / "history"
    file.write_text("\n# \n+a\tb \x1b]0;title\x07 \x9b31m \u202e end\n", encoding="utf-8")
    seen = screen(str(file))
    seen.shows(f">>> {PLACEHOLDER}")
    seen.send(UP)
    seen.shows(">>> a       b �]0;title� �31m � end")
    assert not {"\x1b]0", "\x9b", "\u202e"} & set(seen.raw)
    assert "title\x07" not in seen.raw
    seen.send(ENTER)  # what is sent is what was kept
    seen.shows(r"got 'a\tb \x1b]0;title\x07 \x9b31m \u202e end'", f">>> {PLACEHOLDER}")


@pytest.mark.parametrize("variables", [{"NO_COLOR": "1"}, {"NO_COLOR": "1", "TERM": "vt100"}])
def test_no_color(screen, variables):
    seen = screen(**variables)
    seen.shows(f">>> {PLACEHOLDER}")
    seen.send(pasted("a\n") + "/" + ENTER)
    seen.send("\x04")
    assert seen.end() == 0
    styles = set(re.findall(r"\x1b\[([\d;]*)m", seen.raw))
    assert {"0;2"} <= styles <= {"0", "0;1", "0;2", "0;7"}  # weights, of the placeholder too


@pytest.mark.parametrize("where", ["editing", "Ctrl-V"])
def test_the_terminal_is_restored_when_something_is_raised(screen, where):
    seen = screen()
    seen.shows(f">>> {PLACEHOLDER}")
    seen.send("text")
    seen.shows(">>> text")
    if where == "editing":
        seen.process.kill(signal.SIGTERM)
    else:
        seen.send("\x16")
    assert seen.end() == 3
    raised = "InterruptedByUser" if where == "editing" else "ZeroDivisionError"
    assert f"raised {raised}\r\n" in seen.raw


def test_ctrl_c_as_a_signal_is_as_the_key(screen):
    seen = screen()
    seen.shows(f">>> {PLACEHOLDER}")
    seen.send("text")
    seen.shows(">>> text")
    seen.process.kill(signal.SIGINT)
    seen.shows(f">>> {PLACEHOLDER}")
    seen.process.kill(signal.SIGINT)
    seen.shows("Ctrl-C", f">>> {PLACEHOLDER}")


def test_a_dumb_terminal(screen, tmp_path):
    file = tmp_path / "history"
    seen = screen(str(file), TERM="dumb")
    seen.shows(">>>")
    seen.send("hellp\x7fo\r")
    seen.shows(">>> hello", "got 'hello'", ">>>")
    seen.send("one\n")
    seen.shows(">>> one", "got 'one'", ">>>")
    seen.send('"""a\r\rb"""\r')
    seen.shows('>>> """a', "", 'b"""', "got 'a\\n\\nb'", ">>>")
    seen.send("default\r")
    seen.shows("got 'default'", ">>> back", "(an empty line sends this again)", ">>>")
    seen.send("\r")
    seen.shows("got 'back'", ">>>")
    seen.send("lost")
    seen.shows(">>> lost")
    seen.send("\x03")
    seen.shows(">>> lost^C", "Ctrl-C", ">>>")
    seen.send("\x04")
    assert seen.end() == 0
    assert "\x1b" not in seen.raw
    assert [line for line in file.read_text().split("\n") if line.startswith("+")] == [
        *("+hello", "+one", '+"""a', "+", '+b"""', "+default", "+back")
    ]


def test_a_dumb_terminal_takes_bytes_that_are_not_utf_8(monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"b\xe4d\r\nrest")))
    editor = Editor(None)
    assert [editor.read(), editor.read()] == ["b\udce4d", "rest"]
    with pytest.raises(EOFError):
        editor.read()
