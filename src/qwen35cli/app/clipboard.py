"""The clipboard of the desktop: pictures from it, text to it, through each system's own tool.

`pyperclip` is not used: it reads no pictures, sets no time limit, and reports success where its
tool failed.
"""

import base64
import binascii
import re
import sys
from collections.abc import Mapping, Sequence

from qwen35cli.errors import UsageError
from qwen35cli.images.open import MAX_BYTES

from .desktop import Desktop, failed

MAX_TYPES_BYTES = 64 * 1024
TYPES = ("image/png", "image/jpeg", "image/webp", "image/gif", "image/bmp")
TEXT_TYPES = {"UTF8_STRING", "STRING", "text/plain", "text/plain;charset=utf-8"}
NOTHING_THERE = re.compile("(?i)nothing is copied|no selection|not available")

X11 = {"xclip": "sudo apt install xclip"}
WAYLAND = "sudo apt install wl-clipboard"
BUILT_IN = "it is part of the system; PATH lacks its folder"
WRITE_OPTIONS = {"xclip": ("-selection", "clipboard", "-in"), "xsel": ("--clipboard", "--input")}

# Prints the picture as base64 of a PNG; exit 3 where there is none.
POWERSHELL_PICTURE = """
Add-Type -AssemblyName System.Windows.Forms, System.Drawing
$picture = [System.Windows.Forms.Clipboard]::GetImage()
if ($picture -eq $null) { exit 3 }
$bytes = New-Object System.IO.MemoryStream
$picture.Save($bytes, [System.Drawing.Imaging.ImageFormat]::Png)
[Console]::Out.Write([Convert]::ToBase64String($bytes.ToArray()))
"""
NO_PICTURE = 3
APPLESCRIPT_PICTURE = "get the clipboard as «class PNGf»"
APPLESCRIPT_ANSWER = ("«data PNGf".encode(), "»".encode())  # around the bytes in hexadecimal
CANNOT_CONVERT = "-1700"


def read_picture(environment: Mapping[str, str], system: str = sys.platform) -> bytes:
    """The bytes of the picture on the clipboard, in a format that `decode_image` reads.

    Raises:
        NoClipboard: it cannot be reached from here.
        UsageError: no picture is on it, it is too large, or the tool failed or took too long.
    """
    desktop = Desktop(environment, system)
    match desktop.kind("copy the file to this machine, then /image FILE"):
        case "mac":
            return _from_mac(desktop)
        case "windows" | "wsl":
            return _from_windows(desktop)
        case "wayland":
            tool = desktop.choose({"wl-paste": WAYLAND} | _through_x11(environment))
        case "x11":
            tool = desktop.choose(X11)
    if tool == "wl-paste":
        return _by_type(desktop, (tool, "--list-types"), (tool, "--no-newline", "-t"))
    paste = (tool, "-selection", "clipboard", "-o", "-t")
    return _by_type(desktop, (*paste, "TARGETS"), paste)


def write_text(text: str, environment: Mapping[str, str], system: str = sys.platform) -> None:
    """Put `text` on the clipboard.

    Raises:
        NoClipboard: it cannot be reached from here.
        UsageError: the tool failed or took too long.
    """
    desktop = Desktop(environment, system)
    encoding = "utf-8"
    match desktop.kind("mark the text with the mouse"):
        case "mac":
            tool = desktop.choose({"pbcopy": BUILT_IN})
        case "windows" | "wsl":
            tool = desktop.choose({"clip.exe": BUILT_IN})
            encoding = "utf-16-le"
        case "wayland":
            tool = desktop.choose({"wl-copy": WAYLAND} | _through_x11(environment))
        case "x11":
            tool = desktop.choose(X11 | {"xsel": "sudo apt install xsel"})
    desktop.feed((tool, *WRITE_OPTIONS.get(tool, ())), text.encode(encoding, "replace"))


def _through_x11(environment: Mapping[str, str]) -> dict[str, str]:
    """What serves on Wayland as well, where it keeps an X server beside it."""
    return X11 if environment.get("DISPLAY") else {}


def _by_type(desktop: Desktop, list_types: Sequence[str], paste: Sequence[str]) -> bytes:
    """Ask which types are offered, then for the first of them that is a picture."""
    status, listed, complaint = desktop.run(list_types, MAX_TYPES_BYTES)
    if status and not NOTHING_THERE.search(complaint):
        raise failed(list_types[0], status, complaint)
    offered = set(listed.decode(errors="replace").splitlines())
    wanted = next((kind for kind in TYPES if kind in offered), None)
    if wanted is None:
        raise _no_picture(", it holds text" if TEXT_TYPES & offered else "")
    status, data, complaint = desktop.run((*paste, wanted), MAX_BYTES)
    if status:
        raise failed(paste[0], status, complaint)
    return data


def _from_mac(desktop: Desktop) -> bytes:
    tool = desktop.choose({"pngpaste": "brew install pngpaste", "osascript": BUILT_IN})
    if tool == "pngpaste":
        status, data, complaint = desktop.run((tool, "-"), MAX_BYTES)
        if status and "no image data" in complaint.lower():
            raise _no_picture()
        if status:
            raise failed(tool, status, complaint)
        return data
    call = (tool, "-e", APPLESCRIPT_PICTURE)
    status, printed, complaint = desktop.run(call, 2 * MAX_BYTES + 1024)
    if status and CANNOT_CONVERT not in complaint:
        raise failed(tool, status, complaint)
    before, after = APPLESCRIPT_ANSWER
    printed = printed.strip()
    if status or not (printed.startswith(before) and printed.endswith(after)):
        raise _no_picture()
    try:
        return binascii.unhexlify(printed[len(before) : -len(after)])
    except binascii.Error:
        raise _nonsense(tool, printed) from None


def _from_windows(desktop: Desktop) -> bytes:
    tool = desktop.choose({"powershell.exe": BUILT_IN})
    call = (tool, "-NoProfile", "-NonInteractive", "-STA", "-Command", POWERSHELL_PICTURE)
    status, printed, complaint = desktop.run(call, MAX_BYTES * 4 // 3 + 1024)
    if status == NO_PICTURE:
        raise _no_picture()
    if status:
        raise failed(tool, status, complaint)
    try:
        return base64.b64decode(printed.strip(), validate=True)
    except binascii.Error:
        raise _nonsense(tool, printed) from None


def _no_picture(instead: str = "") -> UsageError:
    return UsageError(f"the clipboard holds no picture{instead}", "/image FILE attaches a file")


def _nonsense(tool: str, printed: bytes) -> UsageError:
    return UsageError(f"{tool} gave no picture but {len(printed):,} bytes", "/image FILE")
