"""The Slurm of lab/ as the tests speak to it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hpcllm.cluster.profile import Profile
from hpcllm.job.spec import CommandJob
from hpcllm.launch.render import render
from hpcllm.launch.tracking.track import StageStatus, status
from hpcllm.run_directory import Run

LAB = Path(__file__).parent / "lab"
NEEDED = ("slurmctld", "slurmd", "slurmdbd", "mariadbd", "ip", "nsenter", "tc")
OVER = ("done", "failed", "interrupted", "cancelled", "timeout", "out of memory", "node failure")


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


# ---- starting one ----------------------------------------------------------------------------------------------------


def missing() -> str | None:
    """What stands in the way of a Slurm here."""
    if os.geteuid() != 0:
        return "the Slurm lab needs root (network namespaces)"
    absent = [name for name in NEEDED if not shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")]
    packages = "apt-get install slurm-wlm slurmdbd mariadb-server iproute2"
    return f"the Slurm lab needs {', '.join(absent)} ({packages})" if absent else None


def started(folder: Path, **settings: str) -> Path:
    """SLURM_CONF of a lab in that folder, beside whatever other labs run on this machine."""
    for attempt in range(10):
        number = (os.getpid() + attempt) % 100
        env = {**os.environ, "BASE_PORT": str(28000 + 30 * number), "SUBNET": f"10.90.{number}", **settings}
        start = subprocess.run([LAB / "start", folder], capture_output=True, text=True, env=env, timeout=200)
        if start.returncode == 0:
            return folder / "slurm.conf"
        if "runs already" not in start.stderr:
            break
    raise AssertionError(f"the lab did not start: {start.stderr}")


def stop(folder: Path) -> None:
    """Stop the lab in that folder, or what is left of it."""
    subprocess.run([LAB / "stop", folder], check=True, capture_output=True, timeout=60)
