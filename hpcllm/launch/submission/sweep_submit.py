"""A sweep to Slurm: one array for each stage, each task of it after the same run's task before.

Runs that ask Slurm for the same go into one array. What cannot is submitted by itself: a run that asks for something
else than all others, one whose number is above the site's largest index, and stages that are chains of jobs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from hpcllm.cluster.profile import frozen_profile
from hpcllm.job.spec import frozen_any_job
from hpcllm.launch.array import most_submitted
from hpcllm.launch.pipeline import Stage, stages
from hpcllm.launch.submission.ahead import Ahead, Queued, ahead, own_queue
from hpcllm.launch.submission.all_or_nothing import Sbatch, all_or_nothing, hand_in
from hpcllm.launch.submission.before import findings
from hpcllm.launch.submission.chain import SEPARATOR, chain_length
from hpcllm.launch.submission.finding import Finding, raise_refusals
from hpcllm.launch.submission.submit import alone, check_answered, check_cluster, jobs_in_queue, note
from hpcllm.launch.submission.sweep_batches import (
    Batch,
    Ids,
    after,
    array_path,
    array_script,
    array_tokens,
    batches,
    directives,
    parts,
)
from hpcllm.launch.sweep import Sweep, borrowed
from hpcllm.launch.tracking.on_disk import submitted
from hpcllm.launch.tracking.states import ALIVE
from hpcllm.launch.tracking.sweep_status import look_at
from hpcllm.plan.plan import read_plan
from hpcllm.run_directory import Run, write_text

Lenders = Mapping[tuple[int, str], int]
"""(number of a run, name of a stage) -> the number of the run whose outcome it is."""


@dataclass(frozen=True)
class Work:
    """What is to be submitted, and what it may wait for."""

    missing: Sequence[set[str]]
    """Names of stages, for each run."""
    alive: Ids
    """The jobs that are queued or run."""
    lenders: Lenders
    waiting: int = 0
    """How many runs are more than may be in the queue now."""

    @property
    def is_empty(self) -> bool:
        """Whether all is done or queued."""
        return not any(self.missing)


@dataclass
class Told:
    """What a dry run would submit: the commands of each batch, and the scripts of arrays that they name."""

    commands: list[tuple[Batch, list[str]]] = field(default_factory=list)
    scripts: dict[Path, str] = field(default_factory=dict)


def submit_sweep(sweep: Sweep, say: Callable[[Finding], None] | None = None) -> tuple[list[tuple[Batch, str]], int]:
    """Submit what is neither done nor queued: each batch with its id, and how many runs have to wait for a later call.

    `say` is told what was found before. Raises UserError with what stands in the way, and nothing of this call stays
    in the queue.
    """
    runs = sweep.runs
    check_cluster(runs[0], sweep.root)
    with alone(runs[0]):
        lenders, queued = borrowed(runs), own_queue()
        work = _work(sweep, lenders, queued)
        left = _left_behind(sweep, work, queued or [])
        if left:
            _note(runs, _with_borrowers(left, lenders))
            work = _work(sweep, lenders, queued)
        if work.is_empty:
            return [], work.waiting
        found = _findings(sweep, work, queued)
        for finding in found if say else ():
            say(finding)  # type: ignore[misc]
        raise_refusals(found)
        return _submit_all(sweep, work), work.waiting


def check_sweep(sweep: Sweep) -> list[Finding]:
    """What a submission would run into now, good and bad."""
    check_cluster(sweep.runs[0], sweep.root)
    queued = own_queue()
    work = _work(sweep, borrowed(sweep.runs), queued)
    return [] if work.is_empty else _findings(sweep, work, queued)


def sweep_commands(sweep: Sweep) -> Told:
    """What would be submitted now, with JOB_OF_STAGE in place of ids to come. Writes nothing."""
    work = _work(sweep, borrowed(sweep.runs), None)
    told, counts = Told(), dict[str, int]()

    def tell(batch: Batch, tokens: Sequence[str]) -> str:
        told.commands.append((batch, list(tokens)))
        if batch.is_array:
            told.scripts[array_path(sweep, batch)] = array_script(sweep, batch)
        name = batch.stage.name
        counts[name] = counts.get(name, 0) + 1
        return f"JOB_OF_{name}" if counts[name] == 1 else f"JOB_{counts[name]}_OF_{name}"

    for _ in _hand_in_all(sweep, work, tell):
        pass
    return told


# ---- what is to be done ----------------------------------------------------------------------------------------------


def _work(sweep: Sweep, lenders: Lenders, queued: Sequence[Queued] | None) -> Work:
    """Raises UserError while Slurm is silent."""
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
    return Work(missing, alive, lenders, _without_room(missing, _room(sweep.runs[0], queued)))


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


def _room(run: Run, queued: Sequence[Queued] | None) -> int | None:
    """How many more jobs this person may have in the queue; None where no limit is known."""
    most = most_submitted(frozen_profile(run), frozen_any_job(run))
    return max(0, most - len(queued or [])) if most else None


def _findings(sweep: Sweep, work: Work, queued: Sequence[Queued] | None) -> list[Finding]:
    """Of every run: one of those that ask Slurm for the same speaks for them all."""
    alike: dict[tuple[str, tuple[str, ...]], list[tuple[Run, Stage]]] = {}
    concerned = [(run, names) for run, names in zip(sweep.runs, work.missing, strict=True) if names]
    for run, names in concerned:
        for stage in stages(frozen_any_job(run)):
            if stage.name in names:
                alike.setdefault((stage.id, directives(run, stage)), []).append((run, stage))
    asked = []
    for same in alike.values():
        run, stage = same[0]
        asked.append(replace(_ahead(run, stage), tasks=len(same)))
    return findings(concerned[0][0], asked, queued, beside=[run for run, _ in concerned[1:]])


def _ahead(run: Run, stage: Stage) -> Ahead:
    return ahead(run, {stage.name: _chain_length(run, stage)}, [stage])[0]


def _chain_length(run: Run, stage: Stage) -> int:
    plan = read_plan(run) if run.plan_json.exists() else None
    return chain_length(frozen_profile(run), frozen_any_job(run), plan, stage)


# ---- what a submit that was killed left ------------------------------------------------------------------------------


def _left_behind(sweep: Sweep, work: Work, queued: Sequence[Queued]) -> Ids:
    """The jobs of our scripts in the queue that stand in no jobs.json, of the stages that are missing."""
    known = {
        one
        for run in sweep.runs
        for entries in submitted(run).values()
        for one in SEPARATOR.join(entries).split(SEPARATOR)
    }
    by_script: dict[str, list[Queued]] = {}
    for job in queued:
        if job.job_id not in known:
            by_script.setdefault(_script_of(job), []).append(job)
    return dict(_tasks_left(sweep, by_script)) | dict(_runs_left(sweep, work, by_script))


def _tasks_left(sweep: Sweep, by_script: Mapping[str, Sequence[Queued]]) -> Iterator[tuple[tuple[int, str], str]]:
    """Tasks of arrays: `77_3` of SWEEP/scripts/30-train.0.sbatch is the training of run 3."""
    of_arrays = [(path, jobs) for script, jobs in by_script.items() if (path := Path(script)).parent == sweep.scripts]
    for path, jobs in of_arrays:
        stage_id = path.name.rsplit(".", 2)[0]
        for job in jobs:
            number = int(job.job_id.rpartition("_")[2])
            yield (number, stage_id.partition("-")[2]), job.job_id


def _runs_left(
    sweep: Sweep, work: Work, by_script: Mapping[str, Sequence[Queued]]
) -> Iterator[tuple[tuple[int, str], str]]:
    """Jobs that are one run's own."""
    for i, (run, names) in enumerate(zip(sweep.runs, work.missing, strict=True)):
        for stage in stages(frozen_any_job(run)) if names else ():
            jobs = by_script.get(str(run.script(stage.id)), ())
            if jobs and stage.name in names:
                yield (i, stage.name), SEPARATOR.join(job.job_id for job in jobs_in_queue(run, stage, jobs))


