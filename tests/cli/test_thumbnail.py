"""Thumbnails: which terminals get one, and that a terminal's own decoder would read it."""

import io
import re
import subprocess
import sys
import time
from base64 import b64decode
from itertools import product

import pytest
from PIL import Image, ImageDraw

from qwen35cli.cli.thumbnail import COLUMNS, NARROWEST, ROWS, protocol, thumbnail

XTERM = {"TERM": "xterm-256color"}
KITTY = re.compile(r"\x1b_G([a-zA-Z0-9=,]+);([A-Za-z0-9+/=]*)\x1b\\")
ITERM2 = re.compile(r"\x1b\]1337;File=inline=1;([a-zA-Z0-9=;]+):([A-Za-z0-9+/=]+)\x07\n")
SIXEL = re.compile(r'\x1bP[0-9;]*q"1;1;(\d+);(\d+)([#0-9;!$\-?-~]*)\x1b\\\n')


def drawn(size, color=(200, 30, 30)):
    picture = Image.new("RGB", size, color)
    ImageDraw.Draw(picture).line([(0, 0), size], (0, 0, 255), max(1, min(size) // 10))
    return picture


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"TERM": "xterm-kitty"}, "kitty"),
        ({"TERM": "xterm-ghostty", "TERM_PROGRAM": "ghostty"}, "kitty"),
        (XTERM | {"TERM_PROGRAM": "iTerm.app"}, "iterm2"),
        (XTERM | {"LC_TERMINAL": "iTerm2"}, "iterm2"),
        (XTERM | {"TERM_PROGRAM": "WezTerm"}, "iterm2"),
        (XTERM | {"KONSOLE_VERSION": "220401"}, "kitty"),
        ({"TERM": "foot"}, "sixel"),
        ({"TERM": "mlterm-256color"}, "sixel"),
        (XTERM, None),
        (XTERM | {"KONSOLE_VERSION": "211200"}, None),
        (XTERM | {"KONSOLE_VERSION": "x"}, None),
        (XTERM | {"TERM_PROGRAM": "Apple_Terminal"}, None),
        (XTERM | {"TERM_PROGRAM": "vscode", "KONSOLE_VERSION": "220401"}, None),
        ({"TERM": "xterm-kitty", "NO_COLOR": "1"}, None),
        ({"TERM": "xterm-kitty", "TMUX": "/tmp/tmux-0/default,1,0"}, None),
        ({"TERM": "tmux-256color", "TERM_PROGRAM": "iTerm.app"}, None),
        ({"TERM": "screen.xterm-256color", "LC_TERMINAL": "iTerm2"}, None),
        ({"TERM": "dumb", "TERM_PROGRAM": "WezTerm"}, None),
        ({"TERM_PROGRAM": "WezTerm"}, None),
        ({}, None),
    ],
)
def test_the_environment_says_what_the_terminal_can(environment, expected):
    assert protocol(environment) == expected


SIZES = [(4_000, 3_000), (3_000, 4_000), (5_000, 100), (100, 5_000), (1, 1), (640, 2), (64, 64)]


@pytest.mark.parametrize("size", SIZES)
def test_kitty_gets_a_small_png_in_chunks_and_answers_nothing(size):
    shown = thumbnail(drawn(size), "kitty", 80)
    assert KITTY.sub("", shown) == "\n"
    chunks = KITTY.findall(shown)
    keys = [dict(pair.split("=") for pair in chunk.split(",")) for chunk, _ in chunks]
    assert [key["m"] for key in keys] == ["1"] * (len(keys) - 1) + ["0"]
    assert all(key["q"] == "2" for key in keys)
    assert all(len(data) <= 4_096 for _, data in chunks)
    assert all(len(data) % 4 == 0 for _, data in chunks)
    assert keys[0]["a"] == "T"
    assert 1 <= int(keys[0].get("c", 1)) <= COLUMNS
    assert 1 <= int(keys[0].get("r", 1)) <= ROWS
    assert ("c" in keys[0]) == (size[0] > 2.5 * size[1])
    picture = Image.open(io.BytesIO(b64decode("".join(data for _, data in chunks))))
    picture.load()
    assert picture.format == "PNG"
    assert max(picture.size) <= 640


