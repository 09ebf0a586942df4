"""Answers held to a schema: whatever allowed tokens come, the JSON at the end satisfies it."""

import json
import random
from pathlib import Path

import pytest

import qwen35cli
from qwen35cli.errors import SchemaError
from qwen35cli.text.constraint import Constraint, is_whole
from qwen35cli.text.schema import check, read_schema
from qwen35cli.text.tokenizer import Tokenizer
from tests.fakes import ByteTokenizer

MAX_TOKENS = 2_000
WALKS = 12

SCHEMAS = {
    "short form": "name, age int, score bool",
    "list of objects": "[name, age int]",
    "nested": {
        "type": "object",
        "properties": {
            "where": {
                "type": "object",
                "properties": {"city": {"type": "string"}, "zip": {"type": ["string", "null"]}},
                "required": ["city"],
                "additionalProperties": False,
            },
            "tags": {"type": "array", "items": {"enum": ["red", "green", "blue\n"]}, "maxItems": 3},
        },
        "required": ["where", "tags"],
        "additionalProperties": False,
    },
    "enum": {"enum": ["yes", "no", None, 3, 2.5, {"a": [1]}, "☃ <|im_end|> </think>"]},
    "arrays": {
        "type": "array",
        "minItems": 2,
        "maxItems": 4,
        "items": {"type": "array", "items": {"type": "boolean"}, "minItems": 1, "maxItems": 2},
    },
    "numbers": {
        "type": "object",
        "properties": {
            "share": {"type": "number", "minimum": 0, "exclusiveMaximum": 1},
            "dozens": {"type": "integer", "multipleOf": 12, "minimum": -1200, "maximum": 12000},
            "price": {"type": "number", "multipleOf": 0.01, "minimum": 0, "maximum": 99},
        },
        "required": ["share", "dozens", "price"],
        "additionalProperties": False,
    },
    "anyOf": {
        "anyOf": [
            {"type": "null"},
            {"type": "integer"},
            {"type": "array", "items": {"type": "string", "maxLength": 4}, "maxItems": 2},
        ]
    },
    "oneOf by a constant": {
        "oneOf": [
            {
                "type": "object",
                "properties": {"kind": {"const": kind}, "size": {"type": "boolean"}},
                "required": ["kind", "size"],
                "additionalProperties": False,
            }
            for kind in ("cat", "dog")
        ]
    },
    "strings": {
        "type": "array",
        "prefixItems": [
            {"type": "string", "pattern": "^[A-ZÄÖÜ]{2,3}-\\d+$"},
            {"type": "string", "minLength": 3, "maxLength": 5},
            {"type": "string", "format": "date"},
        ],
        "items": False,
        "minItems": 3,
    },
    "$defs": {
        "$defs": {
            "tree": {
                "type": "object",
                "properties": {
                    "leaf": {"type": "boolean"},
                    "left": {"$ref": "#/$defs/tree"},
                },
                "required": ["leaf"],
                "additionalProperties": False,
            }
        },
        "$ref": "#/$defs/tree",
    },
    "draft 7": {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "definitions": {"bit": {"enum": [0, 1]}},
        "items": [{"$ref": "#/definitions/bit"}, {"type": "null"}],
        "additionalItems": False,
        "minItems": 2,
        "type": "array",
    },
    "keys that could be spelled otherwise": {
        "type": "object",
        "properties": {
            "e\u0301tat \u212b": {"const": '\u212b "\\/\u0001\u007f\u2028'},  # not as NFC has them
            "日本": {"const": "😀"},
        },
        "required": ["e\u0301tat \u212b", "日本"],
        "additionalProperties": False,
    },
}


@pytest.fixture(scope="session")
def demo() -> Tokenizer:
    return Tokenizer.from_folder(Path(qwen35cli.__file__).parent / "demo")


