"""A run's stages as a tree for the terminal, once or again and again until the end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from hpcllm.cluster.profile import frozen_profile
from hpcllm.launch.bad_nodes import bad_nodes
from hpcllm.launch.tracking.efficiency import Use
from hpcllm.launch.tracking.purge import purge_warning
from hpcllm.launch.tracking.states import State
from hpcllm.launch.tracking.track import RunStatus, StageStatus, goes_on, look
from hpcllm.run_directory import Run
from hpcllm.units import format_bytes, format_seconds

POLL_S = 5.0  # between two questions to the scheduler, where the site does not want more

_STYLES: dict[State, str] = {
    **{"waiting": "dim", "pending": "yellow", "running": "cyan", "done": "green", "stuck": "bold red"},
    **{"failed": "bold red", "timeout": "bold red", "out of memory": "bold red", "node failure": "bold red"},
    **{"interrupted": "yellow", "cancelled": "yellow", "preempted": "yellow", "out of date": "yellow"},
}

# What a row says, and from how many columns of a terminal on there is room for it.
_COLUMNS: tuple[tuple[str, int, Callable[[StageStatus], Text | str]], ...] = (
    ("job", 80, lambda stage: stage.job_id or ""),
    ("state", 0, lambda stage: state_text(stage.state)),
    ("since", 120, lambda stage: _clock(stage.since)),
    ("took", 60, lambda stage: _took(stage.elapsed_s)),
    ("nodes", 100, lambda stage: stage.nodes),
    ("progress, or why", 0, lambda stage: Text(_said(stage))),
)


# What a row says of used resources.
_USED: tuple[tuple[str, Callable[[Use], str]], ...] = (
    ("attempts", lambda use: _in_turn(use.attempts)),
    ("waited", lambda use: _took(use.waited_s)),
    ("ran", lambda use: _took(use.ran_s)),
    ("CPU-hours", lambda use: f"{use.cpu_hours:.2f}"),
    ("CPU used", lambda use: _percent(use.cpu_fraction)),
    ("memory", lambda use: _memory(use)),
    ("GPU-hours", lambda use: f"{use.gpu_hours:.2f}"),
)


def state_text(state: State) -> Text:
    """A state in its colour."""
    return Text(state, style=_STYLES[state])


def poll_s(run: Run) -> float:
    """Seconds between two questions to the scheduler: never more often than the site allows."""
    return max(POLL_S, frozen_profile(run).scheduler.poll_s or 0.0)


def status_table(run: Run, now: RunStatus, width: int) -> Group:
    """A row a stage below the one that it waits for, and under them what to do and what to know."""
    table = Table(title=str(run.root), title_justify="left", box=None, pad_edge=False, header_style="bold")
    shown = [column for column in _COLUMNS if width >= column[1]]
    table.add_column("stage", no_wrap=True)
    for name, _, _ in shown:
        table.add_column(name, justify="right" if name == "took" else "left", overflow="fold")
    for guide, stage in tree(now.stages):
        table.add_row(guide + stage.stage, *(cell(stage) for _, _, cell in shown))
    return Group(table, *(Text(line, style="yellow") for line in _below(run, now)))


def used_rows(used: Sequence[Use], first: str = "stage") -> list[tuple[str, ...]]:
    """What each took and used, over all of its attempts, behind the names of the columns; GPUs where there are any."""
    shown = [column for column in _USED if column[0] != "GPU-hours" or any(use.gpu_hours for use in used)]
    rows = [(use.name, *(cell(use) for _, cell in shown)) for use in used]
    return [(first, *(name for name, _ in shown)), *rows]


def efficiency_table(used: Sequence[Use], first: str = "stage") -> Table:
    """The same for the terminal."""
    names, *rows = used_rows(used, first)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in names:
        table.add_column(name, justify="left" if name in (first, "attempts") else "right", overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table


def tree(
    stages: Sequence[StageStatus], parent: str | None = None, indent: str = ""
) -> Iterator[tuple[str, StageStatus]]:
    """Every stage once, with the lines that lead to it: under the last of those that it waits for."""
    here = [stage for stage in stages if (stage.after[-1] if stage.after else None) == parent]
    for stage in here:
        last = stage is here[-1]
        yield indent + ("" if parent is None else "└─ " if last else "├─ "), stage
        deeper = indent + ("" if parent is None else "   " if last else "│  ")
        yield from tree(stages, stage.stage, deeper)


def watch(run: Run) -> None:
    """The tree, renewed until nothing is queued or running. In a log: a line for each change of a stage."""
    console = Console()
    if not console.is_terminal:
        _watch_in_lines(run, console)
        return
    every_s, now = poll_s(run), look(run)
    with Live(status_table(run, now, console.width), console=console, auto_refresh=False) as live:
        while goes_on(now):
            time.sleep(every_s)
            now = look(run)
            live.update(status_table(run, now, console.width), refresh=True)


def _watch_in_lines(run: Run, console: Console) -> None:
    before: dict[str, str] = {}
    every_s = poll_s(run)
    while True:
        now = look(run)
        lines = {stage.stage: _line(stage) for stage in now.stages} | {"": silence_text(now.silence)}
        for name, line in lines.items():
            if line and before.get(name) != line:
                console.print(line, highlight=False, markup=False, soft_wrap=True)
        before = lines
        if not goes_on(now):
            return
        time.sleep(every_s)


def _line(stage: StageStatus) -> str:
    return " ".join(filter(None, [stage.stage, stage.state, stage.job_id, stage.nodes, stage.reason]))


# ---- words -----------------------------------------------------------------------------------------------------------


def _below(run: Run, now: RunStatus) -> list[str]:
    """What to do, once for all stages that need the same, and what stands in the way of the whole run."""
    stages_of: dict[str, list[str]] = {}
    for stage in now.stages:
        if stage.advice:
            stages_of.setdefault(stage.advice, []).append(stage.stage)
    advice = [f"{', '.join(names)}: {text}" for text, names in stages_of.items()]
    left_out = [f"left out: {bad.node}, {bad.why} (attempt {bad.attempt})" for bad in bad_nodes(run)]
    return [*advice, *left_out, *filter(None, [silence_text(now.silence), purge_warning(run, frozen_profile(run))])]


def silence_text(silence: str) -> str:
    """That Slurm does not answer, in a sentence."""
    return f"Slurm does not answer ({silence}): this is what is known without it" if silence else ""


def _said(stage: StageStatus) -> str:
    """How far it is, or why it waits or ended."""
    also = f"also after {', '.join(stage.after[:-1])}" if stage.state == "waiting" and len(stage.after) > 1 else ""
    begins = f"begins about {_clock(stage.expected_start)}" if stage.expected_start else ""
    return "; ".join(filter(None, [stage.progress, begins, stage.reason, also, _again(stage)]))


def _again(stage: StageStatus) -> str:
    """Why this is not its first attempt: `attempt 3, after preempted, interrupted`."""
    return f"attempt {len(stage.earlier) + 1}, after {_in_turn(stage.earlier)}" if stage.earlier else ""


def _in_turn(ends: Sequence[str]) -> str:
    """`preempted, 2 × done`."""
    counted = [(end, len(list(same))) for end, same in groupby(ends)]
    return ", ".join(f"{n} × {end}" if n > 1 else end for end, n in counted)


def _memory(use: Use) -> str:
    if use.memory_bytes is None:
        return ""
    return f"{format_bytes(use.memory_bytes)} {_percent(use.memory_fraction)}".strip()


def _percent(fraction: float | None) -> str:
    return "" if fraction is None else f"{fraction:.0%}"


def _clock(since: float | None) -> str:
    return "" if since is None else time.strftime("%a %H:%M:%S", time.localtime(since))


def _took(elapsed_s: float | None) -> str:
    return "" if elapsed_s is None else format_seconds(max(round(elapsed_s), 0)).replace("0 µs", "0 s")
