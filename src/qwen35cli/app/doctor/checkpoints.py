"""The section on checkpoints: what can be run, and what of it is damaged or half made."""

from typing import Any

from qwen35cli.app.estimate import size
from qwen35cli.checkpoint.pinned import DEFAULT_REPO
from qwen35cli.errors import Qwen35Error

from .patience import PATIENCE, within
from .report import Finding, Places, Section


def section(places: Places, *, told: bool = False) -> Section:
    """What is known of each.

    Args:
        told: another section says that a folder is of no use, so that this one need not.
    """
    from qwen35cli.app import inventory, items  # late: they may be what is broken

    where = items.Places(data=places.data, cache=places.cache, hub=places.hub)
    try:
        found = within(2 * PATIENCE, lambda: inventory.look(where))
    except Qwen35Error as error:
        if not told:
            raise
        return Section("checkpoints", [("failed", error.message)], {"failed": error.message})
    if found is None:
        failed = Finding("a disk does not answer: no list of checkpoints", "qwen35 ls")
        return Section("checkpoints", [("failed", failed.what)], {"items": []}, [failed])
    lines = [("demo", "in the package")]
    facts: list[dict[str, Any]] = []
    problems: list[Finding] = []
    notes: list[Finding] = []
    for item in found.items:
        if item.kind not in ("checkpoint", "quantized", "unfinished", "launches"):
            continue
        state, verified = _state(item)
        fault = "" if verified is not False else state
        if item.kind != "launches" or fault:
            form = f" {item.format}" if item.format else ""
            lines.append((item.kind, f"{item.name}{form}, {size(item.nbytes)}: {state}"))
        facts.append(
            {
                "kind": item.kind,
                "name": item.name,
                "format": item.format,
                "bytes": item.nbytes,
                "path": str(item.path),
                "verified": verified or False,
                "fault": fault or None,
                "being_written": item.pid is not None,
            }
        )
        if fault:
            finding = Finding(f"{item.name}: {fault}", _mend(item))
            (notes if item.kind == "unfinished" else problems).append(finding)
    if not any(item.kind in ("checkpoint", "quantized") for item in found.items):
        lines.append(("others", "none"))
        notes.append(Finding("no checkpoint but the demo is here", f"qwen35 pull {DEFAULT_REPO}"))
    return Section("checkpoints", lines, {"items": facts}, problems, notes)


def _state(item: Any) -> tuple[str, bool | None]:
    """What is known of a thing on disk; True: verified, False: not sound, None: neither."""
    if item.fault:
        return item.fault, False
    if item.pid is not None:
        return "being written", None
    if item.kind == "checkpoint":
        if item.snapshot.is_verified:
            return "verified", True
        return f"whole, not verified yet (qwen35 verify {item.name})", None
    if item.kind == "quantized":
        return "whole: its files have the sizes in its manifest", None
    return "whole", None


def _mend(item: Any) -> str:
    """The command that brings a damaged thing back, or rids one of it."""
    from qwen35cli.checkpoint.hub import pull_command  # late: as the list
    from qwen35cli.checkpoint.pinned import COMMITS

    if item.kind == "checkpoint":
        repo, commit = item.snapshot.repo, item.snapshot.commit
        return pull_command(repo, None if COMMITS.get(repo) == commit else commit)
    if item.kind == "launches":
        return "qwen35 tune"
    if item.kind == "quantized" and item.format:
        return f"qwen35 quantize {item.source} --format {item.format} --force"
    if item.kind == "unfinished" and item.snapshot is not None:
        return f"qwen35 pull {item.snapshot.repo} goes on; qwen35 rm {item.name} drops it"
    return f"qwen35 rm {item.name}"
