"""How an answer is shown while it is made: as text, as one JSON object, or as JSON lines."""

import time
from collections.abc import Callable, Generator
from contextlib import closing
from typing import TYPE_CHECKING, Any, Protocol

from qwen35cli.app.conversation import Conversation
from qwen35cli.app.json_text import json_text
from qwen35cli.app.load import Loaded
from qwen35cli.app.turn import Result, Thought
from qwen35cli.engine.runner import Prefill
from qwen35cli.engine.sampling import Sampling
from qwen35cli.text.sanitize import Sanitizer
from qwen35cli.text.stream import Piece

from .options import Flags
from .report import as_json, explain_end
from .signals import Stop
from .terminal import Sink, Terminal
from .thinking import Counted, Streamed, Thinking

if TYPE_CHECKING:
    from .markdown import Markdown


class View(Protocol):
    """One way of showing an answer.

    Attributes:
        waiting: for what the cursor stands at the start of a line, until it can be shown.
    """

    @property
    def waiting(self) -> str | None: ...

    def piece(self, piece: Piece) -> None: ...

    def thought(self, thought: Thought) -> None:
        """The thinking was closed."""

    def end(self, result: Result) -> None:
        """The answer is over, or was stopped."""

    def failed(self, message: str, hint: str) -> None:
        """The answer broke off with an error, which is shown elsewhere too."""


class TextView:
    """The answer on its sink, sanitised, with one newline at its end; the thinking on stderr."""

    def __init__(
        self,
        sink: Sink,
        *,
        raw: bool = False,
        stream: bool = True,
        thinking: Thinking | None = None,
        markdown: "Markdown | None" = None,
    ) -> None:
        """Show one answer.

        Args:
            raw: leave the answer as it is.
            stream: show each piece as it comes; otherwise the answer in the end.
            thinking: how that is shown; None: not at all.
            markdown: what renders the answer on its way to `sink`; None: it is text.
        """
        self._sink = sink
        self._raw = raw
        self._stream = stream
        self._thinking = thinking
        self._markdown = markdown
        self._clean = {"answer": Sanitizer(), "reasoning": Sanitizer()}
        self._begun = False  # something of the answer is out

    def piece(self, piece: Piece) -> None:
        if piece.channel == "answer":
            if self._stream and piece.text:
                self._write(self._safe(piece))
        elif self._thinking is not None:
            self._thinking.piece(self._safe(piece))

    @property
    def waiting(self) -> str | None:
        return None if self._markdown is None else self._markdown.waiting

    def thought(self, thought: Thought) -> None:
        if self._thinking is not None:
            self._thinking.closed(thought)

    def end(self, result: Result) -> None:
        if not self._stream:
            self._write(self._safe(Piece("answer", result.answer)))
        if self._markdown is not None:
            self._markdown.end()
        elif result.answer or result.finish_reason != "interrupted":
            self._sink.write("\n")

    def failed(self, message: str, hint: str) -> None:
        if self._markdown is not None:
            self._markdown.end()
        elif self._begun:
            self._sink.write("\n")

    def _write(self, text: str) -> None:
        self._begun = self._begun or bool(text)
        if self._markdown is None:
            self._sink.write(text)
        else:
            self._markdown.feed(text)

    def _safe(self, piece: Piece) -> str:
        if self._raw and piece.channel == "answer":
            return piece.text
        return self._clean[piece.channel].feed(piece.text)


def text_view(sink: Sink, terminal: Terminal, flags: Flags) -> TextView:
    """The view of one answer of `ask`. Markdown is rendered on a terminal, and nowhere else; what
    a schema holds to JSON is no Markdown.
    """
    output = flags.output
    shown: Thinking | None = None
    if not terminal.quiet:
        hidden = flags.thinking.hide_thinking
        limit = flags.thinking.think_budget
        kind = Counted if hidden else Streamed
        shown = kind(terminal, limit if limit > 0 else None)
    shows_markdown = output.schema is None and not output.no_markdown
    rendered = terminal.out_is_terminal and output.output is None and shows_markdown
    return TextView(
        sink,
        raw=output.raw,
        stream=not output.no_stream,
        thinking=shown,
        markdown=markdown(sink, terminal) if rendered else None,
    )


def markdown(sink: Sink, terminal: Terminal) -> "Markdown":
    """What renders an answer on its way to the terminal that stdout is."""
    from .markdown import Markdown  # late: 50 ms that no pipe needs

    return Markdown(sink.write, lambda: terminal.columns or 80, color=terminal.out_color)


class JsonView:
    """One object on one line at the end; with `lines`, also each piece as it comes."""

    waiting = None

    def __init__(
        self,
        sink: Sink,
        loaded: Loaded,
        sampling: Sampling,
        *,
        lines: bool,
        more: Callable[[Result], dict[str, Any]] = lambda result: {},
    ) -> None:
        """Show one answer.

        Args:
            lines: whether each piece is a line too.
            more: what else the object says of an answer.
        """
        self._sink = sink
        self._loaded = loaded
        self._sampling = sampling
        self._lines = lines
        self._more = more

    def piece(self, piece: Piece) -> None:
        if self._lines and piece.text:
            self._write({"type": piece.channel, "text": piece.text})

    def thought(self, thought: Thought) -> None:
        pass

    def end(self, result: Result) -> None:
        kind = {"type": "result"} if self._lines else {}
        whole = as_json(result, self._loaded, self._sampling) | self._more(result)
        self._write(kind | whole)

    def failed(self, message: str, hint: str) -> None:
        """Say in the stream itself that no result will come."""
        if self._lines:
            self._write({"type": "error", "message": message, "hint": hint})

    def _write(self, value: dict[str, Any]) -> None:
        self._sink.write(json_text(value) + "\n")


def reading(event: Prefill, seconds: float) -> str:
    """How much of a prompt is read after so many seconds, and how long the rest will take."""
    new, done = event.total - event.start, event.done - event.start
    left = f" · {seconds * (new / done - 1):.0f} s left" if done else ""
    return f"reading {done:,} of {new:,} tokens{left}"


def show(
    events: Generator[Prefill | Piece | Thought, None, None],
    conversation: Conversation,
    view: View,
    terminal: Terminal,
    *,
    explain: bool = True,
    chat: bool = False,
) -> tuple[Result, Stop]:
    """Drive an answer to its end, or to the first Ctrl-C, and show it; `explain` why it ended,
    with hints for the command line or, in a `chat`, for its own.
    """
    start, waiting = time.perf_counter(), None
    terminal.status("reading …")
    with Stop() as stop, closing(events):  # closing it puts the memory in order
        for event in events:
            if isinstance(event, Prefill):
                terminal.status(reading(event, time.perf_counter() - start))
            elif isinstance(event, Piece):
                view.piece(event)
                if view.waiting != waiting:
                    waiting = view.waiting
                    if waiting is None:
                        terminal.clear_status()
                    else:
                        terminal.status(f"a {waiting} …")
            else:
                view.thought(event)
            if stop.requested:
                break
    terminal.clear_status()
    assert conversation.result is not None
    view.end(conversation.result)
    if explain or conversation.result.finish_reason == "interrupted":
        explain_end(conversation.result, conversation, terminal, chat=chat)
    return conversation.result, stop
