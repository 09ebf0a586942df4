"""Schemas as they are given, and answers checked against them."""

import json
import socket

import pytest

from qwen35cli.errors import SchemaError, UsageError
from qwen35cli.text.schema import MAX_DEPTH, check, read_schema

PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    asked = []

    def refuse(*address):
        asked.append(address)
        raise OSError("no network in tests")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    yield
    assert not asked


@pytest.mark.parametrize(
    "given",
    [
        json.dumps(PERSON),
        f"\n  {json.dumps(PERSON, indent=2)}\n",
        "name, age int",
        " name str ,age  int, ",
        "name\nage int\n",
    ],
)
def test_text_and_short_form_say_the_same(given):
    assert read_schema(given) == PERSON


def test_a_file_is_read(tmp_path, monkeypatch):
    (tmp_path / "person.json").write_text(json.dumps(PERSON))
    (tmp_path / "person").write_text(json.dumps(PERSON))
    assert read_schema(str(tmp_path / "person.json")) == PERSON
    monkeypatch.chdir(tmp_path)
    assert read_schema("person.json") == PERSON
    assert read_schema("person") == PERSON  # a file counts before a field of that name


def test_a_folder_does_not_hide_a_field(tmp_path, monkeypatch):
    (tmp_path / "name").mkdir()
    monkeypatch.chdir(tmp_path)
    assert read_schema("name")["required"] == ["name"]
    with pytest.raises(UsageError, match="cannot be read: Is a directory"):
        read_schema("./name")


def test_the_short_form_has_four_types_and_descriptions():
    schema = read_schema("größe float: in metres, ok bool:yes/no, first-name: as in a/b.json, n")
    assert schema["properties"] == {
        "größe": {"type": "number", "description": "in metres"},
        "ok": {"type": "boolean", "description": "yes/no"},
        "first-name": {"type": "string", "description": "as in a/b.json"},
        "n": {"type": "string"},
    }
    assert schema["required"] == list(schema["properties"])


def test_lines_may_have_commas_in_their_descriptions():
    schema = read_schema("\nname: first, last\nage int: in years\n")
    assert schema["properties"]["name"]["description"] == "first, last"


@pytest.mark.parametrize("given", ["[name, age int]", "[\n  name\n  age int\n]"])
def test_brackets_make_a_list(given):
    assert read_schema(given) == {"type": "array", "items": PERSON}


def nested(levels):
    text = '{"type": "string"}'
    for _ in range(levels):
        text = f'{{"items": {text}}}'
    return text


def chain(length):
    """Objects that need each other, one after the other."""
    defs = {
        f"d{i}": {
            "type": "object",
            "properties": {"x": {"$ref": f"#/$defs/d{i + 1}"}},
            "required": ["x"],
        }
        for i in range(length - 1)
    }
    defs[f"d{length - 1}"] = {"type": "string"}
    return json.dumps({"$defs": defs, "$ref": "#/$defs/d0"})


