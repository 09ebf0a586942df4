"""How an answer is shown while it is made: as text, as one JSON object, or as JSON lines."""

import json
import re
import time
from collections.abc import Generator
from contextlib import closing
from typing import Any, Protocol

from qwen35cli.app.conversation import Conversation, Result, Thought
from qwen35cli.app.load import Loaded
from qwen35cli.engine.runner import Prefill
from qwen35cli.engine.sampling import Sampling
from qwen35cli.text.sanitize import Sanitizer
from qwen35cli.text.stream import Piece

from .report import as_json, explain_end
from .signals import Stop
from .terminal import Sink, Terminal

# What JSON lets through but a terminal should not see.
UNSAFE = re.compile("[\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


class View(Protocol):
    """One way of showing an answer."""

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
        self, sink: Sink, terminal: Terminal, *, raw: bool, stream: bool, show_thinking: bool
    ) -> None:
        self._sink = sink
        self._terminal = terminal
        self._raw = raw
        self._stream = stream
        self._show_thinking = show_thinking and not terminal.quiet
        self._clean = {"answer": Sanitizer(), "reasoning": Sanitizer()}
        self._begun = False  # something of the answer is out
        self._hidden = 0  # tokens of thinking that were only counted

    def piece(self, piece: Piece) -> None:
        if piece.channel == "answer":
            if self._stream and piece.text:
                self._begun = True
                self._sink.write(self._safe(piece))
        elif self._show_thinking:
            self._terminal.thinking(self._safe(piece))
        else:
            self._hidden += 1
            self._terminal.status(f"thinking · {self._hidden:,} tokens")

    def thought(self, thought: Thought) -> None:
        if self._show_thinking:
            self._terminal.note(f"thought {thought.tokens:,} tokens, {thought.seconds:.1f} s")

    def end(self, result: Result) -> None:
        if not self._stream:
            self._sink.write(self._safe(Piece("answer", result.answer)))
        if result.answer or result.finish_reason != "interrupted":
            self._sink.write("\n")

    def failed(self, message: str, hint: str) -> None:
        if self._begun:
            self._sink.write("\n")

    def _safe(self, piece: Piece) -> str:
        if self._raw and piece.channel == "answer":
            return piece.text
        return self._clean[piece.channel].feed(piece.text)


class JsonView:
    """One object on one line at the end; with `lines`, also each piece as it comes."""

    def __init__(self, sink: Sink, loaded: Loaded, sampling: Sampling, *, lines: bool) -> None:
        self._sink = sink
        self._loaded = loaded
        self._sampling = sampling
        self._lines = lines

    def piece(self, piece: Piece) -> None:
        if self._lines and piece.text:
            self._write({"type": piece.channel, "text": piece.text})

    def thought(self, thought: Thought) -> None:
        pass

    def end(self, result: Result) -> None:
        kind = {"type": "result"} if self._lines else {}
        self._write(kind | as_json(result, self._loaded, self._sampling))

    def failed(self, message: str, hint: str) -> None:
        """Say in the stream itself that no result will come."""
        if self._lines:
            self._write({"type": "error", "message": message, "hint": hint})

    def _write(self, value: dict[str, Any]) -> None:
        line = json.dumps(value, ensure_ascii=False)
        self._sink.write(UNSAFE.sub(lambda match: f"\\u{ord(match[0]):04x}", line) + "\n")


def show(
    events: Generator[Prefill | Piece | Thought, None, None],
    conversation: Conversation,
    view: View,
    terminal: Terminal,
) -> tuple[Result, Stop]:
    """Drive an answer to its end, or to the first Ctrl-C, and show it."""
    start = time.perf_counter()
    terminal.status("reading …")
    with closing(events), Stop() as stop:
        for event in events:
            if isinstance(event, Prefill):
                left = (time.perf_counter() - start) * (event.total / event.done - 1)
                terminal.status(
                    f"reading {event.done:,} of {event.total:,} tokens · {left:.0f} s left"
                )
            elif isinstance(event, Piece):
                view.piece(event)
            else:
                view.thought(event)
            if stop.requested:
                break
    terminal.clear_status()
    assert conversation.result is not None
    view.end(conversation.result)
    explain_end(conversation.result, conversation, terminal)
    return conversation.result, stop
