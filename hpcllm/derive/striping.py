"""How files are laid over the servers of a Lustre filesystem. Other filesystems decide for themselves."""

from __future__ import annotations

import shlex

from hpcllm.cluster.profile import Profile
from hpcllm.cluster.storage import Filesystem
from hpcllm.derive.setting import Setting
from hpcllm.job.spec import AnyJob, Job
from hpcllm.units import format_bytes

GB = 10**9
# A file that many ranks read or one rank writes: storage targets (OSTs) from a size on. NERSC's advice for Lustre.
STRIPES = ((0, 1), (1 * GB, 8), (10 * GB, 24), (100 * GB, 72))
ADAM_STATE_BYTES = 12  # of one parameter in a checkpoint: fp32 weight and two moments


def striping(profile: Profile, job: AnyJob) -> tuple[Setting, ...]:
    """Shell lines for a new run directory, to run in it before the first write.

    On a Lustre with a rule of its site's, or set `manual`, by ours. None for files below the first size of the site's
    rule: there its own layout is right.
    """
    filesystem = profile.scratch()
    by_hand = filesystem.striping == "manual" or filesystem.stripes
    if filesystem.kind != "lustre" or not by_hand or not isinstance(job, Job):
        return ()
    key = f"filesystems.{profile.scratch_name()}.{'stripes' if filesystem.stripes else 'striping'}"
    sizes = {"data/shards": shard_bytes(job), "checkpoints": checkpoint_bytes(job)}
    counts = {folder: stripe_count(filesystem, size) for folder, size in sizes.items()}
    return tuple(
        Setting(
            f"stripes of {folder}",
            _setstripe(folder, count, filesystem),
            key,
            f"files of up to {format_bytes(sizes[folder])}",
        )
        for folder, count in counts.items()
        if count is not None
    )


def stripe_count(filesystem: Filesystem, size_bytes: int) -> int | None:
    """Storage targets for a shared file of that size; None where the site's rule leaves it to the site's layout."""
    rule = sorted((row.from_bytes, row.count) for row in filesystem.stripes) or STRIPES
    return next((count for least, count in reversed(rule) if least <= size_bytes), None)


def shard_bytes(job: Job) -> int:
    """Size of a full shard: two bytes a token, four from a vocabulary of 65,536 on."""
    return job.data.shard_tokens * job.data.tokenizer.token_bytes


def checkpoint_bytes(job: Job) -> int:
    """Size of a checkpoint's one file: weights and Adam's moments in fp32."""
    return ADAM_STATE_BYTES * job.model.parameters(job.data.tokenizer.most_tokens)


def _setstripe(folder: str, count: int, filesystem: Filesystem) -> str:
    size = f" --stripe-size {filesystem.block_bytes}" if filesystem.block_bytes else ""
    pool = f" --pool {shlex.quote(filesystem.pool)}" if filesystem.pool and count > 1 else ""
    quoted = shlex.quote(folder)
    set_it = f"mkdir -p {quoted} && lfs setstripe --stripe-count {count}{size}{pool} {quoted}"
    return f"if command -v lfs >/dev/null; then {set_it}; fi"
