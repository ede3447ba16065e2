"""The pipeline: which stage runs what, after what, and on how many ranks. This table is the DAG.

A row is a *use* of a program: evaluate stands here twice. Programs are the files of `hpcllm/stages/`. Rows of a
researcher's own, any program at all, come from the job (`stages:`); each has its place among these by its `after` and
`before`, and is rendered as a command of that researcher's.

A stage may be an array: evaluate over checkpoints and tasks, shard over groups of files. Each element is a use of the
same program with options of its own, and has its own record and log; together they are the stage.
"""

from __future__ import annotations

import shlex
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from hpcllm.errors import UserError
from hpcllm.job.own_stage import OwnStage
from hpcllm.job.spec import AnyJob, CommandJob, Job, ProbeJob


@dataclass(frozen=True)
class Stage:
    """One Slurm job of the DAG (or one local mpirun)."""

    number: int
    """Orders the files: scripts/30-train.sbatch."""
    name: str
    after: tuple[str, ...]
    """Names of the stages that must be done before."""
    ranks: Literal["one", "all"]
    """One rank on one node, or every rank of the job."""
    program: str
    """module:function, called as function(run, stage, world); empty for a program of the user's."""
    reads: tuple[str, ...]
    """Sections of the job that the outcome depends on; changing another one does not run this stage again."""
    purpose: str
    """One line for a person."""
    makes: tuple[str, ...] = ()
    """Files of the run that are there when it is done; when one was deleted the stage runs again."""
    options: Mapping[str, str] = field(default_factory=dict)
    """What this use of the program differs in."""
    array: tuple[Mapping[str, str], ...] = ()
    """What each of its elements differs in; empty where the stage is no array."""
    merge: str = ""
    """module:function, called as function(run) when all elements are done: by the last of them, or by what needs it."""
    element: int | None = None
    """Which element of an array this is; None: the stage itself."""

    @property
    def id(self) -> str:
        """Its name in every file name: `30-train`, of an element `40-evaluate_3`."""
        return f"{self.number:02}-{self.name}" + ("" if self.element is None else f"_{self.element}")

    @property
    def elements(self) -> tuple[Stage, ...]:
        """The elements of an array; of any other stage itself."""
        return tuple(
            replace(self, element=i, options={**self.options, **own}, makes=self._makes(own), array=(), merge="")
            for i, own in enumerate(self.array)
        ) or (self,)

    def _makes(self, own: Mapping[str, str]) -> tuple[str, ...]:
        """What is merged is there when all are done; checkpoints before the last are of steps that nobody knows yet."""
        return () if self.merge or own.get("checkpoint", "0") != "0" else self.makes


PIPELINE = (
    Stage(
        10, "tokenizer", (), "one", "hpcllm.stages.tokenizer:main", ("data",),
        "learn the vocabulary", ("data/tokenizer.json",),
    ),
    Stage(
        20, "shard", ("tokenizer",), "all", "hpcllm.stages.shard:main", ("data",),
        "write tokens to HDF5 shards", ("data/index.json",), merge="hpcllm.stages.shard:merge",
    ),
    Stage(
        30, "train", ("shard",), "all", "hpcllm.stages.train:main", ("data", "model", "train"),
        "train the model", ("checkpoints/LATEST",),
    ),
    Stage(
        40, "evaluate", ("train",), "all", "hpcllm.stages.evaluate:main", ("evaluate",),
        "perplexity, BLEU, samples", ("results/trained",), {"model": "trained"},
    ),
    Stage(
        50, "compress", ("train",), "one", "hpcllm.stages.compress:main", ("deploy",),
        "quantize for deployment", ("exports/int8/config.json",),
    ),
    Stage(
        60, "evaluate-compressed", ("compress",), "all", "hpcllm.stages.evaluate:main", ("evaluate",),
        "the same, of the compressed model", ("results/compressed",), {"model": "compressed"},
    ),
    Stage(
        90, "gather", ("evaluate", "evaluate-compressed"), "one", "hpcllm.stages.gather:main", (),
        "one table, one report", ("report.html",),
    ),
)  # fmt: skip

# What admins run, beside the pipeline: a run of it holds one row.
ADMIN = (
    Stage(
        10, "probe", (), "all", "hpcllm.stages.probe:main", ("resources", "probe"),
        "measure the cluster", ("results/probe.json",),
    ),
)  # fmt: skip

COMMAND = Stage(30, "command", (), "all", "", (), "the user's own program")


