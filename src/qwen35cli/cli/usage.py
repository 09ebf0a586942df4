"""What Typer complains of, in our words."""

import re
from collections.abc import Sequence
from typing import Final

import typer

from .commands import NAMES
from .manual import BARE

PLAIN: Final = {  # what pydantic says, and what we do
    "Input should be a valid boolean.*": "it takes true or false",
    "Input should be a valid integer.*": "it takes a whole number",
    "Input should be a valid number.*": "it takes a number",
    "Input should be greater than or equal to": "it takes at least",
    "Input should be less than or equal to": "it takes at most",
    "Value error, ": "",
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
    return plain(error.format_message()), f"{command} --help"
