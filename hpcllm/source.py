"""YAML files as people write them, checked whole.

`load(path, Model)` gives a frozen record or raises one `SourceError` with *every* mistake of the file, each as
`file:line:column: field: what was found; what is allowed`. A wrong value is set aside and the rest checked again, so
that no mistake hides another: neither a key that stands twice a unit, nor a unit two parts that contradict each other.
"""

from __future__ import annotations

import copy
import difflib
import re
import types
import typing
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import date
from functools import cache
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError, ValidationInfo, field_validator
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from hpcllm import yaml_text
from hpcllm.errors import Problem, SourceError, UserError
from hpcllm.units import yaml_key
from hpcllm.yaml_text import Document, dotted, taken_for
from hpcllm.yaml_text import FieldPath as FieldPath
from hpcllm.yaml_text import Places as Places

_MOST_ROUNDS = 12  # of setting mistakes aside; each round goes one level deeper


class Record(BaseModel):
    """A part of a profile or a job: frozen, every key known, units in the names of its fields."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, alias_generator=yaml_key, populate_by_name=True, use_attribute_docstrings=True
    )

    @field_validator("*", mode="before")
    @classmethod
    def _as_it_is_written(cls, value: Any, info: ValidationInfo) -> Any:
        """Numbers and truths are not made of text or of each other: a trap of YAML would pass unseen."""
        wanted, given = _plain_types(cls, info.field_name or ""), type(value)
        mistaken = (given in (str, bool) and given not in wanted) or (given is int and wanted == {bool})
        if wanted and mistaken:
            hint = _hint(str(value)) if given is str else ""
            raise ValueError(f"found {_shown(value)}; expected {_WORDS[bool in wanted, int in wanted]}{hint}")
        return value

    def contradictions(self) -> Iterable[tuple[FieldPath, str]]:
        """Fields, by their path from here, that cannot be as they are beside each other, and why."""
        return ()


Model = TypeVar("Model", bound=BaseModel)


@dataclass(frozen=True)
class Examined(Generic[Model]):
    """What data make of a record."""

    record: Model | None
    """With wrong values left out, or others in their place; None where too little is right."""
    problems: tuple[Problem, ...]
    doubtful: tuple[FieldPath, ...]
    """Where another value had to stand in for a wrong one: nothing follows from what is there, or below."""


def load(path: Path, model: type[Model]) -> Model:
    """Read one YAML file into a record. Raises SourceError with all the mistakes, UserError if it cannot be read."""
    document = yaml_text.read(read_text(path), str(path))
    return whole(examine(document, model, str(path)))


def read_text(path: Path) -> str:
    """The text of a file the user named. Raises UserError with the next step when there is none."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        near = difflib.get_close_matches(path.name, [p.name for p in _siblings(path)], n=1)
        hint = f"; did you mean {path.parent / near[0]}?" if near else ""
        raise UserError(f"{path}: no such file{hint}") from None
    except (OSError, ValueError) as error:  # a folder, no permission, not UTF-8, a NUL in the name
        raise UserError(f"{path}: cannot be read: {error}") from None


def parse(text: str, file: str) -> tuple[Any, Places]:
    """Plain data, and where each field stands by its path. Raises SourceError for text that is not YAML."""
    document = yaml_text.read(text, file)
    if document.problems:
        raise SourceError(document.problems)
    return document.data, document.places


def merged(base: Any, over: Any) -> Any:
    """Two documents as one: maps key by key, everything else as the second has it; its `null` takes a key away.

    JSON Merge Patch, RFC 7396.
    """
    if not isinstance(over, dict):
        return over
    kept = base if isinstance(base, dict) else {}
    both = {**kept, **{key: merged(kept.get(key), value) for key, value in over.items()}}
    return {key: value for key, value in both.items() if over.get(key, value) is not None}


def check(data: Any, model: type[Model], file: str, places: Places) -> Model:
    """Plain data into a record; every mistake located. Raises SourceError."""
    return whole(examine(Document(data, places), model, file))


def whole(examined: Examined[Model]) -> Model:
    """The record of a document without mistakes. Raises SourceError with all of them."""
    if examined.problems or examined.record is None:
        raise SourceError(examined.problems)
    return examined.record


# ---- every mistake ---------------------------------------------------------------------------------------------------


