"""Whether there is room for a run: what its filesystem has free, what a quota leaves, and what the run will write."""

from __future__ import annotations

import glob
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from hpcllm.cluster.profile import Profile
from hpcllm.errors import UserError
from hpcllm.job.spec import Data, Job, frozen_any_job
from hpcllm.launch.submission.ahead import user
from hpcllm.launch.submission.finding import Finding, good, refusal, warning
from hpcllm.launch.tracking.purge import filesystem_of
from hpcllm.launch.tracking.slurm import slurm
from hpcllm.plan.plan import read_plan
from hpcllm.run_directory import Run
from hpcllm.units import format_bytes

QUOTA_S = 3.0  # for the filesystem's word on a quota
MOST_FILES = 1000  # of a corpus that are looked at
FEW_FILES = 1000  # that a run may come to hold beside its shards: code, logs, checkpoints
FEW_BESIDE = 100  # the same of each further run of a sweep, whose code is the first one's
KIB = 1024
_MAKE_ROOM = "make room, or give --out on another filesystem"


@dataclass(frozen=True)
class Need:
    """What a run will write, in bytes."""

    checkpoints: int = 0
    shards: int = 0
    """At most: as if every byte of the text became a token."""


@dataclass(frozen=True)
class Quota:
    """What may be written, and what is; None where there is no limit."""

    used_bytes: int
    limit_bytes: int | None
    used_files: int
    limit_files: int | None


def room(run: Run, profile: Profile, job: object, beside: Sequence[Run] = ()) -> list[Finding]:
    """What stands in the way of writing the run, by the filesystem, by its quota, and by the profile.

    `beside`: runs that are written as well.
    """
    need = _together([need_of(run, job), *(need_of(other, frozen_any_job(other)) for other in beside)])
    few_files = FEW_FILES + FEW_BESIDE * len(beside)
    free = os.statvfs(run.root)
    free_bytes = free.f_bavail * free.f_frsize
    found = _against(need, free_bytes, f"{run.root}: free")
    if free.f_files and free.f_favail < few_files:
        found.append(refusal("room", f"{run.root}: room for {free.f_favail} more files; {_MAKE_ROOM}"))
    quota = quota_of(run.root, profile)
    return [*found, *(_against_quota(need, quota, few_files) if quota else _against_profile(need, run, profile))]


def need_of(run: Run, job: object) -> Need:
    """Checkpoints: those that are kept, and one that is written before the oldest goes."""
    if not isinstance(job, Job):
        return Need()
    at_once = job.train.checkpoint.keep + 1 + (job.evaluate.checkpoints == "best")
    there = sum(path.stat().st_size for path in run.checkpoints.rglob("*") if path.is_file())
    checkpoints = read_plan(run).checkpoint.bytes * at_once
    made = run.index_json.exists() or run.data.is_symlink()  # in a sweep, by another run
    shards = 0 if made else _text_bytes(job.data) * job.data.tokenizer.token_bytes
    return Need(max(0, checkpoints - there), shards)


def _together(needs: Sequence[Need]) -> Need:
    return Need(sum(need.checkpoints for need in needs), sum(need.shards for need in needs))


def quota_of(path: Path, profile: Profile) -> Quota | None:
    """By the command of the filesystem's kind; None where there is none, or it says nothing."""
    filesystem = filesystem_of(path, profile)
    kind = filesystem.kind if filesystem else ""
    if kind not in _COMMANDS or not shutil.which(_COMMANDS[kind][0]):
        return None
    words = {"USER": user(), "PATH": str(path)}
    try:
        done = slurm([words.get(word, word) for word in _COMMANDS[kind]], QUOTA_S)
    except UserError:
        return None
    return _READERS[kind](done.stdout, path) if done.returncode == 0 else None


# ---- the comparisons -------------------------------------------------------------------------------------------------


def _against(need: Need, left_bytes: int, whose: str) -> list[Finding]:
    """Checkpoints are sure to come; the size of shards is known only when they are there."""
    left, checkpoints = format_bytes(max(0, left_bytes)), format_bytes(need.checkpoints)
    if need.checkpoints > left_bytes:
        text = f"{whose} {left}; checkpoints need {checkpoints}; {_MAKE_ROOM}, or keep fewer (train.checkpoint.keep)"
        return [refusal("room", text)]
    if need.checkpoints + need.shards > left_bytes:
        shards = format_bytes(need.shards)
        return [warning("room", f"{whose} {left}; checkpoints need {checkpoints}, shards up to {shards}; {_MAKE_ROOM}")]
    shards = f", shards up to {format_bytes(need.shards)}" if need.shards else ""
    needed = f"; checkpoints need {checkpoints}{shards}" if need.checkpoints else ""
    return [good("room", f"{whose} {left}{needed}")]


