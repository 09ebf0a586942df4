"""GPUs of NVIDIA as their driver tells of them, and whether there is a driver. Free of torch."""

import csv
import re
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from .patience import PATIENCE, ask

DRIVER = Path("/proc/driver/nvidia/version")
PCI = Path("/sys/bus/pci/devices")
NVIDIA: Final = "0x10de"  # the maker's number on the PCI bus; class 03 is a display controller
QUERY: Final = "index,name,uuid,driver_version,compute_cap,memory.total,memory.used,memory.free"
MIB: Final = 2**20


@dataclass(frozen=True, slots=True)
class Holder:
    """A program that has memory on a GPU."""

    pid: int
    name: str
    nbytes: int | None


@dataclass(frozen=True, slots=True)
class Card:
    """A GPU as its driver describes it; bytes where it tells them."""

    index: str
    name: str
    driver: str
    capability: str
    total: int | None
    used: int | None
    free: int | None
    holders: tuple[Holder, ...]


@dataclass(frozen=True, slots=True)
class Cards:
    """What `nvidia-smi` says; `failure` where it says that it cannot."""

    cards: tuple[Card, ...] = ()
    cuda: str | None = None  # the newest CUDA that the driver runs
    failure: str | None = None


def cards() -> Cards | None:
    """The GPUs that `nvidia-smi` lists. None: there is no such program."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    done = ask([program, f"--query-gpu={QUERY}", "--format=csv,noheader,nounits"])
    if done is None or done.code is None:
        return Cards(failure=f"nvidia-smi does not answer within {PATIENCE:.0f} s")
    if done.code:
        lines = done.text.strip().splitlines()
        return Cards(failure=lines[0] if lines else f"nvidia-smi failed with code {done.code}")
    held = ask(
        [
            program,
            "--query-compute-apps=gpu_uuid,pid,process_name,used_memory",
            "--format=csv,noheader,nounits",
        ]
    )
    holders = parse_holders(held.text) if held is not None and held.code == 0 else {}
    page = ask([program])
    version = re.search(r"CUDA (?:UMD )?Version\s*: ([\d.]+)", page.text) if page else None
    return Cards(parse_cards(done.text, holders), version[1] if version else None)


def parse_cards(text: str, holders: Mapping[str, list[Holder]]) -> tuple[Card, ...]:
    """The answer to `QUERY`; lines of another form are left out."""
    found = []
    for row in csv.reader(text.splitlines(), skipinitialspace=True):
        if len(row) == len(QUERY.split(",")):
            index, name, uuid, driver, capability, *memory = (cell.strip() for cell in row)
            total, used, free = map(_mib, memory)
            held = tuple(holders.get(uuid, ()))
            found.append(Card(index, name, driver, capability, total, used, free, held))
    return tuple(found)


def parse_holders(text: str) -> dict[str, list[Holder]]:
    """Programs by the GPU that they hold memory of; of paths the last part."""
    found: dict[str, list[Holder]] = {}
    for row in csv.reader(text.splitlines(), skipinitialspace=True):
        if len(row) == 4 and row[1].strip().isdigit():
            uuid, pid, path, used = (cell.strip() for cell in row)
            name = re.split(r"[/\\]", path)[-1] or path
            found.setdefault(uuid, []).append(Holder(int(pid), name, _mib(used)))
    return found


def _mib(text: str) -> int | None:
    return int(text) * MIB if text.isdigit() else None  # "[N/A]" on cards that share memory


def driver_version() -> str | None:
    """Of NVIDIA's driver, as the kernel knows it; None where none is loaded, or cannot be told."""
    try:
        found = re.search(r"Kernel Module\D*([\d.]+)", DRIVER.read_text())
    except OSError:
        return None
    return found[1] if found else None


def driver() -> str | None:
    """The version of the driver, whoever knows it."""
    version = driver_version()
    if version is None and (found := cards()) is not None and found.cards:
        version = found.cards[0].driver
    return version


def has_nvidia_card() -> bool:
    """Whether an NVIDIA GPU is on the PCI bus, with or without a driver; False where not told."""
    with suppress(OSError):
        for device in PCI.iterdir():
            maker, kind = (device / "vendor").read_text(), (device / "class").read_text()
            if maker.strip() == NVIDIA and kind.startswith("0x03"):
                return True
    return False