def examine(document: Document, model: type[Model], file: str) -> Examined[Model]:
    """Every mistake of a document, and the record that the rest of it makes."""
    data, places, problems = document.data, document.places, list(document.problems)
    if not isinstance(data, dict):
        problems.append(Problem(*places.get((), (file, 1, 1)), "", f"found {_shown(data)}; expected a map of keys"))
        return Examined(None, tuple(problems), ())
    mended = _Mended(copy.deepcopy(data))
    for _ in range(_MOST_ROUNDS):
        try:
            record = model.model_validate(mended.data)
        except ValidationError as error:
            errors = [(e, _path_in(mended.data, e)) for e in error.errors()]
            told = [(e, path) for e, path in errors if not mended.follows(path, e["type"])]
            problems += [Problem(*_place(path, places, file), dotted(path), _sentence(e, path, model))
                         for e, path in told if not _meant(e, path, told, model)]  # fmt: skip
            mended.set_aside(errors, model)
            continue
        found = [(path, what) for path, what in _contradictions(record, ()) if not mended.doubts(path)]
        problems += [Problem(*_place(path, places, file), dotted(path), what) for path, what in found]
        return Examined(record, tuple(problems), tuple(mended.doubtful))
    return Examined(None, tuple(problems), ())


class _Mended:
    """A copy of the data in which wrong values are left out, or replaced where one is required."""

    def __init__(self, data: dict[str, Any]) -> None:
        self.data = data
        self.stand_ins: list[FieldPath] = []
        self.doubtful: list[FieldPath] = []
        self.tries: dict[FieldPath, int] = {}

    def follows(self, path: FieldPath, kind: str) -> bool:
        """Whether a mistake there comes from what was set aside, or stands in for it."""
        part = kind == "value_error" and any(p[: len(path)] == path for p in self.stand_ins)
        return part or self.doubts(path, kind) or any(path[: len(done)] == done for done in self.tries)

    def doubts(self, path: FieldPath, kind: str = "value_error") -> bool:
        """Whether a contradiction there may come from a stand-in: itself, or the field beside it."""
        beside = kind == "value_error"
        return any(path[: len(p)] == p or (beside and path[:-1] == p[:-1]) for p in self.stand_ins)

    def set_aside(self, errors: list[tuple[ErrorDetails, FieldPath]], model: type[BaseModel]) -> None:
        """One round. Misspelt keys first, since they may be what is missing."""
        for error, path in sorted(errors, key=lambda pair: pair[0]["type"] != "extra_forbidden"):
            while path and self.tries.get(path, 0) > 1:  # neither without it nor with a stand-in: it goes as a whole
                path = path[:-1]
            above = _at(self.data, path[:-1])
            if path and isinstance(above, list):  # an element: a shorter list would be another mistake
                path, above = path[:-1], _at(self.data, path[:-2])
                error = {**error, "type": "tuple_type"}
            if path and isinstance(above, dict):
                self.tries[path] = self.tries.get(path, 0) + 1
                self._replace(above, path, error, model)

    def _replace(self, above: dict[Any, Any], path: FieldPath, error: ErrorDetails, model: type[BaseModel]) -> None:
        kind, key = error["type"], path[-1]
        if kind == "literal_error" and _nearest(error):
            above[key] = _nearest(error)
        elif kind in _COLLECTIONS:
            above[key] = _COLLECTIONS[kind]()
            self._stands_in(path, path)
        elif kind == "missing" and key not in above:
            above[key] = _stand_in(_field_at(model, path))
            self._stands_in(path, path[:-1] or path)
        elif kind != "missing":
            wrong, meant = above.pop(key, None), _near_key(path, model) if kind == "extra_forbidden" else None
            if meant:
                above.setdefault(meant, wrong)

    def _stands_in(self, path: FieldPath, doubtful: FieldPath) -> None:
        self.stand_ins.append(path)
        self.doubtful.append(doubtful)
        self.tries[path] += 1


_COLLECTIONS: dict[str, type[dict[str, Any]] | type[list[Any]]] = {
    "model_type": dict,
    "model_attributes_type": dict,
    "dict_type": dict,
    "tuple_type": list,
}


def _stand_in(field: FieldInfo | None) -> Any:
    """Some value that a required field takes."""
    kind = field.annotation if field else str
    if typing.get_origin(kind) is Literal:
        return typing.get_args(kind)[0]
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return {}
    origin = typing.get_origin(kind)
    return {int: 1, float: 1.0, date: "2000-01-01"}.get(kind, {tuple: [], dict: {}}.get(origin, "x"))  # type: ignore[arg-type]


