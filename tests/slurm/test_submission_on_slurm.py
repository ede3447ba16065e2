"""Submission on a real Slurm: the choice, the checks, dry runs, chains where a site starts no job again, and salloc."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from lab_cluster import Lab, said
from test_commands_on_slurm import MEET

from hpcllm.launch.submission.submit import submit
from hpcllm.launch.tracking.track import cancel, status
from hpcllm.run_directory import Run, read_json

pytestmark = [pytest.mark.slurm, pytest.mark.usefixtures("quiet_queue")]

# Interrupted twice by the warning before the time limit, then done; it knows nothing of hpcllm.
SAVES = """
trap ': >saved.$(ls | grep -c saved); exit 9' USR2
[[ $(ls | grep -c saved) == 2 ]] && exit 0
echo working; sleep 100 & wait
"""


def queue() -> list[str]:
    said = subprocess.run(["squeue", "-h", "-o", "%i %T"], capture_output=True, text=True, check=True, timeout=30)
    return said.stdout.splitlines()


def emptied() -> bool:
    """Whether the queue is empty, when what was cancelled has left it."""
    for _ in range(50):
        if not queue():
            return True
        time.sleep(0.1)
    return False


def no_requeue(folder: Path) -> Path:
    """The lab as a site that starts no job again."""
    path = folder / "no-requeue.yaml"
    verified = "verified: {how: emulated, date: 2026-11-24}"
    path.write_text(f"name: no-requeue\nextends: slurm-lab\n{verified}\nscheduler: {{requeue: false}}\n")
    return path


def test_a_dry_run_prints_what_runs_and_leaves_nothing(lab: Lab, tmp_path: Path) -> None:
    done = lab.hpcllm("submit", "--dry-run", "--nodes", "2", "--time", "10m", "--", "true", cwd=tmp_path)

    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    assert [line[0] for line in lines] == [
        "queue",
        "urgent",
        "short",
        "restart",
        "scripts",
        "account",
        "limits",
        "room",
        "command",
    ]
    assert lines[0][1:3] == ["*", "batch"]
    assert lines[-1][1:3] == ["sbatch", "--parsable"]
    assert list(tmp_path.iterdir()) == []
    assert queue() == []


def test_the_commands_of_a_dry_run_work_as_they_are(lab: Lab, tmp_path: Path) -> None:
    out = tmp_path / "a run"
    words = ["submit", "--dry-run", "--out", out, "--time", "2m", "--", "true"]

    line = lab.hpcllm(*words, cwd=tmp_path).stdout.splitlines()[-1]
    subprocess.run(["bash", "-c", line.removeprefix("command")], check=True, capture_output=True, timeout=30)

    assert lab.wait(Run(out))["command"].state == "done"


def test_a_wrong_account_and_a_wrong_qos_are_told_with_those_that_one_has(lab: Lab, tmp_path: Path) -> None:
    words = ["--account", "closed", "--partition", "batch", "--qos", "gold", "--out", tmp_path / "run"]

    done = lab.hpcllm("submit", *words, "--", "true", cwd=tmp_path)

    assert done.returncode == 2
    assert "30-command: Slurm refuses it: " in done.stderr
    assert "account: found closed; root has research; give --account research" in done.stderr
    assert queue() == []


def test_the_choice_is_kept_with_when_slurm_would_have_started_the_job_elsewhere(lab: Lab, tmp_path: Path) -> None:
    """The nodes are busy for half an hour, and `urgent` would take them; nobody is sent there unasked."""
    out = tmp_path / "run"
    subprocess.run(
        ["sbatch", "-pbatch", "-N4", "--exclusive", "-t30", "--output=/dev/null", "--wrap", "sleep 60"],
        check=True,
        timeout=30,
    )
    while not any("RUNNING" in line for line in queue()):
        time.sleep(0.2)

    words = ["submit", "--nodes", "4", "--time", "5m", "--out", out, "--", "true"]
    done = lab.hpcllm(*words, cwd=tmp_path)

    assert done.returncode == 0, done.stderr
    rows = {row["partition"]: row for row in read_json(out / "choice.json")}
    assert list(rows) == ["batch", "urgent", "short"]
    assert rows["urgent"]["start_s"] < time.time() + 60 < rows["batch"]["start_s"]
    assert "#SBATCH --partition=batch" in Run(out).script("30-command").read_text()
    again = lab.hpcllm(*words, cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert len(read_json(Run(out).jobs_json)["command"]) == 1


def warn(run: Run, attempt: int, job_id: str) -> None:
    """Slurm's signal before the limit, as soon as that attempt works."""
    log, end_s = run.log("30-command", attempt), time.monotonic() + 60
    while not (log.exists() and "working" in log.read_text()):
        assert time.monotonic() < end_s, said(run)
        time.sleep(0.2)
    subprocess.run(["scancel", "--batch", "--signal=USR2", job_id], check=True, timeout=30)


