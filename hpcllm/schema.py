"""JSON Schema of a record, for editors: completion, hover and a line under each mistake while one types.

In draft 7, which the YAML language server reads (https://github.com/redhat-developer/yaml-language-server).
"""

from __future__ import annotations

import ast
import inspect
import itertools
import textwrap
from collections.abc import Callable
from typing import Any

from pydantic import BaseModel

DIALECT = "http://json-schema.org/draft-07/schema#"
DEFINITIONS = "#/definitions/"
PART_OF = "PartOf"
NULL = {"type": "null"}
EXTENDS = "extends"


def schema(model: type[BaseModel]) -> dict[str, Any]:
    """The schema of a file that holds such a record.

    A file that may extend another need hold a part alone, and takes keys away by null.
    """
    made = _without_null(model.model_json_schema(ref_template=f"{DEFINITIONS}{{model}}"))
    definitions, name = made.pop("$defs"), model.__name__
    for record in records_in(model):
        _explained(record, made if record is model else definitions[record.__name__])
    for definition in (made, *definitions.values()):
        _described(definition, definitions)
    head = {"$schema": DIALECT, "title": made["title"], "description": made.pop("description", "")}
    if EXTENDS not in made["properties"]:
        return {**head, **made, "definitions": definitions}
    definitions[name] = made
    parts = {f"{PART_OF}{key}": _part(definition) for key, definition in definitions.items()}
    return {
        **head,
        "if": {"required": [EXTENDS]},
        "then": {"$ref": f"{DEFINITIONS}{PART_OF}{name}"},
        "else": {"$ref": f"{DEFINITIONS}{name}"},
        "definitions": {**definitions, **parts},
    }


def records_in(annotation: Any) -> list[type[BaseModel]]:
    """A record and all that stand in its fields, each once."""
    found: dict[type[BaseModel], None] = {}
    waiting = [annotation]
    while waiting:
        part = waiting.pop()
        if isinstance(part, type) and issubclass(part, BaseModel):
            if part not in found:
                found[part] = None
                waiting += [field.annotation for field in part.model_fields.values()]
        else:
            waiting += getattr(part, "__args__", ())
    return list(found)


def _explained(record: type[BaseModel], definition: dict[str, Any]) -> None:
    """The sentences under a record's fields become their descriptions.

    pydantic can do that by itself, when the class is made; it costs every command a tenth of a second.
    """
    sentences = {name: text for base in reversed(record.__mro__) for name, text in _sentences(base).items()}
    for name, field in record.model_fields.items():
        if name in sentences:
            key = field.alias or name
            definition["properties"][key] = {"description": sentences[name], **definition["properties"][key]}


def _sentences(record: type) -> dict[str, str]:
    """The string that stands below each annotated name of a class."""
    if not issubclass(record, BaseModel) or record is BaseModel:
        return {}
    (body,) = ast.parse(textwrap.dedent(inspect.getsource(record))).body
    lines = body.body if isinstance(body, ast.ClassDef) else []
    return {
        field.target.id: inspect.cleandoc(said.value.value)
        for field, said in itertools.pairwise(lines)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
        if isinstance(said, ast.Expr) and isinstance(said.value, ast.Constant) and isinstance(said.value.value, str)
    }


def _described(definition: dict[str, Any], definitions: dict[str, Any]) -> None:
    """pydantic leaves out a field's description where its record says the same; a hover shows the field's alone."""
    for field in definition.get("properties", {}).values():
        record = next((part["$ref"] for part in (field, *field.get("anyOf", ())) if "$ref" in part), "")
        field.setdefault("description", definitions.get(record.removeprefix(DEFINITIONS), {}).get("description", ""))


def _without_null(node: Any) -> Any:
    """What Python has as None is left out in a file; and titles that only repeat a key are noise."""
    if not isinstance(node, dict):
        return [_without_null(part) for part in node] if isinstance(node, list) else node
    plain = _mapped(node, _without_null)
    choices = [choice for choice in plain.pop("anyOf", []) if choice != NULL]
    if not _as_in_a_file(plain):
        plain.pop("default", None)
    if "properties" in plain:
        for field in plain["properties"].values():
            field.pop("title", None)
    if len(choices) == 1:
        return {**choices[0], **plain}
    return {**({"anyOf": choices} if choices else {}), **plain}


def _as_in_a_file(field: dict[str, Any]) -> bool:
    """Whether a default reads as one would write it: not a quantity without its unit, nor a whole part."""
    default = field.get("default")
    is_number = isinstance(default, (int, float)) and field.get("type") in ("integer", "number")
    return isinstance(default, (bool, str)) or is_number


def _part(node: Any) -> Any:
    """The same with nothing required, and null for every value of a map."""
    if not isinstance(node, dict):
        return [_part(part) for part in node] if isinstance(node, list) else node
    part = {key: value for key, value in _mapped(node, _part).items() if key != "required"}
    if "$ref" in part:
        part["$ref"] = part["$ref"].replace(DEFINITIONS, DEFINITIONS + PART_OF)
    if isinstance(part.get("properties"), dict):
        part["properties"] = {name: _or_null(field) for name, field in part["properties"].items()}
    if isinstance(part.get("additionalProperties"), dict):
        part["additionalProperties"] = _or_null(part["additionalProperties"])
    return part


def _or_null(field: dict[str, Any]) -> dict[str, Any]:
    said: dict[str, Any] = {key: field.pop(key) for key in ("description", "default", "examples") if key in field}
    return {**said, "anyOf": [*(field.pop("anyOf", None) or [field]), NULL]}


def _mapped(node: dict[str, Any], change: Callable[[Any], Any]) -> dict[str, Any]:
    """A part of a schema with each part inside it changed. The names of fields are no words of JSON Schema."""
    return {
        key: {name: change(field) for name, field in value.items()} if key in ("properties", "$defs") else change(value)
        for key, value in node.items()
    }
