"""What a typed line attaches, and what it must not."""

import time
from pathlib import Path

import pytest
from PIL import Image

from qwen35cli.app import paths
from qwen35cli.app.attachments import (
    Draft,
    Typed,
    read_files,
    reopened,
    soft_switch,
)
from qwen35cli.app.question import Picture, Question, load_picture, load_pictures
from qwen35cli.errors import UsageError
from tests import fakes
from tests.app.test_question import png

OPENED = fakes.fake_opened()
SCREENSHOT = "Screenshot 2026-01-01 at 10.00.00\u202fAM.png"  # as macOS names them
SHOWN = SCREENSHOT.replace("\u202f", "\ufffd")


def open_picture(path: str) -> Picture:
    return load_pictures(OPENED, [path])[0]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A home and working folder with a few pictures and texts."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("cat.png", "DOG.JPG", "a b.png", "it's.png", "pics/猫.png", SCREENSHOT):
        Path(name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (40, 30), "red").save(name, "PNG")
    Path("notes.txt").write_text("Alpha\n")
    Path("my notes.md").write_text("# Beta\n")
    return tmp_path


def read(line: str, *, pasted: str = "", draft: Draft | None = None) -> Typed:
    draft = draft or Draft()
    if pasted:
        draft.paste(pasted)
    return draft.message(line, open_picture)


def shape(typed: Typed) -> list[str]:
    """The parts of a message, a picture as <its name>."""
    return [f"<{p.name}>" if isinstance(p, Picture) else p for p in typed.question.parts]


def error(line: str, **how: str) -> UsageError:
    with pytest.raises(UsageError) as caught:
        read(line, **how)
    return caught.value


@pytest.mark.parametrize(
    ("line", "parts"),
    [
        ("what is ./cat.png", ["what is ", "<./cat.png>"]),
        ("./cat.png what is this?", ["<./cat.png>", "what is this?"]),
        (
            "is ./cat.png, or ~/DOG.JPG, older?",
            [*("is ", "<./cat.png>", ", or "), *("<~/DOG.JPG>", ", older?")],
        ),
        ("cat.png", ["<cat.png>"]),
        ("cat.png?", ["<cat.png>", "?"]),
        ("cat.png's ears", ["<cat.png>", "'s ears"]),
        ("(see pics/猫.png)", ["(see ", "<pics/猫.png>", ")"]),
        ("'a b.png' and \"a b.png\"", ["<a b.png>", "and ", "<a b.png>"]),
        (r"./a\ b.png and it\'s.png", ["<./a b.png>", "and ", "<it's.png>"]),
        ("../{here}/cat.png", ["<../{here}/cat.png>"]),
        ("{home}/cat.png what?", ["<{home}/cat.png>", "what?"]),
        ("file://{home}/a%20b.png what?", ["<{home}/a b.png>", "what?"]),
        ("cat.png,DOG.JPG", ["<cat.png>", ",", "<DOG.JPG>"]),
        ("cat.png DOG.JPG\ncompare", ["<cat.png>", "<DOG.JPG>", "compare"]),
        ("描述./cat.png的内容", ["描述", "<./cat.png>", "的内容"]),
        ("描述{home}/cat.png。", ["描述", "<{home}/cat.png>", "。"]),
        ("@cat.png what?", ["<cat.png>", "what?"]),
        (f"'{SCREENSHOT}' what?", [f"<{SHOWN}>", "what?"]),
        (SCREENSHOT.replace(" ", r"\ "), [f"<{SHOWN}>"]),
    ],
)
def test_a_typed_path_becomes_a_picture_where_it_stands(line, parts, folder):
    def filled(text):
        return text.replace("{home}", str(folder)).replace("{here}", folder.name)

    typed = read(filled(line))
    assert shape(typed) == [filled(part) for part in parts]
    assert typed.opened == typed.question.pictures
    assert typed.notes == ()


