"""YAML files as people write them: read safely, kept with positions, checked whole.

`load(path, Model)` gives a frozen record or raises one `SourceError` with *every* mistake of the file, each as
`file:line:column: field: what was found; what is allowed`. Two of YAML 1.1's traps are absent by construction:
`12:30:00` stays text instead of a base-60 number, and `no`, `on` and `off` stay text instead of booleans.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from hpcllm.errors import Problem, SourceError, UserError
from hpcllm.units import yaml_key

_MAX_NODES = 100_000  # an alias bomb reaches this long before it fills the memory


class Record(BaseModel):
    """A part of a profile or a job: frozen, every key known, units in the names of its fields."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, alias_generator=yaml_key, populate_by_name=True, use_attribute_docstrings=True
    )


Model = TypeVar("Model", bound=BaseModel)
FieldPath = tuple[str | int, ...]
Place = tuple[str, int, int]  # file, line, column
Places = dict[FieldPath, Place]


def load(path: Path, model: type[Model]) -> Model:
    """Read one YAML file into a record. Raises SourceError with all the mistakes, UserError if it cannot be read."""
    data, positions = parse(read_text(path), str(path))
    return check(data, model, str(path), positions)


def read_text(path: Path) -> str:
    """The text of a file the user named. Raises UserError with the next step when there is none."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        near = difflib.get_close_matches(path.name, [p.name for p in _siblings(path)], n=1)
        hint = f"; did you mean {path.parent / near[0]}?" if near else ""
        raise UserError(f"{path}: no such file{hint}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from None


def parse(text: str, file: str) -> tuple[Any, Places]:
    """Plain data, and where each field stands by its path. Raises SourceError for text that is not YAML."""
    try:
        loader = _Loader(text)
        root = loader.get_single_node()
        if root is None:
            raise SourceError([Problem(file, 1, 1, "", "the file is empty; expected a map of keys")])
        places: Places = {}
        duplicates = [
            Problem(*place, _dotted(path), "this key stands twice; keep one")
            for path, place in _walk(root, (), places, file)
        ]
        if duplicates:
            raise SourceError(duplicates)
        return loader.construct_document(root), places
    except yaml.YAMLError as error:
        raise SourceError([_syntax_problem(error, file)]) from None
    except RecursionError:
        raise SourceError([Problem(file, 1, 1, "", "nested too deeply, or an alias that contains itself")]) from None
    except ValueError as error:  # a scalar that matches a type's pattern but has no value, such as 2026-13-45
        raise SourceError([Problem(file, 1, 1, "", f"a value cannot be read: {error}")]) from None


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
    if not isinstance(data, dict):
        raise SourceError([Problem(file, 1, 1, "", f"found {_shown(data)}; expected a map of keys")])
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise SourceError([_problem(e, data, model, file, places) for e in error.errors()]) from None


class _Loader(yaml.SafeLoader):
    """SafeLoader with YAML 1.2's idea of a number and a boolean."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag.rsplit(":", 1)[1] in ("null", "merge")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?[0-9]+|0x[0-9a-fA-F]+", "-+0123456789"),
    ("float", r"[-+]?(?:[0-9]*\.[0-9]+|[0-9]+\.[0-9]*|[0-9]+)(?:[eE][-+]?[0-9]+)?|[-+]?\.inf|\.nan", "-+.0123456789"),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), list(_first))


def _construct_int(loader: _Loader, node: yaml.ScalarNode) -> int:
    return int(node.value, 16 if node.value.lower().startswith("0x") else 10)  # 010 is ten: no octal surprises


_Loader.add_constructor("tag:yaml.org,2002:int", _construct_int)


def _walk(node: yaml.Node, path: FieldPath, places: Places, file: str) -> Iterator[tuple[FieldPath, Place]]:
    """Record where each field stands; yield the duplicate keys. Raises yaml.YAMLError for an alias bomb."""
    places.setdefault(path, _place(node, file))
    if len(places) > _MAX_NODES:
        raise yaml.YAMLError("aliases expand to more than 100,000 values; write them out")
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            inner = (*path, str(key.value))
            if inner[-1] in seen:
                yield inner, _place(key, file)
            seen.add(str(key.value))
            places[inner] = _place(key, file)
            yield from _walk(value, inner, places, file)
    elif isinstance(node, yaml.SequenceNode):
        for i, value in enumerate(node.value):
            yield from _walk(value, (*path, i), places, file)


def _place(node: yaml.Node, file: str) -> Place:
    return file, node.start_mark.line + 1, node.start_mark.column + 1


def _syntax_problem(error: yaml.YAMLError, file: str) -> Problem:
    mark = getattr(error, "problem_mark", None)
    line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
    what = getattr(error, "problem", None) or str(error)
    if "'\\t'" in str(error):
        what = "a tab; YAML is indented with spaces"
    return Problem(file, line, column, "", f"not YAML: {what}")


def _problem(error: ErrorDetails, data: Any, model: type[BaseModel], file: str, places: Places) -> Problem:
    path = _path_in(data, error["loc"])
    known = path
    while known not in places and known:
        known = known[:-1]
    return Problem(*places.get(known, (file, 1, 1)), _dotted(path), _sentence(error, path, model))


def _sentence(error: ErrorDetails, path: FieldPath, model: type[BaseModel]) -> str:
    """pydantic's verdict in our words: what was found; what is allowed."""
    kind = error["type"]
    if kind == "extra_forbidden":
        allowed = _keys_at(model, path[:-1])
        near = difflib.get_close_matches(str(path[-1]), allowed, n=1)
        return "unknown key" + (f"; did you mean {near[0]}?" if near else f"; allowed here: {', '.join(allowed)}")
    if kind == "missing":
        return "this key is required"
    if kind == "value_error":
        return error["msg"].removeprefix("Value error, ")
    return f"found {_shown(error['input'])}; {error['msg'][0].lower()}{error['msg'][1:]}"


def _path_in(data: Any, location: tuple[int | str, ...]) -> FieldPath:
    """pydantic's location without the steps that are not in the file (the names of union members)."""
    path: list[int | str] = []
    for step in location:
        if isinstance(data, dict) and (step in data or step == location[-1]):
            data = data.get(step)
        elif isinstance(data, list) and isinstance(step, int) and step < len(data):
            data = data[step]
        else:
            continue
        path.append(step)
    return tuple(path)


def _keys_at(model: type[BaseModel], path: FieldPath) -> list[str]:
    """The keys allowed in the map at `path`, found by following the fields' types."""
    models = [model]
    for step in path:
        inner: list[type[BaseModel]] = []
        for candidate in models:
            for name, field in candidate.model_fields.items():
                if step in (name, field.alias):
                    inner += _models_in(field.annotation)
        models = inner or models
    return sorted({field.alias or name for m in models for name, field in m.model_fields.items()})


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for part in getattr(annotation, "__args__", ()) for found in _models_in(part)]


def _dotted(path: FieldPath) -> str:
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path).removeprefix(".")


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _siblings(path: Path) -> Iterator[Path]:
    try:
        yield from path.parent.iterdir()
    except OSError:
        return
