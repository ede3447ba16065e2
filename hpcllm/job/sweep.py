"""A sweep: one job for each combination of values, `sweep: {train.steps: [100, 200], model.layers: [2, 4]}`."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from hpcllm import source, yaml_text
from hpcllm.errors import SourceError, UserError
from hpcllm.job.spec import AnyJob, kind_of
from hpcllm.yaml_text import Document

MOST_POINTS = 10_000
LONGEST_NAME = 100


@dataclass(frozen=True)
class Point:
    """One combination, and the job that it makes."""

    values: Mapping[str, Any]
    """By the key that they stand for."""
    job: AnyJob

    @property
    def label(self) -> str:
        """For a person: `steps=100 layers=2`."""
        return label(self.values)


def label(values: Mapping[str, Any]) -> str:
    """Keys by their last word, or whole where two end alike; in one line."""
    ends = [key.rsplit(".", 1)[-1] for key in values]
    names = [end if ends.count(end) == 1 else key for end, key in zip(ends, values, strict=True)]
    said = " ".join(f"{name}={value}" for name, value in zip(names, values.values(), strict=True))
    return "".join(c if c.isprintable() else " " for c in said)


def points(path: Path) -> tuple[Point, ...]:
    """Every point of a job file's sweep, the last key running fastest; none for a job without.

    Raises SourceError with all the mistakes of the file, UserError with those of one combination.
    """
    document = yaml_text.read(source.read_text(path), str(path))
    grid = document.data.get("sweep") if isinstance(document.data, dict) else None
    if not grid:
        return ()
    if document.problems or not isinstance(grid, dict) or not all(isinstance(v, list) and v for v in grid.values()):
        source.whole(source.examine(document, kind_of(document.data), str(path)))
    if prod(map(len, grid.values())) > MOST_POINTS:
        raise UserError(f"{path}: sweep: found {prod(map(len, grid.values()))} combinations; at most {MOST_POINTS}")
    return tuple(_point(path, document, values) for values in _combinations(grid))


def _combinations(grid: Mapping[str, list[Any]]) -> Iterator[dict[str, Any]]:
    for chosen in itertools.product(*grid.values()):
        yield dict(zip(map(str, grid), chosen, strict=True))


def _point(path: Path, document: Document, values: Mapping[str, Any]) -> Point:
    data = copy.deepcopy(document.data)
    del data["sweep"]
    for key, value in values.items():
        _put(data, key, value, path)
    if isinstance(data.get("name"), str):
        data["name"] = _name(f"{data['name']} {label(values)}")
    try:
        job = source.whole(source.examine(Document(data, document.places), kind_of(data), str(path)))
    except SourceError as error:
        raise UserError(f"{path}: sweep: with {label(values)}:\n{error}") from None
    return Point(values, job)


def _put(data: Any, key: str, value: Any, path: Path) -> None:
    """Set one key by its dotted path; in a list of stages a step is the name of one."""
    *steps, last = key.split(".")
    for step in steps:
        found = _named(data, step) if isinstance(data, list) else data.setdefault(step, {})
        if not isinstance(found, (dict, list)):
            raise UserError(
                f"{path}: sweep.{key}: found no map at {step}; expected the dotted path of a key of this job"
            )
        data = found
    if not isinstance(data, dict):
        raise UserError(f"{path}: sweep.{key}: expected the dotted path of a key of this job")
    data[last] = value


def _named(stages: list[Any], name: str) -> Any:
    return next((stage for stage in stages if isinstance(stage, dict) and stage.get("name") == name), None)


def _name(text: str) -> str:
    return "".join(c if c.isprintable() and c != "/" else "-" for c in text)[:LONGEST_NAME].strip()
