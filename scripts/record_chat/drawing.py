"""A screen as an SVG picture, drawn by Rich, and the text back from one."""

import re
from collections.abc import Sequence
from io import StringIO
from itertools import groupby
from xml.etree import ElementTree

import pyte
from pyte.screens import Char
from rich.color import Color, blend_rgb
from rich.console import Console
from rich.style import Style
from rich.terminal_theme import TerminalTheme
from rich.text import Text

NAME = "chat"  # begins the names inside the picture
ASPECT = 0.6  # width of a character by its height, in most monospaced fonts

# Background, text, then the eight colours and their bright ones; legible on dark.
THEME = TerminalTheme(
    (22, 27, 34),
    (230, 237, 243),
    [
        (110, 118, 129),
        (255, 123, 114),
        (86, 211, 100),
        (227, 179, 65),
        (121, 192, 255),
        (210, 168, 255),
        (86, 212, 221),
        (201, 209, 217),
    ],
    [
        (139, 148, 158),
        (255, 161, 152),
        (126, 231, 135),
        (242, 204, 96),
        (165, 214, 255),
        (226, 197, 255),
        (179, 240, 255),
        (240, 246, 252),
    ],
)
DIMNESS = 0.4  # Rich's
DIM = blend_rgb(THEME.foreground_color, THEME.background_color, DIMNESS).hex

LINE_END = re.compile(r"<text [^>]*>\n</text>")  # Rich draws those too

# Rich's own form fetches a font. A picture in a README may not, and needs none.
FORM = """\
<svg viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">
<style>
.{unique_id}-matrix {{
  font: {char_height}px/{line_height}px ui-monospace, SFMono-Regular, Menlo, Consolas,
    "DejaVu Sans Mono", "Liberation Mono", monospace;
  font-variant-ligatures: none;
}}
.{unique_id}-title {{ font: 16px system-ui, "Segoe UI", Helvetica, sans-serif; opacity: 0.7 }}
{styles}
</style>
<defs>
<clipPath id="{unique_id}-clip-terminal">
<rect width="{terminal_width}" height="{terminal_height}"/>
</clipPath>
{lines}
</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g>
</g>
</svg>
"""


def svg(rows: Sequence[Text], columns: int, title: str) -> str:
    """Rows of text in a window of `columns` characters, with a margin."""
    console = Console(
        file=StringIO(),
        record=True,
        width=columns + 2,
        color_system="truecolor",
        force_terminal=True,
        legacy_windows=False,
    )
    for row in (*rows, Text()):
        console.print(Text(" ") + row, highlight=False, soft_wrap=True)
    picture = console.export_svg(
        title=title, theme=THEME, code_format=FORM, font_aspect_ratio=ASPECT, unique_id=NAME
    )
    return LINE_END.sub("", picture).replace("</text><text", "</text>\n<text")


def rows(screen: pyte.Screen) -> list[Text]:
    """The lines of a screen down to the last with text on it."""
    found = [
        _row([screen.buffer[y][x] for x in range(screen.columns)]) for y in range(screen.lines)
    ]
    while found and not found[-1].plain:
        found.pop()
    return found


def _row(cells: list[Char]) -> Text:
    row = Text()
    for style, run in groupby(cells, key=_style):
        row.append("".join(cell.data for cell in run), style)
    row.rstrip()
    return row


def _style(cell: Char) -> Style:
    return Style(
        color=_colour(cell.fg),
        bgcolor=_colour(cell.bg),
        bold=cell.bold,
        dim=cell.blink,  # see terminal.py
        italic=cell.italics,
        underline=cell.underscore,
        strike=cell.strikethrough,
        reverse=cell.reverse,
    )


def _colour(name: str) -> Color:
    """A colour of pyte's as Rich spells it."""
    if re.fullmatch("[0-9a-f]{6}", name):
        return Color.parse(f"#{name}")
    return Color.parse(name.replace("brown", "yellow").replace("bright", "bright_"))


def spoken(picture: str) -> list[str]:
    """The lines of a picture without what is dim: what was typed and answered, no timings."""
    dim = re.findall(rf"^\.(\S+) {{ fill: {DIM}", picture, re.MULTILINE)
    lines: dict[float, str] = {}
    for text in ElementTree.fromstring(picture).iter("{http://www.w3.org/2000/svg}text"):
        if text.get("class") not in dim:
            at = float(text.get("y", "0"))
            lines[at] = lines.get(at, "") + (text.text or "")
    return [line.replace("\xa0", " ").strip() for line in lines.values()]
