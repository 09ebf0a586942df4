"""`qwen35 chat`: a conversation in the terminal."""

from typing import Final

import typer

from qwen35cli.errors import UsageError

from . import config, stdin
from .ask import answer_once, begin_reading
from .flags import grouped
from .keyboard import typing_ahead
from .options import Flags, Interactive, Prompt
from .terminal import Terminal

ONCE: Final = {  # what is for one answer; files and variables may set it for calls that give one
    "--json": "json",
    "--stream-json": "stream_json",
    "-o": "output",
    "--raw": "raw",
    "--schema": "schema",
    "--tools": "tools",
    "--dry-run": "dry_run",
}


@grouped
def chat(
    context: typer.Context, prompt: Prompt = None, interactive: Interactive = False, *, flags: Flags
) -> None:
    """Talk, turn by turn; conversations are kept.

    PROMPT is sent first. With a pipe at stdin it answers once, like `ask`.

    Examples:
      qwen35 chat
      qwen35 chat --model demo
      qwen35 chat -s "Answer in one sentence." "Why is the sky blue?"
      qwen35 chat -c
      cat notes.txt | qwen35 chat --interactive "What is missing?"
    """
    terminal: Terminal = context.obj
    piped = None
    if interactive and not stdin.is_terminal():
        piped = stdin.read() if stdin.is_piped() else None
        stdin.reopen_terminal()
    elif flags.input.no_input or not stdin.is_terminal():
        answer_once(context, prompt, flags)
        return
    if given := [name for name, flag in ONCE.items() if config.is_typed(context, flag)]:
        raise UsageError(f"{', '.join(given)}: for one answer, not for a chat", "qwen35 ask …")
    with typing_ahead(terminal.continued):
        terminal.status("starting …")
        begin_reading(flags.model)
        from . import repl  # late: it imports torch

        talk = repl.Repl(terminal, flags)
    talk.run(prompt, piped)
