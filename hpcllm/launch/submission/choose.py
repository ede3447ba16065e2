"""Which queue a job goes to when it leaves that open: every one that can run it, with when Slurm would start it.

`render` asks no scheduler, and takes the first queue that fits. `submit` chooses here, then renders with the queue as
the job's own; what it went by is kept in `choice.json`, and the same run directory is never given another queue.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import TypeVar

from hpcllm.cluster.profile import Profile
from hpcllm.cluster.user import User
from hpcllm.derive.layout import layout
from hpcllm.derive.setting import Layout
from hpcllm.derive.settings import settings
from hpcllm.errors import HpcllmError, UserError
from hpcllm.job.spec import AnyJob, Job
from hpcllm.launch.pipeline import Stage, stages
from hpcllm.launch.scripts.dag_scripts import trial_tokens
from hpcllm.launch.submission.refusals import remedy, slurm_words
from hpcllm.launch.submission.site_rules import look_up, not_ones_own
from hpcllm.launch.tracking.slurm import slurm
from hpcllm.plan.plan import Plan
from hpcllm.plan.queue import in_order, limits_of, partition_of, qos_names, under_qos
from hpcllm.plan.search import search
from hpcllm.run_directory import Run, read_json, write_json

ASK_S = 5.0  # for Slurm's word on one queue; all are asked at the same time
MOST_ASKED = 16

# Queues that are for something else than a long run, by what they are called and what their description says.
_SPECIAL = re.compile(
    r"debug|interactive|urgent|realtime|\btest|test\b|\bdev(el\w*)?\b|by arrangement|for (members|projects|courses)"
)

# What sbatch says when no controller has looked at the job.
_NO_ANSWER = re.compile(r"configuration source|Unable to contact|[Tt]imed out|Connection refused")

AnyJobT = TypeVar("AnyJobT", bound=AnyJob)


@dataclass(frozen=True)
class Queue:
    """A partition, under a QOS where its own will not do, as a place for one job. Times are in seconds."""

    partition: str
    qos: str | None = None
    refusal: str = ""
    """Why the job cannot run there."""
    time_s: float = 0.0
    """Of one Slurm job there: as asked, or as much as is allowed."""
    jobs: int = 1
    """How many of those one after another, until the work is done."""
    work_s: float = 0.0
    """The work without waiting: the plan's, else the time that was asked for."""
    is_cut: bool = False
    """Whether more time was asked for than one job may have there."""
    too_many: bool = False
    """Whether these are more jobs than the job may be started again (slurm.max_requeues): it ends before it is done."""
    wasted: float = 0.0
    """Share of its nodes' GPUs, or of their cores where there are none, that nobody could use meanwhile."""
    preemptible: bool = False
    special: bool = False
    """For debugging, by arrangement, and the like."""
    start_s: float | None = None
    """When Slurm would start it, since 1970; None where it does not say."""

    def end_s(self, now_s: float) -> float:
        """Until it is all done, waiting each time as for the first job; what idles counts as time lost."""
        wait_s = max(0.0, (self.start_s or now_s) - now_s)
        return self.jobs * wait_s + self.work_s * (1 + self.wasted)


def choose(profile: Profile, job: AnyJob, user: User, oversubscribe: bool = False) -> tuple[Queue, ...]:
    """The queues for a job, the best first and those that cannot run it last; empty where there is nothing to choose.

    As asked goes before in several jobs; then what needs no more of these than are allowed, what is for such jobs, what
    is not preempted, and what Slurm can say the start of; then the earliest end. Raises UserError when Slurm takes the
    job nowhere.
    """
    if profile.scheduler.kind != "slurm" or "partition" in job.slurm.directives:
        return ()
    names = [job.slurm.partition] if job.slurm.partition else in_order(profile)
    if any(name not in profile.scheduler.partitions for name in names):
        return ()  # said where it is looked up
    trials = [trial for name in names for trial in _trials(profile, job, name, user, oversubscribe)]
    able = [trial for trial in trials if not trial.queue.refusal]
    if len(able) > 1:
        able = _asked(able[:MOST_ASKED])
    now_s = time.time()
    found = sorted((trial.queue for trial in able), key=lambda queue: _rank(queue, now_s))
    if found and found[0].refusal:
        raise UserError(_nowhere(profile, able))
    return (*found, *(trial.queue for trial in trials if trial.queue.refusal))


