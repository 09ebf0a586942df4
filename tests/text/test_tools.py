"""Tool calls read back from text."""

import time

import pytest

from qwen35cli.text.tools import ToolCall, parse_tool_calls

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
        ("days", "three", "three"),
        ("days", "9" * 5000, "9" * 5000),
        ("days", "None", None),
        ("share", "3", 3),
        ("share", "-2.5e3", -2500.0),
        ("share", "True", "True"),
        ("deep", "True", True),
        ("deep", "false", False),
        ("deep", "1", "1"),
        ("spec", '{"a": [1]}', {"a": [1]}),
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
