"""What the stages said: a log for each attempt of a stage, and Slurm's own words of all of them beside it."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from hpcllm.errors import HpcllmError
from hpcllm.job.spec import AnyJob, frozen_any_job
from hpcllm.launch.array import log_id, log_ids
from hpcllm.launch.bad_nodes import NODE_FAILURE
from hpcllm.launch.pipeline import find_stage, stages
from hpcllm.launch.tracking.failure import first_failure
from hpcllm.progress import Progress
from hpcllm.run_directory import Run, read_json

TAIL_BYTES = 65_536
FAILURE_BYTES = 4 << 20  # so much of a log's end is searched for who failed first


def logs(run: Run, stage_name: str | None = None) -> str:
    """The latest log of a stage; left out, of the one that said something last. What Slurm said stands behind it."""
    return "".join(
        f"==> {path}\n{path.read_text(encoding='utf-8', errors='replace')}" for path in _latest(run, stage_name)
    )


def errors(run: Run, stage_name: str | None = None) -> str:
    """The rank that failed first in the latest log, with its last words, and what Slurm said. Raises HpcllmError."""
    log, *slurm_said = _latest(run, stage_name)
    failure = first_failure(tail(log, FAILURE_BYTES))
    if not failure and not slurm_said:
        return f"==> {log}\nno rank says that it failed\n"
    lines = [f"==> {log}", str(failure), *(f"  {line}" for line in failure.quoted)] if failure else []
    said = [f"==> {path}\n{tail(path).rstrip()}" for path in (slurm_said or ([] if failure else [log]))]
    return "\n".join([*lines, *said]) + "\n"


def log_files(run: Run, stage_id: str) -> list[Path]:
    """The logs of a stage's attempts, oldest first."""
    return logs_by_stage(run).get(stage_id, [])


def logs_by_stage(run: Run) -> dict[str, list[Path]]:
    """The logs of every stage's attempts, by its id, oldest first; its folder is read once."""
    names = os.listdir(run.logs) if run.logs.is_dir() else []
    found = [(int(matched[2]), matched[1]) for name in names if (matched := _LOG.fullmatch(name))]
    by_stage: dict[str, list[Path]] = {}
    for attempt, stage_id in sorted(found):
        by_stage.setdefault(stage_id, []).append(run.log(stage_id, attempt))
    return by_stage


_LOG = re.compile(r"(.+)\.(\d+)\.log")


def last_words(paths: Sequence[Path]) -> str:
    """The end of the latest attempt's log; nothing where there is none."""
    return tail(paths[-1]) if paths else ""


def ends_of(earlier: Sequence[Path]) -> tuple[str, ...]:
    """How each of these attempts ended, by its log: a word of _ENDS, or `failed`."""
    return tuple(_end_of(tail(path)) for path in earlier)


# By what Slurm wrote into a log, then what preflight did, then its script.
_ENDS = (
    ("preempted", re.compile(r"DUE TO PREEMPTION")),
    ("node failure", re.compile(rf"DUE TO NODE FAILURE|^lost |{NODE_FAILURE}", re.MULTILINE)),
    ("timeout", re.compile(r"DUE TO TIME LIMIT")),
    ("preflight", re.compile(r"^(\d+: )?preflight: not fit to start", re.MULTILINE)),
    ("interrupted", re.compile(r"^interrupted", re.MULTILINE)),
)


def _end_of(log: str) -> str:
    return next((end for end, pattern in _ENDS if pattern.search(log)), "failed")


def tail(path: Path, most_bytes: int = TAIL_BYTES) -> str:
    """The end of a file; nothing of one that is not there."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - most_bytes))
            return file.read().decode("utf-8", errors="replace")
    except FileNotFoundError:
        return ""


def progress_in(log: str) -> str:
    """How far a log says that the work is, `3/10 merges`; nothing where it does not say."""
    found = next((progress for line in reversed(log.splitlines()) if (progress := Progress.parse(line))), None)
    return f"{found.done}/{found.total} {found.text}".strip() if found else ""


def _latest(run: Run, stage_name: str | None) -> list[Path]:
    """The log that a stage, or any, wrote to last, and Slurm's own beside it where that says anything."""
    job = frozen_any_job(run)
    each = [_log_ids(run, job, stage_name)] if stage_name else [log_ids(run, stage) for stage in stages(job)]
    stage_ids = [one for ids in each for one in ids]
    found = [path for stage_id in stage_ids for path in log_files(run, stage_id)[-1:]]
    spoken = [path for path in map(run.slurm_log, stage_ids) if path.exists() and path.stat().st_size]
    if not found and not spoken:
        why = f"hpcllm status {shlex.quote(str(run.root))} says why"
        raise HpcllmError(f"{run.logs}: no log of {stage_name or 'any stage'} yet; {why}")
    latest = max(found or spoken, key=lambda path: path.stat().st_mtime)
    slurm_said = run.slurm_log(latest.name.split(".")[0])
    return [latest, *([slurm_said] if slurm_said in spoken and slurm_said != latest else [])]


def _log_ids(run: Run, job: AnyJob, name: str) -> list[str]:
    """What the logs are called of a stage, or of an element of an array by its number: `evaluate_3`.

    A job may do several elements, so an element's record says whose log it is. Raises UserError naming the stages.
    """
    for stage in stages(job):
        for element in stage.elements if stage.array else ():
            if name in (element.id, f"{stage.name}_{element.element}"):
                path = run.state_json(element.id)
                return [log_id(stage, read_json(path)) if path.exists() else element.id]
    return log_ids(run, find_stage(job, name))
