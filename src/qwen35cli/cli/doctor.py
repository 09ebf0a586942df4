"""`qwen35 doctor`: a report to paste, that ends with what is wrong and what mends it."""

import dataclasses
import inspect
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

import typer

from qwen35cli.errors import InterruptedByUser, UsageError
from qwen35cli.text.sanitize import sanitize

from . import config, config_file, settings
from .flags import Group, flag, grouped, switch
from .options import OTHER_DEVICE
from .terminal import Terminal
from .variables import variables

if TYPE_CHECKING:
    from qwen35cli.app.doctor import Finding, Report

OPENING = "Copy the text below into your bug report."
FENCE = "```"
REFUSED, NAMED = "doctor.refused", "doctor.named"  # in what the flags leave behind
WRONG = 1  # exit code where something is


@dataclass(frozen=True, slots=True, kw_only=True)
class DoctorFlags(Group):
    """What the report is about, and its form."""

    clashes = OTHER_DEVICE

    device: Annotated[
        Literal["auto", "cpu", "cuda"],
        flag("Model", "Whose kernels to test; auto is the GPU, or else the CPU.", "--device"),
    ] = "auto"
    kernels: Annotated[
        str | None,
        flag(
            "Model",
            "Kernels to test: `cpu`, `triton` for a GPU, or `reference`.",
            "--kernels",
            metavar="NAME",
            default="those of the device",
        ),
    ] = None
    json: Annotated[bool, switch("Output", "The report as one JSON object.", "--json")] = False


def forgiving(command: Callable[..., None]) -> Callable[..., None]:
    """The command, to which files of settings that cannot be read are a part of the report."""
    signature = inspect.signature(command)
    parameters = []
    for parameter in signature.parameters.values():
        if parameter.name == "config":
            kind, option = get_args(parameter.annotation)
            parameter = parameter.replace(annotation=Annotated[kind, _with_callback(option)])
        parameters.append(parameter)
    changed: Any = command
    changed.__signature__ = signature.replace(parameters=parameters)
    changed.__annotations__ = {each.name: each.annotation for each in parameters}
    return command


def _with_callback(option: Any) -> Any:
    other = typer.Option(*option.param_decls)
    other.__dict__.update(option.__dict__ | {"callback": _read})
    return other


def _read(context: typer.Context, named: Path | None) -> None:
    """Lay the files under the flags; where they are refused, remember why."""
    context.meta[NAMED] = named
    try:
        config.read(context, named)
    except UsageError as error:
        context.meta[REFUSED] = error


@forgiving
@grouped
def doctor(context: typer.Context, *, flags: DoctorFlags) -> None:
    """Look at this machine, and say what is wrong and what mends it.

    The report can be pasted: no tokens, no prompts, the home folder as ~.
    Exit code 0 where all is well, 1 where something is wrong.

    Examples:
      qwen35 doctor
      qwen35 doctor --device cpu
      qwen35 doctor --json | jq .problems
    """
    import platformdirs  # late, as all of this: not for --help

    terminal: Terminal = context.obj
    terminal.status("looking …")
    from qwen35cli.app import doctor as use_case  # late: not for --help

    named: Path | None = context.meta.get(NAMED)
    options = use_case.DoctorOptions(
        device=flags.device,
        kernels=flags.kernels,
        environment=settings.environment(),
        places=use_case.Places(
            data=settings.data_folder(),
            cache=settings.cache_folder(),
            state=platformdirs.user_state_path("qwen35"),
            config=named or settings.user_config_file(),
            hub=use_case.hub_folder(),
        ),
        known=frozenset(variables(context.find_root().command)).union(settings.VARIABLES),
        files=_files(named),
        refused=[use_case.Finding(*each) for each in refused(context, named)],
    )
    try:
        report = use_case.examine(options, terminal.status)
    except KeyboardInterrupt:
        raise InterruptedByUser("interrupted") from None
    terminal.clear_status()
    if flags.json:
        terminal.write_json(as_json(report))
    else:
        terminal.stdout().write(text(report))
    if report.problems:
        raise typer.Exit(WRONG)


def refused(context: typer.Context, named: Path | None) -> Iterator[tuple[str, str]]:
    """What files of settings and variables say and some command does not take; what mends it."""
    first: UsageError | None = context.meta.get(REFUSED)
    said = {} if first is None else {first.message: first.hint}
    wrong: dict[tuple[str, str], list[str]] = {}
    for each in _commands(context.find_root()):
        try:
            config.read(each, named)
        except UsageError as error:
            said.setdefault(error.message, error.hint)
        for refusal in _wrong_variables(each):
            wrong.setdefault(refusal, []).append(str(each.info_name))
    yield from said.items()
    for (variable, why), names in wrong.items():
        yield f"{variable} is not for qwen35 {', '.join(names)}: {why}", f"unset {variable}"


def _commands(above: Any) -> Iterator[typer.Context]:
    """A context of every command, as if it were called."""
    for name, command in getattr(above.command, "commands", {}).items():
        context = typer.Context(command, parent=above, info_name=name)
        if hasattr(command, "commands"):
            yield from _commands(context)
        elif not command.hidden:
            yield context


def _wrong_variables(context: typer.Context) -> Iterator[tuple[str, str]]:
    """Those whose value a flag of this command does not take, and why."""
    for parameter in context.command.params:
        value = parameter.value_from_envvar(context)
        if value is None or parameter.name == "config":  # which is read by itself
            continue
        try:
            parameter.process_value(context, value)
        except typer.BadParameter as error:
            from qwen35cli.app.doctor.privacy import may_be_shown  # late: not for --help

            variable = str(parameter.envvar)
            shown = may_be_shown(variable)
            yield variable, error.message.removeprefix("Value error, ") if shown else "its value"


def _files(named: Path | None) -> dict[Path, Any]:
    """What the files of settings say; nothing where one cannot be read, which is told elsewhere."""
    with suppress(UsageError):
        return {file.path: file.data for file in config_file.found(named)}
    return {}


def text(report: "Report") -> str:
    """The report for people, and for the bug report they write."""
    lines = [OPENING, "", FENCE + "text"]
    for section in report.sections:
        lines.append(f"[{section.name}]")
        width = max((len(label) for label, _ in section.lines), default=0)
        for label, value in section.lines:
            lines.append(_line(f"{label + ':':<{width + 1}} {value}"))
        lines.append("")
    lines += _findings("could be better", report.notes)
    lines += _findings("wrong", report.problems)
    if not report.problems:
        lines.append("nothing is wrong")
    return "\n".join([*lines, FENCE]) + "\n"


def _findings(title: str, findings: "list[Finding] | Any") -> list[str]:
    if not findings:
        return []
    lines = [f"[{title}]"]
    for each in findings:
        lines += [_line(f"- {each.what}"), _line(f"  {each.mend}")]
    return [*lines, ""] if title != "wrong" else lines


def _line(value: str) -> str:
    return sanitize(value).replace("\n", " ").replace(FENCE, "'''")


def as_json(report: "Report") -> dict[str, Any]:
    """The object of `--json`. Keys are only ever added."""
    return {
        **{section.name: section.facts for section in report.sections},
        "notes": [dataclasses.asdict(note) for note in report.notes],
        "problems": [dataclasses.asdict(problem) for problem in report.problems],
        "ok": not report.problems,
    }
