"""Which queue a job goes to that leaves it open: what can run it, when Slurm would start it, and what the rules say."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from shipped_jobs import demo, described

from hpcllm.cli.submitting import with_queue
from hpcllm.cluster.profile import Profile, load_profile, shipped_profiles
from hpcllm.cluster.user import NOBODY
from hpcllm.errors import UserError
from hpcllm.job.spec import CommandJob
from hpcllm.launch.submission.choose import Queue, choose, on_queue, start_in
from hpcllm.plan.search import search
from hpcllm.report.queue_lines import queue_lines

Fake = Callable[[str, str], Path]


def cluster(partitions: dict[str, Any], **scheduler: Any) -> Profile:
    """Three kinds of nodes: `cpu` with 8 cores, `gpu` with 4 GPUs, and `fat` with 8."""
    data = described().model_dump(mode="json", by_alias=True, exclude_defaults=True)
    gpus = {"model": "A100-80GB", "memory": "80GiB"}
    data["nodes"] = {
        "cpu": {"count": 8, "cores": 8, "memory": "32GiB"},
        "gpu": {"count": 8, "cores": 64, "memory": "512GiB", "gpus": {"count": 4, **gpus}},
        "fat": {"count": 8, "cores": 64, "memory": "512GiB", "gpus": {"count": 8, **gpus}},
    }
    data["scheduler"] = {"kind": "slurm", "partitions": partitions, "exclusive": True, **scheduler}
    return Profile.model_validate(data)


def command(**resources: Any) -> CommandJob:
    return CommandJob.model_validate({"name": "mine", "command": ["true"], "resources": {"time": "1h", **resources}})


def names(queues: tuple[Queue, ...]) -> list[str]:
    return [queue.partition for queue in queues if not queue.refusal]


def starting(fake_slurm: Fake, **waits_s: int | str) -> Path:
    """An sbatch that would start a job in each partition so many seconds from now, or refuses it in these words."""
    now_s = round(time.time())
    cases = "".join(
        f'*partition={name}\\ *) echo "sbatch: error: {wait}" >&2; exit 1;;\n'
        if isinstance(wait, str)
        else f'*partition={name}\\ *) echo "sbatch: Job 7 to start at {now_s + wait} using 8 processors" >&2;;\n'
        for name, wait in waits_s.items()
    )
    return fake_slurm("sbatch", f'case "$*" in\n{cases}esac')


def test_of_two_alike_the_one_that_starts_first_is_taken(fake_slurm: Fake) -> None:
    calls = starting(fake_slurm, slow=7200, quick=60)
    profile = cluster({"slow": {"node_type": "cpu", "default": True}, "quick": {"node_type": "cpu"}})

    queues = choose(profile, command(), NOBODY)

    assert names(queues) == ["quick", "slow"]
    assert all("--test-only" in call and "--nodes=1 " in call for call in calls.read_text().splitlines())


def test_idle_gpus_count_as_lost_time(fake_slurm: Fake) -> None:
    starting(fake_slurm, fat=0, gpu=600)
    profile = cluster({"fat": {"node_type": "fat", "default": True}, "gpu": {"node_type": "gpu"}})

    queues = choose(profile, command(gpus_per_node=4), NOBODY)

    assert names(queues) == ["gpu", "fat"]  # half of a node idle for an hour is worse than ten minutes of waiting
    assert [queue.wasted for queue in queues] == [0.0, 0.5]


def test_what_is_preempted_or_for_special_use_comes_last(fake_slurm: Fake) -> None:
    starting(fake_slurm, debug=0, spare=0, batch=86_400)
    kinds = {"debug": {}, "spare": {"preemptible": True}, "batch": {"default": True}}
    profile = cluster({name: {"node_type": "cpu", **fields} for name, fields in kinds.items()})

    assert names(choose(profile, command(), NOBODY)) == ["batch", "spare", "debug"]


def test_a_refusal_of_slurm_is_shown_and_not_chosen(fake_slurm: Fake) -> None:
    starting(fake_slurm, closed="Invalid account specified", open=60)
    profile = cluster({"closed": {"node_type": "cpu", "default": True}, "open": {"node_type": "cpu"}})

    queues = choose(profile, command(), NOBODY)

    assert queues[0].partition == "open"
    assert queue_lines(queues)[-1].endswith("closed  cannot: Invalid account specified")


def test_a_job_that_slurm_takes_nowhere_hears_every_reason(fake_slurm: Fake) -> None:
    starting(fake_slurm, one="Invalid qos specification", two="Job violates accounting policy")
    profile = cluster({"one": {"node_type": "cpu"}, "two": {"node_type": "cpu"}})

    with pytest.raises(UserError, match=r"(?s)one: Invalid qos .*\n.*two: Job violates accounting policy"):
        choose(profile, command(), NOBODY)


def test_an_account_that_nobody_knows_is_said_once_with_the_nearest_of_ones_own(fake_slurm: Fake) -> None:
    starting(fake_slurm, one="Invalid account specified", two="Invalid account specified")
    fake_slurm("sacctmgr", "[[ $* == *assoc* ]] && printf 'biology||normal|normal|\\nresearch||normal,small||\\n'")
    profile = cluster({"one": {"node_type": "cpu"}, "two": {"node_type": "cpu"}})

    def said(**slurm: str) -> str:
        job = CommandJob.model_validate({"name": "mine", "command": ["true"], "slurm": slurm})
        with pytest.raises(UserError) as refused:
            choose(profile, job, NOBODY)
        return str(refused.value)

    assert said(account="reserch").splitlines()[1] == "  one, two: Invalid account specified"
    assert said(account="reserch").endswith("has biology, research; give --account research")
    assert said(account="research", qos="smal").endswith("account research has normal, small; give --qos small")


def test_without_any_word_of_slurm_the_default_that_fits_is_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    profile = cluster({"other": {"node_type": "cpu"}, "usual": {"node_type": "cpu", "default": True}})

    assert names(choose(profile, command(), NOBODY)) == ["usual", "other"]


def test_a_job_that_says_nothing_of_gpus_stays_on_the_usual_kind_of_nodes(fake_slurm: Fake) -> None:
    starting(fake_slurm, cpu=0, gpu=3600)
    profile = cluster({"gpu": {"node_type": "gpu", "default": True}, "cpu": {"node_type": "cpu"}})

    assert names(choose(profile, command(), NOBODY)) == ["gpu"]
    assert names(choose(profile, command(gpus_per_node=0), NOBODY)) == ["cpu", "gpu"]


def test_more_time_than_is_allowed_is_cut_only_where_no_queue_allows_it(fake_slurm: Fake) -> None:
    starting(fake_slurm, short=0, long=86_400)
    limits = {"short": "20m", "long": "2h"}
    profile = cluster({name: {"node_type": "cpu", "max_time": limit} for name, limit in limits.items()})

    fits = choose(profile, command(), NOBODY)[0]
    cut = choose(profile, command(time="5h"), NOBODY)

    assert (fits.partition, fits.is_cut) == ("long", False)
    assert {queue.partition: (queue.jobs, queue.time_s) for queue in cut} == {"short": (15, 1200), "long": (3, 7200)}
    job = on_queue(command(time="5h"), cut[0])
    assert (job.slurm.partition, job.resources.time_s, job.slurm.chained_jobs) == ("short", 1200, 15)


def test_a_queue_that_would_need_more_jobs_than_are_allowed_comes_after_one_that_is_preempted(fake_slurm: Fake) -> None:
    starting(fake_slurm, short=10, batch=10)
    short, batch = {"node_type": "cpu", "max_time": "2m"}, {"node_type": "cpu", "max_time": "1h", "preemptible": True}
    profile = cluster({"short": {**short, "default": True}, "batch": batch})

    found = choose(profile, command(time="5h"), NOBODY)

    assert names(found) == ["batch", "short"]
    assert "150 jobs of 2 min one after another, which is its limit, more than slurm.max" in queue_lines(found)[1]


def test_a_qos_is_named_only_where_the_usual_one_will_not_do(fake_slurm: Fake) -> None:
    starting(fake_slurm, gpu=0)
    qos = {"normal": {"max_time": "1h"}, "long": {"max_time": "8h"}, "debug": {"max_time": "9h"}}
    profile = cluster({"gpu": {"node_type": "gpu", "qos": "normal"}}, qos=qos)

    assert choose(profile, command(), NOBODY)[0].qos is None
    assert choose(profile, command(time="4h"), NOBODY)[0].qos == "long"


def test_a_named_partition_is_not_chosen_against(fake_slurm: Fake) -> None:
    starting(fake_slurm, slow=7200, quick=0)
    profile = cluster({"slow": {"node_type": "cpu"}, "quick": {"node_type": "cpu"}})
    job = command()
    job = job.model_copy(update={"slurm": job.slurm.model_copy(update={"partition": "slow"})})

    assert names(choose(profile, job, NOBODY)) == ["slow"]


def test_a_training_is_compared_by_the_time_of_its_plan(fake_slurm: Fake) -> None:
    starting(fake_slurm, cpu=60, other=0)
    profile = cluster({"cpu": {"node_type": "cpu", "default": True}, "other": {"node_type": "cpu"}})
    nodes = {name: node.model_copy(update={"flops_per_s": 1e12}) for name, node in profile.nodes.items()}
    profile = profile.model_copy(update={"nodes": nodes})

    queues = choose(profile, demo(), NOBODY)

    assert names(queues) == ["other", "cpu"]
    assert queues[0].work_s == search(profile, demo()).total_s != demo().resources.time_s


def test_in_the_lab_nobody_takes_the_urgent_queue_unasked(fake_slurm: Fake) -> None:
    starting(fake_slurm, batch=600, urgent=0, short=0)

    assert names(choose(load_profile(shipped_profiles() / "slurm-lab.yaml"), demo(), NOBODY))[0] == "batch"


@pytest.mark.parametrize(
    ("said", "start_s"),
    [
        ("sbatch: Job 3 to start at 1795530481 using 2 processors on nodes n[1-2] in partition batch", 1795530481.0),
        (
            "sbatch: Job 3 to start at 1970-01-02T00:00:00 using 2 processors",
            time.mktime((1970, 1, 2, 0, 0, 0, 0, 0, -1)),
        ),
        ("sbatch: Job 3 to start at Unknown using 2 processors", None),
        ("", None),
    ],
)
def test_the_start_is_read_in_each_of_slurms_ways(said: str, start_s: float | None) -> None:
    assert start_in(said) == start_s


def test_runs_of_a_sweep_that_ask_for_the_same_go_to_one_queue_and_slurm_is_asked_once(
    fake_slurm: Fake, tmp_path: Path
) -> None:
    calls = starting(fake_slurm, slow=7200, quick=60)
    profile = cluster({"slow": {"node_type": "cpu", "default": True}, "quick": {"node_type": "cpu"}})
    chosen: dict[str, tuple[Queue, ...]] = {}

    jobs = [
        with_queue(profile, job, NOBODY, tmp_path / str(i), chosen)[0]
        for i, job in enumerate([command(), command(nodes=2), command()])
    ]

    assert [job.slurm.partition for job in jobs] == ["quick"] * 3
    assert len(calls.read_text().splitlines()) == 2 * 2  # two partitions, for each of the two that differ


def test_a_run_of_a_sweep_that_cannot_run_in_the_others_queue_has_its_own(fake_slurm: Fake, tmp_path: Path) -> None:
    starting(fake_slurm, slow=7200, quick=60)
    profile = cluster({"slow": {"node_type": "cpu", "default": True}, "quick": {"node_type": "cpu"}})
    asked = f"{command().resources!r} {command().slurm!r}"
    chosen = {asked: (Queue("gone"),)}
    gone = profile.scheduler.partitions["slow"].model_copy(update={"max_nodes": 1, "min_nodes": 2})
    partitions = {**profile.scheduler.partitions, "gone": gone}
    profile = profile.model_copy(update={"scheduler": profile.scheduler.model_copy(update={"partitions": partitions})})

    assert with_queue(profile, command(), NOBODY, tmp_path / "run", chosen)[0].slurm.partition == "quick"


def test_a_chain_is_compared_by_the_time_of_all_its_jobs(fake_slurm: Fake) -> None:
    starting(fake_slurm, short=0, long=600)
    short, long = {"node_type": "cpu", "max_time": "1h"}, {"node_type": "cpu", "max_time": "8h"}
    profile = cluster({"short": {**short, "default": True}, "long": long}, requeue=False)
    job = command(time="2h")
    job = job.model_copy(update={"slurm": job.slurm.model_copy(update={"chained_jobs": 3})})

    best, other = choose(profile, job, NOBODY)

    assert (best.partition, best.jobs, best.work_s) == ("long", 3, 6 * 3600)
    assert on_queue(job, other).slurm.chained_jobs == 6  # as many as the work needs where each may have an hour
