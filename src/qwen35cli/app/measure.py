"""`vram --measure`: the estimate held against what the model takes when it is loaded here.

On a CPU that is resident memory: every cache is written once, so that it counts, and a step reads
all weights of the text. On a GPU it is what torch has allocated and reserved, what the driver says
is gone besides, and the context, which a second process shows by making one of its own.
"""

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
import torch

from qwen35cli.engine.ahead import run_ahead
from qwen35cli.engine.graph import Ahead
from qwen35cli.engine.runner import Prompt, Runner
from qwen35cli.engine.sampling import Sampler, Sampling
from qwen35cli.errors import UsageError
from qwen35cli.images.preprocess import Patches

from . import load as loading
from .device import free_bytes
from .estimate import Estimate, Part, size
from .quantize import Job
from .vram import Picture, VramOptions, built_in

STEPS = 8
EVERY = 0.005  # seconds between two looks at resident memory
SETTLED = 0.05  # seconds after which what is freed is gone


@dataclass(frozen=True, slots=True)
class Line:
    """A part or several, as estimated and as found. `total` comes last."""

    name: str
    label: str
    predicted: int
    measured: int


@dataclass(frozen=True, slots=True)
class Measured:
    """The lines, on a device. The residue is what the estimate does not explain."""

    device: str
    lines: tuple[Line, ...]

    @property
    def residue(self) -> int:
        total = self.lines[-1]
        return total.measured - total.predicted


class ResidentMeter:
    """Resident memory of this process; the most of it is found by looking often."""

    def __init__(self) -> None:
        self._process = psutil.Process()

    def now(self) -> int:
        time.sleep(SETTLED)
        return self._process.memory_info().rss

    @contextmanager
    def peak(self) -> Iterator[list[int]]:
        """While it runs the list is empty; afterwards it holds the most that was seen."""
        found: list[int] = []
        most = self._process.memory_info().rss
        done = threading.Event()

        def look() -> None:
            nonlocal most
            while not done.wait(EVERY):
                most = max(most, self._process.memory_info().rss)

        looker = threading.Thread(target=look, name="meter")
        looker.start()
        try:
            yield found
        finally:
            done.set()
            looker.join()
        found.append(max(most, self._process.memory_info().rss))


class CudaMeter:
    """What torch has allocated on the GPU."""

    def now(self) -> int:
        torch.cuda.synchronize()
        return torch.cuda.memory_allocated()

    @contextmanager
    def peak(self) -> Iterator[list[int]]:
        found: list[int] = []
        torch.cuda.reset_peak_memory_stats()
        yield found
        torch.cuda.synchronize()
        found.append(torch.cuda.max_memory_allocated())


def run(
    estimate: Estimate,
    pictures: Sequence[Picture],
    options: VramOptions,
    folders: tuple[Path, Path],
    make: Callable[[Job], None],
    say: Callable[[str], None],
) -> Measured:
    """Load the model that was estimated, fill its caches, read a prompt, decode some tokens.

    Args:
        estimate: what was asked about; the device is the one that is here.
        pictures: the largest of them is read before the prompt.
        options: where the model is.
        folders: where quantized weights are kept, and where GPU kernels.
        make: makes those that are missing, or refuses.
        say: gets a line on what is being done.

    Raises:
        UsageError: what cannot be measured: several sequences, weights that no run would use, a
            picture that leaves no room for anything else.
        DoesNotFitError: it does not fit here.
        ModelError: the checkpoint is not on this machine.
    """
    if options.batch > 1:
        raise UsageError("one sequence is measured, not several", "--batch 1")
    if options.group is not None:
        raise UsageError(
            "what ask and chat run is measured, and that has no other groups",
            "qwen35 quantize --group N -o DIR, then: qwen35 vram DIR --measure",
        )
    setting = estimate.setting
    largest = max(pictures, key=lambda picture: picture.patches, default=None)
    room = setting.ctx - STEPS - setting.drafts - (largest.tokens if largest else 0)
    if largest and room < 1:
        raise UsageError(
            f"a picture of {largest.tokens:,} tokens does not fit a context of {setting.ctx:,}",
            f"--ctx {largest.tokens + 1024}",
        )
    opened = loading.open_model(
        loading.LoadOptions(
            model=built_in(options.model, options.revision) or options.model,
            revision=options.revision,
            device="cuda" if torch.cuda.is_available() and options.gpu != "cpu" else "cpu",
            ctx=setting.ctx,
            kv_dtype=setting.kv_dtype,
            quant=estimate.model.quant,
            store=folders[0],
            cache=folders[1],
            mtp=setting.drafts or "off",
            pictures=options.vision,
            image_max_tokens=largest.tokens if largest else 1,
        ),
        make,
    )
    device = opened.device
    chosen = replace(
        opened.estimate.setting,
        chunk=setting.chunk,
        drafts=setting.drafts,
        patches=setting.patches,
    )
    needs = Estimate(opened.estimate.model, chosen)
    meter: ResidentMeter | CudaMeter = CudaMeter() if device.type == "cuda" else ResidentMeter()
    free, start = free_bytes(device), meter.now()
    loaded = loading.load(opened, pictures=options.vision, drafts=setting.drafts > 0)
    runner = loaded.runner
    runner.chunk = setting.chunk
    sampler = Sampler(Sampling(temperature=0), opened.tokenizer.vocab_size)
    ahead = None if setting.drafts else runner.ahead(sampler)
    say("reading the weights …")
    with torch.inference_mode():
        _touch_weights(runner)
    after_weights = meter.now()
    say(f"filling {size(runner.cache.nbytes())} of caches …")
    _touch_caches(runner)
    after_caches = meter.now()
    say(f"reading {setting.chunk:,} tokens …")
    prompt = _prompt(runner, min(setting.chunk, max(room, 1)), largest)
    with meter.peak() as most:
        _work(runner, prompt, setting.drafts, ahead, sampler)
    if device.type == "cuda":  # torch allocates weights and caches in one go there
        used, reserved = free - free_bytes(device), torch.cuda.memory_reserved()
        context = context_bytes()
        if context is None:
            context = needs_of(needs, "runtime")
        caches = runner.cache.nbytes()
        if runner.stepper is not None:
            caches += sum(tensor.nbytes for tensor in runner.stepper.tensors())
        found = (
            context + used - reserved,
            after_weights - caches - start,
            caches,
            most[0] - after_caches,
            reserved - most[0],
        )
    else:
        found = (
            start,
            after_weights - start,
            after_caches - after_weights,
            most[0] - after_caches,
            0,
        )
    lines = _lines(needs, found)
    name = torch.cuda.get_device_name() if device.type == "cuda" else "this machine's CPU"
    return Measured(name, tuple(lines))


