"""Every flag, spelled once: names, variable, panel, help. Commands take them in groups."""

import dataclasses
import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import Field, dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal, TypeGuard, get_origin

import typer

from qwen35cli.checkpoint.pinned import DEFAULT_REPO

from . import complete, config
from .variables import PREFIX, strays

DEFAULT_MODEL = DEFAULT_REPO
UNITS = {"k": 2**10, "m": 2**20}
OF_PRESET = "the preset's"
PRESETS = ("general", "coding", "reasoning")  # of the model card; files may define more


class RoundCount(int):
    """A token count that was written in k or M, and so stands for about as many."""


def tokens(text: str | int) -> int:
    """Read a token count: `8192`, `8_192`, `32k`, `25.6K`, `1M`; the last three as `RoundCount`."""
    if isinstance(text, int) and text > 0:
        return text
    number = str(text).strip().replace("_", "").replace(",", "").lower()
    known = re.fullmatch(r"(\d{1,12}|\d{1,9}(?:\.\d+)?(?=[km]))([km]?)", number)
    count = int(float(known[1]) * UNITS.get(known[2], 1)) if known else 0
    if not count:
        raise typer.BadParameter(f"{text!r} is not a token count such as 8192, 32k or 1M")
    return RoundCount(count) if known and known[2] else count


def image_tokens(text: str | int) -> int:
    """Read a token count, or `full` for the model's own limit, given as 0."""
    return 0 if text in ("full", 0) else tokens(text)


def budget(text: str | int) -> int:
    """Read a token count that may be 0, or `none` for no limit, given as -1."""
    if text in ("none", -1):
        return -1
    return 0 if text in ("0", 0) else tokens(text)


def contexts(text: str) -> tuple[int, ...]:
    """Read one token count or several, between commas: `8k,32k,256k`.

    `131,072` can only be one, `262,144` might be two.
    """
    if re.fullmatch(r"\d{1,3}(,\d{3})+", text.strip()):
        if re.search(r",0", text):
            return (tokens(text),)
        one, several = text.replace(",", ""), text.replace(",", ", ")
        raise typer.BadParameter(f"{text!r} is one count or several; write {one}, or '{several}'")
    return tuple(tokens(each) for each in text.strip(", ").split(","))


def pictures(text: str) -> tuple[tuple[int, int], ...]:
    """Read the size of a picture, or of several alike: `1920x1080`, `640x480x3`."""
    known = re.fullmatch(r"(\d{1,6})[x×](\d{1,6})(?:[x×](\d{1,4}))?", text.strip().lower())
    width, height, count = (int(part or 1) for part in known.groups()) if known else (0, 0, 0)
    if not width * height * count:
        raise typer.BadParameter(f"{text!r} is not WIDTHxHEIGHT or WIDTHxHEIGHTxCOUNT in pixels")
    return ((width, height),) * count


def drafts(text: str) -> str:
    """Check `auto`, `off` or a number of drafts; 0 is `off`."""
    if text in ("0", "off"):
        return "off"
    if text == "auto" or (text in "1234" and len(text) == 1):
        return text
    raise typer.BadParameter(f"{text} is not auto, off or a number from 1 to 4")


def known_preset(context: typer.Context, name: str) -> str:
    """Check the name of a preset: one of the model card, or of a file of settings."""
    known = dict.fromkeys((*PRESETS, *config.presets(context)))
    if name not in known and not context.resilient_parsing:
        raise typer.BadParameter(f"{name!r} is not one of {', '.join(known)}")
    return name


def flag(
    panel: str,
    help: str,
    *names: str,
    metavar: str | None = None,
    parser: Callable[[str], Any] | None = None,
    default: str | bool = True,
    check: Callable[[typer.Context, Any], Any] | None = None,
    complete: Callable[[str], list[tuple[str, str]]] | None = None,
) -> object:
    """An option with its environment variable, `QWEN35_` and the long name.

    `default` is what the help shows as the default: True for the value itself. `complete` tells a
    shell what may be typed.
    """
    long = next(name for name in names if name.startswith("--")).split("/")[0]
    return typer.Option(
        *names,
        envvar=PREFIX + long.removeprefix("--").replace("-", "_").upper(),
        rich_help_panel=panel,
        help=help,
        metavar=metavar,
        parser=parser,
        show_default=default,
        callback=check,
        autocompletion=complete,
    )


