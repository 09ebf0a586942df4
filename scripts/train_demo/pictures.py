"""Simple pictures of coloured shapes, drawn at random, with what a person would say about each.

Training and evaluation share `draw`; they differ only in the seeds of the generator they hand in.
"""

import colorsys
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random
from typing import Literal

from PIL import Image, ImageChops, ImageDraw

Colour = tuple[int, int, int]
Point = tuple[float, float]
Range = tuple[float, float]

SHAPES = ("circle", "square", "triangle", "star", "heart")
POSITIONS = (
    *("top left", "top", "top right"),
    *("left", "centre", "right"),
    *("bottom left", "bottom", "bottom right"),
)
COUNTS = (2, 3, 4)

# Name -> ranges of hue in degrees, saturation and value: wide inside a name, apart between names.
PAINTS: dict[str, tuple[Range, Range, Range]] = {
    "red": ((-7, 6), (0.82, 1.0), (0.72, 0.96)),
    "orange": ((24, 33), (0.9, 1.0), (0.95, 1.0)),
    "yellow": ((51, 58), (0.8, 1.0), (0.92, 1.0)),
    "green": ((105, 145), (0.65, 1.0), (0.5, 0.8)),
    "blue": ((212, 234), (0.75, 1.0), (0.65, 1.0)),
    "purple": ((273, 288), (0.65, 0.9), (0.55, 0.8)),
    "black": ((0, 360), (0.0, 0.3), (0.0, 0.1)),
    "white": ((0, 360), (0.0, 0.03), (0.97, 1.0)),
}
COLOURS = tuple(PAINTS)

_LIGHT = ((0, 360), (0.0, 0.25), (0.84, 1.0))
_DARK = ((0, 360), (0.0, 0.45), (0.06, 0.3))
_GREY = ((0, 360), (0.0, 0.12), (0.4, 0.68))
_MARGIN = 130  # smallest distance in RGB between a shape and both ends of its background


@dataclass(frozen=True)
class Scene:
    """What is in a picture: one shape somewhere, or several of the same shape and colour."""

    kind: Literal["single", "several"]
    shape: str  # one of SHAPES
    colour: str  # one of COLOURS
    position: str | None  # one of POSITIONS for a single shape, else None
    count: int  # 1 for a single shape, else one of COUNTS
    centres: tuple[Point, ...] = ()  # of the shapes, as shares of width and height


@dataclass(frozen=True)
class Stamp:
    """One shape to be drawn: its place and size in pixels, its turn in radians, its colours."""

    shape: str
    centre: Point
    radius: float  # of the circle around it
    turn: float
    fill: Colour
    outline: Colour | None


def draw(rng: Random) -> tuple[Image.Image, Scene]:
    """A random scene and an RGB picture of it, 128 to 640 pixels a side; 1:2 to 2:1."""
    return paint(random_scene(rng), rng)


def random_scene(rng: Random) -> Scene:
    """Single and several equally often; everything else uniform."""
    shape, colour = rng.choice(SHAPES), rng.choice(COLOURS)
    if rng.random() < 0.5:
        return Scene("single", shape, colour, rng.choice(POSITIONS), 1)
    return Scene("several", shape, colour, None, rng.choice(COUNTS))


def paint(scene: Scene, rng: Random) -> tuple[Image.Image, Scene]:
    """A random RGB picture of the scene, and the scene with the places it got."""
    size = _size(rng)
    fill = _mix(PAINTS[scene.colour], rng)
    outline = _outline(fill, rng) if rng.random() < 0.25 else None
    picture = _background(size, fill, rng)
    places = _places(scene, size, rng)
    for centre, radius in places:
        turn = rng.uniform(-0.3, 0.3)
        _draw_stamp(picture, Stamp(scene.shape, centre, radius, turn, fill, outline))
    centres = tuple((x / size[0], y / size[1]) for (x, y), _ in places)
    scene = replace(scene, centres=centres)
    return _with_noise(picture, rng) if rng.random() < 0.3 else picture, scene


def _size(rng: Random) -> tuple[int, int]:
    side = rng.uniform(150, 300) if rng.random() < 0.92 else rng.uniform(300, 600)
    stretch = 2 ** rng.uniform(-0.5, 0.5)
    width, height = (min(640, max(128, round(s))) for s in (side * stretch, side / stretch))
    return width, height


def _mix(paint: tuple[Range, Range, Range], rng: Random) -> Colour:
    hue, saturation, value = (rng.uniform(*bounds) for bounds in paint)
    return _rgb(hue, saturation, value)


def _rgb(hue: float, saturation: float, value: float) -> Colour:
    red, green, blue = colorsys.hsv_to_rgb(hue / 360 % 1, saturation, value)
    return round(red * 255), round(green * 255), round(blue * 255)


