"""A stage as an array of Slurm jobs: how many, what each does, what is missing of it, and how it is told as one."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from shipped_jobs import demo, described
from slurm_says import queued

from hpcllm import source
from hpcllm.cluster.profile import Profile
from hpcllm.errors import SourceError, UserError
from hpcllm.job.spec import Job
from hpcllm.launch.array import Part, array_size
from hpcllm.launch.key import stage_key
from hpcllm.launch.pipeline import find_stage, stages
from hpcllm.launch.render import render
from hpcllm.launch.scripts.dag_scripts import sbatch_tokens
from hpcllm.launch.tracking.logs import logs
from hpcllm.launch.tracking.track import StageStatus, status
from hpcllm.plan.search import search
from hpcllm.run_directory import Run, write_json

THREE = {"checkpoint": {"every_steps": 100, "keep": 3}}


def demo_with(**sections: Any) -> Job:
    data = demo().model_dump(mode="json", by_alias=True)
    merged = {name: {**data[name], **more} for name, more in sections.items()}
    return source.check({**data, **merged}, Job, "job.yaml", {})


def rendered(job: Job, folder: Path, profile: Profile | None = None) -> Run:
    profile = profile or described()
    return render(profile, None, job, None, search(profile, job), folder / "run")


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Two tasks of each of three checkpoints, as six jobs."""
    return rendered(demo_with(train=THREE, evaluate={"checkpoints": "all"}), tmp_path)


def record(run: Run, element: int, outcome: str, **more: Any) -> None:
    """What an element of evaluate said of itself."""
    job = demo_with(train=THREE, evaluate={"checkpoints": "all"})
    stage = find_stage(job, "evaluate").elements[element]
    for name in stage.makes if outcome == "done" else ():
        (run.root / name).mkdir(parents=True, exist_ok=True)
    began = {"key": stage_key(run, stage), "attempt": 1, "job_id": f"7_{element}", "part": f"{element}/6"}
    place = {"host": "n1", "hosts": ["n1"], "pid": 1, "world_size": 4, "start": 100.0, "end": 110.0 + element}
    write_json(run.state_json(stage.id), {**began, **place, "outcome": outcome, "message": "", "exit_code": 0, **more})


def evaluated(run: Run) -> StageStatus:
    return next(stage for stage in status(run) if stage.stage == "evaluate")


# ---- what an array is ------------------------------------------------------------------------------------------------


def test_the_demo_has_no_array():
    assert not any(stage.array for stage in stages(demo()))


@pytest.mark.parametrize("asked", ["last", "best", 1])
def test_one_checkpoint_is_one_job_with_all_tasks(asked: Any):
    stage = find_stage(demo_with(evaluate={"checkpoints": asked}), "evaluate")

    assert stage.elements == (stage,)


@pytest.mark.parametrize(("asked", "keep", "checkpoints"), [("all", 3, 3), ("all", 9, 5), (2, 3, 2)])
def test_several_are_an_element_for_each_checkpoint_and_task(asked: Any, keep: int, checkpoints: int):
    training = {"checkpoint": {"every_steps": 100, "keep": keep}}  # of 500 steps
    stage = find_stage(demo_with(train=training, evaluate={"checkpoints": asked}), "evaluate")

    tasks = [(element.options["checkpoint"], element.options["task"]) for element in stage.elements]
    assert tasks == [(str(i), task) for i in range(checkpoints) for task in ("perplexity", "samples")]
    assert [element.id for element in stage.elements][:2] == ["40-evaluate_0", "40-evaluate_1"]
    assert not find_stage(demo_with(train=training), "evaluate-compressed").array  # one model, as it is deployed


def test_files_are_shared_by_as_many_jobs_as_asked():
    stage = find_stage(demo_with(data={"shard_jobs": 3}), "shard")

    assert [element.options["share"] for element in stage.elements] == ["0/3", "1/3", "2/3"]


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"evaluate": {"checkpoints": 5}}, "checkpoints: found 5; training keeps the last 2 (train.checkpoint.keep)"),
        ({"evaluate": {"checkpoints": "first"}}, "found 'first'; expected last, best, all, or how many, from 1"),
        (
            {"evaluate": {"checkpoints": "best"}, "data": {"split": {"validation": 0}}},
            "found best; nothing tells which is (data.split.validation: 0)",
        ),
    ],
)
def test_checkpoints_that_will_not_be_there_are_one_mistake(sections: dict[str, Any], said: str):
    with pytest.raises(SourceError) as caught:
        demo_with(**sections)

    (problem,) = caught.value.problems
    assert said in str(problem)


# ---- its script and its jobs -----------------------------------------------------------------------------------------


def test_its_script_is_one_with_the_array_in_it(run: Run):
    text = run.script("40-evaluate").read_text()

    assert "#SBATCH --array=0-5 " in text
    assert f"#SBATCH --output={run.logs}/40-evaluate_%a.slurm.log " in text
    assert "array=6" in text
    assert "--array" not in run.script("30-train").read_text()


def test_no_more_jobs_than_the_site_takes_and_no_more_at_a_time_than_asked(tmp_path: Path):
    job = demo_with(train=THREE, evaluate={"checkpoints": "all"}, data={"shard_jobs": 100}, slurm={"at_a_time": 2})
    stage = find_stage(job, "shard")
    small = described()
    small = small.model_copy(update={"scheduler": small.scheduler.model_copy(update={"max_array_size": 40})})
    busy = small.model_copy(update={"scheduler": small.scheduler.model_copy(update={"max_submitted": 11})})

    assert [array_size(profile, job, stage) for profile in (described(), small, busy)] == [100, 40, 3]
    assert array_size(described(), demo_with(data={"shard_jobs": 5000}), replace(stage, array=({},) * 5000)) == 1001
    assert array_size(busy, job, find_stage(job, "train")) == 1
    text = rendered(job, tmp_path, busy).script("20-shard").read_text()
    assert "#SBATCH --array=0-2%2 " in text
    assert "data.shard_jobs: 100 in all; the site takes so many jobs" in text


