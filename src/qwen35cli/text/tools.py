"""Functions for the model: their definitions, and its calls as text to typed arguments."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qwen35cli.errors import UsageError

from .schema import invalid, referred
from .strict_json import loads, read

_PARAMETER = r"\s*<parameter=([^>]*)>(.*?)</parameter>"
_PARAMETERS = re.compile(_PARAMETER, re.DOTALL)
# Parameters are taken whole, so that a value may contain any other tag. Closing tags may be
# missing at the end of the output, but a call cut off inside a parameter is no call.
_CALL = re.compile(
    rf"<tool_call>\s*<function=([^>]*)>((?:{_PARAMETER})*+)\s*+(?:</function>|</tool_call>|\Z)",
    re.DOTALL,
)

_UNUSABLE = re.compile(r"[>\n\r]")  # ends a name where calls are parsed
_TOOLS_HINT = '--tools takes a JSON file: [{"name": …, "description": …, "parameters": {…}}, …]'

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


def read_tools(path: Path) -> list[dict[str, Any]]:
    """The definitions in a JSON file, as they stand there.

    The file holds a list of functions, each `{"name": …, "description": …, "parameters": …}`,
    bare or, as for OpenAI, in `{"type": "function", "function": …}`.

    Raises:
        UsageError: the file cannot be read or is no such list; says which tool and why.
    """
    tools = read(path, _TOOLS_HINT)
    if not isinstance(tools, list) or not tools:
        what = "an empty list" if tools == [] else f"a JSON {type(tools).__name__}"
        raise UsageError(f"{path} holds {what}, no list of tools", _TOOLS_HINT)
    seen: dict[str, int] = {}
    for number, tool in enumerate(tools, 1):
        if problem := _problem(tool):
            raise UsageError(f"tool {number} of {len(tools)} in {path} {problem}", _TOOLS_HINT)
        name = tool.get("function", tool)["name"]
        if name in seen:
            raise UsageError(
                f"tools {seen[name]} and {number} in {path} are both called {name!r}",
                "give each tool a name of its own",
            )
        seen[name] = number
    return tools


def _problem(tool: object) -> str | None:
    """What is wrong with a definition."""
    if not isinstance(tool, dict):
        return f"is a JSON {type(tool).__name__}, no object"
    if tool.get("type", "function") != "function":
        return f"has the type {str(tool['type'])[:40]!r}, not 'function'"
    function = tool.get("function", tool)
    if not isinstance(function, dict):
        return f"has a function that is a JSON {type(function).__name__}, no object"
    name = function.get("name")
    if not isinstance(name, str) or not name.strip():
        return "has no name"
    if unusable := _UNUSABLE.search(name):
        return f"is called {name[:80]!r}; a name cannot contain {unusable[0]!r}"
    if not isinstance(function.get("description", ""), str):
        return f"({name}) has a description that is no text"
    if "parameters" not in function:
        return None
    parameters = function["parameters"]
    if not isinstance(parameters, dict) or parameters.get("type") != "object":
        return f"({name}) has parameters that are no schema of type object"
    if why := invalid(parameters):
        return f"({name}) has parameters that are no valid JSON schema: {why}"
    for parameter in parameters.get("properties", {}):
        if unusable := _UNUSABLE.search(parameter):
            return f"({name}) has a parameter {parameter[:80]!r}, with {unusable[0]!r} in its name"
    return None


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
            parameters = _mapping(function.get("parameters"))
            properties = _mapping(parameters.get("properties"))
            return {key: _types(schema, parameters) for key, schema in properties.items()}
    return {}


def _types(schema: object, whole: Mapping[str, object]) -> Sequence[str]:
    """The JSON types that a schema names, itself, in its choices, or in what it refers to.

    Args:
        schema: of a parameter.
        whole: in which its references are looked up.
    """
    types: list[str] = []
    left, seen = [schema], set()
    while left:
        part = _mapping(left.pop())
        declared = part.get("type")
        kinds = declared if isinstance(declared, list) else [declared]
        types += (kind for kind in kinds if isinstance(kind, str))
        for key in ("anyOf", "oneOf", "allOf"):
            choices = part.get(key)
            left += choices if isinstance(choices, list) else []
        target = part.get("$ref")
        if isinstance(target, str) and target not in seen:
            seen.add(target)
            left.append(referred(target, whole))
    return tuple(types)


def _mapping(value: object) -> Mapping[str, object]:
    return value if isinstance(value, Mapping) else {}


def _value(raw: str, types: Sequence[str]) -> object:
    """`raw` as the first of `types` that it can be; null counts as any type but string."""
    kinds = [kind for kind in types if kind in _JSON_TYPES]
    if not kinds or (types == ("string",)):
        return raw
    try:
        value = _PYTHON_WORDS[raw] if raw in _PYTHON_WORDS else loads(raw)
    except ValueError:
        return raw
    fits = value is None or any(
        isinstance(value, _JSON_TYPES[kind]) and (kind == "boolean" or not isinstance(value, bool))
        for kind in kinds
    )
    return value if fits else raw
