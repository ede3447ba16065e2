"""The scripts, whole, for every shipped profile. `make golden` accepts a change; read `git diff tests/golden` first."""

from __future__ import annotations

import functools
import shutil
import subprocess
from pathlib import Path

import pytest
from shipped_jobs import JOBS, demo, described

from hpcllm.cluster.profile import Profile, load_profile, shipped_profiles
from hpcllm.cluster.user import User
from hpcllm.derive.layout import layout
from hpcllm.derive.settings import settings
from hpcllm.job.spec import AnyJob, CommandJob, Job, absolute, load_job
from hpcllm.launch.pipeline import find_stage, stages
from hpcllm.launch.scripts.dag_scripts import run_local_sh, submit_sh
from hpcllm.launch.scripts.lifecycle import LIFECYCLE
from hpcllm.launch.scripts.script import Script
from hpcllm.plan.fit import changed
from hpcllm.plan.queue import qos_names
from hpcllm.plan.search import search
from hpcllm.run_directory import Run

GOLDEN = Path(__file__).parents[1] / "golden"
RUN = Run(Path("/scratch/runs/first run"))
SMALL = ("slurm-lab", "local")  # too small for a GPT-2: they train the demo
CLUSTERS = sorted(path.stem for path in shipped_profiles().glob("*.yaml") if path.stem != "template")
MINE = CommandJob.model_validate(
    {
        "name": "my trainer",
        "command": ["python", "train.py", "--data", "two words", "$(not run)"],
        "resources": {"time": "30m"},
        "environment": {"GREETING": "it's 5 o'clock"},
    }
)


def profile_named(name: str) -> Profile:
    if name == "local":
        return described("local", "mpirun")
    return load_profile(shipped_profiles() / f"{name}.yaml")


def training(name: str) -> Job:
    """An hour of GPT-2 on two nodes."""
    if name in SMALL:
        return demo()
    gpt2 = absolute(load_job(JOBS / "gpt2-124m.yaml"), JOBS)
    return changed(gpt2, {"resources.nodes": 2, "resources.time_s": 3600.0})


def my_own(name: str) -> CommandJob:
    return changed(MINE, {"resources.nodes": 1 if name == "local" else 2})


BY_REQUEST = {"roihu": {"slurm.partition": "gpularge"}}  # its one partition for more than a node


def as_the_site_wants(profile: Profile, job: AnyJob) -> AnyJob:
    """With an account and a QOS where the site refuses jobs without, and a partition where it has to be named."""
    site = profile.scheduler
    account = {"slurm.account": "research"} if site.account_required else {}
    qos = {"slurm.qos": qos_names(profile, None)[0]} if site.qos_required else {}
    return changed(job, {**account, **qos, **BY_REQUEST.get(profile.name, {})})


def script_of(name: str, job: AnyJob, stage_name: str) -> Script:
    profile = profile_named(name)
    job = as_the_site_wants(profile, job)
    plan = search(profile, job) if isinstance(job, Job) else None
    stage = find_stage(job, stage_name)
    derived = settings(profile, job, layout(profile, job, plan, stage), User(), "/opt/hpcllm/bin/python")
    cwd = str(RUN.root) if isinstance(job, Job) else "/home/me/my code"
    return Script(RUN, stage, job, profile, derived, cwd)


@functools.cache
def texts() -> dict[str, str]:
    """Every golden file by its name."""
    found = {}
    for name in (*CLUSTERS, "local"):
        for script in (script_of(name, training(name), "train"), script_of(name, my_own(name), "command")):
            found[f"{name}-{script.path.name}"] = script.text()
    rows = stages(demo())
    found["submit.sh"] = submit_sh(RUN, rows)
    found["run-local.sh"] = run_local_sh(RUN, [RUN.script(stage.id).name for stage in rows])
    return found


@pytest.mark.parametrize("name", texts())
def test_a_script_is_as_it_was_accepted(name: str, request: pytest.FixtureRequest) -> None:
    path, text = GOLDEN / name, texts()[name]
    if request.config.getoption("--accept-golden", default=False):
        path.write_text(text, encoding="utf-8")

    assert path.exists(), f"{path} is missing; `make golden` writes it"
    assert text == path.read_text(encoding="utf-8"), "changed; `make golden` accepts it"


def test_no_golden_script_is_left_over() -> None:
    assert {path.name for path in GOLDEN.iterdir()} == set(texts())


@pytest.mark.parametrize("name", [*texts(), LIFECYCLE.name])
def test_bash_and_shellcheck_find_nothing(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text(texts().get(name) or LIFECYCLE.read_text(encoding="utf-8"), encoding="utf-8")

    subprocess.run(["bash", "-n", path], check=True)
    if shutil.which("shellcheck"):
        # what a site sources is not here to be read
        checked = subprocess.run(
            ["shellcheck", "--shell=bash", "--exclude=SC1091", path], capture_output=True, text=True
        )
        assert checked.returncode == 0, checked.stdout
