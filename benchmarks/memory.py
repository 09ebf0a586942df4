"""The estimate held against the real thing: `python -m benchmarks.memory INT4 INT8 NF4`.

Runs `qwen35 vram FOLDER --measure` on folders that `qwen35 quantize` wrote, each in a process of
its own, and writes `benchmarks/results/memory-cpu.json`; with `--gpu` in front, on the GPU that is
here, and `memory-gpu.json`.
"""

import json
import subprocess
import sys
from typing import Any

from benchmarks.readme import RESULTS
from qwen35cli.app.doctor.machine import cpu_name
from qwen35cli.checkpoint.whole_file import write_json

USUAL = ("--ctx", "8k")
SETTINGS = (
    USUAL,
    ("--ctx", "8k", "--kv-dtype", "int8", "--mtp", "2"),
    ("--ctx", "64k"),
    ("--ctx", "64k", "--chunk", "128", "--no-vision"),
)


def measured(place: str, folder: str, *arguments: str) -> dict[str, Any]:
    """One run of the command, on the CPU or on the GPU."""
    command = [sys.executable, "-m", "qwen35cli", "vram", folder, "--measure", "--gpu", place]
    done = subprocess.run([*command, *arguments, "--json"], stdout=subprocess.PIPE, check=True)
    found = json.loads(done.stdout)
    total = found["measured"]["parts"][-1]
    assert total["name"] == "total"
    run = {
        "command": " ".join(["qwen35", "vram", "FOLDER", "--measure", *arguments]),
        "quant": found["quant"],
        "kv_dtype": found["kv_dtype"],
        "ctx": found["ctx"],
        "mtp": "--mtp" in arguments,
        "low": found["low_bytes"],
        "total": found["total_bytes"],
        "high": found["high_bytes"],
        "measured": total["measured_bytes"],
        "device": found["measured"]["device"],
        "parts": found["measured"]["parts"],
    }
    print(f"{run['command']}: {run['total']:,} estimated, {run['measured']:,} taken")
    return run


def main(*arguments: str) -> None:
    on_gpu = arguments[0] == "--gpu"
    int4, *others = arguments[1:] if on_gpu else arguments
    place = "auto" if on_gpu else "cpu"
    runs = [measured(place, int4, *setting) for setting in SETTINGS]
    runs += [measured(place, other, *USUAL) for other in others]
    machine = runs[0]["device"] if on_gpu else cpu_name()
    name = "memory-gpu.json" if on_gpu else "memory-cpu.json"
    write_json(RESULTS / name, {"machine": machine, "runs": runs})


if __name__ == "__main__":
    main(*sys.argv[1:])
