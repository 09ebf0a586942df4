"""Reading a message where nothing can be drawn: `TERM=dumb`, or a terminal at stdin alone."""

import sys

from qwen35cli.text.sanitize import sanitize

from . import block


def read(prompt: str, default: str) -> str:
    """The next line, or the lines of a block; the terminal itself edits and shows them.

    A `default` cannot stand in the line here: it is shown, and an empty line takes it.

    Raises:
        EOFError: the end of the input.
        KeyboardInterrupt: Ctrl-C; what was typed is gone.
    """
    if default:
        _show(f"{prompt}{sanitize(default)}\n(an empty line sends this again)\n")
    _show(prompt)
    try:
        text = _line()
        while block.is_open(text):
            text += "\n" + _line()
    except (EOFError, KeyboardInterrupt):
        _show("\n")
        raise
    return text or default


def _line() -> str:
    line = sys.stdin.buffer.readline()
    if not line:
        raise EOFError
    return line.decode("utf-8", "surrogateescape").rstrip("\r\n")


def _show(text: str) -> None:
    if sys.stderr is None:  # closed
        return
    sys.stderr.write(text)
    sys.stderr.flush()
