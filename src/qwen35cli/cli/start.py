"""What `ask` and `chat` do before the first answer: flags to options, model, question."""

import secrets
import time

from qwen35cli.app import load as loading
from qwen35cli.app import warm_up as warming
from qwen35cli.app.conversation import Conversation
from qwen35cli.app.load import Drafting, Loaded, LoadOptions, Opened
from qwen35cli.app.question import Question, join_texts, load_pictures
from qwen35cli.engine.sampling import Sampling, choose
from qwen35cli.errors import UsageError
from qwen35cli.kernels.cpu import TORCH_ONLY

from . import making, settings, stdin
from .options import Flags, InputFlags, RoundCount, SamplingFlags
from .terminal import Terminal

LARGE_BYTES = 2**30  # loading more than this is worth a line in a log
SOON = 0.05  # seconds of warming up that are worth one under -v


def open_model(flags: Flags, terminal: Terminal, *, pictures: bool = True) -> Opened:
    """The checkpoint that the flags name, checked but not loaded; quantized first where need be.

    Without `pictures` none will come.
    """
    model = flags.model
    opened = loading.open_model(
        LoadOptions(
            model=model.model,
            revision=model.revision,
            device=model.device,
            kernels=model.kernels,
            ctx=model.ctx,
            ctx_is_round=isinstance(model.ctx, RoundCount),
            kv_dtype=model.kv_dtype,
            image_max_tokens=flags.input.image_max_tokens or None,
            quant=model.quant or "auto",
            store=settings.data_folder(),
            cache=settings.cache_folder(),
            mtp=drafting(model.mtp),
            pictures=pictures,
        ),
        making.maker(terminal, yes=model.yes),
    )
    if opened.kernels.description == TORCH_ONLY:
        terminal.warn(
            "the C++ kernels were not built when qwen35 was installed: torch's own ops run, slower",
            "install a C++ compiler, then: pip install --force-reinstall --no-deps qwen35cli",
        )
    return opened


def drafting(flag: str) -> Drafting:
    """`--mtp` as the loader takes it."""
    return int(flag) if flag.isdigit() else "auto" if flag == "auto" else "off"


def begin(opened: Opened, flags: Flags) -> Conversation:
    """A conversation in the mode that the flags or the checkpoint choose."""
    think = flags.thinking.think
    return Conversation(
        opened,
        system=flags.input.system,
        thinking=opened.thinks_by_default if think is None else think,
    )


def load(opened: Opened, terminal: Terminal, *, pictures: bool = True) -> Loaded:
    """Read the weights; long work is announced, on a terminal and in a log."""
    what = f"loading {opened.source.name} {opened.checkpoint.format}"
    if opened.checkpoint.nbytes > LARGE_BYTES:
        what += f", {opened.checkpoint.nbytes / 1e9:.1f} GB"
        if not terminal.err_is_terminal:
            terminal.say(what)
    terminal.status(f"{what} …")
    loaded = loading.load(opened, pictures=pictures)
    terminal.detail(f"loaded in {loaded.load_s:.1f} s")
    if (reason := loaded.runner.op_by_op) is not None:
        terminal.warn(
            f"the fused kernels do not take this model, {reason}: it is decoded op by op, slower",
            "--quant int4, of the bf16 checkpoint" if opened.checkpoint.format == "nf4" else "",
        )
    warm_up(loaded, terminal)
    return loaded


def warm_up(loaded: Loaded, terminal: Terminal) -> None:
    """Have everything compiled that an answer needs; where that takes long it is said first."""
    what = "compiling GPU kernels for this model, once"
    start, compiles = time.perf_counter(), False
    for progress in warming.run(loaded):
        if not progress.compiles:
            continue
        if not compiles and not terminal.err_is_terminal:
            terminal.say(f"{what}: about a minute")
        compiles = True
        seconds = time.perf_counter() - start
        terminal.status(f"{what}: about a minute {making.bar(progress.share, seconds)}")
    seconds = time.perf_counter() - start
    terminal.clear_status()
    if compiles:
        terminal.say(f"{what} … {seconds:.0f} s")
    elif seconds > SOON:
        terminal.detail(f"warmed up in {seconds:.1f} s")


def question(
    opened: Opened, prompt: str | None, flags: InputFlags, terminal: Terminal
) -> Question | None:
    """Pictures, files, stdin and prompt as one message; None where that is empty.

    Raises:
        UsageError: a part is missing or cannot be read.
    """
    if prompt is not None and flags.prompt_flag is not None:
        raise UsageError("the prompt is given twice, as argument and as -p", "leave one out")
    piped = stdin.read() if stdin.is_piped() else None
    names = flags.image or []
    if names.count("-") > 1:
        raise UsageError("stdin holds one picture, -i - is given twice", "-i FILE")
    if "-" in names and not piped:
        raise UsageError("-i - takes a picture from stdin, and nothing is piped in", "-i FILE")
    said = prompt if flags.prompt_flag is None else flags.prompt_flag
    text = join_texts(
        flags.file or [],
        None if "-" in names else piped,
        None if said == "-" else said,
    )
    pictures = load_pictures(opened, names, piped)
    for number, picture in enumerate(pictures, 1):
        terminal.say(f"image {number}: {picture}")
    return Question(text, pictures) if text.strip() or pictures else None


def sampling(flags: SamplingFlags, *, thinking: bool) -> Sampling:
    """The preset's row for the mode, with what the flags change. Without a seed one is drawn."""
    values = {
        "temperature": flags.temp,
        "top_p": flags.top_p,
        "top_k": flags.top_k,
        "min_p": flags.min_p,
        "presence_penalty": flags.presence_penalty,
        "repetition_penalty": flags.repetition_penalty,
    }
    return choose(
        flags.preset,
        thinking=thinking,
        seed=secrets.randbelow(2**32) if flags.seed is None else flags.seed,
        given={name: value for name, value in values.items() if value is not None},
    )
