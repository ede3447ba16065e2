"""Records of a site's facts, in which a value may be `unknown`."""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import ConfigDict, model_validator

from hpcllm.errors import UserError
from hpcllm.source import Record

UNKNOWN = "unknown"
Value = TypeVar("Value")


def _unknown_too(schema: dict[str, Any]) -> None:
    """For editors: what may be left out may be `unknown`."""
    for name, field in schema.get("properties", {}).items():
        if name not in schema.get("required", ()):
            said = {key: field.pop(key) for key in ("title", "description", "default") if key in field}
            choices = field.pop("anyOf", None) or [dict(field)]
            schema["properties"][name] = {**said, "anyOf": [*choices, {"const": UNKNOWN}]}


class Known(Record):
    """A part of a profile. `unknown` says of an optional value that the site's documentation does not give it.

    It is as good as leaving the value out, but says that somebody has looked: `profile lint` lists it, and whoever
    needs it is told that nobody knows.
    """

    model_config = ConfigDict(json_schema_extra=_unknown_too)

    @model_validator(mode="before")
    @classmethod
    def _unknown_is_left_out(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        optional = {field.alias or name for name, field in cls.model_fields.items() if not field.is_required()}
        return {key: value for key, value in data.items() if not (key in optional and value == UNKNOWN)}


def needed(value: Value | None, key: str, what_for: str) -> Value:
    """A value of a profile that cannot be done without. Raises UserError, which asks for it, where it is unknown."""
    if value is None:
        raise UserError(
            f"{key}: unknown in this profile, and {what_for} needs it; ask the site's support or look on a node, and "
            f"say it in a profile of your own that begins with `extends: NAME` and holds {key} alone"
        )
    return value
