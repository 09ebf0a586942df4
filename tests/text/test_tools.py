"""Tool definitions read from a file, and tool calls read back from text."""

import json
import time

import pytest

from qwen35cli.errors import UsageError
from qwen35cli.text.template import Message, Text, render
from qwen35cli.text.tools import ToolCall, parse_tool_calls, read_tools

TYPES = {
    "city": "string",
    "days": "integer",
    "share": "number",
    "deep": "boolean",
    "spec": "object",
    "rows": "array",
    "maybe": ["string", "null"],
    "limit": ["integer", "null"],
}
TOOL = {
    "type": "function",
    "function": {
        "name": "f",
        "parameters": {"type": "object", "properties": {k: {"type": t} for k, t in TYPES.items()}},
    },
}


def call(arguments, name="f"):
    body = "".join(f"<parameter={k}>\n{v}\n</parameter>\n" for k, v in arguments.items())
    return f"<tool_call>\n<function={name}>\n{body}</function>\n</tool_call>"


@pytest.mark.parametrize(
    ("name", "raw", "value"),
    [
        ("city", "3", "3"),
        ("city", "None", "None"),
        ("city", "two\nlines\n", "two\nlines\n"),
        ("days", "3", 3),
        ("days", "3.5", "3.5"),
        ("days", "True", "True"),
        ("days", "False", "False"),
        ("share", "false", "false"),
        ("days", "three", "three"),
        ("days", "9" * 5000, "9" * 5000),
        ("days", "None", None),
        ("share", "3", 3),
        ("share", "-2.5e3", -2500.0),
        ("share", "True", "True"),
        ("share", "NaN", "NaN"),
        ("share", "-Infinity", "-Infinity"),
        ("share", "1e999", "1e999"),
        ("deep", "True", True),
        ("deep", "false", False),
        ("deep", "1", "1"),
        ("spec", '{"a": [1]}', {"a": [1]}),
        ("spec", '{"a": NaN}', '{"a": NaN}'),
        ("spec", "[1]", "[1]"),
        ("rows", '["x", null]', ["x", None]),
        ("rows", "[" * 100_000, "[" * 100_000),
        ("maybe", "null", None),
        ("maybe", "3", "3"),
        ("limit", "null", None),
        ("limit", "7", 7),
        ("unknown", "7", "7"),
    ],
)
@pytest.mark.parametrize("tool", [TOOL, TOOL["function"]])
def test_arguments_take_their_declared_type(name, raw, value, tool):
    (parsed,) = parse_tool_calls(call({name: raw}), [tool])
    assert parsed == ToolCall("f", {name: value})
    assert type(parsed.arguments[name]) is type(value)


CITY = {"type": "object", "properties": {"name": {"type": "string"}}}
AS_PYDANTIC_WRITES = {
    "type": "object",
    "$defs": {"a/b": CITY, "loop": {"anyOf": [{"$ref": "#/$defs/loop"}, {"type": "boolean"}]}},
    "properties": {
        "days": {"anyOf": [{"type": "integer"}, {"type": "null"}], "default": None},
        "name": {"anyOf": [{"type": "string"}, {"type": "null"}]},
        "city": {"$ref": "#/$defs/a~1b"},
        "home": {"allOf": [{"$ref": "#/$defs/a~1b"}], "description": "where it began"},
        "loop": {"$ref": "#/$defs/loop"},
        "gone": {"$ref": "#/$defs/nothing"},
        "self": {"$ref": "#"},
    },
}


@pytest.mark.parametrize(
    ("name", "raw", "value"),
    [
        ("days", "3", 3),
        ("days", "null", None),
        ("days", "3.5", "3.5"),
        ("name", "3", "3"),
        ("name", "None", None),
        ("city", '{"name": "Rome"}', {"name": "Rome"}),
        ("home", '{"name": "Rome"}', {"name": "Rome"}),
        ("home", "Rome", "Rome"),
        ("loop", "True", True),
        ("gone", "3", "3"),
        ("self", '{"days": 3}', {"days": 3}),
    ],
)
def test_choices_and_references_declare_types_too(name, raw, value):
    (parsed,) = parse_tool_calls(
        call({name: raw}), [{"name": "f", "parameters": AS_PYDANTIC_WRITES}]
    )
    assert parsed.arguments == {name: value}


def test_several_calls_among_text():
    text = f"Checking.\n\n{call({'city': 'Paris', 'days': '3'})}\n{call({}, 'g')}"
    assert parse_tool_calls(text, [TOOL]) == [
        ToolCall("f", {"city": "Paris", "days": 3}),
        ToolCall("g", {}),
    ]


def test_a_value_may_hold_other_tags():
    value = "</function> <tool_call> <function=g> </tool_call> <parameter=x>"
    assert parse_tool_calls(call({"city": value}), [TOOL]) == [ToolCall("f", {"city": value})]


@pytest.mark.parametrize("cut", ["</tool_call>", "\n</tool_call>", "</function>\n</tool_call>"])
def test_closing_tags_may_be_missing_at_the_end(cut):
    text = call({"city": "Rome"}).removesuffix(cut)
    assert parse_tool_calls(text, [TOOL]) == [ToolCall("f", {"city": "Rome"})]