def stages(job: AnyJob) -> tuple[Stage, ...]:
    """The rows that this job uses, each behind those that it waits for. Raises UserError for a circle."""
    rows = _given(job)
    return _in_order(job, rows) if job.stages else rows


def find_stage(job: AnyJob, name: str) -> Stage:
    """A stage by its name or its id. Raises UserError naming the ones there are."""
    for stage in stages(job):
        if name in (stage.name, stage.id):
            return stage
    raise UserError(f"stage: found {name!r}; this run has {', '.join(stage.name for stage in stages(job))}")


def own_stage(job: AnyJob, stage: Stage) -> OwnStage | None:
    """What the job says of a row of its own; None for one of the tables above."""
    return next((own for own in job.stages if own.name == stage.name), None)


def job_of(job: AnyJob, stage: Stage) -> AnyJob:
    """What a stage is rendered from: its job; for a row of one's own a command in that job's place."""
    own = own_stage(job, stage)
    if own is None:
        return job
    asked = {name: getattr(own, name) for name in ("nodes", "ranks_per_node", "gpus_per_node", "time_s")}
    given = {name: value for name, value in asked.items() if value is not None}
    return CommandJob(
        name=f"{job.name[:59]}-{own.name}",
        description=job.description,
        command=own.command,
        tf_config=own.tf_config,
        resources=job.resources.model_copy(update=given),
        slurm=job.slurm,
        software=job.software,
        environment=job.environment,
        freeze=job.freeze,
    )


def _given(job: AnyJob) -> tuple[Stage, ...]:
    """The rows of the tables."""
    if isinstance(job, CommandJob):
        return (COMMAND,)
    if isinstance(job, ProbeJob):
        return ADMIN
    if not isinstance(job, Job):
        return ()
    skipped = {"compress", "evaluate-compressed"} if job.deploy.quantize == "none" else set()
    arrays = {name: array for name, array in (("shard", _shards(job)), ("evaluate", _evaluations(job))) if array}
    kept = [row for row in PIPELINE if row.name not in skipped]
    kept = [replace(row, array=arrays[row.name]) if row.name in arrays else row for row in kept]
    return tuple(_without(row, skipped) if skipped else row for row in kept)


def _shards(job: Job) -> tuple[Mapping[str, str], ...]:
    """Every n-th group of files: an element has something to do even where there are few."""
    jobs = job.data.shard_jobs
    return tuple({"share": f"{i}/{jobs}"} for i in range(jobs)) if jobs > 1 else ()


def _evaluations(job: Job) -> tuple[Mapping[str, str], ...]:
    """Checkpoints times tasks; of one checkpoint all tasks are one job."""
    count, tasks = job.num_evaluated, job.evaluate.tasks
    return tuple({"checkpoint": str(i), "task": task} for i in range(count) for task in tasks) if count > 1 else ()


def _without(stage: Stage, skipped: set[str]) -> Stage:
    return replace(stage, after=tuple(name for name in stage.after if name not in skipped))


def _in_order(job: AnyJob, given: Sequence[Stage]) -> tuple[Stage, ...]:
    """All rows: one of one's own as early as it can be, since the tables are in order by themselves."""
    left = [_waiting(row, job.stages) for row in (*map(_row, job.stages), *given)]
    placed = list[Stage]()
    while left:
        names = {row.name for row in placed}
        ready = next((row for row in left if names.issuperset(row.after)), None)
        if ready is None:
            raise _never(left, names)
        left.remove(ready)
        number = ready.number or (placed[-1].number + 1 if placed else 1)
        placed.append(replace(ready, number=number))
    return tuple(placed)


def _row(own: OwnStage) -> Stage:
    return Stage(0, own.name, own.after, "all", "", (), shlex.join(own.command))


def _waiting(row: Stage, own: Sequence[OwnStage]) -> Stage:
    """A row, behind those of one's own that want to be before it too."""
    return replace(row, after=tuple(dict.fromkeys([*row.after, *(o.name for o in own if row.name in o.before)])))


def _never(left: Sequence[Stage], placed: Collection[str]) -> UserError:
    """Rows that can never begin: they wait for one that this job leaves out, or for each other."""
    there = {*placed, *(row.name for row in left)}
    for row in left:
        for name in (name for name in row.after if name not in there):
            return UserError(f"stages: {row.name} waits for {name}, which this job leaves out (deploy.quantize: none)")
    names = ", ".join(row.name for row in left)
    return UserError(f"stages: {names} wait for each other in a circle; take one name out of an after or a before")