def _at(data: Any, path: FieldPath) -> Any:
    for step in path:
        try:
            data = data[step]
        except (KeyError, IndexError, TypeError):
            return None
    return data if isinstance(data, (dict, list)) else None


def _contradictions(value: Any, path: FieldPath) -> Iterator[tuple[FieldPath, str]]:
    """Of a record and of all the records in it."""
    if isinstance(value, Record):
        yield from (((*path, *inner), what) for inner, what in value.contradictions())
        for name, field in type(value).model_fields.items():
            yield from _contradictions(getattr(value, name), (*path, field.alias or name))
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _contradictions(inner, (*path, str(key)))
    elif isinstance(value, tuple):
        for i, inner in enumerate(value):
            yield from _contradictions(inner, (*path, i))


# ---- in words --------------------------------------------------------------------------------------------------------

_WORDS = {
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


def _sentence(error: ErrorDetails, path: FieldPath, model: type[BaseModel]) -> str:
    """pydantic's verdict in our words: what was found; what is allowed."""
    kind, found = error["type"], error["input"]
    if kind == "extra_forbidden":
        near = _near_key(path, model)
        return "unknown key" + (
            f"; did you mean {near}?" if near else f"; allowed here: {', '.join(_keys_at(model, path[:-1]))}"
        )
    if kind == "missing":
        return "this key is required"
    if kind == "value_error":
        return error["msg"].removeprefix("Value error, ").removeprefix(f"{path[-1]}: " if path else "")
    if kind == "literal_error":
        near = _nearest(error)
        return f"found {_shown(found)}; allowed are {', '.join(_choices(error))}" + (
            f"; did you mean {near}?" if near else ""
        )
    if kind == "string_type" and isinstance(found, (int, float)):
        return f"found {_shown(found)}; expected text: put it in quotes"
    return f"found {_shown(found)}; {_EXPECTED.get(kind) or error['msg'][0].lower() + error['msg'][1:]}"


def not_among(found: str, allowed: Iterable[str]) -> str:
    """A name that is none of those there are, with the one that was meant."""
    near = difflib.get_close_matches(found, names := list(allowed), n=1)
    return f"found {found!r}; allowed are {', '.join(names)}" + (f"; did you mean {near[0]}?" if near else "")


def _hint(text: str) -> str:
    """What is to be written in place of text, where a number or a truth belongs."""
    other = taken_for(text)
    if other in ("true", "false"):
        return f": write {other}"
    if other:
        return f" ({text} is {other} to some readers of YAML, and text to others)"
    return ", without quotes" if re.fullmatch(r"[-+]?\d+(\.\d+)?|true|false", text) else ""


def _meant(
    error: ErrorDetails, path: FieldPath, told: list[tuple[ErrorDetails, FieldPath]], model: type[BaseModel]
) -> bool:
    """Whether a missing key is the one that an unknown key beside it was meant to be."""
    strange = [other for e, other in told if e["type"] == "extra_forbidden" and other[:-1] == path[:-1]]
    return error["type"] == "missing" and any(_near_key(other, model) == path[-1] for other in strange)


def _near_key(path: FieldPath, model: type[BaseModel]) -> str | None:
    near = difflib.get_close_matches(str(path[-1]), _keys_at(model, path[:-1]), n=1)
    return near[0] if near else None


def _choices(error: ErrorDetails) -> list[str]:
    return re.findall(r"'([^']*)'", str(error.get("ctx", {}).get("expected", "")))


def _nearest(error: ErrorDetails) -> str | None:
    choices = {choice.lower(): choice for choice in _choices(error)}
    near = difflib.get_close_matches(str(error["input"]).lower(), choices, n=1)
    return choices[near[0]] if near else None


def _shown(value: Any) -> str:
    if isinstance(value, (dict, list, tuple)):
        return "a map" if isinstance(value, dict) else "a list"
    if value is None or isinstance(value, bool):
        return "nothing" if value is None else str(value).lower()
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


# ---- where -----------------------------------------------------------------------------------------------------------


def _place(path: FieldPath, places: Places, file: str) -> tuple[str, int, int]:
    """Of a field, or of the nearest thing around it that stands in the file."""
    while path not in places and path:
        path = path[:-1]
    return places.get(path, (file, 1, 1))


def _path_in(data: Any, error: ErrorDetails) -> FieldPath:
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


def _field_at(model: type[BaseModel], path: FieldPath) -> FieldInfo | None:
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


def _siblings(path: Path) -> Iterator[Path]:
    try:
        yield from path.parent.iterdir()
    except OSError:
        return