@pytest.fixture(params=["bytes", "small", "demo"])
def tokenizer(request):
    return ByteTokenizer() if request.param == "bytes" else request.getfixturevalue(request.param)


def schema_of(given):
    return read_schema(given if isinstance(given, str) else json.dumps(given))


def walk(constraint, tokenizer, rng):
    """Some answer: allowed tokens at random, those that close something more often."""
    closing = [tokenizer.encode(end)[0] for end in '"}]']
    taken = []
    while len(taken) < MAX_TOKENS:
        allowed = constraint.allowed()
        assert allowed.shape == (tokenizer.vocab_size,)
        end = bool(allowed[tokenizer.special.im_end])
        assert end == constraint.accepting
        tokens = allowed.nonzero().flatten().tolist()
        assert not any(tokenizer.is_added(t) for t in tokens if t != tokenizer.special.im_end)
        likely = [token for token in closing if allowed[token]]
        if end and rng.random() < 0.5:
            token = tokenizer.special.im_end
        else:
            token = rng.choice(likely if likely and rng.random() < 0.3 else tokens)
        constraint.take(token)
        if token == tokenizer.special.im_end:
            return b"".join(tokenizer.token_bytes(t) for t in taken).decode()
        taken.append(token)
    raise AssertionError(f"no end after {MAX_TOKENS} tokens")


@pytest.mark.parametrize("given", SCHEMAS.values(), ids=SCHEMAS)
def test_any_walk_ends_in_json_that_satisfies_the_schema(given, tokenizer):
    schema = schema_of(given)
    constraint = Constraint(schema, tokenizer)
    answers = set()
    for seed in range(WALKS):
        constraint.restart()
        answer = walk(constraint, tokenizer, random.Random(seed))
        check(schema, answer)
        answers.add(answer)
    assert len(answers) > 1 or given is SCHEMAS["keys that could be spelled otherwise"]


def test_the_real_vocabulary_holds_to_a_schema(real):
    schema = schema_of({"type": "array", "items": {"enum": ["é", 0.5, None]}, "minItems": 9})
    constraint = Constraint(schema, real)
    check(schema, walk(constraint, real, random.Random(0)))


def taken(constraint, tokenizer, text):
    """How much of `text` is allowed, one byte at a time, except where a longer token is forced."""
    constraint.restart()
    done = b""
    while text.encode().startswith(done) and len(done) < len(text.encode()):
        allowed = constraint.allowed().nonzero().flatten().tolist()
        rest = text.encode()[len(done) :]
        fitting = [t for t in allowed if rest.startswith(tokenizer.token_bytes(t))]
        if not fitting:
            break
        constraint.take(fitting[0])
        done += tokenizer.token_bytes(fitting[0])
    return done.decode(errors="ignore")


@pytest.mark.parametrize("answer", [{"name": "x", "age": 3}, {"name": '\n\\"é日😀', "age": -12}])
def test_json_is_spaced_as_python_does(tokenizer, answer):
    constraint = Constraint(read_schema("name, age int"), tokenizer)
    text = json.dumps(answer, ensure_ascii=False)
    assert taken(constraint, tokenizer, text) == text
    assert constraint.accepting


@pytest.mark.parametrize(
    ("text", "so_far"),
    [
        (' {"name"', ""),
        ('{ "name"', "{"),
        ('{"name":  "', '{"name": '),
        ('{"name": "a"  ', '{"name": "a"'),
        ('{"name": "a\nb"', '{"name": "a'),
        ('{"name": "\\ud83d', '{"name": "\\u'),
        ('{"age"', '{"'),
        ('{"name": "a", "age": 01', '{"name": "a", "age": 0'),
        ('{"name": "a", "age": 1}\n', '{"name": "a", "age": 1}'),
    ],
)
def test_blanks_and_other_json_are_not_allowed(text, so_far):
    tokenizer = ByteTokenizer()
    assert taken(Constraint(read_schema("name, age int"), tokenizer), tokenizer, text) == so_far