def same(profile: Profile, job: AnyJob, user: User, queues: Sequence[Queue]) -> tuple[Queue, ...] | None:
    """A choice for another job that asks for the same, as the next run of a sweep; None where it cannot run there."""
    best = _trial(profile, job, Queue(queues[0].partition, queues[0].qos), user, False).queue
    return None if best.refusal else (replace(best, start_s=queues[0].start_s), *queues[1:])


def on_queue(job: AnyJobT, queue: Queue) -> AnyJobT:
    """The job with a queue as its own."""
    slurm_update = {
        "partition": queue.partition,
        "qos": queue.qos or job.slurm.qos,
        "chained_jobs": queue.jobs if queue.is_cut else job.slurm.chained_jobs,
    }
    update = {
        "resources": job.resources.model_copy(update={"time_s": queue.time_s}),
        "slurm": job.slurm.model_copy(update=slurm_update),
    }
    return job.model_copy(update=update)


def keep(run: Run, queues: Sequence[Queue]) -> None:
    """Write what a choice went by."""
    write_json(run.choice_json, [asdict(queue) for queue in queues])


def kept(run: Run) -> tuple[Queue, ...]:
    """What the choice of a run went by, the best first; empty where there was none."""
    return tuple(Queue(**row) for row in read_json(run.choice_json)) if run.choice_json.exists() else ()


# ---- what can run it -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Trial:
    """A queue, and the directives of the job there."""

    queue: Queue
    words: tuple[str, ...] = ()


def _trials(profile: Profile, job: AnyJob, partition: str, user: User, oversubscribe: bool) -> Iterator[_Trial]:
    """The partition under its own QOS, and only where that will not do under the others."""
    plain = _trial(profile, job, Queue(partition), user, oversubscribe)
    open_qos = under_qos(profile, job, user).slurm.qos is None and "qos" not in job.slurm.directives
    others = [name for name in qos_names(profile, partition) if name in profile.scheduler.qos]
    if not (open_qos and others and (plain.queue.refusal or plain.queue.is_cut)):
        yield plain
        return
    named = [_trial(profile, job, Queue(partition, name), user, oversubscribe) for name in others]
    able = [trial for trial in named if not trial.queue.refusal and not trial.queue.is_cut]
    yield from able or [plain]


def _trial(profile: Profile, job: AnyJob, queue: Queue, user: User, oversubscribe: bool) -> _Trial:
    """The job there, by the profile."""
    there = on_queue(job, replace(queue, time_s=job.resources.time_s))
    most_s = limits_of(profile, under_qos(profile, there, user), queue.partition).max_time_s
    queue = replace(queue, time_s=min(job.resources.time_s, most_s), is_cut=job.resources.time_s > most_s)
    there = on_queue(there, queue)
    other_kind = _other_kind(profile, job, queue.partition, user)
    if other_kind:
        return _Trial(replace(queue, refusal=other_kind))
    stage = _largest(job)
    try:
        plan = search(profile, there, oversubscribe, user) if isinstance(there, Job) else None
        place = layout(profile, there, plan, stage, user, oversubscribe=oversubscribe)
        found = settings(profile, there, place, user).directives
    except HpcllmError as error:
        return _Trial(replace(queue, refusal=str(error)))
    words = tuple(f"--{s.name}" + (f"={s.value}" if s.value else "") for s in found)
    return _Trial(_described(profile, job, queue, place, plan), words)


