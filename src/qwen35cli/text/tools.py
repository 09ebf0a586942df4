"""Function calls in the model's output, as text to typed arguments."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

_PARAMETER = r"\s*<parameter=([^>]*)>(.*?)</parameter>"
_PARAMETERS = re.compile(_PARAMETER, re.DOTALL)
# Parameters are taken whole, so that a value may contain any other tag. Closing tags may be
# missing at the end of the output, but a call cut off inside a parameter is no call.
_CALL = re.compile(
    rf"<tool_call>\s*<function=([^>]*)>((?:{_PARAMETER})*+)\s*+(?:</function>|</tool_call>|\Z)",
    re.DOTALL,
)

_PYTHON_WORDS = {"True": True, "False": False, "None": None}
_JSON_TYPES: dict[str, tuple[type, ...]] = {
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "object": (dict,),
    "array": (list,),
    "null": (),
}


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call the assistant made: arguments by name, as JSON values."""

    name: str
    arguments: Mapping[str, object]


def parse_tool_calls(text: str, tools: Sequence[Mapping[str, object]]) -> list[ToolCall]:
    """The complete calls in an answer (reasoning left out), in order.

    Args:
        text: what the model said after its think block.
        tools: the definitions it was given; an argument whose declared type is not string is
            read as JSON, and stays a string where that fails. No name is checked.
    """
    calls = []
    for name, body in (match.group(1, 2) for match in _CALL.finditer(text)):
        declared = _declared_types(name, tools)
        arguments = {
            key: _value(raw.removeprefix("\n").removesuffix("\n"), declared.get(key, ()))
            for key, raw in _PARAMETERS.findall(body)
        }
        calls.append(ToolCall(name, arguments))
    return calls


def _declared_types(name: str, tools: Sequence[Mapping[str, object]]) -> dict[str, Sequence[str]]:
    """Parameter name -> JSON types, of the tool called `name`."""
    for tool in tools:
        function = _mapping(tool.get("function", tool))
        if function.get("name") == name:
            properties = _mapping(_mapping(function.get("parameters")).get("properties"))
            return {key: tuple(_types(_mapping(schema))) for key, schema in properties.items()}
    return {}


def _types(schema: Mapping[str, object]) -> Iterator[str]:
    declared = schema.get("type")
    for kind in declared if isinstance(declared, list) else [declared]:
        if isinstance(kind, str):
            yield kind


def _mapping(value: object) -> Mapping[str, object]:
    return value if isinstance(value, Mapping) else {}


def _value(raw: str, types: Sequence[str]) -> object:
    """`raw` as the first of `types` that it can be; null counts as any type but string."""
    kinds = [kind for kind in types if kind in _JSON_TYPES]
    if not kinds or (types == ("string",)):
        return raw
    try:
        value = _PYTHON_WORDS[raw] if raw in _PYTHON_WORDS else json.loads(raw)
    except (ValueError, RecursionError):
        return raw
    fits = value is None or any(
        isinstance(value, _JSON_TYPES[kind]) and (kind == "boolean" or value is not True)
        for kind in kinds
    )
    return value if fits else raw
