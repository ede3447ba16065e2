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
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from hpcllm.cluster.profile import Profile, load_profile, shipped_profiles
from hpcllm.job.spec import CommandJob
from hpcllm.launch.render import render
from hpcllm.launch.track import StageStatus, status
from hpcllm.run_directory import Run

LAB = Path(__file__).parent / "lab"
NEEDED = ("slurmctld", "slurmd", "slurmdbd", "mariadbd", "ip", "nsenter", "tc")
OVER = ("done", "failed", "interrupted", "cancelled", "timeout", "out of memory", "node failure")


def missing() -> str | None:
    """What stands in the way of a Slurm here."""
    if os.geteuid() != 0:
        return "the Slurm lab needs root (network namespaces)"
    absent = [name for name in NEEDED if not shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")]
    packages = "apt-get install slurm-wlm slurmdbd mariadb-server iproute2"
    return f"the Slurm lab needs {', '.join(absent)} ({packages})" if absent else None


@dataclass(frozen=True)
class Lab:
    """The cluster that runs."""

    folder: Path
    profile: Profile
    profile_path: Path

    def node(self, *words: str) -> None:
        """One of `lab/node`'s verbs: lab.node("link", "n2", "200mbit")."""
        subprocess.run([LAB / "node", self.folder, *words], check=True, capture_output=True, timeout=60)

    def hpcllm(
        self, *words: str | Path, cwd: Path | None = None, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """The command line, as on a login node."""
        command = [sys.executable, "-m", "hpcllm", *map(str, words)]
        env = {**os.environ, **environment}
        return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=env, timeout=120)

    def command(self, out: Path, words: Sequence[str], check_nodes: bool = False, **described: object) -> Run:
        """A rendered command of the user's. Most tests leave the preflight out, which has tests of its own."""
        job = CommandJob.model_validate({"name": out.name, "command": list(words), **described})
        run = render(self.profile, self.profile_path, job, None, None, out, cwd=out.parent)
        if not check_nodes:
            script = run.script("30-command")
            script.write_text("".join(x for x in script.read_text().splitlines(True) if "hpcllm preflight" not in x))
        return run

    def wait(self, run: Run, timeout_s: float = 120) -> dict[str, StageStatus]:
        """The stages, when all are over."""
        end_s = time.monotonic() + timeout_s
        while time.monotonic() < end_s:
            found = {stage.stage: stage for stage in status(run)}
            if all(stage.state in OVER for stage in found.values()):
                return found
            time.sleep(0.5)
        raise AssertionError(f"not over after {timeout_s} s: {found}; {said(run)}")


def said(run: Run) -> str:
    """Every log of a run, for a failing test to show."""
    return "\n".join(f"==> {path.name}\n{path.read_text()}" for path in sorted(run.logs.glob("*.log")))


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