@pytest.mark.parametrize(
    "line",
    [
        "",
        "hello",
        "don't 'quote' \"this\"",
        "https://example.com/cat.png or http://cat.png",
        "`./cat.png` and `cat.png`",
        "```\n./cat.png\n../no.png\n",
        "save it as .png or .jpg/.png",
        "./cat.png.bak and ./cat.pngx and ./notes.txt",
        "me@cat.png",
        "[image 1] of 3",
        "a @ b, @anna and @anna.b, @app.get and @functools.cache, anna@x.txt",
        '@"hello world"',
        "it's a 'tis 'twas \\",
        "@",
        "~~struck~~ and/or 1/2",
        "a" * 300 + "/b.png",
        "中文/英文 和 @小明",
    ],
)
def test_text_stays_text(line):
    typed = read(line)
    assert typed.question.parts == ((line,) if line else ())
    assert (typed.opened, typed.read, typed.thinking) == ((), (), None)


@pytest.mark.parametrize(
    ("line", "message", "hint"),
    [
        ("what is ./cta.png?", "no image at ./cta.png", "did you mean ./cat.png?"),
        ("~/cta.png", "no image at ~/cta.png", "did you mean ~/cat.png?"),
        ("pics/qqqqq.jpeg", "no image at pics/qqqqq.jpeg", "in backticks it stays text"),
        ("@cta.png", "no image at cta.png", "did you mean cat.png?"),
        ("'./a  b.png'", "no image at ./a  b.png", "did you mean ./a b.png?"),
        ("./x.png,./cat.png", "no image at ./x.png", "did you mean ./cat.png?"),
        (
            "route /api/logo.png",
            "no image at /api/logo.png",
            "there is no folder /api; in backticks it stays text",
        ),
        ("@note.txt", "no file at note.txt", "did you mean notes.txt?"),
        ("@./x", "no file at ./x", "-f FILE, or /read FILE in a chat; in backticks it stays text"),
        (
            "@pics/ @~/pics",
            "~/pics is a folder, not a text file",
            "give text files, or *.txt; in backticks it stays text",
        ),
        ("file://nas/a.png", "file://nas/a.png names a file on another machine, nas", None),
        ("file://[a.png", "file://[a.png is no URL of a file", None),
        ("C:\\no\\a.png", "no image at C:\\no\\a.png", None),
        ("./\x1b[2J\x9b\u202e.png", "no image at ./\ufffd[2J\ufffd\ufffd.png", None),
    ],
)
def test_a_path_that_is_not_there_is_an_error_with_the_nearest_name(line, message, hint):
    caught = error(line)
    assert caught.message == message
    assert hint is None or caught.hint == hint


def test_a_picture_that_cannot_be_read_is_an_error():
    Path("broken.png").write_bytes(b"no picture")
    assert "broken.png holds no readable picture" in error("what is broken.png").message


@pytest.mark.parametrize("line", ["what is ./my.heic?", "my.heic", "@my.heic", "'my.heic' what?"])
def test_a_picture_of_a_format_that_is_not_read_is_refused_not_sent_as_its_name(line):
    Path("my.heic").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0")
    assert error(line).message.endswith("my.heic is a HEIC, which is not read")


@pytest.mark.parametrize("suffix", sorted(paths.UNREAD_IMAGES))
def test_where_the_name_of_such_a_picture_ends_is_known(suffix):
    assert error(f"./no{suffix.upper()}, what?").message == f"no image at ./no{suffix.upper()}"


def test_a_bare_name_that_is_not_there_is_said_and_stays_text():
    typed = read("rename old.png to new.png, then a.png b.png old.png")
    assert typed.question == Question.of("rename old.png to new.png, then a.png b.png old.png")
    assert typed.notes == ("no picture at old.png, new.png, a.png and 1 more: sent as text",)


def test_a_windows_path_is_found_under_wsl(folder, monkeypatch):
    monkeypatch.setattr(paths, "WSL_DRIVES", folder)
    (folder / "c").symlink_to(folder)
    typed = read('"C:\\a b.png" and C:\\pics\\猫.png')
    assert shape(typed) == ["<C:\\a b.png>", "and ", "<C:\\pics\\猫.png>"]


# -- pastes and places -------------------------------------------------------------------------


