"""Two trainings that are disturbed on the lab, and must end with the weights of an undisturbed run, to the bit.

One is hpcllm's own, the other a script that knows nothing of it (own_trainer.py); each on two nodes. The
suite has them short, benchmarks/lifecycle.py long.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import yaml
from lab_cluster import Lab, said

from hpcllm.job.spec import Job
from hpcllm.launch.render import render
from hpcllm.launch.submission.submit import submit
from hpcllm.launch.tracking.logs import log_files
from hpcllm.launch.tracking.track import StageStatus, status
from hpcllm.plan.search import search
from hpcllm.run_directory import Run, read_json

OWN_TRAINER = Path(__file__).with_name("own_trainer.py")
JOB = """
name: disturbed
data:
  text: {files: ["stdlib:json/*.py"]}
  split: {validation: 0%, test: 10%}
  tokenizer: {kind: byte}
model: {layers: 1, width: 32, heads: 2, feed_forward: 64, context: 64}
train:
  steps: STEPS
  global_batch: 4
  precision: fp32
  schedule: {warmup_steps: 2}
  checkpoint: {every_steps: 10}
deploy: {quantize: none}
"""


@dataclass(frozen=True)
class Training:
    """One of the two, by its run directory."""

    run: Run
    stage: str
    """Its name in the run."""
    weights: Path
    steps: int

    @property
    def stage_id(self) -> str:
        """Its name in the names of files."""
        return f"30-{self.stage}"

    def now(self) -> StageStatus:
        """What status says of it."""
        return next(found for found in status(self.run) if found.stage == self.stage)

    def hosts(self) -> list[str]:
        """Where its latest attempt runs or ran, by its own record."""
        hosts: list[str] = read_json(self.run.state_json(self.stage_id))["hosts"]
        return hosts

    def fingerprint(self) -> str:
        """Of its final weights."""
        return hashlib.sha256(self.weights.read_bytes()).hexdigest()

    def log(self) -> str:
        """All attempts."""
        return said(self.run)

    def wait(self, wanted: Callable[[], object], timeout_s: float) -> None:
        """Raises AssertionError with the logs where it does not come true in time."""
        end_s = time.monotonic() + timeout_s
        while not wanted():
            assert time.monotonic() < end_s, f"{self.stage}: {self.now()}\n{self.log()}"
            time.sleep(0.2)

    def trains(self) -> bool:
        """Whether its latest attempt has taken steps: `0: [train 10/40] …`, `0: step 5 loss …`."""
        logs = log_files(self.run, self.stage_id)
        lines = logs[-1].read_text().splitlines() if logs else []
        return any("[train " in line or line.startswith("0: step ") for line in lines)

    def wait_until_done(self, timeout_s: float) -> StageStatus:
        """Until it is done, whatever else there is of its run; a failure is told at once."""
        self.wait(lambda: self.now().state in ("done", "failed", "cancelled", "timeout", "node failure"), timeout_s)
        found = self.now()
        assert found.state == "done", f"{found}\n{self.log()}"
        return found


def own(lab: Lab, folder: Path, prepared: Run | None, steps: int, **described: object) -> Training:
    """The pipeline's training; its tokens are made here, or taken over from a run that has them."""
    job = Job.model_validate({**yaml.safe_load(JOB.replace("STEPS", str(steps))), **_resources(described)})
    run = render(lab.profile, lab.profile_path, job, None, search(lab.profile, job), folder / "own")
    for stage_id in ("10-tokenizer", "20-shard"):
        if prepared:
            run.state.mkdir(exist_ok=True)
            shutil.copy(prepared.state_json(stage_id), run.state_json(stage_id))
        else:
            _here(run.script(stage_id))
    if prepared:
        shutil.copytree(prepared.data, run.data)
    return Training(run, "train", run.checkpoint(steps) / "model.safetensors", steps)


def _here(script: Path) -> None:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    env = {**os.environ, "PATH": path}
    subprocess.run(["bash", script], check=True, capture_output=True, timeout=120, env=env)


def theirs(lab: Lab, folder: Path, steps: int, **described: object) -> Training:
    """The script that knows nothing of hpcllm."""
    folder.mkdir(exist_ok=True)
    words = [sys.executable, str(OWN_TRAINER), str(folder), str(steps)]
    return Training(
        lab.command(folder / "theirs", words, **_resources(described)), "command", folder / "weights.pt", steps
    )


def _resources(described: dict[str, object]) -> dict[str, object]:
    return {"resources": {"nodes": 2, "ranks_per_node": 1, "time": described.pop("time", "5m")}, **described}


def start(*trainings: Training) -> None:
    """To Slurm, with what comes before and after them."""
    for training in trainings:
        submit(training.run)


# ---- the disturbances ------------------------------------------------------------------------------------------------


def warn(*trainings: Training) -> None:
    """What Slurm does before the time limit, by the same signal to the same process, as soon as they train."""
    for training in trainings:
        training.wait(training.trains, 60)
        subprocess.run(["scancel", "--batch", "--signal=USR2", str(training.now().job_id)], check=True, timeout=30)


def preempt(*trainings: Training) -> None:
    """A job of the urgent partition takes all nodes as soon as they train."""
    for training in trainings:
        training.wait(training.trains, 60)
    urgent = ["sbatch", "--wait", "--partition=urgent", "--nodes=4", "--exclusive", "--output=/dev/null", "--wrap=true"]
    subprocess.run(urgent, check=True, capture_output=True, timeout=60)


def lose_node(lab: Lab, training: Training) -> str:
    """The last node of a training dies, and stays so. Gives its name."""
    training.wait(training.trains, 60)
    lost = training.hosts()[-1]
    lab.node("kill", lost)
    return lost
