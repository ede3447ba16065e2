"""What submitit documents of its executors, on `mpirun`: each behaviour with real ranks (docs/slurm.md has the table).

    pytest tests/launch/test_submitit_mpirun.py

Ranks cannot import this file, so what it defines is pickled by value.
"""

from __future__ import annotations

import asyncio
import gc
import os
import pickle
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from operator import add, truediv
from pathlib import Path
from typing import Any

import cloudpickle
import pytest
import submitit
from submitit import helpers
from submitit.core.utils import FailedJobError, UncompletedJobError

from hpcllm.errors import UserError
from hpcllm.launch import submitit_mpirun
from hpcllm.launch.submitit_mpirun import MpirunExecutor, MpirunJob

cloudpickle.register_pickle_by_value(sys.modules[__name__])
pytestmark = pytest.mark.mpi
WAIT_S = 60.0


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture
def executor(tmp_path: Path) -> submitit.AutoExecutor:
    """Two ranks, by the name that submitit's plugin mechanism finds."""
    executor = submitit.AutoExecutor(tmp_path / "jobs", cluster="mpirun")
    executor.update_parameters(timeout_min=1, tasks_per_node=2)
    return executor


@pytest.fixture
def alone(tmp_path: Path) -> submitit.AutoExecutor:
    """One rank."""
    executor = submitit.AutoExecutor(tmp_path / "jobs", cluster="mpirun")
    executor.update_parameters(timeout_min=1)
    return executor


def until(condition: Callable[[], Any]) -> None:
    """Wait for it, at most WAIT_S."""
    end_s = time.monotonic() + WAIT_S
    while not condition() and time.monotonic() < end_s:
        time.sleep(0.05)
    assert condition()


