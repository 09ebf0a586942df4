"""The loop behind `qwen35 chat`: read a line, carry out a command or answer, again."""

import shlex

from qwen35cli.app import commands
from qwen35cli.app.question import Picture, Question, load_pictures
from qwen35cli.errors import InterruptedByUser, Qwen35Error, UsageError

from . import answer, report, settings, start
from .editor import Editor
from .options import Flags
from .terminal import Terminal

NEARLY_FULL = 0.8


class Repl:
    """A conversation with its terminal. Ctrl-C stops an answer, never the program."""

    def __init__(self, terminal: Terminal, flags: Flags) -> None:
        self._terminal = terminal
        self._flags = flags
        self._opened = start.open_model(flags, terminal)
        self._conversation = start.begin(self._opened, flags)
        self._sampling = start.sampling(flags.sampling, thinking=self._conversation.thinking)
        self._pictures: list[Picture] = []  # for the next message
        self._draft = ""  # a message that was not answered returns to the input line

    def run(self, prompt: str | None) -> None:
        """Talk until the user leaves.

        Raises:
            InterruptedByUser: two Ctrl-C on an empty line, or SIGTERM.
        """
        first = start.question(self._opened, prompt, self._flags.input, self._terminal)
        for line in report.start_lines(self._opened, self._conversation):
            self._terminal.note(line)
        self._loaded = start.load(self._opened, self._terminal)
        self._terminal.clear_status()
        if first is not None:
            self._answer(first)
        editor = Editor(settings.history_file())
        warned = False
        while True:
            try:
                line = editor.read(self._draft)
            except EOFError:
                return
            except KeyboardInterrupt:
                if warned:
                    raise InterruptedByUser("interrupted") from None
                self._terminal.note("Ctrl-C again or Ctrl-D to leave")
                warned = True
                continue
            warned, self._draft = False, ""
            if not self._handle(line):
                return

    def _handle(self, line: str) -> bool:
        """Carry out a line; whether to go on."""
        try:
            command = commands.parse(line)
            if command is None:
                if line.strip() or self._pictures:
                    self._answer(Question(line, tuple(self._pictures)))
                return True
            match command[0].name:
                case "/exit":
                    return False
                case "/image":
                    self._attach(command[1])
                case "/clear":
                    self._conversation.clear()
                    self._pictures.clear()
                    self._terminal.note("cleared")
                case "/help":
                    for row in commands.help_lines():
                        self._terminal.say(row)
        except KeyboardInterrupt:  # not in an answer: there Ctrl-C is a flag
            self._terminal.say("(interrupted)")
        except InterruptedByUser:
            raise
        except Qwen35Error as error:
            self._terminal.error(error.message, error.hint)
        return True

    def _answer(self, question: Question) -> None:
        """Answer and show it. A message whose prompt was not read to its end comes back."""
        self._draft, flags = question.text, self._flags
        view = answer.TextView(
            self._terminal.stdout(),
            self._terminal,
            raw=False,
            stream=not flags.output.no_stream,
            show_thinking=not flags.thinking.hide_thinking,
        )
        events = self._conversation.answer(
            self._loaded, question, self._sampling, flags.sampling.max_tokens
        )
        result, stop = answer.show(events, self._conversation, view, self._terminal)
        if stop.leaving:
            raise InterruptedByUser("SIGTERM")
        if result.first_token_s is None:
            return
        self._draft = ""
        self._pictures.clear()
        self._terminal.note(report.stats_line(result, self._opened.ctx))
        if flags.output.stats:
            self._terminal.note(report.memory_line(self._opened, result))
        if result.rounds is not None:
            self._terminal.detail(report.drafts_line(result.rounds))
        if result.context_tokens > NEARLY_FULL * self._opened.ctx:
            larger = self._opened.largest_ctx
            self._terminal.warn(
                f"the context is {result.context_tokens / self._opened.ctx:.0%} full",
                "/clear" + (f", or --ctx {larger} next time" if larger > self._opened.ctx else ""),
            )

    def _attach(self, argument: str) -> None:
        """Pictures for the next message, each told with its cost."""
        try:
            names = shlex.split(argument)
        except ValueError:  # an odd quote is part of the name
            names = [argument]
        if not names:
            raise UsageError("/image needs a path", "/image ./cat.jpg")
        for picture in load_pictures(self._opened, names, None):
            self._pictures.append(picture)
            self._terminal.say(f"image {len(self._pictures)}: {picture}")
