"""The pipeline: which stage runs what, after what, and on how many ranks. This table is the DAG.

A row is a *use* of a program: evaluate stands here twice. Programs are the files of `hpcllm/stages/`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from hpcllm.errors import UserError
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
    """module:function, called as function(run, stage, world)."""
    reads: tuple[str, ...]
    """Sections of the job that the outcome depends on; changing another one does not run this stage again."""
    purpose: str
    """One line for a person."""
    makes: tuple[str, ...] = ()
    """Files of the run that are there when it is done; when one was deleted the stage runs again."""
    options: Mapping[str, str] = field(default_factory=dict)
    """What this use of the program differs in."""

    @property
    def id(self) -> str:
        """Its name in every file name: `30-train`."""
        return f"{self.number}-{self.name}"


PIPELINE = (
    Stage(
        10, "tokenizer", (), "one", "hpcllm.stages.tokenizer:main", ("data",),
        "learn the vocabulary", ("data/tokenizer.json",),
    ),
    Stage(
        20, "shard", ("tokenizer",), "all", "hpcllm.stages.shard:main", ("data",),
        "write tokens to HDF5 shards", ("data/index.json",),
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
    """The rows that this job uses, in order."""
    if isinstance(job, CommandJob):
        return (COMMAND,)
    if isinstance(job, ProbeJob):
        return ADMIN
    assert isinstance(job, Job)
    skipped = {"compress", "evaluate-compressed"} if job.deploy.quantize == "none" else set()
    kept = [row for row in PIPELINE if row.name not in skipped]
    return tuple(_without(row, skipped) for row in kept)


def find_stage(job: AnyJob, name: str) -> Stage:
    """A stage by its name or its id. Raises UserError naming the ones there are."""
    for stage in stages(job):
        if name in (stage.name, stage.id):
            return stage
    raise UserError(f"stage: found {name!r}; this run has {', '.join(stage.name for stage in stages(job))}")


def _without(stage: Stage, skipped: set[str]) -> Stage:
    after = tuple(name for name in stage.after if name not in skipped)
    return Stage(**{**vars(stage), "after": after})
