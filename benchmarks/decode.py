"""Load, prefill and decode of a checkpoint on the CPU: `python -m benchmarks.decode CHECKPOINT`.

    --peer transformers   the same of transformers in bfloat16, in turn with ours
    --runs 5              rounds; medians are shown
    --prompt 512          tokens of the timed prefill, the same for both
    --prefill-runs 5      rounds that time the prefill (transformers is slow at it on some machines)
    --decode 16           tokens decoded per round
    --threads 2           of both; all cores by default
    --json FILE           keep the result

Each side of each round is a process of its own, so that its peak memory is its own. Around it the
machine's read bandwidth is measured, and the time that just reading the weight files takes. A table
for people; the last line is JSON.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.bandwidth import read_bandwidth
from qwen35cli.checkpoint.read import Checkpoint, load_weights, open_checkpoint

WARM_UP = 16  # tokens read before the clock runs
READ_BYTES = 8 * 2**20
SIDES = {"ours": "qwen35cli", "transformers": "transformers"}


def main() -> None:
    options = _options()
    if options.side:
        print(json.dumps(MEASURED[options.side](options)))
        return
    checkpoint = open_checkpoint(options.checkpoint)
    sides = ["ours", *([options.peer] if options.peer else [])]
    rounds: dict[str, list[dict[str, float]]] = {side: [] for side in sides}
    bandwidths, reads = [], []
    torch.set_num_threads(options.threads)
    for number in range(options.runs):
        bandwidths.append(read_bandwidth())
        for side in sides:
            reads.append(_read_files(checkpoint))
            rounds[side].append(_process(options, side, with_prefill=number < options.prefill_runs))
            print(f"round {number + 1}, {side}: {rounds[side][-1]}", file=sys.stderr)
        bandwidths.append(read_bandwidth())
    result = _result(options, checkpoint, rounds, bandwidths, reads)
    _show(result)
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--peer", choices=["transformers"])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--prefill-runs", type=int, default=5)
    parser.add_argument("--decode", type=int, default=16)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--json", type=Path)
    parser.add_argument("--side", choices=list(SIDES), help=argparse.SUPPRESS)
    return parser.parse_args()


# -- one side of one round, in its own process ----------------------------------------------------


def _process(options: argparse.Namespace, side: str, *, with_prefill: bool) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.decode", str(options.checkpoint), "--side", side]
    for name in ("decode", "threads"):
        command += [f"--{name}", str(getattr(options, name))]
    command += ["--prompt", str(options.prompt if with_prefill else 0)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def _ours(options: argparse.Namespace) -> dict[str, float]:
    from qwen35cli.engine.runner import Prompt, Runner
    from qwen35cli.kernels import select
    from qwen35cli.model.qwen35 import Qwen35

    torch.set_num_threads(options.threads)
    start = time.perf_counter()
    device = torch.device("cpu")
    checkpoint = open_checkpoint(options.checkpoint)
    text = replace(checkpoint.config.text, mtp_num_hidden_layers=0)  # as `ask` without pictures
    with torch.device("meta"):
        model = Qwen35(replace(checkpoint.config, text=text, vision=None), select(device))
    load_weights(model, checkpoint, device)
    load_s = time.perf_counter() - start
    runner = Runner(model, capacity=max(options.prompt, WARM_UP + options.decode) + 1)

    def prefill(ids: list[int]) -> torch.Tensor:
        runner.reset()
        *_, last = runner.prefill(Prompt(tuple(ids)))
        assert last.logits is not None
        return last.logits

    return {"load_s": load_s} | _timed(options, checkpoint, prefill, runner.step)


def _transformers(options: argparse.Namespace) -> dict[str, float]:
    from transformers import Qwen3_5ForConditionalGeneration
    from transformers.utils import logging

    logging.set_verbosity_error()
    torch.set_num_threads(options.threads)
    start = time.perf_counter()
    model = Qwen3_5ForConditionalGeneration.from_pretrained(
        options.checkpoint, dtype=torch.bfloat16
    ).eval()
    load_s = time.perf_counter() - start
    cache: Any = None

    def forward(ids: list[int]) -> torch.Tensor:
        nonlocal cache
        out = model(
            input_ids=torch.tensor([ids]), past_key_values=cache, use_cache=True, logits_to_keep=1
        )
        cache = out.past_key_values
        return out.logits[0, -1]

    def prefill(ids: list[int]) -> torch.Tensor:
        nonlocal cache
        cache = None
        return forward(ids)

    checkpoint = open_checkpoint(options.checkpoint)
    step = lambda token: forward([token])  # noqa: E731 - the shape of Runner.step
    return {"load_s": load_s} | _timed(options, checkpoint, prefill, step)


@torch.inference_mode()
def _timed(
    options: argparse.Namespace,
    checkpoint: Checkpoint,
    prefill: Callable[[list[int]], torch.Tensor],
    step: Callable[[int], torch.Tensor],
) -> dict[str, float]:
    """Tokens/s of decode and prefill, and the peak of this process in bytes."""
    vocabulary = min(checkpoint.config.image_token_id, checkpoint.config.text.vocab_size)
    generator = torch.Generator().manual_seed(0)
    count = max(options.prompt, WARM_UP)
    ids = torch.randint(vocabulary, (count,), generator=generator).tolist()

    token = int(prefill(ids[:WARM_UP]).argmax())
    token = int(step(token).argmax())
    start = time.perf_counter()
    for _ in range(options.decode):
        token = int(step(token).argmax())
    figures = {"decode_tps": options.decode / (time.perf_counter() - start)}
    if options.prompt:
        start = time.perf_counter()
        prefill(ids[: options.prompt]).argmax()
        figures["prefill_tps"] = options.prompt / (time.perf_counter() - start)
    return figures | {"peak_bytes": _peak_bytes()}


def _peak_bytes() -> int:
    """Peak resident memory of this process alone; `ru_maxrss` would begin with its parent's."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


