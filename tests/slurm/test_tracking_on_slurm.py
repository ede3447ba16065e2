"""What status, logs and cancel say on a real Slurm: by each source alone, without a controller, at every end."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from lab_cluster import Lab, said

from hpcllm.launch.submission.submit import submit
from hpcllm.launch.tracking.efficiency import efficiency
from hpcllm.launch.tracking.follow import follow
from hpcllm.launch.tracking.logs import errors
from hpcllm.launch.tracking.slurm import ask
from hpcllm.launch.tracking.track import StageStatus, cancel, look
from hpcllm.run_directory import Run, write_json

pytestmark = [pytest.mark.slurm, pytest.mark.usefixtures("quiet_queue")]

SOURCES = ("squeue", "sacct", "scontrol")
Disable = Callable[..., None]


@pytest.fixture
def disable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Disable:
    """disable("sacct"): first on PATH stands one that fails. disable() again: all are as they were."""
    folder = tmp_path / "broken"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin:/usr/sbin:/sbin")

    def only(*names: str) -> None:
        for name in SOURCES:
            (folder / name).unlink(missing_ok=True)
        for name in names:
            (folder / name).write_text(f"#!/bin/sh\necho '{name}: error: not for you' >&2\nexit 1\n")
            (folder / name).chmod(0o755)

    return only


def on(nodes: int, **slurm: object) -> dict[str, object]:
    return {"resources": {"nodes": nodes, "ranks_per_node": 1, "time": "2m"}, "slurm": slurm}


def now(run: Run) -> StageStatus:
    return look(run).stages[0]


def until(run: Run, state: str, timeout_s: float = 60) -> StageStatus:
    end_s = time.monotonic() + timeout_s
    while (found := now(run)).state != state:
        assert time.monotonic() < end_s, f"never {state}: {found}\n{said(run)}"
        time.sleep(0.3)
    return found


@pytest.mark.parametrize("alone", [*SOURCES, "state"])
def test_each_source_alone_tells_that_a_job_runs_and_that_it_is_done(
    lab: Lab, tmp_path: Path, disable: Disable, alone: str
) -> None:
    run = lab.command(tmp_path / "run", ["bash", "-c", "while [[ ! -e go ]]; do sleep 0.2; done"], **on(1))
    submit(run)
    until(run, "running")
    time.sleep(2)  # accounting hears of a start some time after squeue

    disable(*(source for source in SOURCES if source != alone))

    assert now(run).state == "running"
    assert bool(look(run).silence) == (alone in ("sacct", "state"))
    (tmp_path / "go").touch()
    until(run, "done")


def test_without_a_controller_status_answers_at_once_and_the_job_goes_on(lab: Lab, tmp_path: Path) -> None:
    program = "touch started; while [[ ! -e go ]]; do sleep 0.2; done"
    run = lab.command(tmp_path / "run", ["bash", "-c", program], **on(1))
    submit(run)
    while not (tmp_path / "started").exists():
        time.sleep(0.2)
    try:
        lab.node("controller", "stop")
        start_s = time.monotonic()
        shown = lab.hpcllm("status", run.root, COLUMNS="160")
        took_s = time.monotonic() - start_s
    finally:
        lab.node("controller", "start")
        _until_idle_nodes()

    assert shown.returncode == 0
    assert "running" in shown.stdout
    assert "Slurm does not answer (" in shown.stdout
    assert "Traceback" not in shown.stderr
    assert took_s < 12
    (tmp_path / "go").touch()
    assert until(run, "done").reason == ""
    assert look(run).silence == ""


def test_the_rank_that_failed_first_is_named_with_its_error(lab: Lab, tmp_path: Path) -> None:
    program = "import os, time\nif os.environ['RANK'] == '1': raise ValueError('boom')\ntime.sleep(30)"
    run = lab.command(tmp_path / "run", [sys.executable, "-c", program], **on(2))
    submit(run)

    found = until(run, "failed")

    host = now(run).reason.split(" on ")[1].split(":")[0]
    assert found.reason == f"rank 1 on {host}: exit code 1: ValueError: boom"
    assert "Traceback (most recent call last):" in errors(run)
    assert "logs --errors" in found.advice


def test_a_job_over_its_memory_ran_out_of_memory(lab: Lab, tmp_path: Path) -> None:
    program = "import time; hog = b'x' * (400 << 20); time.sleep(20)"
    run = lab.command(tmp_path / "run", [sys.executable, "-c", program], **on(1, directives={"mem": "150M"}))
    submit(run)

    assert "fewer ranks on a node" in until(run, "out of memory").advice


def test_a_cancelled_job_says_by_whom(lab: Lab, tmp_path: Path) -> None:
    run = lab.command(tmp_path / "run", ["sleep", "60"], **on(1))
    submit(run)
    until(run, "running")

    assert cancel(run, "command") == "cancelled command"

    until(run, "cancelled")
    end_s = time.monotonic() + 20
    while now(run).reason != "by root" and time.monotonic() < end_s:  # accounting knows, and is behind
        time.sleep(0.5)
    assert now(run).reason == "by root"


def test_a_held_job_is_stuck_and_what_lets_it_go_on_is_said(lab: Lab, tmp_path: Path) -> None:
    run = lab.command(tmp_path / "run", ["true"], **on(1, directives={"hold": ""}))
    job_id = submit(run)["command"]

    found = until(run, "stuck")

    assert found.reason == "JobHeldUser: held by its user"
    assert f"scontrol release {job_id}" in found.advice
    assert submit(run) == {}  # it is queued all the same
    subprocess.run(["scontrol", "release", job_id], check=True)
    until(run, "done")


def test_a_job_whose_dependency_never_comes_true_is_stuck(lab: Lab, tmp_path: Path) -> None:
    run = lab.command(tmp_path / "run", ["true"], **on(1))
    first = _sbatch("--wrap", "exit 1", "--nodes=1", "--output=/dev/null")
    job_id = _sbatch(f"--dependency=afterok:{first}", str(run.script("30-command")))
    write_json(run.jobs_json, {"command": [job_id]})

    assert until(run, "stuck").reason == "DependencyNeverSatisfied: a job that it needs did not end well"


def test_a_job_that_waits_for_nodes_says_when_it_is_expected_to_begin(lab: Lab, tmp_path: Path) -> None:
    _sbatch("--exclusive", "--nodes=4", "--time=2", "--wrap", "sleep 60", "--output=/dev/null")
    run = lab.command(tmp_path / "run", ["true"], **on(4))
    submit(run)

    found = until(run, "pending")
    end_s = time.monotonic() + 30
    while not now(run).expected_start and time.monotonic() < end_s:  # backfill looks every second or so
        time.sleep(0.5)

    assert now(run).reason.startswith(("Resources: ", "Priority: ")), found
    assert 0 < (now(run).expected_start or 0) - time.time() < 180


def test_a_preempted_job_tells_that_it_was_started_again_and_accounting_what_became_of_each_start(
    lab: Lab, tmp_path: Path
) -> None:
    run = lab.command(
        tmp_path / "run", ["bash", "-c", "[[ -e again ]] || { touch again; sleep 60; }; sleep 3"], **on(4)
    )
    submit(run)
    until(run, "running")
    while not (tmp_path / "again").exists():
        time.sleep(0.2)

    _sbatch("--partition=urgent", "--nodes=4", "--exclusive", "--wrap", "sleep 1", "--output=/dev/null")

    end_s = time.monotonic() + 90
    while now(run).restarts == 0:
        assert time.monotonic() < end_s, now(run)
        time.sleep(0.3)
    assert until(run, "done", 90)
    while efficiency(run)[0].attempts != ("preempted", "done"):
        assert time.monotonic() < end_s + 30, efficiency(run)
        time.sleep(0.5)
    assert efficiency(run)[0].ran_s >= 3


def test_logs_are_followed_from_attempt_to_attempt_until_the_end(lab: Lab, tmp_path: Path) -> None:
    program = "echo line of $RANK; [[ -e again.$RANK ]] && exit 0; touch again.$RANK; sleep 1; exit 75"
    run = lab.command(tmp_path / "run", ["bash", "-c", program], **on(2))
    submit(run)

    lines = list(_within(90, follow(run, None, poll_s=0.5)))

    for attempt in (1, 2):
        at = lines.index(f"==> {run.log('30-command', attempt)}")
        assert {"0: line of 0", "1: line of 1"} <= set(lines[at:])
    assert lines.count("0: line of 0") == 2
    assert lines[-1] == "[command: done]"


def test_tasks_of_an_array_are_asked_for_one_by_one_and_as_a_whole(lab: Lab, tmp_path: Path) -> None:
    wrap = "test $SLURM_ARRAY_TASK_ID != 2"
    array = _sbatch("--array=0-3%2", "--nodes=1", "--wrap", wrap, "--output=/dev/null")
    asked = [array, f"{array}_1", f"{array}_2"]
    end_s = time.monotonic() + 60
    while any(ask(asked).jobs[job_id].state in ("pending", "running") for job_id in asked):
        assert time.monotonic() < end_s
        time.sleep(0.3)

    jobs = ask(asked).jobs

    assert (jobs[f"{array}_1"].state, jobs[f"{array}_2"].state) == ("done", "failed")
    assert (jobs[array].state, jobs[array].tasks, jobs[array].reason) == ("failed", "3/4 tasks", "task 2")


def _until_idle_nodes(number: int = 3) -> None:
    """A controller that starts takes a while to hear of its nodes."""
    idle = ["sinfo", "--noheader", "--Node", "--states=idle", "--format=%N", "--partition=batch"]
    end_s = time.monotonic() + 60
    while len(subprocess.run(idle, capture_output=True, text=True).stdout.split()) < number:
        assert time.monotonic() < end_s
        time.sleep(0.3)


def _sbatch(*words: str) -> str:
    done = subprocess.run(["sbatch", "--parsable", *words], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def _within(limit_s: float, lines: Iterator[str]) -> Iterator[str]:
    end_s = time.monotonic() + limit_s
    for line in lines:
        assert time.monotonic() < end_s
        yield line