@pytest.mark.parametrize("line", ["./cat.png", "@notes.txt", "'a b.png'", "cat.png", "./no.png"])
def test_what_stands_in_a_paste_attaches_nothing(line, folder):
    pasted = f"log line 1: {line} opened\nlog line 2"
    for said in (pasted, f"what? {pasted} thanks", pasted.replace("opened", "was opened")):
        typed = read(said, pasted=pasted)
        assert shape(typed) == [said]
        assert typed.read == ()


def test_beside_a_paste_typed_paths_still_attach():
    typed = read("cat.png\nerror in x.png: DOG.JPG", pasted="error in x.png: DOG.JPG")
    assert shape(typed) == ["<cat.png>", "error in x.png: DOG.JPG"]
    assert typed.notes == (
        "no picture at x.png: sent as text",
        "DOG.JPG in pasted text: not attached; /image attaches",
    )


def test_placed_pictures_stand_at_their_mark_and_go_with_it():
    draft = Draft()
    marks = [draft.place(open_picture(name)) for name in ("cat.png", "DOG.JPG", "a b.png")]
    assert marks == ["[image 1]", "[image 2]", "[image 3]"]
    typed = read("is [image 3] like [image 1]? [image 1] [image 9]", draft=draft)
    assert shape(typed) == [*("is ", "<a b.png>", " like ", "<cat.png>"), "? [image 1] [image 9]"]
    assert typed.opened == ()
    assert typed.notes == ("no picture is attached as [image 9]: sent as text",)
    assert shape(read("[image 2] ", draft=draft)) == ["<DOG.JPG>"]
    assert shape(read("nothing", draft=draft)) == ["nothing"]


def test_pictures_without_a_place_come_first_then_documents_then_the_text():
    draft = Draft(leading=[open_picture("DOG.JPG")], documents=[*read_files("notes.txt")])
    typed = read('sum up @"my notes.md" and ./cat.png', draft=draft)
    assert shape(typed) == [
        "<DOG.JPG>",
        "File: notes.txt\nAlpha\n\n",
        "File: my notes.md\n# Beta\n\n",
        *("sum up my notes.md and ", "<./cat.png>"),
    ]
    assert [str(document) for document in typed.read] == ["my notes.md 7 bytes"]


def test_a_document_alone_ends_without_a_blank_line():
    typed = read("  ", draft=Draft(documents=[*read_files("notes.txt *.md")]))
    assert shape(typed) == ["File: notes.txt\nAlpha\n\n", "File: my notes.md\n# Beta"]


def test_paths_inside_documents_attach_nothing():
    Path("notes.txt").write_text("see ./cat.png and @my.txt\n[image 1]")
    draft = Draft()
    draft.place(open_picture("cat.png"))
    typed = read("sum up @notes.txt", draft=draft)
    assert typed.question.pictures == ()


def test_a_message_comes_back_to_the_line_with_its_pictures():
    asked = Question(("see ./cat.png ", open_picture("DOG.JPG"), "?"))
    draft, line = reopened(asked)
    assert line == "see ./cat.png [image 1]?"
    assert draft.message(line, open_picture).question == asked
    assert shape(read(line + " and 'a b.png'", draft=draft))[-1] == "<a b.png>"


def test_what_it_says_of_itself_comes_back_with_it():
    asked = Question.of("What is /think?")
    for thinking, more in ((True, " /think"), (False, " /no_think"), (None, "")):
        draft, line = reopened(asked, thinking)
        assert line == asked.text + more
    draft, line = reopened(asked, False)
    typed = draft.message(line, open_picture)
    assert (typed.question, typed.thinking) == (asked, False)


def test_a_mark_that_it_holds_as_words_stays_words():
    asked = Question(("In [image 1] see ", open_picture("cat.png"), " please"))
    draft, line = reopened(asked)
    assert line == "In [image 1] see [image 2] please"
    typed = draft.message(line, open_picture)
    assert (typed.question, typed.notes) == (asked, ())


def test_a_file_whose_name_it_held_can_be_read_now():
    draft, _ = reopened(Question.of("What is in notes.txt, or in 'my notes.md'?"))
    typed = read("What is in @notes.txt, or in @'my notes.md'?", draft=draft)
    assert [document.name for document in typed.read] == ["notes.txt", "my notes.md"]
    draft, line = reopened(Question.of("What is in @notes.txt?"))
    typed = read(line, draft=draft)
    assert typed.read == ()
    assert typed.notes == ("notes.txt in pasted text: not read; /read reads",)


