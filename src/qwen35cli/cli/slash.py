"""What the slash commands do, one function each."""

from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from qwen35cli.app import attachments, clipboard, paths
from qwen35cli.app.commands import BY_NAME, COMMANDS, Command, help_lines
from qwen35cli.app.desktop import NoClipboard
from qwen35cli.app.estimate import size
from qwen35cli.app.question import spaced
from qwen35cli.errors import UsageError
from qwen35cli.text.sanitize import sanitize

from . import adjust, report, settings
from .editor import ANY_FILE, PICTURES, Argument, edit
from .keyboard import lent
from .session_forms import table
from .sessions import complete
from .values import budget
from .words import counted

if TYPE_CHECKING:
    from .repl import Repl

MOST_COPIED = 74_994  # bytes that terminals take for their clipboard (tmux, xterm: 100,000 encoded)


def run(repl: "Repl", command: Command, argument: str) -> bool:
    """Carry out a command; whether to go on.

    Raises:
        UsageError: an argument that it does not take.
    """
    if argument and not command.argument:
        raise UsageError(f"{command.name} takes nothing", f"/help {command.name}")
    if command.name == "/exit":
        return False
    ACTIONS[command.name](repl, argument)
    return True


def _help(repl: "Repl", argument: str) -> None:
    for line in help_lines(argument):
        repl.terminal.explain(line)


def _clear(repl: "Repl", argument: str) -> None:
    repl.put_away()
    repl.keeper.begin(repl.conversation)
    repl.conversation.clear()
    repl.draft = attachments.Draft()
    repl.terminal.note("cleared")


# -- the next message -----------------------------------------------------------------------------


def _image(repl: "Repl", argument: str) -> None:
    names = paths.split_paths(argument)
    if not names:
        raise UsageError("/image needs a path", "/image ./cat.jpg")
    repl.line = repl.attach(names) + " "


def _paste(repl: "Repl", argument: str) -> None:
    repl.line = repl.attach_clipboard() + " "


def _read(repl: "Repl", argument: str) -> None:
    documents = attachments.read_files(argument)
    repl.draft.documents += documents
    for document in documents:
        tokens = len(repl.opened.tokenizer.encode("".join(spaced([document.part]))))
        repl.terminal.reply(f"file: {document} · {tokens:,} tokens")


# -- how it answers -------------------------------------------------------------------------------


def _system(repl: "Repl", argument: str) -> None:
    conversation = repl.conversation
    if not argument:
        shown = conversation.system or "there is no system prompt; /system TEXT sets one"
        for line in shown.split("\n"):
            repl.terminal.reply(line)
        return
    what = "no system prompt" if argument == "-" else "system prompt set"
    text = None if argument == "-" else argument
    if text == conversation.system:
        repl.terminal.note(f"{what}; nothing changes")
        return
    repl.wait()
    conversation.replace_system(text)
    repl.keeper.save(conversation)
    again = sum(part.tokens for part in conversation.context())
    more = f": {again:,} tokens will be read again with the next message" if again else ""
    repl.terminal.note(what + more)


def _think(repl: "Repl", argument: str) -> None:
    conversation, word = repl.conversation, argument.lower()
    match word:
        case "":
            limit = repl.adjust["think_budget"]
            spoken = "no limit" if limit < 0 else f"budget {limit:,}"
            state = f"on, {spoken}" if conversation.thinking and limit else "off"
            repl.terminal.reply(f"thinking {state}, shown: {repl.adjust['thinking']}")
        case "on" | "off":
            if word == "on" and repl.adjust["think_budget"] == 0:
                raise UsageError("the budget of the thinking is 0", "/think 4k")
            conversation.thinking = word == "on"
            repl.terminal.note(f"thinking {word}")
        case "show" | "hide" | "fold":
            repl.adjust.set("thinking", word)
            repl.terminal.note(f"thinking: {word}")
        case "last":
            reasoning = conversation.last().reasoning
            if not reasoning:
                raise UsageError("the last answer was not thought about")
            repl.terminal.thinking(sanitize(reasoning) + "\n")
        case "0":
            _think(repl, "off")
        case _:
            try:
                repl.adjust.set("think_budget", word)
            except UsageError:
                raise UsageError(f"/think does not know {argument[:40]!r}", "/help think") from None
            conversation.thinking = budget(word) != 0
            _think(repl, "")


