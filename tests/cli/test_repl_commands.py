"""Every slash command of a chat, with what it takes and what it does not, in a pseudo-terminal."""

import base64
import os
import re
import shutil
import stat
from pathlib import Path

import pytest

from qwen35cli.app.commands import COMMANDS
from tests.cli.chats import CTRL_O, CTRL_V, with_demo, with_script

DOCS = Path(__file__).parents[2] / "docs"
OVERHEAD = 25  # bytes around a message: its borders, and the opening of an answer without thinking
OPENING = 6  # of these the opening; in the history there is none
BORDER = 2  # behind an answer in the history
STATS = re.compile(r"cached ([\d,]+) · new ([\d,]+) · (?:thought ([\d,]+) · )?answer ([\d,]+)")


def counted(rows):
    """Tokens cached and new, by the line after an answer."""
    found = [match for row in rows if (match := STATS.match(row))]
    assert len(found) == 1, rows
    return int(found[0][1].replace(",", "")), int(found[0][2].replace(",", ""))


def editor(folder, command):
    """A program that edits a file with a command of `sed`."""
    return tool(folder, "editor", f'sed -i "{command}" "$1"')


def tool(folder, name, text):
    path = folder / "tools" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def clipboard(folder):
    """Variables that make `xclip` a clipboard: a picture is on it, and a file takes the copies."""
    tool(
        folder,
        "xclip",
        f"""case "$*" in
        *TARGETS*) echo image/png;;
        *-out*|*-o*) cat "{DOCS / "circles.png"}";;
        *) cat > "{folder / "copied"}";;
        esac""",
    )
    path = f"{folder / 'tools'}{os.pathsep}{os.environ['PATH']}"
    return {"PATH": path, "DISPLAY": ":7"}