def _outline(fill: Colour, rng: Random) -> Colour:
    """Black, white, or a darker tone of the fill."""
    dark = (fill[0] // 2, fill[1] // 2, fill[2] // 2)
    return rng.choice(((16, 16, 16), (245, 245, 245), dark))


def _background(size: tuple[int, int], fill: Colour, rng: Random) -> Image.Image:
    """Plain or a mild gradient, clearly apart from the fill everywhere."""
    while True:
        hue, saturation, value = (
            rng.uniform(*bounds) for bounds in rng.choices((_LIGHT, _DARK, _GREY), (5, 4, 1))[0]
        )
        start = _rgb(hue, saturation, value)
        end = start
        if rng.random() < 0.4:
            shifted = min(1.0, max(0.0, value + rng.uniform(-0.18, 0.18)))
            end = _rgb(hue + rng.uniform(-20, 20), saturation, shifted)
        if min(math.dist(fill, start), math.dist(fill, end)) >= _MARGIN:
            break
    picture = Image.new("RGB", size, start)
    if end != start:
        ramp = Image.linear_gradient("L").rotate(rng.choice((0, 90, 180, 270)))
        picture.paste(end, (0, 0, *size), ramp.resize(size, Image.Resampling.BILINEAR))
    return picture


def _places(scene: Scene, size: tuple[int, int], rng: Random) -> list[tuple[Point, float]]:
    """Centre and radius of every shape, wholly inside the picture."""
    if scene.position is None:
        return _scatter(scene.count, size, rng)
    radius = min(size) * rng.uniform(0.12, 0.2)
    row, column = divmod(POSITIONS.index(scene.position), 3)
    x, y = (
        min(side - radius, max(radius, side * (cell + 0.5 + rng.uniform(-0.14, 0.14)) / 3))
        for cell, side in ((column, size[0]), (row, size[1]))
    )
    return [((x, y), radius)]


def _scatter(count: int, size: tuple[int, int], rng: Random) -> list[tuple[Point, float]]:
    """Places with a clear gap between any two; the shapes shrink until they fit."""
    scale = math.sqrt(size[0] * size[1]) * rng.uniform(0.11, 0.17)
    while True:
        places: list[tuple[Point, float]] = []
        for _ in range(20 * count):
            radius = scale * rng.uniform(0.88, 1.0)
            edge = radius + 2
            centre = (rng.uniform(edge, size[0] - edge), rng.uniform(edge, size[1] - edge))
            if all(math.dist(centre, c) > 1.2 * (radius + r) for c, r in places):
                places.append((centre, radius))
            if len(places) == count:
                return places
        scale *= 0.93


def _draw_stamp(picture: Image.Image, stamp: Stamp) -> None:
    corner = math.floor(stamp.centre[0] - stamp.radius), math.floor(stamp.centre[1] - stamp.radius)
    inner = 1.0
    if stamp.outline is not None:
        picture.paste(stamp.outline, corner, _mask(stamp, corner, 1.0))
        inner = 0.86
    picture.paste(stamp.fill, corner, _mask(stamp, corner, inner))


def _mask(stamp: Stamp, corner: tuple[int, int], scale: float) -> Image.Image:
    """The stamp's coverage, 0 to 255, as a small picture whose top left is at `corner`."""
    zoom = 3 if stamp.radius < 48 else 2
    side = math.ceil(2 * stamp.radius) + 2
    mask = Image.new("L", (side * zoom, side * zoom))
    pen = ImageDraw.Draw(mask)
    x, y = (zoom * (c - o) for c, o in zip(stamp.centre, corner, strict=True))
    radius = stamp.radius * scale * zoom
    if stamp.shape == "circle":
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=255)
    else:
        sin, cos = math.sin(stamp.turn) * radius, math.cos(stamp.turn) * radius
        corners = _CORNERS[stamp.shape]
        pen.polygon([(x + a * cos - b * sin, y + a * sin + b * cos) for a, b in corners], fill=255)
    return mask.reduce(zoom)


def _with_noise(picture: Image.Image, rng: Random) -> Image.Image:
    """Every value moved by up to a few grey levels."""
    reach = rng.randint(3, 14)
    width, height = picture.size
    noise = Image.frombytes("RGB", picture.size, rng.randbytes(3 * width * height))
    shifts = [value * reach // 128 for value in range(256)] * 3
    return ImageChops.add(picture, noise.point(shifts), 1, -reach)


def _ring(count: int, radius: Callable[[int], float], start: float) -> list[Point]:
    angles = [start + 2 * math.pi * i / count for i in range(count)]
    return [(radius(i) * math.cos(a), radius(i) * math.sin(a)) for i, a in enumerate(angles)]


def _heart(steps: int = 40) -> list[Point]:
    points = []
    for i in range(steps):
        t = 2 * math.pi * i / steps
        x = 16 * math.sin(t) ** 3
        y = 13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)
        points.append((x / 17, -(y + 2.5) / 17))
    return points


# Corners inside the unit circle, y downwards.
_CORNERS: dict[str, list[Point]] = {
    "square": _ring(4, lambda _: 1.0, math.pi / 4),
    "triangle": _ring(3, lambda _: 1.0, -math.pi / 2),
    "star": _ring(10, lambda i: 0.45 if i % 2 else 1.0, -math.pi / 2),
    "heart": _heart(),
}