def test_a_chain_goes_on_until_it_is_done_and_the_rest_of_it_is_cancelled(lab: Lab, tmp_path: Path) -> None:
    """The partition allows 2 minutes; the warning comes by hand, as Slurm looks at its limits but twice a minute."""
    job = tmp_path / "long.yaml"
    given = {"name": "long", "command": ["bash", "-c", SAVES], "resources": {"time": "3m"}}
    job.write_text(json.dumps({**given, "slurm": {"partition": "short", "directives": {"signal": "B:USR2@10"}}}))
    out = tmp_path / "run"

    done = lab.hpcllm("submit", job, "--cluster", no_requeue(tmp_path), "--out", out, cwd=tmp_path)

    assert done.returncode == 0, done.stderr
    assert "2 jobs of 2 min one after another, which is its limit" in done.stdout
    run = Run(out)
    (chain,) = read_json(run.jobs_json)["command"]
    assert len(chain.split(":")) == 3
    for attempt, job_id in enumerate(chain.split(":")[:2], start=1):
        warn(run, attempt, job_id)
    assert lab.wait(run, 200)["command"].state == "done", said(run)
    assert sorted(path.name for path in tmp_path.glob("saved.*")) == ["saved.0", "saved.1"]
    assert "interrupted: job 3 of 3 goes on" in run.log("30-command", 2).read_text()
    assert emptied()


