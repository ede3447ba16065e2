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
from hpcllm.launch.tracking.states import ALIVE, State
from hpcllm.launch.tracking.track import RunStatus, StageStatus, look
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


def efficiency_table(used: Sequence[Use]) -> Table:
    """What each stage took and used, over all of its attempts; GPUs where there are any."""
    gpus = any(use.gpu_hours for use in used)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("stage", "attempts", "waited", "ran", "CPU-hours", "CPU used", "memory", "GPU-hours")[
        : 8 if gpus else 7
    ]:
        table.add_column(name, justify="left" if name in ("stage", "attempts") else "right", overflow="fold")
    for use in used:
        memory = "" if use.memory_bytes is None else f"{format_bytes(use.memory_bytes)} {_percent(use.memory_fraction)}"
        row = [use.stage, ", ".join(use.attempts), _took(use.waited_s), _took(use.ran_s), f"{use.cpu_hours:.2f}"]
        row += [_percent(use.cpu_fraction), memory.strip(), *([f"{use.gpu_hours:.2f}"] if gpus else [])]
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
        while _goes_on(now):
            time.sleep(every_s)
            now = look(run)
            live.update(status_table(run, now, console.width), refresh=True)


def _watch_in_lines(run: Run, console: Console) -> None:
    before: dict[str, str] = {}
    every_s = poll_s(run)
    while True:
        now = look(run)
        lines = {stage.stage: _line(stage) for stage in now.stages} | {"": _silence(now)}
        for name, line in lines.items():
            if line and before.get(name) != line:
                console.print(line, highlight=False, markup=False, soft_wrap=True)
        before = lines
        if not _goes_on(now):
            return
        time.sleep(every_s)


def _line(stage: StageStatus) -> str:
    return " ".join(filter(None, [stage.stage, stage.state, stage.job_id, stage.nodes, stage.reason]))


def _goes_on(now: RunStatus) -> bool:
    """A stage that was never submitted waits for a person, not for the scheduler."""
    return any(stage.state == "running" or (stage.state in ALIVE and stage.job_id) for stage in now.stages)


# ---- words -----------------------------------------------------------------------------------------------------------


def _below(run: Run, now: RunStatus) -> list[str]:
    """What to do, once for all stages that need the same, and what stands in the way of the whole run."""
    stages_of: dict[str, list[str]] = {}
    for stage in now.stages:
        if stage.advice:
            stages_of.setdefault(stage.advice, []).append(stage.stage)
    advice = [f"{', '.join(names)}: {text}" for text, names in stages_of.items()]
    left_out = [f"left out: {bad.node}, {bad.why} (attempt {bad.attempt})" for bad in bad_nodes(run)]
    return [*advice, *left_out, *filter(None, [_silence(now), purge_warning(run, frozen_profile(run))])]


def _silence(now: RunStatus) -> str:
    return f"Slurm does not answer ({now.silence}): this is what is known without it" if now.silence else ""


def _said(stage: StageStatus) -> str:
    """How far it is, or why it waits or ended."""
    also = f"also after {', '.join(stage.after[:-1])}" if stage.state == "waiting" and len(stage.after) > 1 else ""
    begins = f"begins about {_clock(stage.expected_start)}" if stage.expected_start else ""
    return "; ".join(filter(None, [stage.progress, begins, stage.reason, also, _again(stage)]))


def _again(stage: StageStatus) -> str:
    """Why this is not its first attempt: `attempt 3, after preempted, interrupted`."""
    if not stage.earlier:
        return ""
    ends = [(end, len(list(same))) for end, same in groupby(stage.earlier)]
    return f"attempt {len(stage.earlier) + 1}, after " + ", ".join(f"{n} × {end}" if n > 1 else end for end, n in ends)


def _percent(fraction: float | None) -> str:
    return "" if fraction is None else f"{fraction:.0%}"


def _clock(since: float | None) -> str:
    return "" if since is None else time.strftime("%a %H:%M:%S", time.localtime(since))


def _took(elapsed_s: float | None) -> str:
    return "" if elapsed_s is None else format_seconds(max(round(elapsed_s), 0)).replace("0 µs", "0 s")
