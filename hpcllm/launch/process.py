"""Whether a process that a record names still lives, or its number has gone to another one."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

STALE_AFTER_S = 60.0  # without a heartbeat; parallel/stage.py and the script of a command beat every 10 s
TOLERANCE_S = 2.0  # a script's record has whole seconds, and a clock is corrected now and then


def writer_lives(path: Path, record: Mapping[str, Any]) -> bool:
    """Whether the stage that began this record lives: here by its process, on another host by its heartbeat."""
    if record["host"] != socket.gethostname():
        return time.time() - path.stat().st_mtime < STALE_AFTER_S
    return lives(record["pid"], record["start"])


def lives(pid: int, since: float) -> bool:
    """Whether the process that wrote a record at `since` (seconds since 1970) lives on this host.

    It began before it wrote the record. A process that has its number now, but began later, is somebody else's.
    """
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # another user's, who may be at the same run
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:  # no /proc, or one that hides the processes of others
        return True
    boot_s = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    return boot_s + started_after_boot_s(stat) <= since + TOLERANCE_S


def started_after_boot_s(stat: str) -> float:
    """When a process began, by the text of its /proc/PID/stat: field 22 of proc(5), in clock ticks after boot."""
    after_name = stat.rpartition(")")[2].split()  # field 2 is the program's name, which may hold anything
    return int(after_name[22 - 3]) / os.sysconf("SC_CLK_TCK")