# -- what they refuse --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fresh(tmp_path_factory):
    """A chat in which nothing was said yet."""
    folder = tmp_path_factory.mktemp("fresh")
    (folder / "binary.txt").write_bytes(b"\x00\x01\x02")
    (folder / "a.txt").write_text("aaa\n")
    shutil.copy(DOCS / "circles.png", folder)
    with with_script(folder, [], EDITOR="false") as chat:
        chat.ready(again=True)
        yield chat


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("/hlep", ["error: unknown command /hlep; nothing was sent", "hint: did you mean /help?"]),
        (
            "/qqq what?",
            ["error: unknown command /qqq; nothing was sent", "hint: /help lists the commands"],
        ),
        (
            "/no_think",
            ["error: /no_think goes with a message; nothing was sent", "hint: /think off"],
        ),
        ("/help nope", ["error: there is no command nope", "hint: /help lists them"]),
        ("/quit now", ["error: /exit takes nothing", "hint: /help /exit"]),
        ("/clear all", ["error: /clear takes nothing", "hint: /help /clear"]),
        ("/image", ["error: /image needs a path", "hint: /image ./cat.jpg"]),
        ("/image no.png", ["error: no image at no.png"]),
        (
            "/image circle.png",
            ["error: no image at circle.png", "hint: did you mean circles.png?"],
        ),
        ("/image a.txt", ["error: a.txt holds no readable picture"]),
        ("/read", ["error: /read needs a file", "hint: /read notes.txt, /read src/*.py"]),
        ("/read b.txt", ["error: no file at b.txt", "hint: did you mean a.txt?"]),
        ("/read *.nope", ["error: no file matches *.nope"]),
        ("/read binary.txt", ["error: binary.txt is binary"]),
        ("/think maybe", ["error: /think does not know 'maybe'", "hint: /help think"]),
        ("/think -5", ["error: /think does not know '-5'", "hint: /help think"]),
        ("/think last", ["error: nothing was asked yet"]),
        ("/set", ["error: /set needs a key and a value"]),
        ("/set temp", ["error: /set needs a key and a value"]),
        ("/set tmp 1", ["error: there is no setting 'tmp'", "hint: did you mean temp?"]),
        (
            "/set temp hot",
            [
                "error: temp cannot be 'hot'",
                "hint: /set temp VALUE: a number from 0 to 100; /set temp default takes it back",
            ],
        ),
        (
            "/set top_p 2",
            [
                "error: top_p cannot be '2'",
                "hint: /set top_p VALUE: a number from 0 to 1; /set top_p default takes it back",
            ],
        ),
        ("/set markdown maybe", ["error: markdown cannot be 'maybe'"]),
        ("/show tmp", ["error: there is no setting 'tmp'", "hint: did you mean temp?"]),
        ("/regen", ["error: nothing was asked yet"]),
        ("/regen 2", ["error: /regen takes nothing"]),
        ("/undo", ["error: there is no turn to take back"]),
        ("/undo 0", ["error: '0' is not a number from 1 on", "hint: /undo 2"]),
        ("/undo many", ["error: 'many' is not a number from 1 on", "hint: /undo 2"]),
        ("/edit", ["error: nothing was asked yet"]),
        ("/edit answer", ["error: nothing was asked yet"]),
        ("/continue", ["error: nothing was asked yet"]),
        ("/stats", ["error: nothing was asked yet"]),
        ("/save a/b", ["error: 'a/b' cannot be the name of a session"]),
        ("/load", ["error: /load needs a name", "hint: /sessions lists them"]),
        ("/load nobody", ["error: no session is called 'nobody'"]),
        ("/sessions x", ["error: /sessions takes nothing"]),
        ("/copy", ["error: nothing was asked yet"]),
        ("/cc", ["error: nothing was asked yet"]),
        (
            "/paste",
            ["error: there is no clipboard here: neither WAYLAND_DISPLAY nor DISPLAY is set"],
        ),
    ],
)
def test_what_cannot_be_done_is_said_in_two_lines(fresh, line, said):
    rows = fresh.say(line)
    assert [row[: len(begin)] for row, begin in zip(rows, said, strict=False)] == said
    assert len(said) <= len(rows) <= 2
    assert all(row.startswith(kind) for row, kind in zip(rows, ("error: ", "hint: "), strict=False))


# -- help, and what is set -----------------------------------------------------------------------


def test_help_fits_on_one_screen_and_names_every_command(fresh):
    rows = fresh.say("/help")
    assert len(rows) < 24
    assert max(map(len, rows)) < 80
    shown = "\n".join(rows)
    for command in COMMANDS:
        assert all(name in shown for name in (command.name, *command.aliases))
    assert fresh.say("/?") == rows
    whole = fresh.say("/help undo")
    assert whole == fresh.say("/help /undo")
    assert whole == ["/undo [N]", "take back the last turn, or the last N"]
    assert fresh.say("/help exit")[-1] == "also /quit, /bye"


def test_settings_are_changed_shown_and_taken_back(fresh):
    everything = fresh.say("/show")
    assert everything[0].split()[:2] == ["preset", "general"]
    assert len(everything) == 15

    def value(line):
        (row,) = fresh.say(line)
        return row.split()[1]

    for key, given, shown in [
        ("temp", "0.25", "0.25"),
        ("top_k", "1_000", "1000"),
        ("seed", "7", "7"),
        ("max_tokens", "2k", "2,048"),
        ("think_budget", "none", "none"),
        ("answer_reserve", "1k", "1,024"),
        ("loop_guard", "OFF", "off"),
        ("markdown", "off", "off"),
        ("stats", "off", "off"),
        ("thinking", "hide", "hide"),
    ]:
        before = value(f"/show {key}")
        assert value(f"/set {key} {given}") == shown != before
        assert value(f"/show {key}") == shown
        assert value(f"/set {key} default") == before
    assert value("/set preset coding") == "coding"
    assert fresh.say("/set preset default") == [everything[0]]
    assert fresh.say("/show") == everything


