"""From a model's name to a runner: the one place that wires the floors together.

In two steps, so that everything cheap is checked first: `open_model` reads the small files and
decides device and context; `load` reads the weights.
"""

import importlib.resources
import json
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from qwen35cli.checkpoint.hub import find_in_cache
from qwen35cli.checkpoint.read import Checkpoint, load_weights, open_checkpoint
from qwen35cli.engine.runner import Runner
from qwen35cli.errors import DeviceError, DoesNotFitError, ModelError, UsageError
from qwen35cli.images.preprocess import ImageLimits
from qwen35cli.kernels import Kernels, select
from qwen35cli.model.config import TextConfig
from qwen35cli.model.qwen35 import Qwen35
from qwen35cli.text.template import thinks_by_default
from qwen35cli.text.tokenizer import Tokenizer

DEMO = "demo"
DEFAULT_CONTEXT = 131_072
LEAST_CONTEXT = 1_024
KV_BYTES = 2  # bf16
WORKSPACE_BYTES = 512 * 2**20  # activations of one prefill chunk, logits, torch itself
MAX_JSON_BYTES = 16 * 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadOptions:
    """What the user asked for."""

    model: str
    revision: str | None = None
    device: Literal["auto", "cpu", "cuda"] = "auto"
    kernels: str | None = None
    ctx: int | None = None  # None: 131,072, or what the model or the memory allows
    image_max_tokens: int | None = 2_048  # None: the model's own limit


@dataclass(frozen=True, slots=True)
class Source:
    """A checkpoint on disk, and the name the user knows it by."""

    name: str
    folder: Path
    revision: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """A checkpoint whose small files are read and checked; no weights yet."""

    source: Source
    checkpoint: Checkpoint
    tokenizer: Tokenizer
    image_limits: ImageLimits | None  # None: the checkpoint takes no pictures
    thinks_by_default: bool
    device: torch.device
    kernels: Kernels
    ctx: int
    largest_ctx: int  # that memory and model allow


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """A model that is ready to answer."""

    opened: Opened
    runner: Runner
    load_s: float


def open_model(options: LoadOptions) -> Opened:
    """Find the checkpoint, check what is cheap to check, decide device and context.

    Raises:
        UsageError, ModelError, DeviceError, DoesNotFitError: see their one place, `errors.py`.
    """
    source = resolve(options.model, options.revision)
    device = choose_device(options.device, source)
    kernels = select(device, options.kernels)
    checkpoint = open_checkpoint(source.folder)
    text = checkpoint.config.text
    largest = largest_context(text, free_bytes(device) - checkpoint.nbytes)
    return Opened(
        source=source,
        checkpoint=checkpoint,
        tokenizer=Tokenizer.from_folder(source.folder),
        image_limits=image_limits(checkpoint, source.folder, options.image_max_tokens),
        thinks_by_default=thinks_by_default(chat_template(source.folder)),
        device=device,
        kernels=kernels,
        ctx=choose_context(options.ctx, text, largest, checkpoint.nbytes, device),
        largest_ctx=largest,
    )


def load(opened: Opened, *, pictures: bool = True, drafts: bool = False) -> Loaded:
    """Read the weights and make room for the context.

    The vision tower stays in its file where no `pictures` will come, the MTP layer where nothing
    `drafts` with it.
    """
    start = time.perf_counter()
    config = opened.checkpoint.config
    if not pictures:
        config = replace(config, vision=None)
    if not drafts:
        config = replace(config, text=replace(config.text, mtp_num_hidden_layers=0))
    with memory_errors(f"loading {opened.source.name}"):
        with torch.device("meta"):
            model = Qwen35(config, opened.kernels)
        load_weights(model, opened.checkpoint, opened.device)
        runner = Runner(model, capacity=opened.ctx)
    return Loaded(opened=opened, runner=runner, load_s=time.perf_counter() - start)


# -- where the checkpoint is --------------------------------------------------------------------


def resolve(name: str, revision: str | None = None) -> Source:
    """The checkpoint called `name`: `demo`, a folder, or a Hub id in the local cache.

    Raises:
        ModelError: it is none of these, or not on this machine.
    """
    if name == DEMO:
        return Source(DEMO, Path(str(importlib.resources.files("qwen35cli"))) / "demo", None)
    folder = Path(name).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ModelError(f"there is no config.json in {name}", "--model demo")
        return Source(name, folder, None)
    if re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", name):
        found = find_in_cache(name, revision)
        return Source(name, found, found.name)
    raise ModelError(
        f"there is no model {name!r}: neither `demo`, nor a folder, nor a Hub id owner/name",
        "--model demo, --model ./folder, or --model Qwen/Qwen3.5-4B",
    )