def is_running(pid: int) -> bool:
    """Whether a process computes: a zombie is one that nobody has asked for its exit code."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


# ---- a job, from beginning to end ------------------------------------------------------------------------------------


def test_a_job_gives_each_ranks_result_and_log_and_knows_what_was_submitted(executor: submitit.AutoExecutor) -> None:
    def place(greeting: str, *, loud: bool) -> dict[str, Any]:
        here = submitit.JobEnvironment()
        print(greeting, here.global_rank)
        print("loud", here.global_rank, file=sys.stderr)
        names = ("job_id", "num_tasks", "num_nodes", "node", "global_rank", "local_rank", "hostname", "cluster")
        return {name: getattr(here, name) for name in names} | {"stdout": str(here.paths.stdout), "here": os.getcwd()}

    job = executor.submit(place, "hello", loud=True)

    first, second = job.results()
    assert (first["global_rank"], second["global_rank"]) == (0, 1)
    assert second == {
        **{"job_id": job.job_id, "num_tasks": 2, "num_nodes": 1, "node": 0, "global_rank": 1, "local_rank": 1},
        **{"hostname": os.uname().nodename, "cluster": "mpirun"},
        **{"stdout": str(job.task(1).paths.stdout), "here": os.getcwd()},
    }
    assert (job.num_tasks, job.done(), job.state, job.exception()) == (2, True, "FINISHED", None)
    assert [job.task(rank).result() for rank in (0, 1)] == [first, second]
    logs = [job.task(rank).stdout() or "" for rank in (0, 1)]
    assert [[f"hello {rank}\n" in log for rank in (0, 1)] for log in logs] == [[True, False], [False, True]]
    assert all(f"hello {rank}\n" in (job.stdout() or "") for rank in (0, 1))
    assert "loud 1\n" in (job.task(1).stderr() or "")
    submission = job.submission()
    assert (submission.args, submission.kwargs) == (("hello",), {"loud": True})
    with pytest.raises(ValueError, match="must be between 0 and 1"):
        job.task(2)
    with pytest.raises(AssertionError, match="results"):
        job.result()


def test_a_job_of_one_rank_is_its_own_task_and_has_one_result(alone: submitit.AutoExecutor) -> None:
    job = alone.submit(add, 5, 7)

    assert job.state in ("PENDING", "RUNNING")
    assert not job.done()
    assert repr(job).startswith(f"MpirunJob<job_id={job.job_id}, task_id=0")
    job.wait()
    assert (job.result(), job.results(), job.task(0) is job) == (12, [12], True)


def test_ranks_talk_by_mpi(executor: submitit.AutoExecutor) -> None:
    def total() -> int:
        from mpi4py import MPI

        return int(MPI.COMM_WORLD.allreduce(MPI.COMM_WORLD.rank + 1))

    assert executor.submit(total).results() == [3, 3]


def test_lambdas_objects_and_classes_of_the_script_are_pickled_with_the_job(alone: submitit.AutoExecutor) -> None:
    class Adder:
        def __init__(self, more: int) -> None:
            self.more = more

        def __call__(self, number: int) -> Adder:
            return Adder(self.more + number)

    more = 3
    jobs = [alone.submit(lambda number: number + more, 4), alone.submit(Adder(1), 2)]

    assert jobs[0].result() == 7
    assert jobs[1].result().more == 3


def test_a_command_gives_what_it_printed(alone: submitit.AutoExecutor) -> None:
    here = helpers.CommandFunction(["pwd"], cwd="/", verbose=False)
    fails = helpers.CommandFunction(["ls", "/nowhere at all"], verbose=False)
    jobs = [alone.submit(here), alone.submit(fails)]

    assert jobs[0].result() == "/"
    with pytest.raises(FailedJobError, match="nowhere at all"):
        jobs[1].result()


def test_torch_finds_its_rendezvous(executor: submitit.AutoExecutor) -> None:
    def exported() -> list[str]:
        helpers.TorchDistributedEnvironment().export(set_cuda_visible_devices=False)
        return [os.environ[name] for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_PORT")]

    first, second = executor.submit(exported).results()

    assert (first[:3], second[:3]) == (["0", "2", "0"], ["1", "2", "1"])
    assert first[3] == second[3]


# ---- errors ----------------------------------------------------------------------------------------------------------


def test_a_failed_job_raises_its_traceback(alone: submitit.AutoExecutor) -> None:
    job = alone.submit(truediv, 1, 0)

    with pytest.raises(FailedJobError, match=r"Traceback[\s\S]*ZeroDivisionError"):
        job.result()
    assert isinstance(job.exception(), FailedJobError)
    assert "ZeroDivisionError" in (job.stderr() or "")


def test_ranks_that_use_no_mpi_fail_each_for_itself_and_the_first_failure_is_told(
    executor: submitit.AutoExecutor,
) -> None:
    def fails_on_one() -> str:
        if submitit.JobEnvironment().global_rank == 1:
            raise RuntimeError("on purpose: 1")
        return "fine"

    job = executor.submit(fails_on_one)

    assert "on purpose: 1" in str(job.exception())
    assert job.task(0).result() == "fine"
    with pytest.raises(FailedJobError, match="on purpose"):
        job.results()


def test_a_rank_that_fails_ends_those_that_wait_for_it_by_mpi_and_its_traceback_is_the_jobs(
    executor: submitit.AutoExecutor,
) -> None:
    def fails_on_one() -> None:
        from mpi4py import MPI

        if MPI.COMM_WORLD.rank == 1:
            raise RuntimeError("on purpose")
        MPI.COMM_WORLD.barrier()

    job = executor.submit(fails_on_one)

    with pytest.raises(FailedJobError, match=r"Traceback[\s\S]*on purpose"):
        job.results()
    assert not isinstance(job.task(0).exception(), FailedJobError)  # it was only stopped


def test_a_job_that_dies_without_a_word_is_uncompleted(alone: submitit.AutoExecutor) -> None:
    def dies() -> None:
        print("last words", file=sys.stderr, flush=True)
        os._exit(3)

    job = alone.submit(dies)

    with pytest.raises(UncompletedJobError, match=r"has not produced any output[\s\S]*last words"):
        job.result()
    assert not isinstance(job.exception(), FailedJobError)
    assert job.state == "INTERRUPTED"


# ---- many jobs -------------------------------------------------------------------------------------------------------


def test_map_array_gives_results_in_order_under_one_array_and_never_runs_more_than_allowed(
    alone: submitit.AutoExecutor, tmp_path: Path
) -> None:
    def together(a: int, b: int) -> tuple[int, int, str]:
        mine = tmp_path / f"here.{a}"
        mine.touch()
        time.sleep(0.3)
        seen = len(list(tmp_path.glob("here.*")))
        mine.unlink()
        here = submitit.JobEnvironment()
        return a + b, seen, f"{here.array_job_id}_{here.array_task_id}"

    alone.update_parameters(mpirun_array_parallelism=2)
    jobs = alone.map_array(together, [1, 2, 3, 4], [10, 20, 30, 40])
    assert jobs[3].state == "PENDING"
    sums, seen, ids = zip(*(job.result() for job in jobs), strict=True)

    assert sums == (11, 22, 33, 44)
    assert max(seen) <= 2
    assert list(ids) == [job.job_id for job in jobs]
    assert [job_id.partition("_")[2] for job_id in ids] == ["0", "1", "2", "3"]
    assert len({job_id.partition("_")[0] for job_id in ids}) == 1


def test_a_batch_is_an_array_that_is_submitted_at_its_end(alone: submitit.AutoExecutor) -> None:
    with alone.batch():
        jobs = [alone.submit(add, k, b) for k, b in ((1, 1), (2, 2))]
        with pytest.raises(AttributeError, match="forbidden"):
            jobs[0].job_id  # noqa: B018  # reading it is the test
        with pytest.raises(RuntimeError, match="not allowed"):
            alone.update_parameters(timeout_min=2)
    with pytest.raises(ZeroDivisionError), alone.batch():
        alone.submit(add, 1, 1)
        raise ZeroDivisionError

    assert [job.result() for job in jobs] == [2, 4]
    assert {type(job) for job in jobs} == {MpirunJob}


def test_a_job_of_a_batch_can_be_asked_for_inside_it_where_that_is_allowed(alone: submitit.AutoExecutor) -> None:
    with alone.batch(allow_implicit_submissions=True):
        job = alone.submit(add, 1, 2)
        assert job.result() == 3


def test_functions_that_differ_make_an_array_too(alone: submitit.AutoExecutor) -> None:
    assert [job.result() for job in alone.submit_array([partial(add, 1, 2), partial(add, 3, 4)])] == [3, 7]


def test_two_jobs_run_at_once_and_are_given_as_they_complete(alone: submitit.AutoExecutor, tmp_path: Path) -> None:
    def waits(name: str) -> str:
        until(lambda: (tmp_path / name).exists())
        return name

    slow, quick = alone.submit(waits, "slow"), alone.submit(waits, "quick")
    (tmp_path / "quick").touch()

    completed = helpers.as_completed([slow, quick], timeout=WAIT_S, poll_frequency=0.1)
    assert next(completed) is quick
    assert not slow.done()
    (tmp_path / "slow").touch()
    assert [job.result() for job in completed] == ["slow"]
    with pytest.raises(TimeoutError):
        list(helpers.as_completed([slow], timeout=-1))


def test_jobs_can_be_awaited(executor: submitit.AutoExecutor) -> None:
    async def gathered() -> tuple[Any, ...]:
        job = executor.submit(lambda: submitit.JobEnvironment().global_rank)
        await job.awaitable().wait(0.1)
        one = await job.task(1).awaitable().result(0.1)
        each = [await result for result in job.task(1).awaitable().results_as_completed(0.1)]
        return one, each, await job.awaitable().results(0.1)

    assert asyncio.run(gathered()) == (1, [1], [0, 1])


def test_jobs_can_be_monitored(alone: submitit.AutoExecutor, capsys: pytest.CaptureFixture[str]) -> None:
    jobs = alone.map_array(abs, [-1, -2])

    helpers.monitor_jobs(jobs, poll_frequency=0.1, test_mode=True)

    assert "All jobs finished, jobs with indices [] failed" in capsys.readouterr().out


# ---- parameters ------------------------------------------------------------------------------------------------------


def test_parameters_reach_the_ranks(alone: submitit.AutoExecutor, tmp_path: Path) -> None:
    def found() -> tuple[str | None, ...]:
        print("to stdout", file=sys.stderr)
        return tuple(os.environ.get(name) for name in ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "BY_SETUP"))

    alone.update_parameters(
        **{"name": "mine", "mem_gb": 1, "nodes": 1, "cpus_per_task": 3, "gpus_per_node": 2, "stderr_to_stdout": True},
        **{"mpirun_visible_gpus": (5, 6, 7), "mpirun_setup": ["export BY_SETUP='a b'", f"touch '{tmp_path}/set up'"]},
        slurm_partition="elsewhere",
    )
    job = alone.submit(found)

    assert job.result() == ("3", "5,6", "a b")
    assert "to stdout" in (job.stdout() or "")
    assert (tmp_path / "set up").exists()


def test_a_setup_that_fails_ends_the_job_with_its_words(alone: submitit.AutoExecutor) -> None:
    alone.update_parameters(mpirun_setup=["echo no such module >&2", "false"])

    with pytest.raises(UncompletedJobError, match="no such module"):
        alone.submit(add, 1, 1).result()


@pytest.mark.parametrize(
    ("parameters", "error", "message"),
    [
        ({"mpirun_color": 1}, NameError, "Unknown argument 'color' for executor 'mpirun'"),
        ({"color": 1}, NameError, "need to be prefixed"),
        ({"timeout_min": "soon"}, AssertionError, "expected type"),
        ({"nodes": 2}, ValueError, "this machine only"),
        ({"gpus_per_node": 2, "mpirun_visible_gpus": (0,)}, ValueError, "2 gpus requested"),
    ],
)
def test_parameters_that_cannot_be_are_refused(
    alone: submitit.AutoExecutor, parameters: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        alone.update_parameters(**parameters)


def test_the_executors_own_parameters_win_and_its_constructor_takes_prefixed_ones(tmp_path: Path) -> None:
    executor = submitit.AutoExecutor(tmp_path, cluster="mpirun", mpirun_max_num_timeout=1, slurm_max_num_timeout=9)
    executor.update_parameters(timeout_min=3, mpirun_timeout_min=4)

    assert (executor._executor.parameters["timeout_min"], executor._executor.max_num_timeout) == (4, 1)


def test_it_is_never_chosen_by_itself_and_says_when_there_is_no_mpirun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert submitit.AutoExecutor.which() != "mpirun"

    monkeypatch.setattr(submitit_mpirun, "find_mpirun", lambda: "/nowhere/mpirun")
    with pytest.raises(UserError, match="found no mpirun"):
        MpirunExecutor(tmp_path)


def test_a_pickle_that_is_too_large_is_refused(tmp_path: Path) -> None:
    executor = submitit.AutoExecutor(tmp_path, cluster="mpirun", mpirun_max_pickle_size_gb=1e-6)

    with pytest.raises(RuntimeError, match="max_pickle_size_gb"):
        executor.submit(len, b"x" * 5000)


@pytest.mark.parametrize("name", ["%j", "a 0", 'a"=0"', "a'; echo foo", r"a\=0", "a\n0/%j", "$(touch owned)", "é %A"])
def test_any_folder_will_do(tmp_path: Path, name: str) -> None:
    job = MpirunExecutor(tmp_path / name).submit(add, 1, 2)

    assert job.result() == 3
    assert job.paths.stdout.exists()
    assert "%" not in str(job.paths.stdout)
    assert not list(tmp_path.rglob("owned"))


# ---- handles ---------------------------------------------------------------------------------------------------------


ELSEWHERE = """
import pickle, sys
job = pickle.load(open(sys.argv[1], "rb"))
assert not job.done() and job.state == "RUNNING", job
open(sys.argv[2], "w").close()
print(job.results())
"""


def test_a_handle_is_as_good_in_another_session(executor: submitit.AutoExecutor, tmp_path: Path) -> None:
    go, handle = tmp_path / "go", tmp_path / "job.pickle"

    def waits() -> int:
        until(go.exists)
        return submitit.JobEnvironment().global_rank

    job = executor.submit(waits)
    handle.write_bytes(pickle.dumps(job))
    until(lambda: job.state == "RUNNING")

    done = subprocess.run([sys.executable, "-c", ELSEWHERE, handle, go], capture_output=True, text=True, timeout=WAIT_S)

    assert (done.stdout, done.returncode) == ("[0, 1]\n", 0), done.stderr
    assert MpirunJob(tmp_path / "jobs", job.job_id, range(2)).results() == [0, 1]  # the folder and the id are enough


def noting(folder: Path) -> Callable[[], None]:
    def sleeps() -> None:
        (folder / f"pid.{os.getpid()}").touch()
        time.sleep(120)

    return sleeps


def ranks_of(folder: Path, count: int) -> list[int]:
    until(lambda: len(list(folder.glob("pid.*"))) == count)
    return [int(path.suffix[1:]) for path in folder.glob("pid.*")]


def test_a_cancelled_job_leaves_no_rank_behind(executor: submitit.AutoExecutor, tmp_path: Path) -> None:
    job = executor.submit(noting(tmp_path))
    pids = ranks_of(tmp_path, 2)

    job.cancel()

    assert not any(map(is_running, pids))
    assert (job.state, job.done()) == ("INTERRUPTED", True)
    assert isinstance(job.exception(), UncompletedJobError)
    job.cancel()  # a second time does nothing


def test_a_job_is_cancelled_with_its_handle_where_that_was_asked(alone: submitit.AutoExecutor, tmp_path: Path) -> None:
    job = alone.submit(noting(tmp_path)).cancel_at_deletion()
    (pid,) = ranks_of(tmp_path, 1)

    del job
    gc.collect()

    until(lambda: not is_running(pid))


def test_a_job_is_cancelled_while_it_sets_up(alone: submitit.AutoExecutor) -> None:
    alone.update_parameters(mpirun_setup=["sleep 120"])
    job = alone.submit(add, 1, 1)
    assert job.state == "PENDING"

    job.cancel()

    assert job.done()


# ---- the end of its time ---------------------------------------------------------------------------------------------


def counting(limit: int) -> Any:
    """Counts, and goes on where it was; each attempt waits for its warning until it has counted so far."""

    class Counting(helpers.Checkpointable):
        attempt = 1

        def __call__(self, label: str) -> str:
            end_s = time.monotonic() + 60
            while self.attempt < limit and time.monotonic() < end_s:
                time.sleep(0.02)
            return f"{label} after {self.attempt} attempts"

        def checkpoint(self, label: str) -> helpers.DelayedSubmission:
            self.attempt += 1
            return helpers.DelayedSubmission(self, label)

    return Counting()


@pytest.fixture(scope="module")
def timed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[MpirunJob, Path]]:
    """Jobs of 16 s that hear of it after 8, all at once, each with a folder of its own."""

    def ignores(folder: Path) -> None:
        import signal

        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        noting(folder)()

    def submitted(function: Any, *words: Any, timeouts: int = 3, tasks: int = 1) -> tuple[MpirunJob, Path]:
        folder = tmp_path_factory.mktemp("timed")
        executor = MpirunExecutor(folder / "jobs", max_num_timeout=timeouts)
        executor.update_parameters(timeout_min=16 / 60, signal_delay_s=8, tasks_per_node=tasks)
        return executor.submit(function, *words or (folder,)), folder  # type: ignore[return-value]

    return {
        "counts": submitted(counting(2), "counted", tasks=2),
        "counts on": submitted(counting(9), "counted", timeouts=0),
        "sleeps": submitted(time.sleep, 60),
        "ignores": submitted(ignores),
    }


Timed = dict[str, tuple[MpirunJob, Path]]


def test_a_job_whose_time_is_up_saves_and_goes_on_where_it_was(timed: Timed) -> None:
    job, _ = timed["counts"]

    assert job.results() == ["counted after 2 attempts"] * 2
    assert "(2 remaining timeouts)" in said(job.task(0))


def test_a_job_goes_on_only_so_often(timed: Timed) -> None:
    job, _ = timed["counts on"]

    assert "timed-out too many times" in str(job.exception())


def test_a_function_without_a_checkpoint_is_not_run_again(timed: Timed) -> None:
    job, _ = timed["sleeps"]

    assert "timed-out and not checkpointable" in str(job.exception())


def test_what_ignores_its_warning_is_killed_at_the_end_of_its_time(timed: Timed) -> None:
    job, folder = timed["ignores"]
    (pid,) = ranks_of(folder, 1)

    assert isinstance(job.exception(), UncompletedJobError)
    until(lambda: not is_running(pid))


def test_a_preempted_job_goes_on_without_counting_it_as_a_timeout(alone: submitit.AutoExecutor, tmp_path: Path) -> None:
    started = tmp_path / "started"

    class Waiting(helpers.Checkpointable):
        attempt = 1

        def __call__(self) -> int:
            started.touch()
            if self.attempt == 1:
                time.sleep(60)
            return self.attempt

        def __submitit_checkpoint__(self) -> helpers.DelayedSubmission:
            self.attempt += 1
            return helpers.DelayedSubmission(self)

    alone.update_parameters(timeout_min=60)
    job = alone.submit(Waiting())
    until(started.exists)

    job._interrupt()

    assert job.result() == 2
    assert "(3 remaining timeouts)" in said(job)


def test_a_sequence_of_functions_keeps_what_it_has_computed(alone: submitit.AutoExecutor) -> None:
    sequence = helpers.FunctionSequence(verbose=True)
    sequence.add(add, 1, 2)
    sequence.add(abs, -5)

    assert alone.submit(sequence).result() == [3, 5]


def said(job: submitit.Job[Any]) -> str:
    return (job.stdout() or "") + (job.stderr() or "")