REFUSED = [
    ("", "the schema is empty"),
    (" , ", "the schema is empty"),
    ("[]", "the schema is empty"),
    ("name, age integer", "field 2, age, has the unknown type 'integer'"),
    ("name, name int", "field 2, name, occurs twice"),
    ("name, age int int", "no file at name, age int int, and field 2, 'age int int', is not NAME"),
    ("name, 3d", "no file at name, 3d, and field 2, '3d', is not NAME"),
    ("[1, 2]", "no file at [1, 2], and field 1, '1', is not NAME"),
    ("person.json", "no file at person.json"),
    ("schemas/person", "no file at schemas/person"),
    ("C:\\schemas\\person.json", "no file at C:\\schemas\\person.json"),
    ("name: \udcff", "the schema is not UTF-8 text: character 7"),
    ("{", "the schema is not valid JSON: expecting property name enclosed in double quotes at"),
    ('{"type": "object",\n "x": }', "the schema is not valid JSON: expecting value at line 2, c"),
    ('{"type": "string", "type": "object"}', "the schema is not valid JSON: the key 'type' occ"),
    ('{"const": NaN}', "the schema is not valid JSON: NaN is not a JSON number"),
    ('{"const": "\\ud800"}', "the schema is not valid JSON: U+D800 is half a surrogate pair"),
    (f'{{"const": "{"x" * 2**20}"}}', "the schema has 1,048,589 characters, at most 1,048,576"),
    ('{"a":' * 100_000, "the schema is not valid JSON: it is nested too deeply"),
    (nested(MAX_DEPTH), "the schema is not a valid JSON schema: it is nested 61 levels deep, more"),
    (
        '{"properties": {"age": {"type": "int"}}}',
        "the schema is not a valid JSON schema: at /properties/age/type: 'int' is not valid under",
    ),
    (
        '{"properties": {"a/b~": {"minLength": -1}}}',
        "the schema is not a valid JSON schema: at /properties/a~1b~0/minLength: -1 is less than",
    ),
    (
        '{"pattern": "("}',
        "the schema is not a valid JSON schema: at /pattern: '(' is not a 'regex'",
    ),
    (
        '{"pattern": "^[[:alpha:]]{3}$"}',
        "the schema is not a valid JSON schema: at /pattern: '^[[:alpha:]]{3}$' can be read in two "
        "ways: possible nested set at position 2",
    ),
    (
        '{"items": {"patternProperties": {"[a-z&&b]": {}}}}',
        "the schema is not a valid JSON schema: at /items/patternProperties: '[a-z&&b]' can be",
    ),
    (
        '{"pattern": "(?u)a"}',
        "the schema is not a valid JSON schema: at /pattern: '(?u)a' is not a",
    ),
    (
        '{"pattern": "a{99999999999}"}',
        "the schema is not a valid JSON schema: at /pattern: 'a{99999999999}' is not a 'regex'",
    ),
    (
        json.dumps({"pattern": 3_000 * "(" + 3_000 * ")"}),
        "the schema is not a valid JSON schema: at /pattern: '(((((((((",
    ),
    ('{"pattern": "[a||b]"}', "the schema is not a valid JSON schema: at /pattern: '[a||b]' can"),
    ('{"pattern": "[a--b]"}', "the schema is not a valid JSON schema: at /pattern: '[a--b]' can"),
    (
        '{"$schema": "http://json-schema.org/draft-04/schema#"}',
        "the schema is not a valid JSON schema: its $schema, 'http://json-schema.org/draft-04/sche",
    ),
    ('{"$schema": 4}', "the schema is not a valid JSON schema: its $schema, '4', is none of"),
    (
        '{"properties": {"a": {"$ref": "https://example.com/a.json"}}}',
        "the schema refers to 'https://example.com/a.json' at /properties/a; only references with",
    ),
    ('{"allOf": [{"$ref": "a.json#/b"}]}', "the schema refers to 'a.json#/b' at /allOf/0; only"),
    ('{"$ref": "file:///etc/passwd"}', "the schema refers to 'file:///etc/passwd' at its top; on"),
    (
        '{"properties": {"default": {"$ref": "http://x/"}}}',
        "the schema refers to 'http://x/' at /properties/default; only",
    ),
    (
        '{"$ref": "#/examples/0", "examples": [{"$ref": "http://x/"}]}',
        "the schema cannot be enforced: Resource 'http://x/' is not present in a registry",
    ),
    ('{"$defs": {"a": {"$id": "http://x/"}}}', "the schema has an $id at /$defs/a; only its top"),
    (chain(1_000), "the schema refers to 1,000 definitions, together 2,998 levels deep, more"),
    ('{"$ref": "#/$defs/a"}', "the schema cannot be enforced: Pointer '/$defs/a' does not exist"),
    ('{"$ref": "#"}', "the schema cannot be enforced: no answer can satisfy it"),
    (
        '{"properties": {"a": {"$ref": "#"}}, "required": ["a"], "type": "object"}',
        "the schema cannot be enforced: parser error: Too many items",
    ),
    (
        '{"items": {"type": "array", "uniqueItems": true}}',
        "the schema uses uniqueItems at /items, which cannot be enforced while an answer is writt",
    ),
    ('{"if": {"type": "string"}, "then": {"minLength": 3}}', "the schema uses if, then at its top"),
    ('{"oneOf": [{"type": "number"}, {"type": "integer"}]}', "the schema uses oneOf with choices"),
    (
        '{"properties": {"p": {"format": "telephone", "type": "string"}}}',
        "the schema uses the format telephone at /properties/p, which cannot be enforced",
    ),
    ('{"pattern": "(?=a)b"}', "the schema cannot be enforced: regex parse error: (?=a)b ^^^ error"),
    ('{"minimum": 5, "maximum": 3, "type": "number"}', "the schema cannot be enforced: Unsatisfia"),
    (
        json.dumps(
            {"allOf": [{"anyOf": [{"required": [f"{i} {j}"]} for j in "abcd"]} for i in range(12)]}
        ),
        "the schema cannot be enforced: schema too large",
    ),
    (
        json.dumps({"type": "object", "properties": {f"p{i}": {} for i in range(2_000)}}),
        "the schema cannot be enforced: Parser Error: Current row has",
    ),
]


