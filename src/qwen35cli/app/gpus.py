"""The cards that an estimate is held against, and how a card or a size is named. Free of torch."""

import csv
import difflib
import importlib.resources
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache

from qwen35cli.errors import UsageError

from .estimate import GIB

# Shown where nothing else is asked for: one of each size that people have, that the kernels run on.
COMMON = (
    *("GeForce RTX 3060 Laptop", "GeForce RTX 4060", "GeForce RTX 3070", "GeForce RTX 3080 10GB"),
    *("GeForce RTX 5070", "GeForce RTX 3060 12GB", "GeForce RTX 5060 Ti 16GB", "L4"),
    *("GeForce RTX 4090", "GeForce RTX 3090", "GeForce RTX 5090", "A100 SXM4 40GB"),
)
LEAST = (8, 0)  # as in kernels/triton, which would import torch
BRANDS = {"nvidia", "amd", "intel", "geforce", "radeon", "tesla", "apple", "instinct", "gpu"}
BRANDS |= {"generation", "workstation", "edition"}  # as drivers go on behind a name
FILLERS = BRANDS | {"rtx", "gtx", "rx", "arc", "sxm4", "sxm5", "sxm2", "pcie", "unified", "gb10"}
OTHER = {"ti", "super", "xt", "laptop"}  # one such word more is another card
UNIT = r"(?:g|gb|gib)"


@dataclass(frozen=True, slots=True)
class Gpu:
    """A card, or so much memory. `bandwidth_gbs` in 1e9 bytes a second, where it is known."""

    name: str
    usable: int  # bytes that programs can have
    bandwidth_gbs: float | None = None
    capability: tuple[int, int] | None = None  # of CUDA; None: no card of NVIDIA, or not known
    kernels: tuple[str, ...] | None = None  # those that run on it; None: not known

    @property
    def runs_fused(self) -> bool:
        """Whether the fused kernels run on it, as far as is known."""
        return self.kernels is None or "triton" in self.kernels


def kernels(capability: tuple[int, int] | None) -> tuple[str, ...]:
    """What runs on a card of this compute capability; None is one that has no CUDA."""
    if capability is None:
        return ()
    return ("triton", "reference") if capability >= LEAST else ("reference",)


@cache
def table() -> tuple[Gpu, ...]:
    """All cards that are known."""
    file = importlib.resources.files("qwen35cli.app") / "gpus.csv"
    rows = csv.DictReader(file.read_text(encoding="utf-8").splitlines())
    return tuple(_card(row) for row in rows)


def _card(row: Mapping[str, str]) -> Gpu:
    capability = None
    if row["vendor"] == "NVIDIA":
        major, minor = row["arch_or_cc"].split(".")
        capability = int(major), int(minor)
    return Gpu(
        row["name"],
        round(float(row["vram_gib_usable"]) * GIB),
        float(row["bandwidth_gbs"]),
        capability,
        kernels(capability),
    )


def common() -> list[Gpu]:
    """The cards of `COMMON`."""
    known = {gpu.name: gpu for gpu in table()}
    return [known[name] for name in COMMON]


def parse(text: str) -> Gpu:
    """The card called `text`, or the memory of that size: `24G`, `24GB` and `24GiB` are 24 x 2**30.

    Raises:
        UsageError: no such card, or several; the message offers the closest names.
    """
    number = re.fullmatch(rf"(\d{{1,4}}(?:\.\d{{1,3}})?)\s*{UNIT}", text.strip().lower())
    if number:
        usable = round(float(number[1]) * GIB)
        if not usable:
            raise UsageError("a GPU of 0 GiB holds nothing", "--gpu 8GiB, or --gpu 'RTX 4060'")
        return Gpu(f"{float(number[1]):g} GiB", usable)
    return find(text)


def find(text: str) -> Gpu:
    """The card called `text`, whole or in part: `4090`, `rtx 3060`, `5060 ti 16gb`.

    Raises:
        UsageError: no such card, or several.
    """
    asked = _words(text) - BRANDS
    if not asked:
        raise _unknown(text)
    found = {gpu: _words(gpu.name) - asked for gpu in table() if asked <= _words(gpu.name)}
    if not found:
        raise _unknown(text)
    # What a name has beyond the words that were given makes another card of it, unless it only
    # says what is known anyway.
    plain = [gpu for gpu, more in found.items() if not more - FILLERS]
    sized = [gpu for gpu, more in found.items() if not _without_sizes(more - FILLERS)]
    for choice in (plain, sized, list(found)):
        if len(choice) == 1 and not found[choice[0]] & OTHER:
            return choice[0]
        if len(choice) > 1:
            names = ", ".join(repr(gpu.name) for gpu in choice)
            raise UsageError(f"--gpu {text!r} can be {names}", f"--gpu {choice[0].name!r}")
    raise _unknown(text, found)


def named(device: str) -> Gpu | None:
    """The card in the table that a driver calls `device`; None where it is not there."""
    try:
        return find(device)
    except UsageError:
        return None


def _words(text: str) -> set[str]:
    """`RTX-5060Ti 16 GB` -> rtx, 5060, ti, 16gb."""
    text = re.sub(rf"(\d+)\s*{UNIT}\b", r"\1gb", text.lower())
    text = re.sub(r"\bhbm3\b", "sxm5", text)  # so a driver calls an H100 of that form
    text = re.sub(r"\b(rtx|gtx|rx)(\d{4})", r"\1 \2", text)
    text = re.sub(r"\b(\d{4})(ti|super|xtx?)\b", r"\1 \2", text)
    return set(re.findall(r"[a-z0-9.+]+", text))


def _without_sizes(words: Iterable[str]) -> set[str]:
    return {word for word in words if not re.fullmatch(r"\d+gb", word)}


def _unknown(text: str, nearest: Iterable[Gpu] = ()) -> UsageError:
    names = {gpu.name.lower(): gpu.name for gpu in table()}
    short = {" ".join(w for w in n.split() if w not in BRANDS): name for n, name in names.items()}
    close = difflib.get_close_matches(text.lower(), [*names, *short], n=6, cutoff=0.5)
    near = [*(gpu.name for gpu in nearest), *((names | short)[name] for name in close)]
    offered = list(dict.fromkeys(near))[:3]
    return UsageError(
        f"no GPU {text[:60]!r} is known",
        ("--gpu " + ", or ".join(map(repr, offered)) if offered else "--gpu 'RTX 4090'")
        + ", or a size such as --gpu 24GiB",
    )
