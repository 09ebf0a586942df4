"""The keys of the input line."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from prompt_toolkit.buffer import Buffer
from prompt_toolkit.completion import CompleteEvent, get_common_complete_suffix
from prompt_toolkit.document import Document
from prompt_toolkit.enums import DEFAULT_BUFFER
from prompt_toolkit.filters import has_focus, has_selection
from prompt_toolkit.input.ansi_escape_sequences import ANSI_SEQUENCES
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.keys import Keys

from . import block, external
from .outside import Hooks, Outside
from .paste import Pastes, normalized

# Enter with a modifier, as terminals report it that can (CSI u, and xterm's modifyOtherKeys).
NEW_LINE = ("\x1b[13;2u", "\x1b[27;2;13~", "\x1b[13;3u", "\x1b[27;3;13~")
SEND = ("\x1b[13;5u", "\x1b[27;5;13~")


def know_modified_enter() -> None:
    """Tell prompt_toolkit of them; its table is one for the whole program."""
    ANSI_SEQUENCES.update(dict.fromkeys(NEW_LINE, Keys.ControlJ))
    ANSI_SEQUENCES.update(dict.fromkeys(SEND, Keys.ControlM))


def key_bindings(pastes: Pastes, hooks: Hooks, outside: Outside) -> KeyBindings:
    """What the keys do while the input line has the focus; the rest is prompt_toolkit's."""
    keys = KeyBindings()
    in_line = has_focus(DEFAULT_BUFFER)

    @keys.add("enter", filter=in_line)
    def send(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        if buffer.complete_state and buffer.complete_state.current_completion:
            buffer.complete_state = None  # it is chosen, and may be changed before it is sent
        elif block.is_open(buffer.text):
            buffer.insert_text("\n")
        else:
            buffer.validate_and_handle()

    @keys.add("c-j", filter=in_line)
    @keys.add("escape", "enter", filter=in_line)
    @keys.add("escape", "c-j", filter=in_line)
    def new_line(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    @keys.add("c-c", filter=in_line)
    @keys.add("<sigint>", filter=in_line)
    def clear_or_leave(event: KeyPressEvent) -> None:
        if event.current_buffer.text:
            event.current_buffer.reset()
        else:
            event.app.exit(exception=KeyboardInterrupt(), style="class:aborting")

    @keys.add("tab", filter=in_line)
    def complete(event: KeyPressEvent) -> None:
        if event.current_buffer.complete_state:
            event.current_buffer.complete_next()
        else:
            _complete(event.current_buffer)

    @keys.add("up", filter=in_line & ~has_selection)
    @keys.add("c-p", filter=in_line)
    def up(event: KeyPressEvent) -> None:
        with _folding(event.current_buffer, pastes) as buffer:
            buffer.auto_up(count=event.arg)

    @keys.add("down", filter=in_line & ~has_selection)
    @keys.add("c-n", filter=in_line)
    def down(event: KeyPressEvent) -> None:
        with _folding(event.current_buffer, pastes) as buffer:
            buffer.auto_down(count=event.arg)

    @keys.add("c-g", filter=in_line)
    def edit(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        text = pastes.expand(buffer.text)
        edited = outside.own_terminal(event.app, lambda: external.edit(text))
        if edited is not None and edited != text:
            buffer.save_to_undo_stack()
            edited = pastes.fold_again(edited)
            buffer.document = Document(edited, len(edited))

    @keys.add(Keys.BracketedPaste, filter=in_line)
    def paste(event: KeyPressEvent) -> None:
        text, on_paste = normalized(event.data), hooks.on_paste
        instead = None
        if text and on_paste is not None:
            instead = outside.above(event.app, partial(on_paste, text))
        _insert(event.current_buffer, instead or pastes.fold(text))

    if (on_clipboard := hooks.on_clipboard) is not None:

        @keys.add("c-v", filter=in_line)
        def clipboard(event: KeyPressEvent) -> None:
            attached = outside.above(event.app, on_clipboard)
            _insert(event.current_buffer, attached or "")

    if (on_toggle := hooks.on_toggle_thinking) is not None:

        @keys.add("c-o", filter=in_line)
        def toggle_thinking(event: KeyPressEvent) -> None:
            outside.above(event.app, on_toggle)

    return keys


@contextmanager
def _folding(buffer: Buffer, pastes: Pastes) -> Iterator[Buffer]:
    """Of an earlier message that is gone to, which is kept in full, fold the pastes, or all of it
    where it is still long: else the way past it leads through every line."""
    was = buffer.working_index
    yield buffer
    if buffer.working_index != was:
        text = pastes.fold(pastes.fold_again(buffer.text))
        if text != buffer.text:
            buffer.document = Document(text, len(text))


def _insert(buffer: Buffer, text: str) -> None:
    if text:
        buffer.save_to_undo_stack()
        buffer.insert_text(text)


def _complete(buffer: Buffer) -> None:
    """Insert what all completions share; a list where that is nothing."""
    if buffer.completer is None:
        return
    document = buffer.document
    found = list(
        buffer.completer.get_completions(document, CompleteEvent(completion_requested=True))
    )
    if len(found) == 1:
        buffer.apply_completion(found[0])
    elif shared := get_common_complete_suffix(document, found):
        buffer.insert_text(shared)
    elif found:
        buffer.start_completion()
