"""The filesystems of a cluster."""

from __future__ import annotations

from typing import Literal

from hpcllm.cluster.known import Known
from hpcllm.units import Bytes, BytesPerSecond, Positive, Seconds


class Stripes(Known):
    """A row of a site's rule for Lustre: files from this size on lie on so many storage targets."""

    from_bytes: Bytes
    """The smallest size of such files."""
    count: Positive
    """Storage targets that one of them lies on."""


class Filesystem(Known):
    """One filesystem that jobs may use."""

    kind: Literal["lustre", "gpfs", "beegfs", "wekafs", "nfs", "local", "object"]
    """What serves it; only Lustre is striped by us."""
    path: str
    """Where it is mounted; may hold variables of the site such as $SCRATCH."""
    purpose: Literal["scratch", "home", "project", "archive", "datasets"] = "scratch"
    """Runs are written to the first that is scratch."""
    write_bytes_per_s: BytesPerSecond | None = None
    """What one job may expect."""
    read_bytes_per_s: BytesPerSecond | None = None
    """What one job may expect."""
    total_write_bytes_per_s: BytesPerSecond | None = None
    """Of the whole system, by its maker or its site."""
    total_read_bytes_per_s: BytesPerSecond | None = None
    """Of the whole system, by its maker or its site."""
    striping: Literal["manual", "progressive", "none"] = "none"
    """Lustre: manual, we set the stripe count; progressive, the site's own layout does."""
    stripes: tuple[Stripes, ...] = ()
    """The site's own rule, from small to large; left out, ours (docs/profiles.md)."""
    pool: str | None = None
    """Lustre: pool of storage targets for large files."""
    locking: bool = True
    """Whether file locks work; where not, HDF5 is told not to try."""
    block_bytes: Bytes | None = None
    """Block or stripe size."""
    quota_bytes: Bytes | None = None
    """Of a user or a project."""
    quota_files: Positive | None = None
    """Of a user or a project."""
    purge_after_s: Seconds | None = None
    """Files not used for so long are deleted by the site."""
    description: str = ""
    """What it is for, and who may use it."""
