"""The filesystems of a cluster."""

from __future__ import annotations

from typing import Literal

from hpcllm.source import Record
from hpcllm.units import Bytes, BytesPerSecond, Seconds


class Filesystem(Record):
    """One filesystem that jobs may use."""

    kind: Literal["lustre", "gpfs", "beegfs", "wekafs", "nfs", "local", "object"]
    path: str
    """Where it is mounted; may hold variables of the site such as $SCRATCH."""
    purpose: Literal["scratch", "home", "project", "archive"] = "scratch"
    write_bytes_per_s: BytesPerSecond | None = None
    """What one job may expect."""
    read_bytes_per_s: BytesPerSecond | None = None
    """What one job may expect."""
    striping: Literal["manual", "progressive", "none"] = "none"
    """Lustre: manual, we set the stripe count; progressive, the site's own layout does."""
    locking: bool = True
    """Whether file locks work; where not, HDF5 is told not to try."""
    block_bytes: Bytes | None = None
    """Block or stripe size."""
    purge_after_s: Seconds | None = None
    """Files not used for so long are deleted by the site."""