def test_the_mode_picks_the_row_of_the_preset(fresh):
    assert fresh.say("/think") == ["thinking off, shown: fold"]
    assert fresh.say("/show temp")[0].split()[1] == "0.7"
    assert fresh.say("/think on") == ["thinking on"]
    assert fresh.say("/show temp")[0].split()[1] == "1"
    assert fresh.say("/think 2k") == ["thinking on, budget 2,048, shown: fold"]
    assert fresh.say("/think none") == ["thinking on, no limit, shown: fold"]
    assert fresh.say("/think 0") == ["thinking off"]
    assert fresh.say("/think on") == ["thinking on"]
    assert fresh.say("/think") == ["thinking on, no limit, shown: fold"]
    assert fresh.say("/set think_budget 0")[0].split()[1] == "0"
    assert fresh.say("/think on") == ["error: the budget of the thinking is 0", "hint: /think 4k"]
    assert fresh.say("/set think_budget default")[0].split()[1] == "4,096"
    assert fresh.say("/think off") == ["thinking off"]
    assert fresh.say("/think hide") == ["thinking: hide"]
    assert fresh.say("/think") == ["thinking off, shown: hide"]
    fresh.type(CTRL_O)
    fresh.sees("thinking shown")
    fresh.ready(again=True)
    assert fresh.say("/think fold") == ["thinking: fold"]


def test_an_empty_context(fresh):
    assert fresh.say("/ctx") == [
        "    4,096  free of 4,096",
        "0 states to return to, 0 bytes of 2.00 GiB",
    ]
    assert fresh.say("/system") == ["there is no system prompt; /system TEXT sets one"]


def test_nothing_is_sent_for_an_empty_line(fresh):
    assert fresh.say("") == []
    assert fresh.say("   ") == []


# -- turns: what is read is what is new ----------------------------------------------------------


def test_what_a_turn_reads_and_what_each_command_leaves_to_read(tmp_path):
    turns = [[text] for text in ("One.", "Two.", "Two again.", "Three.", "Five.", " More.", "One.")]
    with with_script(tmp_path, turns, EDITOR=editor(tmp_path, "s/four/five/; s/Five/5/")) as chat:
        rows = chat.say("first")
        assert rows[0] == "One."
        assert counted(rows) == (0, OVERHEAD + len("first"))
        context = OVERHEAD - OPENING + len("first" + "One.") + BORDER
        assert counted(chat.say("second"))[1] == OVERHEAD + len("second")

        rows = chat.say("/regen")
        assert rows[0] == "Two again."
        assert counted(rows)[1] == OPENING

        assert chat.say("/undo") == ["took back 1 turn: second", "1 turn left"]
        rows = chat.say("four, then")
        assert rows[0] == "Three."
        assert counted(rows) == (context, OVERHEAD + len("four, then"))

        rows = chat.say("/edit")
        assert rows[:2] == ["five, then", "Five."]
        assert counted(rows) == (context, OVERHEAD + len("five, then"))

        rows = chat.say("/edit answer")  # of which one letter differs: it is read
        assert rows[0] == "More."
        assert counted(rows)[1] == OPENING + len("5.")
        assert chat.say("/continue") == [
            "error: the last answer is complete",
            "hint: ask for more, or /regen",
        ]
        assert (
            chat.say("/edit message")[0] == "error: /edit takes `answer` or nothing, not 'message'"
        )

        assert chat.say("/ctx") == [
            f"{context:>9,}  turn 1",
            f"{(used := OVERHEAD - OPENING + len('five, then' + '5. More.') + BORDER):>9,}  turn 2",
            f"{4_096 - context - used:>9,}  free of 4,096",
            "4 states to return to, 0 bytes of 2.00 GiB",
        ]
        assert chat.say("/undo 3")[0] == "error: cannot take back 3 of 2 turns"
        assert chat.say("/undo 2") == ["took back 2 turns: first", "0 turns left"]
        assert counted(chat.say("first"))[1] == OPENING  # the state behind it was kept
        assert chat.leave() == 0


