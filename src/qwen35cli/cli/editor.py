"""The line editor of the REPL: prompt, keys, history."""

import os
import sys
from pathlib import Path

from prompt_toolkit import PromptSession
from prompt_toolkit.formatted_text import FormattedText
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.output import create_output

PLACEHOLDER = "Type a message, /image PATH, /help"
FENCE = '"""'


class Editor:
    """Reads one message at a time; everything it draws goes to stderr."""

    def __init__(self, history_file: Path | None) -> None:
        self._session: PromptSession[str] = PromptSession(
            ">>> ",
            history=_history(history_file),
            key_bindings=_keys(),
            multiline=True,
            prompt_continuation="",
            placeholder=FormattedText([("fg:ansibrightblack", PLACEHOLDER)]),
            output=create_output(sys.stderr),
        )

    def read(self, default: str = "") -> str:
        """The next message, without the fence of a block.

        Raises:
            EOFError: Ctrl-D on an empty line, or the terminal is gone.
            KeyboardInterrupt: Ctrl-C on an empty line.
        """
        text = self._session.prompt(default=default)
        if text.startswith(FENCE):
            text = text.strip().removeprefix(FENCE).removesuffix(FENCE).strip("\n")
        return text


class _Lines(FileHistory):
    """History on disk; a line that begins with a space is not kept."""

    def store_string(self, string: str) -> None:
        if not string.startswith(" "):
            super().store_string(string)


def _history(path: Path | None) -> History:
    """Lines kept in `path`, readable by their owner alone; in memory where that cannot be."""
    if path is None:
        return InMemoryHistory()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600))
    except OSError:  # a home that cannot be written: nothing to keep, nothing lost
        return InMemoryHistory()
    return _Lines(path)


def _keys() -> KeyBindings:
    keys = KeyBindings()

    @keys.add("enter")
    def send(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        text = buffer.text.strip()
        open_block = text.startswith(FENCE) and (text == FENCE or not text.endswith(FENCE))
        if open_block:
            buffer.insert_text("\n")
        else:
            buffer.validate_and_handle()

    @keys.add("c-j")
    @keys.add("escape", "enter")
    def new_line(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    @keys.add("c-c")
    def clear_or_leave(event: KeyPressEvent) -> None:
        if event.current_buffer.text:
            event.current_buffer.reset()
        else:
            event.app.exit(exception=KeyboardInterrupt(), style="class:aborting")

    return keys
