"""What the runs of a sweep said: the log of one of them, or of the one that failed first."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from hpcllm.errors import HpcllmError, UserError
from hpcllm.launch.sweep import Sweep
from hpcllm.launch.tracking.logs import errors, logs, logs_by_stage
from hpcllm.launch.tracking.states import State
from hpcllm.launch.tracking.sweep_status import look_at
from hpcllm.launch.tracking.track import StageStatus
from hpcllm.run_directory import Run
from hpcllm.units import as_ranges

_FAILED: tuple[State, ...] = ("failed", "out of memory", "timeout", "node failure")


def logs_of(sweep: Sweep, word: str | None = None, only_errors: bool = False) -> str:
    """The log of the run with that number; left out, of the one that failed first, or else wrote last.

    `word` may also be a stage, which is then looked for in all runs. Raises UserError, HpcllmError.
    """
    say = errors if only_errors else logs
    if word and word.isdecimal():
        return say(run_numbered(sweep, word), None)
    failed = _failed(sweep, word)
    if failed:
        number, stage = failed[0]
        return f"{_summary(sweep, failed)}\n{say(sweep.runs[number], stage.stage)}"
    if only_errors:
        return f"{sweep.root}: none of {len(sweep.runs)} runs has failed{f' in {word}' if word else ''}\n"
    return say(_latest(sweep), word)


def run_numbered(sweep: Sweep, word: str) -> Run:
    """A run by its number. Raises UserError."""
    if not word.isdecimal() or int(word) >= len(sweep.runs):
        there = f"{sweep.runs[0].root.name} to {sweep.runs[-1].root.name}"
        raise UserError(f"{sweep.root}: found {word!r}; expected the number of one of its runs, {there}")
    return sweep.runs[int(word)]


def _failed(sweep: Sweep, stage_name: str | None) -> list[tuple[int, StageStatus]]:
    """(number of the run, the stage in which it failed), as they failed one after another."""
    stages = [(i, stage) for i, run in enumerate(look_at(sweep).runs) for stage in run.stages]
    if stage_name and stage_name not in (known := list(dict.fromkeys(stage.stage for _, stage in stages))):
        raise UserError(f"{sweep.root}: found {stage_name!r}; expected a run's number or a stage: {', '.join(known)}")
    failed = [(i, stage) for i, stage in stages if stage.state in _FAILED and stage_name in (None, stage.stage)]
    return sorted(failed, key=lambda found: found[1].since or 0.0)


def _summary(sweep: Sweep, failed: Sequence[tuple[int, StageStatus]]) -> str:
    """`3 of 200 runs failed (4,17,19). The first was 017 (seed=18), in train: failed`."""
    numbers = sorted({number for number, _ in failed})
    number, stage = failed[0]
    which = f"{len(numbers)} of {len(sweep.runs)} runs failed ({as_ranges(numbers)})"
    first = f"{sweep.runs[number].root.name} ({sweep.labels[number]}), in {stage.stage}: {stage.state}"
    return f"{which}. The first was {first}"


def _latest(sweep: Sweep) -> Run:
    """The run that wrote into a log last."""
    written = [(_written_s(paths[-1]), i) for i, run in enumerate(sweep.runs) for paths in logs_by_stage(run).values()]
    if not written:
        where = shlex.quote(str(sweep.root))
        raise HpcllmError(f"{sweep.root}: no run of it has a log yet; hpcllm status {where} says why")
    return sweep.runs[max(written)[1]]


def _written_s(path: Path) -> float:
    return path.stat().st_mtime