@pytest.mark.parametrize(("given", "message"), REFUSED, ids=[m[:60] for _, m in REFUSED])
def test_what_cannot_be_used_is_refused_in_one_line(given, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError) as caught:
        read_schema(given)
    assert caught.value.message.startswith(message)
    assert "\n" not in caught.value.message
    assert len(caught.value.message) < 500


def test_a_file_is_named_in_its_errors(tmp_path):
    path = tmp_path / "s.json"
    for content, rest in [
        ("{", "is not valid JSON: expecting property name"),
        ("[]", "holds a JSON list, no object"),
        ("true", "holds a JSON bool, no object"),
        ('{"type": 3}', "is not a valid JSON schema: at /type: 3 is not valid"),
        ('{"not": {}}', "uses not at its top, which cannot be enforced"),
    ]:
        path.write_text(content)
        with pytest.raises(UsageError) as caught:
            read_schema(str(path))
        assert caught.value.message.startswith(f"{path} {rest}")


def test_hints_say_what_to_write():
    def hint(given):
        with pytest.raises(UsageError) as caught:
            read_schema(given)
        return caught.value.hint

    assert (
        hint("no/such/file")
        == "--schema takes JSON text {…}, a JSON file, or fields: 'name, age int'"
    )
    assert hint("age integer") == "types are str, int, float, bool"
    assert "integer" in hint('{"type": "int"}')
    assert hint('{"$ref": "http://x"}').startswith('put that schema under "$defs"')
    assert hint('{"not": {}}') == "leave it out of the schema and ask for it in the prompt"


@pytest.mark.parametrize(
    "schema",
    [
        {"enum": [{"$ref": "http://example.com"}]},
        {"type": "object", "properties": {"$ref": {"type": "string"}, "$id": {"type": "string"}}},
        {"$id": "http://example.com/", "$defs": {"a": {"type": "string"}}, "$ref": "#/$defs/a"},
        {"$schema": "http://json-schema.org/draft-07/schema#", "type": "string"},
        {"oneOf": [{"type": "string"}, {"type": "integer"}]},
        {"type": "array", "items": {"$ref": "#"}},
        {"type": "string", "pattern": r"^[\[\]a&]-[|]$"},
        json.loads(nested(MAX_DEPTH - 1)),
    ],
)
def test_what_only_looks_wrong_is_taken(schema):
    assert read_schema(json.dumps(schema)) == schema


def test_a_right_answer_gives_its_value():
    assert check(PERSON, '\n\n{"name": "Ada", "age": 36}\n') == {"name": "Ada", "age": 36}
    assert check({"type": "array"}, "[]") == []
    assert check({}, "null") is None


