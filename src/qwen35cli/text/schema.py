"""JSON schemas for answers: read what was given, and check an answer against it.

Only local references are followed; nothing here touches the network.
"""

import itertools
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from qwen35cli.errors import SchemaError, UsageError

from .strict_json import MAX_FILE_BYTES, loads, read

MAX_DEPTH = 60  # of the lists and objects in a schema; a real one has 20
MAX_LEVELS = 2_000  # of all that it refers to, together: a chain of it is recursed into
MAX_REFERENCES = 100_000  # followed to check one answer
_FORMS = "--schema takes JSON text {…}, a JSON file, or fields: 'name, age int'"
_TYPES = {"str": "string", "int": "integer", "float": "number", "bool": "boolean"}
_JSON_TYPES = ("string", "number", "integer", "boolean", "object", "array", "null")
_FIELD = re.compile(r"([^\W\d][\w-]*)(?:\s+(\w+))?\s*(?::\s*(.*))?", re.DOTALL)

_NAMED = frozenset(  # keywords whose values are schemas by name
    {"properties", "patternProperties", "dependentSchemas", "dependencies", "$defs", "definitions"}
)
_DATA = frozenset({"enum", "const", "default", "examples"})  # keywords that hold no schemas


def read_schema(given: str) -> dict[str, Any]:
    """The JSON schema that `--schema` asks for.

    Args:
        given: JSON text that begins with `{`; the path of a JSON file; or the short form
            `name, age int, note: in one sentence`: fields separated by commas, or by newlines
            where there are any, each with a type of str (which is the default), int, float or
            bool, and a description behind a colon. All of them are required and no others are
            allowed. `[name, age int]` is a list of such objects.

    Raises:
        UsageError: none of these, not valid JSON, not a valid schema, a reference that is not
            local, or something that cannot be enforced token by token.
    """
    text = given.strip()
    if not text.isprintable() and (bad := re.search("[\ud800-\udfff]", text)):
        raise UsageError(
            f"the schema is not UTF-8 text: character {bad.start() + 1:,}", "save it as UTF-8"
        )
    if text.startswith("{"):
        schema, where = _parsed(text), "the schema"
    elif _is_path(text):
        schema, where = read(Path(text), _FORMS), text
    else:
        return _short_form(text)
    if not isinstance(schema, dict):
        raise UsageError(f"{where} holds a JSON {type(schema).__name__}, no object", _FORMS)
    if problem := invalid(schema):
        hint = f"types are {', '.join(_JSON_TYPES)}" if "/type: " in problem else ""
        raise UsageError(f"{where} is not a valid JSON schema: {problem}", hint)
    _check_references(schema, where)
    _check_enforceable(schema, where)
    return schema


def _parsed(text: str) -> Any:
    if len(text) > MAX_FILE_BYTES:
        raise UsageError(f"the schema has {len(text):,} characters, at most {MAX_FILE_BYTES:,}")
    try:
        return loads(text)
    except ValueError as error:
        raise UsageError(f"the schema is not valid JSON: {error}", _FORMS) from None


def _is_path(text: str) -> bool:
    """Whether a file is meant, there or not: no field has a slash or a dot in its name."""
    name = text.partition(",")[0].partition(": ")[0]
    if "\n" not in text and (name.endswith(".json") or "/" in name or "\\" in name):
        return True
    try:
        return Path(text).exists() and not Path(text).is_dir()
    except OSError:  # too long for a name
        return False


def _short_form(text: str) -> dict[str, Any]:
    many = text.startswith("[") and text.endswith("]")
    inner = text[1:-1] if many else text
    properties: dict[str, Any] = {}
    fields = [field.strip() for field in inner.split("\n" if "\n" in inner.strip() else ",")]
    for number, field in enumerate(filter(None, fields), 1):
        if not (match := _FIELD.fullmatch(field)):
            raise UsageError(
                f"no file at {text[:80]}, and field {number}, {field[:80]!r}, "
                "is not NAME, NAME TYPE or NAME TYPE: DESCRIPTION",
                _FORMS,
            )
        name, kind, description = match.groups()
        if kind and kind not in _TYPES:
            raise UsageError(
                f"field {number}, {name}, has the unknown type {kind!r}",
                f"types are {', '.join(_TYPES)}",
            )
        if name in properties:
            raise UsageError(f"field {number}, {name}, occurs twice", "give each field once")
        properties[name] = {"type": _TYPES[kind or "str"]}
        if description:
            properties[name]["description"] = description
    if not properties:
        raise UsageError("the schema is empty", _FORMS)
    one = {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }
    return {"type": "array", "items": one} if many else one


