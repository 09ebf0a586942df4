"""`qwen35 verify`: every byte of a model read again and compared with what was published."""

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qwen35cli.errors import ModelError

from . import settings
from .flags import Group, grouped, switch
from .options import DEFAULT_MODEL, Revision, model_argument
from .terminal import Terminal
from .words import in_line, size

if TYPE_CHECKING:
    from qwen35cli.app.verify import Event, Finding

REDRAW_S = 0.1

Model = Annotated[str, model_argument("A Hub id, or a folder that quantize wrote.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyFlags(Group):
    """What is verified, and in which form it is told."""

    revision: Revision = None
    json: Annotated[bool, switch("Output", "One JSON object.", "--json")] = False


@grouped
def verify(context: typer.Context, model: Model = DEFAULT_MODEL, *, flags: VerifyFlags) -> None:
    """Hash every file of a model, and of the weights made from it. Never the network.

    Exit code 3 where a file is not what it was; the hint is the command that mends it.

    Examples:
      qwen35 verify
      qwen35 verify Qwen/Qwen3.5-9B --json
      qwen35 verify ./my-finetune-int8
    """
    terminal: Terminal = context.obj
    terminal.status("starting …")
    from qwen35cli.app import verify as use_case  # late: not for --help

    events = use_case.run(model, flags.revision, settings.data_folder())
    findings: list[Finding] = []
    for finding in shown(events, terminal):
        findings.append(finding)
        if not flags.json:
            terminal.stdout().write(line(finding) + "\n")
    if flags.json:
        terminal.write_json(as_json(model, findings))
    refuse_wrong(findings)
    total = size(sum(finding.size for finding in findings))
    terminal.say(f"{len(findings)} files, {total}: every hash is right")


def shown(events: "Iterable[Event]", terminal: Terminal) -> "Iterator[Finding]":
    """The findings as they come; what is read in between is a passing line.

    Raises:
        InterruptedByUser: Ctrl-C or SIGTERM.
    """
    from qwen35cli.app.verify import Finding

    found, drawn = 0, 0.0
    with terminal.interruptible(lambda: f"{found} files were read"):
        for event in events:
            if isinstance(event, Finding):
                found += 1
                yield event
            elif time.monotonic() - drawn > REDRAW_S:
                drawn = time.monotonic()
                done = f"{size(event.done)} of {size(event.size)}"
                terminal.status(f"verifying {event.path.name}: {done}")
    terminal.clear_status()


def refuse_wrong(findings: "Iterable[Finding]") -> None:
    """Say that a file is not what it was, and what mends it.

    Raises:
        ModelError: one is not.
    """
    wrong = [finding for finding in findings if not finding.is_right]
    if not wrong:
        return
    first = wrong[0]
    found = f"its hash is {first.found}" if first.found else "it cannot be read"
    more = f"; {len(wrong) - 1} more" if len(wrong) > 1 else ""
    raise ModelError(
        f"{first.path} is not what it was: {found}, expected is {first.expected}{more}", first.mends
    )


def line(finding: "Finding") -> str:
    """A file on a line of its own."""
    state = "ok     " if finding.is_right else "missing" if finding.found is None else "CHANGED"
    hash = finding.found or finding.expected
    place = f"{finding.path.parent.name}/{finding.path.name}"
    return f"{state}  {hash[:16]:<16}  {finding.size:>15,}  {in_line(place)}"


def as_json(model: str, findings: "list[Finding]") -> dict[str, Any]:
    """The object of `--json`. Keys are only ever added."""
    return {
        "model": model,
        "ok": all(finding.is_right for finding in findings),
        "files": [
            {
                "path": str(finding.path),
                "bytes": finding.size,
                "ok": finding.is_right,
                "expected": finding.expected,
                "found": finding.found,
            }
            for finding in findings
        ],
    }