def test_the_system_prompt_is_said_before_everything_and_stays_read(tmp_path):
    turns = [[text] for text in ("One.", "Two.", "Three.", "Four.")]
    with with_script(tmp_path, turns, "-s", "Be brief.") as chat:
        assert chat.say("/system") == ["Be brief."]
        system = 1 + len("system\nBe brief.") + 2
        assert counted(chat.say("first")) == (0, system + OVERHEAD + len("first"))

        assert chat.say("/clear") == ["cleared"]
        assert counted(chat.say("second")) == (system, OVERHEAD + len("second"))

        context = OVERHEAD - OPENING + len("second" + "Two.") + BORDER
        longer = system + len("Be as brief as you can and never speak of what you cannot know.") - 9
        assert chat.say(
            "/system Be as brief as you can and never speak of what you cannot know."
        ) == [
            f"system prompt set: {longer + context} tokens will be read again with the next message"
        ]
        rows = chat.say("third")
        assert counted(rows) == (0, longer + context + OVERHEAD + len("third"))
        assert rows[-1].endswith(" · read again: system prompt changed")

        assert chat.say("/system -")[0].startswith("no system prompt: ")
        assert chat.say("/clear") == ["cleared"]
        assert counted(chat.say("fourth")) == (0, OVERHEAD + len("fourth"))
        assert chat.leave("/exit") == 0


def test_the_same_system_prompt_is_nothing_to_read_again(tmp_path):
    with with_script(tmp_path, [["One."]], "-s", "Be brief.") as chat:
        chat.say("first")
        assert chat.say("/system Be brief.") == ["system prompt set; nothing changes"]
        assert chat.say("/system -")[0].startswith("no system prompt: ")
        assert chat.say("/system -") == ["no system prompt; nothing changes"]
        assert chat.leave("/exit") == 0


def test_a_system_prompt_is_shown_line_by_line(tmp_path):
    with with_script(tmp_path, [], "-s", "Be brief.\n\nBe kind.") as chat:
        assert chat.say("/system") == ["Be brief.", "Be kind."]
        assert chat.leave("/exit") == 0


def test_numbers_of_the_last_turn_and_of_all(tmp_path):
    with with_script(tmp_path, [["One."], ["Two."]]) as chat:
        chat.say("/set stats off")
        assert chat.say("first") == ["One."]
        assert chat.say("/clear") == ["cleared"]
        assert chat.say("second") == ["Two."]
        rows = chat.say("/stats")
        assert counted(rows) == (0, OVERHEAD + len("second"))
        read = 2 * OVERHEAD + len("first" + "second")
        assert rows[1].startswith(f"in all: {read} tokens read, {len('One.' + 'Two.')} generated, ")
        assert re.fullmatch(
            r"memory [\d.]+ MiB at most, [\d.]+ MiB estimated for 35 tokens", rows[2]
        )
        assert len(rows) == 3


def test_thinking_is_shown_in_four_ways(tmp_path):
    turns = [["Hm, let me see.", "</think>", "\n\n", answer] for answer in ("A.", "B.", "C.")]
    with with_script(tmp_path, [*turns, ["D."]], thinking=True) as chat:
        chat.send("folded")
        chat.sees("let me see.")  # in passing
        rows = chat.ready()
        assert re.fullmatch(r"thought 15 tokens, \d+\.\d s", rows[0])
        assert rows[1] == "A."
        assert STATS.match(rows[2])[3] == "15"
        assert chat.say("/think last") == ["Hm, let me see."]

        assert chat.say("/think show") == ["thinking: show"]
        rows = chat.say("shown")
        assert rows[0] == "Hm, let me see."
        assert rows[1].startswith("thought 15 tokens")
        assert rows[2] == "B."

        assert chat.say("/think hide") == ["thinking: hide"]
        chat.send("hidden")
        chat.sees("thinking · 15 tokens")
        assert "let me see" not in chat.said[-400:]
        assert chat.ready()[0] == "C."

        assert chat.say("/think off") == ["thinking off"]
        assert chat.say("not at all")[0] == "D."
        assert chat.say("/think last") == ["error: the last answer was not thought about"]
        assert chat.leave() == 0


