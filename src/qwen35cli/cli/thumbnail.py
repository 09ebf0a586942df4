"""Small pictures in terminals that can show them: kitty's protocol, iTerm2's, or sixel.

Which one is told by the environment alone. A terminal that is asked may answer late, into the line
that the user types, so none is asked; `textual_image` asks as soon as its public module is
imported, so only its encoder is.
"""

import io
import re
from base64 import b64encode
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from PIL.Image import Image

Protocol = Literal["kitty", "iterm2", "sixel"]

BY_TERM: dict[str, Protocol] = {
    "xterm-kitty": "kitty",
    "xterm-ghostty": "kitty",
    "foot": "sixel",
    "foot-extra": "sixel",
    "foot-direct": "sixel",
    "mlterm": "sixel",
    "mlterm-256color": "sixel",
    "contour": "sixel",
    "yaft-256color": "sixel",
}
BY_PROGRAM: dict[str, Protocol] = {
    "iTerm.app": "iterm2",
    "WezTerm": "iterm2",
    "mintty": "iterm2",
    "ghostty": "kitty",
}
KONSOLE_WITH_KITTY = 220400  # 22.04
ROWS, COLUMNS = 8, 40  # at most, in cells
NARROWEST = 20  # columns of a terminal below which a picture is in the way
CELL = (8, 16)  # width and height in pixels of a sixel terminal's cell, about
SHARPNESS = 2  # pixels sent for each of those, to terminals that scale
KITTY_CHUNK = 4_096


def protocol(environment: Mapping[str, str]) -> Protocol | None:
    """How the terminal shows pictures; None where it cannot, or is not known to.

    Nothing is shown under `NO_COLOR`, and none of the multiplexers passes pictures on.
    """
    seen = environment.get
    term = seen("TERM", "")
    if seen("NO_COLOR") or any(map(seen, ("TMUX", "STY", "ZELLIJ"))):
        return None
    if re.match("dumb|screen|tmux|linux|$", term):
        return None
    if term in BY_TERM:
        return BY_TERM[term]
    if program := seen("TERM_PROGRAM") or {"iTerm2": "iTerm.app"}.get(seen("LC_TERMINAL", "")):
        return BY_PROGRAM.get(program)
    konsole = seen("KONSOLE_VERSION", "")
    return "kitty" if konsole.isdecimal() and int(konsole) >= KONSOLE_WITH_KITTY else None


def thumbnail(picture: "Image", protocol: Protocol, columns: int) -> str | None:
    """The escapes that show an RGB `picture` and end its line; None where it has no room.

    At most `ROWS` × `COLUMNS` cells, and narrower than a terminal of `columns`.
    """
    if columns < NARROWEST:
        return None
    scale = 1 if protocol == "sixel" else SHARPNESS
    width, height = CELL[0] * scale, CELL[1] * scale
    columns = min(COLUMNS, columns - 1)
    small = _within(picture, columns * width, ROWS * height)
    # Told one side alone, the terminal keeps the proportions.
    across = small.width == columns * width
    cells = -(-small.width // width) if across else -(-small.height // height)
    match protocol:
        case "kitty":
            return _kitty(small, f"{'c' if across else 'r'}={cells}")
        case "iterm2":
            return _iterm2(small, f"{'width' if across else 'height'}={cells}")
        case "sixel":
            return _sixel(small)


def _within(picture: "Image", width: int, height: int) -> "Image":
    """A copy that is no larger than `width` × `height`, and no narrower than a pixel."""
    small = picture.copy() if max(picture.size) < 1_000 else picture.reduce(2)
    small.thumbnail((width, height))
    return small


def _kitty(small: "Image", size: str) -> str:
    """Source: https://sw.kovidgoyal.net/kitty/graphics-protocol (q=2: it answers nothing)."""
    data = _encoded(small, "PNG")
    pieces = [data[i : i + KITTY_CHUNK] for i in range(0, len(data), KITTY_CHUNK)]
    keys = [f"a=T,f=100,q=2,{size},"] + ["q=2,"] * (len(pieces) - 1)
    return (
        "".join(
            f"\x1b_G{key}m={int(i < len(pieces))};{piece}\x1b\\"
            for i, (key, piece) in enumerate(zip(keys, pieces, strict=True), 1)
        )
        + "\n"
    )


def _iterm2(small: "Image", size: str) -> str:
    """Source: https://iterm2.com/documentation-images.html"""
    data = _encoded(small, "JPEG")
    return f"\x1b]1337;File=inline=1;{size};preserveAspectRatio=1:{data}\x07\n"


def _sixel(small: "Image") -> str:
    from textual_image._sixel import image_to_sixels  # late; see the head of the file

    return image_to_sixels(small) + "\n"


def _encoded(small: "Image", format: str) -> str:
    file = io.BytesIO()
    small.save(file, format, **({"quality": 85} if format == "JPEG" else {}))
    return b64encode(file.getvalue()).decode()
