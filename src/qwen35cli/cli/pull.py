"""`qwen35 pull`: a checkpoint from the Hub, resumed where it was left, every byte proved."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from . import fetching, settings
from .flags import Group, flag, grouped, switch
from .options import DEFAULT_MODEL, Offline, model_argument
from .terminal import Terminal
from .words import size

if TYPE_CHECKING:
    from qwen35cli.app.pull_job import Job

Model = Annotated[str, model_argument("A Hub id, owner/name.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class PullFlags(Group):
    """What is downloaded, and what is made of it."""

    revision: Annotated[
        str | None,
        flag(
            "Model",
            "Commit or branch.",
            "--revision",
            metavar="REV",
            default="for Qwen/Qwen3.5-4B the commit this program was made with, otherwise main",
        ),
    ] = None
    quant: Annotated[
        Literal["bf16", "int8", "int4", "nf4"] | None,
        flag(
            "Model",
            "Make these weights of it too, and print their folder.",
            "--quant",
            default="none; room is left for int4",
        ),
    ] = None
    offline: Offline = False
    yes: Annotated[
        bool,
        switch("Model", "Do not ask before a token goes to a host of HF_ENDPOINT.", "--yes", "-y"),
    ] = False
    dry_run: Annotated[
        bool, switch("Output", "Print files and sizes; download nothing.", "--dry-run")
    ] = False


@grouped
def pull(context: typer.Context, model: Model = DEFAULT_MODEL, *, flags: PullFlags) -> None:
    """Download a model and prove each file's hash.

    It goes into the cache that Hugging Face's programs share. The same command goes on where one
    was stopped: files come by plain HTTP, never by Xet. The last line of stdout is the folder,
    alone.

    Examples:
      qwen35 pull
      qwen35 pull --dry-run
      qwen35 pull --quant int4
      qwen35 pull Qwen/Qwen3.5-9B --revision main
    """
    terminal: Terminal = context.obj
    terminal.status("starting …")
    from qwen35cli.app import pull as use_case  # late: not for --help
    from qwen35cli.app.source import is_hub_id, local_folder, resolve

    if not is_hub_id(model) or local_folder(model) is not None:
        source = resolve(model, flags.revision)
        terminal.say(f"{source.name} is on this machine")
    else:
        fetching.warn_of_token(flags.offline, terminal, ask=not flags.yes)
        options = use_case.PullOptions(
            model=model,
            revision=flags.revision,
            offline=flags.offline,
            quant=flags.quant,
            store=settings.data_folder(),
        )
        job = fetching.prepared(options, terminal)
        if flags.dry_run:
            _table(job, terminal)
            job.check_room()
            for room in job.rooms():
                terminal.say(f"it needs {room}")
            return
        fetching.carry_out(job, terminal)
        source = resolve(model, job.commit)
    folder = source.folder
    if flags.quant not in (None, "bf16") and not flags.dry_run:
        folder = _quantized(source.name, source.revision, flags.quant, terminal)
    terminal.write_path(folder)


def _table(job: "Job", terminal: Terminal) -> None:
    """What `--dry-run` prints."""
    from rich.table import Table  # late: not for --help

    table = Table(box=None, pad_edge=False)
    table.add_column("file", overflow="fold")
    table.add_column("bytes", justify="right", no_wrap=True)
    table.add_column("state", no_wrap=True)
    for file in job.files:
        part = job.part_bytes(file)
        if job.is_verified(file):
            state = "verified"
        elif job.present(file) is not None:
            state = "here, to verify"
        else:
            state = f"{size(part)} here" if part else "to download"
        table.add_row(file.name, f"{file.size:,}", state)
    table.add_row("all", f"{job.nbytes:,}", f"{size(job.download_bytes)} to download")
    terminal.show(table)


def _quantized(name: str, revision: str | None, format: Any, terminal: Terminal) -> Path:
    """The folder of weights that are made of the download."""
    from qwen35cli.app import quantize  # late: it imports torch

    from . import making

    options = quantize.QuantizeOptions(
        model=name, revision=revision, format=format, store=settings.data_folder()
    )
    job = quantize.prepare(options)
    making.once(job, terminal)
    return job.target
