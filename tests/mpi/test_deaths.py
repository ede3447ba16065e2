"""A rank is killed in the middle of a torch program on the mpi4py backend: mpirun ends it, and says where it was."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from hpcllm.launch.tracking.failure import first_failure

pytestmark = pytest.mark.mpi
TRAINER = Path(__file__).with_name("mpi_trainer.py")


def test_a_killed_rank_ends_the_others_and_is_named(
    mpirun: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    ended = mpirun(2, TRAINER, tmp_path, "1", timeout_s=90)

    assert ended.returncode != 0
    failure = first_failure(ended.stdout + ended.stderr)
    assert failure is not None, ended.stdout + ended.stderr
    assert failure.host == os.uname().nodename
    assert "9" in failure.how  # exit code 9 (Hydra), signal 9 (Open MPI)
