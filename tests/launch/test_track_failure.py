"""The rank that failed first, found in logs of every launcher among those that were stopped for it."""

from __future__ import annotations

import pytest

from hpcllm.launch.tracking.failure import first_failure
from hpcllm.launch.tracking.logs import errors
from hpcllm.run_directory import Run

SRUN = """\
0: step 1
3: Traceback (most recent call last):
3:   File "train.py", line 7, in <module>
3:     raise ValueError("boom")
3: ValueError: boom
srun: error: n2: task 3: Exited with exit code 1
srun: launch/slurm: _step_signal: Terminating StepId=7.0
0: slurmstepd-n1: error: *** STEP 7.0 ON n1 CANCELLED AT 2026-11-24T13:50:56 ***
0: Traceback (most recent call last):
0:   File "train.py", line 9, in <module>
0: KeyboardInterrupt
srun: error: n1: tasks 0-1: Terminated
srun: error: n2: task 2: Killed
"""
HPCLLM = """\
0: [train 3/10] loss 1.0
1: hpcllm: 30-train: rank 1 on n2: the disk is full
0: Abort(1) on node 0
srun: error: n1: task 0: Exited with exit code 1
"""
HYDRA = """\
[train 3/10] loss 1.0
Abort(13) on node 2 (rank 2 in comm 0): application called MPI_Abort(MPI_COMM_WORLD, 13) - process 2

===================================================================================
=   BAD TERMINATION OF ONE OF YOUR APPLICATION PROCESSES
=   PID 4711 RUNNING AT n2
=   EXIT CODE: 9
"""
MEMORY = """\
1: 3904 MiB
1: slurmstepd-n4: error: StepId=44.1 exceeded memory limit (4236021760 > 4194304000), being killed
srun: Job step aborted: Waiting up to 7 seconds for job step to finish.
0: slurmstepd-n3: error: *** STEP 44.1 ON n3 CANCELLED AT 2026-11-24T15:23:09 ***
srun: error: n3: task 0: Killed
srun: error: n4: task 1: Killed
"""
OPEN_MPI = """\
mpirun noticed that process rank 1 with PID 0 on node n2 exited on signal 9 (Killed).
"""
TORCHRUN = """\
Root Cause (first observed failure):
[0]:
  time      : 2026-11-24_10:00:00
  host      : n2
  rank      : 3 (local_rank: 1)
  exitcode  : 1 (pid: 4711)
"""


@pytest.mark.parametrize(
    ("log", "told"),
    [
        (SRUN, "rank 3 on n2: exit code 1: ValueError: boom"),
        ("srun: error: n2: tasks 1,3: Segmentation fault\n", "rank 1 on n2: Segmentation fault"),
        ("0: started\n1: last\nsrun: error: n2: task 1: Out Of Memory\n", "rank 1 on n2: Out Of Memory"),
        (MEMORY, "rank 1 on n4: exceeded memory limit (4236021760 > 4194304000)"),
        ("1: rank: line 4: exec: pyton: not found\nsrun: error: n2: task 1: Exited with exit code 127\n",
         "rank 1 on n2: exit code 127: rank: line 4: exec: pyton: not found"),
        (HYDRA, "rank 2: exit code 13: Abort(13) on node 2 (rank 2 in comm 0): application called "
         "MPI_Abort(MPI_COMM_WORLD, 13) - process 2"),
        (OPEN_MPI, "rank 1 on n2: signal 9 (Killed): " + OPEN_MPI.strip()),
        ("prterun noticed that process rank 1 with PID 31566 on node n2 exited on\nsignal 9 (Killed).\n",
         "rank 1 on n2: signal 9 (Killed): signal 9 (Killed)."),
        ("  Process name: [prterun-n1-4711@1,3]\n  Exit code:    2\n", "rank 3: exit code 2"),
        ("0: Abort(4) on node 0 (rank 0 in comm 496): Fatal error\nsrun: error: n1: task 0: Exited with exit code 143\n"
         "srun: error: Node failure on n2\n", "on n2: Node failure"),
        ("a\nTraceback (most recent call last):\n  File x\nKeyError: 'a'\n", "KeyError: 'a'"),
    ],
)  # fmt: skip
def test_the_first_rank_that_failed_is_told_by_each_launcher(log: str, told: str) -> None:
    assert str(first_failure(log)) == told


def test_a_stages_own_word_is_quoted() -> None:
    failure = first_failure(HPCLLM.split("srun")[0])

    assert failure is not None
    assert (failure.rank, failure.host) == (1, "n2")
    assert failure.quoted[-1].endswith("the disk is full")


def test_torchrun_names_the_rank() -> None:
    failure = first_failure(TORCHRUN)

    assert failure is not None
    assert failure.rank == 3


def test_the_whole_traceback_is_quoted_and_none_of_the_ranks_that_were_stopped() -> None:
    failure = first_failure(SRUN)

    assert failure is not None
    assert failure.quoted[0] == "Traceback (most recent call last):"
    assert failure.quoted[-1] == "ValueError: boom"
    assert not any("KeyboardInterrupt" in line for line in failure.quoted)


@pytest.mark.parametrize("log", ["", "0: all is well\n", "srun: error: n1: task 0: Exited with exit code 75\n"])
def test_a_log_without_a_failure_names_none_and_being_interrupted_is_none(log: str) -> None:
    assert first_failure(log) is None


def test_errors_shows_the_rank_and_what_slurm_said(demo_run: Run) -> None:
    demo_run.log("30-train", 1).write_text(SRUN)
    demo_run.slurm_log("30-train").write_text("slurmstepd: error: *** JOB 7 ON n1 CANCELLED\n")

    said = errors(demo_run, "train")

    assert "rank 3 on n2: exit code 1: ValueError: boom\n  Traceback" in said
    assert said.endswith("CANCELLED\n")
    assert "KeyboardInterrupt" not in said
