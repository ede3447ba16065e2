"""A sweep's results over its grid: which run is the best, and what the others came to."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hpcllm.launch.sweep import Sweep
from hpcllm.report import words
from hpcllm.report.summary import RunSummary

MOST_COLUMNS = 8  # that stay readable side by side
VALIDATION = "validation loss"


@dataclass(frozen=True)
class Cell:
    """One run of the grid."""

    number: int
    text: str
    is_best: bool


@dataclass(frozen=True)
class Grid:
    """A table of all runs: the last key that varies runs across, the others down."""

    figure: str
    """What the cells say: `bits per byte`, or `state` where there are no results yet."""
    best: str
    """A sentence; empty without results."""
    down: tuple[str, ...]
    """Names of keys."""
    across: str
    """The key that runs across; empty where all stand in one column."""
    columns: tuple[str, ...]
    rows: tuple[tuple[tuple[str, ...], tuple[Cell, ...]], ...]
    """The values of the keys that run down, and the runs with them."""


def grid(sweep: Sweep, summaries: Sequence[RunSummary]) -> Grid:
    """The grid of a sweep, by the result that says most of its runs."""
    figure, value_of, sign = _figure(summaries)
    values = [value_of(summary) for summary in summaries]
    known = [(sign * value, i) for i, value in enumerate(values) if value is not None]
    best = min(known)[1] if known else None
    texts = [_text(value, figure, summary) for value, summary in zip(values, summaries, strict=True)]
    cells = [Cell(i, text, i == best) for i, text in enumerate(texts)]
    down, across = _axes(sweep.points)
    columns = _distinct(sweep.points, across) if across else ("",)
    rows: dict[tuple[str, ...], list[Cell]] = {}
    for point, cell in zip(sweep.points, cells, strict=True):
        rows.setdefault(tuple(str(point[key]) for key in down), []).append(cell)
    title = words.task_title(figure)
    said = "" if best is None else f"Best of {len(cells)}: {_name(sweep, best)}, {title} {texts[best]}."
    return Grid(title, said, down, across, columns, tuple((key, tuple(row)) for key, row in rows.items()))


def _figure(summaries: Sequence[RunSummary]) -> tuple[str, Callable[[RunSummary], float | None], int]:
    """The result by which runs are held against each other, how to read it, and 1 where less is better."""
    task = next((task for summary in summaries if (task := words.main_task(summary))), None)
    if task:
        sign = 1 if words.TASKS[task].better == "lower" else -1
        return task, lambda summary: summary.value("trained", task), sign
    if any(summary.training and summary.training.validation_loss for summary in summaries):
        return VALIDATION, _validation_loss, 1
    return "state", lambda _: None, 1


def _validation_loss(summary: RunSummary) -> float | None:
    losses = summary.training.validation_loss if summary.training else ()
    return losses[-1][1] if losses else None


def _text(value: float | None, figure: str, summary: RunSummary) -> str:
    return words.standing(summary) if value is None else words.score(value, figure)


def _axes(points: Sequence[Mapping[str, Any]]) -> tuple[tuple[str, ...], str]:
    """The keys that vary, but for the one that runs across where there is room for it."""
    varying = tuple(key for key in points[0] if len(_distinct(points, key)) > 1) or tuple(points[0])
    if len(varying) > 1 and len(_distinct(points, varying[-1])) <= MOST_COLUMNS:
        return varying[:-1], varying[-1]
    return varying, ""


def _distinct(points: Sequence[Mapping[str, Any]], key: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(str(point[key]) for point in points))


def _name(sweep: Sweep, number: int) -> str:
    return f"{sweep.runs[number].root.name} ({sweep.labels[number]})"