def invalid(schema: Mapping[str, Any]) -> str | None:
    """Why `schema` is no JSON schema of the draft it names, by default 2020-12; where first."""
    from jsonschema import exceptions

    if (depth := _depth(schema)) > MAX_DEPTH:
        return f"it is nested {depth:,} levels deep, more than {MAX_DEPTH}"
    if (draft := _dialect(schema)) is None:
        return f"its $schema, {str(schema['$schema'])[:80]!r}, is none of {', '.join(_dialects())}"
    try:
        draft.check_schema(schema, format_checker=_patterns())
    except exceptions.SchemaError as error:
        why = error.message
        if isinstance(error.cause, FutureWarning):
            why = f"{error.instance!r} can be read in two ways: {str(error.cause).lower()}"
        return _at(error.absolute_path) + _line(why)
    return None


def _patterns() -> Any:
    """Finds patterns that are none, or that Python warns of: what holds an answer to them reads
    `[[:alpha:]]` or `[a-z&&b]` otherwise than what checks it.
    """
    from jsonschema import FormatChecker

    checker = FormatChecker(("regex",))

    @checker.checks(
        "regex", raises=(re.error, ValueError, OverflowError, RecursionError, FutureWarning)
    )
    def compiles(pattern: object) -> bool:
        with warnings.catch_warnings():
            warnings.simplefilter("error", FutureWarning)
            return not isinstance(pattern, str) or bool(re.compile(pattern, re.ASCII))

    return checker


def _dialect(schema: Mapping[str, Any]) -> Any:
    """The validator of the draft that a schema names; None where it is none of ours."""
    name = schema.get("$schema", "https://json-schema.org/draft/2020-12/schema")
    return _dialects().get(name.removesuffix("#")) if isinstance(name, str) else None


def _dialects() -> dict[str, Any]:
    """Name of a draft -> its validator."""
    from jsonschema import validators

    return {
        "http://json-schema.org/draft-07/schema": validators.Draft7Validator,
        "https://json-schema.org/draft/2019-09/schema": validators.Draft201909Validator,
        "https://json-schema.org/draft/2020-12/schema": validators.Draft202012Validator,
    }


def _depth(value: object) -> int:
    """How deep lists and objects are nested."""
    depth, level = 0, [value]
    while level := [item for item in level if isinstance(item, dict | list)]:
        depth += 1
        level = [x for item in level for x in (item.values() if isinstance(item, dict) else item)]
    return depth


def _check_references(schema: dict[str, Any], where: str) -> None:
    targets: set[str] = set()
    for path, part in _subschemas(schema):
        if path and isinstance(part.get("$id"), str):
            raise UsageError(f"{where} has an $id {_place(path)}; only its top may", "leave it out")
        target = part.get("$ref")
        if isinstance(target, str) and target != "#" and not target.startswith("#/"):
            raise UsageError(
                f"{where} refers to {target[:120]!r} {_place(path)}; only references within the "
                "schema are followed, nothing is fetched",
                'put that schema under "$defs" and refer to "#/$defs/NAME"',
            )
        if isinstance(target, str):
            targets.add(target)
    levels = sum(_depth(referred(target, schema)) for target in targets)
    if levels > MAX_LEVELS:
        raise UsageError(
            f"{where} refers to {len(targets):,} definitions, together {levels:,} levels deep, "
            f"more than {MAX_LEVELS:,}",
            "leave out what the answer does not need",
        )


def referred(target: str, schema: object) -> object:
    """What a local reference, `#/$defs/NAME`, leads to in a schema; None where that is nothing."""
    for step in unquote(target).split("/")[1:]:
        step = step.replace("~1", "/").replace("~0", "~")
        if isinstance(schema, dict):
            schema = schema.get(step)
        elif isinstance(schema, list) and step.isdecimal() and int(step) < len(schema):
            schema = schema[int(step)]
        else:
            return None
    return schema


def _check_enforceable(schema: dict[str, Any], where: str) -> None:
    from .constraint import unenforceable

    if not (reason := unenforceable(schema)):
        return
    if reason.startswith("Unimplemented keys"):
        keys = re.findall(r'"([^"]+)"', reason)
        at = _place_of(schema, lambda part: not part.keys().isdisjoint(keys))
        raise _unenforceable(f"{where} uses {', '.join(keys)} {at}")
    if (name := reason.removeprefix("Unknown format: ")) != reason:
        at = _place_of(schema, lambda part: part.get("format") == name)
        raise _unenforceable(f"{where} uses the format {_line(name)} {at}")
    if reason.startswith("oneOf "):  # llguidance names an option of its own
        raise UsageError(
            f"{where} uses oneOf with choices that one answer may satisfy together, which cannot "
            "be enforced while an answer is written",
            "write anyOf in its place",
        )
    raise UsageError(f"{where} cannot be enforced: {_line(reason)}", "simplify the schema")


