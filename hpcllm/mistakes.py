"""pydantic's verdicts in our words: what was found, what is allowed, what was meant; and where it stands in a file."""

from __future__ import annotations

import difflib
import re
import types
import typing
from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any

from pydantic import BaseModel, BeforeValidator
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from hpcllm.yaml_text import FieldPath, Places, taken_for

# ---- in words --------------------------------------------------------------------------------------------------------

_WANTED = {
    (True, False): "true or false",
    (False, True): "a whole number",
    (False, False): "a number",
    (True, True): "true, false or a number",
}
_EXPECTED = {
    "string_type": "expected text",
    "int_type": "expected a whole number",
    "int_from_float": "expected a whole number",
    "float_type": "expected a number",
    "bool_type": "expected true or false",
    "bool_parsing": "expected true or false",
    "dict_type": "expected a map of keys",
    "model_type": "expected a map of keys",
    "model_attributes_type": "expected a map of keys",
    "tuple_type": "expected a list",
    "date_type": "expected a date such as 2026-11-24",
    "date_parsing": "expected a date such as 2026-11-24",
    "date_from_datetime_parsing": "expected a date such as 2026-11-24",
}


def sentence(error: ErrorDetails, path: FieldPath, model: type[BaseModel]) -> str:
    """pydantic's verdict in our words: what was found; what is allowed."""
    kind, found = error["type"], error["input"]
    if kind == "extra_forbidden":
        near = near_key(path, model)
        return "unknown key" + (
            f"; did you mean {near}?" if near else f"; allowed here: {', '.join(_keys_at(model, path[:-1]))}"
        )
    if kind == "missing":
        return "this key is required"
    if kind == "value_error":
        return error["msg"].removeprefix("Value error, ").removeprefix(f"{path[-1]}: " if path else "")
    if kind == "literal_error":
        near = nearest(error)
        return f"found {shown(found)}; allowed are {', '.join(_choices(error))}" + (
            f"; did you mean {near}?" if near else ""
        )
    if kind == "string_type" and isinstance(found, (int, float)):
        return f"found {shown(found)}; expected text: put it in quotes"
    return f"found {shown(found)}; {_EXPECTED.get(kind) or error['msg'][0].lower() + error['msg'][1:]}"


def not_among(found: str, allowed: Iterable[str]) -> str:
    """A name that is none of those there are, with the one that was meant."""
    near = difflib.get_close_matches(found, names := list(allowed), n=1)
    return f"found {found!r}; allowed are {', '.join(names)}" + (f"; did you mean {near[0]}?" if near else "")


def not_as_written(value: Any, model: type[BaseModel], name: str) -> str:
    """What is wrong with text where a number or a truth belongs, or one of these for the other; else nothing."""
    wanted, given = _plain_types(model, name), type(value)
    if not wanted or not ((given in (str, bool) and given not in wanted) or (given is int and wanted == {bool})):
        return ""
    return f"found {shown(value)}; expected {_WANTED[bool in wanted, int in wanted]}{_hint(value)}"


def _hint(text: Any) -> str:
    """What is to be written in place of text, where a number or a truth belongs."""
    if not isinstance(text, str):
        return ""
    other = taken_for(text)
    if other in ("true", "false"):
        return f": write {other}"
    if other:
        return f" ({text} is {other} to some readers of YAML, and text to others)"
    return ", without quotes" if re.fullmatch(r"[-+]?\d+(\.\d+)?|true|false", text) else ""


def is_meant(
    error: ErrorDetails, path: FieldPath, told: list[tuple[ErrorDetails, FieldPath]], model: type[BaseModel]
) -> bool:
    """Whether a missing key is the one that an unknown key beside it was meant to be."""
    strange = [other for e, other in told if e["type"] == "extra_forbidden" and other[:-1] == path[:-1]]
    return error["type"] == "missing" and any(near_key(other, model) == path[-1] for other in strange)


