"""`qwen35 chat`: a conversation in the terminal."""

import typer

from qwen35cli.errors import UsageError

from . import stdin
from .ask import answer_once, begin_reading
from .flags import grouped
from .keyboard import typing_ahead
from .options import Flags, Interactive, Prompt
from .terminal import Terminal


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
    terminal.configure(flags.screen)
    output = flags.output
    once = {
        "--json": output.json,
        "--stream-json": output.stream_json,
        "-o": output.output,
        "--raw": output.raw,
        "--schema": output.schema,
        "--tools": output.tools,
        "--dry-run": flags.input.dry_run,
    }
    if given := [name for name, value in once.items() if value]:
        raise UsageError(f"{', '.join(given)}: for one answer, not for a chat", "qwen35 ask …")
    with typing_ahead():
        terminal.status("starting …")
        begin_reading(flags.model)
        from . import repl  # late: it imports torch

    repl.Repl(terminal, flags).run(prompt, piped)