@pytest.mark.parametrize("size", SIZES)
def test_iterm2_gets_a_small_jpeg(size):
    match = ITERM2.fullmatch(thumbnail(drawn(size), "iterm2", 80))
    keys = dict(pair.split("=") for pair in match[1].split(";"))
    assert 1 <= int(keys.get("width", 1)) <= COLUMNS
    assert 1 <= int(keys.get("height", 1)) <= ROWS
    assert ("width" in keys) == (size[0] > 2.5 * size[1])
    picture = Image.open(io.BytesIO(b64decode(match[2])))
    picture.load()
    assert picture.format == "JPEG"


def decode_sixels(body, size):
    """The picture that a sixel body draws."""
    picture = Image.new("RGB", size, "black")
    palette, color, x, band = {}, None, 0, 0
    for define, select, count, char in re.findall(
        r"#(\d+;2;\d+;\d+;\d+)|#(\d+)|(?:!(\d+))?([?-~$-])", body
    ):
        if define:
            number, _, *rgb = map(int, define.split(";"))
            palette[number] = tuple(round(value * 2.55) for value in rgb)
            color = number
        elif select:
            color = int(select)
        elif char == "$":
            x = 0
        elif char == "-":
            x, band = 0, band + 1
        else:
            run = range(x, x + int(count or 1))
            rows = [band * 6 + bit for bit in range(6) if (ord(char) - 63) >> bit & 1]
            for at in product(run, rows):
                picture.putpixel(at, palette[color])
            x = run.stop
    return picture


@pytest.mark.parametrize("size", SIZES)
def test_sixels_draw_the_picture(size):
    picture = drawn(size)
    match = SIXEL.fullmatch(thumbnail(picture, "sixel", 80))
    width, height = int(match[1]), int(match[2])
    assert width <= COLUMNS * 8
    assert height <= ROWS * 16
    shown = decode_sixels(match[3], (width, height))
    expected = picture.resize((width, height), Image.Resampling.BICUBIC)
    far = sum(
        max(abs(a - b) for a, b in zip(one, two, strict=True)) > 80
        for one, two in zip(pixels(shown), pixels(expected), strict=True)
    )
    assert far <= width * height // 20


def pixels(picture):
    data = picture.tobytes()
    return [data[i : i + 3] for i in range(0, len(data), 3)]


@pytest.mark.parametrize(
    ("kind", "width"), [("kitty", ",c=19,"), ("iterm2", ";width=19;"), ("sixel", '"1;1;152;19')]
)
def test_a_narrow_terminal_gets_a_narrower_picture_or_none(kind, width):
    assert thumbnail(drawn((800, 100)), kind, NARROWEST - 1) is None
    assert width in thumbnail(drawn((800, 100)), kind, NARROWEST)


def test_a_large_picture_takes_no_noticeable_time():
    picture = drawn((8_000, 6_000))
    for kind in ("kitty", "iterm2", "sixel"):
        start = time.perf_counter()
        assert len(thumbnail(picture, kind, 80)) < 400_000
        assert time.perf_counter() - start < 2


def test_nothing_is_asked_of_the_terminal():
    """In a pseudo-terminal: no import and no thumbnail writes to it or reads from it."""
    pexpect = pytest.importorskip("pexpect")
    script = (
        "import sys; from PIL import Image; from qwen35cli.cli.thumbnail import thumbnail\n"
        "shown = [thumbnail(Image.new('RGB', (9, 9)), k, 80) for k in ('kitty','iterm2','sixel')]\n"
        "print('READY', all(shown)); print(repr(sys.stdin.readline()))"
    )
    child = pexpect.spawn(sys.executable, ["-c", script], encoding="utf-8", timeout=30)
    child.send("typed ahead\n")
    child.expect(r"'typed ahead\\n'")
    child.expect(pexpect.EOF)
    child.close()
    assert "\x1b" not in child.before
    assert child.exitstatus == 0


def test_the_module_alone_imports_no_picture_library():
    script = (
        "import sys; import qwen35cli.cli.thumbnail\n"
        "print([m for m in ('PIL', 'textual_image', 'rich', 'numpy') if m in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert shown.stdout == "[]\n"
