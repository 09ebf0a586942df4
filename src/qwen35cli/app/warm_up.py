"""What is done on a GPU between loading and the first question, so that no answer waits for it.

Kernels that Triton has not compiled yet are compiled, and the graphs of a conversation are made. A
mark beside the compiled kernels tells that those of a model are there.
"""

import hashlib
import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path

import torch

from qwen35cli import __version__
from qwen35cli.engine.runner import Prompt, Runner
from qwen35cli.engine.sampling import Sampler, Sampling
from qwen35cli.kernels.operands import FEW
from qwen35cli.kernels.triton import compile_errors, compiled_folder
from qwen35cli.model.sizes import COMMON

from .load import Loaded, memory_errors

ONCE = "qwen35-"  # begins the name of a mark


@dataclass(frozen=True, slots=True)
class Progress:
    """How much of the work is done; whether kernels are compiled in it, which takes long."""

    share: float
    compiles: bool


def run(loaded: Loaded) -> Iterator[Progress]:
    """Everything a conversation will need; nothing where no Triton kernels run on a GPU.

    Raises:
        DeviceError: Triton cannot build its link to the driver.
        DoesNotFitError: memory ran out.
    """
    opened, runner = loaded.opened, loaded.runner
    if opened.kernels.backend != "triton" or opened.device.type != "cuda":
        return
    mark = compiled_folder() / (ONCE + fingerprint(loaded))
    compiles = not mark.exists()
    work = [*([_compile, _read_prompt] if compiles else []), _make_graphs, _make_drawing]
    for number, step in enumerate(work):
        yield Progress(number / len(work), compiles)
        with torch.inference_mode(), compile_errors(), memory_errors("compiling GPU kernels"):
            step(loaded)
    torch.cuda.synchronize(opened.device)
    runner.reset()
    if compiles:
        with suppress(OSError):  # a folder that was filled elsewhere: it is said again next time
            mark.parent.mkdir(parents=True, exist_ok=True)
            mark.touch()
    yield Progress(1.0, compiles)


def fingerprint(loaded: Loaded) -> str:
    """Of all that decides which kernels are compiled."""
    from qwen35cli.kernels.triton.launches import Launches  # late, as below: it imports Triton

    opened = loaded.opened
    content = {
        "version": __version__,
        "torch": torch.__version__,
        "kernels": [_digest(path) for path in _sources()],
        "tuned": opened.tuned,
        "overlap": Launches.of(opened.device, opened.tuned).overlap,
        "shapes": asdict(opened.checkpoint.config.text),
        "schemes": sorted({str(scheme) for scheme in opened.checkpoint.schemes.values()}),
        "format": opened.checkpoint.format,
        "kv_dtype": opened.kv_dtype,
        "mtp": opened.mtp,
    }
    text = json.dumps(content, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def _sources() -> list[Path]:
    """The files of the kernels: a change of one compiles it again."""
    folder = Path(str(resources.files("qwen35cli.kernels.triton")))
    return sorted(path for path in folder.iterdir() if path.suffix in (".py", ".json"))


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _compile(loaded: Loaded) -> None:
    """What a prompt, steps and draws launch, on several cores; nothing of it runs. Of the rest each
    kernel is compiled where it is first wanted."""
    from qwen35cli.kernels.triton.kernel import compiled_ahead

    runner, mtp = loaded.runner, loaded.opened.mtp
    with compiled_ahead():
        _prefill(runner)
        if runner.stepper is not None:
            sampler = Sampler(Sampling(), loaded.opened.tokenizer.vocab_size)
            runner.stepper.launch(range(1, 2 + (mtp if isinstance(mtp, int) else 0)), sampler)
    runner.reset()


def _read_prompt(loaded: Loaded) -> None:
    """The kernels of a prompt, and of a step behind it, all launched once."""
    runner = loaded.runner
    _prefill(runner)
    if runner.length < runner.capacity:
        runner.look_ahead(0, 0)
        runner.keep(1)
    runner.reset()


def _prefill(runner: Runner) -> None:
    """Read as much at once as is ever read."""
    for _ in runner.prefill(Prompt((0,) * min(runner.chunk, runner.capacity))):
        pass


def _make_graphs(loaded: Loaded) -> None:
    """Of a step of one token; where drafts are fixed, of rounds of as many, behind rounds of which
    any number of tokens stayed, and of the fewer at the end of a budget."""
    runner, mtp = loaded.runner, loaded.opened.mtp
    if runner.stepper is not None:
        runner.stepper.reads.prepare(1)
    if not isinstance(mtp, int):
        return
    vocab_size = loaded.opened.tokenizer.vocab_size
    checks = runner.checks(Sampler(Sampling(), vocab_size))
    rare = COMMON if vocab_size > COMMON else 0  # its row is copied, and graphs know where to
    for _ in runner.prefill(Prompt((rare,))):
        pass
    rounds = [(mtp, stay) for stay in (*range(2, mtp + 2), 1)]
    for count, stay in [*rounds, *((fewer, 1) for fewer in range(1, mtp))]:
        if runner.length + FEW <= runner.capacity:
            runner.look_ahead(0, count, checks)
            runner.keep(stay)
    runner.reset()


def _make_drawing(loaded: Loaded) -> None:
    """Of a step that draws the next token, where nothing drafts."""
    if loaded.depth is None:
        loaded.runner.ahead(Sampler(Sampling(), loaded.opened.tokenizer.vocab_size))
