"""What `bench` found, and on what."""

import platform
import statistics
from dataclasses import dataclass
from typing import Literal

import torch

from qwen35cli.app.doctor.machine import cpu_name
from qwen35cli.app.doctor.nvidia import driver
from qwen35cli.app.doctor.versions import version
from qwen35cli.app.load import Opened

Phase = Literal["prefill", "decode"]


@dataclass(frozen=True, slots=True)
class Running:
    """Run `number` of `count` over so many tokens is next."""

    phase: Phase
    tokens: int
    number: int
    count: int


@dataclass(frozen=True, slots=True)
class Prefilled:
    """A prompt of so many tokens: seconds of each run, to its first token."""

    tokens: int
    seconds: tuple[float, ...]

    @property
    def runs(self) -> int:
        return len(self.seconds)

    @property
    def speeds(self) -> list[float]:
        """Tokens/s of each run."""
        return [self.tokens / each for each in self.seconds]

    @property
    def first_token_s(self) -> float:
        return statistics.median(self.seconds)

    @property
    def tokens_per_s(self) -> float:
        return self.tokens / self.first_token_s


@dataclass(frozen=True, slots=True)
class Decoded:
    """Decoding behind so many tokens."""

    ctx: int
    count: int  # tokens in each run
    nbytes: int  # that a token moves
    speeds: tuple[float, ...]  # tokens/s of each run
    bandwidths: tuple[float, ...]  # GB/s (10^9) of the memory beside it

    @property
    def runs(self) -> int:
        return len(self.speeds)

    @property
    def tokens_per_s(self) -> float:
        return statistics.median(self.speeds)

    @property
    def share(self) -> float:
        """Of the memory's bandwidth: the median of what each run had."""
        each = zip(self.speeds, self.bandwidths, strict=True)
        return statistics.median(speed * self.nbytes / 1e9 / read for speed, read in each)


@dataclass(frozen=True, slots=True)
class Here:
    """What it is measured on and with."""

    device: str
    driver: str | None
    threads: int
    torch: str
    triton: str | None
    cuda: str | None
    kernels: str
    system: str


def here(opened: Opened) -> Here:
    """This machine, as far as it matters to speed."""
    cuda = opened.device.type == "cuda"
    name = torch.cuda.get_device_name(opened.device) if cuda else cpu_name()
    return Here(
        device=name,
        driver=driver() if cuda else None,
        threads=torch.get_num_threads(),
        torch=torch.__version__,
        triton=version("triton"),
        cuda=torch.version.cuda,
        kernels=opened.kernels.description,
        system=f"{platform.system()} {platform.machine()}",
    )