def test_of_fewer_jobs_each_does_every_nth_element():
    stage = find_stage(demo_with(data={"shard_jobs": 8}), "shard")

    done = [[element.element for element in Part(i, 3).elements(stage)] for i in range(3)]

    assert done == [[0, 3, 6], [1, 4, 7], [2, 5]]


@pytest.mark.parametrize("text", ["3", "8/8", "a/b", "-1/2", "1/0"])
def test_a_part_that_cannot_be_is_refused(text: str):
    with pytest.raises(UserError, match="--part: found .*; expected I/N, such as 3/8"):
        Part.parse(text)


@pytest.mark.parametrize(
    ("arguments", "environment", "log", "part"),
    [
        ([], {"SLURM_JOB_ID": "9", "SLURM_ARRAY_TASK_ID": "3"}, "40-evaluate_3.1.log", "--part 3/6"),
        (["all"], {"SLURM_JOB_ID": "9", "SLURM_ARRAY_TASK_ID": "3"}, "40-evaluate.1.log", ""),  # a run of a sweep
        ([], {"SLURM_JOB_ID": "9", "SLURM_ARRAY_TASK_ID": "3", "HPCLLM_FOREGROUND": "1"}, "40-evaluate.1.log", ""),
        (["2"], {"HPCLLM_FOREGROUND": "1"}, "40-evaluate_2.1.log", "--part 2/6"),
    ],
)
def test_a_job_does_its_part_and_without_an_array_all(
    run: Run, arguments: list[str], environment: dict[str, str], log: str, part: str
):
    said = 'echo "part: ${PART[*]}"; exit'
    text = run.script("40-evaluate").read_text()
    script = run.root / "begin.sh"
    script.write_text(text.partition("cd --")[0] + said)

    path = {"PATH": "/usr/bin:/bin"}
    command = ["bash", script, *arguments]
    subprocess.run(command, check=True, capture_output=True, env={**path, **environment}, timeout=30)  # until tee ends

    assert (run.logs / log).read_text() == f"part: {part}\n"


# ---- what became of it -----------------------------------------------------------------------------------------------


def test_only_what_is_missing_is_submitted(run: Run):
    stage = next(stage for stage in stages(demo_with(train=THREE, evaluate={"checkpoints": "all"})) if stage.array)
    assert not any(word.startswith("--array") for word in sbatch_tokens(run, stage))

    for element in (0, 1, 2, 4):
        record(run, element, "done")
    record(run, 3, "failed")

    assert "--array=3,5" in sbatch_tokens(run, stage)


def test_it_is_told_as_one_stage_by_the_element_that_failed(run: Run):
    for element in (0, 1, 2, 4, 5):
        record(run, element, "done")
    record(run, 3, "failed", message="out of luck")
    for element in range(6):
        run.log(f"40-evaluate_{element}", 1).write_text(f"I am {element}\n")

    found = evaluated(run)

    assert (found.state, found.progress, found.nodes) == ("failed", "5/6 done", "n1")
    assert found.reason == "element 3 (checkpoint 1, task samples): out of luck"
    assert logs(run, "evaluate") == f"==> {run.log('40-evaluate_3', 1)}\nI am 3\n"
    assert logs(run, "evaluate_4") == f"==> {run.log('40-evaluate_4', 1)}\nI am 4\n"


def test_it_is_not_done_while_an_element_is_not_though_all_jobs_that_slurm_still_knows_are(
    run: Run, fake_slurm: Callable[[str, str], Path]
):
    fake_slurm("squeue", queued("7_4", "COMPLETED", 100, "n1", end=114))  # the others ended too long ago
    fake_slurm("sacct", "exit 1")
    write_json(run.jobs_json, {"evaluate": ["7"]})
    for element in (0, 1, 2, 4, 5):
        record(run, element, "done")

    record(run, 3, "failed", message="out of luck")
    assert (evaluated(run).state, evaluated(run).progress) == ("failed", "5/6 done")

    record(run, 3, "done")
    assert evaluated(run).state == "done"


def test_the_log_of_an_element_is_that_of_the_job_that_did_it(run: Run):
    record(run, 3, "done", part="1/2")
    run.logs.mkdir(exist_ok=True)
    run.log("40-evaluate_1", 1).write_text("I do 1, 3 and 5\n")

    assert logs(run, "evaluate_3") == f"==> {run.log('40-evaluate_1', 1)}\nI do 1, 3 and 5\n"


def test_it_is_done_when_all_are_and_out_of_date_with_one_of_other_code(run: Run):
    for element in range(5):
        record(run, element, "done")
    assert (evaluated(run).state, evaluated(run).progress) == ("interrupted", "5/6 done")

    record(run, 5, "done")
    assert (evaluated(run).state, evaluated(run).progress) == ("done", "6/6 done")

    record(run, 2, "done", key="of other code")
    assert evaluated(run).state == "out of date"


def test_what_is_deleted_is_made_again_by_the_element_that_made_it(run: Run):
    for element in range(6):
        record(run, element, "done")
    (run.results / "trained").rmdir()
    stage = next(stage for stage in stages(demo_with(train=THREE, evaluate={"checkpoints": "all"})) if stage.array)

    assert evaluated(run).state == "out of date"
    assert "--array=0-1" in sbatch_tokens(run, stage)
