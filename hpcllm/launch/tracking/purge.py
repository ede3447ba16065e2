"""A word before the site's own clean-up reaches a run: how long its oldest file has left."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from hpcllm.cluster.profile import Profile
from hpcllm.cluster.storage import Filesystem
from hpcllm.run_directory import Run
from hpcllm.units import format_seconds

WARN_S = 7 * 86_400.0
MOST_FILES = 200  # that are looked at: on a parallel filesystem each costs the metadata server a question


def purge_warning(run: Run, profile: Profile, now_s: float | None = None) -> str:
    """What to say when files of the run are deleted in less than a week; else nothing.

    No file of a run is older than the run, so one that is young enough costs a single look.
    """
    filesystem = filesystem_of(run.root, profile)
    if not filesystem or filesystem.purge_after_s is None:
        return ""
    last_use_s = (now_s or time.time()) - filesystem.purge_after_s + WARN_S
    if _last_used_s(run.resolved_json) > last_use_s:
        return ""
    oldest_s, path = min((_last_used_s(path), path) for path in islice(_files(run.root), MOST_FILES))
    left_s = oldest_s - last_use_s + WARN_S
    if left_s >= WARN_S:
        return ""
    when = f"in {format_seconds(left_s)}" if left_s > 0 else "any time now"
    unused = format_seconds(filesystem.purge_after_s)
    return f"{path}: the site deletes it {when} (files not used for {unused}); copy away what must stay"


def filesystem_of(path: Path, profile: Profile) -> Filesystem | None:
    """The one of the profile that holds a path: with the longest mount point above it."""
    mounts = {Path(os.path.expandvars(one.path)).resolve(): one for one in profile.filesystems.values()}
    above = [mount for mount in mounts if path.resolve().is_relative_to(mount)]
    return mounts[max(above, key=lambda mount: len(mount.parts))] if above else None


def _files(root: Path) -> Iterator[Path]:
    """The files below a folder, those near its top first."""
    folders = deque([root])
    while folders:
        with os.scandir(folders.popleft()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    folders.append(Path(entry.path))
                else:
                    yield Path(entry.path)


def _last_used_s(path: Path) -> float:
    """A copy keeps the times of its original, so the time at which it was made counts as well."""
    found = path.lstat()
    return max(found.st_atime, found.st_mtime, found.st_ctime)
