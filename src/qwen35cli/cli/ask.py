"""`qwen35 ask`: one answer, then exit."""

from contextlib import closing, suppress
from dataclasses import replace

import typer

from qwen35cli.errors import InterruptedByUser, Qwen35Error, UsageError

from . import config, stdin, structured
from .flags import grouped
from .options import Flags, ModelFlags, Prompt
from .terminal import Sink, Terminal

NOTHING = UsageError("there is nothing to answer", 'qwen35 ask "Why is the sky blue?"')


@grouped
def ask(context: typer.Context, prompt: Prompt = None, *, flags: Flags) -> None:
    """Answer once, then exit.

    The answer is all that stdout gets. A message is made of the pictures, the files, stdin and
    PROMPT, in this order.

    Examples:
      qwen35 ask "Why is the sky blue?"
      cat notes.txt | qwen35 ask "Sum this up in five lines."
      qwen35 ask -i cat.jpg "What breed is it?"
      qwen35 ask --json "Name three rivers." | jq -r .answer
    """
    answer_once(context, prompt, flags)


@grouped
def bare(context: typer.Context, *, flags: Flags) -> None:
    """`qwen35` with flags and no command: as `ask`, but no bare word is taken as a prompt."""
    answer_once(context, None, flags)


def answer_once(context: typer.Context, prompt: str | None, flags: Flags) -> None:
    """Read what is asked, check what is cheap to check, load the weights, answer.

    Raises:
        InterruptedByUser: Ctrl-C or SIGTERM; what was written so far stays.
    """
    terminal: Terminal = context.obj
    given = (prompt, flags.input.prompt_flag, flags.input.file, flags.input.image)
    if not any(given) and not stdin.is_piped():
        terminal.help(context)
        raise NOTHING
    flags = _checked_output(context, flags, terminal)
    terminal.status("starting …")
    with terminal.sink(flags.output.output) as sink:
        _answer(sink, terminal, prompt, flags)


def _checked_output(context: typer.Context, flags: Flags, terminal: Terminal) -> Flags:
    """The flags, without a `--raw` of a file or a variable where the answer goes to a terminal.

    Raises:
        UsageError: they cannot go together.
    """
    output = flags.output
    if output.json and output.stream_json:
        raise UsageError("--json and --stream-json exclude each other", "leave one out")
    if not (output.raw and output.output is None and terminal.out_is_terminal):
        return flags
    if config.is_typed(context, "raw"):
        raise UsageError(
            "--raw could send control characters to the terminal", "--raw | less, or -o FILE"
        )
    return replace(flags, output=replace(output, raw=False))


def begin_reading(flags: ModelFlags) -> None:
    """Parse the tokenizer on a thread while torch is imported. No such model: said later."""
    from qwen35cli.app.source import resolve  # late: not for --help
    from qwen35cli.text.ahead import read_ahead

    with suppress(Qwen35Error):
        read_ahead(resolve(flags.model, flags.revision).folder)


def _answer(sink: Sink, terminal: Terminal, prompt: str | None, flags: Flags) -> None:
    output = flags.output
    schema = structured.read_schema(output.schema)
    tools = structured.read_tools(output.tools)
    begin_reading(flags.model)
    from qwen35cli.app.json_text import json_text

    from . import answer, report, start  # late: they import torch
    from .adjust import Adjustable

    goes_on = flags.session.go_on or flags.session.session is not None
    opened = start.open_model(flags, terminal, pictures=goes_on or bool(flags.input.image))
    conversation = start.begin(opened, flags, tools)
    keeper = start.keeper(opened, flags.session)
    with closing(keeper):
        unanswered = start.resume(keeper, conversation, flags) if goes_on else None
        question = start.question(opened, prompt, flags.input, terminal)
        if question is None:
            raise NOTHING
        if schema is not None:
            question = structured.instructed(question, schema)
        wanted = conversation.prompt(question)  # too long? said before the weights are read
        found = keeper.states.find(wanted) if keeper.states is not None else None
        if flags.input.dry_run:
            plan = report.dry_run(conversation, question, wanted, found)
            if output.json or output.stream_json:
                sink.write(json_text(plan) + "\n")
            else:
                report.show_dry_run(plan, sink, terminal)
            return
        for line in report.start_lines(opened, conversation):
            (terminal.note if terminal.err_is_terminal else terminal.detail)(line)

        constraint = structured.constraint(schema, opened.tokenizer)
        settings = Adjustable(flags).options(thinking=conversation.thinking)
        options = replace(settings, constraint=constraint)
        pictures = bool(wanted.images)
        loaded = start.load(opened, terminal, pictures=pictures)
        if keeper.states is not None:
            if found is not None:
                found_tokens = keeper.states.load(found, loaded, wanted)
                terminal.detail(f"{found_tokens:,} tokens were read before")
            if keeper.states.problem:
                terminal.warn(keeper.states.problem)
        view: answer.View
        if output.json or output.stream_json:
            more = structured.reader(schema, tools)
            view = answer.JsonView(
                sink, loaded, options.sampling, lines=output.stream_json, more=more
            )
        else:
            view = answer.text_view(sink, terminal, flags)
        if unanswered is not None:
            terminal.warn(
                f"the last question was never answered, this one takes its place: "
                f"{report.title(unanswered)}"
            )
        keeper.save(conversation, question)
        events = conversation.answer(loaded, question, options)
        try:
            result, _ = answer.show(events, conversation, view, terminal, explain=schema is None)
        except Qwen35Error as error:
            view.failed(error.message, error.hint)
            raise
        finally:
            keeper.save(conversation)
        if output.stats:
            terminal.note(report.stats_line(result, opened.ctx))
            terminal.note(report.memory_line(loaded, result))
        if result.rounds is not None:
            terminal.detail(report.drafts_line(result.rounds))
        start.keep(keeper, loaded, result, terminal)
        if result.finish_reason == "interrupted":
            raise InterruptedByUser("interrupted")
        if schema is not None:
            structured.check(schema, result)
