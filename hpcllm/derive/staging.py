"""Whether training first copies the shards to each node's own disk, and where."""

from __future__ import annotations

from hpcllm.cluster.profile import Profile
from hpcllm.derive.setting import Layout, Setting
from hpcllm.job.spec import AnyJob, Job

PATH = "HPCLLM_LOCAL_SCRATCH"  # read by data/staging.py
BYTES = "HPCLLM_LOCAL_SCRATCH_BYTES"


def staging(profile: Profile, job: AnyJob, layout: Layout) -> list[Setting]:
    """Where the copies go, and how much a job may put there; for our own training alone, and never into memory."""
    disk = profile.node_type(layout.partition).local_scratch
    if disk is None or not disk.stage or disk.kind != "disk" or not isinstance(job, Job) or layout.stage != "train":
        return []
    key = f"nodes.{profile.node_type_name(layout.partition)}.local_scratch"
    settings = [Setting(PATH, disk.path, f"{key}.stage", "shards are copied there, once a node", needs=disk.path)]
    if disk.size_bytes:
        settings.append(Setting(BYTES, str(disk.size_bytes), f"{key}.size", "more is not copied"))
    return settings
