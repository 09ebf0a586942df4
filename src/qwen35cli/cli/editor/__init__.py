"""The line editor of the REPL: prompt, keys, paste, completion, history."""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TextIO

from prompt_toolkit import PromptSession
from prompt_toolkit.application import get_app
from prompt_toolkit.filters import to_filter
from prompt_toolkit.formatted_text import FormattedText
from prompt_toolkit.output import ColorDepth, create_output
from prompt_toolkit.styles import Style

from qwen35cli.cli import settings

from . import block, plain
from .completion import ANY_FILE, PICTURES, Argument, Completions, Files
from .display import Display
from .external import edit
from .history import Messages
from .keys import key_bindings, know_modified_enter
from .outside import Hooks, Outside
from .paste import Pastes

__all__ = ["ANY_FILE", "PICTURES", "PLACEHOLDER", "Argument", "Editor", "Files", "Hooks", "edit"]

PLACEHOLDER = "Type a message, drop an image path, /help"
PROMPT = ">>> "

# The terminal's own colours.
STYLE = Style.from_dict(
    {
        "pasted": "ansicyan",
        "completion-menu": "noinherit",
        "completion-menu.completion": "noinherit",
        "completion-menu.completion.current": "noinherit reverse",
        "scrollbar.background": "noinherit",
        "scrollbar.button": "noinherit reverse",
    }
)


class Editor:
    """Reads one message at a time; everything it draws goes to stderr."""

    def __init__(
        self,
        history_file: Path | None,
        *,
        hooks: Hooks | None = None,
        commands: Mapping[str, Argument] | None = None,
        color: bool | None = None,
        by_key: bool = True,
    ) -> None:
        """An editor with the messages of earlier runs.

        Args:
            history_file: where messages are kept for later runs; None keeps them in memory.
            hooks: what the owner does at some keys.
            commands: the names that Tab completes, each with what may follow it.
            color: None leaves it to `NO_COLOR`.
            by_key: lines are edited and drawn here; otherwise the terminal gives whole ones.
        """
        self._hooks = hooks or Hooks()
        self._pastes = Pastes()
        self._history = Messages(history_file, self._pastes.expand)
        self._outside = Outside(self._hooks)
        self._session: PromptSession[str] | None = None
        self._tell_history_problem()
        if not (by_key and settings.can_erase()):
            return
        know_modified_enter()
        self._session = session = PromptSession[str](
            history=self._history,
            key_bindings=key_bindings(self._pastes, self._hooks, self._outside),
            completer=Completions(commands or {}),
            complete_while_typing=False,
            input_processors=[Display(self._pastes)],
            multiline=True,
            prompt_continuation="",
            placeholder=self._placeholder,
            enable_suspend=True,
            style=STYLE,
            color_depth=_color_depth(color),
            output=create_output(_screen()),
        )
        # Else the line of Ctrl-R stands at the lower end of the screen, far from what it finds.
        session.layout.current_window.dont_extend_height = to_filter(True)

    def read(self, default: str = "", prompt: str = PROMPT) -> str:
        """The next message, without the fence of a block. `default` stands in the line at first.

        Raises:
            EOFError: Ctrl-D on an empty line, or the terminal is gone.
            KeyboardInterrupt: Ctrl-C on an empty line.
            InterruptedByUser: SIGTERM, or whatever else its handler raises.
        """
        text = self._read(default, prompt)
        self._tell_history_problem()
        return self._pastes.expand(block.content(text))

    def _read(self, default: str, prompt: str) -> str:
        session = self._session
        if session is None:
            text = plain.read(prompt, default)
            if text:
                self._history.append_string(text)
            return text

        def ask(pre_run: Callable[[], None]) -> str:
            return session.prompt(
                FormattedText([("bold", prompt)]),
                default=self._pastes.fold_again(default),
                pre_run=pre_run,
                set_exception_handler=False,
            )

        return self._outside.read(session.app, ask)

    def _placeholder(self) -> FormattedText:
        """The dim text; none where it would stay on the screen or follow what Ctrl-R shows."""
        app = get_app()
        hidden = app.is_done or app.layout.is_searching
        return FormattedText([("dim", "" if hidden else PLACEHOLDER)])

    def _tell_history_problem(self) -> None:
        if self._history.problem:
            self._hooks.on_error(self._history.problem, "")
            self._history.problem = ""


def _screen() -> TextIO:
    """Where the line is drawn: stderr, unless that goes elsewhere and stdout is the terminal."""
    there = [stream for stream in (sys.stderr, sys.stdout) if stream is not None]
    return next((stream for stream in there if stream.isatty()), there[0])


def _color_depth(color: bool | None) -> ColorDepth | None:
    if color is None:
        return None
    return ColorDepth.DEFAULT if color else ColorDepth.MONOCHROME
