"""What Typer complains of, in our words."""

import re
from collections.abc import Sequence
from typing import Any, Final

import typer

from .commands import NAMES
from .manual import BARE

PLAIN: Final = {  # what Typer and pydantic say, and what we do
    "Input should be a valid boolean.*": "it takes true or false",
    "Value error, ": "",
    r" \(env var: '\w+'\)": "",  # where the flag was given
}


def plain(message: str) -> str:
    """A complaint of Typer's parsers as one of ours."""
    for said, words in PLAIN.items():
        message = re.sub(said, words, message.rstrip("."))
    return message[:1].lower() + message[1:]


def complaint(error: typer.TyperException, arguments: Sequence[str]) -> tuple[str, str]:
    """Typer's complaint as our two lines."""
    context = getattr(error, "ctx", None)
    command = "qwen35"
    if context is not None:
        command = context.command_path.removesuffix(f" {BARE}")
    elif arguments and arguments[0] in NAMES:
        command = f"qwen35 {arguments[0]}"
    return _of_variable(error) or plain(error.format_message()), f"{command} --help"


def _of_variable(error: typer.TyperException) -> str | None:
    """A complaint of a value that a variable has; None: it is of another."""
    parameter: Any = getattr(error, "param", None)
    context: Any = getattr(error, "ctx", None)
    if parameter is None or context is None:
        return None
    source = context.get_parameter_source(parameter.name)
    if source is None or source.name != "ENVIRONMENT":
        return None
    return f"{parameter.envvar}: {plain(error.message)}"
