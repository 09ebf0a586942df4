"""The loop behind `qwen35 chat`: read a line, carry out a command or answer, again."""

import signal
import time
from collections.abc import Callable, Generator

from qwen35cli.app import attachments, clipboard, commands, paths
from qwen35cli.app.attachments import Draft, Typed
from qwen35cli.app.background import Background
from qwen35cli.app.load import Loaded
from qwen35cli.app.question import Picture, Question, load_picture, load_pictures
from qwen35cli.app.turn import Result, Thought
from qwen35cli.engine.runner import Prefill
from qwen35cli.errors import ContextFullError, InterruptedByUser, Qwen35Error
from qwen35cli.images.open import decode_image
from qwen35cli.text.sanitize import sanitize
from qwen35cli.text.stream import Piece

from . import answer, report, settings, slash, start
from .adjust import Adjustable
from .editor import Editor, Hooks
from .keyboard import reads_keys, typing_ahead
from .options import Flags
from .terminal import Terminal
from .thinking import Counted, Streamed, Thinking, Window
from .thumbnail import protocol, thumbnail
from .words import counted

NEARLY_FULL = 0.8
SOON = 0.3  # seconds of waiting that pass without a word

Events = Generator[Prefill | Piece | Thought, None, None]


class Repl:
    """A conversation with its terminal. Ctrl-C stops an answer, never the program.

    Attributes:
        draft: what is attached to the next message.
        line: what stands in the input line at first: a message that was not answered comes back.
        totals: tokens read, tokens generated and seconds of this run.
    """

    def __init__(self, terminal: Terminal, flags: Flags) -> None:
        self.terminal = terminal
        self.flags = flags
        self.opened = start.open_model(flags, terminal)
        self.conversation = start.begin(self.opened, flags)
        self.keeper = start.keeper(self.opened, flags.session)
        self.adjust = Adjustable(flags)
        self.draft = Draft()
        self.line = ""
        self.totals = [0, 0, 0.0]
        self.loaded: Loaded | None = None
        self._background = Background()
        self._shows = protocol(settings.environment()) if terminal.can_erase else None

    # -- the run --------------------------------------------------------------------------------

    def run(self, prompt: str | None, piped: bytes | None = None) -> None:
        """Talk until the user leaves. First to be answered are what was `piped` in and `prompt`.

        Raises:
            InterruptedByUser: two Ctrl-C on an empty line, or SIGTERM.
        """
        try:
            unanswered = start.resume(self.keeper, self.conversation, self.flags)
            first = start.question(self.opened, prompt, self.flags.input, self.terminal, piped)
            for line in report.start_lines(self.opened, self.conversation):
                self.terminal.note(line)
            with typing_ahead(self.terminal.continued):
                self.loaded = start.load(self.opened, self.terminal)
                self.welcome_back(unanswered)
                if first is not None:
                    self.ask(first)
            self._loop()
        except InterruptedByUser:  # in a hurry
            self._background.ask_to_stop()
            raise
        finally:
            self._leave()

    def _loop(self) -> None:
        editor = self._editor()
        warned = False
        while True:
            try:
                line = editor.read(self.line)
            except EOFError:
                return
            except KeyboardInterrupt:
                if warned:
                    raise InterruptedByUser("interrupted") from None
                self.terminal.note("Ctrl-C again or Ctrl-D to leave")
                warned, self.line = True, ""
                continue
            warned, self.line = False, ""
            with typing_ahead(self.terminal.continued):
                if not self._handle(line):
                    return

    def _handle(self, line: str) -> bool:
        """Carry out a line; whether to go on."""
        try:
            command = commands.parse(line)
            if command is None:
                if line.strip() or self.draft.leading or self.draft.documents:
                    self._send(line)
                return True
            return slash.run(self, *command)
        except KeyboardInterrupt:  # not in an answer: there Ctrl-C is a flag
            self.terminal.say("(interrupted)")
        except InterruptedByUser:
            raise
        except Qwen35Error as error:
            self.terminal.error(
                error.message, error.hint.replace("qwen35 sessions ls", "/sessions")
            )
        return True

    def _leave(self) -> None:
        """Save what can be saved; failing at that hides nothing else that went wrong."""
        try:
            self.wait(finish=True)
            memory = None if self.loaded is None else self.loaded.memory
            self.terminal.status("saving …")
            kept = self.keeper.leave(memory)
            self.terminal.clear_status()
            if kept is not None:
                self.terminal.note(report.kept_line(kept))
        except (KeyboardInterrupt, InterruptedByUser):  # in a hurry: the text is saved already
            self.terminal.clear_status()
        except Qwen35Error as error:
            self.terminal.error(error.message, error.hint)
        finally:
            before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # some press it once more
            self.keeper.close()
            signal.signal(signal.SIGINT, before)

    # -- messages -------------------------------------------------------------------------------

    def _send(self, line: str) -> None:
        """Take a typed message apart, and ask it. What cannot be read returns to the line."""
        try:
            typed = self.draft.message(line, self.open_picture)
        except Qwen35Error:
            self.line = line
            raise
        self.draft = Draft()
        self.tell(typed)
        self.ask(typed.question, thinking=typed.thinking)

    def ask(
        self, question: Question, *, thinking: bool | None = None, instead: bool = False
    ) -> None:
        """Answer a question and show it; `instead`: of the last turn. Without an answer it returns
        to the line."""
        mode = self.conversation.thinking if thinking is None else thinking
        options = self.adjust.options(thinking=mode)
        try:
            self.keeper.save(self.conversation, question)
            self.show(
                lambda loaded: self.conversation.answer(
                    loaded, question, options, thinking=thinking, instead=instead
                ),
                question,
            )
        finally:
            if not self._is_answered(question):
                self._come_back(question, thinking)
                if instead:
                    self.terminal.note("the turn stays as it was; /undo takes it back")

    def regenerate(self) -> None:
        """Answer the last question again; until a new answer begins the old one stays."""
        options = self.adjust.options(thinking=self.conversation.mode_again())
        self.show(lambda loaded: self.conversation.regenerate(loaded, options), None)

    def go_on(self, text: str | None = None) -> None:
        """Go on with the last answer, or with `text` in its place."""
        turn = self.conversation.last()
        options = self.adjust.options(thinking=turn.thinking)
        if text is None:
            self.show(lambda loaded: self.conversation.go_on(loaded, options), None, turn.answer)
        else:
            self.show(
                lambda loaded: self.conversation.go_on_from(loaded, text, options), None, text
            )

    def show(
        self, begin: Callable[[Loaded], Events], question: Question | None, before: str = ""
    ) -> None:
        """Show an answer, or what comes after its text `before`, while it is made, and save it.
        Where the program is to end before it begins, the question is saved without one."""
        assert self.loaded is not None
        view, unanswered = self._view(before), None
        try:
            self.wait()
            events = begin(self.loaded)
            result, stop = answer.show(events, self.conversation, view, self.terminal, chat=True)
            if stop.leaving and not self._is_answered(question):
                unanswered = question
        except ContextFullError as error:
            if not self.conversation.turns:
                raise
            hint = f"/undo or /clear makes room; {error.hint}"
            raise ContextFullError(error.message, hint) from None
        except Qwen35Error as error:
            view.failed(error.message, error.hint)
            raise
        finally:
            self.keeper.save(self.conversation, unanswered)
        if result.first_token_s is not None:
            self._told(result)
            self.terminal.blank()
        if stop.leaving:
            raise InterruptedByUser("SIGTERM")
        self._background.start(self.conversation.settle(self.loaded))

    def wait(self, *, finish: bool = False) -> None:
        """Have the model to oneself; with `finish`, once the last answer is read."""
        began, told = time.perf_counter(), False
        if not finish:
            self._background.ask_to_stop()
        while self._background.running:
            time.sleep(0.02)
            if not told and time.perf_counter() - began > SOON:
                self.terminal.status("reading the last answer …")
                told = True
        self.terminal.clear_status()
        self._background.finish()

    def _is_answered(self, question: Question | None) -> bool:
        return any(turn.question is question for turn in self.conversation.turns)

    def _come_back(self, question: Question, thinking: bool | None) -> None:
        """Let a question stand in the line again, before what is attached to the next message."""
        if not self.line:
            waiting = self.draft
            self.draft, self.line = attachments.reopened(question, thinking)
            self.draft.leading += waiting.leading
            self.draft.documents += waiting.documents

    def _told(self, result: Result) -> None:
        """The lines behind an answer."""
        totals = self.totals
        totals[0] += result.new_tokens
        totals[1] += result.reasoning_tokens + result.answer_tokens
        totals[2] += result.total_s
        if self.adjust["stats"]:
            self.terminal.note(report.stats_line(result, self.opened.ctx, drafts=False))
        if self.flags.output.stats and self.loaded is not None:
            self.terminal.note(report.memory_line(self.loaded, result))
        if result.rounds is not None:
            self.terminal.detail(report.drafts_line(result.rounds))
        if result.context_tokens > NEARLY_FULL * self.opened.ctx:
            larger = self.opened.largest_ctx
            more = f", or --ctx {larger} next time" if larger > self.opened.ctx else ""
            self.terminal.warn(
                f"the context is {result.context_tokens / self.opened.ctx:.0%} full",
                f"/clear or /undo makes room{more}",
            )

    def _view(self, before: str) -> answer.TextView:
        sink, terminal = self.terminal.stdout(), self.terminal
        markdown = None
        if self.adjust["markdown"] and terminal.out_is_terminal:
            markdown = answer.markdown(sink, terminal)
            markdown.follow(sanitize(before))
        return answer.TextView(
            sink,
            stream=not self.flags.output.no_stream,
            thinking=self._thinking(),
            markdown=markdown,
        )

    def _thinking(self) -> Thinking | None:
        if self.terminal.quiet:
            return None
        limit = self.adjust["think_budget"]
        budget = None if limit < 0 else limit
        match self.adjust["thinking"]:
            case "hide":
                return Counted(self.terminal, budget)
            case "fold" if self.terminal.can_erase:
                return Window(self.terminal, budget)
            case _:
                return Streamed(self.terminal, budget)

    # -- sessions -------------------------------------------------------------------------------

    def put_away(self) -> None:
        """Save the state of the conversation that is left for another."""
        self.wait(finish=self.keeper.session is not None)
        self.keeper.save_again()
        if self.loaded is None:
            return
        self.terminal.status("saving …")
        try:
            self.keeper.keep(self.loaded.memory)
        except Qwen35Error as error:  # the text is saved; all of it will be read again
            self.terminal.warn(error.message, error.hint)
        self.terminal.clear_status()

    def welcome_back(self, unanswered: Question | None) -> None:
        """Bring back the state of a session that was opened, and say what it will cost."""
        conversation, keeper = self.conversation, self.keeper
        if unanswered is not None:
            self.draft, self.line = attachments.reopened(unanswered)
        if not conversation.turns or self.loaded is None:
            return
        self.terminal.status("bringing back what was read …")
        tokens = keeper.restore(self.loaded)
        self.terminal.clear_status()
        assert keeper.session is not None
        turns = counted(len(conversation.turns), "turn")
        new = max(0, sum(part.tokens for part in conversation.context()) - tokens)
        line = f"session {keeper.session.label} · {turns}"
        problem = keeper.states.problem if keeper.states is not None else None
        if problem is not None:
            self.terminal.warn(
                f"{problem}: {new:,} tokens will be read again with the next message"
            )
            conversation.reading_again = problem
        elif not tokens:
            conversation.reading_again = "nothing was saved of what was read"
            line += f" · {new:,} tokens will be read with the next message"
        else:
            line += f" · {tokens:,} tokens restored"
        self.terminal.note(line)

    # -- pictures and pastes ----------------------------------------------------------------------

    def attach(self, names: list[str]) -> str:
        """Attach pictures by path; the marks that stand for them in the line."""
        return " ".join([self._place(load_pictures(self.opened, [name])[0]) for name in names])

    def attach_clipboard(self) -> str:
        """Attach the picture on the clipboard; the mark that stands for it."""
        data = clipboard.read_picture(settings.environment())
        return self._place(load_picture(self.opened, data, "clipboard"))

    def _place(self, picture: Picture) -> str:
        mark = self.draft.place(picture)
        self._tell_picture(f"{mark[1:-1]}: {picture}", picture)
        return mark

    def open_picture(self, path: str) -> Picture:
        return load_pictures(self.opened, [path])[0]

    def tell(self, typed: Typed) -> None:
        """What was found in a message."""
        for number, picture in enumerate(typed.opened, 1):
            self._tell_picture(f"image {number}: {picture}", picture)
        for document in typed.read:
            self.terminal.say(f"file: {document}")
        for note in typed.notes:
            self.terminal.say(note)
        if typed.thinking is not None:
            self.terminal.note(
                f"thinking {'on' if typed.thinking else 'off'} for this message; "
                "the switch is not part of it"
            )

    def _tell_picture(self, line: str, picture: Picture) -> None:
        self.terminal.say(line)
        if self._shows is not None:
            shown = decode_image(picture.data, picture.name).picture
            columns = self.terminal.err_columns
            if escapes := thumbnail(shown, self._shows, columns):
                self.terminal.picture(escapes)

    def _on_paste(self, text: str) -> str | None:
        names = paths.dropped(text)
        if names is None:
            self.draft.paste(text)
            return None
        return self.attach(names) + " "

    def _on_clipboard(self) -> str | None:
        return self.attach_clipboard() + " "

    def _toggle_thinking(self) -> None:
        hidden = self.adjust["thinking"] == "hide"
        self.adjust.set("thinking", "fold" if hidden else "hide")
        self.terminal.note(f"thinking {'shown' if hidden else 'hidden'}")

    def _editor(self) -> Editor:
        hooks = Hooks(
            on_paste=self._on_paste,
            on_clipboard=self._on_clipboard,
            on_toggle_thinking=self._toggle_thinking,
            on_error=self.terminal.error,
        )
        return Editor(
            settings.history_file(),
            hooks=hooks,
            commands=slash.completions(self),
            color=self.terminal.err_color,
            by_key=reads_keys(),
        )
