"""The runner of a stage: done once, again when what it read changed, never twice at the same time, always recorded."""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from hpcllm.cluster.detection.here import local_profile
from hpcllm.errors import HpcllmError, Interrupted, UserError
from hpcllm.job.spec import absolute, frozen_job, load_job
from hpcllm.launch.key import stage_key
from hpcllm.launch.pipeline import find_stage
from hpcllm.launch.render import render
from hpcllm.parallel.stage import record_failure, run_stage
from hpcllm.parallel.world import World
from hpcllm.plan.search import search
from hpcllm.run_directory import Run, read_json, write_json, write_text

JOBS = Path(__file__).parents[2] / "jobs"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    job = absolute(load_job(JOBS / "demo.yaml"), JOBS)
    profile = local_profile()
    return render(profile, None, job, None, search(profile, job), tmp_path / "run")


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch) -> Callable[[Exception | None], list[Run]]:
    """program(error): the tokenizer's program only notes that it was called, and raises the error."""

    def install(error: Exception | None = None) -> list[Run]:
        calls: list[Run] = []

        def main(run: Run, stage: Any, world: World) -> None:
            calls.append(run)
            write_text(run.tokenizer_json, "{}")
            assert read_json(run.state_json(stage.id))["outcome"] == "running"
            if error:
                raise error

        module = ModuleType("hpcllm.stages.tokenizer")
        module.main = main  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "hpcllm.stages.tokenizer", module)
        return calls

    return install


Program = Callable[..., list[Run]]


def state(run: Run) -> dict[str, Any]:
    found: dict[str, Any] = read_json(run.state_json("10-tokenizer"))
    return found


def change(run: Run, section: str, **values: Any) -> None:
    resolved = run.resolved()
    resolved["job"][section] |= values
    write_json(run.resolved_json, resolved)


def test_what_became_of_a_stage_is_recorded(run: Run, program: Program) -> None:
    program()

    run_stage(run, "tokenizer")

    found = state(run)
    assert (found["outcome"], found["exit_code"], found["attempt"], found["message"]) == ("done", 0, 1, "")
    assert (found["host"], found["pid"], found["world_size"]) == (socket.gethostname(), os.getpid(), 1)
    assert found["start"] <= found["end"]


def test_a_stage_that_is_done_is_not_done_again(run: Run, program: Program, capsys: pytest.CaptureFixture[str]) -> None:
    calls = program()

    run_stage(run, "tokenizer")
    run_stage(run, "tokenizer")

    assert len(calls) == 1
    assert "10-tokenizer: done already, nothing to do" in capsys.readouterr().out


def test_a_stage_runs_again_when_what_it_reads_of_the_job_changed(run: Run, program: Program) -> None:
    calls = program()
    run_stage(run, "tokenizer")

    change(run, "train", steps=7)
    run_stage(run, "tokenizer")
    assert len(calls) == 1

    change(run, "data", shard="1000 tokens")
    run_stage(run, "tokenizer")
    assert len(calls) == 2
    assert state(run)["attempt"] == 2


def test_a_change_reaches_every_stage_behind_and_none_before(run: Run) -> None:
    def keys() -> dict[str, str]:
        job = frozen_job(run)
        return {name: stage_key(run, find_stage(job, name)) for name in ("tokenizer", "shard", "train", "gather")}

    before = keys()
    change(run, "train", steps=7)
    after = keys()

    assert [name for name in before if before[name] != after[name]] == ["train", "gather"]


def test_other_code_makes_another_key(run: Run) -> None:
    stage = find_stage(frozen_job(run), "train")
    before = stage_key(run, stage)

    write_json(run.software_json, {**read_json(run.software_json), "code_sha256": "other"})

    assert stage_key(run, stage) != before


@pytest.mark.parametrize(
    ("error", "outcome", "code"),
    [(Interrupted("saved"), "interrupted", 75), (HpcllmError("no"), "failed", 1), (UserError("you"), "failed", 2)],
)
def test_an_error_is_recorded_with_its_message_and_code(
    run: Run, program: Program, error: HpcllmError, outcome: str, code: int
) -> None:
    program(error)

    with pytest.raises(type(error)):
        run_stage(run, "tokenizer")

    found = state(run)
    assert (found["outcome"], found["message"], found["exit_code"]) == (outcome, str(error), code)


def test_after_an_interruption_the_stage_goes_on(run: Run, program: Program) -> None:
    program(Interrupted("saved"))
    with pytest.raises(Interrupted):
        run_stage(run, "tokenizer")

    calls = program()
    run_stage(run, "tokenizer")

    assert len(calls) == 1
    assert (state(run)["outcome"], state(run)["attempt"]) == ("done", 2)


def test_an_error_of_ours_is_recorded_with_its_type(run: Run, program: Program) -> None:
    program(ZeroDivisionError("division by zero"))

    with pytest.raises(ZeroDivisionError):
        run_stage(run, "tokenizer")

    assert state(run)["message"] == "ZeroDivisionError: division by zero"


def start_elsewhere(run: Run, **changes: Any) -> None:
    here = {"host": socket.gethostname(), "pid": 1, "job_id": None, "start": time.time()}
    write_json(run.state_json("10-tokenizer"), {"outcome": "running", "key": "k", "attempt": 1, **here, **changes})


@pytest.mark.parametrize("where", [{"pid": os.getppid()}, {"host": "n9", "job_id": "12"}])
def test_a_second_start_while_the_first_lives_is_refused(run: Run, program: Program, where: dict[str, Any]) -> None:
    calls = program()
    start_elsewhere(run, **where)

    with pytest.raises(UserError, match="is at it .*; wait for it or cancel it first"):
        run_stage(run, "tokenizer")

    assert calls == []


