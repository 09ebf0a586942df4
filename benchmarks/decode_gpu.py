"""Decode and prefill on an NVIDIA GPU, in one run: `python -m benchmarks.decode --device cuda`.

    --formats int4 int8 bf16   the recipes that are measured, in this order
    --only SECTION ...         of card decode drafts prefill graph kernels logits demo transformers
                               nf4
    --quick                    tiny shapes, a few steps: tries the script, also on a CPU, where
                               Triton interprets
    --limit 560                seconds for all; what does not fit is left out, and named
    --workers N                processes that compile first; all cores by default, 0 for none
    --launches DIR             the cache folder that `qwen35 tune` has measured launches into
    --json FILE                keep the result; it is written again after every part

No checkpoint: the 4B is made of random numbers on the card (`random_model`), the demo comes with
the package. Each part runs in a process of its own, so that a broken kernel takes down one part.

What is what:
    bandwidth   copy: a large copy on the device, bytes read and written. read: `torch.sum`.
    decode      spoken: tokens/s of `Ahead`, the loop that users get: greedy, the token read by the
                host, one behind. step: a replay of the graph of a step without a draw; graph: with.
                A context is made by filling the caches with random numbers.
    drafts      a round of so many drafts by the MTP layer, all of which stay: host and device, from
                the last token to the next. draft: the drafts alone. Against a spoken token.
    prefill     tokens/s of prompts by chunk; and turns of few tokens behind the first context, read
                as prompts and by steps of eight.
    graph       nodes of the graph of a token by kind; times of its kernels by torch.profiler. They
                overlap where launches do, so gaps are what no kernel covers.
    kernels     one kind of launch over all layers' own weights in one graph; where these are few,
                over copies too, so that the L2 cache cannot hold them. Bytes are those of weights
                (state: read and written; attention: keys and values).
    logits      of single steps from an empty cache: the difference from the reference backend on
                the same weights, its own from a reference in float32, and steps of four tokens
                against steps of one.
    demo        greedy tokens of the demo checkpoint against the reference backend's choices.
    peers       transformers, the same shapes with random weights: eager, `DynamicCache`, greedy,
                no token read by the host (which favours it). nf4: bitsandbytes' `Linear4bit`.
"""

import argparse
import ctypes
import gc
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from copy import deepcopy
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from benchmarks.make_checkpoint import CONFIG_4B
from benchmarks.random_model import empty_model, random_model
from qwen35cli.app import tuned
from qwen35cli.engine.depth import MOST
from qwen35cli.engine.runner import PREFILL_CHUNK, Prompt, Runner
from qwen35cli.engine.sampling import Sampler, Sampling
from qwen35cli.kernels import Kernels, select
from qwen35cli.kernels.capture import captured
from qwen35cli.kernels.operands import FEW, Int4, Int8, Int8Rows
from qwen35cli.kernels.tuned import Tuned
from qwen35cli.model.cache import DeltaCache, KVCache
from qwen35cli.model.draft_head import DraftHead
from qwen35cli.model.qwen35 import Qwen35
from qwen35cli.model.sizes import COMMON
from qwen35cli.quant.leaves import Quantized

OF_FORMATS: Final = ("decode", "drafts", "prefill", "graph", "kernels", "logits")
SECTIONS: Final = ("card", *OF_FORMATS, "demo", "transformers", "nf4")
GREEDY: Final = Sampling(temperature=0)
KV: Final = {"bf16": torch.bfloat16, "int8": torch.int8}
DEMO: Final = Path("src/qwen35cli/demo")
QUESTION: Final = "What is the capital of France? Then count from one to a hundred in words."
COLD_BYTES: Final = 600 << 20  # of weights in turn: ten times the L2 cache of an H200
MOST_COPIES: Final = 12


@dataclass(frozen=True)
class Work:
    """How much of everything."""

    raw: Mapping[str, Any]
    contexts: tuple[int, ...]
    prompts: tuple[int, ...]
    turns: tuple[int, ...]  # tokens, multiples of `FEW`
    chunks: tuple[int, ...]
    spoken: int  # tokens of a round
    repeats: int
    replays: int  # between two looks at the clock
    demo_steps: int
    buffer: int  # bytes that are copied
    peer_tokens: int
    budget_s: float  # for the rounds of one figure; the first is made in any case
    tuned: Tuned = field(default_factory=dict)


FULL: Final = Work(
    raw=CONFIG_4B,
    contexts=(128, 4_096, 32_768, 131_072, 262_144),
    prompts=(512, 4_096, 32_768),
    turns=(8, 32, 128),
    chunks=tuple(dict.fromkeys((PREFILL_CHUNK, 2_048))),
    spoken=64,
    repeats=7,
    replays=16,
    demo_steps=500,
    buffer=4 << 30,
    peer_tokens=16,
    budget_s=5.0,
)


def quick() -> Work:
    """Shapes that the interpreter takes in seconds: a cut of the demo's."""
    raw = json.loads((DEMO / "config.json").read_text())
    raw = {name: value for name, value in raw.items() if name != "vision_config"}
    raw["text_config"] |= {
        "num_hidden_layers": 3,
        "layer_types": raw["text_config"]["layer_types"][:3],
        "intermediate_size": 128,
        "vocab_size": 256,
        "eos_token_id": 0,
    }
    special = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
    raw |= {name: 252 + i for i, name in enumerate(special)}
    return Work(
        raw=raw,
        contexts=(16, 128),
        prompts=(32,),
        turns=(8,),
        chunks=(16,),
        spoken=2,
        repeats=1,
        replays=1,
        demo_steps=2,
        buffer=1 << 20,
        peer_tokens=2,
        budget_s=0.1,
    )


