"""A sweep for the terminal: a line a run, with what it differs in and how far it is; once, or again until the end."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence

from rich.cells import cell_len
from rich.console import Console
from rich.live import Live
from rich.text import Text

from hpcllm.launch.sweep import Sweep
from hpcllm.launch.tracking.states import ALIVE
from hpcllm.launch.tracking.sweep_status import SweepStatus, look_at, where_it_is
from hpcllm.launch.tracking.track import StageStatus, goes_on
from hpcllm.report.status_table import poll_s, silence_text, state_text

_HEADER = ("run", "point", "stage", "job", "state", "progress, or why")
_STATE = _HEADER.index("state")
_ROOM = 4  # lines of a terminal that are not runs


def sweep_text(sweep: Sweep, now: SweepStatus, most_runs: int | None = None) -> Text:
    """How many runs are how far, then each; where there is room for fewer, those on which an eye is to be kept.

    Lines of columns, no table of rich's: a line stays one where it goes into a pipe, and two hundred cost nothing.
    """
    shown = [where_it_is(run) for run in now.runs]
    rows = list(zip((run.root.name for run in sweep.runs), sweep.labels, shown, strict=True))
    if most_runs is not None and len(rows) > most_runs:
        rows = sorted(sorted(rows, key=lambda row: _dullness(row[2]))[:most_runs], key=lambda row: row[0])
    lines = [_title(sweep, shown), *_lines([_row(*row) for row in rows])]
    left_out = len(shown) - len(rows)
    lines += [Text(f"and {left_out} more: hpcllm status shows all", style="dim")] if left_out else []
    lines += [Text(silence_text(now.silence), style="yellow")] if now.silence else []
    return Text("\n").join(lines)


def watch_sweep(sweep: Sweep) -> None:
    """The lines, renewed until nothing is queued or running. In a log: one for each change of a run."""
    console, every_s = Console(), poll_s(sweep.runs[0])
    if not console.is_terminal:
        for line in _changes(sweep, every_s):
            console.print(line, highlight=False, markup=False, soft_wrap=True)
        return
    with Live(console=console, auto_refresh=False) as live:
        for now in _looks(sweep, every_s):
            live.update(sweep_text(sweep, now, max(1, console.height - _ROOM)), refresh=True)


def _looks(sweep: Sweep, every_s: float) -> Iterator[SweepStatus]:
    """The sweep now and again, until it goes on no more."""
    while True:
        now = look_at(sweep)
        yield now
        if not any(goes_on(run) for run in now.runs):
            return
        time.sleep(every_s)


def _changes(sweep: Sweep, every_s: float) -> Iterator[str]:
    """A line for each run that is elsewhere, or otherwise, than was said; how many are how far behind them."""
    said: dict[str, str] = {}
    for now in _looks(sweep, every_s):
        shown = [where_it_is(run) for run in now.runs]
        new = {run.root.name: _line(stage) for run, stage in zip(sweep.runs, shown, strict=True)}
        new |= {"": silence_text(now.silence) if now.silence else ""}
        changed = [(name, line) for name, line in new.items() if line and said.get(name) != line]
        said = new
        yield from (f"{name} {line}".strip() for name, line in changed)
        if changed:
            yield _counts(shown)


def _row(name: str, label: str, stage: StageStatus) -> list[Text]:
    said = stage.progress or stage.reason
    words = [name, label, stage.stage, stage.job_id or "", "", " ".join(said.split())]
    row = [Text(word) for word in words]
    row[_STATE] = state_text(stage.state)
    return row


def _lines(rows: Sequence[Sequence[Text]]) -> list[Text]:
    """Columns as wide as their widest word; nothing is wrapped."""
    table = [[Text(word, style="bold") for word in _HEADER], *rows]
    widths = [max(cell_len(row[i].plain) for row in table) for i in range(len(_HEADER))]
    return [_padded(row, widths) for row in table]


def _padded(row: Sequence[Text], widths: Sequence[int]) -> Text:
    line = Text()
    for cell, width in zip(row, widths, strict=True):
        line.append_text(cell).append(" " * (width - cell_len(cell.plain) + 2))
    line.rstrip()
    return line


def _title(sweep: Sweep, shown: Sequence[StageStatus]) -> Text:
    return Text(f"{sweep.root}: {_counts(shown)}")


def _counts(shown: Sequence[StageStatus]) -> str:
    counts = Counter(stage.state for stage in shown)
    return f"{len(shown)} runs: " + ", ".join(f"{count} {state}" for state, count in counts.items())


def _line(stage: StageStatus) -> str:
    return " ".join(filter(None, [stage.stage, stage.state, stage.job_id, stage.nodes, stage.reason]))


def _dullness(stage: StageStatus) -> int:
    """What went wrong is looked at first, then what runs, what waits, what is done."""
    order = ("running", "stuck", "pending", "waiting", "done")
    return order.index(stage.state) + 1 if stage.state in (*ALIVE, "done") else 0
