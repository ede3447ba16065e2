"""What a run in the foreground shows: in a terminal the DAG with a bar, in a log plain lines."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, Protocol

from rich.console import Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from hpcllm.launch.pipeline import Stage
from hpcllm.progress import Progress
from hpcllm.units import format_seconds

Outcome = Literal["done", "interrupted", "failed"]
LAST_LINES = 6
MARKS = {"done": "[green]✓[/]", "failed": "[red]✗[/]", "interrupted": "[yellow]‖[/]", "running": "[cyan]▸[/]", "": "·"}


class View(Protocol):
    """What `run_local` tells as it goes."""

    def begin(self, stage: Stage) -> None:
        """A stage starts."""

    def line(self, text: str) -> None:
        """The stage said something."""

    def end(self, stage: Stage, outcome: Outcome) -> None:
        """The stage is over."""


@contextmanager
def make_view(root: Path, stages: Sequence[Stage], quiet: bool) -> Iterator[View]:
    """The view that suits where standard output goes."""
    if quiet:
        yield Silent()
    elif not sys.stdout.isatty():
        yield Plain(root)
    else:
        view = DagView(root, stages)
        with Live(get_renderable=view.render, refresh_per_second=4):
            yield view


class Silent:
    """Shows nothing."""

    def begin(self, stage: Stage) -> None:
        """Nothing."""

    def line(self, text: str) -> None:
        """Nothing."""

    def end(self, stage: Stage, outcome: Outcome) -> None:
        """Nothing."""


class Plain:
    """Every line as it comes, and one at each end."""

    def __init__(self, root: Path) -> None:
        print(f"run {root}", flush=True)

    def begin(self, stage: Stage) -> None:
        """Name the stage."""
        self._start_s = time.monotonic()
        print(f"---- {stage.id}: {stage.purpose}", flush=True)

    def line(self, text: str) -> None:
        """Print it."""
        print(text, flush=True)

    def end(self, stage: Stage, outcome: Outcome) -> None:
        """Say how it went, and how long it took."""
        print(f"---- {stage.id}: {outcome} after {format_seconds(time.monotonic() - self._start_s)}", flush=True)


class DagView:
    """The stages with their states and times, a bar for what is running, and its last lines."""

    def __init__(self, root: Path, stages: Sequence[Stage]) -> None:
        self._root, self._stages = root, stages
        self._states: dict[str, str] = {}
        self._seconds: dict[str, float] = {}
        self._progress: Progress | None = None
        self._lines: deque[str] = deque(maxlen=LAST_LINES)
        self._start_s = 0.0

    def begin(self, stage: Stage) -> None:
        """A new row is running; the bar and the lines are its own."""
        self._start_s, self._progress = time.monotonic(), None
        self._lines.clear()
        self._states[stage.name] = "running"

    def line(self, text: str) -> None:
        """A line of progress moves the bar, any other one is shown."""
        progress = Progress.parse(text)
        if progress:
            self._progress = progress
        elif text.strip():
            self._lines.append(text)

    def end(self, stage: Stage, outcome: Outcome) -> None:
        """The row keeps its state and its time."""
        self._seconds[stage.name] = time.monotonic() - self._start_s
        self._states[stage.name] = outcome

    def render(self) -> Group:
        """The picture of now."""
        table = Table.grid(padding=(0, 2))
        for stage in self._stages:
            table.add_row(*self._row(stage))
        lines = [Text(line, style="dim", no_wrap=True, overflow="ellipsis") for line in self._lines]
        return Group(Text(f"run {self._root}", style="bold"), table, *lines)

    def _row(self, stage: Stage) -> tuple[str | ProgressBar | Text, ...]:
        state = self._states.get(stage.name, "")
        if state != "running":
            seconds = self._seconds.get(stage.name)
            return MARKS[state], stage.name, Text(stage.purpose, style="dim"), _time(seconds), ""
        taken = _time(time.monotonic() - self._start_s)
        if self._progress is None:
            return MARKS[state], stage.name, Text(stage.purpose), taken, ""
        bar = ProgressBar(total=self._progress.total, completed=self._progress.done, width=24)
        said = Text(f"{self._progress.done}/{self._progress.total} {self._progress.text}")
        return MARKS[state], stage.name, bar, taken, said


def _time(seconds: float | None) -> str:
    return "" if seconds is None else format_seconds(seconds if seconds >= 1 else 0.0 if seconds < 0.05 else seconds)
