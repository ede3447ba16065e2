"""What is known of jobs where squeue, sacct or scontrol is slow, broken, old, or has words of its own."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from slurm_says import accounted, queued

from hpcllm.errors import HpcllmError, UserError
from hpcllm.launch.submission.submit import submit
from hpcllm.launch.tracking import slurm
from hpcllm.launch.tracking.efficiency import cpu_seconds, efficiency
from hpcllm.launch.tracking.slurm import ask
from hpcllm.launch.tracking.track import cancel, look
from hpcllm.run_directory import Run, write_json

Fake = Callable[[str, str], Path]


def site(fake_slurm: Fake, squeue: str = "exit 1", sacct: str = "exit 1", scontrol: str = "exit 1") -> dict[str, Path]:
    bodies = {"squeue": squeue, "sacct": sacct, "scontrol": scontrol}
    return {name: fake_slurm(name, body) for name, body in bodies.items()}


def calls(path: Path) -> int:
    return path.read_text().count("\n") if path.exists() else 0


def test_two_hundred_jobs_are_one_query_of_each_source(fake_slurm: Fake) -> None:
    ids = [str(number) for number in range(1, 201)]
    noted = site(fake_slurm, queued("7", "RUNNING", 100, "n1"), accounted("8", "COMPLETED"), "exit 1")

    ask(ids)

    assert {name: calls(path) for name, path in noted.items()} == {"squeue": 1, "sacct": 1, "scontrol": 0}


def test_scontrol_is_one_query_too(fake_slurm: Fake) -> None:
    shown = "JobId={} JobState=COMPLETED StartTime=100 EndTime=130 NodeList=n1 Reason=None ExitCode=0:0"
    noted = site(fake_slurm, scontrol=f"echo '{shown.format(7)}'; echo '{shown.format(8)}'")

    jobs = ask(["7", "8"]).jobs

    assert [jobs[job_id].state for job_id in "78"] == ["done", "done"]
    assert calls(noted["scontrol"]) == 1


def test_a_controller_that_hangs_costs_no_more_than_the_limit_even_behind_a_sites_wrapper(
    demo_run: Run, fake_slurm: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slurm, "QUERY_TIMEOUT_S", 0.5)
    noted = site(fake_slurm, squeue="sleep 60; true", sacct=accounted("7", "RUNNING"))
    write_json(demo_run.jobs_json, {"tokenizer": ["7"]})
    start_s = time.monotonic()

    now = look(demo_run)

    assert time.monotonic() - start_s < 5
    assert now.stages[0].state == "running"
    assert "squeue: no answer" in now.silence
    assert calls(noted["scontrol"]) == 0  # it would ask the same controller


def test_what_a_user_has_set_for_squeue_hides_no_job(fake_slurm: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SQUEUE_PARTITION", "other")
    site(fake_slurm, squeue="[[ -z $SQUEUE_PARTITION ]] && " + queued("7", "RUNNING", 100, "n1"))

    assert ask(["7"]).jobs["7"].state == "running"


def test_nobody_is_silent_where_all_jobs_are_over_by_accounting(fake_slurm: Fake) -> None:
    site(fake_slurm, squeue="echo 'Unable to contact slurm controller' >&2; exit 1", sacct=accounted("7", "COMPLETED"))

    assert ask(["7"]).silence == ""


def test_while_slurm_is_silent_a_stage_that_says_that_it_runs_is_believed(demo_run: Run, fake_slurm: Fake) -> None:
    site(fake_slurm, squeue="echo 'Unable to contact slurm controller' >&2; exit 1", sacct=accounted("7", "PENDING"))
    write_json(demo_run.jobs_json, {"tokenizer": ["7"]})
    write_json(
        demo_run.state_json("10-tokenizer"),
        {
            **{"stage": "tokenizer", "key": None, "attempt": 1, "outcome": "running", "message": "", "exit_code": None},
            **{"job_id": "7", "host": socket.gethostname(), "pid": os.getpid(), "world_size": 1, "hosts": ["n1"]},
            **{"start": time.time(), "end": None},
        },
    )

    assert look(demo_run).stages[0].state == "running"


@pytest.mark.parametrize(
    ("row", "state"),
    [
        (queued("7", "TELEPORTING", start=100, end=130), "failed"),
        (queued("7", "TELEPORTING", start=100, end=10**11), "running"),
        (queued("7", "TELEPORTING", start=10**11), "pending"),
    ],
)
def test_a_state_that_is_new_is_taken_by_its_times_and_said(fake_slurm: Fake, row: str, state: str) -> None:
    site(fake_slurm, squeue=row)

    job = ask(["7"]).jobs["7"]

    assert (job.state, job.reason) == (state, "Slurm says TELEPORTING, a word that is new to hpcllm")


@pytest.mark.parametrize(("status", "code"), [(19200, 75), (9, 137), (256, 1), (0, 0)])
def test_squeue_gives_the_status_of_wait(fake_slurm: Fake, status: int, code: int) -> None:
    site(fake_slurm, squeue=queued("7", "FAILED", 100, "n1", end=130, status=status))

    assert ask(["7"]).jobs["7"].exit_code == code


@pytest.mark.parametrize(("uid", "name"), [("0", "root"), ("4294000000", "uid 4294000000")])
def test_who_cancelled_a_job_is_named(demo_run: Run, fake_slurm: Fake, uid: str, name: str) -> None:
    site(fake_slurm, sacct=accounted("7", f"CANCELLED by {uid}"))
    write_json(demo_run.jobs_json, {"tokenizer": ["7"]})

    assert look(demo_run).stages[0].reason == f"by {name}"


def test_a_stage_that_was_cancelled_for_another_says_for_which(demo_run: Run, fake_slurm: Fake) -> None:
    rows = [accounted("7", "FAILED", code="1:0"), accounted("8", "CANCELLED by 0", start="None")]
    site(fake_slurm, sacct="; ".join(rows))
    write_json(demo_run.jobs_json, {"tokenizer": ["7"], "shard": ["8"]})

    assert look(demo_run).stages[1].reason == "tokenizer did not end well"


def test_tasks_of_an_array_that_wait_together_are_told_apart(fake_slurm: Fake) -> None:
    rows = ["12_[2,4-8:2%3]|PENDING|50|Unknown|Unknown||0:0|Priority|", "12_1|COMPLETED|50|100|160|n1|0:0|None|"]
    site(fake_slurm, sacct="; ".join(f"echo '{row}'" for row in rows))

    jobs = ask(["12", "12_1", "12_6", "12_5"]).jobs

    assert {job_id: job.state for job_id, job in jobs.items()} == {"12": "running", "12_1": "done", "12_6": "pending"}
    assert jobs["12"].tasks == "1/5 tasks"


def test_cancelling_a_stage_takes_what_comes_after_it_along(demo_run: Run, fake_slurm: Fake) -> None:
    names = ("tokenizer", "shard", "train", "evaluate", "compress", "evaluate-compressed", "gather")
    site(fake_slurm, squeue="; ".join(queued(str(i), "PENDING", reason="Dependency") for i in range(7)))
    cancelled = fake_slurm("scancel", "")
    write_json(demo_run.jobs_json, {name: [str(i)] for i, name in enumerate(names)})

    assert cancel(demo_run, "compress") == "cancelled compress, evaluate-compressed, gather"
    assert cancelled.read_text().split() == ["4", "5", "6"]


def test_accounting_tells_what_each_start_of_a_stage_took(demo_run: Run, fake_slurm: Fake) -> None:
    rows = [
        "7|PREEMPTED|100|160|3600|01:00:00|14400||billing=4,cpu=4,gres/gpu=2,mem=8G,node=1",
        "7.0|CANCELLED|160|160|3600|01:00:00|14400|cpu=1,mem=1G|cpu=4,mem=8G",
        "7|COMPLETED|4000|4010|3600|03:00:00|14400||billing=4,cpu=4,gres/gpu=2,mem=8G,node=1",
        "7.batch|COMPLETED|4010|4010|3600|00:00.010|14400|mem=10M|cpu=4,mem=8G",
        "7.0|COMPLETED|4010|4010|3600|03:00:00|14400|cpu=1,mem=2G|cpu=4,mem=8G",
    ]
    noted = fake_slurm("sacct", "; ".join(f"echo '{row}'" for row in rows))
    write_json(demo_run.jobs_json, {"tokenizer": ["6", "7"]})

    (use,) = efficiency(demo_run)

    assert (use.attempts, use.waited_s, use.ran_s) == (("preempted", "done"), 70, 7200)
    assert (use.cpu_hours, use.cpu_fraction, use.gpu_hours) == (8, 0.5, 4)
    assert (use.memory_bytes, use.memory_fraction) == (2 << 30, 0.25)
    assert calls(noted) == 1


def test_accounting_tells_of_one_run_of_a_sweep_what_its_tasks_took(demo_run: Run, fake_slurm: Fake) -> None:
    tasks = "; ".join(f"echo '69_{i}|COMPLETED|100|160|{100 + i}|00:10|400||cpu=4'" for i in range(2))
    fake_slurm("sacct", f"{tasks}; echo '69_[2-3]|PENDING|100|Unknown|0|00:00|0||'")
    write_json(demo_run.jobs_json, {"tokenizer": ["69_1"]})

    (use,) = efficiency(demo_run)

    assert (use.attempts, use.ran_s) == (("done",), 101)


def test_before_accounting_has_a_row_it_says_so(demo_run: Run, fake_slurm: Fake) -> None:
    fake_slurm("sacct", "true")
    write_json(demo_run.jobs_json, {"tokenizer": ["7"]})

    with pytest.raises(HpcllmError, match="accounting knows nothing of its jobs: it is behind"):
        efficiency(demo_run)


@pytest.mark.parametrize(("text", "seconds"), [("00:00.200", 0.2), ("01:02:03", 3723), ("1-02:03:04", 93784), ("", 0)])
def test_sacct_writes_times_in_four_ways(text: str, seconds: float) -> None:
    assert cpu_seconds(text) == seconds


def test_submit_waits_for_a_word_of_slurm_rather_than_submit_twice(demo_run: Run, fake_slurm: Fake) -> None:
    site(fake_slurm, squeue="echo 'Unable to contact slurm controller' >&2; exit 1")
    sbatch = fake_slurm("sbatch", "echo 9")
    write_json(demo_run.jobs_json, {"tokenizer": ["7"]})

    with pytest.raises(UserError, match="Slurm does not answer"):
        submit(demo_run)
    assert calls(sbatch) == 0
