"""Every flag, spelled once: names, variable, panel, help."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from qwen35cli.checkpoint.pinned import DEFAULT_REPO

from . import complete, config, values
from .flags import Group, flag, switch

DEFAULT_MODEL = DEFAULT_REPO
OF_PRESET = "the preset's"
OTHER_DEVICE = ({"device": "cpu", "kernels": "triton"},)
PRESETS = ("general", "coding", "reasoning")  # of the model card; files may define more


def known_preset(context: typer.Context, name: str) -> str:
    """Check the name of a preset: one of the model card, or of a file of settings."""
    known = dict.fromkeys((*PRESETS, *config.presets(context)))
    if name not in known and not context.resilient_parsing:
        raise typer.BadParameter(f"{name!r} is not one of {', '.join(known)}")
    return name


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
PlannedQuant = Annotated[
    Literal["bf16", "int8", "int4", "nf4"] | None,
    flag("Model", "Weights to run.", "--quant", default="int4; bf16 below 1 GiB"),
]
Kernels = Annotated[
    Literal["cpu", "triton", "reference"] | None,
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
        parser=values.image_tokens,
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
        parser=values.drafts,
    ),
]
GroupSize = Annotated[
    int | None,
    flag(
        "Weights",
        "Weights that share a scale: 32, 64 or 128.",
        "--group",
        metavar="N",
        parser=values.group,
        default="32, for nf4 64",
    ),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class InputFlags(Group):
    """What is said to the model."""

    exclusive = (("prompt", "prompt_flag"),)

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

    exclusive = (("go_on", "session"), ("no_save", "go_on"), ("no_save", "session"))

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

    clashes = OTHER_DEVICE

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
            parser=values.tokens,
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
            parser=values.NUMBERS["temp"].read,
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
            parser=values.NUMBERS["top_p"].read,
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
            parser=values.NUMBERS["top_k"].read,
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
            parser=values.NUMBERS["min_p"].read,
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
            parser=values.NUMBERS["presence_penalty"].read,
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
            parser=values.NUMBERS["repetition_penalty"].read,
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
            parser=values.NUMBERS["seed"].read,
            default="drawn, and reported",
        ),
    ] = None
    max_tokens: Annotated[
        int,
        flag(
            "Sampling", "Most tokens of answer.", "--max-tokens", metavar="N", parser=values.tokens
        ),
    ] = 32768
    presets: Mapping[str, config.Preset] = dataclasses.field(
        default_factory=dict
    )  # those of the files


@dataclass(frozen=True, slots=True, kw_only=True)
class ThinkingFlags(Group):
    """Whether the model thinks before it answers, and whether that is seen."""

    clashes = ({"think": True, "think_budget": 0},)

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
            parser=values.budget,
        ),
    ] = 4096
    answer_reserve: Annotated[
        int | None,
        flag(
            "Thinking",
            "Tokens of the context that thinking leaves to the answer.",
            "--answer-reserve",
            metavar="N",
            parser=values.tokens,
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
class OutputFlags(Group):
    """Where the answer goes and in what form. Everything but the answer goes to stderr."""

    exclusive = (("json", "stream_json"),)

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


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizeFlags(Group):
    """What `quantize` makes, and where."""

    clashes = tuple({"format": "int8", "group": int(group)} for group in values.GROUPS)

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

    quant: PlannedQuant = None
    revision: Revision = None
    json: Annotated[bool, switch("Output", "One JSON object at the end.", "--json")] = False


@dataclass(frozen=True, slots=True, kw_only=True)
class VramFlags(Group):
    """What `vram` estimates, and what it is held against."""

    exclusive = (("model", "model_flag"),)
    clashes = tuple(
        {"quant": quant, "group": int(group)}
        for quant in ("bf16", "int8")
        for group in values.GROUPS
    )

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
    quant: PlannedQuant = None
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
            parser=values.contexts,
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
            parser=values.pictures,
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
            parser=values.tokens,
            default="2048; 512 on a CPU",
        ),
    ] = None
    batch: Annotated[
        int,
        flag(
            "Model",
            "Sequences at the same time, 4,096 at most.",
            "--batch",
            metavar="N",
            parser=values.Number(1, 4096, whole=True).read,
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