def test_a_switch_at_the_end_of_a_message_is_for_that_message(tmp_path):
    thought = ["Hm.", "</think>", "\n\nYes."]
    turns = [["No."], thought, ["Never."], thought]
    switch = editor(tmp_path, "s/$/ \\/no_think/")
    with with_script(tmp_path, turns, thinking=True, EDITOR=switch) as chat:
        off = "thinking off for this message; the switch is not part of it"
        rows = chat.say("really? /no_think")
        assert rows[:2] == [off, "No."]
        assert counted(rows)[1] == OVERHEAD + len("really?")
        assert chat.say("really?")[0].startswith("thought 3 tokens")
        assert chat.say("/edit")[:3] == ["really?", off, "Never."]

        chat.say("/think off")
        rows = chat.say("really? /think")
        assert rows[0] == "thinking on for this message; the switch is not part of it"
        assert rows[1].startswith("thought 3 tokens")
        assert chat.say("/think")[0].startswith("thinking off")
        assert chat.leave() == 0


# -- pictures, files, the clipboard ---------------------------------------------------------------

CIRCLES = "docs/circles.png 320×240 → 192×160 · 30 tokens"
TRIANGLE = "docs/triangle.png 320×240 → 192×160 · 30 tokens"


@pytest.fixture
def folder(tmp_path):
    shutil.copytree(DOCS, tmp_path / "docs")
    shutil.copy(DOCS / "triangle.png", tmp_path / "two words.png")
    (tmp_path / "notes.txt").write_text("The code word is bravokel.\n")
    (tmp_path / "a b.txt").write_text("Nothing.\n")
    return tmp_path


def test_pictures_by_command_by_path_and_by_drop(folder):
    with with_demo(folder, "--no-think") as chat:
        assert chat.say("/image docs/circles.png", then="[image 1]") == [f"image 1: {CIRCLES}"]
        chat.type("How many?")
        assert chat.enter()[0] == "Three."

        assert chat.say("/image docs/circles.png 'two words.png'", then="[image 1] [image 2]") == [
            f"image 1: {CIRCLES}",
            "image 2: two words.png 320×240 → 192×160 · 30 tokens",
        ]
        chat.clear()  # takes them back
        rows = chat.say("What is 12 + 7?")
        assert counted(rows)[1] < 30

        rows = chat.say("/clear")
        rows = chat.say("docs/circles.png How many?")
        assert rows[:2] == [f"image 1: {CIRCLES}", "Three."]
        chat.say("/clear")
        rows = chat.say(f"file://{folder}/docs/triangle.png What is in the picture?")
        assert rows[0] == f"image 1: {folder}/docs/triangle.png 320×240 → 192×160 · 30 tokens"
        assert "triangle" in rows[1]

        chat.ready(again=True)
        chat.paste(f"'{folder}/two words.png'")
        chat.sees("image 1: ")
        chat.ready("[image 1]", again=True)
        chat.type("Which shape?")
        assert chat.enter()[-1].startswith("cached ")
        rows = chat.say("/ctx")
        assert [row.split("  ")[-1] for row in rows[:4]] == [
            f"turn 1, {folder}/docs/triangle.png",
            "turn 1",
            f"turn 2, {folder}/two words.png",
            "turn 2",
        ]
        assert rows[0].split()[0] == rows[2].split()[0] == "30"
        assert chat.leave() == 0


