"""The plan as a terminal shows it."""

import io
from typing import Any

import pytest
from described import cluster, gpt2
from rich.console import Console

from hpcllm.job.spec import Job
from hpcllm.plan.plan import Plan
from hpcllm.plan.search import search
from hpcllm.report.plan_table import plan_text


def shown(changes: dict[str, Any], site: dict[str, Any] | None = None, explain: bool = False, width: int = 100) -> str:
    profile, job = cluster(site), gpt2(changes)
    return rendered(search(profile, job), job, explain, width, site)


def rendered(plan: Plan, job: Job, explain: bool, width: int, site: dict[str, Any] | None) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(plan_text(plan, cluster(site), job, explain))
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_the_verdict_comes_first_and_the_trust_in_the_profile_after_it():
    first, second, *_ = shown({}).splitlines()

    assert first == "gpt2-124m fits somewhere, partition gpu: 4 nodes, 16 ranks"
    assert second == "verified: example, 2026-11-24 (it stands for many systems, and is none)"


@pytest.mark.parametrize("how", ["documented", "emulated", "on-site", "example"])
def test_how_far_a_profile_was_verified_is_never_more_than_it_says(how: str):
    assert f"verified: {how}, 2026-11-24" in shown({}, {"verified.how": how})


@pytest.mark.parametrize("width", [80, 100, 160])
@pytest.mark.parametrize("explain", [False, True])
def test_no_line_is_wider_than_the_terminal(width: int, explain: bool):
    assert max(map(len, shown({}, explain=explain, width=width).splitlines())) <= width


def test_one_screen_holds_it():
    assert len(shown({}).splitlines()) <= 24


def test_a_job_that_does_not_fit_says_first_why_and_what_would():
    text = shown({"resources.nodes": 17})

    assert "does not fit" in text.splitlines()[0]
    assert text.index("in the way") < text.index("nearest that fits: resources.nodes: 16") < text.index("memory")


def test_more_memory_than_there_is_fills_the_bar_and_no_more():
    bars = [line.strip() for line in shown({"train.micro_batch": 512}).splitlines() if "░░" in line]

    assert [len(bar) for bar in bars] == [66]


def test_what_is_unknown_is_said_with_the_key_that_would_tell():
    text = shown({"slurm.partition": "cpu"}, {"nodes.cpu.flops": None})

    assert "speed       unknown: needs nodes.cpu.flops" in text
    assert "time        unknown: needs nodes.cpu.flops" in text


def test_an_endless_training_says_so():
    assert "unknown: it never ends: failures come faster" in shown({}, {"reliability": {"node_mtbf": "5m"}})


def test_explained_every_figure_stands_with_formula_inputs_and_source():
    plan = search(cluster(), gpt2())
    text = rendered(plan, gpt2(), True, 200, None)

    for figure in plan.figures:
        assert f"{figure.name} = " in text
        assert figure.formula in text
        assert figure.source in text
    assert "fabric.rate = 25 GB/s" in text
    assert "tokens_per_s = 2.5" in text  # a rate, not a time