def _set(repl: "Repl", argument: str) -> None:
    key, _, value = argument.partition(" ")
    if not value.strip():
        raise UsageError("/set needs a key and a value", "/set temp 0.6; /show lists the keys")
    repl.adjust.set(key, value.strip())
    if repl.adjust["think_budget"] == 0:
        repl.conversation.thinking = False
    repl.terminal.note(repl.adjust.lines(key, thinking=repl.conversation.thinking)[0])


def _show(repl: "Repl", argument: str) -> None:
    for line in repl.adjust.lines(argument, thinking=repl.conversation.thinking):
        repl.terminal.reply(line)


# -- turns ----------------------------------------------------------------------------------------


def _regen(repl: "Repl", argument: str) -> None:
    repl.regenerate()


def _undo(repl: "Repl", argument: str) -> None:
    count = _count(argument, "/undo 2")
    repl.wait()
    taken = repl.conversation.undo(count)
    repl.keeper.save(repl.conversation)
    repl.terminal.note(f"took back {counted(count, 'turn')}: {report.title(taken[0].question)}")
    repl.terminal.note(f"{counted(len(repl.conversation.turns), 'turn')} left")


def _edit(repl: "Repl", argument: str) -> None:
    turn = repl.conversation.last()
    if argument == "answer":
        text = _edited(turn.answer)
        repl.wait()
        repl.go_on(text)
        return
    if argument:
        raise UsageError(f"/edit takes `answer` or nothing, not {argument[:40]!r}", "/help edit")
    own_mode = turn.thinking if turn.own_mode else None
    draft, line = attachments.reopened(turn.question, own_mode)
    text = _edited(line)
    if not text.strip():
        raise UsageError("the message is empty; nothing was sent", "/undo takes the turn back")
    typed = draft.message(text, repl.open_picture)
    repl.wait()
    repl.terminal.note(report.title(typed.question))
    repl.tell(typed)
    repl.ask(typed.question, thinking=typed.thinking, instead=True)


def _edited(text: str) -> str:
    with lent():
        return edit(text)


def _continue(repl: "Repl", argument: str) -> None:
    repl.go_on()


# -- what there is --------------------------------------------------------------------------------


def _ctx(repl: "Repl", argument: str) -> None:
    parts, ctx = repl.conversation.context(), repl.opened.ctx
    used = sum(part.tokens for part in parts)
    for part in parts:
        repl.terminal.reply(f"{part.tokens:>9,}  {part.name}")
    repl.terminal.reply(f"{ctx - used:>9,}  free of {ctx:,}")
    if repl.loaded is not None:
        memory = repl.loaded.memory
        states = counted(len(memory.places), "state")
        repl.terminal.reply(
            f"{states} to return to, {size(memory.nbytes)} of {size(memory.cap_bytes)}"
        )


def _stats(repl: "Repl", argument: str) -> None:
    result = repl.conversation.result
    if result is None or repl.loaded is None:
        raise UsageError("nothing was asked yet")
    repl.terminal.reply(report.stats_line(result, repl.opened.ctx))
    read, made, seconds = repl.totals
    repl.terminal.reply(f"in all: {read:,} tokens read, {made:,} generated, {seconds:.1f} s")
    repl.terminal.reply(report.memory_line(repl.loaded, result))


def _save(repl: "Repl", argument: str) -> None:
    repl.keeper.save(repl.conversation)
    if argument:
        repl.keeper.rename(argument)
    session = repl.keeper.session
    if session is None:
        raise UsageError("sessions are off: -n saves nothing", "leave out -n")
    repl.terminal.note(f"session {session.label}, saved after each turn")