@pytest.mark.parametrize(
    ("schema", "answer", "why"),
    [
        (PERSON, '{"name": "Ada", "age": "36"}', "at /age: '36' is not of type 'integer'"),
        (PERSON, '{"name": "Ada"}', "'age' is a required property"),
        (PERSON, '{"name": "Ada", "age', "it is not valid JSON: unterminated string starting at"),
        (PERSON, 'Sure: {"name"', "it is not valid JSON: expecting value at line 1, column 1"),
        (PERSON, '{"age": 1, "age": 2}', "it is not valid JSON: the key 'age' occurs twice"),
        ({}, "[1e400]", "it is not valid JSON: the number 1e400 is out of range"),
        ({}, "[NaN]", "it is not valid JSON: NaN is not a JSON number"),
        ({"enum": ["a"]}, '"b\\n\\u001b"', r"'b\n\x1b' is not one of ['a']"),
        ({"type": "array", "items": {"items": {"maximum": 2}}}, "[[1], [2, 3]]", "at /1/1: 3 is"),
        ({"multipleOf": 0.01}, "0.295", "0.295 is not a multiple of 0.01"),
    ],
)
def test_a_wrong_answer_is_told_where_and_why(schema, answer, why):
    with pytest.raises(SchemaError) as caught:
        check(schema, answer)
    assert caught.value.message.startswith(f"the answer does not satisfy the schema: {why}")
    assert "\n" not in caught.value.message
    assert '"answer" field of --json' in caught.value.hint
    assert caught.value.exit_code == 7


def test_an_empty_answer_is_called_so():
    with pytest.raises(SchemaError, match="the answer is empty"):
        check({}, " \n")


def test_a_long_value_is_not_repeated_whole():
    with pytest.raises(SchemaError) as caught:
        check({"type": "integer"}, json.dumps("x" * 10_000))
    assert len(caught.value.message) < 400
    assert caught.value.message.endswith("is not of type 'integer'")


def test_cents_are_multiples_of_a_hundredth():
    prices = ", ".join(f"{cents / 100:.2f}" for cents in range(1_000))
    check({"items": {"multipleOf": 0.01}}, f"[{prices}]")


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        (r"^\W$", "é"),
        (r"^\D$", "٣"),
        (r"[^\w\s]", "größer"),
        (r"^\s\S$", "\u00a0é"),
        (r"^\w$", "w"),
    ],
)
def test_letters_and_digits_of_a_pattern_are_those_of_ascii(pattern, text):
    schema = {"const": text, "pattern": pattern}
    assert read_schema(json.dumps(schema)) == schema  # so it can be enforced
    check(schema, json.dumps(text))
    with pytest.raises(SchemaError, match=r"'12' does not match '\^a\$'"):
        check({"pattern": "^a$"}, '"12"')


def test_the_draft_a_schema_names_decides():
    pair = {"items": [{"type": "string"}, {"type": "integer"}]}  # a tuple up to 2019-09
    with pytest.raises(SchemaError, match="at /1: 'b' is not of type 'integer'"):
        check({"$schema": "http://json-schema.org/draft-07/schema#", **pair}, '["a", "b"]')


def test_answers_deeper_than_python_checks_are_refused():
    tree = {"type": "array", "items": {"$ref": "#"}}
    assert check(tree, "[" * 20 + "]" * 20)
    with pytest.raises(SchemaError, match="nested too deeply"):
        check(tree, "[" * 900 + "]" * 900)


def test_nothing_is_fetched_to_check_an_answer():
    with pytest.raises(SchemaError, match=r"'http://example\.com/a\.json' is not in it"):
        check({"$ref": "http://example.com/a.json"}, "1")


def test_references_that_multiply_end():
    doubling = {f"d{i}": {"allOf": 2 * [{"$ref": f"#/$defs/d{i + 1}"}]} for i in range(40)}
    schema = {"$ref": "#/$defs/d0", "$defs": {**doubling, "d40": {}}}
    with pytest.raises(SchemaError, match="more than 100,000 references"):
        check(schema, '"x"')
