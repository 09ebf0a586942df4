"""What the report is made of."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class Finding:
    """What is wrong, or could be better, and what mends it."""

    what: str
    mend: str


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the report: lines for people, and the same for programs."""

    name: str
    lines: Sequence[tuple[str, str]]
    facts: Mapping[str, Any]
    problems: Sequence[Finding] = ()
    notes: Sequence[Finding] = ()


@dataclass(frozen=True, slots=True)
class Report:
    """All of it. `problems` keep the program from running as it was asked to, `notes` do not."""

    sections: Sequence[Section]
    problems: Sequence[Finding] = ()
    notes: Sequence[Finding] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Where things are kept; the configuration is a file."""

    data: Path
    cache: Path
    state: Path
    config: Path
    hub: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class DoctorOptions:
    """What the report is about."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    kernels: str | None = None
    environment: Mapping[str, str]
    places: Places
    known: frozenset[str] = frozenset()  # variables that flags are read from
    files: Mapping[Path, Mapping[str, Any]] = field(
        default_factory=dict
    )  # of settings, weakest first
    refused: Sequence[Finding] = ()  # what files of settings and variables say and no command takes