def _script_of(job: Queued) -> str:
    """Without what it was told."""
    end = job.command.rfind(".sbatch")
    return job.command if end < 0 else job.command[: end + len(".sbatch")]


# ---- all or nothing --------------------------------------------------------------------------------------------------


def _submit_all(sweep: Sweep, work: Work) -> list[tuple[Batch, str]]:
    """Every batch, noted at the end. Raises what broke it off, when nothing of it is left in the queue."""
    made = list[tuple[Batch, str]]()
    with all_or_nothing(lambda: _unsaid(sweep, work)) as sbatch:

        def submit(batch: Batch, tokens: Sequence[str]) -> str:
            if batch.is_array:
                write_text(array_path(sweep, batch), array_script(sweep, batch), executable=True)
            return sbatch(tokens)

        new: Ids = {}
        for batch, job_id in _hand_in_all(sweep, work, submit):
            made.append((batch, job_id))
            new |= batch.ids(job_id)
        _note(sweep.runs, _with_borrowers(new, work.lenders))
    return made


def _hand_in_all(
    sweep: Sweep, work: Work, submit: Callable[[Batch, Sequence[str]], str]
) -> Iterator[tuple[Batch, str]]:
    """Each batch, or part of one, with its id or those of its chain."""
    ids = dict(work.alive)
    for batch in batches(sweep.runs, work.missing):
        for part in parts(batch, ids):
            if part.is_array:
                job_id = submit(part, array_tokens(sweep, part, ids))
            else:
                job_id = _by_itself(sweep, part, ids, partial(submit, part))
            ids |= _with_borrowers(part.ids(job_id), work.lenders)
            yield part, job_id


def _by_itself(sweep: Sweep, batch: Batch, ids: Ids, sbatch: Sbatch) -> str:
    (number,) = batch.numbers
    run = sweep.runs[number]
    run.logs.mkdir(exist_ok=True)
    needed = after(batch.stage, number, ids)
    return hand_in(run, batch.stage, needed, _chain_length(run, batch.stage), sbatch)


def _unsaid(sweep: Sweep, work: Work) -> list[str]:
    """What Slurm took without saying so in time; an array is cancelled as one."""
    found = _left_behind(sweep, work, own_queue() or [])
    return list(dict.fromkeys(one.partition("_")[0] for ids in found.values() for one in ids.split(SEPARATOR)))


def _with_borrowers(new: Ids, lenders: Lenders) -> Ids:
    """Beside the job of a stage, those runs that use its outcome too."""
    return new | {(i, name): new[lender, name] for (i, name), lender in lenders.items() if (lender, name) in new}


def _note(runs: Sequence[Run], new: Ids) -> None:
    """Into each run's jobs.json, as if it had been submitted by itself."""
    by_run: dict[int, dict[str, str]] = {}
    for (number, name), job_id in new.items():
        by_run.setdefault(number, {})[name] = job_id
    for number, own in by_run.items():
        note(runs[number], own)