def _load(repl: "Repl", argument: str) -> None:
    if not argument:
        raise UsageError("/load needs a name", "/sessions lists them")
    repl.put_away()
    unanswered = repl.keeper.resume(repl.conversation, argument)
    repl.draft = attachments.Draft()
    repl.welcome_back(unanswered)


def _sessions(repl: "Repl", argument: str) -> None:
    store = repl.keeper.store
    if store is None:
        raise UsageError("sessions are off: -n saves nothing", "leave out -n")
    if not (entries := store.listing()):
        raise UsageError("no session is saved yet")
    repl.terminal.tell(table(entries, repl.terminal.err_columns, datetime.now(UTC)))


# -- copies ---------------------------------------------------------------------------------------


def _copy(repl: "Repl", argument: str) -> None:
    _to_clipboard(repl, repl.conversation.last().answer, "the answer")


def _cc(repl: "Repl", argument: str) -> None:
    blocks = code_blocks(repl.conversation.last().answer)
    if not blocks:
        raise UsageError("the last answer holds no block of code", "/copy takes all of it")
    number = _count(argument, "/cc 1") if argument else len(blocks)
    if number > len(blocks):
        raise UsageError(f"the last answer holds {len(blocks)} blocks of code", "/cc 1")
    _to_clipboard(repl, blocks[number - 1], f"block {number} of {len(blocks)}")


def code_blocks(text: str) -> list[str]:
    """The contents of the blocks of code in a Markdown text, in order."""
    from markdown_it import MarkdownIt

    parser = MarkdownIt("commonmark").disable("html_block")  # shown as text, what is in it as code
    tokens = parser.parse(text)
    return [token.content for token in tokens if token.type in ("fence", "code_block")]


def _to_clipboard(repl: "Repl", text: str, what: str) -> None:
    if not text:
        raise UsageError("there is nothing to copy")
    way = ""
    try:
        clipboard.write_text(text, settings.environment())
    except NoClipboard as error:
        if len(text.encode("utf-8", "replace")) > MOST_COPIED:
            raise UsageError(f"{error.message}; for the terminal's it is too long") from None
        if not repl.terminal.to_clipboard(text):
            raise
        way = " through the terminal, if it allows that"
    repl.terminal.note(f"copied {what}, {len(text):,} characters{way}")


def _count(argument: str, example: str) -> int:
    if not argument:
        return 1
    if not argument.isdecimal() or len(argument) > 4 or not int(argument):
        raise UsageError(f"{argument[:40]!r} is not a number from 1 on", example)
    return int(argument)


ACTIONS: Final[Mapping[str, Callable[["Repl", str], None]]] = {
    "/help": _help,
    "/clear": _clear,
    "/image": _image,
    "/paste": _paste,
    "/read": _read,
    "/system": _system,
    "/think": _think,
    "/set": _set,
    "/show": _show,
    "/regen": _regen,
    "/undo": _undo,
    "/edit": _edit,
    "/continue": _continue,
    "/ctx": _ctx,
    "/stats": _stats,
    "/save": _save,
    "/load": _load,
    "/sessions": _sessions,
    "/copy": _copy,
    "/cc": _cc,
}


def completions(repl: "Repl") -> dict[str, Argument]:
    """What Tab offers behind each command."""

    def names(typed: str) -> Iterable[str]:
        return [name for name, _ in complete(typed)]

    def commands(typed: str) -> Iterable[str]:
        return [command.name.removeprefix("/") for command in COMMANDS]

    known: dict[str, Argument] = {
        "/help": commands,
        "/image": PICTURES,
        "/read": ANY_FILE,
        "/think": lambda typed: ("on", "off", "none", "show", "hide", "fold", "last"),
        "/set": lambda typed: adjust.completions(typed, repl.adjust.keys),
        "/show": lambda typed: adjust.KEYS,
        "/edit": lambda typed: ("answer",),
        "/load": names,
    }
    return {name: known.get(command.name) for name, command in BY_NAME.items()}