def test_what_has_one_spelling_is_given_in_the_tokenizers_own_tokens(demo):
    constraint = Constraint(schema_of({"const": {"name": "What is the weather like?"}}), demo)
    tokens = []
    while not constraint.accepting:
        (token,) = constraint.allowed().nonzero().flatten().tolist()
        constraint.take(token)
        tokens.append(token)
    assert tokens == demo.encode('{"name": "What is the weather like?"}')


def test_only_the_end_follows_what_is_complete(tokenizer):
    constraint = Constraint(schema_of({"const": 1}), tokenizer)
    assert not constraint.accepting
    constraint.take(tokenizer.encode("1")[0])
    for _ in range(2):  # before the end, and after it
        assert constraint.accepting
        assert constraint.allowed().nonzero().flatten().tolist() == [tokenizer.special.im_end]
        constraint.take(tokenizer.special.im_end)


@pytest.mark.parametrize(
    ("schema", "answer", "whole"),
    [
        ({"const": 5}, "5", True),
        ({"const": 5}, "", False),
        ({"const": 5}, "6", False),
        ({"type": "integer"}, "5", False),  # and another digit
        ({"enum": [1, 12]}, "1", False),
        ({"enum": [1, 12]}, "12", True),
        ({"type": "string"}, '"grün"', True),
        ({"type": "string"}, '"grün', False),
        ({"type": "array", "items": {"type": "integer"}}, "[1, 2]", True),
        ({"type": "array", "items": {"type": "integer"}}, "[1, 2", False),
    ],
)
def test_an_answer_is_whole_where_only_the_end_can_follow(schema, answer, whole):
    assert is_whole(schema, answer) == whole


@pytest.mark.parametrize("literal", ["<|im_end|>", "<|endoftext|>", "</think>", "<|image_pad|>"])
def test_added_tokens_stay_out_though_their_text_fits(demo, literal):
    constraint = Constraint(schema_of({"type": "string"}), demo)
    constraint.take(demo.encode('"')[0])
    assert not constraint.allowed()[demo.added[literal]]
    for token in demo.encode(literal):
        assert constraint.allowed()[token]
        constraint.take(token)
    with pytest.raises(SchemaError):
        constraint.take(demo.added[literal])


class WithGap(ByteTokenizer):
    """An id behind the last token that has none, as there are between real vocabulary and head."""

    def __init__(self):
        super().__init__()
        self.gap = self.vocab_size
        self.vocab_size += 1

    def token_bytes(self, token):
        return "\ufffd".encode() if token == self.gap else super().token_bytes(token)

    def is_added(self, token):
        return super().is_added(token) and token != self.gap


def test_an_id_without_a_token_is_never_allowed():
    tokenizer = WithGap()
    constraint = Constraint(schema_of({"type": "string"}), tokenizer)
    constraint.take(ord('"'))
    assert constraint.allowed().shape == (tokenizer.gap + 1,)
    assert not constraint.allowed()[tokenizer.gap]


def test_a_token_that_is_not_allowed_is_refused(demo):
    constraint = Constraint(read_schema("name"), demo)
    with pytest.raises(SchemaError, match="the schema cannot be enforced: "):
        constraint.take(demo.encode("x")[0])


def test_a_schemas_own_options_do_not_count():
    tokenizer = ByteTokenizer()
    options = {"whitespace_flexible": True, "whitespace_pattern": " *"}
    schema = schema_of({"x-guidance": options, "type": "array", "items": {"type": "null"}})
    assert taken(Constraint(schema, tokenizer), tokenizer, "[ null") == "["


def test_a_schema_that_no_answer_meets_is_refused():
    with pytest.raises(SchemaError, match="the schema cannot be enforced: Unsatisfiable") as caught:
        Constraint({"type": "string", "enum": [1]}, ByteTokenizer())
    assert "\n" not in caught.value.message