def _unenforceable(what: str) -> UsageError:
    return UsageError(
        f"{what}, which cannot be enforced while an answer is written",
        "leave it out of the schema and ask for it in the prompt",
    )


def _place_of(schema: dict[str, Any], sought: Callable[[dict[str, Any]], bool]) -> str:
    """Where the first of the schemas within `schema` is that is sought."""
    return _place(next((path for path, part in _subschemas(schema) if sought(part)), ()))


def _subschemas(
    schema: dict[str, Any], path: tuple[str | int, ...] = ()
) -> Iterator[tuple[tuple[str | int, ...], dict[str, Any]]]:
    """Every schema within a valid schema, with its path; the schema itself comes first."""
    yield path, schema
    for key, value in schema.items():
        inner: Iterable[tuple[tuple[str | int, ...], Any]]
        if key in _DATA:
            continue
        if isinstance(value, list):
            inner = (((key, i), item) for i, item in enumerate(value))
        elif isinstance(value, dict) and key in _NAMED:
            inner = (((key, name), item) for name, item in value.items())
        else:
            inner = [((key,), value)]
        for step, item in inner:
            if isinstance(item, dict):
                yield from _subschemas(item, path + step)


def check(schema: Mapping[str, Any], text: str) -> Any:
    """The value of an answer that is JSON and satisfies a schema from `read_schema`.

    Raises:
        SchemaError: it is not, or does not; says where and why.
    """
    from jsonschema import exceptions
    from referencing import Registry
    from referencing.exceptions import Unresolvable

    in_json = 'the text is in the "answer" field of --json'
    if not text.strip():
        raise SchemaError("the answer is empty, so it does not satisfy the schema", in_json)
    try:
        value = loads(text)
    except ValueError as error:
        raise SchemaError(
            f"the answer does not satisfy the schema: it is not valid JSON: {error}",
            f"give it more room with --max-tokens if it was cut; {in_json}",
        ) from None
    try:
        validator = _exact(_dialect(schema))(schema, registry=Registry())
        problem = exceptions.best_match(validator.iter_errors(value))
    except RecursionError:
        raise SchemaError(
            "the answer cannot be checked against the schema: it is nested too deeply", in_json
        ) from None
    except Unresolvable as error:
        raise SchemaError(
            f"the answer cannot be checked against the schema: {error.ref!r} is not in it", in_json
        ) from None
    if problem is not None:
        raise SchemaError(
            "the answer does not satisfy the schema: "
            + _at(problem.absolute_path)
            + _line(problem.message),
            in_json,
        )
    return value


def _exact(draft: Any) -> Any:
    """A validator of that draft that counts the references it follows, reckons in decimals, and
    reads patterns as what holds an answer to them does.
    """
    from jsonschema import validators

    follow, followed = draft.VALIDATORS["$ref"], itertools.count(1)

    def counted(validator: Any, target: str, value: object, schema: Any) -> Any:
        if next(followed) > MAX_REFERENCES:
            raise SchemaError(
                f"the answer cannot be checked against the schema: more than {MAX_REFERENCES:,} "
                "references are to be followed",
                "simplify the schema",
            )
        return follow(validator, target, value, schema)

    extend: Any = validators.extend  # the stubs give it no types
    return extend(draft, {"$ref": counted, "multipleOf": _multiple_of, "pattern": _pattern})


def _multiple_of(
    validator: Any, factor: float, value: object, schema: Mapping[str, Any]
) -> Iterator[Exception]:
    """`multipleOf` on the digits as written: 0.29 is a multiple of 0.01, though not in binary."""
    from jsonschema import ValidationError

    if validator.is_type(value, "number") and Fraction(repr(value)) % Fraction(repr(factor)):
        yield ValidationError(f"{value!r} is not a multiple of {factor!r}")


def _pattern(
    validator: Any, pattern: str, value: Any, schema: Mapping[str, Any]
) -> Iterator[Exception]:
    r"""`pattern` with the `\w` and `\d` of JSON Schema, which are ASCII, or with Python's."""
    from jsonschema import ValidationError

    if validator.is_type(value, "string") and not any(
        re.search(pattern, value, flags) for flags in (re.ASCII, re.UNICODE)
    ):
        yield ValidationError(f"{value!r} does not match {pattern!r}")


def _pointer(path: Iterable[str | int]) -> str:
    return "".join("/" + str(step).replace("~", "~0").replace("/", "~1") for step in path)


def _place(path: Iterable[str | int]) -> str:
    return f"at {pointer}" if (pointer := _pointer(path)) else "at its top"


def _at(path: Iterable[str | int]) -> str:
    return f"at {pointer}: " if (pointer := _pointer(path)) else ""


def _line(message: str) -> str:
    """A library's message as the end of one of ours."""
    line = " ".join(message.split())
    return line if len(line) <= 240 else f"{line[:160]} … {line[-70:]}"
