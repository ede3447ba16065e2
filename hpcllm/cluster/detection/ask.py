"""A cluster as its own commands describe it: the queue, a compute node, and the profile that follows."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hpcllm.cluster.detection import compose
from hpcllm.cluster.detection.here import detected_yaml, find_mpirun, mpi_flavour
from hpcllm.cluster.detection.node import FoundNode, node_of
from hpcllm.cluster.detection.queue import FoundNodes, Queue, answers, ask_slurm, queue_of
from hpcllm.errors import UserError

LOOK = Path(__file__).with_name("look.py")
JOB_MINUTES = 5


@dataclass(frozen=True)
class Ask:
    """How to look at a compute node: not at all (`job` False), or by a job of one node in this partition."""

    job: bool = False
    partition: str | None = None
    account: str | None = None
    qos: str | None = None


def detected(ask: Ask) -> str:
    """The profile of this cluster, or of this machine where there is no Slurm, as a commented file.

    Raises UserError where the job that looks at a node cannot run.
    """
    queue = queue_of(ask_slurm())
    if queue is None:
        if ask.job:
            raise UserError(
                "--job: no Slurm answers here (scontrol show config); leave it out to describe this machine"
            )
        return detected_yaml()
    on_compute_node = ask.job or "SLURM_JOB_ID" in os.environ
    node = look_by_job(queue, ask) if ask.job and "SLURM_JOB_ID" not in os.environ else _look_here()
    mpirun = find_mpirun()
    place = compose.Place(str(Path.cwd()), mpi_flavour(mpirun), Path(mpirun).name)
    return compose.profile_text(queue, node, on_compute_node, place)


def has_slurm() -> bool:
    """Whether a job could look at a compute node: a Slurm answers, and this is none of its nodes."""
    return "SLURM_JOB_ID" not in os.environ and answers()


def look_command(queue: Queue, ask: Ask) -> list[str]:
    """srun with one whole node of the partition asked for, else of the one with the most GPUs."""
    name = ask.partition or _best_partition(queue)
    kind = next((kind for kind in queue.nodes if name in kind.partitions), None)
    if kind is None:
        names = ", ".join(partition.name for partition in queue.partitions)
        raise UserError(f"--partition: found {name!r}; this Slurm has {names}")
    given = [f"--{key}={value}" for key in ("account", "qos") if (value := getattr(ask, key))]
    one_node = ["--nodes=1", "--ntasks=1", f"--time={JOB_MINUTES}", "--exclusive", "--quiet", "--mpi=none"]
    return ["srun", f"--partition={name}", *one_node, *_gpu_option(kind), *given]


def look_by_job(queue: Queue, ask: Ask) -> FoundNode:
    """A compute node as a job sees it. Raises UserError with Slurm's own words when the job fails."""
    command = look_command(queue, ask)
    with _token() as token:
        program = ["python3", "-", token]
        done = subprocess.run(
            [*command, *program],
            input=LOOK.read_text(encoding="utf-8"),
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
    try:
        return node_of(json.loads(done.stdout))
    except (ValueError, KeyError):
        said = (done.stderr or done.stdout).strip().splitlines()
        why = said[-1] if said else f"exit code {done.returncode}"
        raise UserError(
            f"--job: {' '.join(command)}: {why}; name a --partition, an --account or a --qos that may run, "
            "or run `hpcllm profile detect` inside a job"
        ) from None


def _best_partition(queue: Queue) -> str:
    """The one whose nodes have the most GPUs; of several, the default one."""
    gpus = {kind.name: kind.gpus for kind in queue.nodes}
    best = max(queue.partitions, key=lambda p: (gpus[p.node_types[0]], p.default), default=None)
    if best is None:
        raise UserError("--job: no partition of this Slurm is up (scontrol show partition)")
    return best.name


def _gpu_option(kind: FoundNodes) -> list[str]:
    gres_type = f"{kind.gres_type}:" if kind.gres_type else ""
    return [f"--gres=gpu:{gres_type}{kind.gpus}"] if kind.gpus else []


@contextlib.contextmanager
def _token() -> Iterator[str]:
    """A file here that only nodes with the same filesystem see."""
    try:
        with tempfile.NamedTemporaryFile(dir=Path.cwd(), prefix=".hpcllm-") as file:
            yield file.name
    except OSError:  # a folder that cannot be written shares nothing
        yield os.devnull + "/none"


def _look_here() -> FoundNode | None:
    done = subprocess.run([sys.executable, str(LOOK)], capture_output=True, text=True, errors="replace", check=False)
    try:
        return node_of(json.loads(done.stdout))
    except (ValueError, KeyError):
        return None
