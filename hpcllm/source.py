"""YAML files as people write them, checked whole.

`load(path, Model)` gives a frozen record or raises one `SourceError` with *every* mistake of the file, each as
`file:line:column: field: what was found; what is allowed`. A wrong value is set aside and the rest checked again, so
that no mistake hides another: neither a key that stands twice a unit, nor a unit two parts that contradict each other.
"""

from __future__ import annotations

import copy
import difflib
import stat
import typing
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError, ValidationInfo, field_validator
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from hpcllm import mistakes, yaml_text
from hpcllm.errors import Problem, SourceError, UserError
from hpcllm.units import yaml_key
from hpcllm.yaml_text import Document, dotted
from hpcllm.yaml_text import FieldPath as FieldPath
from hpcllm.yaml_text import Places as Places

MOST_BYTES = 2**20  # of a file; reading one takes time, and a profile has some ten KB
MOST_PROBLEMS = 100  # that are told; whoever has more has given another kind of file
_MOST_ROUNDS = 12  # of setting mistakes aside; each round goes one level deeper


class Record(BaseModel):
    """A part of a profile or a job: frozen, every key known, units in the names of its fields."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, alias_generator=yaml_key, populate_by_name=True, defer_build=True
    )

    @field_validator("*", mode="before")
    @classmethod
    def _as_it_is_written(cls, value: Any, info: ValidationInfo) -> Any:
        """Numbers and truths are not made of text or of each other: a trap of YAML would pass unseen."""
        wrong = mistakes.not_as_written(value, cls, info.field_name or "")
        if wrong:
            raise ValueError(wrong)
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
        wrong = _not_a_text_file(path)
        if not wrong:
            return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        near = difflib.get_close_matches(path.name, [p.name for p in _siblings(path)], n=1)
        hint = f"; did you mean {path.parent / near[0]}?" if near else ""
        raise UserError(f"{path}: no such file{hint}") from None
    except OSError as error:
        wrong = error.strerror or str(error)
    except UnicodeDecodeError as error:
        wrong = f"byte {error.start + 1} is not UTF-8; save the file as UTF-8"
    except ValueError as error:  # a NUL in the name
        wrong = str(error)
    raise UserError(f"{path}: cannot be read: {wrong}")


def _not_a_text_file(path: Path) -> str:
    """Why a file is not read at all: a pipe or a device may never end. Raises OSError for one that is not there."""
    found = path.stat()
    if stat.S_ISDIR(found.st_mode):
        return "it is a folder; give a file in it"
    if not stat.S_ISREG(found.st_mode):
        return "it is a pipe or a device; write its text into a file and give that"
    if found.st_size > MOST_BYTES:
        return f"found {found.st_size:,} bytes; a profile or a job has at most {MOST_BYTES:,}"
    return ""


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


def frozen(data: Any, model: type[Model], file: str) -> Model:
    """What was checked before it was written down, so that only a damaged file has mistakes. Raises SourceError."""
    try:
        return model.model_validate(data)
    except ValidationError:
        return check(data, model, file, {})


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
        problems.append(
            Problem(*places.get((), (file, 1, 1)), "", f"found {mistakes.shown(data)}; expected a map of keys")
        )
        return Examined(None, tuple(problems), ())
    mended = _Mended(copy.deepcopy(data))
    for _ in range(_MOST_ROUNDS):
        try:
            record = model.model_validate(mended.data)
        except ValidationError as error:
            errors = [(e, mistakes.path_in(mended.data, e)) for e in error.errors()]
            told = [(e, path) for e, path in errors if not mended.follows(path, e["type"])]
            count, told = len(problems) + len(told), told[:MOST_PROBLEMS]
            problems += [Problem(*mistakes.place(path, places, file), dotted(path), mistakes.sentence(e, path, model))
                         for e, path in told if not mistakes.is_meant(e, path, told, model)]  # fmt: skip
            if count > MOST_PROBLEMS:
                return Examined(None, _first(problems, count, file), ())
            mended.set_aside(errors, model)
            continue
        apart = [(path, what) for path, what in _contradictions(record, ()) if not mended.doubts(path)]
        problems += [Problem(*mistakes.place(path, places, file), dotted(path), what) for path, what in apart]
        return Examined(record, _first(problems, len(problems), file), tuple(mended.doubtful))
    return Examined(None, tuple(problems), ())


def _first(problems: list[Problem], count: int, file: str) -> tuple[Problem, ...]:
    """As many as a person reads, and how many there are."""
    if count <= MOST_PROBLEMS:
        return tuple(problems)
    said = f"{count:,} mistakes; the first {MOST_PROBLEMS} follow"
    return (Problem(file, 1, 1, "", said), *problems[:MOST_PROBLEMS])


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
        if kind == "literal_error" and mistakes.nearest(error):
            above[key] = mistakes.nearest(error)
        elif kind in _COLLECTIONS:
            above[key] = _COLLECTIONS[kind]()
            self._stands_in(path, path)
        elif kind == "missing" and key not in above:
            above[key] = _stand_in(mistakes.field_at(model, path))
            self._stands_in(path, path[:-1] or path)
        elif kind != "missing":
            wrong, meant = above.pop(key, None), mistakes.near_key(path, model) if kind == "extra_forbidden" else None
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


def _siblings(path: Path) -> Iterator[Path]:
    try:
        yield from path.parent.iterdir()
    except OSError:
        return