def test_a_picture_that_is_not_there_is_an_error_and_the_message_comes_back(folder):
    with with_script(folder, [["Seen."], ["Text."], ["Pasted."]]) as chat:
        message = "what is in docs/circels.png ?"
        assert chat.say(message, then=message) == [
            "error: no image at docs/circels.png",
            "hint: did you mean docs/circles.png?",
        ]
        chat.type("\x1b[D" * 4 + "\x7f" * 2 + "le")  # mended
        chat.clear()
        chat.ready(again=True)
        chat.paste(str(folder / "docs" / "no.png"))
        chat.sees("error: no image at ")
        chat.ready(str(folder), again=True)
        chat.clear()
        rows = chat.say("is nowhere.png a picture?")  # a bare name may just be a word
        assert rows[:2] == ["no picture at nowhere.png: sent as text", "Seen."]
        chat.ready(again=True)
        chat.paste("see docs/circles.png\nand tell me")  # not only paths: nothing is attached
        rows = chat.enter()
        assert "docs/circles.png in pasted text: not attached; /image attaches" in rows
        assert "Text." in rows
        assert chat.leave() == 0


def test_text_files_by_command_and_in_a_message(folder):
    with with_demo(folder, "--no-think") as chat:
        (row,) = chat.say("/read notes.txt")
        assert re.fullmatch(r"file: notes\.txt 27 bytes · \d+ tokens", row)
        rows = chat.say("What is the code word?")
        assert rows[0] == "The code word is bravokel."
        chat.say("/clear")
        rows = chat.say("@notes.txt What is the code word?")
        assert rows[:2] == ["file: notes.txt 27 bytes", "The code word is bravokel."]
        rows = chat.say('@"a b.txt" What is the code word?')
        assert rows[0] == "file: a b.txt 9 bytes"
        assert [row.split(" bytes")[0] for row in chat.say("/read *.txt")] == [
            "file: a b.txt 9",
            "file: notes.txt 27",
        ]
        chat.say("/regen")  # of the message before: the files still wait
        assert counted(chat.say(""))[1] > 30  # files alone are a message
        missing = "@gone.txt What is the code word?"
        assert chat.say(missing, then=missing)[0] == "error: no file at gone.txt"
        chat.clear()
        assert chat.say("caf\udce9", then="caf") == [  # a byte that is no UTF-8
            "error: text is not valid Unicode: U+DCE9 at character 4",
            "hint: only UTF-8 is read; iconv -f LATIN1 -t UTF-8 converts the common other encoding",
        ]
        chat.clear()
        assert chat.leave() == 0


def test_the_clipboard(folder):
    turns = [["Text.\n\n```sh\nls -l\n```\n\n```python\nprint('日本')\n```"], ["Seen."], ["Plain."]]
    copied = folder / "copied"
    with with_script(folder, turns, **clipboard(folder)) as chat:
        chat.say("show me")
        (row,) = chat.say("/copy")
        assert copied.read_text() == turns[0][0]
        assert row == f"copied the answer, {len(turns[0][0])} characters"
        assert chat.say("/cc") == ["copied block 2 of 2, 12 characters"]
        assert copied.read_text() == "print('日本')\n"
        assert chat.say("/cc 1") == ["copied block 1 of 2, 6 characters"]
        assert copied.read_text() == "ls -l\n"
        assert chat.say("/cc 3") == ["error: the last answer holds 2 blocks of code", "hint: /cc 1"]
        assert chat.say("/cc x")[0] == "error: 'x' is not a number from 1 on"

        assert chat.say("/paste", then="[image 1]")[0].startswith("image 1: clipboard 320×240 → ")
        chat.type("And this?")
        assert chat.enter()[0] == "Seen."
        assert chat.say("/cc") == [
            "error: the last answer holds no block of code",
            "hint: /copy takes all of it",
        ]
        chat.ready(again=True)
        chat.type(CTRL_V)
        chat.ready("[image 1]", again=True)
        chat.type("?")
        assert chat.enter()[0] == "Plain."
        assert chat.leave() == 0


