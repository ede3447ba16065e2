"""Submitting where Slurm cannot be made to do it: on a machine without one, and when it breaks in the middle."""

from __future__ import annotations

import fcntl
import os
import shlex
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from shipped_jobs import described, leave_outputs
from slurm_says import accounted, queued

from hpcllm.errors import HpcllmError, Interrupted, UserError
from hpcllm.job.spec import CommandJob, frozen_any_job
from hpcllm.launch.key import stage_key
from hpcllm.launch.pipeline import stages
from hpcllm.launch.render import render
from hpcllm.launch.scripts.dag_scripts import sbatch_tokens
from hpcllm.launch.submission.submit import submit
from hpcllm.run_directory import Run, read_json, write_json

Fake = Callable[[str, str], Path]
# Gives the ids 1, 2, 3, …; the third submission is refused where FAIL is set. What it is asked is in sbatch.calls.
SBATCH = """
[[ $1 == --test-only ]] && exit 0
number=$(grep -c parsable "$(dirname "$0")/../sbatch.calls")
[[ -n ${FAIL:-} && $number == 3 ]] && { echo "sbatch: error: Socket timed out on send/recv operation" >&2; exit 1; }
echo "$number;cluster"
"""


def quiet(fake_slurm: Fake) -> None:
    for name in ("sacct", "squeue", "scontrol"):
        fake_slurm(name, "exit 1")


