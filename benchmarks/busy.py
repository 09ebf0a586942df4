"""Decoding beside programs that keep cores busy: `python -m benchmarks.busy CHECKPOINT`.

    --runs 3      rounds; medians are shown
    --json FILE   keep the result

Whole processes of `qwen35 ask`, in turn: with the machine to itself and beside one or two loops of
Python's, each with the waiting of threads as qwen35 sets it and as GNU libgomp has it by itself.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from qwen35cli.app.doctor.machine import cpu_name

ASK = ("-m", "qwen35cli", "ask", "Why?", "--json", "--no-think", "--mtp", "off")
WAITING: dict[str, dict[str, str]] = {
    "ours": {},
    "libgomp": {"GOMP_SPINCOUNT": "300000"},  # what it is where no variable says so
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("checkpoint")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=24)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    command = (sys.executable, *ASK, "--device", "cpu", "--max-tokens", str(options.tokens))
    command += ("--model", options.checkpoint)
    decode_tps(command, {})  # brings the files into the page cache
    speeds: dict[str, list[list[float]]] = {waiting: [[], [], []] for waiting in WAITING}
    for _ in range(options.runs):
        for waiting, variables in WAITING.items():
            for others, found in enumerate(speeds[waiting]):
                with busy(others):
                    found.append(decode_tps(command, variables))
            print(waiting, [found[-1] for found in speeds[waiting]], file=sys.stderr)
    result: dict[str, Any] = {
        "benchmark": "busy",
        "machine": cpu_name(),
        "cores": len(os.sched_getaffinity(0)),
        "runs": options.runs,
        "tokens": options.tokens,
        "decode_tps": {
            waiting: [statistics.median(found) for found in each]
            for waiting, each in speeds.items()
        },
    }
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result))


@contextmanager
def busy(others: int) -> Iterator[None]:
    """So many other processes that compute all the time."""
    loop = (sys.executable, "-c", "while True: pass")
    processes = [subprocess.Popen(loop) for _ in range(others)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def decode_tps(command: tuple[str, ...], variables: dict[str, str]) -> float:
    """Tokens per second of one process behind its prompt, as it says itself."""
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
    }
    done = subprocess.run(
        command, env=environment | variables, stdin=subprocess.DEVNULL, capture_output=True
    )
    if done.returncode:
        sys.exit(done.stderr.decode())
    return float(json.loads(done.stdout)["timings"]["decode_tok_s"])


if __name__ == "__main__":
    main()
