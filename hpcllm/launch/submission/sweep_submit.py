"""A sweep to Slurm: one array for each stage, each task of it after the same run's task before.

Runs that ask Slurm for the same go into one array. What cannot is submitted by itself: a run that asks for something
else than all others, one whose number is above the site's largest index, and stages that are chains of jobs.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hpcllm.cluster.profile import frozen_profile
from hpcllm.errors import UserError
from hpcllm.job.spec import frozen_any_job
from hpcllm.launch.pipeline import Stage, stages
from hpcllm.launch.scripts.dag_scripts import sbatch_tokens
from hpcllm.launch.scripts.shell import directive_word, directives_in, one_line
from hpcllm.launch.submission.ahead import own_queue
from hpcllm.launch.submission.chain import can_chain
from hpcllm.launch.submission.finding import raise_refusals
from hpcllm.launch.submission.submit import alone, check, check_answered, check_cluster, note, signals_wait, withdraw
from hpcllm.launch.sweep import Sweep, borrowed
from hpcllm.launch.tracking.slurm import slurm
from hpcllm.launch.tracking.states import ALIVE
from hpcllm.launch.tracking.sweep_status import look_at
from hpcllm.run_directory import Run, write_text
from hpcllm.units import as_ranges

Ids = dict[tuple[int, str], str]
"""The job of a run's stage: (number of the run, name of the stage) -> id."""


@dataclass(frozen=True)
class Batch:
    """What one sbatch call submits: a stage of one run, or of several as an array."""

    stage: Stage
    numbers: tuple[int, ...]
    """Of the runs; they are the indexes of the array."""
    group: str = "0"
    """Of those that ask Slurm for the same, which one; in the name of its script."""

    @property
    def is_array(self) -> bool:
        """Whether it is more than one job."""
        return len(self.numbers) > 1

    def ids(self, job_id: str) -> Ids:
        """The ids of its jobs, by what sbatch said."""
        return {(i, self.stage.name): f"{job_id}_{i}" if self.is_array else job_id for i in self.numbers}


def submit_sweep(sweep: Sweep) -> tuple[list[tuple[Batch, str]], int]:
    """Submit what is neither done nor queued: each batch with its id, and how many runs have to wait for a later call.

    Raises UserError with what stands in the way, and nothing of this call stays in the queue.
    """
    runs = sweep.runs
    check_cluster(runs[0], sweep.root)
    with alone(runs[0]):
        lenders = borrowed(runs)
        alive, missing, waiting = _ahead(sweep, lenders)
        first = next((i for i, names in enumerate(missing) if names), None)
        if first is None:
            return [], waiting
        raise_refusals(check(runs[first]))
        return _submit_all(sweep, missing, alive, lenders), waiting


def _submit_all(
    sweep: Sweep, missing: Sequence[set[str]], alive: Ids, lenders: Mapping[tuple[int, str], int]
) -> list[tuple[Batch, str]]:
    """Every batch, noted at the end. Raises what broke it off, when nothing of it is left in the queue."""
    made, ids = list[tuple[Batch, str]](), dict(alive)
    with signals_wait() as stop_if_told:
        try:
            for batch in _batches(sweep.runs, missing):
                for part, tokens in _calls(sweep, batch, ids):
                    job_id = _sbatch(tokens)
                    made.append((part, job_id))
                    stop_if_told()
                    new = part.ids(job_id)
                    ids |= new | {key: new[i, key[1]] for key, i in lenders.items() if (i, key[1]) in new}
            _note(sweep.runs, {key: job_id for key, job_id in ids.items() if alive.get(key) != job_id})
        except BaseException as error:
            withdraw([job_id for _, job_id in made], error)
            raise
    return made


# ---- what is to be done ----------------------------------------------------------------------------------------------


def _ahead(sweep: Sweep, lenders: Mapping[tuple[int, str], int]) -> tuple[Ids, list[set[str]], int]:
    """The jobs that are queued or run, the stages of each run that are missing, and how many runs have no room now."""
    now = look_at(sweep)
    check_answered(sweep.root, now.silence)
    alive: Ids = {}
    missing = [set[str]() for _ in now.runs]
    for i, run in enumerate(now.runs):
        for found in run.stages:
            if found.state in ALIVE and found.job_id:
                alive[i, found.stage] = found.job_id
            elif found.state not in ("done", "running") and (i, found.stage) not in lenders:
                missing[i].add(found.stage)
    return alive, missing, _without_room(missing, _room(sweep.runs[0]))


def _without_room(missing: Sequence[set[str]], room: int | None) -> int:
    """Leave out the runs that are more than may be in the queue; how many these are."""
    waiting = 0
    if room is None:
        return 0
    for names in missing:
        if names and (waiting or len(names) > room):
            waiting += 1
            names.clear()
        room -= len(names)
    return waiting


def _room(run: Run) -> int | None:
    """How many more jobs this person may have in the queue; None where no limit is known."""
    profile, job = frozen_profile(run), frozen_any_job(run)
    _, queue = profile.partition(job.slurm.partition)
    qos = profile.scheduler.qos.get(job.slurm.qos or (queue.qos if queue else None) or "")
    known = (profile.scheduler.max_submitted, queue and queue.max_submitted, qos and qos.max_submitted)
    limits = [limit for limit in known if limit]
    return max(0, min(limits) - len(own_queue() or [])) if limits else None


