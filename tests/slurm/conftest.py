"""A real Slurm of four nodes on this machine, for the session (lab/start says what it is). Needs root and Slurm.

Without them the tests are skipped; with HPCLLM_REQUIRE_SLURM=1, as in CI, they fail instead. By hand:

    eval "$(tests/slurm/lab/start /tmp/lab)"
    hpcllm submit jobs/demo.yaml --cluster slurm-lab
    tests/slurm/lab/stop /tmp/lab
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from lab_cluster import Lab, missing, started, stop

from hpcllm.cluster.profile import load_profile, shipped_profiles


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """The cluster, started once."""
    reason = missing()
    if reason and os.environ.get("HPCLLM_REQUIRE_SLURM"):
        pytest.fail(reason)
    if reason:
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("lab")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{os.environ['PATH']}:/usr/sbin:/sbin")
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("config")))
        path = shipped_profiles() / "slurm-lab.yaml"
        lab = Lab(folder, load_profile(path), path)
        try:
            patch.setenv("SLURM_CONF", str(started(folder)))
            yield lab
        finally:
            stop(folder)


@pytest.fixture
def quiet_queue(lab: Lab) -> Iterator[None]:
    """Nothing of this test stays in the queue."""
    yield
    subprocess.run(["scancel", "--user=root"], check=False, timeout=30)


LOST = "mpi/pmi2: invalid client request"


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, object, object]:
    """A test is done once more where slurmstepd says that its plugin pmi2 cut a message of MPI_Init (docs/LOG.md).

    Scripts try such a start again, but a test does not wait that long. Any other failure counts at once.
    """
    try:
        return (yield)
    except (AssertionError, subprocess.SubprocessError):
        folder = pyfuncitem.funcargs.get("tmp_path")
        if not isinstance(folder, Path) or not _was_cut(folder):
            raise
    subprocess.run(["scancel", "--user=root"], check=False, timeout=30)
    for resolved in list(folder.rglob("resolved.json")):
        shutil.rmtree(resolved.parent, ignore_errors=True)
    names = pyfuncitem._fixtureinfo.argnames
    pyfuncitem.obj(**{name: pyfuncitem.funcargs[name] for name in names})
    return True


def _was_cut(folder: Path) -> bool:
    return any(LOST in log.read_text(errors="replace") for log in folder.rglob("logs/*.log"))