def test_a_machine_without_slurm_is_told_so_and_what_to_do(demo_run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")

    with pytest.raises(
        UserError, match="sbatch: not found: this machine has no Slurm; go to a login node .* hpcllm run"
    ):
        submit(demo_run)
    assert not demo_run.jobs_json.exists()


def test_a_run_rendered_for_one_machine_is_not_submitted(tmp_path: Path) -> None:
    job = CommandJob.model_validate({"name": "mine", "command": ["true"]})
    run = render(described("local", "mpirun"), None, job, None, None, tmp_path / "run")

    with pytest.raises(UserError, match=r"rendered for somewhere, which has no Slurm; run it here: hpcllm run"):
        submit(run)


def test_a_dry_run_says_every_command_and_gives_none(demo_run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")

    commands = submit(demo_run, dry_run=True)

    script = shlex.quote(str(demo_run.script("30-train")))
    expected = f"sbatch --parsable --dependency=afterok:JOB_OF_shard --kill-on-invalid-dep=yes {script}"
    assert commands["train"] == expected


def test_every_stage_waits_for_those_before_it(demo_run: Run, fake_slurm: Fake) -> None:
    calls = fake_slurm("sbatch", SBATCH)
    quiet(fake_slurm)

    made = submit(demo_run)

    assert made == {stage.name: str(i + 1) for i, stage in enumerate(stages(frozen_any_job(demo_run)))}
    assert read_json(demo_run.jobs_json) == {name: [job_id] for name, job_id in made.items()}
    gather = [line for line in calls.read_text().splitlines() if "parsable" in line and "90-gather" in line]
    assert f"--dependency=afterok:{made['evaluate']}:{made['evaluate-compressed']} " in gather[0]


def test_submit_sh_gives_the_same_commands(demo_run: Run, fake_slurm: Fake) -> None:
    calls = fake_slurm("sbatch", SBATCH)

    subprocess.run(["bash", demo_run.submit_sh], check=True)

    ids = {name: found[0] for name, found in read_json(demo_run.jobs_json).items()}
    rows = stages(frozen_any_job(demo_run))
    expected = [" ".join(sbatch_tokens(demo_run, row, [ids[name] for name in row.after])[1:]) for row in rows]
    assert calls.read_text().splitlines() == expected
    assert subprocess.run(["bash", demo_run.submit_sh], capture_output=True).returncode == 2  # not a second time


@pytest.mark.parametrize("by_hand", [False, True])
def test_when_one_submission_breaks_the_earlier_ones_are_cancelled(
    demo_run: Run, fake_slurm: Fake, monkeypatch: pytest.MonkeyPatch, by_hand: bool
) -> None:
    fake_slurm("sbatch", SBATCH)
    quiet(fake_slurm)
    cancelled = fake_slurm("scancel", "")
    monkeypatch.setenv("FAIL", "1")

    if by_hand:
        assert subprocess.run(["bash", demo_run.submit_sh], capture_output=True).returncode == 1
    else:
        with pytest.raises(UserError, match="Socket timed out"):
            submit(demo_run)

    assert sorted(cancelled.read_text().split()) == ["1", "2"]
    assert not demo_run.jobs_json.exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_in_the_middle_withdraws_what_was_submitted(
    demo_run: Run, fake_slurm: Fake, number: signal.Signals
) -> None:
    """The signal comes while the second sbatch is at it, whose job is known to Slurm before its id is to us."""
    kill = f"[[ $* == *20-shard* && $1 != --test-only ]] && kill -{number.name.removeprefix('SIG')} $PPID"
    fake_slurm("sbatch", f"{kill}\n{SBATCH}")
    quiet(fake_slurm)
    cancelled = fake_slurm("scancel", "")

    with pytest.raises(Interrupted, match=f"stopped by {number.name}: nothing of this call stays in the queue"):
        submit(demo_run)

    assert cancelled.read_text().split() == ["2", "1"]
    assert not demo_run.jobs_json.exists()
    assert signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler)


def test_a_job_that_slurm_took_without_saying_so_is_withdrawn_too(demo_run: Run, fake_slurm: Fake) -> None:
    """sbatch times out, and the controller has the job all the same: it is found in the queue by its script."""
    fake_slurm("sbatch", '[[ $1 == --test-only ]] || { echo "Socket timed out" >&2; exit 1; }')
    in_queue = f"77|research|normal|batch|{demo_run.script('10-tokenizer')}|\\n"
    asked = demo_run.root.parent / "asked"
    own = f'[[ $* == *Command* ]] && {{ [[ ! -e {asked} ]] || printf "{in_queue}"; touch {asked}; }}; exit 0'
    quiet(fake_slurm)
    fake_slurm("squeue", own)
    cancelled = fake_slurm("scancel", "")

    with pytest.raises(UserError, match="Socket timed out"):
        submit(demo_run)

    assert cancelled.read_text().split() == ["77"]


def test_jobs_that_cannot_be_withdrawn_are_named(
    demo_run: Run, fake_slurm: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_slurm("sbatch", SBATCH)
    quiet(fake_slurm)
    fake_slurm("scancel", 'echo "scancel: error: Unable to contact slurm controller" >&2; exit 1')
    monkeypatch.setenv("FAIL", "1")

    with pytest.raises(HpcllmError, match="Socket timed out.*Unable to contact.*cancel by hand: scancel 2 1"):
        submit(demo_run)


def test_what_a_killed_submit_left_in_the_queue_is_taken_over(demo_run: Run, fake_slurm: Fake) -> None:
    fake_slurm("sbatch", SBATCH)
    quiet(fake_slurm)
    left = f"77|research|normal|batch|{demo_run.script('10-tokenizer')}|"
    fake_slurm("squeue", f'[[ $* == *Command* ]] && echo "{left}" || {queued("77", "PENDING")}')

    made = submit(demo_run)

    assert "tokenizer" not in made
    assert read_json(demo_run.jobs_json)["tokenizer"] == ["77"]
    asked = (demo_run.root.parent / "sbatch.calls").read_text()
    assert f"--dependency=afterok:77 --kill-on-invalid-dep=yes {demo_run.script('20-shard')}" in asked


def test_two_submits_at_once_submit_once(demo_run: Run, fake_slurm: Fake) -> None:
    calls = fake_slurm("sbatch", SBATCH)
    quiet(fake_slurm)
    with demo_run.jobs_lock.open("w") as first:
        fcntl.flock(first, fcntl.LOCK_EX)

        with pytest.raises(UserError, match=r"jobs\.lock: another submit of this run is at it"):
            submit(demo_run)

    assert not calls.exists()
    assert submit(demo_run)


def test_a_stage_that_other_code_did_is_submitted_again(demo_run: Run, fake_slurm: Fake) -> None:
    fake_slurm("sbatch", SBATCH)
    quiet(fake_slurm)
    done = {"outcome": "done", "message": "", "job_id": None, "hosts": [], "start": 1.0, "end": 2.0}
    for stage in stages(frozen_any_job(demo_run)):
        write_json(demo_run.state_json(stage.id), {**done, "key": stage_key(demo_run, stage)})
        leave_outputs(demo_run, stage)
    assert submit(demo_run) == {}

    write_json(demo_run.software_json, {**read_json(demo_run.software_json), "code_sha256": "other"})

    assert list(submit(demo_run)) == [stage.name for stage in stages(frozen_any_job(demo_run))]


def test_a_job_that_slurm_forgot_is_submitted_again(demo_run: Run, fake_slurm: Fake) -> None:
    fake_slurm("sbatch", SBATCH)
    quiet(fake_slurm)
    fake_slurm("squeue", "exit 0")
    write_json(demo_run.jobs_json, {"tokenizer": ["70"]})
    os.utime(demo_run.jobs_json, (0, 0))

    made = submit(demo_run)

    assert read_json(demo_run.jobs_json)["tokenizer"] == ["70", made["tokenizer"]]


def test_a_second_submit_adds_only_what_is_missing(demo_run: Run, fake_slurm: Fake) -> None:
    fake_slurm("sbatch", SBATCH)
    fake_slurm("squeue", queued("9", "RUNNING", 100, "n1"))
    fake_slurm("sacct", f"{accounted('8', 'COMPLETED', 10, 20)}; {accounted('7', 'FAILED', 30, 40, '1:0')}")
    fake_slurm("scontrol", "exit 1")
    write_json(demo_run.jobs_json, {"tokenizer": ["8"], "shard": ["9"], "train": ["7"]})

    made = submit(demo_run)

    assert list(made) == ["train", "evaluate", "compress", "evaluate-compressed", "gather"]
    assert read_json(demo_run.jobs_json)["train"] == ["7", made["train"]]
    asked = (demo_run.root.parent / "sbatch.calls").read_text()
    assert f"--dependency=afterok:9 --kill-on-invalid-dep=yes {demo_run.script('30-train')}" in asked
