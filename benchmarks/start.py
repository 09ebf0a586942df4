"""From the shell to the first token of `qwen35 ask`: `python -m benchmarks.start CHECKPOINT`.

    --runs 7      processes; medians are shown
    --json FILE   keep the result

Each run is a whole process with a prompt of ten tokens and thinking off. Its clock runs until the
first line of `--stream-json` arrives; the split comes from the `timings` of its last line. What
these do not name is Python, imports, tokenizer and headers; how much of it torch alone takes is
measured by a process that imports nothing else. The files are in the page cache.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from qwen35cli.app.bandwidth import read_bandwidth
from qwen35cli.app.doctor.machine import cpu_name

PROMPT = "Name the three longest rivers in the world."
ASK = (
    "-m",
    "qwen35cli",
    "ask",
    PROMPT,
    "--no-think",
    "--stream-json",
    "--max-tokens",
    "2",
    "--device",
    "cpu",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("checkpoint")
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    command = (sys.executable, *ASK, "--model", options.checkpoint)
    first_token(command)  # brings the files into the page cache
    runs = []
    for _ in range(options.runs):
        run = first_token(command)
        run["torch_s"] = seconds_of((sys.executable, "-c", "import torch"))
        runs.append(run)
        print(run, file=sys.stderr)
    result = {
        "benchmark": "start",
        "machine": cpu_name(),
        "runs": options.runs,
        "bandwidth_gb_s": read_bandwidth(),
        **{name: statistics.median(run[name] for run in runs) for name in runs[0]},
    }
    for name, what in (
        ("first_token_s", "start to first token"),
        ("before_s", "  Python, imports, tokenizer, headers"),
        ("torch_s", "    of it a process that only imports torch"),
        ("load_s", "  loading"),
        ("prefill_s", "  prompt to first token"),
    ):
        print(f"{what:<44}{result[name]:6.2f} s")
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result))


def first_token(command: tuple[str, ...]) -> dict[str, float]:
    """One process: seconds to its first line, and what it says of them itself."""
    start = time.perf_counter()
    with (
        tempfile.TemporaryFile("w+") as said,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=said) as process,
    ):
        assert process.stdout is not None
        lines = [process.stdout.readline()]
        seconds = time.perf_counter() - start
        lines += process.stdout.readlines()
        if process.wait():
            said.seek(0)
            sys.exit(said.read())
    timings = json.loads(lines[-1])["timings"]
    load, prefill = timings["load_s"], timings["first_token_s"]
    return {
        "first_token_s": seconds,
        "before_s": seconds - load - prefill,
        "load_s": load,
        "prefill_s": prefill,
        "prompt_tokens": json.loads(lines[-1])["usage"]["prompt"],
    }


def seconds_of(command: tuple[str, ...]) -> float:
    """How long a process runs."""
    start = time.perf_counter()
    subprocess.run(command, check=True)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