def needs_of(estimate: Estimate, *names: str) -> int:
    """Bytes of these parts."""
    return sum(part.nbytes for part in estimate.parts if part.name in names)


def context_bytes() -> int | None:
    """What a context takes on the GPU: one is made in another process. None: it could not be."""
    free = torch.cuda.mem_get_info()[0]
    script = "import torch; torch.cuda.mem_get_info(); print('made', flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as child:
        assert child.stdout is not None
        made = child.stdout.readline().strip() == "made"
        taken = free - torch.cuda.mem_get_info()[0]
        child.communicate("\n")
    return taken if made and taken > 0 else None


def _lines(needs: Estimate, found: tuple[int, int, int, int, int]) -> list[Line]:
    """What was found, part by part, beside what was expected; the sum comes last."""
    runtime, weights, caches, passing, slack = found
    expected = needs_of(needs, "activations", "logits", "image_activations")
    held = sum(part.nbytes for part in needs.weights)
    kept = sum(part.nbytes for part in needs.memory)
    return [
        Line("runtime", _label(needs, "runtime"), needs_of(needs, "runtime"), runtime),
        Line("weights", "weights", held, weights),
        Line("caches", "caches and states", kept, caches),
        Line("activations", "activations, logits", expected, passing),
        Line("slack", "allocator slack", needs_of(needs, "slack"), slack),
        Line("total", "total", needs.total, sum(found)),
    ]


def _label(estimate: Estimate, name: str) -> str:
    part: Part = next(part for part in estimate.parts if part.name == name)
    return part.label


def _touch_weights(runner: Runner) -> None:
    """Read every page that a step can read."""
    for parameter in runner.model.parameters():
        flat = parameter.detach().view(torch.uint8 if parameter.dim() else parameter.dtype)
        flat.flatten()[::4_096].sum()


def _touch_caches(runner: Runner) -> None:
    """Write every page of the caches, which are empty."""
    for tensor in runner.cache.tensors():
        tensor.zero_()


def _prompt(runner: Runner, count: int, picture: Picture | None) -> Prompt:
    """`count` tokens, behind a grey picture if there is one."""
    config = runner.model.config
    vocabulary = min(config.text.vocab_size, 1_000)
    ids = [(7 * position) % vocabulary for position in range(count)]
    if picture is None or config.vision is None:
        return Prompt(tuple(ids))
    patch = config.vision.patch_size
    width, height = picture.resized
    pixels = torch.zeros(picture.patches, config.vision.patch_values)
    patches = Patches(pixels, (1, height // patch, width // patch), picture.tokens, (width, height))
    ids = [config.image_token_id] * picture.tokens + ids
    return Prompt(tuple(ids), (patches,))


def _work(
    runner: Runner, prompt: Prompt, drafts: int, ahead: Ahead | None, sampler: Sampler
) -> None:
    """A prompt, and some steps behind it: on the device, where it draws by itself."""
    if ahead is not None:
        for _ in run_ahead(runner, ahead, prompt, sampler, stop=frozenset(), max_tokens=STEPS):
            pass
        return
    for _ in runner.prefill(prompt):
        pass
    for _ in range(STEPS):
        if runner.length + drafts + 1 > runner.capacity:
            return
        if drafts:
            runner.look_ahead(1, drafts)
            runner.keep(1)
        else:
            runner.step(1)