def _work(options: argparse.Namespace) -> Work:
    return replace(quick() if options.quick else FULL, tuned=tuned.read(options.launches))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it; 1 where something failed."""
    options = _options(arguments)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu":
        if not options.quick:
            sys.exit("no GPU here: --quick tries the script on a CPU")
        os.environ["TRITON_INTERPRET"] = "1"  # before Triton is imported
    torch.set_grad_enabled(False)
    if options.compile is not None:
        _compile_share(options, device)
        return 0
    if options.part is not None:
        _run_part(options, device)
        return 0
    return _run_all(options, device)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.decode --device cuda",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--formats", nargs="+", choices=["int4", "int8", "bf16"])
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--limit", type=float, default=560)
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--launches", type=Path)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--part", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--compile", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.formats is None:
        options.formats = ["int4", "int8", "bf16"]
    if options.launches is not None and not (options.launches / tuned.NAME).is_file():
        parser.error(f"no {tuned.NAME} in {options.launches}: qwen35 tune writes it to its cache")
    return options


# -- parts, each in a process of its own -----------------------------------------------------------


def _run_all(options: argparse.Namespace, device: torch.device) -> int:
    start = time.monotonic()
    only = set(options.only)
    parts = [*(["card"] if "card" in only else [])]
    formats = options.formats if only & set(OF_FORMATS) else []
    parts += formats[:1]
    parts += ["peers"] if only & {"transformers", "nf4"} else []
    parts += ["demo"] if "demo" in only else []
    parts += formats[1:]
    result: dict[str, Any] = {
        "benchmark": "decode-gpu",
        "quick": options.quick,
        "device": _device(device),
        "commit": _commit(),
        "sections": sorted(only, key=SECTIONS.index),
        "launches": _work(options).tuned,  # in place of those that are shipped
        "failures": {},
        "left_out": {},
    }
    with tempfile.TemporaryDirectory(prefix="decode-gpu-") as folder:
        if device.type == "cuda" and options.workers and parts != ["card"]:
            result["compile_s"] = _compile(options, Path(folder))
        for part in parts:
            left = options.limit - (time.monotonic() - start)
            if left < 15:
                result["left_out"][part] = f"no time left of {options.limit:.0f} s"
                continue
            began = time.monotonic()
            _merge(result, _part(options, part, Path(folder), left))
            result.setdefault("part_s", {})[part] = round(time.monotonic() - began, 1)
            result["wall_s"] = round(time.monotonic() - start, 1)
            result["bars"] = bars(result)
            if options.json:
                options.json.parent.mkdir(parents=True, exist_ok=True)
                options.json.write_text(json.dumps(result, indent=2) + "\n")
    show(result)
    if not options.json:
        print(json.dumps(result))
    for name, text in result["failures"].items():
        print(f"\nFAILED {name}\n{text}", file=sys.stderr)
    return 1 if result["failures"] else 0


def _command(options: argparse.Namespace) -> list[str]:
    command = [sys.executable, "-m", "benchmarks.decode_gpu", "--formats", *options.formats]
    command += ["--launches", str(options.launches)] if options.launches else []
    return [*command, "--only", *options.only, *(["--quick"] if options.quick else [])]


def _part(options: argparse.Namespace, part: str, folder: Path, left: float) -> dict[str, Any]:
    """What one process found, also where it did not come to its end."""
    out = folder / f"{part}.json"
    note = None
    try:
        done = subprocess.run(
            [*_command(options), "--part", part, "--out", str(out)],
            stdout=sys.stderr.fileno(),
            timeout=left,
            check=False,
        )
        if done.returncode:
            note = f"the process ended with {done.returncode}"
    except subprocess.TimeoutExpired:
        note = f"stopped after {left:.0f} s, for the limit"
    found = json.loads(out.read_text()) if out.is_file() else {}
    if note is not None:
        found.setdefault("failures", {})[part] = note
    return found


def _merge(result: dict[str, Any], more: Mapping[str, Any]) -> None:
    for name, value in more.items():
        if isinstance(value, dict) and isinstance(result.get(name), dict):
            _merge(result[name], value)
        else:
            result[name] = value


class Report:
    """What a part finds, on disk as soon as it is found."""

    def __init__(self, part: str, path: Path, only: Iterable[str]) -> None:
        self.part, self.path, self.only = part, path, set(only)
        self.found: dict[str, Any] = {"failures": {}, "left_out": {}}
        self.start = time.monotonic()

    def save(self) -> None:
        partial = self.path.with_suffix(".partial")
        partial.write_text(json.dumps(self.found))
        partial.replace(self.path)

    def leave_out(self, what: str, why: str) -> None:
        self.found["left_out"][f"{self.part}: {what}"] = why

    @contextmanager
    def section(self, name: str) -> Iterator[None]:
        """Keep going past whatever fails inside."""
        try:
            yield
        except Exception:
            self.found["failures"][f"{self.part}: {name}"] = traceback.format_exc()
            print(f"{self.part}: {name} FAILED", file=sys.stderr)
            traceback.print_exc()
        finally:
            self.save()
            seconds = time.monotonic() - self.start
            print(f"[{seconds:6.1f} s] {self.part}: {name}", file=sys.stderr, flush=True)
        if torch.cuda.is_available():
            torch.cuda.synchronize()  # where the device itself is lost, so is the rest of the part


def _run_part(options: argparse.Namespace, device: torch.device) -> None:
    report = Report(options.part, options.out, options.only)
    work = _work(options)
    match options.part:
        case "card":
            with report.section("bandwidth"):
                report.found["bandwidth"] = bandwidth(work, device)
        case "demo":
            demo(report, work, device)
        case "peers":
            peers(report, work, device)
        case format:
            of_format(report, work, device, format)
    report.save()


def _device(device: torch.device) -> dict[str, Any]:
    import triton

    found: dict[str, Any] = {"torch": torch.__version__, "triton": triton.__version__}
    if device.type != "cuda":
        return found | {"name": "CPU, interpreted"}
    card = torch.cuda.get_device_properties(device)
    return found | {
        "name": card.name,
        "bytes": card.total_memory,
        "multiprocessors": card.multi_processor_count,
        "l2_bytes": getattr(card, "L2_cache_size", None),
        "arch": f"sm_{card.major}{card.minor}",
    }


def _commit() -> str:
    with suppress(OSError):
        done = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
        )
        return done.stdout.strip()
    return ""


# -- compiling: all processes go through the same launches, and each takes those that are left -----


def _compile(options: argparse.Namespace, folder: Path) -> float:
    """Fill Triton's cache on disk in parallel; without it each kernel is compiled when it comes."""
    start = time.monotonic()
    claims = folder / "claims"
    claims.mkdir()
    command = [*_command(options), "--compile", str(claims)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with (folder / "compile.log").open("wb") as log:
        workers = [
            subprocess.Popen(command, stdout=log, stderr=log, env=environment)
            for _ in range(options.workers)
        ]
        try:
            for worker in workers:
                worker.wait(timeout=max(1.0, 0.4 * options.limit - (time.monotonic() - start)))
        except subprocess.TimeoutExpired:
            print("compiling took too long and goes on with each kernel's use", file=sys.stderr)
        finally:
            for worker in workers:
                if worker.poll() is None:
                    worker.kill()
                    worker.wait()
    text = (folder / "compile.log").read_text(errors="replace")
    if text:
        print(text[-3_000:], file=sys.stderr)
    seconds = time.monotonic() - start
    kernels = len(list(claims.iterdir()))
    print(f"[{seconds:6.1f} s] compiled {kernels} kernels", file=sys.stderr, flush=True)
    return round(seconds, 1)


def _compile_share(options: argparse.Namespace, device: torch.device) -> None:
    from qwen35cli.kernels.triton.kernel import Kernel, launched_by

    claims: Path = options.compile

    def compile_mine(
        kernel: Kernel,
        grid: tuple[int, ...],
        arguments: tuple[Any, ...],
        options: Mapping[str, Any],
    ) -> None:
        named = {name: _kind(v) if isinstance(v, Tensor) else v for name, v in options.items()}
        key = repr((kernel.name, [_kind(each) for each in arguments], named))
        try:
            claim = claims / f"{kernel.name}-{zlib.crc32(key.encode()):08x}"
            os.close(os.open(claim, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return
        try:
            kernel.compile(*arguments, **options)
        except Exception:
            traceback.print_exc()  # it will fail again where it is used, and be reported there

    work = _work(options)
    only = set(options.only)
    shapes: list[tuple[Mapping[str, Any], list[str], bool]] = []
    if only & set(OF_FORMATS):
        shapes.append((work.raw, options.formats, bool(only & {"prefill", "logits"})))
    if "demo" in only:
        raw = json.loads((DEMO / "config.json").read_text())
        shapes.append((raw, ["int4", "int8", "bf16"], True))
    for raw, formats, long in shapes:
        for format in formats:
            try:
                kernels = select(device, "triton", work.tuned)
                with launched_by(compile_mine):
                    _launch_everything(raw, format, device, kernels, long, "drafts" in only)
            except Exception:  # the part that needs it will fail there too
                traceback.print_exc()
            gc.collect()  # runners refer to themselves, and there are as many models as workers
            if device.type == "cuda":
                torch.cuda.empty_cache()


def _launch_everything(
    raw: Mapping[str, Any],
    format: str,
    device: torch.device,
    kernels: Kernels,
    long: bool,
    drafting: bool,
) -> None:
    model = random_model(raw, format, device, kernels, few=True, drafts=drafting)
    vocabulary = model.config.text.vocab_size
    capacity = min(8_192, model.config.text.max_context)
    for dtype in KV.values():
        runner = Runner(model, capacity=capacity, kv_dtype=dtype)
        if runner.stepper is not None:
            step, control = runner.stepper._step, runner.stepper.control
            for tokens in {*(range(1, MOST + 2) if drafting else (1, 4)), *([FEW] if long else [])}:
                logits = step(control, tokens)
            if model.kernels.draws is not None:
                drawing = model.kernels.draws(device, vocabulary, vocabulary, 4_096, 16)
                drawing.begin(GREEDY)
                drawing(logits[0], control, 1)
    if drafting:
        from qwen35cli.kernels.triton.drafts import TritonDrafts

        head = draft_head(model)
        drafter = Runner(model, capacity=capacity, draft_head=head).drafter
        assert drafter is not None
        loop = drafter._loop
        assert isinstance(loop, TritonDrafts)
        for pairs in range(1, MOST + 2):
            loop._run(pairs, 2, loop._listed(head.candidates))
    for count in (2_048, PREFILL_CHUNK, 64) if long else (64,):
        runner.reset()
        runner.chunk = count
        list(runner.prefill(Prompt((1,) * count)))


def _kind(value: Any) -> Any:
    """What Triton looks at of an argument."""
    if isinstance(value, Tensor):
        return str(value.dtype), value.data_ptr() % 16 == 0
    if isinstance(value, int) and not isinstance(value, bool):
        return "int", value == 1, value % 16 == 0, abs(value) >> 31 > 0
    return type(value).__name__


# -- measuring ------------------------------------------------------------------------------------


def figure(values: Sequence[float]) -> dict[str, Any]:
    return {
        "median": statistics.median(values),
        "least": min(values),
        "most": max(values),
        "count": len(values),
    }


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def rounds(
    work: Work, device: torch.device, action: Callable[[], object], inner: int = 1, warm: int = 1
) -> list[float]:
    """Seconds of an action, by the device's clock: of one round each, over `inner` in a row."""
    for _ in range(warm):
        action()
    wait(device)
    start, seconds = time.monotonic(), []
    while len(seconds) < work.repeats and (not seconds or time.monotonic() - start < work.budget_s):
        if device.type == "cuda":
            before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            before.record()
            for _ in range(inner):
                action()
            after.record()
            after.synchronize()
            seconds.append(before.elapsed_time(after) / 1e3 / inner)
        else:
            began = time.perf_counter()
            for _ in range(inner):
                action()
            seconds.append((time.perf_counter() - began) / inner)
    return seconds


def in_a_row(launches: Sequence[Callable[[], object]]) -> Callable[[], None]:
    def run() -> None:
        for launch in launches:
            launch()

    return run


def bandwidth(work: Work, device: torch.device) -> dict[str, Any]:
    count = work.buffer // 4
    source = torch.ones(count, device=device)
    target = torch.empty_like(source)
    copies = rounds(work, device, lambda: target.copy_(source), inner=2, warm=3)
    sums = rounds(work, device, lambda: source.sum(), inner=2, warm=3)
    return {
        "copy_tb_s": figure([2 * work.buffer / each / 1e12 for each in copies]),
        "copy": f"torch copy of {work.buffer:,} bytes on the device, read and written counted",
        "read_tb_s": figure([work.buffer / each / 1e12 for each in sums]),
        "read": f"torch.sum of {work.buffer:,} bytes of float32",
    }


# -- one format -----------------------------------------------------------------------------------


def of_format(report: Report, work: Work, device: torch.device, format: str) -> None:
    found: dict[str, Any] = {}
    report.found["formats"] = {format: found}
    model = None
    with report.section("model"):
        start = time.perf_counter()
        kernels = select(device, "triton", work.tuned)
        model = random_model(work.raw, format, device, kernels, drafts="drafts" in report.only)
        wait(device)
        found["build_s"] = time.perf_counter() - start
        found["weight_bytes"] = weights_read(model)
    if model is None:
        return
    if report.only & {"decode", "graph", "kernels"}:
        for kv in KV:
            with report.section(f"caches of {kv}"):
                runner = deep_runner(report, work, model, kv)
                _of_runner(report, work, device, runner, found, kv)
            runner = None
            if device.type == "cuda":
                torch.cuda.empty_cache()
    if "prefill" in report.only:
        found["prefill"] = {}
        with report.section("prefill"):
            prefill(work, device, model, found["prefill"])
            found["turns"] = turns(work, device, model)
    if "logits" in report.only:
        with report.section("logits"):
            found["logits"] = logits_against_reference(work, device, model, format)
    if "drafts" in report.only:
        with report.section("drafts"):
            found["drafts"] = drafts(work, device, model)
    if device.type == "cuda":
        found["peak_bytes"] = torch.cuda.max_memory_allocated()


def _of_runner(
    report: Report,
    work: Work,
    device: torch.device,
    runner: Runner,
    found: dict[str, Any],
    kv: str,
) -> None:
    assert runner.stepper is not None, "the model takes no graphs"
    states = [layer for layer in runner.cache.layers if isinstance(layer, DeltaCache)]
    found["state_bytes"] = 2 * sum(layer.state.nbytes for layer in states)
    keys = sum(layer.nbytes() for layer in runner.cache.layers if isinstance(layer, KVCache))
    found.setdefault("kv_bytes_per_token", {})[kv] = keys / runner.capacity
    set_length(runner, 8)
    runner.step(1)
    if "decode" in report.only:
        speeds = found.setdefault("decode", {}).setdefault(kv, {})
        for context in work.contexts:
            with report.section(f"decode at {context}, {kv}"):
                speeds[str(context)] = decode(work, device, runner, context)
    if "graph" in report.only and kv == "bf16":
        set_length(runner, work.contexts[0])
        with report.section("graph"):
            found["graph"] = {}
            graph_of_a_token(device, runner, found["graph"])
    if "kernels" in report.only:
        set_length(runner, work.contexts[0])
        runner.step(1)
        with report.section(f"kernels, {kv}"):
            table = found.setdefault("kernels", {})
            kernels(work, device, runner, table, attention_alone=kv != "bf16", kv=kv)


def weights_read(model: Qwen35) -> int:
    """Bytes of weights that a decoded token reads."""
    text = model.language_model
    tied = model.lm_head is None
    parts = [text] if model.lm_head is None else [text, model.lm_head]
    return sum(
        parameter.nbytes
        for part in parts
        for name, parameter in part.named_parameters()
        if tied or not name.startswith("embed_tokens.")
    )


def deep_runner(report: Report, work: Work, model: Qwen35, kv: str) -> Runner:
    """With caches full of random numbers, for the largest context that fits."""
    for context in reversed(work.contexts):
        try:
            runner = Runner(model, capacity=context, kv_dtype=KV[kv])
        except torch.OutOfMemoryError:
            report.leave_out(f"context {context:,}, kv {kv}", "its caches do not fit")
            continue
        for layer in runner.cache.layers:
            if isinstance(layer, KVCache):
                fill(layer)
        return runner
    raise torch.OutOfMemoryError("no context fits")


def fill(layer: KVCache, block: int = 16_384) -> None:
    """Random keys and values, in blocks."""
    for rows in (layer.keys, layer.values):
        for start in range(0, layer.capacity, block):
            stop = min(start + block, layer.capacity)
            if isinstance(rows, Int8Rows):
                part = rows.codes[:, :, start:stop]
                part.copy_(
                    torch.randint(-127, 128, part.shape, dtype=torch.int8, device=part.device)
                )
                rows.scale[:, :, start:stop].uniform_(0.005, 0.02)
            else:
                rows[:, :, start:stop].normal_()


def set_length(runner: Runner, length: int) -> None:
    for layer in runner.cache.layers:
        layer.length = length


def decode(work: Work, device: torch.device, runner: Runner, context: int) -> dict[str, Any]:
    """Speeds where `context` tokens are in the caches, or so few less that there is room."""
    most = 4 + work.repeats * max(work.spoken, work.replays) + work.replays
    depth = min(context, runner.capacity - most) if context + most > runner.capacity else context
    if depth < 1:
        return {"left_out": f"the caches hold {runner.capacity:,} tokens"}
    stepper = runner.stepper
    assert stepper is not None
    vocabulary = runner.model.config.text.vocab_size
    sampler = Sampler(GREEDY, vocabulary)
    set_length(runner, 8)
    ahead = runner.ahead(sampler)
    assert ahead is not None, "the device draws no tokens"
    set_length(runner, depth)
    ahead.start(torch.randn(vocabulary, device=device), sampler)
    taken: list[float] = []
    drawn, start = 0, time.monotonic()

    def speak(count: int) -> None:
        nonlocal drawn
        for _ in range(count):
            ahead.launch()
            ahead.token(drawn)
            drawn += 1

    speak(min(4, work.spoken))
    while len(taken) < work.repeats and (not taken or time.monotonic() - start < work.budget_s):
        began = time.perf_counter()
        speak(work.spoken)
        taken.append((time.perf_counter() - began) / work.spoken)
    wait(device)
    found: dict[str, Any] = {
        "depth": depth,
        "spoken_tps": figure([1 / each for each in taken]),
        "tokens": work.spoken * len(taken),
    }
    set_length(runner, depth)
    stepper.place()
    stepper.reads.prepare(1)
    step = rounds(work, device, lambda: stepper.reads(1), inner=work.replays)
    stepper.place()
    graph = rounds(work, device, ahead._run, inner=work.replays)
    set_length(runner, depth)
    stepper.place()
    return found | {
        "step_us": figure([each * 1e6 for each in step]),
        "graph_us": figure([each * 1e6 for each in graph]),
    }


def draft_head(model: Qwen35) -> DraftHead:
    """As that of the 4B, whose last ids are control tokens, and padding."""
    rows = model.config.text.vocab_size
    tokens = rows - 243 if rows > 2 * COMMON else rows
    return DraftHead(model.kernels, model.head.stored(), tokens=tokens, control=tokens - 33)


def drafts(work: Work, device: torch.device, model: Qwen35) -> dict[str, Any]:
    """Rounds of each number of drafts in turn with spoken tokens, behind a short prompt."""
    context = work.contexts[0]
    each = work.repeats * (MOST + 3) * max(FEW, work.spoken)
    capacity = min(context + 2 * each, model.config.text.max_context)
    runner = Runner(model, capacity=capacity, draft_head=draft_head(model))
    assert runner.drafter is not None and runner.drafter._loop is not None
    checks = runner.checks(Sampler(GREEDY, model.config.text.vocab_size))
    assert checks is not None, "the device draws no tokens"

    def round_of(count: int) -> float:
        start = time.perf_counter()
        runner.look_ahead(7, count, checks)  # waits for the tokens
        runner.keep(count + 1)
        checks.settle([])
        return time.perf_counter() - start

    checks.begin()
    list(runner.prefill(Prompt((1,) * context)))
    for count in range(MOST + 1):  # compiles, and makes the graphs
        round_of(count)
        round_of(count)
    seconds: dict[int, list[float]] = {count: [] for count in range(1, MOST + 1)}
    alone: dict[int, list[float]] = {count: [] for count in seconds}
    for _ in range(work.repeats):
        for count in seconds:
            seconds[count].append(statistics.median(round_of(count) for _ in range(3)))
            start = time.perf_counter()
            with torch.inference_mode():
                runner.drafter.draft(7, count)
                runner.drafter.undo()
            alone[count].append(time.perf_counter() - start)
    spoken = decode(work, device, runner, context)["spoken_tps"]
    return {
        "context": context,
        "spoken_tps": spoken,
        "round_us": {n: figure([1e6 * each for each in found]) for n, found in seconds.items()},
        "draft_us": {n: figure([1e6 * each for each in found]) for n, found in alone.items()},
        "round_cost": {
            n: statistics.median(found) * spoken["median"] for n, found in seconds.items()
        },
    }


# -- the graph of a token -------------------------------------------------------------------------

APART_US: Final = 1_000.0  # between replays that are profiled
NODE_TYPES: Final = {0: "kernel", 1: "memcpy", 2: "memset", 3: "host", 4: "graph", 5: "empty"}


def graph_of_a_token(device: torch.device, runner: Runner, found: dict[str, Any]) -> None:
    stepper = runner.stepper
    assert stepper is not None
    ahead = runner.ahead(Sampler(GREEDY, runner.model.config.text.vocab_size))
    assert ahead is not None, "the device draws no tokens"

    def token() -> None:
        logits = stepper._step(stepper.control, 1)
        ahead.drawing(logits[0], stepper.control, 1)

    found["step_launches"] = len(recorded(runner))  # of the step alone, as the host counts
    if device.type != "cuda":
        return
    stepper.place()
    try:
        found["nodes"] = count_nodes(token)
        found["launches"] = found["nodes"].get("kernel", 0)
        found["counted_by"] = "the nodes of the captured graph"
    except Exception as error:
        found["nodes_failed"] = f"{type(error).__name__}: {error}"
        found["launches"] = found["step_launches"] + 2
        found["counted_by"] = "the launches of a step, and the two of a draw"
    try:
        found |= profiled(ahead._run)
    finally:
        stepper.place()
    if "nodes_failed" in found:
        found["launches"] = found["profiled_kernels"]
        found["counted_by"] = "torch.profiler over a replay"


def count_nodes(run: Callable[[], object]) -> dict[str, int]:
    """Nodes by kind of what `run` enqueues, as the driver counts them."""
    graph = torch.cuda.CUDAGraph(keep_graph=True)
    with torch.cuda.graph(graph):
        run()
    driver = ctypes.CDLL("libcuda.so.1")
    raw, count = ctypes.c_void_p(graph.raw_cuda_graph()), ctypes.c_size_t(0)
    _checked(driver.cuGraphGetNodes(raw, None, ctypes.byref(count)))
    nodes = (ctypes.c_void_p * count.value)()
    _checked(driver.cuGraphGetNodes(raw, nodes, ctypes.byref(count)))
    kinds: dict[str, int] = {}
    for node in nodes:
        kind = ctypes.c_int(-1)
        _checked(driver.cuGraphNodeGetType(ctypes.c_void_p(node), ctypes.byref(kind)))
        name = NODE_TYPES.get(kind.value, f"type {kind.value}")
        kinds[name] = kinds.get(name, 0) + 1
    return kinds


def _checked(code: int) -> None:
    if code:
        raise RuntimeError(f"the CUDA driver says {code}")


def profiled(replay: Callable[[], object], times: int = 6) -> dict[str, Any]:
    """Times of the kernels of a replay, in medians over all replays but the first."""
    from torch.profiler import ProfilerActivity, profile

    replay()
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        for _ in range(times):
            replay()
            torch.cuda.synchronize()
            time.sleep(2 * APART_US / 1e6)
    return of_events(sorted(_device_events(profiler)))


Event = tuple[float, float, str]  # begin, end in microseconds, name


def of_events(events: Sequence[Event]) -> dict[str, Any]:
    """What they tell of a replay; replays lie `APART_US` apart, and the first does not count."""
    chunks: list[list[Event]] = []
    end = -math.inf
    for event in events:
        if event[0] - end > APART_US:
            chunks.append([])
        chunks[-1].append(event)
        end = max(end, event[1])
    chunks = chunks[1:]
    if not chunks:
        raise RuntimeError(f"the profiler saw {len(events)} events of the device, in one replay")
    usual = statistics.mode(len(chunk) for chunk in chunks)
    chunks = [chunk for chunk in chunks if len(chunk) == usual]
    spans, covered, summed = [], [], []
    by_name: dict[str, list[float]] = {}
    for chunk in chunks:
        end, busy = -math.inf, 0.0
        totals: dict[str, float] = {}
        for start, stop, name in chunk:
            busy += max(0.0, stop - max(start, end))
            end = max(end, stop)
            totals[name] = totals.get(name, 0.0) + stop - start
        spans.append(end - chunk[0][0])
        covered.append(busy)
        summed.append(sum(totals.values()))
        for name, total in totals.items():
            by_name.setdefault(name, []).append(total)
    names = [name for _, _, name in chunks[0]]
    gaps = [span - busy for span, busy in zip(spans, covered, strict=True)]
    return {
        "profiled_kernels": sum(not name.startswith("Mem") for name in names),
        "profiled_us": figure(spans),
        "kernels_us": figure(summed),
        "gaps_us": figure(gaps),
        "by_kernel": {
            name[:60]: {"launches": names.count(name), "us": statistics.median(totals)}
            for name, totals in sorted(by_name.items(), key=lambda item: -max(item[1]))
        },
    }


def _device_events(profiler: Any) -> Iterator[Event]:
    """Begin and end in microseconds, and name, of what ran on the device."""
    try:
        events = profiler.profiler.kineto_results.events()
        found = [
            (e.start_ns() / 1e3, (e.start_ns() + e.duration_ns()) / 1e3, e.name())
            for e in events
            if e.device_type() == torch.autograd.DeviceType.CUDA and e.duration_ns() > 0
        ]
    except AttributeError:
        found = [
            (e.time_range.start, e.time_range.end, e.name)
            for e in profiler.events()
            if e.device_type == torch.autograd.DeviceType.CUDA
        ]
    skipped = ("Context Sync", "Event Sync", "Stream Sync", "Stream Wait", "Activity Buffer")
    yield from (event for event in found if not event[2].startswith(skipped))


# -- kernels by themselves ------------------------------------------------------------------------

Call = tuple[str, Callable[..., Any], tuple[Any, ...], dict[str, Any]]


def recorded(runner: Runner) -> list[Call]:
    """The launches of a step with their true arguments; nothing is launched."""
    from qwen35cli.kernels.triton import step as module

    stepper = runner.stepper
    assert stepper is not None
    names = ("embed_step", "project", "delta_step", "add", "attend_step", "swiglu")
    own = {name: getattr(module, name) for name in names}
    calls: list[Call] = []

    def recorder(name: str) -> Callable[..., None]:
        return lambda *args, **kwargs: calls.append((name, own[name], args, kwargs))

    try:
        for name in names:
            setattr(module, name, recorder(name))
        stepper._step(stepper.control, 1)
    finally:
        for name, op in own.items():
            setattr(module, name, op)
    return calls


def kernels(
    work: Work,
    device: torch.device,
    runner: Runner,
    table: dict[str, Any],
    *,
    attention_alone: bool,
    kv: str,
) -> None:
    """Time and bandwidth of each kind of launch, by its name in `table`."""
    from qwen35cli.kernels.triton.step import TritonStep

    stepper = runner.stepper
    assert stepper is not None and isinstance(stepper._step, TritonStep)
    weights = stepper._step.weights
    roles: dict[int, tuple[str, Any]] = {id(weights.head): ("head", weights.head)}
    for block in weights.blocks:
        mixer = block.mixer
        delta = hasattr(mixer, "state")
        roles |= {id(each): ("swiglu", each) for each in (block.gate, block.up)}
        roles[id(block.down)] = "down", block.down
        roles[id(mixer.out)] = "out after delta" if delta else "out after attention", mixer.out
        name = "delta projection" if delta else "attention projection"
        roles |= {id(each): (name, each) for each in mixer.project}
        if delta:
            roles[id(mixer.state)] = "delta step", mixer.state
    groups: dict[str, list[Call]] = {}
    for call in recorded(runner):
        if call[0] == "embed_step":
            continue
        parts = [roles[id(each)] for each in _leaves((call[2], call[3])) if id(each) in roles]
        name = "attention" if call[0] == "attend_step" else parts[0][0]
        groups.setdefault(name, []).append(call)
    for name, calls in groups.items():
        if name == "attention":
            continue
        if attention_alone:
            continue
        held = [
            sum(_nbytes(each) for each in _leaves((c[2], c[3])) if id(each) in roles) for c in calls
        ]
        if name == "delta step":
            held = [2 * each for each in held]
        copies = min(MOST_COPIES, max(1, math.ceil(COLD_BYTES / sum(held))))
        if device.type != "cuda":
            copies = 1
        launches = [_launch(call) for call in calls]
        for _ in range(copies - 1):
            launches += [_launch(_copied(call, roles)) for call in calls]
        seconds = rounds(work, device, captured(in_a_row(launches), device), inner=2)
        table[name] = {
            "launches_a_token": len(calls),
            "launches_timed": len(launches),
            "bytes": sum(held) / len(calls),
            "us": figure([each / len(launches) * 1e6 for each in seconds]),
            "tb_s": figure([sum(held) * copies / each / 1e12 for each in seconds]),
        }
        del launches
    calls = groups.get("attention", [])
    layers = [layer for layer in runner.cache.layers if isinstance(layer, KVCache)]
    for context in work.contexts:
        if not calls or context > runner.capacity:
            continue
        depth = min(context, runner.capacity - 8)
        set_length(runner, depth)
        stepper.place()
        held = sum(layer.nbytes() / layer.capacity * depth for layer in layers)
        launches = [_launch(call) for call in calls] * 2
        seconds = rounds(work, device, captured(in_a_row(launches), device), inner=2)
        table[f"attention at {context}, kv {kv}"] = {
            "launches_a_token": len(calls),
            "launches_timed": len(launches),
            "bytes": held / len(calls),
            "us": figure([each / len(launches) * 1e6 for each in seconds]),
            "tb_s": figure([2 * held / each / 1e12 for each in seconds]),
        }


def _launch(call: Call) -> Callable[[], object]:
    _, op, args, kwargs = call
    return lambda: op(*args, **kwargs)


def _copied(call: Call, roles: Mapping[int, Any]) -> Call:
    """The same launch over a copy of its weights or state."""
    name, op, args, kwargs = call

    def copy(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(copy(each) for each in value)
        if id(value) not in roles:
            return value
        if isinstance(value, Int4):
            return Int4(value.packed.clone(), value.scale.clone(), value.shape, value.group)
        if isinstance(value, Int8):
            return Int8(value.packed.clone(), value.scale.clone(), value.shape)
        return value.clone()

    return name, op, copy(args), kwargs


def _leaves(value: Any) -> Iterator[Any]:
    """Matrices and tensors in arguments."""
    if isinstance(value, Int4 | Int8 | Tensor):
        yield value
    elif isinstance(value, tuple | list):
        for each in value:
            yield from _leaves(each)
    elif isinstance(value, dict):
        yield from _leaves(list(value.values()))
    elif is_dataclass(value) and not isinstance(value, type):
        for field in fields(value):
            yield from _leaves(getattr(value, field.name))


def _nbytes(weight: Int4 | Int8 | Tensor) -> int:
    if isinstance(weight, Tensor):
        return weight.nbytes
    return weight.packed.nbytes + weight.scale.nbytes


# -- prompts --------------------------------------------------------------------------------------


def prefill(work: Work, device: torch.device, model: Qwen35, found: dict[str, Any]) -> None:
    """Tokens/s of reading a prompt, by chunk and length."""
    runner = Runner(model, capacity=max(work.prompts) + 64)
    vocabulary = model.config.image_token_id
    ids = torch.randint(vocabulary, (max(work.prompts),)).tolist()
    for chunk in work.chunks:
        runner.chunk = chunk
        speeds = found.setdefault(str(chunk), {})
        for count in work.prompts:
            prompt = Prompt(tuple(ids[:count]))

            def read(prompt: Prompt = prompt) -> float:
                runner.reset()
                wait(device)
                began = time.perf_counter()
                for _ in runner.prefill(prompt):
                    pass
                wait(device)
                return time.perf_counter() - began

            if count == work.prompts[0]:
                read()
                read()
            elif count <= 8_192:
                read()
            taken: list[float] = []
            start = time.monotonic()
            while len(taken) < 5 and (not taken or time.monotonic() - start < work.budget_s):
                taken.append(read())
            speeds[str(count)] = figure([count / each for each in taken])


def turns(work: Work, device: torch.device, model: Qwen35) -> dict[str, Any]:
    """Turns of few tokens, read as prompts are and by steps of `FEW`: microseconds of each."""
    runner = Runner(model, capacity=min(8_192, model.config.text.max_context))
    stepper = runner.stepper
    assert stepper is not None, "the kernels take no step"

    def as_prompt(ids: list[int]) -> None:
        for _ in runner.prefill(Prompt(tuple(ids))):
            pass

    def by_steps(ids: list[int]) -> None:
        with torch.inference_mode():
            for start in range(0, len(ids), FEW):
                stepper.read(ids[start : start + FEW])

    found: dict[str, Any] = {}
    for count in work.turns:
        found[str(count)] = {}
        for name, read in (("prompt_us", as_prompt), ("steps_us", by_steps)):
            taken: list[float] = []
            for _ in range(work.repeats + 2):  # the first compile, and make the graph
                runner.reset()
                as_prompt([1] * work.contexts[0])
                wait(device)
                began = time.perf_counter()
                read([1] * count)
                wait(device)
                taken.append(1e6 * (time.perf_counter() - began))
            found[str(count)][name] = figure(taken[2:])
    return found


# -- against the reference ------------------------------------------------------------------------


def reference_of(model: Qwen35, raw: Mapping[str, Any], format: str, exact: bool) -> Qwen35:
    """The reference backend on the same weights; `exact` computes in float32."""
    kernels = select(model.device, "reference")
    twin = empty_model(raw, format, kernels, drafts=model.mtp is not None)
    state = dict(model.state_dict())
    codes = set()
    for path, leaf in model.named_modules():
        if isinstance(leaf, Quantized):
            codes |= {f"{path}.{name}" for name in leaf.held}
            operand = leaf.operand
            if isinstance(operand, Int4) and operand.packed.dim() == 5:
                from qwen35cli.kernels.triton import tiles

                plain = tiles.natural(operand)
                state[f"{path}.weight_packed"] = plain.packed
                state[f"{path}.weight_scale"] = plain.scale
    if exact:
        state = {name: t if name in codes else t.float() for name, t in state.items()}
    twin.load_state_dict(state, assign=True)
    return twin.requires_grad_(False)


def logits_against_reference(
    work: Work, device: torch.device, model: Qwen35, format: str
) -> dict[str, Any]:
    """Differences over the largest logit, of single steps from an empty cache."""
    count = 8 if device.type == "cuda" else 4
    vocabulary = model.config.image_token_id
    generator = torch.Generator().manual_seed(7)
    tokens = torch.randint(vocabulary, (count,), generator=generator).tolist()
    runner = Runner(model, capacity=64)
    assert runner.stepper is not None, "the model takes no graphs"
    ours = torch.stack([runner.step(token).float().clone() for token in tokens])
    together = []
    runner.reset()
    for start in range(0, count, 4):
        together.append(runner.stepper.read(tokens[start : start + 4]).float().clone())
    four = torch.cat(together)
    del runner
    steps = {}
    for name, exact in (("reference", False), ("float32", True)):
        twin = reference_of(model, work.raw, format, exact)
        dtype = torch.float32 if exact else torch.bfloat16
        other = Runner(twin, capacity=64, kv_dtype=dtype)
        steps[name] = torch.stack([other.step(token).float().clone() for token in tokens])
        del twin, other
        if device.type == "cuda":
            torch.cuda.empty_cache()

    def apart(one: Tensor, other: Tensor) -> dict[str, Any]:
        each = (one - other).abs().amax(1) / other.abs().amax(1)
        return {
            "first": float(each[0]),
            "median": float(each.median()),
            "most": float(each.max()),
            "rms": float((one - other).square().mean().sqrt() / other.square().mean().sqrt()),
            "same_argmax": int((one.argmax(1) == other.argmax(1)).sum()),
            "steps": len(one),
        }

    return {
        "finite": bool(ours.isfinite().all()),
        "largest": float(ours.abs().max()),
        "against_reference": apart(ours, steps["reference"]),
        "against_float32": apart(ours, steps["float32"]),
        "reference_against_float32": apart(steps["reference"], steps["float32"]),
        "four_against_one": apart(four, ours) | {"same_bits": bool(torch.equal(four, ours))},
    }


def demo(report: Report, work: Work, device: torch.device) -> None:
    """Greedy tokens of the demo in each format, and what the reference would have said."""
    found: dict[str, Any] = {}
    report.found["demo"] = found
    with tempfile.TemporaryDirectory(prefix="demo-") as folder:
        for format in ("int4", "int8", "bf16"):
            if device.type == "cpu" and format != "int4":
                report.leave_out(f"demo in {format}", "interpreted, one format takes long enough")
                continue
            with report.section(f"demo in {format}"):
                found[format] = demo_tokens(work, device, format, Path(folder))


def demo_tokens(work: Work, device: torch.device, format: str, folder: Path) -> dict[str, Any]:
    from qwen35cli.app import quantize
    from qwen35cli.app.source import resolve
    from qwen35cli.checkpoint.opened import open_checkpoint
    from qwen35cli.checkpoint.read import load_weights
    from qwen35cli.quant.plan import recipe
    from qwen35cli.text.template import Message, Text, render
    from qwen35cli.text.tokenizer import Tokenizer

    source = resolve("demo")
    place = source.folder
    if format != "bf16":
        place = folder / format
        for _ in quantize.run(quantize.job(source, recipe(format), place)):
            pass
    checkpoint = open_checkpoint(place)
    text = replace(checkpoint.config.text, mtp_num_hidden_layers=0)
    config = replace(checkpoint.config, vision=None, text=text)
    tokenizer = Tokenizer.from_folder(source.folder)
    ids = render([Message("user", (Text(QUESTION),))], tokenizer, thinking=False)

    def made(backend: str) -> Runner:
        with torch.device("meta"):
            model = Qwen35(config, select(device, backend, work.tuned))
        load_weights(model, checkpoint, device)
        return Runner(model, capacity=1_024)

    runner, other = made("triton"), made("reference")
    prompt = Prompt(tuple(ids))
    *_, last = runner.prefill(prompt)
    assert last.logits is not None
    sampler = Sampler(GREEDY, tokenizer.vocab_size)
    ahead = runner.ahead(sampler)
    assert ahead is not None, "the device draws no tokens"
    ahead.start(last.logits, sampler)
    tokens = []
    for number in range(work.demo_steps):
        if number + 1 < work.demo_steps:
            ahead.launch()
        tokens.append(ahead.token(number))
    *_, last = other.prefill(prompt)
    logits = last.logits
    differences = []
    for number, token in enumerate(tokens):
        assert logits is not None
        scores = logits[: tokenizer.vocab_size]
        best = int(scores.argmax())
        if best != token:
            two = scores.topk(2).values
            differences.append(
                {
                    "step": number,
                    "ours": token,
                    "reference": best,
                    "behind": float(scores[best] - scores[token]),
                    "margin": float(two[0] - two[1]),
                    "largest": float(scores.abs().max()),
                }
            )
        logits = other.step(token)
    return {
        "steps": len(tokens),
        "equal": len(tokens) - len(differences),
        "equal_until": differences[0]["step"] if differences else len(tokens),
        "differences": differences[:20],
        "text": b"".join(tokenizer.token_bytes(t) for t in tokens[:60]).decode(errors="replace"),
    }


# -- peers ----------------------------------------------------------------------------------------


def peers(report: Report, work: Work, device: torch.device) -> None:
    found: dict[str, Any] = {}
    report.found["peers"] = found
    model: Any = None
    with report.section("transformers"):
        try:
            import transformers
        except ImportError as error:
            report.leave_out("transformers", f"it cannot be imported: {error}")
            return
        found["transformers"] = {"version": transformers.__version__}
        model = peer_model(work, device)
        found["transformers"] |= peer_speed(work, device, model)
    if "nf4" not in report.only or model is None:
        return
    with report.section("nf4"):
        try:
            import bitsandbytes
        except Exception as error:
            why = f"bitsandbytes cannot be imported: {type(error).__name__}: {error}"
            report.leave_out("bitsandbytes nf4", why)
            return
        found["nf4"] = {"version": bitsandbytes.__version__}
        found["nf4"]["matrices"] = to_nf4(model, device)
        found["nf4"] |= peer_speed(work, device, model)


def peer_model(work: Work, device: torch.device) -> Any:
    """The text model of transformers with random weights, on the device, in bfloat16."""
    from transformers import Qwen3_5ForCausalLM, Qwen3_5TextConfig
    from transformers.utils import logging

    logging.set_verbosity_error()
    config = Qwen3_5TextConfig.from_dict(deepcopy(dict(work.raw["text_config"])))
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with device:
            model = Qwen3_5ForCausalLM(config)
    finally:
        torch.set_default_dtype(before)
    model.tie_weights()
    for name, parameter in model.named_parameters():
        if name.endswith("A_log"):
            parameter.uniform_(1, 16).log_()
        elif name.endswith("dt_bias"):
            parameter.uniform_(-4, 1)
        elif name.endswith("linear_attn.norm.weight"):
            parameter.normal_(1, 0.02)
        else:
            parameter.normal_(0, 0.02)
    for name, buffer in model.named_buffers():  # angles are float32, whatever the default was
        if name.endswith("inv_freq"):
            assert buffer.device.type == device.type, (name, buffer.device)
    return model.to(device).eval()


def to_nf4(model: Any, device: torch.device) -> int:
    """Every linear layer but the head, as `load_in_4bit` with nf4 and nested scales makes them."""
    from bitsandbytes.nn import Linear4bit, Params4bit

    wanted = [
        (name, leaf)
        for name, leaf in model.named_modules()
        if type(leaf) is torch.nn.Linear and name != "lm_head"
    ]
    for name, leaf in wanted:
        with torch.device("meta"):
            four = Linear4bit(
                leaf.in_features,
                leaf.out_features,
                bias=False,
                compute_dtype=torch.bfloat16,
                compress_statistics=True,
                quant_type="nf4",
            )
        four.weight = Params4bit(
            leaf.weight.data,
            requires_grad=False,
            compress_statistics=True,
            quant_type="nf4",
            module=four,
        ).to(device)
        parent, _, attribute = name.rpartition(".")
        setattr(model.get_submodule(parent), attribute, four)
        leaf.weight = None
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return len(wanted)


def peer_speed(work: Work, device: torch.device, model: Any) -> dict[str, Any]:
    """Greedy tokens/s behind a short prompt."""
    from transformers import DynamicCache

    vocabulary = model.config.vocab_size
    prompt = torch.randint(vocabulary - 10, (1, 64 if device.type == "cuda" else 4), device=device)
    cache = DynamicCache(config=model.config)

    def forward(ids: Tensor) -> Tensor:
        out = model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
        return out.logits[:, -1].argmax(-1, keepdim=True)

    token = forward(prompt)
    for _ in range(8 if device.type == "cuda" else 1):
        token = forward(token)
    wait(device)
    taken = []
    for _ in range(work.repeats):
        began = time.perf_counter()
        for _ in range(work.peer_tokens):
            token = forward(token)
        wait(device)
        taken.append((time.perf_counter() - began) / work.peer_tokens)
    bytes_held = torch.cuda.memory_allocated() if device.type == "cuda" else None
    return {
        "tps": figure([1 / each for each in taken]),
        "tokens": work.peer_tokens * len(taken),
        "allocated_bytes": bytes_held,
    }


# -- what came out --------------------------------------------------------------------------------


def at(found: Any, *path: str) -> Any:
    """What stands at a path, or None."""
    for name in path:
        if not isinstance(found, dict) or name not in found:
            return None
        found = found[name]
    return found


def bars(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Those of issue 6, for an H200."""
    table: list[dict[str, Any]] = []

    def bar(name: str, value: float | None, limit: float, unit: str, *, most: bool = False) -> None:
        row: dict[str, Any] = {"bar": name, "limit": limit, "unit": unit, "value": value}
        row["kind"] = "at most" if most else "at least"
        if value is None:
            row["verdict"] = "not measured"
        elif value <= limit if most else value >= limit:
            row["verdict"] = "met"
        else:
            row["verdict"] = f"missed by {abs(value / limit - 1):.1%}"
        table.append(row)

    formats = result.get("formats", {})
    for format in ("int4", "int8", "bf16"):
        bar(
            f"launches a token, {format}",
            at(formats, format, "graph", "launches"),
            170,
            "",
            most=True,
        )
    for name, format, kernel, limit in (
        ("gate_up int4", "int4", "swiglu", 2.4),
        ("gate_up int8", "int8", "swiglu", 3.3),
        ("head (int8)", "int4", "head", 3.6),
    ):
        bar(name, at(formats, format, "kernels", kernel, "tb_s", "median"), limit, "TB/s")
    step = at(formats, "int4", "kernels", "delta step", "us", "median")
    bar("DeltaNet step", step, 4.0, "µs", most=True)
    short = {f: at(formats, f, "decode", "bf16", "128", "spoken_tps", "median") for f in formats}
    bar("decode int4, short context", short.get("int4"), 700, "tokens/s")
    bar("decode int8, short context", short.get("int8"), 600, "tokens/s")
    for kv in KV:
        long = at(formats, "int4", "decode", kv, "131072", "spoken_tps", "median")
        plain = at(formats, "int4", "decode", kv, "128", "spoken_tps", "median")
        kept = long / plain if long and plain else None
        bar(f"speed kept at 128k, int4, kv {kv}", kept, 0.6, "")
    nf4 = at(result, "peers", "nf4", "tps", "median")
    times = short["int4"] / nf4 if nf4 and short.get("int4") else None
    bar("int4 against bitsandbytes nf4", times, 8, "x")
    for format in ("int4", "int8", "bf16"):
        bar(
            f"demo tokens equal to the reference's, {format}",
            at(result, "demo", format, "equal"),
            at(result, "demo", format, "steps") or 500,
            "",
        )
    for format in ("int4", "int8", "bf16"):
        ours = at(formats, format, "logits", "against_float32", "rms")
        theirs = at(formats, format, "logits", "reference_against_float32", "rms")
        share = ours / theirs if ours is not None and theirs else None
        name = f"error of the logits over the bf16 reference's own, {format}"
        bar(name, share, 1.25, "x", most=True)
    return table


def show(result: Mapping[str, Any]) -> None:
    device = result["device"]
    print(f"\n{device['name']}, torch {device['torch']}, Triton {device['triton']}")
    print(f"commit {result['commit']}, {result.get('wall_s', 0):.0f} s")
    copy = at(result, "bandwidth", "copy_tb_s", "median")
    read = at(result, "bandwidth", "read_tb_s", "median")
    if copy:
        print(f"copy {copy:.2f} TB/s (read + written), torch.sum reads {read:.2f} TB/s")
    for format, found in result.get("formats", {}).items():
        print(f"\n== {format}: {found.get('weight_bytes', 0) / 1e9:.2f} GB of weights a token")
        _show_decode(found, copy)
        for count, cost in (at(found, "drafts", "round_cost") or {}).items():
            alone = _median(found["drafts"]["draft_us"][count], ",.0f")
            print(f"a round of {count} drafts: {cost:.2f} tokens; the drafts {alone} us")
        for chunk, speeds in found.get("prefill", {}).items():
            cells = (f"{int(n):,}: {_median(each, ',.0f')}" for n, each in speeds.items())
            print(f"prefill by {chunk}, tokens/s   " + "   ".join(cells))
        for count, ways in found.get("turns", {}).items():
            cells = (f"{name}: {_median(each, ',.0f')}" for name, each in ways.items())
            print(f"a turn of {count} tokens   " + "   ".join(cells))
        _show_graph(found.get("graph"))
        _show_kernels(found.get("kernels", {}), copy)
        for name, each in found.get("logits", {}).items():
            if isinstance(each, dict):
                print(f"logits {name}: " + _small(each))
    for format, found in result.get("demo", {}).items():
        print(f"\ndemo {format}: {found['equal']} of {found['steps']} tokens equal")
        for each in found["differences"][:3]:
            print("  " + _small(each))
    for name, found in result.get("peers", {}).items():
        print(f"peer {name} {found.get('version')}: {_median(found.get('tps'), '.1f')} tokens/s")
    print("\nbars of issue 6 (for an H200)")
    for row in result.get("bars", []):
        value = "-" if row["value"] is None else f"{row['value']:,.2f}"
        limit = f"{row['kind']} {row['limit']:g} {row['unit']}".strip()
        print(f"  {row['bar']:<58}{value:>10}  {limit:<22}{row['verdict']}")
    for what, why in result["left_out"].items():
        print(f"left out: {what}: {why}")
    print(f"{len(result['failures'])} failures\n")


def _show_decode(found: Mapping[str, Any], copy: float | None) -> None:
    for kv, speeds in found.get("decode", {}).items():
        print(f"decode, kv {kv:<6} {'tokens/s':>10}{'step, us':>10}{'graph, us':>11}{'share':>7}")
        for context, each in speeds.items():
            if "spoken_tps" not in each:
                print(f"  {int(context):>12,}   {each}")
                continue
            read = found["weight_bytes"] + found["state_bytes"]
            read += each["depth"] * found["kv_bytes_per_token"][kv]
            share = read / each["step_us"]["median"] / 1e6 / copy if copy else math.nan
            print(
                f"  {int(context):>12,}   {_median(each['spoken_tps'], '.1f'):>10}"
                f"{_median(each['step_us'], '.0f'):>10}{_median(each['graph_us'], '.0f'):>11}"
                f"{share:>7.0%}"
            )


def _show_graph(graph: Mapping[str, Any] | None) -> None:
    if not graph:
        return
    nodes, launches = graph.get("nodes", graph.get("nodes_failed")), graph.get("launches")
    print(f"graph: {launches} kernels, {graph.get('step_launches')} of the step; nodes {nodes}")
    if "gaps_us" in graph:
        print(
            f"profiled: {_median(graph['profiled_us'], '.0f')} us, kernels add up to "
            f"{_median(graph['kernels_us'], '.0f')}, gaps {_median(graph['gaps_us'], '.0f')}"
        )
        for name, each in list(graph["by_kernel"].items())[:12]:
            print(f"  {name:<60}{each['launches']:>4} x {each['us'] / each['launches']:7.2f} us")


def _show_kernels(table: Mapping[str, Any], copy: float | None) -> None:
    total = 0.0
    for name, each in table.items():
        speed = each["tb_s"]["median"]
        share = speed / copy if copy else math.nan
        if not name.startswith("attention at"):
            total += each["us"]["median"] * each["launches_a_token"]
        print(
            f"  {name:<32}{each['launches_a_token']:>4} x {each['us']['median']:8.2f} us"
            f"{speed:8.3f} TB/s {share:5.0%}  of {each['launches_timed']}"
        )
    if total:
        print(f"  {'all but attention':<32}{total:>15.0f} us a token")


def _median(found: Mapping[str, Any] | None, form: str) -> str:
    return "-" if found is None else format(found["median"], form)


def _small(found: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in found.items()
    )


if __name__ == "__main__":
    sys.exit(main())