# -- /read and /no_think -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argument", "names"),
    [
        ("notes.txt", ["notes.txt"]),
        ("my notes.md", ["my notes.md"]),
        ('"my notes.md" notes.txt', ["my notes.md", "notes.txt"]),
        ("*.md n*.txt", ["my notes.md", "notes.txt"]),
        ("**/*.txt", ["deep/er/x.txt", "notes.txt"]),
        ("deep/*/x.txt", ["deep/er/x.txt"]),
        ("[x].txt", ["[x].txt"]),
    ],
)
def test_read_takes_names_and_wildcards(argument, names):
    Path("deep/er").mkdir(parents=True)
    Path("deep/er/x.txt").write_text("x")
    Path(".hidden.txt").write_text("x")
    if argument == "[x].txt":
        Path("[x].txt").write_text("x")
    assert [document.name for document in read_files(argument)] == names


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("", "/read needs a file"),
        ("no.txt", "no file at no.txt"),
        ("*.rs", "no file matches *.rs"),
        ("many/*", "many/* matches more than 200 files"),
        ("cat.png", "cat.png is a picture, not text"),
        ("\x1b*", "no file matches \ufffd*"),
    ],
)
def test_read_says_what_it_cannot_read(argument, message):
    Path("many").mkdir()
    for number in range(201):
        Path(f"many/{number}").touch()
    with pytest.raises(UsageError) as caught:
        read_files(argument)
    assert caught.value.message == message
    assert caught.value.hint


def test_read_has_a_limit_over_all_files(monkeypatch):
    monkeypatch.setattr("qwen35cli.app.attachments.MAX_TEXT_BYTES", 12)
    with pytest.raises(UsageError, match="2 files hold 13 bytes"):
        read_files("notes.txt *.md")


@pytest.mark.parametrize(
    ("line", "text", "thinking"),
    [
        ("2+2? /no_think", "2+2?", False),
        ("2+2?\n/no_think \n", "2+2?", False),
        ("/no_think 2+2?", "2+2?", False),
        ("2+2? /think", "2+2?", True),
        ("/think", "/think", None),
        (" /no_think", " /no_think", None),
        ("what does /no_think do?", "what does /no_think do?", None),
        ("x/no_think", "x/no_think", None),
        ("x `/no_think`", "x `/no_think`", None),
        ("x /no_thinking", "x /no_thinking", None),
    ],
)
def test_a_typed_switch_counts_for_its_message_and_is_removed(line, text, thinking):
    assert soft_switch(line) == (text, thinking)
    assert read(line).thinking == thinking
    assert read(line).question == Question.of(text)


def test_a_pasted_switch_is_text():
    typed = read("2+2? /no_think", pasted="? /no_think")
    assert (typed.question, typed.thinking) == (Question.of("2+2? /no_think"), None)


# -- hostile lines -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    [
        "a" * 300_000,
        ".png," * 200_000,
        "'" * 200_000,
        "'a \"" * 50_000,
        "`" * 200_000,
        "@" + "." * 300_000,
        "\\" * 300_000,
        "图/" * 100_000,
        "图/.png," * 5_000,
        "[image 1]" * 50_000,
        "x.png " * 5_000,
        "\0\x1b[31m\ud800.txt " * 5_000,
    ],
    ids=lambda line: repr(line[:12]),
)
def test_long_and_odd_lines_are_read_quickly(line):
    start = time.perf_counter()
    assert "".join(read(line).question.parts) == line
    assert time.perf_counter() - start < 5


def test_a_picture_from_bytes_can_be_placed():
    draft = Draft()
    mark = draft.place(load_picture(OPENED, png(), "clipboard"))
    assert shape(read(f"{mark} what?", draft=draft)) == ["<clipboard>", "what?"]


def test_the_longest_name_that_is_there_is_meant(folder):
    (folder / "cat.png").rename(folder / "cat.png,v2.png")
    (folder / "cat.png").write_bytes(png())
    assert shape(read("./cat.png,v2.png!")) == ["<./cat.png,v2.png>", "!"]
