"""As much of JSON Schema's draft 7 as our schemas use, so that files can be held against them without a package."""

import re
from collections.abc import Iterator
from typing import Any

TYPES = {
    "object": dict,
    "array": list,
    "string": str,
    "boolean": bool,
    "null": type(None),
    "integer": int,
    "number": (int, float),
}
SAID = {"title", "description", "default", "examples", "$schema", "definitions", "format"}
HELD = {"$ref", "type", "enum", "const", "pattern", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"} | {
    "maxLength", "items", "required", "properties", "additionalProperties", "anyOf", "if", "then", "else",
    "propertyNames", "minItems", "maxItems", "prefixItems",
}  # fmt: skip


def failures(value: Any, schema: dict[str, Any], root: dict[str, Any], path: str = "") -> Iterator[str]:
    """Where and how a value breaks a schema. Raises AssertionError for a word of JSON Schema that is not known here."""
    assert set(schema) <= SAID | HELD, set(schema) - SAID - HELD
    if "$ref" in schema:
        yield from failures(value, root["definitions"][schema["$ref"].removeprefix("#/definitions/")], root, path)
    if "if" in schema:
        holds = not list(failures(value, schema["if"], root, path))
        yield from failures(value, schema["then" if holds else "else"], root, path)
    if "anyOf" in schema and all(list(failures(value, choice, root, path)) for choice in schema["anyOf"]):
        yield f"{path}: {value!r} is none of the choices"
    kinds = schema.get("type", list(TYPES))
    if not any(_is(value, kind) for kind in ([kinds] if isinstance(kinds, str) else kinds)):
        yield f"{path}: {value!r} is no {kinds}"
        return
    yield from (f"{path}: {value!r} breaks {word}" for word in _broken(value, schema))
    if isinstance(value, dict):
        yield from _of_a_map(value, schema, root, path)
    if isinstance(value, list):
        for i, element in enumerate(value):
            yield from failures(element, schema.get("items", {}), root, f"{path}[{i}]")


def _of_a_map(value: dict[str, Any], schema: dict[str, Any], root: dict[str, Any], path: str) -> Iterator[str]:
    yield from (f"{path}: {name} is missing" for name in schema.get("required", ()) if name not in value)
    known, others = schema.get("properties", {}), schema.get("additionalProperties", True)
    for name, inner in value.items():
        if name not in known and others is False:
            yield f"{path}: {name} is not allowed"
        elif name in known or isinstance(others, dict):
            yield from failures(inner, known.get(name, others), root, f"{path}.{name}")


def _is(value: Any, kind: str) -> bool:
    return isinstance(value, TYPES[kind]) and not (isinstance(value, bool) and kind in ("integer", "number"))


def _broken(value: Any, schema: dict[str, Any]) -> list[str]:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    checks = {
        "enum": lambda allowed: value in allowed,
        "const": lambda only: value == only,
        "pattern": lambda pattern: not isinstance(value, str) or re.search(pattern, value),
        "minimum": lambda least: not number or value >= least,
        "maximum": lambda most: not number or value <= most,
        "exclusiveMinimum": lambda bound: not number or value > bound,
        "exclusiveMaximum": lambda bound: not number or value < bound,
        "maxLength": lambda most: not isinstance(value, str) or len(value) <= most,
    }
    return [word for word, holds in checks.items() if word in schema and not holds(schema[word])]
