"""What `ask` and `chat` do before the first answer: flags to options, model, question."""

import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from qwen35cli.app import clipboard, foresee
from qwen35cli.app import load as loading
from qwen35cli.app import warm_up as warming
from qwen35cli.app.conversation import Conversation
from qwen35cli.app.device import choose_device
from qwen35cli.app.estimate import size
from qwen35cli.app.keeping import Keeper
from qwen35cli.app.load import Drafting, Loaded, LoadOptions, Opened
from qwen35cli.app.question import Question, load_pictures, text_parts
from qwen35cli.app.sessions import Store
from qwen35cli.app.source import Source
from qwen35cli.app.states import States
from qwen35cli.app.turn import Result
from qwen35cli.checkpoint.hub import NotInCache
from qwen35cli.errors import Qwen35Error, UsageError
from qwen35cli.kernels.cpu import TORCH_ONLY

from . import first_run, making, settings, stdin
from .options import Flags, InputFlags, SessionFlags
from .terminal import Terminal
from .values import RoundCount

LARGE_BYTES = 2**30  # loading more than this is worth a line in a log
SOON = 0.05  # seconds of warming up that are worth one under -v


def open_model(flags: Flags, terminal: Terminal, *, pictures: bool = True) -> Opened:
    """The checkpoint that the flags name, checked but not loaded; downloaded and quantized first
    where need be.

    Without `pictures` none will come.
    """
    model = flags.model
    wanted = LoadOptions(
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
    )
    make = making.maker(terminal, yes=model.yes)
    try:
        opened = loading.open_model(wanted, make)
    except NotInCache as missing:
        first_run.refuse(missing, flags, terminal)
        device = choose_device(model.device, Source(model.model, Path(), None))  # before, not after
        first_run.download(missing, flags, terminal, partial(foresee.check_fit, wanted, device))
        opened = loading.open_model(wanted, make)
    if opened.kernels.description == TORCH_ONLY:
        terminal.warn(
            "the C++ kernels were not built when qwen35 was installed: torch's own ops run, slower",
            "install a C++ compiler, then: pip install --force-reinstall --no-deps qwen35cli",
        )
    return opened


def drafting(flag: str) -> Drafting:
    """`--mtp` as the loader takes it."""
    return int(flag) if flag.isdigit() else "auto" if flag == "auto" else "off"


def begin(opened: Opened, flags: Flags, tools: Sequence[Mapping[str, object]] = ()) -> Conversation:
    """A conversation in the mode that the flags or the checkpoint choose."""
    think = flags.thinking.think
    thinks = opened.thinks_by_default if think is None else think
    return Conversation(
        opened,
        system=flags.input.system,
        thinking=thinks and flags.thinking.think_budget != 0,
        keep_thinking=flags.session.keep_thinking,
        tools=tools,
    )


def keeper(opened: Opened, flags: SessionFlags) -> Keeper:
    """What saves the conversation, and finds what was saved."""
    if flags.no_save:
        for given, name in ((flags.go_on, "-c"), (flags.session, "--session")):
            if given:
                raise UsageError(f"{name} needs what -n does not save", "leave one out")
        return Keeper(None, None, opened)
    store = Store(settings.data_folder() / "sessions")
    return Keeper(store, States(settings.cache_folder() / "states", opened), opened)


def resume(keeper: Keeper, conversation: Conversation, flags: Flags) -> Question | None:
    """Go on with the session that the flags name, or begin one; its unanswered question."""
    given = flags.session
    if given.go_on and given.session:
        raise UsageError("-c and --session exclude each other", "leave one out")
    name = "last" if given.go_on else given.session
    if name is None or not (given.go_on or keeper.knows(name)):
        keeper.begin(conversation, name)
        return None
    unanswered = keeper.resume(conversation, name)
    if flags.input.system is not None and flags.input.system != conversation.system:
        conversation.replace_system(flags.input.system)
    return unanswered


def keep(keeper: Keeper, loaded: Loaded, result: Result, terminal: Terminal) -> None:
    """Save what was read for a question; the answer is out, so that a full disk is a warning."""
    try:
        if keeper.session is not None:
            keeper.leave(loaded.memory)
        elif nbytes := keeper.keep_prompt(loaded.memory, result.new_tokens):
            terminal.detail(f"saved {size(nbytes)} of state for other questions about it")
    except Qwen35Error as error:
        terminal.warn(error.message, error.hint)


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
    opened: Opened,
    prompt: str | None,
    flags: InputFlags,
    terminal: Terminal,
    piped: bytes | None = None,
) -> Question | None:
    """Pictures, files, stdin and prompt as one message; None where that is empty.

    `piped` was read from stdin before.

    Raises:
        UsageError: a part is missing or cannot be read.
    """
    if prompt is not None and flags.prompt_flag is not None:
        raise UsageError("the prompt is given twice, as argument and as -p", "leave one out")
    if piped is None and stdin.is_piped():
        piped = stdin.read()
    names = flags.image or []
    if names.count("-") > 1:
        raise UsageError("stdin holds one picture, -i - is given twice", "-i FILE")
    if "-" in names and not piped:
        raise UsageError("-i - takes a picture from stdin, and nothing is piped in", "-i FILE")
    said = prompt if flags.prompt_flag is None else flags.prompt_flag
    texts = text_parts(
        flags.file or [],
        None if "-" in names else piped,
        None if said == "-" else said,
    )
    given = {"-": piped} if piped else {}
    if "clipboard" in names:
        given["clipboard"] = clipboard.read_picture(settings.environment())
    pictures = load_pictures(opened, names, given)
    for number, picture in enumerate(pictures, 1):
        terminal.say(f"image {number}: {picture}")
    asked = Question((*pictures, *texts))
    return asked if asked.text.strip() or pictures else None
