"""Runs a file of tests on MPI ranks: each rank runs the whole file by a pytest of its own.

The files stand in over_ranks/ (named ranks_*.py, so that plain pytest leaves them alone). By hand:

    mpirun -n 3 python -m pytest -p no:cacheprovider tests/mpi/over_ranks/ranks_collectives.py
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

FILES = Path(__file__).parent / "over_ranks"


@pytest.fixture(scope="session")
def mpirun() -> Callable[..., subprocess.CompletedProcess[str]]:
    """mpirun(ranks, *words): start python with these words on so many ranks, one thread each."""
    beside = Path(sys.executable).with_name("mpirun")
    launcher = str(beside) if beside.exists() else shutil.which("mpirun")
    if launcher is None:
        pytest.skip("there is no mpirun")

    def run(ranks: int, *words: str | Path, timeout_s: float = 150) -> subprocess.CompletedProcess[str]:
        command = [launcher, "-n", str(ranks), sys.executable, *map(str, words)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout_s)

    return run


@pytest.fixture(scope="session")
def passes_on(mpirun: Callable[..., subprocess.CompletedProcess[str]]) -> Callable[..., None]:
    """passes_on(ranks, *files): every test of these files of over_ranks/ passes on every one of so many ranks."""

    def check(ranks: int, *files: str) -> None:
        paths = [FILES / file for file in files]
        ended = mpirun(ranks, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *paths)
        assert ended.returncode == 0, ended.stdout + ended.stderr

    return check