def _against_quota(need: Need, quota: Quota, few_files: int) -> list[Finding]:
    found = []
    if quota.limit_bytes is not None:
        found += _against(need, quota.limit_bytes - quota.used_bytes, "quota: left")
    left_files = None if quota.limit_files is None else quota.limit_files - quota.used_files
    if left_files is not None and left_files < few_files:
        used = f"{quota.used_files} of {quota.limit_files} files"
        found.append(refusal("room", f"quota: {used}; up to {few_files} are to come; {_MAKE_ROOM}"))
    return found


def _against_profile(need: Need, run: Run, profile: Profile) -> list[Finding]:
    """Without knowing what is used: a run that is larger than the whole quota cannot fit."""
    filesystem = filesystem_of(run.root, profile)
    limit = filesystem.quota_bytes if filesystem else None
    if limit is None or need.checkpoints <= limit:
        return []
    text = f"quota of {profile.name}: {format_bytes(limit)}; checkpoints need {format_bytes(need.checkpoints)}"
    return [refusal("room", f"{text}; keep fewer (train.checkpoint.keep), or give --out on another filesystem")]


# ---- the words of each filesystem ------------------------------------------------------------------------------------

_COMMANDS: dict[str, tuple[str, ...]] = {
    "lustre": ("lfs", "quota", "-q", "-u", "USER", "PATH"),
    "gpfs": ("mmlsquota", "-u", "USER", "-Y"),
}


def _lustre(said: str, path: Path) -> Quota | None:
    """`/scratch 17 0 300 - 12* 0 1000 -`: KiB used, soft and hard limit (0: none), grace; then the same of files."""
    words = [word.strip("[]*") for word in said.split()]
    numbers = [word for word in words if word.isdecimal()]
    if len(numbers) < 6:
        return None
    used, soft, hard, files, soft_files, hard_files = map(int, numbers[:6])
    limit = hard or soft
    return Quota(used * KIB, limit * KIB if limit else None, files, hard_files or soft_files or None)


def _gpfs(said: str, path: Path) -> Quota | None:
    """Lines of fields between colons, the first of which names them; the filesystem is the device of the mount."""
    lines = [line.split(":") for line in said.splitlines() if line.count(":") > 10]
    header = next((line for line in lines if "HEADER" in line), None)
    rows = [dict(zip(header, line, strict=False)) for line in lines if line != header] if header else []
    row = next((row for row in rows if row.get("filesystemName") == _device(path)), None)
    if row is None:
        return None
    used, limit = int(row["blockUsage"]), int(row["blockLimit"]) or int(row["blockQuota"])
    files, most = int(row["filesUsage"]), int(row["filesLimit"]) or int(row["filesQuota"])
    return Quota(used * KIB, limit * KIB if limit else None, files, most or None)


_READERS = {"lustre": _lustre, "gpfs": _gpfs}


def _device(path: Path) -> str:
    """What a path's filesystem is called where it is mounted."""
    mounts = [line.split()[:2] for line in Path("/proc/mounts").read_text().splitlines()]
    above = [(point, device) for device, point in mounts if path.is_relative_to(point)]
    return max(above, key=lambda found: len(found[0]))[1].rsplit("/", 1)[-1]


# ---- the text --------------------------------------------------------------------------------------------------------


def _text_bytes(data: Data) -> int:
    """Of what will be tokenized; what comes with Python or a package is small, and not looked at."""
    patterns = data.text.files if data.text else data.pairs.gettext if data.pairs else ()
    aligned = (data.pairs.source_file, data.pairs.target_file) if data.pairs else ()
    paths = [path for path in (*patterns, *aligned) if path and not path.startswith(("stdlib:", "package:"))]
    return sum(os.path.getsize(path) for path in islice(_files(paths), MOST_FILES))


def _files(patterns: list[str]) -> Iterator[str]:
    for pattern in patterns:
        yield from (path for path in glob.iglob(pattern, recursive=True) if os.path.isfile(path))
