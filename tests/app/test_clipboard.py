"""The clipboard through each system's tool: stand-ins on PATH that record how they were called."""

import base64
import shlex
import time
from pathlib import Path

import pytest

from qwen35cli.app import clipboard, desktop
from qwen35cli.app.clipboard import read_picture, write_text
from qwen35cli.app.desktop import NoClipboard
from qwen35cli.errors import UsageError
from tests.app.test_question import png

X11 = {"DISPLAY": ":0"}
WAYLAND = {"WAYLAND_DISPLAY": "wayland-0"}
WSL = {"WSL_DISTRO_NAME": "Ubuntu", "DISPLAY": ":0"}
SSH = {"SSH_CONNECTION": "10.0.0.1 1 10.0.0.2 22"}
XCLIP_LIST = "-selection clipboard -o -t TARGETS"
XCLIP_PNG = "-selection clipboard -o -t image/png"


class Tools:
    """A folder for PATH, in which shell scripts stand for the tools."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._log = folder / "calls"

    def add(self, name: str, script: str) -> None:
        path = self.folder / name
        log, text = shlex.quote(str(self._log)), shlex.quote(str(self.folder / "stdin"))
        path.write_text(
            f'#!/bin/sh\nPATH=/usr/bin:/bin\nSTDIN={text}\necho "{name} $*" >> {log}\n{script}\n'
        )
        path.chmod(0o755)

    def offer(self, name: str, answers: dict[str, str], otherwise: str = "exit 1") -> None:
        """A tool that runs a script for each list of arguments it knows."""
        cases = "".join(f"{shlex.quote(a)}) {script};;\n" for a, script in answers.items())
        self.add(name, f'case "$*" in\n{cases}*) {otherwise};;\nesac')

    def environment(self, more: dict[str, str]) -> dict[str, str]:
        return {"PATH": str(self.folder), **more}

    @property
    def calls(self) -> list[str]:
        return self._log.read_text().splitlines() if self._log.exists() else []

    @property
    def stdin(self) -> bytes:
        return (self.folder / "stdin").read_bytes()


@pytest.fixture
def tools(tmp_path):
    (tmp_path / "picture.png").write_bytes(png())
    return Tools(tmp_path)


def cat(tools: Tools) -> str:
    return f"cat {tools.folder}/picture.png"


def test_a_picture_from_wayland(tools):
    tools.offer("wl-paste", {
        "--list-types": "printf 'text/html\\nimage/jpeg\\nimage/png\\n'",
        "--no-newline -t image/png": cat(tools),
    })  # fmt: skip
    assert read_picture(tools.environment(WAYLAND), "linux") == png()
    assert tools.calls == ["wl-paste --list-types", "wl-paste --no-newline -t image/png"]


def test_a_picture_from_x11_in_the_format_that_is_there(tools):
    tools.offer("xclip", {
        XCLIP_LIST: "printf 'TARGETS\\nimage/jpeg\\n'",
        "-selection clipboard -o -t image/jpeg": cat(tools),
    })  # fmt: skip
    assert read_picture(tools.environment(X11 | SSH), "linux") == png()


def test_on_wayland_xclip_serves_where_wl_paste_is_missing(tools):
    tools.offer("xclip", {XCLIP_LIST: "echo image/png", XCLIP_PNG: cat(tools)})
    assert read_picture(tools.environment(WAYLAND | X11), "linux") == png()
    with pytest.raises(NoClipboard, match="wl-paste, not found"):
        read_picture(tools.environment(WAYLAND), "linux")


def test_a_picture_from_macos(tools):
    hexed = png().hex().upper()
    tools.add("osascript", f"printf '«data PNGf{hexed}»\\n'")
    assert read_picture(tools.environment({}), "darwin") == png()
    assert tools.calls == ["osascript -e get the clipboard as «class PNGf»"]
    tools.offer("pngpaste", {"-": cat(tools)})
    assert read_picture(tools.environment({}), "darwin") == png()
    assert tools.calls[1:] == ["pngpaste -"]


@pytest.mark.parametrize(("system", "more"), [("linux", WSL), ("win32", {})])
def test_a_picture_from_windows(tools, system, more):
    tools.add("powershell.exe", f"printf '{base64.b64encode(png()).decode()}\\r\\n'")
    assert read_picture(tools.environment(more), system) == png()
    assert tools.calls[0].startswith("powershell.exe -NoProfile -NonInteractive -STA -Command")


@pytest.mark.parametrize(
    ("tool", "script", "system", "more"),
    [
        ("wl-paste", "echo 'Nothing is copied' >&2; exit 1", "linux", WAYLAND),
        ("wl-paste", "echo 'No selection' >&2; exit 1", "linux", WAYLAND),
        ("wl-paste", "echo text/html", "linux", WAYLAND),
        ("xclip", "echo 'Error: target TARGETS not available' >&2; exit 1", "linux", X11),
        ("pngpaste", "echo 'pngpaste: No image data found' >&2; exit 1", "darwin", {}),
        ("osascript", "echo 'execution error: (-1700)' >&2; exit 1", "darwin", {}),
        ("osascript", "echo nonsense", "darwin", {}),
        ("powershell.exe", "exit 3", "linux", WSL),
    ],
)
def test_a_clipboard_without_a_picture_says_so(tools, tool, script, system, more):
    tools.add(tool, script)
    with pytest.raises(UsageError) as caught:
        read_picture(tools.environment(more), system)
    assert caught.value.message == "the clipboard holds no picture"
    assert not isinstance(caught.value, NoClipboard)


def test_text_on_the_clipboard_is_named(tools):
    tools.offer("xclip", {XCLIP_LIST: "printf 'TARGETS\\nUTF8_STRING\\n'"})
    with pytest.raises(UsageError, match="no picture, it holds text"):
        read_picture(tools.environment(X11), "linux")


@pytest.mark.parametrize(
    ("system", "more", "message", "hint"),
    [
        ("linux", WAYLAND, "needs wl-paste, not found", "sudo apt install wl-clipboard"),
        ("linux", X11, "needs xclip, not found", "sudo apt install xclip"),
        ("darwin", {}, "needs pngpaste or osascript, not found", "brew install pngpaste"),
        ("linux", WSL, "needs powershell.exe, not found", "PATH lacks its folder"),
        ("linux", SSH, "the clipboard is on the other machine", "then /image FILE"),
        ("darwin", SSH, "the clipboard is on the other machine", "then /image FILE"),
        ("linux", {}, "neither WAYLAND_DISPLAY nor DISPLAY is set", "then /image FILE"),
    ],
)
def test_what_is_missing_is_named(tools, system, more, message, hint):
    with pytest.raises(NoClipboard) as caught:
        read_picture(tools.environment(more), system)
    assert message in caught.value.message
    assert hint in caught.value.hint


def test_a_tool_that_fails_is_quoted_without_its_controls(tools):
    tools.add("xclip", 'printf "Error: Can\'t open display: \\033[2J:0\\n" >&2; exit 1')
    for act in (read_picture, lambda *where: write_text("x", *where)):
        with pytest.raises(UsageError) as caught:
            act(tools.environment(X11), "linux")
        assert caught.value.message == "xclip failed: Error: Can't open display: \ufffd[2J:0"


def test_the_second_call_may_fail_too(tools):
    tools.offer("xclip", {XCLIP_LIST: "echo image/png"}, otherwise="exit 7")
    with pytest.raises(UsageError, match="xclip failed with status 7"):
        read_picture(tools.environment(X11), "linux")


def test_nonsense_from_powershell_is_no_picture(tools):
    tools.add("powershell.exe", "echo 'a profile says hello'")
    with pytest.raises(UsageError, match="gave no picture but 21 bytes"):
        read_picture(tools.environment(WSL), "linux")


def test_an_endless_clipboard_is_cut_off(tools, monkeypatch):
    monkeypatch.setattr(clipboard, "MAX_BYTES", 100_000)
    tools.offer("xclip", {XCLIP_LIST: "echo image/png", XCLIP_PNG: "cat /dev/zero"})
    start = time.perf_counter()
    with pytest.raises(UsageError, match="more than 100,000 bytes"):
        read_picture(tools.environment(X11), "linux")
    assert time.perf_counter() - start < desktop.TIMEOUT_S


@pytest.mark.parametrize("script", ["sleep 60", "sleep 60 & wait", "echo x; sleep 60 <&- 2>&-"])
def test_a_tool_that_hangs_is_ended(tools, script, monkeypatch):
    monkeypatch.setattr(desktop, "TIMEOUT_S", 0.3)
    tools.add("xclip", script)
    for act in (read_picture, lambda *where: write_text("x" * 200_000, *where)):
        start = time.perf_counter()
        with pytest.raises(UsageError, match=r"xclip did not answer in 0\.3 s"):
            act(tools.environment(X11), "linux")
        assert time.perf_counter() - start < 5


@pytest.mark.parametrize(
    ("tool", "arguments", "system", "more", "encoding"),
    [
        ("wl-copy", "", "linux", WAYLAND, "utf-8"),
        ("xclip", "-selection clipboard -in", "linux", X11, "utf-8"),
        ("xclip", "-selection clipboard -in", "linux", X11 | WAYLAND, "utf-8"),
        ("xsel", "--clipboard --input", "linux", X11, "utf-8"),
        ("pbcopy", "", "darwin", {}, "utf-8"),
        ("clip.exe", "", "linux", WSL, "utf-16-le"),
    ],
)
def test_text_is_written(tools, tool, arguments, system, more, encoding):
    tools.add(tool, 'cat > "$STDIN"')
    write_text("né 猫\n\ud800", tools.environment(more), system)
    assert tools.calls == [f"{tool} {arguments}"]
    assert tools.stdin.decode(encoding) == "né 猫\n?"


def test_a_tool_that_stays_in_the_background_holds_nothing_up(tools):
    tools.add("xclip", 'cat > "$STDIN"; (sleep 3; rm "$STDIN") &')
    start = time.perf_counter()
    write_text("kept", tools.environment(X11), "linux")
    assert time.perf_counter() - start < 2
    assert tools.stdin == b"kept"


def test_text_cannot_be_written_over_ssh(tools):
    with pytest.raises(NoClipboard, match="other machine"):
        write_text("x", tools.environment(SSH), "linux")
