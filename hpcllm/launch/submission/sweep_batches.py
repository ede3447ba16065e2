"""What sbatch is called with for a sweep: runs that ask Slurm for the same as one array, each other one by itself.

An array's script does no work: each of its tasks becomes the script of its own run.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hpcllm.cluster.profile import frozen_profile
from hpcllm.job.spec import frozen_any_job
from hpcllm.launch.array import MAX_ARRAY_SIZE
from hpcllm.launch.pipeline import Stage, stages
from hpcllm.launch.scripts.shell import directive_word, directives_in, one_line
from hpcllm.launch.submission.chain import can_chain
from hpcllm.launch.sweep import Sweep
from hpcllm.run_directory import Run
from hpcllm.units import as_ranges

Ids = dict[tuple[int, str], str]
"""The job of a run's stage: (number of the run, name of the stage) -> id."""


@dataclass(frozen=True)
class Batch:
    """What is submitted together: a stage of one run, or of several as an array."""

    stage: Stage
    numbers: tuple[int, ...]
    """Of the runs; they are the indexes of the array."""
    group: str = "0"
    """Of those that ask Slurm for the same, which one; in the name of its script."""

    @property
    def is_array(self) -> bool:
        """Whether it is more than one run."""
        return len(self.numbers) > 1

    def ids(self, job_id: str) -> Ids:
        """The ids of its jobs, by what sbatch said."""
        return {(i, self.stage.name): f"{job_id}_{i}" if self.is_array else job_id for i in self.numbers}


def batches(runs: Sequence[Run], missing: Sequence[set[str]]) -> Iterator[Batch]:
    """Stage after stage, the runs that ask Slurm for the same together."""
    profile = frozen_profile(runs[0])
    most = profile.scheduler.max_array_size or MAX_ARRAY_SIZE
    rows: dict[str, dict[tuple[str, ...], list[int]]] = {}
    found: dict[str, Stage] = {}
    for i, run in enumerate(runs):
        for stage in stages(frozen_any_job(run)) if missing[i] else ():
            groups = rows.setdefault(stage.id, {})
            found[stage.id] = stage
            if stage.name in missing[i]:
                alone = (f"run {i}",) if i >= most or can_chain(profile, stage) else ()
                groups.setdefault((*directives(run, stage), *alone), []).append(i)
    for stage_id, groups in rows.items():
        for group, numbers in enumerate(groups.values()):
            yield Batch(found[stage_id], tuple(numbers), str(group))


def directives(run: Run, stage: Stage) -> tuple[str, ...]:
    """What a run's script asks for, but for what is named after the run, and its being an array itself."""
    lines = directives_in(run.script(stage.id).read_text(encoding="utf-8"))
    left_out = ("#SBATCH --job-name=", "#SBATCH --output=", "#SBATCH --array=")
    return tuple(line for line in lines if not line.startswith(left_out))


def parts(batch: Batch, ids: Ids) -> list[Batch]:
    """The batch; or its runs by what they wait for, where one dependency does not say it for all."""
    if not batch.is_array or _dependency(batch, ids) is not None:
        return [batch]
    alike: dict[tuple[str, ...], list[int]] = {}
    for i in batch.numbers:
        alike.setdefault(tuple(after(batch.stage, i, ids)), []).append(i)
    found = [Batch(batch.stage, tuple(n), f"{batch.group}-{k}") for k, n in enumerate(alike.values())]
    return [
        one for part in found for one in ([part] if _dependency(part, ids) is not None else _one_by_one(part))
    ]  # fmt: skip


def _one_by_one(batch: Batch) -> list[Batch]:
    return [Batch(batch.stage, (i,)) for i in batch.numbers]


def after(stage: Stage, number: int, ids: Ids) -> list[str]:
    """The jobs that one run's stage waits for."""
    return [ids[number, name] for name in stage.after if (number, name) in ids]


def array_tokens(sweep: Sweep, batch: Batch, ids: Ids) -> list[str]:
    """The command that submits an array."""
    needed = _dependency(batch, ids)
    waits = [f"--dependency={','.join(needed)}", "--kill-on-invalid-dep=yes"] if needed else []
    return ["sbatch", "--parsable", f"--array={_indexes(sweep, batch)}", *waits, str(array_path(sweep, batch))]


def array_path(sweep: Sweep, batch: Batch) -> Path:
    """Where its script is."""
    return sweep.script(batch.stage.id, batch.group)


def array_script(sweep: Sweep, batch: Batch) -> str:
    """Its text. Slurm keeps a copy of it, so the next call may write another in its place."""
    stage, path = batch.stage, array_path(sweep, batch)
    root = str(sweep.root)
    log = root.replace("%", "%%") + f"/%{sweep.width}a/logs/{stage.id}.slurm.log"
    asked = "\n".join(directives(sweep.runs[batch.numbers[0]], stage))
    whole = " all" if stage.array else ""  # each task is a run, and does all of its stage
    return f"""\
#!/usr/bin/env bash
# {one_line(sweep.name)}, stage {stage.id} of {len(batch.numbers)} runs: each task becomes the script of its run.
# By hand: sbatch --array={_indexes(sweep, batch)} {one_line(shlex.quote(str(path)))}
#SBATCH --job-name={directive_word(_queue_name(f"{sweep.name}-{stage.name}"))}
#SBATCH --output={directive_word(log)}
{asked}
exec bash {shlex.quote(root)}/"$(printf %0{sweep.width}d "$SLURM_ARRAY_TASK_ID")"/scripts/{stage.id}.sbatch{whole}
"""


def _indexes(sweep: Sweep, batch: Batch) -> str:
    """As sbatch reads them, with how many may run at a time."""
    most = frozen_any_job(sweep.runs[0]).slurm.at_a_time
    return as_ranges(batch.numbers) + (f"%{most}" if most else "")


def _dependency(batch: Batch, ids: Mapping[tuple[int, str], str]) -> list[str] | None:
    """For each stage before: `aftercorr` of the array of the same runs, `afterok` of one job for all. None: neither."""
    found = []
    for name in batch.stage.after:
        before = [ids.get((i, name)) for i in batch.numbers]
        arrays = {one.rpartition("_")[0] if one and one.endswith(f"_{i}") else None
                  for i, one in zip(batch.numbers, before, strict=True)}  # fmt: skip
        if set(before) == {None}:
            continue
        if len(set(before)) == 1 and ":" not in str(before[0]):
            found.append(f"afterok:{before[0]}")
        elif len(arrays) == 1 and None not in arrays:
            found.append(f"aftercorr:{arrays.pop()}")
        else:
            return None
    return found


def _queue_name(text: str) -> str:
    return "".join(c if c.isalnum() or c in "_.+-" else "-" for c in text)
