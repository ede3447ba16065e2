"""How files are laid over the servers of a Lustre filesystem. Other filesystems decide for themselves."""

from __future__ import annotations

import shlex

from hpcllm.cluster.profile import Profile
from hpcllm.derive.setting import Setting
from hpcllm.job.spec import AnyJob, Job
from hpcllm.units import format_bytes

GB = 10**9
# A file that many ranks read or one rank writes: storage targets (OSTs) up to a size. NERSC's advice for Lustre.
STRIPES = ((1 * GB, 1), (10 * GB, 8), (100 * GB, 24))
MOST_STRIPES = 72
ADAM_STATE_BYTES = 12  # of one parameter in a checkpoint: fp32 weight and two moments


def striping(profile: Profile, job: AnyJob) -> tuple[Setting, ...]:
    """Shell lines for a new run directory, to run in it before the first write; none but on a Lustre set `manual`."""
    filesystem = profile.scratch()
    if filesystem.kind != "lustre" or filesystem.striping != "manual" or not isinstance(job, Job):
        return ()
    block = filesystem.block_bytes
    key = f"filesystems.{profile.scratch_name()}.striping"
    sizes = {"data/shards": shard_bytes(job), "checkpoints": checkpoint_bytes(job)}
    return tuple(
        Setting(
            f"stripes of {folder}",
            _setstripe(folder, stripe_count(size), block),
            key,
            f"files of up to {format_bytes(size)}",
        )
        for folder, size in sizes.items()
    )


def stripe_count(size_bytes: int) -> int:
    """Storage targets for a shared file of that size."""
    return next((count for limit, count in STRIPES if size_bytes < limit), MOST_STRIPES)


def shard_bytes(job: Job) -> int:
    """Size of a full shard: two bytes a token, four from a vocabulary of 65,536 on."""
    return job.data.shard_tokens * (2 if job.data.tokenizer.most_tokens < 65536 else 4)


def checkpoint_bytes(job: Job) -> int:
    """Size of a checkpoint's one file: weights and Adam's moments in fp32."""
    return ADAM_STATE_BYTES * job.model.parameters(job.data.tokenizer.most_tokens)


def _setstripe(folder: str, count: int, block_bytes: int | None) -> str:
    size = f" --stripe-size {block_bytes}" if block_bytes else ""
    quoted = shlex.quote(folder)
    set_it = f"mkdir -p {quoted} && lfs setstripe --stripe-count {count}{size} {quoted}"
    return f"if command -v lfs >/dev/null; then {set_it}; fi"
