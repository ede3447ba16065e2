"""A run's stages as a table for the terminal, once or again and again until the end."""

from __future__ import annotations

import time
from collections.abc import Sequence

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from hpcllm.launch.slurm import State
from hpcllm.launch.track import ALIVE, StageStatus, status
from hpcllm.run_directory import Run
from hpcllm.units import format_seconds

POLL_S = 5.0  # between two questions to the scheduler

_STYLES: dict[State, str] = {
    **{"waiting": "dim", "pending": "yellow", "running": "cyan", "done": "green"},
    **{"failed": "bold red", "timeout": "bold red", "out of memory": "bold red", "node failure": "bold red"},
    **{"interrupted": "yellow", "cancelled": "yellow", "preempted": "yellow", "out of date": "yellow"},
}


def status_table(run: Run, found: Sequence[StageStatus]) -> Group:
    """One row a stage, and below what to do about those that did not go well."""
    table = Table(title=str(run.root), title_justify="left", box=None, pad_edge=False, header_style="bold")
    for name in ("stage", "job", "state", "since", "took", "nodes", "progress, or why"):
        table.add_column(name, justify="right" if name == "took" else "left", overflow="fold")
    for stage in found:
        table.add_row(*_row(stage))
    advice = [Text(f"{stage.stage}: {stage.advice}", style="yellow") for stage in found if stage.advice]
    return Group(table, *advice)


def watch(run: Run) -> None:
    """The table, renewed until nothing is queued or running. In a log: a line for each change of a stage."""
    console = Console()
    if not console.is_terminal:
        _watch_in_lines(run, console)
        return
    found = status(run)
    with Live(status_table(run, found), console=console, auto_refresh=False) as live:
        while _goes_on(found):
            time.sleep(POLL_S)
            found = status(run)
            live.update(status_table(run, found), refresh=True)


def _watch_in_lines(run: Run, console: Console) -> None:
    before: dict[str, State] = {}
    while True:
        found = status(run)
        for stage in found:
            if before.get(stage.stage) != stage.state:
                said = " ".join(filter(None, [stage.stage, stage.state, stage.job_id, stage.nodes, stage.reason]))
                console.print(said, highlight=False, soft_wrap=True)
        before = {stage.stage: stage.state for stage in found}
        if not _goes_on(found):
            return
        time.sleep(POLL_S)


def _goes_on(found: Sequence[StageStatus]) -> bool:
    """A stage that was never submitted waits for a person, not for the scheduler."""
    return any(stage.state == "running" or (stage.state in ALIVE and stage.job_id) for stage in found)


def _row(stage: StageStatus) -> tuple[Text | str, ...]:
    since = "" if stage.since is None else time.strftime("%a %H:%M:%S", time.localtime(stage.since))
    took = "" if stage.elapsed_s is None else format_seconds(max(round(stage.elapsed_s), 0)).replace("0 µs", "0 s")
    state = Text(stage.state, style=_STYLES[stage.state])
    said = Text(stage.progress or stage.reason)
    return stage.stage, stage.job_id or "", state, since, took, stage.nodes, said
