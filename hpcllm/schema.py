"""JSON Schema of a record, for editors: completion, hover and a red line under a mistake while one types.

Made for the YAML language server: https://github.com/redhat-developer/yaml-language-server.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

DIALECT = "http://json-schema.org/draft-07/schema#"


def schema(model: type[BaseModel]) -> dict[str, Any]:
    """The schema of a file that holds such a record. What is left out by null in Python is left out, not null."""
    made = model.model_json_schema(ref_template="#/definitions/{model}")
    plain: dict[str, Any] = _plain(made)
    return {
        "$schema": DIALECT,
        **{key: value for key, value in plain.items() if key != "$defs"},
        "definitions": plain["$defs"],
    }


def _plain(node: Any) -> Any:
    """Without null among the choices, and without titles that only repeat a key."""
    if isinstance(node, list):
        return [_plain(part) for part in node]
    if not isinstance(node, dict):
        return node
    node = {key: _properties(value) if key == "properties" else _plain(value) for key, value in node.items()}
    choices = [choice for choice in node.pop("anyOf", []) if choice != {"type": "null"}]
    if node.get("default", "") is None:
        del node["default"]
    if len(choices) == 1:
        return {**choices[0], **node}
    return {**({"anyOf": choices} if choices else {}), **node}


def _properties(properties: dict[str, Any]) -> dict[str, Any]:
    """Of the fields, whose names are no words of JSON Schema."""
    plain = {name: _plain(field) for name, field in properties.items()}
    return {name: {key: value for key, value in field.items() if key != "title"} for name, field in plain.items()}