def near_key(path: FieldPath, model: type[BaseModel]) -> str | None:
    """The key that a misspelt one was meant to be."""
    near = difflib.get_close_matches(str(path[-1]), _keys_at(model, path[:-1]), n=1)
    return near[0] if near else None


def _choices(error: ErrorDetails) -> list[str]:
    return re.findall(r"'([^']*)'", str(error.get("ctx", {}).get("expected", "")))


def nearest(error: ErrorDetails) -> str | None:
    """The choice that a misspelt one was meant to be."""
    choices = {choice.lower(): choice for choice in _choices(error)}
    near = difflib.get_close_matches(str(error["input"]).lower(), choices, n=1)
    return choices[near[0]] if near else None


def shown(value: Any) -> str:
    """A value as a message names it."""
    if isinstance(value, (dict, list, tuple)):
        return "a map" if isinstance(value, dict) else "a list"
    if value is None or isinstance(value, bool):
        return "nothing" if value is None else str(value).lower()
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


# ---- where -----------------------------------------------------------------------------------------------------------


def place(path: FieldPath, places: Places, file: str) -> tuple[str, int, int]:
    """Of a field, or of the nearest thing around it that stands in the file."""
    while path not in places and path:
        path = path[:-1]
    return places.get(path, (file, 1, 1))


def path_in(data: Any, error: ErrorDetails) -> FieldPath:
    """pydantic's location without the steps that are not in the file (members of unions, `[key]`)."""
    path: list[str | int] = []
    for step in error["loc"]:
        in_map = isinstance(data, dict) and step in data
        if in_map or (isinstance(data, list) and isinstance(step, int) and step < len(data)):
            data = data[step]
        elif not (error["type"] == "missing" and step == error["loc"][-1]):
            continue
        path.append(step)
    return (*path, *_named_in(error, data))


def _named_in(error: ErrorDetails, data: Any) -> FieldPath:
    """A part that says `heads: …` of itself means its own key."""
    named = re.match(r"Value error, (\w+): ", error["msg"]) if isinstance(data, dict) else None
    return (named[1],) if named and named[1] in data else ()


def _keys_at(model: type[BaseModel], path: FieldPath) -> list[str]:
    """The keys allowed in the map at `path`."""
    return sorted({field.alias or name for m in _models_at(model, path) for name, field in m.model_fields.items()})


def field_at(model: type[BaseModel], path: FieldPath) -> FieldInfo | None:
    """The field that stands at a path."""
    fields = [field for m in _models_at(model, path[:-1]) for name, field in m.model_fields.items()
              if path[-1] in (name, field.alias)]  # fmt: skip
    return fields[0] if fields else None


def _models_at(model: type[BaseModel], path: FieldPath) -> list[type[BaseModel]]:
    """The records that may stand at `path`, found by following the fields' types."""
    models = [model]
    for step in path:
        inner: list[type[BaseModel]] = []
        for candidate in models:
            for name, field in candidate.model_fields.items():
                if step in (name, field.alias):
                    inner += _models_in(field.annotation)
        models = inner or models
    return models


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for part in getattr(annotation, "__args__", ()) for found in _models_in(part)]


@cache
def _plain_types(model: type[BaseModel], name: str) -> frozenset[Any]:
    """bool, int, float (and what else) that a field takes as they are; nothing for a quantity, which is text."""
    field = model.model_fields[name]
    members = _members(typing.Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation)
    plain = frozenset(members) - {type(None)}
    return plain if plain & {bool, int, float} and plain <= {bool, int, float, str} else frozenset()


def _members(annotation: Any) -> Iterator[Any]:
    """The types of a union, each without its constraints; a type that reads text by itself counts as text."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        for part in typing.get_args(annotation):
            yield from _members(part)
    elif typing.get_origin(annotation) is typing.Annotated:
        base, *metadata = typing.get_args(annotation)
        reads = any(isinstance(m, BeforeValidator) for m in metadata)
        yield from [str] if reads else _members(base)
    else:
        yield annotation