def test_a_program_that_fails_ends_its_chain_and_cancel_takes_all_of_one(lab: Lab, tmp_path: Path) -> None:
    def submitted(name: str, *command: str) -> Run:
        words = ["--cluster", no_requeue(tmp_path), "--partition", "short", "--time", "4m", "--out", tmp_path / name]
        done = lab.hpcllm("submit", *words, "--", *command, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        return Run(tmp_path / name)

    failing, sleeping = submitted("failing", "false"), submitted("sleeping", "sleep", "100")

    assert lab.wait(failing)["command"].state == "failed", said(failing)
    assert "there is nothing to go on with" in failing.log("30-command", 2).read_text()
    while status(sleeping)[0].state != "running":
        time.sleep(0.2)
    assert cancel(sleeping) == "cancelled command"
    assert lab.wait(sleeping)["command"].state == "cancelled"
    assert emptied()
    assert not sleeping.log("30-command", 2).exists()


# On its first node it does what preflight does with a slow one: remembers it, and gives up with 75.
GIVES_UP_ON_ITS_NODE = """
[[ -e first ]] && { hostname >second; exit 0; }
hostname >first
printf '[{"node": "%s", "why": "slow", "time": %d, "attempt": "30-command.1"}]' "$(<first)" "$(date +%s)" >"$1"
exit 75
"""


def test_the_next_job_of_a_chain_leaves_out_a_bad_node(lab: Lab, tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    words = ["--cluster", no_requeue(tmp_path), "--partition", "short", "--time", "4m", "--out", run.root]
    command = ["bash", "-c", GIVES_UP_ON_ITS_NODE, "x", run.bad_nodes_json]

    done = lab.hpcllm("submit", *words, "--", *command, cwd=tmp_path)

    assert done.returncode == 0, done.stderr
    assert lab.wait(run)["command"].state == "done", said(run)
    first, second = ((tmp_path / name).read_text().strip() for name in ("first", "second"))
    assert first != second
    assert f"does without {first}" in run.log("30-command", 1).read_text()


def test_a_submit_that_is_stopped_leaves_nothing_in_the_queue(lab: Lab, tmp_path: Path) -> None:
    """The signal comes while sbatch is at it and the job is in the queue: a site's own wrapper takes its time."""
    slow = tmp_path / "bin" / "sbatch"
    slow.parent.mkdir()
    slow.write_text(f'#!/bin/bash\n{shutil.which("sbatch")} "$@" || exit\n[[ $1 == --test-only ]] || sleep 3\n')
    slow.chmod(0o755)
    words = ["submit", "--cluster", "slurm-lab", "--time", "5m", "--out", "run", "--", "true"]
    environment = {**os.environ, "PATH": f"{slow.parent}:{os.environ['PATH']}"}

    command = [sys.executable, "-m", "hpcllm", *words]
    process = subprocess.Popen(command, env=environment, cwd=tmp_path, text=True, stderr=subprocess.PIPE)
    while not queue():
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=30)

    assert process.returncode == 75
    assert "stopped by SIGTERM: nothing of this call stays in the queue" in err
    assert not (tmp_path / "run" / "jobs.json").exists()
    assert emptied()


def test_a_script_that_was_submitted_by_hand_is_not_submitted_again(lab: Lab, tmp_path: Path) -> None:
    run = lab.command(tmp_path / "run", ["true"], resources={"nodes": 1, "time": "2m"})
    by_hand = ["sbatch", "--parsable", "--begin=now+60", run.script("30-command")]
    job_id = subprocess.run(by_hand, capture_output=True, text=True, check=True, timeout=30).stdout.strip()

    assert submit(run) == {}

    assert read_json(run.jobs_json) == {"command": [job_id]}
    assert [line.split()[0] for line in queue()] == [job_id]


def in_allocation(lab: Lab, folder: Path, *words: str, options: tuple[str, ...] = ("-N2", "-n4")) -> tuple[int, str]:
    command = ["salloc", "-Q", *options, "-t5", sys.executable, "-m", "hpcllm", "run", *words]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, timeout=100)
    return done.returncode, done.stdout + done.stderr


def test_inside_salloc_run_takes_the_nodes_and_ranks_of_the_allocation(lab: Lab, tmp_path: Path) -> None:
    """Rank 0 and its address are on the first node, though the shell is on the login node."""
    code, output = in_allocation(lab, tmp_path, "--out", "run", "--", sys.executable, "-c", MEET)

    assert code == 0, output
    places = [json.loads(line.split("PLACE ")[1]) for line in output.splitlines() if "PLACE" in line]
    assert sorted((place["RANK"], place["NODE_RANK"], place["WORLD_SIZE"]) for place in places) == [
        (0, 0, 4), (1, 0, 4), (2, 1, 4), (3, 1, 4),
    ]  # fmt: skip
    assert len({place["host"] for place in places}) == 2


def test_inside_salloc_too_many_ranks_are_an_error_and_ctrl_c_reaches_every_rank(lab: Lab, tmp_path: Path) -> None:
    code, output = in_allocation(lab, tmp_path, "--ranks", "8", "--", "true")
    assert (code, "found 8; allocation" in output, "at most 4" in output) == (2, True, True), output

    saves = 'trap ": >saved.$RANK; sleep 2; exit 75" USR2; echo working; sleep 60 & wait'  # the first to leave ends all
    command = ["salloc", "-Q", "-N2", "-t5", sys.executable, "-m", "hpcllm", "run", "--out", "run", "--"]
    process = subprocess.Popen([*command, "bash", "-c", saves], cwd=tmp_path, stdout=subprocess.PIPE, text=True,
                               stderr=subprocess.STDOUT, start_new_session=True)  # fmt: skip
    assert process.stdout is not None
    working = 0
    for line in process.stdout:
        working += "working" in line
        if working == 2:
            break
    pids = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=True).stdout.split()
    for pid in pids:
        subprocess.run(["kill", "-INT", pid], check=True)
    process.communicate(timeout=60)

    assert process.returncode == 75
    assert sorted(path.name for path in tmp_path.glob("saved.*")) == ["saved.0", "saved.1"]
