"""The report in a terminal: the verdict and the one table of figures. And the same as plain data for `--json`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, is_dataclass
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from hpcllm.report import words
from hpcllm.report.status_table import efficiency_table
from hpcllm.report.summary import Comparison, RunSummary
from hpcllm.report.sweep_grid import Grid

RUNS_BESIDE = 4  # columns that fit a terminal


def report_text(summaries: Sequence[RunSummary], grid: Grid | None = None) -> RenderableType:
    """The figures of these runs side by side, then each run's verdict and the plan beside what was measured.

    Of a sweep, its grid and the best run: the page has the others.
    """
    if grid:
        return Group(_grid(grid), Text(f"\n{grid.best}" if grid.best else ""))
    labelled = zip(summaries, words.labels(summaries), strict=True)
    groups = [summaries[i : i + RUNS_BESIDE] for i in range(0, len(summaries), RUNS_BESIDE)]
    return Group(*map(_over_runs, groups), *(part for summary, label in labelled for part in _one_run(summary, label)))


def summary_json(summaries: Sequence[RunSummary], grid: Grid | None = None) -> dict[str, Any]:
    """`{"runs": [...]}`: the records of `collect`, with null for a number that is not finite; `sweep`: its grid."""
    runs = [{**_plain(summary), "verdict": words.verdict(summary)} for summary in summaries]
    return {"runs": runs, **({"sweep": _plain(grid)} if grid else {})}


def _grid(grid: Grid) -> Table:
    """The best run's cell is bold."""
    table = Table(title=f"{grid.figure}, {grid.across} across" if grid.across else grid.figure, title_justify="left",
                  box=None, pad_edge=False, header_style="dim")  # fmt: skip
    for name in (*grid.down, *grid.columns):
        table.add_column(Text(words.visible(name)), justify="left" if name in grid.down else "right")
    for keys, cells in grid.rows:
        shown = [Text(cell.text, style="bold green" if cell.is_best else "") for cell in cells]
        table.add_row(*(Text(words.visible(key)) for key in keys), *shown)
    return table


def _over_runs(summaries: Sequence[RunSummary]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("run", style="dim")
    for label in words.labels(summaries):
        table.add_column(Text(words.visible(label)), justify="right", overflow="fold")
    for rows in zip(*words.headlines(summaries), strict=True):
        table.add_row(rows[0][0], *(Text(text) for _, text in rows))
    return table


def _one_run(summary: RunSummary, label: str) -> list[RenderableType]:
    verdict = Text(f"\n{words.visible(label)}: ", style="bold") + Text(
        words.visible(" ".join(words.verdict(summary))), style="not bold"
    )
    warnings = [Text(words.visible(f"warning: {warning}"), style="yellow") for warning in summary.warnings]
    tables = (
        _comparison("predicted", "measured", summary.predictions if summary.training else ()),
        _comparison("trained", "compressed", summary.compression),
    )
    return [verdict, *warnings, *(table for table in tables if table.row_count), *_accounted(summary)]


def _accounted(summary: RunSummary) -> list[RenderableType]:
    found = summary.accounted
    if found.why_not:
        return [Text(f"what the jobs used is not known: {words.visible(found.why_not)}", style="dim")]
    return [efficiency_table(found.rows)] if found.total else []


def _comparison(before: str, after: str, rows: Sequence[Comparison]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("", style="dim")
    for name in (before, after, "ratio"):
        table.add_column(name, justify="right")
    for row in rows:
        first = "unknown" if row.before is None else words.result(row.before, row.figure, row.unit)
        second = words.result(row.after, row.figure, row.unit)
        table.add_row(words.task_title(row.figure), first, second, words.ratio(row.ratio))
    return table


def _plain(value: Any) -> Any:
    """Records as maps, and numbers that JSON can hold."""
    if is_dataclass(value) and not isinstance(value, type):
        return _plain(asdict(value))
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
