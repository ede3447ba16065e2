"""A sweep on disk: a run directory for each point, and what they share.

SWEEP/
  sweep.json  scripts/     the points; the array scripts, one for each stage
  000/ 001/ ...            each a run of its own, complete

Stages up to the shards that are the same for several runs belong to the first of these: the others have links to its
data and to its records, so that each reads as if it had made them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpcllm.errors import UserError
from hpcllm.job.spec import AnyJob, frozen_any_job
from hpcllm.job.sweep import label
from hpcllm.launch.key import stage_key
from hpcllm.launch.pipeline import Stage, find_stage, stages
from hpcllm.run_directory import Run, read_json, write_json

LAST_SHARED = "shard"  # the last stage whose outcome may be the same for several points


@dataclass(frozen=True)
class Sweep:
    """The runs of a sweep, and the point of each."""

    root: Path
    name: str
    points: tuple[Mapping[str, Any], ...]

    @classmethod
    def open(cls, root: Path) -> Sweep:
        """One that is there. Raises UserError for a folder that holds none."""
        if not is_sweep(root):
            raise UserError(f"{root}: not a sweep (no sweep.json); hpcllm render JOB --out {root} makes one")
        found = read_json(root / "sweep.json")
        return cls(root.absolute(), found["name"], tuple(found["points"]))

    @property
    def width(self) -> int:
        """Digits of a run's number."""
        return max(3, len(str(len(self.points) - 1)))

    @property
    def runs(self) -> tuple[Run, ...]:
        """Its run directories, in order."""
        return tuple(Run(self.root / f"{i:0{self.width}}") for i in range(len(self.points)))

    @property
    def labels(self) -> tuple[str, ...]:
        """What each run differs in."""
        return tuple(map(label, self.points))

    @property
    def scripts(self) -> Path:
        """Of its arrays."""
        return self.root / "scripts"

    def script(self, stage_id: str, group: str) -> Path:
        """The script of an array: of one stage, of runs that ask Slurm for the same."""
        return self.scripts / f"{stage_id}.{group}.sbatch"

    @property
    def report_html(self) -> Path:
        """The report of all its runs."""
        return self.root / "report.html"

    def write(self) -> None:
        """Say what it is, before its runs are made. Raises UserError where other points were rendered."""
        path, said = self.root / "sweep.json", {"name": self.name, "points": [dict(point) for point in self.points]}
        if path.exists() and read_json(path) != said:
            raise UserError(f"--out: {self.root} holds another sweep; give a new directory, or go on with that one")
        if not path.exists() and self.root.exists() and any(self.root.iterdir()):
            raise UserError(f"--out: {self.root} holds something else than a sweep; give the path of a new directory")
        write_json(path, said)


def is_sweep(root: Path) -> bool:
    """Whether a folder holds one."""
    return (root / "sweep.json").exists()


def shared_stages(job: AnyJob) -> tuple[Stage, ...]:
    """The shards and all that they need; none in a job without them."""
    rows = {stage.name: stage for stage in stages(job)}
    meant, waiting = set[str](), [LAST_SHARED] if LAST_SHARED in rows else []
    while waiting:
        meant.add(name := waiting.pop())
        waiting += rows[name].after
    return tuple(stage for stage in rows.values() if stage.name in meant)


def borrowed(runs: Sequence[Run]) -> dict[tuple[int, str], int]:
    """(number of a run, name of a stage) -> the number of the earlier run whose outcome it is."""
    first, found = dict[str, int](), dict[tuple[int, str], int]()
    for i, run in enumerate(runs):
        shared = shared_stages(frozen_any_job(run))
        lender = first.setdefault(stage_key(run, shared[-1]), i) if shared else i
        found |= {(i, stage.name): lender for stage in shared if lender != i}
    return found


def share(runs: Sequence[Run]) -> None:
    """Link what a run has from another: the data, and the records of the stages that made it."""
    for (i, name), lender in borrowed(runs).items():
        stage = find_stage(frozen_any_job(runs[i]), name)
        runs[lender].data.mkdir(exist_ok=True)
        _link(runs[i].data, runs[lender].data)
        for element in stage.elements:
            _link(runs[i].state_json(element.id), runs[lender].state_json(element.id))


def _link(path: Path, target: Path) -> None:
    """Relative, so that a sweep can be moved as a whole to be looked at. What is there already stays."""
    path.parent.mkdir(exist_ok=True)
    if not path.is_symlink() and not path.exists():
        path.symlink_to(os.path.relpath(target, path.parent))
