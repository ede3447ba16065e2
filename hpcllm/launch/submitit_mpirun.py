"""submitit's executor `mpirun`: a function on MPI ranks of this machine, AutoExecutor(folder, cluster="mpirun").

Each job is a process of its own, its controller (launch/mpirun_job.py), which outlives the session that submitted it. A
handle knows its job by the folder and the id alone: whether the controller lives says a file, what came of it the
results. docs/slurm.md says which of submitit's behaviours cannot hold here.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from submitit.core import job_environment, logger, utils
from submitit.core.core import InfoWatcher, Job
from submitit.local.local import LocalExecutor, LocalJob

from hpcllm.cluster.detection.here import find_mpirun, mpi_flavour, usable_cpus
from hpcllm.errors import UserError
from hpcllm.launch.mpirun_job import Order, identity, is_alive, pid_file, requeue_file, started_file

DEFAULT_TIMEOUT_MIN = 5  # submitit's own, where a job sets none
DEFAULT_SIGNAL_DELAY_S = 30  # as submitit's local executor
CANCEL_TIMEOUT_S = 10.0
POLL_S = 0.05


class MpirunExecutor(LocalExecutor):
    """submitit's local executor with `tasks_per_node` ranks of one mpirun; `job.results()` has each rank's result."""

    def __init__(
        self,
        folder: Path | str,
        max_num_timeout: int = 3,
        max_pickle_size_gb: float = 1.0,
        python: str | None = None,
    ) -> None:
        if self.affinity() < 0:
            raise UserError("executor mpirun: found no mpirun; install an MPI, such as: pip install mpich")
        super().__init__(folder, max_num_timeout, max_pickle_size_gb, python)
        self._throttling = 0.0  # submitit spares a scheduler; here is none
        self._array: tuple[str, ...] = ()

    @classmethod
    def affinity(cls) -> int:
        """Used when asked for by name, never by itself; not there without mpirun."""
        return 0 if shutil.which(find_mpirun()) else -1

    @classmethod
    def _valid_parameters(cls) -> set[str]:
        return {"setup", "array_parallelism", "signal_delay_s", "visible_gpus"}

    def _internal_update_parameters(self, **kwargs: Any) -> None:
        if kwargs.get("nodes", 1) != 1:
            raise ValueError("executor mpirun runs on this machine only: nodes must be 1; hpcllm submit has the others")
        super()._internal_update_parameters(**kwargs)

    def _internal_process_submissions(self, delayed_submissions: list[utils.DelayedSubmission]) -> list[Job[Any]]:
        """One job, or an array whose ids are ARRAY_0, ARRAY_1, …"""
        count, name = len(delayed_submissions), uuid.uuid4().hex[:12]
        if count == 1:
            return super()._internal_process_submissions(delayed_submissions)
        self._array = tuple(f"{name}_{i}" for i in range(count))
        try:
            return super()._internal_process_submissions(delayed_submissions)
        finally:
            self._array = ()

    @property
    def _submitit_command_str(self) -> str:
        """What each rank runs. `python` may be several words, as in submitit's other executors."""
        return f"{self.python} -u -m hpcllm.launch.mpirun_job"

    def _submit_command(self, command: str) -> MpirunJob:
        job_id, self._array = (self._array[0], self._array[1:]) if self._array else (uuid.uuid4().hex[:12], ())
        mpirun = find_mpirun()
        order = Order(
            folder=str(self.folder),
            job_id=job_id,
            command=(mpirun, "-n", str(self._num_tasks()), *shlex.split(command)),
            warning=_warning(mpirun),
            timeout_s=60 * self.parameters.get("timeout_min", DEFAULT_TIMEOUT_MIN),
            signal_delay_s=self.parameters.get("signal_delay_s", DEFAULT_SIGNAL_DELAY_S),
            parallelism=self.parameters.get("array_parallelism") or self._jobs_at_once(),
            tasks=self._num_tasks(),
        )
        _start(order, self.parameters.get("setup", ()), self._environment(order))
        return MpirunJob(self.folder, job_id, range(self._num_tasks()))

    def _jobs_at_once(self) -> int:
        """Of an array: as many as this machine has cores for."""
        cores: int = self._num_tasks() * self.parameters.get("cpus_per_task", 1)
        return max(1, len(usable_cpus().numbers) // cores)

    def _environment(self, order: Order) -> dict[str, str]:
        gpus = (self.parameters.get("visible_gpus") or range(1024))[: self.parameters.get("gpus_per_node", 0)]
        threads = self.parameters.get("cpus_per_task")
        return {
            **os.environ,
            **({"OMP_NUM_THREADS": str(threads)} if threads else {}),
            "CUDA_VISIBLE_DEVICES": ",".join(map(str, gpus)),
            "SUBMITIT_EXECUTOR": self.name(),
            "SUBMITIT_FOLDER": order.folder,
            "SUBMITIT_MPIRUN_JOB_ID": order.job_id,
            "SUBMITIT_PREEMPT_SIGNAL": order.warning,
            "SUBMITIT_STDERR_TO_STDOUT": "1" if self.parameters.get("stderr_to_stdout") else "",
        }


def _warning(mpirun: str) -> str:
    """The signal that mpirun hands on to its ranks: Hydra dies of USR2, and Open MPI's ends its ranks at TERM."""
    return "USR2" if mpi_flavour(mpirun) == "openmpi" else "TERM"


def _start(order: Order, setup: Iterable[str], environment: dict[str, str]) -> None:
    """The controller, in a session of its own, which no Ctrl-C of this terminal reaches.

    The lines of the setup come before it in one bash, so that what they export is there for the ranks.
    """
    control = [sys.executable, "-m", "hpcllm.launch.mpirun_job", json.dumps(asdict(order))]
    script = " && ".join([*setup, f"exec {shlex.join(control)}"])
    paths = utils.JobPaths(order.folder, order.job_id)
    paths.folder.mkdir(parents=True, exist_ok=True)
    with paths.stdout.open("a") as out, paths.stderr.open("a") as err:
        process = subprocess.Popen(
            ["bash", "-c", script],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            start_new_session=True,
        )
    pid_file(paths).write_text(identity(process.pid))
    threading.Thread(target=process.wait, daemon=True).start()  # or it stayed a zombie until this session ends


class MpirunWatcher(InfoWatcher):
    """Nobody is asked for all jobs at once here. submitit asks it once of a job that becomes one while it is asked."""

    def get_state(self, job_id: str, mode: str = "standard") -> str:
        """Not known to have ended; the job itself knows better."""
        return "RUNNING"

    def update(self) -> None:
        """There is nothing to update."""


class MpirunJob(LocalJob[Any]):
    """A job of this machine. Every handle of it is as good as the first, in this session or another."""

    watcher = MpirunWatcher()
    _results_timeout_s = 0  # ranks have written before their controller ends, on this very machine

    def __init__(self, folder: Path | str, job_id: str, tasks: Iterable[int] = (0,), process: None = None) -> None:
        super().__init__(folder, job_id, tuple(tasks), process)

    def get_info(self, mode: str = "force") -> dict[str, str]:
        """`jobState`: PENDING (in an array), RUNNING, FINISHED (every rank has left a result), else INTERRUPTED."""
        if self._has_results():
            return {"jobState": "FINISHED"}
        if not is_alive(self.paths):
            return {"jobState": "INTERRUPTED"}
        return {"jobState": "RUNNING" if started_file(self.paths).exists() else "PENDING"}

    def wait(self) -> None:
        """Until it has ended. Asking costs nothing here, so it asks more often than submitit does."""
        while not self.done():
            time.sleep(POLL_S)

    def done(self, force_check: bool = False) -> bool:
        """Whether it has ended, well or not; one rank's is done when its result is there."""
        return self._has_results() or not is_alive(self.paths)

    def _has_results(self) -> bool:
        jobs = self._sub_jobs or [self]
        return all(job.paths.result_pickle.exists() for job in jobs)

    def exception(self) -> utils.UncompletedJobError | None:
        """The first rank's that failed, rather than of one that was only stopped with it."""
        if not self._sub_jobs:
            return super().exception()
        self.wait()
        found = [error for error in (job.exception() for job in self._sub_jobs) if error]
        failed = [error for error in found if isinstance(error, utils.FailedJobError)]
        return next(iter([*failed, *found]), None)

    def results(self) -> list[Any]:
        """Of every rank, in their order. Raises `exception()`, where there is one."""
        error = self.exception()
        if error:
            raise error
        return super().results()

    def cancel(self, check: bool = True) -> None:
        """Stop mpirun and its ranks. `check`: wait until they are gone."""
        self._tell(signal.SIGINT)
        end_s = time.monotonic() + CANCEL_TIMEOUT_S
        while check and is_alive(self.paths) and time.monotonic() < end_s:
            time.sleep(POLL_S)

    def _interrupt(self) -> None:
        """As a preemption would: the ranks hear the warning."""
        self._tell(signal.SIGTERM)

    def _tell(self, number: signal.Signals) -> None:
        if is_alive(self.paths):
            group = int(pid_file(self.paths).read_text().split()[0])
            os.killpg(group, number)  # not the process alone: its setup may still be running


class MpirunJobEnvironment(job_environment.JobEnvironment):
    """Where a rank of `MpirunExecutor` learns its place: of Hydra, or of Open MPI."""

    _env = {"job_id": "SUBMITIT_MPIRUN_JOB_ID"}

    @property
    def array_job_id(self) -> str | None:
        """Of `ARRAY_INDEX`."""
        array, _, index = self.raw_job_id.partition("_")
        return array if index else None

    @property
    def array_task_id(self) -> str | None:
        """Of `ARRAY_INDEX`."""
        return self.raw_job_id.partition("_")[2] or None

    @property
    def num_tasks(self) -> int:
        """Number of ranks."""
        return _first_of("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", default=1)

    @property
    def num_nodes(self) -> int:
        """This machine."""
        return 1

    @property
    def node(self) -> int:
        """This machine."""
        return 0

    @property
    def global_rank(self) -> int:
        """Rank among all."""
        return _first_of("PMI_RANK", "OMPI_COMM_WORLD_RANK")

    @property
    def local_rank(self) -> int:
        """Rank on this node."""
        return _first_of("MPI_LOCALRANKID", "OMPI_COMM_WORLD_LOCAL_RANK")

    def _requeue(self, countdown: int) -> None:
        """The first rank has saved: its controller stops all ranks and starts them again."""
        logger.get_logger().info(f"Requeued job {self.job_id} ({countdown} remaining timeouts)")
        requeue_file(self.paths).touch()


def _first_of(*names: str, default: int = 0) -> int:
    return next((int(os.environ[name]) for name in names if name in os.environ), default)