def test_a_start_that_died_is_no_obstacle(run: Run, program: Program) -> None:
    calls = program()
    start_elsewhere(run, pid=2**22 + 1)

    run_stage(run, "tokenizer")

    assert len(calls) == 1


def test_a_start_elsewhere_without_a_heartbeat_is_no_obstacle(run: Run, program: Program) -> None:
    calls = program()
    start_elsewhere(run, host="n9")
    os.utime(run.state_json("10-tokenizer"), (0, 0))

    run_stage(run, "tokenizer")

    assert len(calls) == 1


def test_a_requeued_job_takes_over_from_itself(run: Run, program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = program()
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    start_elsewhere(run, host="n9", job_id="12", restarts=0)

    run_stage(run, "tokenizer")

    assert len(calls) == 1
    assert (state(run)["job_id"], state(run)["restarts"]) == ("12", 1)


def test_a_second_start_inside_the_same_allocation_is_refused(
    run: Run, program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = program()
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    start_elsewhere(run, host="n9", job_id="12", restarts=0)

    with pytest.raises(UserError, match="job 12 on n9 is at it"):
        run_stage(run, "tokenizer")

    assert calls == []


def test_a_stage_whose_output_was_deleted_runs_again(run: Run, program: Program) -> None:
    calls = program()
    run_stage(run, "tokenizer")

    run.tokenizer_json.unlink()
    run_stage(run, "tokenizer")

    assert len(calls) == 2


def test_a_stage_whose_work_before_is_not_done_does_not_start(run: Run, program: Program) -> None:
    with pytest.raises(
        UserError, match="40-evaluate: train is not done with what the job says now; hpcllm stage train"
    ):
        run_stage(run, "evaluate")

    assert not run.state_json("40-evaluate").exists()


def test_a_preflight_that_fails_does_not_write_over_a_start_that_lives(run: Run) -> None:
    start_elsewhere(run, host="n9", job_id="12")

    record_failure(run, find_stage(frozen_job(run), "tokenizer"), World.alone(), "preflight: n3 is slow")

    assert state(run)["outcome"] == "running"


def test_a_preflight_that_fails_is_the_record_of_the_stage(run: Run) -> None:
    record_failure(run, find_stage(frozen_job(run), "tokenizer"), World.alone(), "preflight: n3 is slow")

    assert (state(run)["outcome"], state(run)["message"]) == ("failed", "preflight: n3 is slow")


def test_ranks_that_started_each_alone_are_told_why(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(World, "of_mpi", World.alone)
    plan = read_json(run.plan_json)
    write_json(run.plan_json, {**plan, "world_size": 4})
    for name, value in {"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "4"}.items():
        monkeypatch.setenv(name, value)

    with pytest.raises(UserError, match="each of the 4 processes is an MPI world .*; srun was given no --mpi="):
        run_stage(run, "shard")

    assert not run.state_json("20-shard").exists()


def test_a_damaged_record_is_said_and_nothing_starts(run: Run, program: Program) -> None:
    calls = program()
    run.state.mkdir()
    run.state_json("10-tokenizer").write_text('{"stage": ')

    with pytest.raises(HpcllmError, match=r"10-tokenizer\.json: damaged: .*; delete it"):
        run_stage(run, "tokenizer")

    assert calls == []


# ---- arrays ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def shared(run: Run, program: Program, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """shared(failing=1): the shards are three elements that only note their share, of which one fails; the notes."""
    change(run, "data", shard_jobs=3)
    monkeypatch.setattr("hpcllm.parallel.stage.start_mpi", lambda _: World.alone())
    monkeypatch.setattr("hpcllm.parallel.stage._check_ranks", lambda *_: None)
    program()
    run_stage(run, "tokenizer")

    def install(failing: int | None = None) -> list[str]:
        notes: list[str] = []

        def main(run: Run, stage: Any, world: World) -> None:
            if stage.element == failing:
                raise HpcllmError("no luck")
            notes.append(stage.options["share"])

        def merge(run: Run) -> None:
            notes.append("merge")
            write_json(run.index_json, {})

        module = ModuleType("hpcllm.stages.shard")
        module.main, module.merge = main, merge  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "hpcllm.stages.shard", module)
        return notes

    return install


def test_each_job_does_its_part_and_the_last_puts_them_together(run: Run, shared: Callable[..., list[str]]) -> None:
    notes = shared()

    for part in ("2/3", "0/3", "1/3", "1/3"):
        run_stage(run, "shard", part)

    assert notes == ["2/3", "0/3", "1/3", "merge"]
    assert read_json(run.state_json("20-shard_2"))["part"] == "2/3"
    assert not run.state_json("20-shard").exists()


def test_one_job_does_all_elements_and_only_what_failed_again(run: Run, shared: Callable[..., list[str]]) -> None:
    notes = shared(failing=1)
    with pytest.raises(HpcllmError, match="no luck"):
        run_stage(run, "shard")
    assert notes == ["0/3"]

    notes = shared()
    run_stage(run, "shard")

    assert notes == ["1/3", "2/3", "merge"]


def test_what_is_not_put_together_is_by_the_stage_that_needs_it(
    run: Run, shared: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[bool] = []
    module = ModuleType("hpcllm.stages.train")
    module.main = lambda run, stage, world: trained.append(run.index_json.exists())  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "hpcllm.stages.train", module)
    notes = shared()
    run_stage(run, "shard")
    run.index_json.unlink()

    run_stage(run, "train")

    assert notes[-2:] == ["merge", "merge"]
    assert trained == [True]


def test_a_stage_behind_an_array_waits_for_all_of_it(run: Run, shared: Callable[..., list[str]]) -> None:
    shared()
    run_stage(run, "shard", "0/2")

    with pytest.raises(UserError, match="shard is not done with what the job says now"):
        run_stage(run, "train")
