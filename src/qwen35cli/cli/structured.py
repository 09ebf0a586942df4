"""`--schema` and `--tools`: read before the weights, told to the model, read off its answer."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qwen35cli.errors import SchemaError

from .words import counted

if TYPE_CHECKING:
    from qwen35cli.app.question import Question
    from qwen35cli.app.turn import Result
    from qwen35cli.text.constraint import Constraint
    from qwen35cli.text.tokenizer import Tokenizer

Schema = Mapping[str, Any]
Tools = Sequence[Mapping[str, Any]]
INSTRUCTION = "Answer with JSON alone that satisfies this schema:\n"


def read_schema(given: str | None) -> Schema | None:
    """The schema that `--schema` names.

    Raises:
        UsageError: it cannot be read, or cannot be enforced.
    """
    if given is None:
        return None
    from qwen35cli.text import schema  # late: not for --help

    return schema.read_schema(given)


def read_tools(path: Path | None) -> Tools:
    """The functions in the file that `--tools` names.

    Raises:
        UsageError: it cannot be read.
    """
    if path is None:
        return ()
    from qwen35cli.text import tools

    return tools.read_tools(path)


def instructed(question: "Question", schema: Schema) -> "Question":
    """`question`, and behind it what form the answer has to have."""
    import json

    from qwen35cli.app.question import Question

    told = INSTRUCTION + json.dumps(schema, ensure_ascii=False)
    return Question((*question.parts, f"\n\n{told}"))


def constraint(schema: Schema | None, tokenizer: "Tokenizer") -> "Constraint | None":
    """What holds an answer to the schema, token by token."""
    if schema is None:
        return None
    from qwen35cli.text.constraint import Constraint

    return Constraint(schema, tokenizer)


def check(schema: Schema, result: "Result") -> Any:
    """The parsed answer.

    Raises:
        SchemaError: there is none, it does not satisfy the schema, or was cut before it could.
    """
    from qwen35cli.text import schema as schemas
    from qwen35cli.text.constraint import is_whole

    if result.closed_by == "none" and result.finish_reason == "stop":
        raise SchemaError(
            "the model ended inside its thinking: there is no answer to satisfy the schema",
            "--no-think",
        )
    cut = result.finish_reason in ("length", "context")
    if cut and not is_whole(schema, result.answer):
        raise SchemaError(
            f"the answer stopped at {counted(result.answer_tokens, 'token')} inside the JSON, so "
            "it does not satisfy the schema",
            f"--max-tokens {2 * result.answer_tokens}"
            if result.finish_reason == "length"
            else "a larger --ctx" + (", or --no-think" if result.closed_by != "off" else ""),
        )
    return schemas.check(schema, result.answer)


def reader(schema: Schema | None, tools: Tools) -> "Callable[[Result], dict[str, Any]]":
    """What `--json` says beyond the answer: `data` by the schema, `tool_calls` by the tools."""

    def read(result: "Result") -> dict[str, Any]:
        found: dict[str, Any] = {}
        if schema is not None:
            try:
                found["data"] = check(schema, result)
            except SchemaError:  # raised again when the object is out
                found["data"] = None
        if tools:
            from qwen35cli.text.tools import parse_tool_calls

            calls = parse_tool_calls(result.answer, tools)
            found["tool_calls"] = [
                {"name": call.name, "arguments": dict(call.arguments)} for call in calls
            ]
        return found

    return read
