"""A stage that needs more time than one job may have, where the site starts no job again."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from shipped_jobs import JOBS, demo, described

from hpcllm.cluster.profile import Profile
from hpcllm.job.spec import CommandJob
from hpcllm.launch.bad_nodes import remember
from hpcllm.launch.render import render
from hpcllm.launch.submission.chain import Link, dependency, rest_of_chain
from hpcllm.launch.submission.submit import commands, submit
from hpcllm.launch.tracking.slurm import SlurmJob, ask
from hpcllm.launch.tracking.states import State
from hpcllm.launch.tracking.track import cancel, status
from hpcllm.plan.search import search
from hpcllm.run_directory import Run, read_json, write_json

Fake = Callable[[str, str], Path]


@pytest.fixture
def chained(tmp_path: Path) -> Callable[..., Run]:
    """chained(3): a run of a command as so many jobs, where the site starts none again."""

    def make(jobs: int, requeue: bool = False, **slurm: Any) -> Run:
        data = described().model_dump(mode="json", by_alias=True, exclude_defaults=True)
        data["scheduler"]["requeue"] = requeue
        words = {"name": "mine", "command": ["true"], "slurm": {"chained_jobs": jobs, **slurm}}
        job = CommandJob.model_validate(words)
        return render(Profile.model_validate(data), None, job, None, None, tmp_path / "run", cwd=tmp_path)

    return make


def in_queue(fake_slurm: Fake, **states: tuple[str, object]) -> None:
    lines = [
        f"echo '{job_id.strip('_')}|{state}|50|{start}|N/A||0|None|0|'" for job_id, (state, start) in states.items()
    ]
    fake_slurm("squeue", f"[[ $* == *Command* ]] && exit 0\n{chr(10).join(lines) or 'true'}")
    fake_slurm("sacct", "")


def test_each_job_waits_for_all_before_it_to_end_without_success_and_one_is_to_spare(
    chained: Callable[..., Run],
) -> None:
    run = chained(2)

    found = commands(run)["command"]

    waits = [next((word for word in words if word.startswith("--dependency")), "") for words in found]
    earlier = "--dependency=afternotok:JOB_1_OF_command"
    assert waits == ["", earlier, f"{earlier}:JOB_2_OF_command"]
    assert [words[-2:] for words in found] == [["1", "3"], ["2", "3"], ["3", "3"]]


def test_a_training_is_as_many_jobs_as_its_plan_says_and_other_stages_are_one(tmp_path: Path) -> None:
    data = described().model_dump(mode="json", by_alias=True, exclude_defaults=True)
    profile, job = Profile.model_validate({**data, "scheduler": {**data["scheduler"], "requeue": False}}), demo()
    plan = replace(search(profile, job), chained_jobs=4)

    found = commands(render(profile, None, job, JOBS / "demo.yaml", plan, tmp_path / "run"))

    assert {name: len(lines) for name, lines in found.items() if len(lines) > 1} == {"train": 5}
    assert found["evaluate"][0][2] == "--dependency=" + "?".join(f"afterok:JOB_{i}_OF_train" for i in range(1, 6))


@pytest.mark.parametrize("slurm", [{"requeue": True}, {"max_requeues": 0}])
def test_no_chain_where_a_job_starts_itself_again_or_never(chained: Callable[..., Run], slurm: dict[str, Any]) -> None:
    run = chained(3, **slurm)

    assert len(commands(run)["command"]) == 1


def test_submit_and_submit_sh_note_a_chain_as_one(chained: Callable[..., Run], fake_slurm: Fake) -> None:
    run = chained(2)
    calls = fake_slurm("sbatch", '[[ $1 == --test-only ]] || grep -c parsable "$(dirname "$0")/../sbatch.calls"')
    in_queue(fake_slurm)

    assert submit(run) == {"command": "1:2:3"}
    by_submit = [call for call in calls.read_text().splitlines() if "parsable" in call]
    run.jobs_json.unlink()
    calls.unlink()
    subprocess.run(["bash", run.submit_sh], check=True)

    assert calls.read_text().splitlines() == by_submit
    assert read_json(run.jobs_json) == {"command": ["1:2:3"]}


@pytest.mark.parametrize(
    ("first", "second", "third", "shown"),
    [
        (("PENDING", "N/A"), ("PENDING", "N/A"), ("PENDING", "N/A"), ("1", "pending")),
        (("FAILED", 60), ("RUNNING", 70), ("PENDING", "N/A"), ("2", "running")),
        (("FAILED", 60), ("COMPLETED", 70), ("PENDING", "N/A"), ("2", "done")),
        (("FAILED", 60), ("TIMEOUT", 70), ("CANCELLED", "N/A"), ("2", "timeout")),
        (("CANCELLED", "N/A"), ("CANCELLED", "N/A"), ("CANCELLED", "N/A"), ("3", "cancelled")),
    ],
)
def test_a_chain_is_as_far_as_the_job_that_says_most(
    fake_slurm: Fake, first: Any, second: Any, third: Any, shown: tuple[str, State]
) -> None:
    in_queue(fake_slurm, _1=first, _2=second, _3=third)

    found: SlurmJob = ask(["1:2:3"]).jobs["1:2:3"]

    assert (found.job_id, found.state) == shown


def test_what_comes_after_waits_for_whichever_job_succeeds() -> None:
    assert dependency(["1:2:3"], Link()) == "afterok:1?afterok:2?afterok:3"
    assert dependency(["7", "8"], Link()) == "afterok:7:8"
    assert dependency(["1:2", "8"], Link()) == "afterok:8,afterany:2"  # Slurm has no `or` beside an `and`
    assert dependency([], Link()) == ""


def test_cancel_begins_at_the_end_of_a_chain(chained: Callable[..., Run], fake_slurm: Fake) -> None:
    run = chained(2)
    write_json(run.jobs_json, {"command": ["5", "6:7:8"]})
    in_queue(fake_slurm, _6=("FAILED", 60), _7=("RUNNING", 70), _8=("PENDING", "N/A"))
    cancelled = fake_slurm("scancel", "")

    assert status(run)[0].job_id == "7"
    assert cancel(run) == "cancelled command"
    assert cancelled.read_text().split() == ["8", "7"]
    assert rest_of_chain("9", ["5", "6:7:8"]) == ["9"]


def test_a_failed_job_ends_its_chain_and_a_new_submission_begins_anew(
    chained: Callable[..., Run], fake_slurm: Fake
) -> None:
    run = chained(2)
    in_queue(fake_slurm)
    fake_slurm("scontrol", "echo n1")
    fake_slurm("srun", 'exit "$ENDS_WITH"')

    def job(*words: str, ends_with: int) -> int:
        inside = {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "n1", "ENDS_WITH": str(ends_with)}
        script = ["bash", str(run.script("30-command")), *words]
        return subprocess.run(script, env={**os.environ, **inside}, capture_output=True).returncode

    assert job("1", "3", ends_with=75) == 75
    assert job("2", "3", ends_with=9) == 9
    assert job("3", "3", ends_with=0) == 1  # there is nothing to go on with
    assert job("1", "3", ends_with=0) == 0
    assert job("3", "3", ends_with=75) == 1  # no job is left that goes on


def test_the_jobs_of_a_chain_that_wait_leave_out_a_node_that_the_first_found_bad(
    chained: Callable[..., Run], fake_slurm: Fake
) -> None:
    run = chained(2)
    remember(run, ["n2"], "slow", "30-command.1")
    script = run.script("30-command")
    queued = f"7 {script} 1 3\\n8 {script} 2 3\\n9 {script} 3 3\\n10 /other/30-command.sbatch 2 3\\n"
    fake_slurm("squeue", f"case $* in *PENDING*) printf '{queued}' | tail -n +2;; *%x*) echo 'RUNNING n7';; esac")
    fake_slurm("sbatch", "")
    fake_slurm("srun", "exit 75")
    calls = fake_slurm("scontrol", "")
    inside = {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "n2"}

    subprocess.run(["bash", str(script), "1", "3"], env={**os.environ, **inside}, capture_output=True, check=False)

    updated = [call for call in calls.read_text().splitlines() if call.startswith("update")]
    assert updated == ["update JobId=8 ExcNodeList=n2,n7", "update JobId=9 ExcNodeList=n2,n7"]