def switch(panel: str, help: str, *names: str, default: str | bool = True) -> object:
    """A flag that takes no value."""
    return flag(panel, help, *names, metavar="", default=default)


Prompt = Annotated[
    str | None,
    typer.Argument(
        help="What to say; `-` to take it from stdin alone.", metavar="PROMPT", show_default=False
    ),
]


def model_argument(help: str) -> Any:
    """The argument MODEL with its variable; `help` says what it may be."""
    return typer.Argument(
        help=help, envvar="QWEN35_MODEL", metavar="MODEL", autocompletion=complete.models
    )


Model = Annotated[str, model_argument("`demo`, a folder, or a Hub id.")]

Interactive = Annotated[
    bool,
    switch("Behaviour", "Talk on at the terminal about what is piped in.", "--interactive"),
]


# Flags of several commands.
Revision = Annotated[
    str | None,
    flag("Model", "Commit or branch of a Hub id.", "--revision", metavar="REV"),
]
Offline = Annotated[
    bool, switch("Model", "Never use the network; what is not here is an error.", "--offline")
]
Device = Annotated[
    Literal["auto", "cpu", "cuda"],
    flag("Model", "Where to run; auto is the GPU, for the demo the CPU.", "--device"),
]
Quant = Annotated[
    Literal["bf16", "int8", "int4", "nf4"] | None,
    flag(
        "Model",
        "Weights to run; made from the bf16 ones once, and kept.",
        "--quant",
        default="int4; bf16 for checkpoints below 1 GiB",
    ),
]
Kernels = Annotated[
    str | None,
    flag(
        "Model",
        "Kernels to run: `cpu`, `triton` for a GPU, or `reference`, plain torch on any.",
        "--kernels",
        metavar="NAME",
        default="those of the device",
    ),
]
ImageMaxTokens = Annotated[
    int,
    flag(
        "Input",
        "Most tokens for one picture, or `full` for the model's own limit.",
        "--image-max-tokens",
        metavar="N",
        parser=image_tokens,
    ),
]
KVDtype = Annotated[
    Literal["bf16", "int8"],
    flag("Context", "Numbers of the KV cache; int8 halves it.", "--kv-dtype", "--kv"),
]
Drafts = Annotated[
    str,
    flag(
        "Model",
        "Tokens to draft ahead by the model's MTP layer: auto, off or 1 to 4.",
        "--mtp",
        metavar="auto|off|N",
        parser=drafts,
    ),
]
GroupSize = Annotated[
    int | None,
    flag(
        "Weights",
        "Weights that share a scale: 32, 64 or 128.",
        "--group",
        metavar="N",
        default="32, for nf4 64",
    ),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """A set of flags that belong together; its fields are options, or groups again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InputFlags(Group):
    """What is said to the model."""

    prompt_flag: Annotated[
        str | None,
        flag("Input", "The prompt, as a flag.", "--prompt", "-p", metavar="TEXT"),
    ] = None
    system: Annotated[
        str | None,
        flag("Input", "System prompt.", "--system", "-s", metavar="TEXT"),
    ] = None
    file: Annotated[
        list[str] | None,
        flag(
            "Input", "Text file to read before the prompt; repeats.", "--file", "-f", metavar="PATH"
        ),
    ] = None
    image: Annotated[
        list[str] | None,
        flag(
            "Input",
            "Picture; repeats; `-` takes its bytes from stdin.",
            "--image",
            "-i",
            metavar="PATH",
        ),
    ] = None
    image_max_tokens: ImageMaxTokens = 2048
    no_input: Annotated[
        bool, switch("Behaviour", "Never ask and never wait for typing.", "--no-input")
    ] = False
    dry_run: Annotated[
        bool,
        switch("Input", "Show the prompt, its tokens and whether it fits; no answer.", "--dry-run"),
    ] = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionFlags(Group):
    """What is remembered from one call to the next."""

    go_on: Annotated[
        bool, switch("Context", "Go on with the conversation used last.", "--continue", "-c")
    ] = False
    session: Annotated[
        str | None,
        flag(
            "Context",
            "Go on with the conversation of this name, or begin it.",
            "--session",
            metavar="NAME",
            complete=complete.sessions,
        ),
    ] = None
    no_save: Annotated[
        bool, switch("Context", "Save nothing, and use nothing saved.", "--no-save", "-n")
    ] = False
    keep_thinking: Annotated[
        bool,
        switch(
            "Context",
            "Leave earlier thinking in the context, as no template does.",
            "--keep-thinking",
        ),
    ] = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFlags(Group):
    """Which weights run, and on what."""

    model: Annotated[
        str,
        flag(
            "Model",
            "`demo`, a folder, or a Hub id.",
            "--model",
            "-m",
            metavar="NAME",
            complete=complete.models,
        ),
    ] = DEFAULT_MODEL
    revision: Revision = None
    offline: Offline = False
    device: Device = "auto"
    quant: Quant = None
    yes: Annotated[
        bool,
        switch(
            "Model",
            "Download without asking; that and long quantizing also without a terminal.",
            "--yes",
            "-y",
        ),
    ] = False
    kernels: Kernels = None
    ctx: Annotated[
        int | None,
        flag(
            "Context",
            "Tokens to make room for, such as 32k.",
            "--ctx",
            metavar="N",
            parser=tokens,
            default="131,072 or what fits",
        ),
    ] = None
    kv_dtype: KVDtype = "bf16"
    mtp: Drafts = "auto"


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingFlags(Group):
    """How tokens are drawn. The preset's row for the mode holds where a flag is not given."""

    preset: Annotated[
        str,
        flag(
            "Sampling",
            "Row of the model card: general, coding or reasoning; or one of your settings.",
            "--preset",
            metavar="NAME",
            check=known_preset,
            complete=complete.presets,
        ),
    ] = "general"
    temp: Annotated[
        float | None,
        flag(
            "Sampling",
            "Temperature; 0 always takes the likeliest token.",
            "--temp",
            metavar="X",
            default=OF_PRESET,
        ),
    ] = None
    top_p: Annotated[
        float | None,
        flag(
            "Sampling",
            "Keep the likeliest tokens up to this share.",
            "--top-p",
            metavar="X",
            default=OF_PRESET,
        ),
    ] = None
    top_k: Annotated[
        int | None,
        flag(
            "Sampling",
            "Keep this many tokens; 0 keeps all.",
            "--top-k",
            metavar="N",
            default=OF_PRESET,
        ),
    ] = None
    min_p: Annotated[
        float | None,
        flag(
            "Sampling",
            "Drop tokens below this share of the best.",
            "--min-p",
            metavar="X",
            default=OF_PRESET,
        ),
    ] = None
    presence_penalty: Annotated[
        float | None,
        flag(
            "Sampling",
            "Against tokens already generated.",
            "--presence-penalty",
            metavar="X",
            default=OF_PRESET,
        ),
    ] = None
    repetition_penalty: Annotated[
        float | None,
        flag(
            "Sampling",
            "The same as a factor; 1 is off.",
            "--repetition-penalty",
            metavar="X",
            default=OF_PRESET,
        ),
    ] = None
    seed: Annotated[
        int | None,
        flag(
            "Sampling",
            "Same seed, same text.",
            "--seed",
            metavar="N",
            default="drawn, and reported",
        ),
    ] = None
    max_tokens: Annotated[
        int,
        flag("Sampling", "Most tokens of answer.", "--max-tokens", metavar="N", parser=tokens),
    ] = 32768
    presets: Mapping[str, config.Preset] = dataclasses.field(
        default_factory=dict
    )  # those of the files


@dataclass(frozen=True, slots=True, kw_only=True)
class ThinkingFlags(Group):
    """Whether the model thinks before it answers, and whether that is seen."""

    think: Annotated[
        bool | None,
        switch(
            "Thinking",
            "Think before answering.",
            "--think/--no-think",
            default="as the model was made",
        ),
    ] = None
    think_budget: Annotated[
        int,
        flag(
            "Thinking",
            "Most tokens of thinking; 0 is --no-think, `none` no limit.",
            "--think-budget",
            metavar="N",
            parser=budget,
        ),
    ] = 4096
    answer_reserve: Annotated[
        int | None,
        flag(
            "Thinking",
            "Tokens of the context that thinking leaves to the answer.",
            "--answer-reserve",
            metavar="N",
            parser=tokens,
            default="1,024, or a quarter of a small context",
        ),
    ] = None
    no_loop_guard: Annotated[
        bool,
        switch("Thinking", "Let thinking and answers repeat themselves.", "--no-loop-guard"),
    ] = False
    hide_thinking: Annotated[
        bool, switch("Thinking", "Do not show the thinking.", "--hide-thinking")
    ] = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ScreenFlags(Group):
    """How much is said on stderr, and in which colours."""

    color: Annotated[
        Literal["auto", "always", "never"], flag("Output", "Colour on a terminal.", "--color")
    ] = "auto"
    no_color: Annotated[bool, switch("Output", "The same as --color never.", "--no-color")] = False
    verbose: Annotated[
        bool, switch("Output", "Say what was chosen and why.", "--verbose", "-v")
    ] = False
    quiet: Annotated[bool, switch("Output", "Errors only.", "--quiet", "-q")] = False


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputFlags(Group):
    """Where the answer goes and in what form. Everything but the answer goes to stderr."""

    output: Annotated[
        Path | None,
        flag("Output", "Write the answer to FILE.", "--output", "-o", metavar="FILE"),
    ] = None
    json: Annotated[bool, switch("Output", "One JSON object at the end.", "--json")] = False
    stream_json: Annotated[
        bool, switch("Output", "JSON lines as they come, the object last.", "--stream-json")
    ] = False
    schema: Annotated[
        str | None,
        flag(
            "Output",
            "Hold the answer to a JSON schema: text, a file, or `name, age int`.",
            "--schema",
            metavar="SCHEMA",
        ),
    ] = None
    tools: Annotated[
        Path | None,
        flag(
            "Output",
            "JSON file with functions the model may call; calls are in --json.",
            "--tools",
            metavar="FILE",
        ),
    ] = None
    no_stream: Annotated[bool, switch("Output", "The answer in one piece.", "--no-stream")] = False
    no_markdown: Annotated[
        bool, switch("Output", "Show the text as the model writes it.", "--no-markdown")
    ] = False
    raw: Annotated[
        bool, switch("Output", "Keep control characters (pipe or file only).", "--raw")
    ] = False
    stats: Annotated[bool, switch("Output", "Tokens and speed after the answer.", "--stats")] = (
        False
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Flags(Group):
    """All that `ask` and `chat` take."""

    input: InputFlags
    model: ModelFlags
    session: SessionFlags
    sampling: SamplingFlags
    thinking: ThinkingFlags
    output: OutputFlags
    screen: ScreenFlags


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizeFlags(Group):
    """What `quantize` makes, and where."""

    format: Annotated[
        Literal["int4", "int8", "nf4"],
        flag("Weights", "int4 is fastest; int8 loses nothing that shows.", "--format"),
    ] = "int4"
    group: GroupSize = None
    plan_file: Annotated[
        Path | None,
        flag(
            "Weights",
            "TOML file whose table [tensors] gives schemes to tensors, before the recipe.",
            "--plan-file",
            metavar="FILE",
        ),
    ] = None
    revision: Revision = None
    output: Annotated[
        Path | None,
        flag(
            "Output",
            "Folder to write.",
            "--output",
            "-o",
            metavar="DIR",
            default="where ask and chat look for it",
        ),
    ] = None
    plan: Annotated[
        bool, switch("Output", "Print which tensors get which scheme; write nothing.", "--plan")
    ] = False
    dry_run: Annotated[bool, switch("Output", "Print the sizes; write nothing.", "--dry-run")] = (
        False
    )
    force: Annotated[
        bool, switch("Output", "Make it again where it is there already.", "--force")
    ] = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TuneFlags(Group):
    """What `tune` measures, and how it is told."""

    quant: Annotated[
        Literal["bf16", "int8", "int4", "nf4"] | None,
        flag("Model", "Weights to run.", "--quant", default="int4; bf16 below 1 GiB"),
    ] = None
    revision: Revision = None
    json: Annotated[bool, switch("Output", "One JSON object at the end.", "--json")] = False


@dataclass(frozen=True, slots=True, kw_only=True)
class VramFlags(Group):
    """What `vram` estimates, and what it is held against."""

    model_flag: Annotated[
        str | None,
        flag(
            "Model",
            "The model, as a flag.",
            "--model",
            "-m",
            metavar="NAME",
            complete=complete.models,
        ),
    ] = None
    revision: Revision = None
    quant: Annotated[
        Literal["bf16", "int8", "int4", "nf4"] | None,
        flag("Model", "Weights to run.", "--quant", default="int4; bf16 below 1 GiB"),
    ] = None
    group: GroupSize = None
    vision: Annotated[
        bool, switch("Model", "Load the vision tower.", "--vision/--no-vision", default=False)
    ] = True
    mtp: Drafts = "off"
    ctx: Annotated[
        list[Any] | None,
        flag(
            "Context",
            "Tokens to make room for, such as 32k; several between commas.",
            "--ctx",
            metavar="N,…",
            parser=contexts,
            default="131,072",
        ),
    ] = None
    kv_dtype: KVDtype = "bf16"
    images: Annotated[
        list[Any] | None,
        flag(
            "Input",
            "Pictures of this size in pixels, xN of them; repeats.",
            "--images",
            metavar="WxH[xN]",
            parser=pictures,
        ),
    ] = None
    image_max_tokens: ImageMaxTokens = 2048
    chunk: Annotated[
        int | None,
        flag(
            "Model",
            "Tokens of a prompt read at once.",
            "--chunk",
            metavar="N",
            parser=tokens,
            default="2048; 512 on a CPU",
        ),
    ] = None
    batch: Annotated[
        int,
        typer.Option(
            "--batch",
            envvar="QWEN35_BATCH",
            rich_help_panel="Model",
            help="Sequences at the same time, 4,096 at most.",
            metavar="N",
            min=1,
            max=4096,
        ),
    ] = 1
    gpu: Annotated[
        str | None,
        flag(
            "Held against",
            "A card's name, a size such as 24GiB, `auto` for the GPU that is here, or `cpu`.",
            "--gpu",
            metavar="NAME",
            default="the GPU that is here, if one is",
        ),
    ] = None
    display: Annotated[
        bool, switch("Held against", "A desktop runs on the card and takes 1.1 GiB.", "--display")
    ] = False
    compare: Annotated[
        bool, switch("Answer", "All formats and KV types, side by side.", "--compare")
    ] = False
    explain: Annotated[
        bool, switch("Answer", "The formulas, with the numbers in them.", "--explain")
    ] = False
    plot: Annotated[
        Path | None,
        flag(
            "Answer",
            "Draw memory against context into FILE, .png or .svg.",
            "--plot",
            metavar="FILE",
        ),
    ] = None
    measure: Annotated[
        bool,
        switch("Answer", "Load the model here and compare with what it takes.", "--measure"),
    ] = False
    json: Annotated[bool, switch("Answer", "One JSON object for each context.", "--json")] = False


CONFIG = inspect.Parameter(
    "config",
    inspect.Parameter.KEYWORD_ONLY,
    default=None,
    annotation=Annotated[
        Path | None,
        typer.Option(
            "--config",
            envvar="QWEN35_CONFIG",
            metavar="FILE",
            is_eager=True,  # what it holds lies under the flags that are read next
            expose_value=False,
            callback=config.read,
            help="File of settings to read in place of your own; /dev/null is none.",
        ),
    ],
)


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """Spread every parameter that is a group into its flags, as Typer wants to see them.

    What is not given on the command line or by a variable comes from the files of settings.
    """
    signature = inspect.signature(command)
    plain: list[inspect.Parameter] = []
    groups: dict[str, type[Group]] = {}
    for name, parameter in signature.parameters.items():
        if _is_group(parameter.annotation):
            groups[name] = parameter.annotation
        else:
            plain.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))

    def flat(**values: Any) -> None:
        given = {parameter.name: values[parameter.name] for parameter in plain}
        context: typer.Context = values["context"]
        values["presets"] = config.presets(context)
        if context.obj and context.info_name != "doctor":  # which reports them itself
            if files := values.get("verbose") and config.read_files(context):
                context.obj.say(f"settings of {', '.join(map(str, files))}")
            for message, hint in () if values.get("quiet") else strays(context):
                context.obj.warn(message, hint)
        command(**given, **{name: _build(group, values) for name, group in groups.items()})

    spread = [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=field.default,
            annotation=field.type,
        )
        for group in groups.values()
        for field in _flags(group)
    ]
    parameters = [*plain, CONFIG, *spread]
    flat.__name__, flat.__doc__ = command.__name__, command.__doc__
    flat.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    flat.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return flat


def _is_group(kind: object) -> TypeGuard[type[Group]]:
    return isinstance(kind, type) and issubclass(kind, Group)


def _flags(group: type[Group]) -> Iterator[Field[Any]]:
    for field in fields(group):
        if _is_group(field.type):
            yield from _flags(field.type)
        elif get_origin(field.type) is Annotated:
            yield field


def _build(group: type[Group], values: Mapping[str, object]) -> Group:
    return group(
        **{
            field.name: _build(field.type, values) if _is_group(field.type) else values[field.name]
            for field in fields(group)
        }
    )
