"""What the value of a flag may be: read from its text, or refused in a line."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import typer

UNITS: Final = {"k": 2**10, "m": 2**20}
GROUPS: Final = ("32", "64", "128")


class RoundCount(int):
    """A token count that was written in k or M, and so stands for about as many."""


@dataclass(frozen=True, slots=True)
class Number:
    """Numbers from one to another; as text what they are called."""

    low: float
    high: float
    whole: bool = False

    def read(self, text: str | float) -> float:
        """Read one of them; a whole one is an int."""
        try:
            number = int(str(text).replace(",", "")) if self.whole else float(text)
        except ValueError:
            number = math.nan
        if number not in self:
            raise typer.BadParameter(f"{str(text)[:40]!r} is not {self}")
        return number

    def __contains__(self, value: object) -> bool:
        kinds = (int,) if self.whole else (int, float)
        if isinstance(value, bool) or not isinstance(value, kinds):
            return False
        return self.low <= value <= self.high

    def __str__(self) -> str:
        return f"a {'whole ' if self.whole else ''}number from {self.low:,} to {self.high:,}"


NUMBERS: Final[Mapping[str, Number]] = {  # what `engine.sampling` takes
    "temp": Number(0, 100),
    "top_p": Number(0, 1),
    "top_k": Number(0, 2**31 - 1, whole=True),
    "min_p": Number(0, 1),
    "presence_penalty": Number(-100, 100),
    "repetition_penalty": Number(0.01, 100),
    "seed": Number(0, 2**63 - 1, whole=True),
}


def tokens(text: str | int) -> int:
    """Read a token count: `8192`, `8_192`, `32k`, `25.6K`, `1M`; the last three as `RoundCount`."""
    if isinstance(text, int) and text > 0:
        return text
    number = str(text).strip().replace("_", "").replace(",", "").lower()
    known = re.fullmatch(r"(\d{1,12}|\d{1,9}(?:\.\d+)?(?=[km]))([km]?)", number)
    count = int(float(known[1]) * UNITS.get(known[2], 1)) if known else 0
    if not count:
        raise typer.BadParameter(f"{text!r} is not a token count such as 8192, 32k or 1M")
    return RoundCount(count) if known and known[2] else count


def image_tokens(text: str | int) -> int:
    """Read a token count, or `full` for the model's own limit, given as 0."""
    return 0 if text in ("full", 0) else tokens(text)


def budget(text: str | int) -> int:
    """Read a token count that may be 0, or `none` for no limit, given as -1."""
    if text in ("none", -1):
        return -1
    return 0 if text in ("0", 0) else tokens(text)


def contexts(text: str) -> tuple[int, ...]:
    """Read one token count or several, between commas: `8k,32k,256k`.

    `131,072` can only be one, `262,144` might be two.
    """
    if re.fullmatch(r"\d{1,3}(,\d{3})+", text.strip()):
        if re.search(r",0", text):
            return (tokens(text),)
        one, several = text.replace(",", ""), text.replace(",", ", ")
        raise typer.BadParameter(f"{text!r} is one count or several; write {one}, or '{several}'")
    return tuple(tokens(each) for each in text.strip(", ").split(","))


def pictures(text: str) -> tuple[tuple[int, int], ...]:
    """Read the size of a picture, or of several alike: `1920x1080`, `640x480x3`."""
    known = re.fullmatch(r"(\d{1,6})[x×](\d{1,6})(?:[x×](\d{1,4}))?", text.strip().lower())
    width, height, count = (int(part or 1) for part in known.groups()) if known else (0, 0, 0)
    if not width * height * count:
        raise typer.BadParameter(f"{text!r} is not WIDTHxHEIGHT or WIDTHxHEIGHTxCOUNT in pixels")
    return ((width, height),) * count


def drafts(text: str) -> str:
    """Check `auto`, `off` or a number of drafts; 0 is `off`."""
    if text in ("0", "off"):
        return "off"
    if text == "auto" or (text in "1234" and len(text) == 1):
        return text
    raise typer.BadParameter(f"{text} is not auto, off or a number from 1 to 4")


def group(text: str | int) -> int:
    """Read how many weights share a scale."""
    if str(text) not in GROUPS:
        raise typer.BadParameter(f"{str(text)[:40]!r} is not one of {', '.join(GROUPS)}")
    return int(text)
