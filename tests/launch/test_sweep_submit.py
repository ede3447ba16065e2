"""A sweep's folder, and how it goes to Slurm: arrays, what is shared, what is left out."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from shipped_jobs import JOBS, described
from slurm_says import queued

from hpcllm import cli
from hpcllm.errors import UserError
from hpcllm.launch.submission.sweep_submit import submit_sweep
from hpcllm.launch.sweep import Sweep, borrowed
from hpcllm.launch.tracking.efficiency import efficiency_of_runs
from hpcllm.launch.tracking.states import State
from hpcllm.launch.tracking.sweep_status import SweepStatus, cancel_all, look_at
from hpcllm.launch.tracking.track import RunStatus, StageStatus
from hpcllm.report.sweep_table import sweep_text, watch_sweep
from hpcllm.run_directory import Run, read_json, write_json

Fake = Callable[[str, str], Path]
ROWS = """\
name: mine
stages:
  - {name: first, command: [echo, hello]}
  - {name: second, command: [echo, hello], after: [first]}
resources: {nodes: 1, ranks_per_node: 1, time: 5m}
"""
COMMANDS = ("squeue", "sacct", "scontrol", "sinfo", "sacctmgr")
# Gives the ids 1, 2, 3, …; refuses the call whose number is in FAIL.
SBATCH = """
[[ $1 == --test-only ]] && exit 0
number=$(grep -c parsable "$(dirname "$0")/../sbatch.calls")
[[ $number == "${FAIL:-}" ]] && { echo "sbatch: error: no" >&2; exit 1; }
echo "$number"
"""


@pytest.fixture
def sweep(tmp_path: Path) -> Callable[..., Sweep]:
    """sweep("environment.X: ['1', '2']"): rendered for a small Slurm cluster."""

    def made(grid: str, text: str = ROWS, **scheduler: Any) -> Sweep:
        (tmp_path / "job.yaml").write_text(f"{text}sweep: {{{grid}}}\n")
        profile = described().model_copy(update={"name": "somewhere"})
        profile = profile.model_copy(update={"scheduler": profile.scheduler.model_copy(update=scheduler)})
        (tmp_path / "somewhere.yaml").write_text(profile.model_dump_json(by_alias=True, exclude_defaults=True))
        words = ["--cluster", str(tmp_path / "somewhere.yaml"), "--out", str(tmp_path / "sweep")]
        assert cli.main(["render", str(tmp_path / "job.yaml"), *words]) == 0
        return Sweep.open(tmp_path / "sweep")

    return made


@pytest.fixture
def sbatch(fake_slurm: Fake) -> Path:
    """Its calls; nothing is known of any job."""
    for name in COMMANDS:
        fake_slurm(name, "exit 0")
    return fake_slurm("sbatch", SBATCH)


def calls(path: Path) -> list[str]:
    lines = path.read_text().splitlines() if path.exists() else []
    return [line for line in lines if "--test-only" not in line]


def test_each_point_is_a_run_of_its_own(sweep: Callable[..., Sweep]) -> None:
    found = sweep("environment.X: ['a b', '$(c)'], resources.nodes: [1, 2]")

    assert [run.root.name for run in found.runs] == ["000", "001", "002", "003"]
    assert found.labels[3] == "X=$(c) nodes=2"
    assert read_json(found.runs[3].resolved_json)["job"]["environment"] == {"X": "$(c)"}
    assert (found.runs[3].code / "hpcllm" / "cli").is_dir()


def test_a_stage_of_all_runs_is_one_array_each_task_after_its_own(sweep: Callable[..., Sweep], sbatch: Path) -> None:
    found = sweep("environment.X: ['1', '2', '3']")

    made, waiting = submit_sweep(found)

    scripts = [found.script(stage_id, "0") for stage_id in ("01-first", "02-second")]
    assert calls(sbatch) == [
        f"--parsable --array=0-2 {scripts[0]}",
        f"--parsable --array=0-2 --dependency=aftercorr:1 --kill-on-invalid-dep=yes {scripts[1]}",
    ]
    assert ([job_id for _, job_id in made], waiting) == (["1", "2"], 0)
    assert read_json(found.runs[1].jobs_json) == {"first": ["1_1"], "second": ["2_1"]}
    assert f'exec bash {found.root}/"$(printf %03d "$SLURM_ARRAY_TASK_ID")"/scripts/01-first.sbatch' in (
        scripts[0].read_text()
    )


def test_runs_that_ask_for_other_nodes_are_another_array(sweep: Callable[..., Sweep], sbatch: Path) -> None:
    submit_sweep(sweep("resources.nodes: [1, 2], environment.X: ['1', '2']"))

    assert [line.split()[1] for line in calls(sbatch)] == ["--array=0-1", "--array=2-3"] * 2


def test_as_many_run_at_a_time_as_the_job_says(sweep: Callable[..., Sweep], sbatch: Path) -> None:
    submit_sweep(sweep("environment.X: ['1', '2', '3']", ROWS + "slurm: {at_a_time: 2}\n"))

    assert "--array=0-2%2" in calls(sbatch)[0]


def test_above_the_largest_array_runs_are_submitted_by_themselves(sweep: Callable[..., Sweep], sbatch: Path) -> None:
    found = sweep("environment.X: ['1', '2', '3']", max_array_size=2)

    submit_sweep(found)

    assert calls(sbatch)[0].startswith("--parsable --array=0-1 ")
    assert calls(sbatch)[1] == f"--parsable {found.runs[2].script('01-first')}"
    assert read_json(found.runs[2].jobs_json)["first"] == ["2"]


def test_what_is_more_than_may_be_queued_waits_for_the_next_call(sweep: Callable[..., Sweep], sbatch: Path) -> None:
    _, waiting = submit_sweep(sweep("environment.X: ['1', '2', '3']", max_submitted=5))

    assert waiting == 1
    assert "--array=0-1 " in calls(sbatch)[0]


def test_a_second_submit_adds_only_what_is_missing(sweep: Callable[..., Sweep], sbatch: Path, fake_slurm: Fake) -> None:
    found = sweep("environment.X: ['1', '2', '3']")
    submit_sweep(found)
    running = [queued(f"{job}_{i}", "RUNNING" if job == 1 else "PENDING", 100) for job in (1, 2) for i in (0, 2)]
    fake_slurm("squeue", "\n".join([*running, queued("1_1", "FAILED"), queued("2_1", "CANCELLED")]))
    sbatch.unlink()

    submit_sweep(found)

    assert calls(sbatch) == [
        f"--parsable {found.runs[1].script('01-first')}",
        f"--parsable --dependency=afterok:1 --kill-on-invalid-dep=yes {found.runs[1].script('02-second')}",
    ]
    assert read_json(found.runs[1].jobs_json)["first"] == ["1_1", "1"]


def test_when_sbatch_fails_in_the_middle_nothing_stays(
    sweep: Callable[..., Sweep], sbatch: Path, fake_slurm: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    scancel = fake_slurm("scancel", "")
    monkeypatch.setenv("FAIL", "2")
    found = sweep("environment.X: ['1', '2']")

    with pytest.raises(UserError, match="sbatch refuses it: sbatch: error: no"):
        submit_sweep(found)

    assert scancel.read_text() == "1\n"
    assert not found.runs[0].jobs_json.exists()


def test_runs_of_the_same_data_share_tokenizer_and_shards(sweep: Callable[..., Sweep], sbatch: Path) -> None:
    grid = "data.tokenizer.vocabulary: [300, 400], train.optimizer.learning_rate: [1e-3, 3e-3]"
    found = sweep(grid, (JOBS / "demo.yaml").read_text())

    submit_sweep(found)

    assert set(borrowed(found.runs).items()) == {
        *(((1, name), 0) for name in ("tokenizer", "shard")),
        *(((3, name), 2) for name in ("tokenizer", "shard")),
    }
    lines = calls(sbatch)
    assert [line.split("/")[-1] for line in lines[:4]] == [
        *("10-tokenizer.0.sbatch", "20-shard.0.sbatch", "30-train.0-0.sbatch", "30-train.0-1.sbatch")
    ]
    assert "--array=0,2 " in lines[0]
    assert "--array=2-3 --dependency=afterok:2_2 " in lines[3]
    jobs = [read_json(run.jobs_json) for run in found.runs]
    assert jobs[1]["shard"] == jobs[0]["shard"] == ["2_0"]
    assert jobs[3]["shard"] == jobs[2]["shard"] == ["2_2"]
    found.runs[0].tokenizer_json.write_text("{}")
    assert found.runs[1].tokenizer_json.exists()


def test_status_and_cancel_ask_once_for_all_runs(sweep: Callable[..., Sweep], sbatch: Path, fake_slurm: Fake) -> None:
    found = sweep("environment.X: ['1', '2', '3']")
    for i, run in enumerate(found.runs):
        write_json(run.jobs_json, {"first": [f"7_{i}"], "second": [f"8_{i}"]})
    rows = [queued(f"{job}_{i}", "PENDING", reason="Priority") for job in (7, 8) for i in range(3)]
    squeue, scancel = fake_slurm("squeue", "\n".join(rows)), fake_slurm("scancel", "")
    sacct, scontrol = (fake_slurm(name, "exit 0") for name in ("sacct", "scontrol"))

    now = look_at(found)

    assert [stage.state for run in now.runs for stage in run.stages] == ["pending", "waiting"] * 3
    assert [path.read_text().count("\n") for path in (squeue, sacct, scontrol) if path.exists()] == [1]
    assert cancel_all(found, "second") == "cancelled 3 jobs"
    assert scancel.read_text() == "8_0 8_1 8_2\n"


def test_another_sweep_does_not_go_into_the_same_folder(
    sweep: Callable[..., Sweep], capsys: pytest.CaptureFixture[str]
) -> None:
    sweep("environment.X: ['1', '2']")

    with pytest.raises(AssertionError):
        sweep("environment.X: ['1', '3']")
    assert "holds another sweep" in capsys.readouterr().err


def test_a_sweeps_folder_goes_on_as_it_was_rendered_and_other_commands_take_one_of_its_runs(
    sweep: Callable[..., Sweep], capsys: pytest.CaptureFixture[str]
) -> None:
    root = str(sweep("environment.X: ['1', '2']").root)

    assert [cli.main(words) for words in (["submit", root, "--nodes", "2"], ["generate", root])] == [2, 2]
    said = capsys.readouterr().err
    assert "leave out --nodes" in said
    assert f"is a sweep; give one of its runs, such as {root}/000" in said


def everything_in(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.parent.name != "bin"}


def test_a_dry_run_says_what_a_submit_then_does_and_leaves_nothing_behind(
    sweep: Callable[..., Sweep], sbatch: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = sweep("environment.X: ['1', '2'], resources.nodes: [1, 2]")
    before = everything_in(found.root)

    assert cli.main(["submit", str(found.root), "--dry-run"]) == 0

    said = capsys.readouterr().out
    assert everything_in(found.root) == before
    assert not calls(sbatch)
    submit_sweep(found)
    for given, own in zip(calls(sbatch), said_commands(said), strict=True):
        assert given == re.sub(r"JOB_OF_first", "1", own).replace("JOB_2_OF_first", "2")
    path = found.script("01-first", "0")
    assert f"==> {path}\n{path.read_text()}" in said


def said_commands(said: str) -> list[str]:
    return [line.partition(" sbatch ")[2] for line in said.splitlines() if " sbatch --parsable" in line]


def test_a_dry_run_of_a_job_file_removes_what_it_rendered(
    sweep: Callable[..., Sweep], sbatch: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep("environment.X: ['1', '2']")
    monkeypatch.chdir(tmp_path)
    before = set(tmp_path.iterdir())

    assert cli.main(["submit", "job.yaml", "--cluster", "somewhere.yaml", "--dry-run"]) == 0

    assert set(tmp_path.iterdir()) - before <= {
        tmp_path / name for name in ("sbatch.calls", *(f"{name}.calls" for name in COMMANDS))
    }
    assert not (tmp_path / "runs").exists()
    assert not calls(sbatch)


def test_every_run_is_checked_and_those_that_ask_for_the_same_once(
    sweep: Callable[..., Sweep], fake_slurm: Fake, sbatch: Path
) -> None:
    fake_slurm("sbatch", '[[ $* == *002* ]] && { echo "sbatch: error: Requested node count" >&2; exit 1; }; exit 0')
    found = sweep("resources.nodes: [1, 2], environment.X: ['1', '2']")

    with pytest.raises(UserError, match="01-first, 02-second: Slurm refuses it: Requested node count"):
        submit_sweep(found)

    asked = sorted(line.split("/")[-3] for line in sbatch.read_text().splitlines())
    assert asked == ["000", "000", "002", "002"]


def test_tasks_that_a_killed_submit_left_in_the_queue_are_taken_over(
    sweep: Callable[..., Sweep], sbatch: Path, fake_slurm: Fake
) -> None:
    found = sweep("environment.X: ['1', '2', '3']")
    script = found.script("01-first", "0")
    left = "; ".join(f"echo '77_{i}|research|normal|batch|{script}|'" for i in range(2))
    known = "; ".join(queued(f"77_{i}", "PENDING") for i in range(2))
    fake_slurm("squeue", f"if [[ $* == *Command* ]]; then {left}; else {known}; fi")

    submit_sweep(found)

    assert [read_json(run.jobs_json)["first"] for run in found.runs] == [["77_0"], ["77_1"], ["1"]]
    assert calls(sbatch)[0] == f"--parsable {found.runs[2].script('01-first')}"
    assert not any("77" not in line and "02-second" in line and "--array=0" in line for line in calls(sbatch))


def test_a_broken_submit_also_cancels_what_slurm_took_without_saying_so(
    sweep: Callable[..., Sweep], sbatch: Path, fake_slurm: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, scancel = sweep("environment.X: ['1', '2']"), fake_slurm("scancel", "")
    monkeypatch.setenv("FAIL", "2")
    unsaid = f"echo '9_0|research|normal|batch|{found.script('02-second', '0')}|'"
    fake_slurm("squeue", f"grep -q parsable $(dirname $0)/../sbatch.calls && [[ $* == *Command* ]] && {unsaid}; exit 0")

    with pytest.raises(UserError, match="sbatch refuses it"):
        submit_sweep(found)

    assert scancel.read_text() == "1 9\n"


def test_a_run_of_a_sweep_is_as_long_a_chain_as_by_itself(sweep: Callable[..., Sweep], sbatch: Path) -> None:
    text = (JOBS / "demo.yaml").read_text() + "slurm: {chained_jobs: 2}\n"
    found = sweep("train.seed: [1, 2]", text, requeue=False)

    submit_sweep(found)

    train = read_json(found.runs[1].jobs_json)["train"][0].split(":")
    assert len(train) == 3
    assert any(f"--dependency=afternotok:{train[0]}:{train[1]} " in line for line in calls(sbatch))


def failed(run: Run, end: float, words: str) -> None:
    """The first stage of a run, over."""
    record = {"stage": "first", "key": None, "attempt": 1, "outcome": "failed", "message": "", "exit_code": 1}
    record |= {"job_id": None, "host": "n1", "pid": 1, "world_size": 1, "hosts": ["n1"], "start": 1.0, "end": end}
    write_json(run.state_json("01-first"), record)
    run.log("01-first", 1).write_text(words)


def test_logs_finds_and_quotes_the_run_that_failed_first(
    sweep: Callable[..., Sweep], capsys: pytest.CaptureFixture[str]
) -> None:
    found = sweep("environment.X: ['1', '2', '3']")
    root = str(found.root)
    capsys.readouterr()
    assert cli.main(["logs", root, "--errors"]) == 0
    assert "none of 3 runs has failed" in capsys.readouterr().out
    failed(found.runs[1], 20.0, "0: ValueError: later\n")
    failed(found.runs[2], 10.0, "0: fine\n0: ValueError: boom\n")

    assert cli.main(["logs", root, "--errors"]) == 0
    said = capsys.readouterr().out
    assert "2 of 3 runs failed (1-2). The first was 002 (X=3), in first: failed" in said
    assert "ValueError: boom" in said
    assert "later" not in said

    assert cli.main(["logs", root, "1"]) == 0
    assert "ValueError: later" in capsys.readouterr().out
    assert cli.main(["logs", root, "7"]) == 2
    assert "expected the number of one of its runs, 000 to 002" in capsys.readouterr().err


def test_watch_in_a_log_says_each_change_of_a_run_once(
    sweep: Callable[..., Sweep], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = sweep("environment.X: ['1', '2']")
    pending = StageStatus("first", "7", "pending")
    looks = [
        [pending, pending],
        [StageStatus("first", "7", "running"), pending],
        [StageStatus("first", "7", "done"), StageStatus("first", "7", "failed", reason="boom")],
    ]
    monkeypatch.setattr(
        "hpcllm.report.sweep_table.look_at", lambda _: SweepStatus(tuple(RunStatus((one,)) for one in looks.pop(0)))
    )
    monkeypatch.setattr("hpcllm.report.sweep_table.time.sleep", lambda _: None)
    capsys.readouterr()

    watch_sweep(found)

    assert capsys.readouterr().out.splitlines() == [
        *("000 first pending 7", "001 first pending 7", "2 runs: 2 pending"),
        *("000 first running 7", "2 runs: 1 running, 1 pending"),
        *("000 first done 7", "001 first failed 7 boom", "2 runs: 1 done, 1 failed"),
    ]


def test_where_a_terminal_has_no_room_for_all_runs_those_that_went_wrong_stay(sweep: Callable[..., Sweep]) -> None:
    found = sweep("environment.X: ['1', '2', '3']")
    states: tuple[State, ...] = ("done", "failed", "running")
    now = SweepStatus(tuple(RunStatus((StageStatus("first", "7", state),)) for state in states))

    text = sweep_text(found, now, most_runs=2).plain

    assert [line.split()[0] for line in text.splitlines()[2:]] == ["001", "002", "and"]


def test_what_the_runs_used_is_one_question_and_the_last_row_is_the_sum(
    sweep: Callable[..., Sweep], fake_slurm: Fake, capsys: pytest.CaptureFixture[str]
) -> None:
    found = sweep("environment.X: ['1', '2']")
    for i, run in enumerate(found.runs):
        write_json(run.jobs_json, {"first": ["69_0"], "second": [f"70_{i}"]})  # the first is shared
    rows = [("69_0", 100), ("70_0", 200), ("70_1", 300)]
    tres = "cpu=4,gres/gpu=2,mem=8G"
    asked = fake_slurm(
        "sacct",
        "; ".join(f"echo '{one}|COMPLETED|100|160|{ran}|00:{ran // 10}|{4 * ran}||{tres}'" for one, ran in rows),
    )

    used = efficiency_of_runs(found.root, found.runs)

    assert [(use.name, use.ran_s) for use in used] == [("000", 300), ("001", 300), ("in all", 600)]
    assert used[-1].gpu_hours == pytest.approx(2 * 600 / 3600)
    assert used[-1].waited_s == 180
    assert len(asked.read_text().splitlines()) == 1
    assert asked.read_text().rstrip().endswith("--jobs=69_0,70")
    capsys.readouterr()
    assert cli.main(["status", "--efficiency", str(found.root)]) == 0
    assert "GPU-hours" in capsys.readouterr().out


def test_a_sweep_runs_here_one_run_after_the_other(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(
        "name: here\nstages: [{name: say, command: [bash, -c, 'echo $X >>said']}]\nsweep: {environment.X: ['1', '2']}\n"
    )

    assert cli.main(["run", str(tmp_path / "job.yaml"), "--ranks", "1", "--out", str(tmp_path / "sweep")]) == 0
    assert (tmp_path / "said").read_text() == "1\n2\n"