def _described(profile: Profile, job: AnyJob, queue: Queue, place: Layout, plan: Plan | None) -> Queue:
    partition = profile.scheduler.partitions[queue.partition]
    qos = profile.scheduler.qos.get(queue.qos or job.slurm.qos or partition.qos or "")
    chained = 1 if profile.scheduler.requeue else job.slurm.chained_jobs or 1
    work_s = (plan.total_s if plan else None) or job.resources.time_s * chained
    jobs = max(1, -int(-work_s // queue.time_s))
    said = " ".join([queue.partition, partition.description, *([queue.qos or "", qos.description] if qos else [])])
    return replace(
        queue,
        jobs=jobs,
        too_many=jobs > job.slurm.max_requeues + 1,
        work_s=work_s,
        wasted=_wasted(profile, place),
        preemptible=partition.preemptible or bool(qos and qos.preemptible),
        special=bool(_SPECIAL.search(said.lower())),
    )


def _other_kind(profile: Profile, job: AnyJob, partition: str, user: User) -> str:
    """Why nodes with or without GPUs are not what a job means that says nothing of GPUs: as the static choice has."""
    if job.resources.gpus_per_node is not None or job.slurm.partition:
        return ""
    usual = profile.node_type(partition_of(profile, under_qos(profile, job, user))).gpus is not None
    has = profile.node_type(partition).gpus is not None
    if has == usual:
        return ""
    return "its nodes have GPUs, which --gpus asks for" if has else "its nodes have no GPUs; --gpus 0 does without"


def _wasted(profile: Profile, place: Layout) -> float:
    node, (exclusive, _) = profile.node_type(place.partition), profile.exclusive_in(place.partition)
    if node.gpus and not place.gpus_per_node:
        return 1.0
    if not exclusive:
        return 0.0
    if node.gpus:
        return 1 - place.gpus_per_node / node.gpus.count
    return max(0.0, 1 - place.ranks_per_node * place.cores_per_rank / node.cores)


def _largest(job: AnyJob) -> Stage:
    """The stage that the queue is chosen for: all ranks, and the longest."""
    rows = stages(job)
    return next((row for row in rows if row.name == "train"), rows[0])


# ---- what Slurm says -------------------------------------------------------------------------------------------------


def _asked(trials: Sequence[_Trial]) -> list[_Trial]:
    with ThreadPoolExecutor(len(trials)) as pool:
        return list(pool.map(_asked_one, trials))


def _asked_one(trial: _Trial) -> _Trial:
    """With when Slurm would start it, or in Slurm's words why never."""
    try:
        done = slurm(trial_tokens(trial.words), ASK_S)
    except UserError:  # no Slurm, or no answer in time: nothing is known of the start
        return trial
    if done.returncode and not _NO_ANSWER.search(done.stderr):
        return replace(trial, queue=replace(trial.queue, refusal=slurm_words(done.stderr)))
    return replace(trial, queue=replace(trial.queue, start_s=start_in(done.stderr)))


def _nowhere(profile: Profile, trials: Sequence[_Trial]) -> str:
    """That Slurm takes it in no partition: each of its reasons once, with what to do about it."""
    options = dict(word.removeprefix("--").partition("=")[::2] for word in trials[0].words)
    own = not_ones_own(look_up(), options.get("account", ""), options.get("qos", ""))
    reasons: dict[str, list[str]] = {}
    for trial in trials:
        reasons.setdefault(trial.queue.refusal, []).append(trial.queue.partition)
    said = [
        f"{', '.join(names)}: {reason}" + ("" if own else f"; {remedy(reason)}") for reason, names in reasons.items()
    ]
    return "\n  ".join([f"{profile.name}: Slurm takes the job in no partition", *said, *own])


def start_in(said: str) -> float | None:
    """`Job 3 to start at 1795530481 using …`; versions of Slurm that know no SLURM_TIME_FORMAT here write it out."""
    matched = re.search(r"to start at (\S+)", said)
    if not matched:
        return None
    if matched[1].isdecimal():
        return float(matched[1])
    try:
        return datetime.fromisoformat(matched[1]).timestamp()
    except ValueError:
        return None


def _rank(queue: Queue, now_s: float) -> tuple[object, ...]:
    return (
        bool(queue.refusal),
        queue.is_cut,
        queue.too_many,
        queue.special,
        queue.preemptible,
        queue.start_s is None,
        round(queue.end_s(now_s), -1),  # seconds that differ between two answers decide nothing
        queue.jobs,
    )
