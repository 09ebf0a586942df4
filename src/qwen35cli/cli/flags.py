"""How a flag is made, and how a command takes flags in groups."""

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import Field, dataclass, fields
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeGuard, get_origin

import typer

from . import config, settings
from .variables import PREFIX, strays


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """A set of flags that belong together; its fields are options, or groups again.

    Of two parameters in `exclusive` the one from the stronger source counts; of two in `clashes`
    likewise, where both have the values there. Where both are from the same, the command decides.
    """

    exclusive: ClassVar[tuple[tuple[str, str], ...]] = ()
    clashes: ClassVar[tuple[Mapping[str, object], ...]] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ScreenFlags(Group):
    """How much is said on stderr, and in which colours."""

    exclusive = (("color", "no_color"), ("verbose", "quiet"))

    color: Annotated[
        Literal["auto", "always", "never"], flag("Output", "Colour on a terminal.", "--color")
    ] = "auto"
    no_color: Annotated[bool, switch("Output", "The same as --color never.", "--no-color")] = False
    verbose: Annotated[
        bool, switch("Output", "Say what was chosen and why.", "--verbose", "-v")
    ] = False
    quiet: Annotated[bool, switch("Output", "Errors only.", "--quiet", "-q")] = False


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

    What is not given on the command line or by a variable comes from the files of settings. The
    terminal knows of the flags for it before the command begins.
    """
    signature = inspect.signature(command)
    plain: list[inspect.Parameter] = []
    groups: dict[str, type[Group]] = {}
    for name, parameter in signature.parameters.items():
        if _is_group(parameter.annotation):
            groups[name] = parameter.annotation
        else:
            plain.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))
    all_groups = (*groups.values(), ScreenFlags)

    def flat(**values: Any) -> None:
        settings.check_folder()
        context: typer.Context = values["context"]
        values |= {name: defaults[name] for name in _outranked(context, all_groups)}
        if _is_of_another_model(context):
            values["revision"] = defaults["revision"]
        given = {parameter.name: values[parameter.name] for parameter in plain}
        values["presets"] = config.presets(context)
        if terminal := context.obj:
            terminal.configure(_build(ScreenFlags, values))
            if context.info_name != "doctor":  # which reports them itself
                if files := config.read_files(context):
                    terminal.detail(f"settings of {', '.join(map(str, files))}")
                for message, hint in strays(context):
                    terminal.warn(message, hint)
        command(**given, **{name: _build(group, values) for name, group in groups.items()})

    spread = [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=field.default,
            annotation=field.type,
        )
        for group in all_groups
        for field in _flags(group)
    ]
    parameters = [*plain, CONFIG, *spread]
    defaults = {parameter.name: parameter.default for parameter in parameters}
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


def _outranked(context: typer.Context, groups: Iterable[type[Group]]) -> Iterator[str]:
    """The parameters that yield to another, which excludes them and is from a stronger source."""
    params = context.params
    for group in _with_parts(groups):
        pairs: list[tuple[str, ...]] = [
            pair
            for pair in group.exclusive
            if all(params.get(name) not in (None, False) for name in pair)
        ]
        pairs += [tuple(clash) for clash in group.clashes if clash.items() <= params.items()]
        for pair in pairs:
            strengths = [config.strength(context, name) for name in pair]
            if strengths[0] != strengths[1]:
                yield pair[strengths.index(min(strengths))]


def _is_of_another_model(context: typer.Context) -> bool:
    """Whether the revision is of a weaker source than a model that has none, as a folder."""
    named = [name for name in ("model", "model_flag") if context.params.get(name) is not None]
    if context.params.get("revision") is None or not named:
        return False
    model = max(named, key=lambda name: config.strength(context, name))
    if config.strength(context, "revision") >= config.strength(context, model):
        return False
    from qwen35cli.app.source import is_here  # late: not for --help

    return is_here(context.params[model])


def _with_parts(groups: Iterable[type[Group]]) -> Iterator[type[Group]]:
    for group in groups:
        yield group
        yield from _with_parts(field.type for field in fields(group) if _is_group(field.type))


def _build(group: type[Group], values: Mapping[str, object]) -> Group:
    return group(
        **{
            field.name: _build(field.type, values) if _is_group(field.type) else values[field.name]
            for field in fields(group)
        }
    )
