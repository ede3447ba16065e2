"""A sweep as a table: a row a run, with what it differs in and how far it is."""

from __future__ import annotations

from collections import Counter

from rich.console import Group
from rich.table import Table
from rich.text import Text

from hpcllm.launch.sweep import Sweep
from hpcllm.launch.tracking.states import ALIVE
from hpcllm.launch.tracking.sweep_status import SweepStatus
from hpcllm.launch.tracking.track import RunStatus, StageStatus
from hpcllm.report.status_table import state_text


def sweep_table(sweep: Sweep, now: SweepStatus) -> Group:
    """How many runs are how far, then each."""
    shown = [where_it_is(run) for run in now.runs]
    counts = Counter(stage.state for stage in shown)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("run", "point", "stage", "job", "state", "progress, or why"):
        table.add_column(name, overflow="fold")
    for run, label, stage in zip(sweep.runs, sweep.labels, shown, strict=True):
        table.add_row(
            run.root.name, label, stage.stage, stage.job_id or "", state_text(stage.state),
            Text(stage.progress or stage.reason),
        )  # fmt: skip
    title = f"{sweep.root}: {len(shown)} runs, " + ", ".join(f"{count} {state}" for state, count in counts.items())
    said = [Text(f"Slurm does not answer: {now.silence}", style="yellow")] if now.silence else []
    return Group(Text(title), table, *said)


def where_it_is(run: RunStatus) -> StageStatus:
    """The stage that tells how a run is: the first that went wrong, else that runs, else that waits, else the last."""
    wrong = [stage for stage in run.stages if stage.state not in (*ALIVE, "done")]
    running = [stage for stage in run.stages if stage.state == "running"]
    waiting = [stage for stage in run.stages if stage.state in ALIVE]
    return (wrong + running + waiting + [run.stages[-1]])[0]
