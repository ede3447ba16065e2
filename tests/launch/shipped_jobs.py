"""The demo job, and clusters to render it for."""

from pathlib import Path

from hpcllm.cluster.profile import Profile
from hpcllm.job.spec import Job, absolute, load_job
from hpcllm.launch.pipeline import Stage
from hpcllm.run_directory import Run

JOBS = Path(__file__).parents[2] / "jobs"


def described(kind: str = "slurm", launcher: str = "srun") -> Profile:
    """A small cluster, or a machine without a scheduler."""
    partitions = {"batch": {"node_type": "cpu", "max_time": "1h"}} if kind == "slurm" else {}
    return Profile.model_validate(
        {
            "name": "somewhere",
            "verified": {"how": "example", "date": "2026-11-24"},
            "scheduler": {"kind": kind, "partitions": partitions},
            "nodes": {"cpu": {"count": 4, "cores": 4, "memory": "16GiB", "flops": "100 GFLOP/s"}},
            "fabric": {"kind": "none" if kind == "local" else "ethernet"},
            "filesystems": {"disk": {"kind": "nfs", "path": "/"}},
            "software": {"mpi": {"flavour": "mpich", "launcher": [launcher]}, "python": "this"},
        }
    )


def leave_outputs(run: Run, stage: Stage) -> None:
    """The files that a stage leaves when it is done, empty."""
    for name in stage.makes:
        (run.root / name).parent.mkdir(parents=True, exist_ok=True)
        (run.root / name).touch()


def demo() -> Job:
    return absolute(load_job(JOBS / "demo.yaml"), JOBS)
