"""Load, prefill and decode of a checkpoint on the CPU: `python -m benchmarks.decode CHECKPOINT`.

    --peer transformers   the same of transformers in bfloat16, in turn with ours
    --runs 5              rounds; medians are shown
    --prompt 512 4096     tokens of the timed prefills (of the peer: the first)
    --prefill-runs 5      rounds that time the prefill (transformers is slow at it on some machines)
    --decode 16           tokens decoded per round
    --depth 4096 16384    tokens of context at which decoding is timed too (ours)
    --verify 2 4 8        tokens in one step, as in the verification of drafts, against one (ours)
    --kv-dtype bf16       of ours; or int8
    --threads 2           of both; all cores by default
    --json FILE           keep the result

`--device cuda` measures on an NVIDIA GPU instead, without a checkpoint: see `decode_gpu`, which has
options of its own.

Each side of each round is a process of its own, so that its peak memory is its own. Around it the
machine's read bandwidth is measured, and the time that just reading the weight files takes. A table
for people; the last line is JSON.

The share of the bandwidth counts what a token must read at the least: every weight of the decoder
and the head once, the delta states (and writing them), the keys and values of the depth. A machine
that others use too is faster at one moment than at the next, so what is compared is measured in
turn: ours reads a buffer after each token (`bandwidth_share_in_turn`), takes a token at no depth
for each one at a depth, a step of one token for each of several. A depth is made by filling the
caches with random numbers, which costs a step as much as true ones.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from qwen35cli.app.bandwidth import read_bandwidth, read_buffer
from qwen35cli.app.doctor.machine import cpu_features, cpu_name
from qwen35cli.checkpoint.opened import Checkpoint, open_checkpoint
from qwen35cli.engine.runner import Runner
from qwen35cli.model.cache import DeltaCache, KVCache
from qwen35cli.model.qwen35 import Qwen35

WARM_UP = 16  # tokens read before the clock runs
IN_TURN = 13  # of each of what is measured in turn; the first does not count
SWEEP_BYTES = 2**28
READ_BYTES = 8 * 2**20
SIDES = {"ours": "qwen35cli", "transformers": "transformers"}


def main() -> None:
    device, arguments = _device()
    if device == "cuda":
        from benchmarks import decode_gpu

        sys.exit(decode_gpu.main(arguments))
    options = _options(arguments)
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


def _device() -> tuple[str, list[str]]:
    """Where to measure, and all other arguments."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    options, others = parser.parse_known_args()
    return options.device, others


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0],
        epilog="--device cuda measures on an NVIDIA GPU, with options of its own: add --help",
    )
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--peer", choices=["transformers"])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--prompt", type=int, nargs="+", default=[512])
    parser.add_argument("--prefill-runs", type=int, default=5)
    parser.add_argument("--decode", type=int, default=16)
    parser.add_argument("--depth", type=int, nargs="*", default=[])
    parser.add_argument("--verify", type=int, nargs="*", default=[])
    parser.add_argument("--kv-dtype", choices=["bf16", "int8"], default="bf16")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--json", type=Path)
    parser.add_argument("--side", choices=list(SIDES), help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


# -- one side of one round, in its own process ----------------------------------------------------


def _process(options: argparse.Namespace, side: str, *, with_prefill: bool) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.decode", str(options.checkpoint), "--side", side]
    command += [f"--decode={options.decode}", f"--threads={options.threads}"]
    command += [f"--kv-dtype={options.kv_dtype}", "--prompt"]
    command += map(str, options.prompt if with_prefill else [0])
    if side == "ours":
        for name in ("depth", "verify"):
            command += [f"--{name}", *map(str, getattr(options, name))]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def _ours(options: argparse.Namespace) -> dict[str, float]:
    from qwen35cli.app.load import LoadOptions, load, open_model
    from qwen35cli.engine.runner import Prompt

    torch.set_num_threads(options.threads)
    longest = max(*options.prompt, *options.depth, WARM_UP)
    capacity = max(1_024, longest + options.decode + 16)
    start = time.perf_counter()
    opened = open_model(LoadOptions(model=str(options.checkpoint), device="cpu", ctx=capacity))
    opened_s = time.perf_counter() - start
    loaded = load(opened, pictures=False)
    model = loaded.runner.model
    kv_dtype = {"bf16": torch.bfloat16, "int8": torch.int8}[options.kv_dtype]
    runner = Runner(model, capacity=capacity, kv_dtype=kv_dtype)

    def prefill(ids: list[int]) -> torch.Tensor:
        runner.reset()
        *_, last = runner.prefill(Prompt(tuple(ids)))
        assert last.logits is not None
        return last.logits

    figures = {"open_s": opened_s, "load_s": loaded.load_s}
    figures |= _timed(options, opened.checkpoint, prefill, runner.step, options.prompt)
    states = [layer for layer in runner.cache.layers if isinstance(layer, DeltaCache)]
    figures["weight_bytes"] = _weights_read(model)
    figures["state_bytes"] = 2 * sum(layer.nbytes() for layer in states)  # read and written
    keys = sum(layer.nbytes() for layer in runner.cache.layers if isinstance(layer, KVCache))
    figures["kv_bytes_per_token"] = keys / capacity
    fixed = figures["weight_bytes"] + figures["state_bytes"]
    prefill([1] * WARM_UP)
    for depth in options.depth:
        deep = Runner(model, capacity=capacity, kv_dtype=kv_dtype)
        _deepen(deep, depth)
        plain_s, deep_s = _in_turn([lambda: runner.step(1), lambda deep=deep: deep.step(1)])
        figures[f"decode_tps_at_{depth}"] = 1 / statistics.median(deep_s)
        kept = (one / other for one, other in zip(plain_s, deep_s, strict=True))
        figures[f"speed_kept_at_{depth}"] = statistics.median(kept)
        figures[f"peak_bytes_at_{depth}"] = _peak_bytes()
        del deep
    if options.verify:
        figures |= _verified(runner, options.verify)
    buffer = read_buffer(SWEEP_BYTES)  # after the peaks: it counts as memory of this process
    token_s, sweep_s = _in_turn([lambda: runner.step(1), lambda: buffer.sum()])
    shares = (
        fixed / one / (SWEEP_BYTES / other) for one, other in zip(token_s, sweep_s, strict=True)
    )
    figures["bandwidth_share_in_turn"] = statistics.median(shares)
    return figures


@torch.inference_mode()
def _in_turn(actions: list[Callable[[], object]]) -> list[list[float]]:
    """Seconds of each action, one after the other again and again."""
    seconds: list[list[float]] = [[] for _ in actions]
    for _ in range(IN_TURN):
        for action, taken in zip(actions, seconds, strict=True):
            start = time.perf_counter()
            action()
            taken.append(time.perf_counter() - start)
    return [taken[1:] for taken in seconds]  # the first of each is a warm-up


def _deepen(runner: Runner, depth: int) -> None:
    """Make the cache one of `depth` tokens, its keys and values random."""
    text, kernels = runner.model.config.text, runner.model.kernels
    for layer in runner.cache.layers:
        if isinstance(layer, KVCache):
            new = depth - layer.length
            while new > 0:
                block = min(new, 1_024)
                random = torch.randn(1, block, text.num_key_value_heads, text.head_dim)
                layer.append(random, random, kernels)
                new -= block
        else:
            layer.length = depth


@torch.inference_mode()
def _verified(runner: Runner, counts: list[int]) -> dict[str, float]:
    """Seconds of a step of several tokens, over those of a step of one beside it.

    Both may be taken back, but for one token, which the next step then carries out.
    """
    model = runner.model
    cache = model.make_cache(IN_TURN * 2 * len(counts) + max(counts), drafts=True)

    def timed(count: int) -> float:
        length, start = cache.length, time.perf_counter()
        positions = torch.arange(length, length + count).expand(3, 1, -1)
        x = model.embed(torch.arange(100, 100 + count)[None])
        model.logits(model.language_model(x, positions, cache))
        seconds = time.perf_counter() - start
        cache.rollback(length + 1)
        return seconds

    figures = {}
    for count in counts:
        pairs = [(timed(1), timed(count)) for _ in range(IN_TURN)][1:]
        ratio = statistics.median(several / one for one, several in pairs)
        figures[f"verify_{count}_ratio"] = ratio
    return figures


def _weights_read(model: Qwen35) -> int:
    """Bytes of weights that one decoded token reads: decoder and head, without other rows."""
    tied = model.lm_head is None
    parts = (
        [model.language_model] if model.lm_head is None else [model.language_model, model.lm_head]
    )
    return sum(
        parameter.nbytes
        for part in parts
        for name, parameter in part.named_parameters()
        if tied or not name.startswith("embed_tokens.")
    )


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
    return {"load_s": load_s} | _timed(options, checkpoint, prefill, step, options.prompt[:1])


@torch.inference_mode()
def _timed(
    options: argparse.Namespace,
    checkpoint: Checkpoint,
    prefill: Callable[[list[int]], torch.Tensor],
    step: Callable[[int], torch.Tensor],
    prompts: list[int],
) -> dict[str, float]:
    """Tokens/s of decode and prefill, and the peak of this process in bytes."""
    vocabulary = min(checkpoint.config.image_token_id, checkpoint.config.text.vocab_size)
    generator = torch.Generator().manual_seed(0)
    count = max(*prompts, WARM_UP)
    ids = torch.randint(vocabulary, (count,), generator=generator).tolist()

    prefill(ids[:WARM_UP])
    figures = {"decode_tps": _decode_speed(step, options.decode)}
    for prompt in filter(None, prompts):
        start = time.perf_counter()
        prefill(ids[:prompt]).argmax()
        figures[f"prefill_tps_of_{prompt}"] = prompt / (time.perf_counter() - start)
    return figures | {"peak_bytes": _peak_bytes()}


def _decode_speed(step: Callable[[int], torch.Tensor], count: int) -> float:
    """Tokens/s of a greedy continuation; the first two tokens are not timed."""
    token = 1
    for _ in range(2):
        token = int(step(token).argmax())
    start = time.perf_counter()
    for _ in range(count):
        token = int(step(token).argmax())
    return count / (time.perf_counter() - start)


def _peak_bytes() -> int:
    """Peak resident memory of this process alone; `ru_maxrss` would begin with its parent's."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


FAMILIES = {
    "prefill_tps_of": ("prefill of {} tokens, tokens/s", 1, ".1f"),
    "decode_tps_at": ("decode behind {} tokens, tokens/s", 1, ".2f"),
    "bandwidth_share_at": ("share of read bandwidth there ({}), %", 100, ".0f"),
    "speed_kept_at": ("speed kept there ({}), %", 100, ".0f"),
    "peak_bytes_at": ("peak memory there ({}), GB", 1e-9, ".2f"),
}
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
    bandwidth = statistics.median(bandwidths)
    sides: dict[str, dict[str, float]] = {}
    for side, figures in rounds.items():
        names = dict.fromkeys(name for round_ in figures for name in round_)
        medians = {
            name: statistics.median(round_[name] for round_ in figures if name in round_)
            for name in names
        }
        sides[side] = medians
    ours = sides["ours"]
    fixed = ours["weight_bytes"] + ours["state_bytes"]
    for side in sides.values():
        side["bandwidth_share"] = side["decode_tps"] * fixed / 1e9 / bandwidth
    for depth in options.depth:
        read = fixed + depth * ours["kv_bytes_per_token"]
        speed = ours[f"decode_tps_at_{depth}"]
        ours[f"bandwidth_share_at_{depth}"] = speed * read / 1e9 / bandwidth
    result = {
        "benchmark": "decode",
        "checkpoint_bytes": checkpoint.nbytes,
        "bytes_per_token": fixed,
        "format": checkpoint.format,
        "kv_dtype": options.kv_dtype,
        "machine": cpu_name(),
        "cpu_features": cpu_features(),
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
        peer = sides[options.peer]
        result["ratio"] = {name: ours[name] / peer[name] for name in ours if name in peer}
    return result


def _commit() -> str:
    done = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    return done.stdout.strip()


def _show(result: dict[str, Any]) -> None:
    rows = {
        "load, s": ("load_s", 1, ".1f"),
        "peak memory, GB": ("peak_bytes", 1e-9, ".2f"),
        "decode, tokens/s": ("decode_tps", 1, ".2f"),
        "share of read bandwidth, %": ("bandwidth_share", 100, ".0f"),
        "the same, measured in turn, %": ("bandwidth_share_in_turn", 100, ".0f"),
    }
    for name in result["ours"]:
        kind, _, number = name.rpartition("_")
        label, scale, form = FAMILIES.get(kind, ("", 0, ""))
        if name.startswith("verify_"):
            label, scale, form, number = (
                "step of {} tokens, against one",
                1,
                ".2f",
                name.split("_")[1],
            )
        if label:
            rows[label.format(f"{int(number):,}")] = (name, scale, form)
    sides = [side for side in SIDES if side in result]
    print(f"{result['machine']}, {result['threads']} threads, torch {result['torch']}")
    print(
        f"memory reads at {result['bandwidth_gb_s']:.1f} GB/s; "
        f"{result['bytes_per_token'] / 1e9:.2f} GB per token; "
        f"just reading the files takes {result['plain_read_s']:.1f} s\n"
    )
    columns = [*(SIDES[side] for side in sides), *(["ratio"] if "ratio" in result else [])]
    print(f"{'':<40}" + "".join(f"{column:>14}" for column in columns))
    for label, (name, scale, form) in rows.items():
        cells = [
            format(result[side][name] * scale, form) if name in result[side] else "-"
            for side in sides
        ]
        if "ratio" in result:
            cells.append(f"{result['ratio'][name]:.2f}" if name in result["ratio"] else "-")
        print(f"{label:<40}" + "".join(f"{cell:>14}" for cell in cells))
    print()


if __name__ == "__main__":
    main()
