"""The DAG with rows of one's own: their places, their scripts, and what makes one run again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from shipped_jobs import demo, described

from hpcllm import source
from hpcllm.cluster.detection.here import find_mpirun
from hpcllm.errors import SourceError, UserError
from hpcllm.job.spec import AnyJob, Job, StagesJob, kind_of
from hpcllm.launch.local import run_local
from hpcllm.launch.pipeline import PIPELINE, stages
from hpcllm.launch.render import render
from hpcllm.launch.tracking.track import status
from hpcllm.plan.search import search
from hpcllm.run_directory import Run, read_json

TWO_RANKS = {"ranks_per_node": 2}


def own(name: str, *words: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "command": list(words or ["true"]), **more}


def job_of_stages(*rows: dict[str, Any], **more: Any) -> AnyJob:
    data = {"name": "mine", "stages": list(rows), **more}
    return source.check(data, kind_of(data), "job.yaml", {})


def demo_with(*rows: dict[str, Any]) -> Job:
    return source.check({**demo().model_dump(mode="json"), "stages": list(rows)}, Job, "job.yaml", {})


def rendered(job: AnyJob, folder: Path, kind: str = "local") -> Run:
    profile = described(kind, find_mpirun() if kind == "local" else "srun")
    plan = search(profile, job) if isinstance(job, Job) else None
    return render(profile, None, job, None, plan, folder / "run", cwd=folder)


def test_a_job_names_the_stages_of_the_table():
    assert Job.given_stages == tuple(row.name for row in PIPELINE)


def test_a_row_stands_as_early_as_it_can_and_the_others_wait_for_it():
    rows = stages(
        demo_with(
            own("fetch", before=["tokenizer"]),
            own("look", after=["train"]),
            own("mail", after=["gather"]),
        )
    )

    assert [row.id for row in rows] == [
        *("01-fetch", "10-tokenizer", "20-shard", "30-train", "31-look", "40-evaluate", "50-compress"),
        *("60-evaluate-compressed", "90-gather", "91-mail"),
    ]
    assert {row.name: row.after for row in rows}["tokenizer"] == ("fetch",)


def test_rows_alone_are_a_job():
    job = job_of_stages(own("b", after=["a"]), own("a"))

    assert isinstance(job, StagesJob)
    assert [(row.id, row.after) for row in stages(job)] == [("01-a", ()), ("02-b", ("a",))]


def test_a_program_of_ones_own_has_stages_around_it():
    job = job_of_stages(own("make", before=["command"]), command=["./program"])

    assert [(row.id, row.after) for row in stages(job)] == [("01-make", ()), ("30-command", ("make",))]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([own("a", after=["b"])], "stages[0].after[0]: found b; expected a stage of this job: no other"),
        ([own("a"), own("b", before=["a", "c"])], "stages[1].before[1]: found c; expected a stage of this job: a"),
        ([own("a"), own("a")], "stages[1].name: found a; another stage of this job has that name"),
        ([own("A b")], "stages[0].name: found 'A b'; expected small letters"),
        ([own("a", nodes=0)], "stages[0].nodes: found 0"),
        ([{"name": "a", "command": []}], "stages[0].command: found nothing; expected a program"),
        ([], "stages: found none; expected at least one"),
    ],
)
def test_a_name_that_cannot_be_is_one_mistake_at_its_place(rows: list[dict[str, Any]], said: str):
    with pytest.raises(SourceError) as caught:
        job_of_stages(*rows)

    (problem,) = caught.value.problems
    assert said in str(problem)


def test_a_row_may_not_be_called_as_a_given_one():
    with pytest.raises(SourceError, match="found train; another stage of this job has that name"):
        demo_with(own("train"))


def test_rows_that_wait_for_each_other_are_refused():
    with pytest.raises(UserError, match="a, b wait for each other in a circle"):
        stages(job_of_stages(own("a", after=["b"]), own("b", after=["a"]), own("c")))


def test_a_row_behind_a_stage_that_the_job_leaves_out_is_refused():
    job = demo_with(own("a", after=["compress"]))
    none = job.model_copy(update={"deploy": job.deploy.model_copy(update={"quantize": "none"})})

    with pytest.raises(UserError, match="a waits for compress, which this job leaves out"):
        stages(none)


def test_a_row_asks_for_its_own_resources_and_else_for_the_jobs(tmp_path: Path):
    resources = {"nodes": 2, "ranks_per_node": 1, "time": "30m"}
    job = job_of_stages(own("small", nodes=1, time="5m"), own("big", ranks_per_node=4), resources=resources)

    run = rendered(job, tmp_path, "slurm")

    small, big = run.script("01-small").read_text(), run.script("02-big").read_text()
    assert all(word in small for word in ("--nodes=1 ", "--time=00:05:00", "--job-name=mine-small"))
    assert all(word in big for word in ("--nodes=2 ", "--ntasks-per-node=4", "--time=00:30:00"))
    assert 'preflight --run "$RUN" --ranks 8 --nodes 2' in big


def test_a_row_has_state_and_log_of_its_own_and_is_done_but_once(tmp_path: Path):
    job = job_of_stages(
        own("first", "bash", "-c", "echo $RANK of $WORLD_SIZE >>said"),
        own("second", "bash", "-c", "cat said", after=["first"]),
        resources={"nodes": 1, "ranks_per_node": 1},
    )
    run = rendered(job, tmp_path)

    run_local(run, quiet=True)
    run_local(run, quiet=True)

    assert [(found.stage, found.state) for found in status(run)] == [("first", "done"), ("second", "done")]
    assert (tmp_path / "said").read_text() == "0 of 1\n"
    assert "0 of 1" in run.log("02-second", 1).read_text()
    assert "done already" in run.log("02-second", 2).read_text()


def test_a_row_that_says_something_else_now_is_out_of_date_and_so_is_what_comes_after(tmp_path: Path):
    rows = [own("first", "true"), own("second", "true", after=["first"]), own("third", "true")]
    run = rendered(job_of_stages(*rows, resources={"ranks_per_node": 1}), tmp_path)
    run_local(run, quiet=True)
    resolved = read_json(run.resolved_json)
    resolved["job"]["stages"][0]["command"] = ["false"]
    run.resolved_json.write_text(json.dumps(resolved))

    assert [found.state for found in status(run)] == ["out of date", "out of date", "done"]


def test_a_row_that_fails_stops_the_run_with_its_own_words(tmp_path: Path):
    run = rendered(job_of_stages(own("bad", "bash", "-c", "echo no luck; exit 9")), tmp_path)

    with pytest.raises(Exception, match="(?s)01-bad failed .exit code 9.*no luck"):
        run_local(run, quiet=True)
    assert read_json(run.state_json("01-bad"))["outcome"] == "failed"


def test_tf_config_lists_a_worker_for_each_rank(tmp_path: Path):
    job = job_of_stages(
        own("tell", "bash", "-c", 'printf %s "$TF_CONFIG" >told.$RANK', tf_config=True), resources=TWO_RANKS
    )
    run = rendered(job, tmp_path)

    run_local(run, quiet=True)

    first, second = (json.loads((tmp_path / f"told.{rank}").read_text()) for rank in (0, 1))
    assert [told["task"] for told in (first, second)] == [{"type": "worker", "index": rank} for rank in (0, 1)]
    assert first["cluster"] == second["cluster"]
    (a, port), (b, next_port) = (worker.split(":") for worker in first["cluster"]["worker"])
    assert (a, b, int(next_port)) == ("127.0.0.1", "127.0.0.1", int(port) + 1)