def test_without_a_clipboard_the_terminal_is_asked(tmp_path):
    answer = "日本 \x1b]52;c;Z\x07 text"
    with with_script(tmp_path, [[answer]]) as chat:
        chat.say("show me")
        assert "\x1b]52" not in chat.raw
        (row,) = chat.say("/copy")
        assert row.endswith(" characters through the terminal, if it allows that")
        sent = re.findall("\x1b\\]52;c;([A-Za-z0-9+/=]*)\x07", chat.raw)
        assert [base64.b64decode(text).decode() for text in sent] == [answer]


# -- sessions -------------------------------------------------------------------------------------


def test_sessions_are_named_listed_and_opened(tmp_path):
    with with_script(tmp_path, [["One."], ["Two."], ["Three."], ["Four."]]) as chat:
        (row,) = chat.say("/save")
        assert re.fullmatch(r"session \d{8}-\d{4}-[0-9a-f]{4}, saved after each turn", row)
        chat.say("about ships")
        assert chat.say("/save ships") == ["session ships, saved after each turn"]
        assert chat.say("/load ships") == ["error: session ships is open already"]
        assert chat.say("/load shops") == [
            "error: no session is called 'shops'",
            "hint: did you mean ships? /sessions lists them",
        ]
        assert chat.say("/clear") == ["cleared"]  # a new session; the old one stays
        chat.say("about trees")
        rows = chat.say("/sessions")
        assert rows[0].split()[:3] == ["session", "used", "turns"]
        assert len(rows) == 3
        assert "about trees" in rows[1]
        assert rows[2].startswith("ships ") and rows[2].endswith("about ships")

        (row,) = chat.say("/load ships")
        assert row.startswith("session ships · 1 turn · ")
        rows = chat.say("/ctx")
        assert len(rows) == 3
        history = OVERHEAD - OPENING + len("about ships" + "One.") + BORDER
        assert rows[0] == f"{history:>9}  turn 1"
        assert counted(chat.say("more of them"))[1] == history + OVERHEAD + len("more of them")
        assert chat.leave() == 0
        assert chat.rows()[-1] == "session ships saved · resume: qwen35 chat --session ships"

    saved = [path for path in (tmp_path / "data").rglob("*") if path.is_file()]
    assert len([path for path in saved if path.name == "session.json"]) == 2
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in saved)

    with with_script(tmp_path, [["Five."]], "--session", "ships") as chat:
        chat.sees("session ships · 2 turns · ")
        chat.say("and again")
        assert chat.leave("  /quit ") == 0


def test_what_was_read_of_a_conversation_that_is_cleared_is_kept(tmp_path):
    (tmp_path / "notes.txt").write_text("The code word is bravokel.\n" + "It rained. " * 300)
    with with_demo(tmp_path, "--no-think") as chat:
        chat.say("/read notes.txt")
        _, new = counted(chat.say("What is the code word?"))
        chat.say("/save rain")
        assert chat.say("/clear") == ["cleared"]
        (row,) = chat.say("/load rain")
        assert re.fullmatch(r"session rain · 1 turn · [\d,]+ tokens restored", row)
        again, more = counted(chat.say("And what is 2 + 2?"))
        assert again >= new and more < 100
        assert chat.leave() == 0


def test_a_quiet_chat_lists_its_sessions(tmp_path):
    with with_script(tmp_path, [["One."]], "-q") as chat:
        chat.say("the first")
        assert chat.say("/sessions")[-1].endswith("the first")


def test_without_saving_there_are_no_sessions(tmp_path):
    with with_script(tmp_path, [["One."]], "-n") as chat:
        chat.say("a secret")
        for line in ("/save x", "/save", "/load x", "/sessions"):
            assert chat.say(line) == [
                "error: sessions are off: -n saves nothing",
                "hint: leave out -n",
            ]
        assert chat.leave("/bye") == 0
    assert not (tmp_path / "data").exists()