def chat_template(folder: Path) -> str:
    """The text of the checkpoint's chat template, to be looked at and never run; "" if none."""
    path = folder / "chat_template.jinja"
    if path.is_file() and path.stat().st_size <= MAX_JSON_BYTES:
        return path.read_text(encoding="utf-8", errors="replace")
    template = read_json(folder / "tokenizer_config.json").get("chat_template", "")
    return template if isinstance(template, str) else ""


def image_limits(
    checkpoint: Checkpoint, folder: Path, max_tokens: int | None
) -> ImageLimits | None:
    """How pictures are cut for this checkpoint, at most `max_tokens` each; None: it takes none."""
    raw = read_json(folder / "preprocessor_config.json")
    if checkpoint.config.vision is None or not raw:
        return None
    limits = ImageLimits.from_dict(raw)
    if max_tokens is None:
        return limits
    most = min(limits.max_pixels, max_tokens * limits.factor**2)
    return replace(limits, max_pixels=most, min_pixels=min(limits.min_pixels, most))


def read_json(path: Path) -> dict[str, Any]:
    """The object in a small JSON file; empty where there is no such file."""
    if not path.is_file():
        return {}
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise ValueError(f"more than {MAX_JSON_BYTES:,} bytes")
        value = json.loads(path.read_bytes())
    except (ValueError, RecursionError, OSError) as error:
        raise ModelError(f"{path} cannot be read: {error}", "fetch the checkpoint again") from None
    if not isinstance(value, dict):
        raise ModelError(f"{path} does not hold a JSON object", "fetch the checkpoint again")
    return value


# -- what it runs on, and how much it may hold ---------------------------------------------------


def choose_device(asked: Literal["auto", "cpu", "cuda"], source: Source) -> torch.device:
    """The device asked for; `auto` is the GPU, and for the demo the CPU. Never a silent other."""
    if asked == "cpu" or (asked == "auto" and source.name == DEMO):
        return torch.device("cpu")
    if torch.cuda.is_available():
        return torch.device("cuda")
    version = torch.__version__.split("+")[0]
    why = "was built without CUDA" if torch.version.cuda is None else "sees no CUDA device"
    raise DeviceError(
        f"no usable GPU: torch {version} {why}",
        "--device cpu (slow), or --model demo to look around",
    )


def choose_context(
    asked: int | None, text: TextConfig, largest: int, weights_bytes: int, device: torch.device
) -> int:
    """The context to make room for. One that was asked for is given or refused, never reduced."""
    most = text.max_context
    wanted = asked or min(DEFAULT_CONTEXT, most)
    if wanted > most:
        raise UsageError(
            f"a context of {wanted:,} tokens is more than the model's {most:,}", f"--ctx {most}"
        )
    if wanted <= largest:
        return wanted
    if asked is None and largest >= LEAST_CONTEXT:
        return largest
    needed = weights_bytes + WORKSPACE_BYTES + wanted * kv_bytes_per_token(text)
    raise DoesNotFitError(
        f"a context of {wanted:,} tokens needs {needed / 2**30:.1f} GiB with the weights; "
        f"{free_bytes(device) / 2**30:.1f} GiB are free on {device.type}",
        f"--ctx {largest}" if largest >= LEAST_CONTEXT else "--model demo",
    )


def kv_bytes_per_token(text: TextConfig) -> int:
    """Bytes of keys and values of one token, over all full-attention layers."""
    layers = text.layer_types.count("full_attention")
    return 2 * text.num_key_value_heads * text.head_dim * KV_BYTES * layers


def largest_context(text: TextConfig, free: int) -> int:
    """The most tokens whose keys and values fit `free` bytes beside the workspace."""
    fitting = max(free - WORKSPACE_BYTES, 0) // max(kv_bytes_per_token(text), 1)
    return min(fitting, text.max_context)


def free_bytes(device: torch.device) -> int:
    """Memory that can be had now on `device`."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        meminfo = Path("/proc/meminfo").read_text()
        return int(re.findall(r"MemAvailable:\s+(\d+) kB", meminfo)[0]) * 1024
    except (OSError, IndexError):  # not Linux: all of it
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


@contextmanager
def memory_errors(doing: str) -> Iterator[None]:
    """Turn torch's ways of saying "out of memory" into one error with a hint."""
    failure = DoesNotFitError(
        f"memory ran out while {doing}", "a smaller --ctx needs less; --model demo runs anywhere"
    )
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError):
        raise failure from None
    except RuntimeError as error:
        if "can't allocate memory" in str(error):
            raise failure from None
        raise
