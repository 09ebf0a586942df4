"""The section on GPUs: as the driver knows them, as torch does, and what is between."""

import sys
from typing import Any

from qwen35cli.app.estimate import size

from . import nvidia
from .machine import in_container
from .probe_process import Probed
from .report import DoctorOptions, Finding, Section


def section(options: DoctorOptions, probed: Probed, seen: nvidia.Cards | None) -> Section:
    """What is known of each, of the driver, and why torch uses none where it does not."""
    cards = seen.cards if seen is not None else ()
    driver = cards[0].driver if cards else nvidia.driver_version()
    lines = [(f"GPU {card.index}", _card(card)) for card in cards]
    for each in probed.gpus:
        text = f"{each['name']}, sm_{str(each['capability']).replace('.', '')}, "
        text += f"{size(each['total_bytes'])}, {size(each['free_bytes'])} free"
        lines.append((f"torch's cuda:{each['index']}", text))
    if not lines:
        lines.append(("GPU", "none that can be used"))
    newest = f", runs CUDA up to {seen.cuda}" if seen is not None and seen.cuda else ""
    lines.append(("NVIDIA driver", (driver or "none") + newest))
    built = probed.torch and probed.torch["cuda"]
    if probed.torch is not None:
        lines.append(("CUDA of torch", built or "none: a build for the CPU"))
    if seen is not None and seen.failure is not None:
        lines.append(("nvidia-smi", seen.failure))
    lines += [("torch warns", warning) for warning in probed.warnings]
    facts = {
        "cards": [_card_json(card) for card in cards],
        "torch_sees": list(probed.gpus),
        "driver": driver,
        "driver_cuda": seen and seen.cuda,
        "torch_cuda": built,
        "nvidia_smi": None if seen is None else seen.failure or "answers",
        "warnings": list(probed.warnings),
    }
    wrong = _gpu_problem(options, probed, seen, driver)
    if wrong is None or options.device == "cpu":
        return Section("gpu", lines, facts)
    present = driver is not None or bool(cards) or nvidia.has_nvidia_card()
    if present or options.device == "cuda":
        return Section("gpu", lines, facts, [wrong])
    return Section("gpu", lines, facts, notes=[wrong])


def _gpu_problem(
    options: DoctorOptions, probed: Probed, seen: nvidia.Cards | None, driver: str | None
) -> Finding | None:
    """Why torch uses no GPU here; None where it does, or where torch itself is the trouble."""
    if probed.gpus or probed.torch is None:
        return None
    built = probed.torch["cuda"]
    there = driver is not None or bool(seen and seen.cards)
    if not there:
        if nvidia.has_nvidia_card():
            return Finding(
                "there is an NVIDIA GPU in this machine, and its driver is not loaded",
                "docker run --gpus all … gives it to this container"
                if in_container()
                else "install NVIDIA's driver (Ubuntu: sudo ubuntu-drivers install), then restart",
            )
        return Finding(
            "no NVIDIA GPU is here: models run on the CPU, and only where that is asked for",
            "qwen35 chat --device cpu, or for good: export QWEN35_DEVICE=cpu",
        )
    if built is None:
        return Finding(
            f"there is an NVIDIA GPU, and torch {probed.torch['version']} was built without CUDA",
            "pip install --force-reinstall torch"
            + (
                " --index-url https://download.pytorch.org/whl/cu128"
                if sys.platform == "win32" or "+cpu" in str(probed.torch["version"])
                else ""
            ),
        )
    hidden = options.environment.get("CUDA_VISIBLE_DEVICES")
    if hidden is not None and hidden.strip() in ("", "-1"):
        return Finding("CUDA_VISIBLE_DEVICES hides the GPUs", "unset CUDA_VISIBLE_DEVICES")
    newest = seen and seen.cuda
    if newest and _number(newest) < _number(built):
        return Finding(
            f"the NVIDIA driver {driver} runs CUDA up to {newest}, torch was built for {built}",
            "update the driver (Ubuntu: sudo ubuntu-drivers install)"
            + (
                ", or: pip install --force-reinstall torch "
                "--index-url https://download.pytorch.org/whl/cu126"
                if _number(newest) == (12,)
                else ""
            ),
        )
    if seen is not None and seen.failure is not None:
        return Finding(
            f"the NVIDIA driver does not work: {seen.failure}",
            "restart, as is needed after the driver was updated; else install it again",
        )
    why = probed.warnings[0] if probed.warnings else f"built for CUDA {built}, driver {driver}"
    return Finding(f"torch sees no GPU: {why}", "nvidia-smi, to see whether the driver works")


def _number(version: str) -> tuple[int, ...]:
    """The major version alone: minor ones of CUDA run on each other's drivers."""
    return (int(version.partition(".")[0]),)


def _card(card: nvidia.Card) -> str:
    text = f"{card.name}, sm_{card.capability.replace('.', '')}"
    if card.total is not None:
        text += f", {size(card.total)}"
    if card.free is not None:
        text += f", {size(card.free)} free"
    held = [
        f"{each.name} (pid {each.pid}) {'?' if each.nbytes is None else size(each.nbytes)}"
        for each in card.holders
    ]
    rest = _untold(card)
    if rest:
        held.append(f"the driver and what it does not name {size(rest)}")
    return text + (f"; held by {', '.join(held)}" if held else "")


def _untold(card: nvidia.Card) -> int | None:
    """Bytes in use that none of the programs that are known has."""
    if card.used is None or any(each.nbytes is None for each in card.holders):
        return None
    return max(card.used - sum(each.nbytes or 0 for each in card.holders), 0)


def _card_json(card: nvidia.Card) -> dict[str, Any]:
    return {
        "index": card.index,
        "name": card.name,
        "capability": card.capability,
        "total_bytes": card.total,
        "free_bytes": card.free,
        "held": [
            {"pid": each.pid, "name": each.name, "bytes": each.nbytes} for each in card.holders
        ],
        "held_by_others_bytes": _untold(card),
    }
