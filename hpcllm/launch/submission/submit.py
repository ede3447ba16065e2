"""The DAG to Slurm: everything is checked first, then all of it is submitted or nothing; a second time what is missing.

What a submit that was killed left in the queue, before its ids stood in jobs.json, is taken over by the next.
"""

from __future__ import annotations

import fcntl
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from hpcllm.cluster.profile import frozen_profile
from hpcllm.errors import UserError
from hpcllm.job.spec import frozen_any_job
from hpcllm.launch.pipeline import Stage, stages
from hpcllm.launch.submission.ahead import Ahead, Queued, ahead, own_queue
from hpcllm.launch.submission.all_or_nothing import all_or_nothing, hand_in
from hpcllm.launch.submission.before import findings
from hpcllm.launch.submission.chain import SEPARATOR, chain_length, rest_of_chain
from hpcllm.launch.submission.finding import Finding, raise_refusals
from hpcllm.launch.tracking.on_disk import submitted
from hpcllm.launch.tracking.states import ALIVE
from hpcllm.launch.tracking.track import StageStatus, look
from hpcllm.plan.plan import read_plan
from hpcllm.run_directory import Run, write_json

if TYPE_CHECKING:
    import submitit

Now = Mapping[str, StageStatus]


def submit(run: Run, dry_run: bool = False, say: Callable[[Finding], None] | None = None) -> dict[str, str]:
    """Submit what is neither done nor queued: stage -> job id (`dry_run`: the commands, and nothing is submitted).

    `say` is told what was found before, good and bad.

    Raises UserError with everything that stands in the way, and nothing is submitted; what Slurm or a signal breaks off
    in the middle is withdrawn, and jobs.json stays as it was.
    """
    check_cluster(run)
    if dry_run:
        return {stage: "\n".join(map(shlex.join, tokens)) for stage, tokens in commands(run).items()}
    with alone(run):
        now = _now(run)
        queued = own_queue() if _missing(run, now) else None
        now = _taken_over(run, now, queued or [])
        work = _ahead(run, now)
        found = findings(run, work, queued) if work else []
        if say:
            for finding in found:
                say(finding)
        raise_refusals(found)
        return _submit_all(run, work, now)


def check(run: Run) -> list[Finding]:
    """What a submission would run into now, good and bad."""
    check_cluster(run)
    work = _ahead(run, _now(run))
    return findings(run, work, own_queue()) if work else []


def commands(run: Run) -> dict[str, list[list[str]]]:
    """What would be submitted now: the commands of each stage, with JOB_OF_STAGE in place of ids to come."""
    now, found = _now(run), dict[str, list[list[str]]]()
    ids = _alive(run, now)
    for one in _ahead(run, now):
        name, after = one.stage.name, [ids[other] for other in one.stage.after if other in ids]
        found[name] = []

        def told(tokens: Sequence[str], num_jobs: int = one.jobs, name: str = name) -> str:
            found[name].append(list(tokens))
            return f"JOB_OF_{name}" if num_jobs == 1 else f"JOB_{len(found[name])}_OF_{name}"

        ids[name] = hand_in(run, one.stage, after, one.jobs, told)
    return found


def jobs(run: Run) -> dict[str, submitit.Job[dict[str, object]]]:
    """submitit's handle of each submitted stage's latest job."""
    from hpcllm.launch.submitit_plugin import ScriptJob, StageScript  # longer to import than a dry run takes

    ids = submitted(run)
    rows = [stage for stage in stages(frozen_any_job(run)) if ids.get(stage.name)]
    return {stage.name: ScriptJob(run.logs, ids[stage.name][-1], StageScript(run, stage)) for stage in rows}


# ---- what is to be done ----------------------------------------------------------------------------------------------


def check_cluster(run: Run, root: Path | None = None) -> None:
    """Raises UserError for a run of a cluster without Slurm, in the name of `root`: the run, or the sweep it is of."""
    profile, root = frozen_profile(run), root or run.root
    if profile.scheduler.kind != "slurm":
        here = f"hpcllm run {shlex.quote(str(root))}"
        raise UserError(f"{root}: rendered for {profile.name}, which has no Slurm; run it here: {here}")


