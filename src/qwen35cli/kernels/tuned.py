"""Launches of GPU kernels as data: what a file of them may hold. Free of Triton.

`triton/launches.json` ships some; `qwen35 tune` writes a user's own in the same form. They are
lists of warps, blocks ahead, tiles, split and early blocks, by architecture and by what
`triton.launches.key` calls a launch.
"""

import re
from collections.abc import Mapping
from typing import Final, Literal, get_args

Op = Literal["project", "swiglu", "add", "head"]
Tuned = Mapping[str, Mapping[str, list[int]]]

WARPS: Final = (1, 2, 4, 8)
MOST_AHEAD: Final = 9
MOST_TILES: Final = 2
MOST_SPLIT: Final = 12  # of `add`; no other splits
MOST_EARLY: Final = 1_024

_ARCH = re.compile(r"default|sm_\d{2,3}")
_NAME = re.compile(rf"({'|'.join(get_args(Op))}) (4|8|16)( [1-9]\d{{0,8}}x[1-9]\d{{0,8}})?")


def checked(table: object) -> dict[str, dict[str, list[int]]]:
    """The launches in a parsed file. Names that are not known here are left out: another version
    may have written them.

    Raises:
        ValueError: it is no such file, or a launch cannot be; the message says which.
    """
    if not isinstance(table, dict):
        raise ValueError("it holds no object")
    found: dict[str, dict[str, list[int]]] = {}
    for arch, launches in table.items():
        if not isinstance(arch, str) or not _ARCH.fullmatch(arch):
            raise ValueError(f"{str(arch)[:40]!r} is no architecture such as sm_90")
        if not isinstance(launches, dict):
            raise ValueError(f"{arch} holds no object")
        found[arch] = {}
        for name, numbers in launches.items():
            if known := _NAME.fullmatch(name):
                found[arch][name] = _launch(f"{arch}: {name}", known[1] == "add", numbers)
    return found


def _launch(where: str, splits: bool, numbers: object) -> list[int]:
    if not isinstance(numbers, list) or len(numbers) != 5:
        raise ValueError(f"{where} is no list of five numbers")
    ranges = (
        ("warps", WARPS),
        ("blocks ahead", range(1, MOST_AHEAD + 1)),
        ("tiles", range(1, MOST_TILES + 1)),
        ("split", range(1, MOST_SPLIT + 1) if splits else (1,)),
        ("early blocks", range(MOST_EARLY + 1)),
    )
    for (what, known), number in zip(ranges, numbers, strict=True):
        if type(number) is not int or number not in known:
            raise ValueError(f"{where} has {str(number)[:20]!r} as its {what}")
    return [*numbers]
