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
from collections.abc import Iterator
from pathlib import Path

import pytest
from lab_cluster import LAB, Lab

from hpcllm.cluster.profile import load_profile, shipped_profiles

NEEDED = ("slurmctld", "slurmd", "slurmdbd", "mariadbd", "ip", "nsenter", "tc")


def missing() -> str | None:
    """What stands in the way of a Slurm here."""
    if os.geteuid() != 0:
        return "the Slurm lab needs root (network namespaces)"
    absent = [name for name in NEEDED if not shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")]
    packages = "apt-get install slurm-wlm slurmdbd mariadb-server iproute2"
    return f"the Slurm lab needs {', '.join(absent)} ({packages})" if absent else None


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
            patch.setenv("SLURM_CONF", str(_started(folder)))
            yield lab
        finally:
            subprocess.run([LAB / "stop", folder], check=True, capture_output=True, timeout=60)


def _started(folder: Path) -> Path:
    """SLURM_CONF of a lab in that folder, beside whatever other labs run on this machine."""
    for attempt in range(5):
        number = (os.getpid() + attempt) % 100
        env = {**os.environ, "BASE_PORT": str(28000 + 30 * number), "SUBNET": f"10.90.{number}"}
        started = subprocess.run([LAB / "start", folder], capture_output=True, text=True, env=env, timeout=90)
        if started.returncode == 0:
            return folder / "slurm.conf"
        if "runs already" not in started.stderr:
            break
    raise AssertionError(f"the lab did not start: {started.stderr}")


@pytest.fixture
def quiet_queue(lab: Lab) -> Iterator[None]:
    """Nothing of this test stays in the queue."""
    yield
    subprocess.run(["scancel", "--user=root"], check=False, timeout=30)