MEASURED = {"ours": _ours, "transformers": _transformers}


# -- what surrounds them --------------------------------------------------------------------------


def _read_files(checkpoint: Checkpoint) -> float:
    """Seconds that reading the weight files takes, into one small buffer."""
    buffer = bytearray(READ_BYTES)
    start = time.perf_counter()
    for path in sorted({tensor.path for tensor in checkpoint.tensors.values()}):
        with path.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass
    return time.perf_counter() - start


def _result(
    options: argparse.Namespace,
    checkpoint: Checkpoint,
    rounds: dict[str, list[dict[str, float]]],
    bandwidths: list[float],
    reads: list[float],
) -> dict[str, Any]:
    token_bytes = _bytes_per_token(checkpoint)
    bandwidth = statistics.median(bandwidths)
    sides: dict[str, dict[str, float]] = {}
    for side, figures in rounds.items():
        names = dict.fromkeys(name for round_ in figures for name in round_)
        medians = {
            name: statistics.median(round_[name] for round_ in figures if name in round_)
            for name in names
        }
        medians["bandwidth_share"] = medians["decode_tps"] * token_bytes / 1e9 / bandwidth
        sides[side] = medians
    result = {
        "benchmark": "decode",
        "checkpoint_bytes": checkpoint.nbytes,
        "bytes_per_token": token_bytes,
        "machine": _cpu(),
        "threads": options.threads,
        "torch": torch.__version__,
        "commit": _commit(),
        "runs": options.runs,
        "prompt_tokens": options.prompt,
        "decoded_tokens": options.decode,
        "bandwidth_gb_s": bandwidth,
        "plain_read_s": statistics.median(reads),
        **sides,
    }
    if options.peer:
        ours, peer = sides["ours"], sides[options.peer]
        result["ratio"] = {name: ours[name] / peer[name] for name in ours if name in peer}
    return result


def _bytes_per_token(checkpoint: Checkpoint) -> int:
    """Weights that one decoded token reads: the text decoder and the head, without other rows."""
    embedding = "model.language_model.embed_tokens.weight"
    tied = checkpoint.config.tie_word_embeddings
    return sum(
        tensor.nbytes
        for name, tensor in checkpoint.tensors.items()
        if name.startswith(("model.language_model.", "lm_head.")) and (tied or name != embedding)
    )


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    if not info.is_file():
        return platform.processor()
    names = [line for line in info.read_text().splitlines() if line.startswith("model name")]
    flags = "avx512 " if "avx512f" in info.read_text() else ""
    amx = "amx" if "amx_tile" in info.read_text() else ""
    return " ".join((names[0].partition(": ")[2] if names else "CPU", flags + amx)).strip()


def _commit() -> str:
    done = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    return done.stdout.strip()


def _show(result: dict[str, Any]) -> None:
    rows = {
        "load, s": ("load_s", 1, ".1f"),
        "peak memory, GB": ("peak_bytes", 1e-9, ".2f"),
        f"prefill of {result['prompt_tokens']}, tokens/s": ("prefill_tps", 1, ".1f"),
        "decode, tokens/s": ("decode_tps", 1, ".2f"),
        "share of read bandwidth, %": ("bandwidth_share", 100, ".0f"),
    }
    sides = [side for side in SIDES if side in result]
    print(f"{result['machine']}, {result['threads']} threads, torch {result['torch']}")
    print(
        f"memory reads at {result['bandwidth_gb_s']:.1f} GB/s; "
        f"{result['bytes_per_token'] / 1e9:.2f} GB per token; "
        f"just reading the files takes {result['plain_read_s']:.1f} s\n"
    )
    columns = [*(SIDES[side] for side in sides), *(["ratio"] if "ratio" in result else [])]
    print(f"{'':<28}" + "".join(f"{column:>14}" for column in columns))
    for label, (name, scale, form) in rows.items():
        cells = [
            format(result[side][name] * scale, form) if name in result[side] else "-"
            for side in sides
        ]
        if "ratio" in result:
            cells.append(f"{result['ratio'][name]:.2f}" if name in result["ratio"] else "-")
        print(f"{label:<28}" + "".join(f"{cell:>14}" for cell in cells))
    print()


if __name__ == "__main__":
    main()
