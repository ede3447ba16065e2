"""What became of a run, by whoever knows: Slurm of many sites and versions, or the stages' own records."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from shipped_jobs import described, leave_outputs
from slurm_says import accounted, queued

from hpcllm.errors import HpcllmError, UserError
from hpcllm.job.spec import CommandJob, frozen_job
from hpcllm.launch.key import stage_key
from hpcllm.launch.pipeline import find_stage
from hpcllm.launch.render import render
from hpcllm.launch.tracking.logs import logs
from hpcllm.launch.tracking.slurm import query
from hpcllm.launch.tracking.states import STATES
from hpcllm.launch.tracking.track import cancel, look, status
from hpcllm.report.status_table import status_table, watch
from hpcllm.run_directory import Run, read_json, write_json

Fake = Callable[[str, str], Path]


def site(fake_slurm: Fake, squeue: str = "exit 1", sacct: str = "exit 1", scontrol: str = "exit 1") -> None:
    for name, body in {"squeue": squeue, "sacct": sacct, "scontrol": scontrol}.items():
        fake_slurm(name, body)


def record(run: Run, stage_id: str, **changes: Any) -> None:
    name = stage_id.split("-", 1)[1]
    stage = find_stage(frozen_job(run), name)
    key = stage_key(run, stage)
    leave_outputs(run, stage)
    write_json(
        run.state_json(stage_id),
        {
            **{"stage": name, "key": key, "attempt": 1, "outcome": "done", "message": "", "exit_code": 0},
            **{"job_id": None, "host": socket.gethostname(), "pid": os.getpid(), "world_size": 1, "hosts": ["here"]},
            **{"start": 100.0, "end": 130.0, **changes},
        },
    )


def state_of(run: Run, name: str) -> str:
    return next(found.state for found in status(run) if found.stage == name)


def test_a_fresh_run_waits_for_somebody_to_submit_it(demo_run: Run) -> None:
    found = status(demo_run)

    assert {stage.state for stage in found} == {"waiting"}
    assert {stage.reason for stage in found} == {"not submitted"}


def test_slurm_is_asked_once_for_all_jobs(demo_run: Run, fake_slurm: Fake) -> None:
    calls = fake_slurm("squeue", ";".join(queued(job_id, "PENDING", reason="Priority") for job_id in "123"))
    write_json(demo_run.jobs_json, {"tokenizer": ["1"], "shard": ["2"], "train": ["0", "3"]})

    found = {stage.stage: stage for stage in status(demo_run)}

    assert calls.read_text().count("\n") == 1
    assert "--jobs=1,2,3" in calls.read_text()
    assert [found[name].state for name in ("tokenizer", "shard", "train")] == ["pending", "waiting", "waiting"]
    assert found["tokenizer"].reason == "Priority: jobs with a higher priority come first"


@pytest.mark.parametrize(
    ("word", "ours"),
    [
        *[
            ("COMPLETED", "done"),
            ("CANCELLED by 1000", "cancelled"),
            ("TIMEOUT", "timeout"),
            ("NODE_FAIL", "node failure"),
        ],
        *[("OUT_OF_MEMORY", "out of memory"), ("PREEMPTED", "preempted"), ("RUNNING", "running"), ("FAILED", "failed")],
        *[
            ("COMPLETING", "running"),
            ("SUSPENDED", "running"),
            ("BOOT_FAIL", "node failure"),
            ("CANCELLED+", "cancelled"),
        ],
    ],
)
def test_slurms_words_become_ours(demo_run: Run, fake_slurm: Fake, word: str, ours: str) -> None:
    site(fake_slurm, sacct=accounted("7", word, code="1:0"))
    write_json(demo_run.jobs_json, {"tokenizer": ["7"]})

    assert state_of(demo_run, "tokenizer") == ours


def test_every_state_that_is_not_good_has_advice(demo_run: Run, fake_slurm: Fake) -> None:
    write_json(demo_run.jobs_json, {"tokenizer": ["7"]})
    for word in STATES:
        site(fake_slurm, sacct=accounted("7", word, code="1:0"))
        found = status(demo_run)[0]
        assert bool(found.advice) == (found.state not in ("done", "running", "pending", "waiting")), word


@pytest.mark.parametrize(("frozen", "said"), [(True, "would start the frozen one"), (False, "mend it, then")])
def test_whoever_mends_a_program_is_told_that_its_run_keeps_the_frozen_one(
    frozen: bool, said: str, tmp_path: Path, fake_slurm: Fake
) -> None:
    job = CommandJob.model_validate({"name": "mine", "command": ["python", "train.py"]})
    run = render(described(), None, job, None, None, tmp_path / "run", cwd=tmp_path)
    if frozen:
        run.command.mkdir()
    site(fake_slurm, sacct=accounted("7", "FAILED", code="1:0"))
    write_json(run.jobs_json, {"command": ["7"]})

    assert said in status(run)[0].advice


def test_a_job_that_ended_with_75_was_interrupted(demo_run: Run, fake_slurm: Fake) -> None:
    site(fake_slurm, sacct=accounted("7", "FAILED", code="75:0"))
    write_json(demo_run.jobs_json, {"tokenizer": ["7"]})

    found = status(demo_run)[0]

    assert (found.state, found.elapsed_s, found.since) == ("interrupted", 60, 160)


def test_a_job_that_was_killed_for_its_memory_is_found_by_slurms_own_words(demo_run: Run, fake_slurm: Fake) -> None:
    site(fake_slurm, sacct=accounted("7", "FAILED", code="0:9"))
    write_json(demo_run.jobs_json, {"tokenizer": ["7"]})
    demo_run.slurm_log("10-tokenizer").write_text("slurmstepd: error: Detected 1 oom-kill event(s) in StepId=7.0")

    assert state_of(demo_run, "tokenizer") == "out of memory"


def test_without_accounting_the_controller_is_asked(fake_slurm: Fake) -> None:
    shown = "JobId=7 JobState=COMPLETED StartTime=100 EndTime=130 NodeList=n[1-2] Reason=None ExitCode=0:0"
    site(fake_slurm, scontrol=f"echo '{shown}'")

    job = query(["7"])["7"]

    assert (job.state, job.start_s, job.end_s, job.nodes, job.exit_code) == ("done", 100, 130, "n[1-2]", 0)


def test_where_slurm_forgot_the_job_the_stages_record_holds(demo_run: Run, fake_slurm: Fake) -> None:
    site(fake_slurm)
    write_json(demo_run.jobs_json, {"tokenizer": ["7"]})
    record(demo_run, "10-tokenizer", job_id="7")

    found = status(demo_run)[0]

    assert (found.state, found.job_id, found.elapsed_s) == ("done", "7", 30)


UNKNOWN = "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1"


@pytest.mark.parametrize("squeue", ["exit 0", UNKNOWN])
def test_a_job_that_slurm_forgot_and_that_never_began_is_over(demo_run: Run, fake_slurm: Fake, squeue: str) -> None:
    site(fake_slurm, squeue=squeue)
    write_json(demo_run.jobs_json, {"tokenizer": ["7"]})

    assert state_of(demo_run, "tokenizer") == "pending"  # submitted just now
    os.utime(demo_run.jobs_json, (0, 0))
    found = status(demo_run)[0]

    assert (found.state, found.reason) == ("cancelled", "Slurm has forgotten it, and it never began")
    assert "hpcllm submit" in found.advice


def test_where_slurm_does_not_answer_a_job_is_not_over(demo_run: Run, fake_slurm: Fake) -> None:
    site(fake_slurm, squeue="echo 'Unable to contact slurm controller' >&2; exit 1")
    write_json(demo_run.jobs_json, {"tokenizer": ["7"]})
    os.utime(demo_run.jobs_json, (0, 0))

    assert state_of(demo_run, "tokenizer") == "pending"


def test_a_job_submitted_by_hand_is_asked_for_too(demo_run: Run, fake_slurm: Fake) -> None:
    calls = fake_slurm("squeue", f"{queued('7', 'PENDING', reason='Priority')}; {queued('9', 'RUNNING', 100, 'n2')}")
    write_json(demo_run.jobs_json, {"shard": ["7"]})
    record(demo_run, "10-tokenizer", job_id="9", outcome="running", end=None, host="n2")
    os.utime(demo_run.state_json("10-tokenizer"), (0, 0))  # no heartbeat for long

    found = status(demo_run)[0]

    assert (found.state, found.job_id, found.nodes) == ("running", "9", "n2")
    assert calls.read_text().count("\n") == 1


@pytest.mark.parametrize(
    ("squeue", "state"),
    [(queued("9", "PENDING"), "pending"), (queued("9", "RUNNING", 90, "n2"), "interrupted")],
)
def test_an_interrupted_stage_may_be_in_the_queue_again_but_not_because_its_allocation_goes_on(
    demo_run: Run, fake_slurm: Fake, squeue: str, state: str
) -> None:
    site(fake_slurm, squeue=squeue)
    record(demo_run, "10-tokenizer", job_id="9", outcome="interrupted", exit_code=75)

    assert state_of(demo_run, "tokenizer") == state


def test_what_was_done_by_other_code_is_out_of_date_and_so_is_all_that_was_made_from_it(demo_run: Run) -> None:
    for stage_id in ("10-tokenizer", "20-shard"):
        record(demo_run, stage_id)
    assert [found.state for found in status(demo_run)[:2]] == ["done", "done"]

    write_json(demo_run.software_json, {**read_json(demo_run.software_json), "code_sha256": "other"})

    assert [found.state for found in status(demo_run)[:2]] == ["out of date", "out of date"]
    assert "hpcllm submit" in status(demo_run)[0].advice


def test_what_was_done_and_deleted_is_out_of_date(demo_run: Run) -> None:
    record(demo_run, "10-tokenizer")

    demo_run.tokenizer_json.unlink()

    assert state_of(demo_run, "tokenizer") == "out of date"


def test_a_stage_that_ran_here_after_its_job_failed_is_done(demo_run: Run, fake_slurm: Fake) -> None:
    site(fake_slurm, sacct=accounted("7", "FAILED", 10, 50, "1:0"))
    write_json(demo_run.jobs_json, {"tokenizer": ["7"]})
    record(demo_run, "10-tokenizer", start=100.0)

    assert state_of(demo_run, "tokenizer") == "done"


def test_a_local_stage_runs_while_its_process_lives_and_was_killed_when_it_does_not(demo_run: Run) -> None:
    alive = {"outcome": "running", "end": None, "start": time.time() - 5}
    record(demo_run, "10-tokenizer", **alive, pid=1)
    record(demo_run, "20-shard", **alive, pid=2**22 + 1)

    tokenizer, shard = status(demo_run)[:2]

    assert (tokenizer.state, round(tokenizer.elapsed_s or 0)) == ("running", 5)
    assert (shard.state, shard.reason) == ("failed", f"killed on {socket.gethostname()} without a word")


def test_a_process_that_only_has_the_number_of_the_stages_is_left_alone(demo_run: Run) -> None:
    with subprocess.Popen(["sleep", "60"]) as stranger:
        record(demo_run, "10-tokenizer", outcome="running", end=None, start=time.time() - 3600, pid=stranger.pid)

        assert state_of(demo_run, "tokenizer") == "failed"
        assert cancel(demo_run) == "nothing of this run is queued or running here"
        assert stranger.poll() is None
        stranger.kill()


def test_cancel_tells_the_stage_that_runs_here_to_save(demo_run: Run) -> None:
    with subprocess.Popen(["sleep", "60"]) as stage:
        record(demo_run, "10-tokenizer", outcome="running", end=None, start=time.time(), pid=stage.pid)

        assert cancel(demo_run) == "cancelled tokenizer"
        assert stage.wait(timeout=10) == -signal.SIGTERM


def test_a_running_stage_says_how_far_it_is(demo_run: Run) -> None:
    record(demo_run, "10-tokenizer", outcome="running", end=None, start=time.time())
    demo_run.log("10-tokenizer", 2).write_text("old\n0: [tokenizer 3/10] merges\nsomething else\n")
    demo_run.log("10-tokenizer", 1).write_text("[tokenizer 9/10] of the attempt before\n")

    assert status(demo_run)[0].progress == "3/10 merges"


def test_logs_are_of_the_latest_attempt_with_slurms_words_behind(demo_run: Run) -> None:
    for attempt in (9, 10):
        demo_run.log("30-train", attempt).write_text(f"attempt {attempt}\n")
    demo_run.slurm_log("30-train").write_text("CANCELLED DUE TO TIME LIMIT\n")

    said = logs(demo_run, "train")

    assert "attempt 10\n" in said
    assert "attempt 9" not in said
    assert said.endswith("CANCELLED DUE TO TIME LIMIT\n")
    assert logs(demo_run) == said


def test_a_stage_without_a_log_or_a_name_without_a_stage_is_said(demo_run: Run) -> None:
    with pytest.raises(HpcllmError, match="no log of train yet"):
        logs(demo_run, "train")
    with pytest.raises(UserError, match="'trian'; this run has tokenizer"):
        logs(demo_run, "trian")


def test_cancel_gives_only_what_is_alive(demo_run: Run, fake_slurm: Fake) -> None:
    site(
        fake_slurm,
        squeue=f"{queued('8', 'RUNNING', 100, 'n1')}; {queued('9', 'PENDING', reason='Dependency')}",
        sacct=accounted("7", "COMPLETED", 10, 50),
    )
    cancelled = fake_slurm("scancel", "")
    write_json(demo_run.jobs_json, {"tokenizer": ["7"], "shard": ["8"], "train": ["9"]})

    assert cancel(demo_run) == "cancelled shard, train"
    assert cancelled.read_text().split() == ["8", "9"]


def test_cancelling_what_is_over_says_so(demo_run: Run) -> None:
    assert cancel(demo_run) == "nothing of this run is queued or running here"


def test_the_table_has_every_stage_and_what_to_do(demo_run: Run) -> None:
    record(demo_run, "10-tokenizer", outcome="failed", message="no such file: corpus.txt", exit_code=2)
    console = Console(width=160, record=True, file=open(os.devnull, "w"))  # noqa: SIM115

    console.print(status_table(demo_run, look(demo_run), 160))

    text = console.export_text()
    console.file.close()
    assert "no such file: corpus.txt" in text
    assert f"tokenizer: read hpcllm logs --errors {demo_run.root} tokenizer" in text
    assert "evaluate-compressed" in text


def test_watching_a_run_that_is_over_ends(demo_run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    watch(demo_run)

    assert "tokenizer waiting" in capsys.readouterr().out
