"""The processes of a job of submitit's executor `mpirun`: its controller, and each rank.

    python -m hpcllm.launch.mpirun_job ORDER     the controller: waits for its turn, runs mpirun, warns, ends it
    python -m hpcllm.launch.mpirun_job           a rank, started by mpirun: its own log, then the function

A job that is to run again leaves a file that says so: exit codes tell nothing, since of all ranks only the first knows.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import traceback
from dataclasses import dataclass
from pathlib import Path

from submitit.core.utils import JobPaths

POLL_S = 0.05
TURN_POLL_S = 0.2
GRACE_S = 1.0  # between asking mpirun to end its ranks, and killing it


@dataclass(frozen=True)
class Order:
    """What a controller is told."""

    folder: str
    """The executor's, with submitit's `%j` in it."""
    job_id: str
    """`ID`, or `ARRAY_INDEX`."""
    command: tuple[str, ...]
    """mpirun with its ranks' program."""
    warning: str
    """Name of the signal that mpirun hands on to its ranks, by which they save."""
    timeout_s: float
    signal_delay_s: float
    """How long before the timeout the warning comes."""
    parallelism: int
    """Of an array: how many run at once."""
    tasks: int

    @property
    def paths(self) -> JobPaths:
        """The files of the job."""
        return JobPaths(self.folder, self.job_id)

    def earlier(self) -> list[JobPaths]:
        """The files of the jobs that stand before this one in its array."""
        array, _, index = self.job_id.partition("_")
        return [JobPaths(self.folder, f"{array}_{i}") for i in range(int(index or 0))]


# ---- files -----------------------------------------------------------------------------------------------------------


def pid_file(paths: JobPaths) -> Path:
    """Which process is the job's controller: its `identity`."""
    return paths.folder / f"{paths.job_id}_controller.pid"


def started_file(paths: JobPaths) -> Path:
    """There when its turn came."""
    return paths.folder / f"{paths.job_id}_started"


def requeue_file(paths: JobPaths) -> Path:
    """There while a job is to run again."""
    return paths.folder / f"{paths.job_id}_requeue"


def identity(pid: int) -> str:
    """A process by its number and the time it started at, which no other has. Raises OSError when it is gone."""
    return f"{pid} {_stat(pid)[19]}"


def is_alive(paths: JobPaths) -> bool:
    """Whether the controller lives."""
    try:
        found = pid_file(paths).read_text()
        pid = int(found.split()[0])
        return identity(pid) == found and _stat(pid)[0] not in "ZX"  # a zombie has ended
    except (OSError, ValueError, IndexError):
        return False


def _stat(pid: int) -> list[str]:
    """/proc/PID/stat from its third field on: the state, …, as the 22nd the time it started at (man proc)."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


# ---- the controller --------------------------------------------------------------------------------------------------


def control(order: Order) -> None:
    """Run the job to its end: until it has ended without asking to run again, or was cancelled (SIGINT)."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job of a shell inherits that it is ignored
    while sum(map(is_alive, order.earlier())) >= order.parallelism:
        time.sleep(TURN_POLL_S)
    started_file(order.paths).touch()
    _attempt(order)
    while requeue_file(order.paths).exists():
        requeue_file(order.paths).unlink()
        for task in range(order.tasks):  # of ranks that ended before the first one saved
            JobPaths(order.folder, order.job_id, task).result_pickle.unlink(missing_ok=True)
        _attempt(order)


def _attempt(order: Order) -> None:
    """One mpirun, until it ends, its time is up, or the first rank has saved to run again."""
    ranks = subprocess.Popen(order.command, start_new_session=True)
    warning = signal.Signals[f"SIG{order.warning}"]
    signal.signal(signal.SIGTERM, lambda *_: ranks.send_signal(warning))  # whoever stops this process warns the job
    try:
        _wait(ranks, order, warning)
    finally:
        _end(ranks)


def _wait(ranks: subprocess.Popen[bytes], order: Order, warning: signal.Signals) -> None:
    end_s, warned = time.monotonic() + order.timeout_s, False
    while ranks.poll() is None and time.monotonic() < end_s and not requeue_file(order.paths).exists():
        if not warned and time.monotonic() >= end_s - order.signal_delay_s:
            ranks.send_signal(warning)
            warned = True
        time.sleep(POLL_S)


def _end(ranks: subprocess.Popen[bytes]) -> None:
    """mpirun ends its ranks at SIGINT, and they die with it when it is killed."""
    ranks.send_signal(signal.SIGINT)
    try:
        ranks.wait(GRACE_S)
    except subprocess.TimeoutExpired:
        ranks.kill()
        ranks.wait()


# ---- a rank ----------------------------------------------------------------------------------------------------------


def rank() -> None:
    """Run the submitted function as this rank."""
    from submitit.core.job_environment import JobEnvironment  # only now: it reads the signal from the environment
    from submitit.core.submission import process_job

    paths = JobEnvironment().paths
    _redirect(paths)
    try:
        process_job(os.environ["SUBMITIT_FOLDER"])
    except Exception:
        traceback.print_exc()
        _abort()
        sys.exit(1)


def _redirect(paths: JobPaths) -> None:
    """Each rank has a log of its own, as submitit's tasks have; another attempt goes on with it."""
    streams = (paths.stdout, paths.stdout if os.environ["SUBMITIT_STDERR_TO_STDOUT"] else paths.stderr)
    for stream, path in zip((sys.stdout, sys.stderr), streams, strict=True):
        with path.open("a") as log:
            os.dup2(log.fileno(), stream.fileno())


def _abort() -> None:
    """Where MPI is on, the others may wait for this rank for ever, and it for them in MPI_Finalize."""
    mpi = sys.modules.get("mpi4py.MPI")
    if mpi is not None and mpi.Is_initialized() and not mpi.Is_finalized():
        sys.stderr.flush()
        mpi.COMM_WORLD.Abort(1)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        control(Order(**json.loads(sys.argv[1])))
    else:
        rank()
