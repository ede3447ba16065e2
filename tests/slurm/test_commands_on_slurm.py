"""Anybody's program on a real Slurm: its ranks, its signals, its way back into the queue, its preflight."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from lab_cluster import Lab, said
from submitit.core.utils import FailedJobError

from hpcllm.errors import UserError
from hpcllm.launch.submission.submit import jobs, submit
from hpcllm.launch.tracking.track import cancel, status
from hpcllm.run_directory import Run, read_json

pytestmark = [pytest.mark.slurm, pytest.mark.usefixtures("quiet_queue")]

MEET = """
import json, os, socket
names = ["RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "NODE_RANK"]
place = {name: int(os.environ[name]) for name in names}
address = (os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]))
if place["RANK"] == 0:
    with socket.create_server(("", address[1])) as server:
        guests = [server.accept()[0] for _ in range(place["WORLD_SIZE"] - 1)]
else:
    for attempt in range(100):
        try:
            socket.create_connection(address, timeout=5)
            break
        except ConnectionRefusedError:
            import time; time.sleep(0.1)
    else:
        raise SystemExit("rank 0 is not there")
print("PLACE", json.dumps({**place, "host": socket.gethostname(), "words": __import__("sys").argv[1:]}))
"""


def two_nodes(ranks: int = 1, **slurm: object) -> dict[str, object]:
    return {"resources": {"nodes": 2, "ranks_per_node": ranks, "time": "3m"}, "slurm": slurm}


def test_every_rank_learns_its_place_and_all_meet_at_a_free_port(lab: Lab, tmp_path: Path) -> None:
    run = lab.command(tmp_path / "run", [sys.executable, "-c", MEET, "two  words", "$(x)"], **two_nodes(2))

    submit(run)

    assert lab.wait(run)["command"].state == "done", said(run)
    lines = [line.split("PLACE ")[1] for line in run.log("30-command", 1).read_text().splitlines() if "PLACE" in line]
    places = sorted((json.loads(line) for line in lines), key=lambda place: place["RANK"])
    assert [place["RANK"] for place in places] == [0, 1, 2, 3]
    assert [(place["NODE_RANK"], place["LOCAL_RANK"]) for place in places] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert {(place["WORLD_SIZE"], place["LOCAL_WORLD_SIZE"]) for place in places} == {(4, 2)}
    assert places[0]["host"] == places[1]["host"] != places[2]["host"] == places[3]["host"]
    assert all(place["words"] == ["two  words", "$(x)"] for place in places)
    assert read_json(run.state_json("30-command"))["hosts"] == [places[0]["host"], places[2]["host"]]


def test_a_script_of_a_fresh_run_is_submitted_by_hand(lab: Lab, tmp_path: Path) -> None:
    run = lab.command(tmp_path / "run", ["true"], **two_nodes())

    subprocess.run(["sbatch", "--wait", run.script("30-command")], check=True, capture_output=True, timeout=60)

    assert status(run)[0].state == "done", said(run)


def test_exit_75_goes_back_into_the_queue_as_often_as_allowed_and_no_more(lab: Lab, tmp_path: Path) -> None:
    run = lab.command(tmp_path / "run", ["bash", "-c", "exit 75"], **two_nodes(max_requeues=1))

    submit(run)

    assert lab.wait(run)["command"].state == "failed"
    assert [run.log("30-command", attempt).exists() for attempt in (1, 2, 3)] == [True, True, False]
    assert "no requeue is left (job.slurm.max_requeues allows 1)" in run.log("30-command", 2).read_text()


@pytest.mark.long
def test_a_program_that_is_started_once_has_its_whole_time_and_ends_as_a_timeout(lab: Lab, tmp_path: Path) -> None:
    last = "trap 'date +%s >>heard' USR2; date +%s >began; while :; do date +%s >last; sleep 1; done"
    run = lab.command(tmp_path / "run", ["bash", "-c", last], resources={"time": "1m"}, slurm={"max_requeues": 0})

    submit(run)

    found = lab.wait(run, timeout_s=180)["command"]
    assert (found.state, run.log("30-command", 2).exists()) == ("timeout", False)
    began, last_s = (int((run.root.parent / name).read_text()) for name in ("began", "last"))
    assert last_s - began >= 50
    assert not (run.root.parent / "heard").exists()


def test_the_warning_before_the_time_limit_reaches_every_rank_and_the_job_goes_on(lab: Lab, tmp_path: Path) -> None:
    """Slurm may send the signal up to a minute early, which is at once here."""
    saves = '[[ -e saved.$RANK ]] && exit 0; trap ": >saved.$RANK; exit 9" USR2; sleep 50 & wait'
    described = {"resources": {"nodes": 2, "time": "1m"}, "slurm": {"directives": {"signal": "B:USR2@50"}}}
    run = lab.command(tmp_path / "run", ["bash", "-c", saves], **described)

    submit(run)

    assert lab.wait(run)["command"].state == "done", said(run)
    assert sorted(path.name for path in tmp_path.glob("saved.*")) == ["saved.0", "saved.1"]
    assert "back into the queue (0 of 20 requeues used)" in run.log("30-command", 1).read_text()


def test_a_cancelled_job_is_told_and_stays_out_of_the_queue_until_it_is_submitted_again(
    lab: Lab, tmp_path: Path
) -> None:
    """The ranks hear TERM one by one, and srun does not wait for all of them: at least one has time here."""
    saves = 'compgen -G "saved.*" && exit 0; trap ": >saved.$RANK; exit 75" TERM; echo start; sleep 60 & wait'
    run = lab.command(tmp_path / "run", ["bash", "-c", saves], **two_nodes())
    submit(run)
    log = run.log("30-command", 1)
    while not (log.exists() and log.read_text().count("start") == 2):
        time.sleep(0.2)

    assert status(run)[0].state == "running"
    assert submit(run) == {}
    assert cancel(run) == "cancelled command"

    assert lab.wait(run)["command"].state == "cancelled"
    assert list(tmp_path.glob("saved.*"))
    first = read_json(run.jobs_json)["command"]
    assert list(submit(run)) == ["command"]
    assert lab.wait(run)["command"].state == "done", said(run)
    assert read_json(run.jobs_json)["command"][:1] == first


@pytest.mark.parametrize(
    ("slurm", "words"),
    [
        ({"account": "closed"}, "Invalid account.*--account NAME"),
        ({"qos": "gold"}, "Invalid qos.*--qos NAME"),
        ({"directives": {"nodes": "2", "qos": "small", "time": "99:00:00"}}, "time limit.*--time"),
    ],
)
def test_what_slurm_refuses_is_one_error_with_its_words_before_anything_is_queued(
    lab: Lab, tmp_path: Path, slurm: dict[str, object], words: str
) -> None:
    run = lab.command(tmp_path / "run", ["true"], **two_nodes(**slurm))

    with pytest.raises(UserError, match=f"(?is){words}"):
        submit(run)

    assert not run.jobs_json.exists()
    assert subprocess.run(["squeue", "-h"], capture_output=True, text=True).stdout == ""


def test_submitits_handle_waits_and_gives_the_record_or_the_end_of_the_log(lab: Lab, tmp_path: Path) -> None:
    good = lab.command(tmp_path / "good", ["true"], **two_nodes())
    bad = lab.command(tmp_path / "bad", ["bash", "-c", "echo 'out of luck'; exit 3"], **two_nodes())
    submit(good)
    submit(bad)

    assert jobs(good)["command"].result()["outcome"] == "done"
    with pytest.raises(FailedJobError, match="(?s)failed.*out of luck"):
        jobs(bad)["command"].result()
    assert "out of luck" in str(jobs(bad)["command"].stdout())


def test_inside_an_allocation_the_same_script_runs_in_the_foreground(lab: Lab, tmp_path: Path) -> None:
    run = lab.command(tmp_path / "run", ["bash", "-c", "echo $RANK on $(hostname)"], **two_nodes())
    script = f"HPCLLM_FOREGROUND=1 bash {run.script('30-command')}"

    ended = subprocess.run(
        ["salloc", "-N2", "--exclusive", "bash", "-c", script], capture_output=True, text=True, timeout=60
    )

    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert sorted(line.split(" on ")[0] for line in ended.stdout.splitlines() if " on " in line) == ["0: 0", "1: 1"]


def test_a_throttled_link_is_named_and_the_program_never_starts(lab: Lab, tmp_path: Path) -> None:
    described = {"resources": {"nodes": 4, "ranks_per_node": 1, "time": "3m"}}
    run = lab.command(tmp_path / "run", ["touch", "started"], check_nodes=True, **described)
    lab.node("link", "n2", "200mbit")
    try:
        submit(run)
        found = lab.wait(run)["command"]
    finally:
        lab.node("link", "n2", "off")

    assert found.state == "failed"
    assert "n2 is slow" in run.log("30-command", 1).read_text(), said(run)
    assert not (tmp_path / "started").exists()


@pytest.fixture(scope="session")
def accelerate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The accelerate wheel alone, since all that it needs is here; only its own test script is run."""
    target = tmp_path_factory.mktemp("accelerate")
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", target, "accelerate>=1.1"]
    done = subprocess.run(pip, capture_output=True, text=True, timeout=120)
    if done.returncode and not os.environ.get("HPCLLM_REQUIRE_SLURM"):
        pytest.skip(f"accelerate cannot be installed: {done.stderr.strip().splitlines()[-1:]}")
    assert done.returncode == 0, done.stderr
    return target


def test_an_unmodified_public_ddp_script_runs_on_two_nodes_by_one_line(
    lab: Lab, tmp_path: Path, accelerate: Path
) -> None:
    script = accelerate / "accelerate" / "test_utils" / "scripts" / "test_sync.py"
    out = tmp_path / "run"
    words = ["submit", "--cluster", "slurm-lab", "--nodes", "2", "--ranks-per-node", "1", "--time", "10m", "--out", out]

    on_cpus = {"ACCELERATE_USE_CPU": "1", "PYTHONPATH": str(accelerate)}

    submitted = lab.hpcllm(*words, "--", sys.executable, script, cwd=tmp_path, **on_cpus)

    assert submitted.returncode == 0, submitted.stderr
    run = Run.open(out)
    assert lab.wait(run, 200)["command"].state == "done", said(run)
    assert "**Test Distributed `no_sync` context manager**" in run.log("30-command", 1).read_text()
