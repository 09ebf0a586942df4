"""`qwen35 chat`: a conversation in the terminal."""

import typer

from qwen35cli.errors import UsageError

from . import stdin
from .ask import answer_once, begin_reading
from .options import Flags, Prompt, grouped
from .terminal import Terminal


@grouped
def chat(context: typer.Context, prompt: Prompt = None, *, flags: Flags) -> None:
    """Talk, turn by turn, with PROMPT sent first.

    With a pipe at stdin it answers once, like `ask`.

    Examples:
      qwen35 chat
      qwen35 chat --model demo
      qwen35 chat -s "Answer in one sentence." "Why is the sky blue?"
    """
    if not stdin.is_terminal():
        answer_once(context, prompt, flags)
        return
    terminal: Terminal = context.obj
    terminal.configure(flags.screen)
    if flags.output.json or flags.output.stream_json or flags.output.output or flags.output.raw:
        raise UsageError(
            "--json, --stream-json, --raw and -o are for one answer", 'qwen35 ask --json "…"'
        )
    terminal.status("starting …")
    begin_reading(flags.model)
    from . import repl  # late: it imports torch

    repl.Repl(terminal, flags).run(prompt)