def _batches(runs: Sequence[Run], missing: Sequence[set[str]]) -> Iterator[Batch]:
    """Stage after stage, the runs that ask Slurm for the same together."""
    profile = frozen_profile(runs[0])
    most = profile.scheduler.max_array_size or len(runs)
    rows: dict[str, dict[tuple[str, ...], list[int]]] = {}
    found: dict[str, Stage] = {}
    for i, run in enumerate(runs):
        for stage in stages(frozen_any_job(run)) if missing[i] else ():
            groups = rows.setdefault(stage.id, {})
            found[stage.id] = stage
            if stage.name in missing[i]:
                alone = (f"run {i}",) if i >= most or can_chain(profile, stage) else ()
                groups.setdefault((*_directives(run, stage), *alone), []).append(i)
    for stage_id, groups in rows.items():
        for group, numbers in enumerate(groups.values()):
            yield Batch(found[stage_id], tuple(numbers), str(group))


def _directives(run: Run, stage: Stage) -> tuple[str, ...]:
    """What a run's script asks for, but for what is named after the run, and its being an array itself."""
    lines = directives_in(run.script(stage.id).read_text(encoding="utf-8"))
    left_out = ("#SBATCH --job-name=", "#SBATCH --output=", "#SBATCH --array=")
    return tuple(line for line in lines if not line.startswith(left_out))


# ---- one call of sbatch ----------------------------------------------------------------------------------------------


def _calls(sweep: Sweep, batch: Batch, ids: Ids) -> Iterator[tuple[Batch, list[str]]]:
    """The call of a batch; or several, where its runs do not wait for the same."""
    for part in _parts(batch, ids):
        needed = _dependency(part, ids) if part.is_array else None
        if needed is None:
            for i in part.numbers:
                yield Batch(part.stage, (i,)), sbatch_tokens(sweep.runs[i], part.stage, _after(part, i, ids))
            continue
        script = _array_script(sweep, part)
        waits = [f"--dependency={','.join(needed)}", "--kill-on-invalid-dep=yes"] if needed else []
        array = f"--array={as_ranges(part.numbers)}{_throttle(sweep)}"
        yield part, ["sbatch", "--parsable", array, *waits, str(script)]


def _parts(batch: Batch, ids: Ids) -> list[Batch]:
    """The batch, or its runs by what they wait for where one dependency does not say it for all."""
    if not batch.is_array or _dependency(batch, ids) is not None:
        return [batch]
    alike: dict[tuple[str, ...], list[int]] = {}
    for i in batch.numbers:
        alike.setdefault(tuple(_after(batch, i, ids)), []).append(i)
    return [Batch(batch.stage, tuple(n), f"{batch.group}-{k}") for k, n in enumerate(alike.values())]


def _after(batch: Batch, number: int, ids: Ids) -> list[str]:
    """The jobs that one run's stage waits for."""
    return [ids[number, name] for name in batch.stage.after if (number, name) in ids]


def _throttle(sweep: Sweep) -> str:
    """How many tasks may run at a time, as sbatch reads it."""
    most = frozen_any_job(sweep.runs[0]).slurm.at_a_time
    return f"%{most}" if most else ""


def _dependency(batch: Batch, ids: Mapping[tuple[int, str], str]) -> list[str] | None:
    """For each stage before: `aftercorr` of the array of the same runs, `afterok` of one job for all. None: neither."""
    parts = []
    for name in batch.stage.after:
        found = [ids.get((i, name)) for i in batch.numbers]
        arrays = {one.rpartition("_")[0] if one and one.endswith(f"_{i}") else None
                  for i, one in zip(batch.numbers, found, strict=True)}  # fmt: skip
        if set(found) == {None}:
            continue
        if len(set(found)) == 1 and ":" not in str(found[0]):
            parts.append(f"afterok:{found[0]}")
        elif len(arrays) == 1 and None not in arrays:
            parts.append(f"aftercorr:{arrays.pop()}")
        else:
            return None
    return parts


def _array_script(sweep: Sweep, batch: Batch) -> Path:
    """Write the script of an array; Slurm keeps a copy of it, so the next call may write another in its place."""
    stage, path = batch.stage, sweep.script(batch.stage.id, batch.group)
    root = str(sweep.root)
    log = root.replace("%", "%%") + f"/%{sweep.width}a/logs/{stage.id}.slurm.log"
    directives = "\n".join(_directives(sweep.runs[batch.numbers[0]], stage))
    array = f"{as_ranges(batch.numbers)}{_throttle(sweep)}"
    whole = " all" if stage.array else ""  # each task is a run, and does all of its stage
    text = f"""\
#!/usr/bin/env bash
# {one_line(sweep.name)}, stage {stage.id} of {len(batch.numbers)} runs: each task becomes the script of its run.
# By hand: sbatch --array={array} {one_line(shlex.quote(str(path)))}
#SBATCH --job-name={directive_word(_queue_name(f"{sweep.name}-{stage.name}"))}
#SBATCH --output={directive_word(log)}
{directives}
exec bash {shlex.quote(root)}/"$(printf %0{sweep.width}d "$SLURM_ARRAY_TASK_ID")"/scripts/{stage.id}.sbatch{whole}
"""
    write_text(path, text, executable=True)
    return path


def _queue_name(text: str) -> str:
    return "".join(c if c.isalnum() or c in "_.+-" else "-" for c in text)


def _sbatch(tokens: Sequence[str]) -> str:
    """The id that sbatch gives. Raises UserError with its words."""
    done = slurm(tokens)
    if done.returncode:
        raise UserError(f"{tokens[-1]}: sbatch refuses it: {done.stderr.strip()}")
    return done.stdout.strip().split(";")[0]


def _note(runs: Sequence[Run], new: Ids) -> None:
    """Into each run's jobs.json, as if it had been submitted by itself."""
    for i, run in enumerate(runs):
        own = {name: job_id for (number, name), job_id in new.items() if number == i}
        if own:
            note(run, own)
