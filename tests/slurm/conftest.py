"""A real Slurm of four nodes on this machine, for the session (lab/start says what it is). Needs root and Slurm.

Without them the tests are skipped; with HPCLLM_REQUIRE_SLURM=1, as in CI, they fail instead. By hand:

    eval "$(tests/slurm/lab/start /tmp/lab)"
    hpcllm submit jobs/demo.yaml --cluster slurm-lab
    tests/slurm/lab/stop /tmp/lab
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator

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