def check_answered(root: Path, silence: str) -> None:
    """Raises UserError while Slurm is silent: what it does not tell could be queued twice."""
    if silence:
        raise UserError(f"{root}: Slurm does not answer ({silence}); nothing was submitted; try again later")


@contextmanager
def alone(run: Run) -> Iterator[None]:
    """No other submit of this run at the same time, or both would submit the same stages. Raises UserError."""
    with run.jobs_lock.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"{run.jobs_lock}: another submit of this run is at it; try again when it is over"
            ) from None
        except OSError:
            pass  # a file system without locks, as Lustre mounted without -o flock
        yield


def _now(run: Run) -> Now:
    """Every stage by its name. Raises UserError while Slurm is silent."""
    seen = look(run)
    check_answered(run.root, seen.silence)
    return {found.stage: found for found in seen.stages}


def _missing(run: Run, now: Now) -> list[Stage]:
    """What was never submitted or has ended without success. A fresh run's stages are `waiting` without a job."""
    busy = {name for name, found in now.items() if found.state == "running" or (found.state in ALIVE and found.job_id)}
    kept = {name for name, found in now.items() if found.state == "done"} | busy
    return [stage for stage in stages(frozen_any_job(run)) if stage.name not in kept]


def _ahead(run: Run, now: Now) -> list[Ahead]:
    """The missing stages, each with how many jobs it is."""
    profile, job = frozen_profile(run), frozen_any_job(run)
    plan = read_plan(run) if run.plan_json.exists() else None
    missing = _missing(run, now)
    return ahead(run, {stage.name: chain_length(profile, job, plan, stage) for stage in missing}, missing)


def _alive(run: Run, now: Now) -> dict[str, str]:
    """The job of each stage that is queued or runs; of a chain, those that may still be."""
    before = submitted(run)
    alive = {name: found.job_id for name, found in now.items() if found.state in ALIVE and found.job_id}
    return {name: SEPARATOR.join(rest_of_chain(job_id, before.get(name, []))) for name, job_id in alive.items()}


def _taken_over(run: Run, now: Now, queued: Sequence[Queued]) -> Now:
    """With the jobs of our scripts in the queue that stand in no jobs.json: of a submit that was killed, or by hand."""
    missing = _missing(run, now)
    found = {stage.name: SEPARATOR.join(job.job_id for job in jobs_in_queue(run, stage, queued)) for stage in missing}
    found = {name: ids for name, ids in found.items() if ids}
    if not found:
        return now
    note(run, found)
    return _now(run)


def jobs_in_queue(run: Run, stage: Stage, queued: Sequence[Queued]) -> list[Queued]:
    """Those in the queue that run the script of a stage; an array is one."""
    script = str(run.script(stage.id))
    found = [job for job in queued if job.command == script or job.command.startswith(f"{script} ")]
    if not stage.array:
        return found
    arrays = {job.job_id.partition("_")[0]: job for job in found}
    return [replace(job, job_id=array) for array, job in arrays.items()]


def note(run: Run, made: Mapping[str, str]) -> None:
    """The job of each stage into jobs.json, behind those of before."""
    before = submitted(run)
    write_json(run.jobs_json, {**before, **{name: [*before.get(name, []), ids] for name, ids in made.items()}})


# ---- all or nothing --------------------------------------------------------------------------------------------------


def _submit_all(run: Run, work: Sequence[Ahead], now: Now) -> dict[str, str]:
    """Every job of every stage, noted at the end. Raises what broke it off, when nothing of it is left in the queue."""
    run.logs.mkdir(exist_ok=True)
    ids, made = _alive(run, now), dict[str, str]()
    with all_or_nothing(lambda: _unsaid(run, work)) as sbatch:
        for one in work:
            after = [ids[name] for name in one.stage.after if name in ids]
            ids[one.stage.name] = made[one.stage.name] = hand_in(run, one.stage, after, one.jobs, sbatch)
        note(run, made)
    return made


def _unsaid(run: Run, work: Sequence[Ahead]) -> list[str]:
    """What Slurm took without saying so in time: our scripts in the queue that stand in no jobs.json."""
    known = {one for entries in submitted(run).values() for entry in entries for one in entry.split(SEPARATOR)}
    queued = own_queue() or []
    return [job.job_id for stage in work for job in jobs_in_queue(run, stage.stage, queued) if job.job_id not in known]