def test_a_call_cut_off_in_a_parameter_is_no_call():
    text = call({"city": "Rome", "days": "30"})
    assert parse_tool_calls(text[: text.index("0\n")], [TOOL]) == []


@pytest.mark.parametrize(
    "tools", [[], [{}], [{"function": None}], [{"function": {"name": "f", "parameters": [1]}}]]
)
def test_tools_of_any_shape_are_survived(tools):
    assert parse_tool_calls(call({"days": "3"}), tools) == [ToolCall("f", {"days": "3"})]


@pytest.mark.parametrize(
    "unit", ["<tool_call>", "<tool_call><function=f>", "<parameter=x>", "<parameter=x></parameter>"]
)
def test_hostile_repetition_takes_no_time(unit):
    start = time.process_time()
    parse_tool_calls("<tool_call><function=f>" + unit * 3000, [TOOL])
    assert time.process_time() - start < 2


@pytest.fixture
def tools_file(tmp_path):
    def write(content):
        path = tmp_path / "tools.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return path

    return write


@pytest.mark.parametrize("tool", [TOOL, TOOL["function"], {"type": "function", "name": "f"}])
def test_a_tools_file_is_taken_as_it_stands(tools_file, tool):
    other = {"z": 1, "name": "weather in", "a": "Zürich", "description": ""}
    tools = read_tools(tools_file([tool, other]))
    assert tools == [tool, other]
    assert [list(read) for read in tools] == [list(tool), list(other)]


def test_what_was_read_is_rendered_and_types_the_calls(tools_file, small):
    tools = read_tools(tools_file([TOOL]))
    question = Message("user", (Text("Weather?"),))
    ids = render([question], small, thinking=False, tools=tools)
    prompt = b"".join(small.token_bytes(token) for token in ids).decode()
    assert f"<tools>\n{json.dumps(TOOL)}\n</tools>" in prompt
    assert parse_tool_calls(call({"days": "3"}), tools) == [ToolCall("f", {"days": 3})]


def function(**changes):
    return {"type": "function", "function": {"name": "f", **changes}}


def taking(**properties):
    return function(parameters={"type": "object", "properties": properties})


@pytest.mark.parametrize(
    ("tools", "problem"),
    [
        ([3], "tool 1 of 1 in {} is a JSON int, no object"),
        (
            [TOOL, {"type": "retrieval"}],
            "tool 2 of 2 in {} has the type 'retrieval', not 'function'",
        ),
        ([{"function": "f"}], "tool 1 of 1 in {} has a function that is a JSON str, no object"),
        ([{}], "tool 1 of 1 in {} has no name"),
        ([function(name=7)], "tool 1 of 1 in {} has no name"),
        ([function(name=" ")], "tool 1 of 1 in {} has no name"),
        ([function(name="a>b")], "tool 1 of 1 in {} is called 'a>b'; a name cannot contain '>'"),
        (
            [function(name="a\nb")],
            "tool 1 of 1 in {} is called 'a\\nb'; a name cannot contain '\\n'",
        ),
        ([function(description=1)], "tool 1 of 1 in {} (f) has a description that is no text"),
        (
            [function(parameters=[])],
            "tool 1 of 1 in {} (f) has parameters that are no schema of typ",
        ),
        (
            [function(parameters={"type": "array"})],
            "tool 1 of 1 in {} (f) has parameters that are n",
        ),
        (
            [taking(days={"type": "int"})],
            "tool 1 of 1 in {} (f) has parameters that are no valid JSON schema: "
            "at /properties/days/type: 'int' is not valid",
        ),
        (
            [function(parameters={"type": "object", "properties": 3})],
            "tool 1 of 1 in {} (f) has parameters that are no valid JSON schema: at /properties: 3",
        ),
        (
            [taking(**{"a>": {}})],
            "tool 1 of 1 in {} (f) has a parameter 'a>', with '>' in its name",
        ),
        ([TOOL, function(name="g"), TOOL["function"]], "tools 1 and 3 in {} are both called 'f'"),
        ([], "{} holds an empty list, no list of tools"),
        (TOOL, "{} holds a JSON dict, no list of tools"),
        (
            "[{]",
            "{} is not valid JSON: expecting property name enclosed in double quotes at line 1",
        ),
        ('[{"name": "f", "name": "g"}]', "{} is not valid JSON: the key 'name' occurs twice"),
    ],
)
def test_a_wrong_tools_file_is_told_where_and_why(tools_file, tools, problem):
    path = tools_file(tools)
    with pytest.raises(UsageError) as caught:
        read_tools(path)
    assert caught.value.message.startswith(problem.format(path))
    assert "\n" not in caught.value.message


def test_a_missing_tools_file_is_named(tmp_path):
    with pytest.raises(UsageError, match=r"no file at .*tools\.json") as caught:
        read_tools(tmp_path / "tools.json")
    assert caught.value.hint.startswith("--tools takes a JSON file")
