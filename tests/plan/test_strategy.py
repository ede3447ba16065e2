"""Which strategy is chosen, and why: GPT-2's shape, larger and larger, on 4 nodes with 4 A100 each."""

from __future__ import annotations

from typing import Any

import pytest
from described import cluster, gpt2

from hpcllm.job.spec import Job
from hpcllm.plan import memory
from hpcllm.plan.plan import Plan, Spread
from hpcllm.plan.ranks import place
from hpcllm.plan.search import search

GIB = 2**30


def of_shape(layers: int, width: int, changes: dict[str, Any] | None = None) -> Job:
    shape = {"model.layers": layers, "model.width": width, "model.feed_forward": 4 * width, "model.heads": width // 64}
    return gpt2({**shape, **(changes or {})})


def value(plan: Plan, name: str) -> float:
    return next(figure.value or 0.0 for figure in plan.figures if figure.name == name)


@pytest.mark.parametrize(
    ("layers", "width", "strategy"),
    [(12, 768, "ddp"), (48, 2560, "zero1"), (36, 5120, "hsdp"), (48, 6400, "fsdp")],  # 0.1, 3.9, 12 and 24 billion
)
def test_auto_takes_the_first_that_fits_by_what_ranks_exchange(layers: int, width: int, strategy: str):
    plan = search(cluster(), of_shape(layers, width))

    assert plan.fits
    assert plan.strategy == strategy


def test_the_reason_names_those_that_did_not_fit_and_the_figures_say_what_each_takes():
    plan = search(cluster(), of_shape(48, 2560))

    assert plan.strategy_reason.startswith("the first that fits: ddp takes ")
    assert plan.strategy_reason.endswith(" GiB of 64 GiB that can be used")
    takes = {name: value(plan, f"memory_by_strategy.{name}") for name in ("ddp", "zero1", "hsdp", "fsdp")}
    assert takes["zero1"] == plan.memory_per_gpu_bytes.total < 64 * GIB < takes["ddp"]


def test_the_jobs_own_strategy_wins():
    plan = search(cluster(), gpt2({"train.strategy": "fsdp"}))

    assert (plan.strategy, plan.strategy_reason) == ("fsdp", "train.strategy")


@pytest.mark.parametrize("changes", [{"resources.nodes": 1}, {"resources.ranks_per_node": 1}])
def test_hsdp_is_not_looked_at_where_it_is_another_one(changes: dict[str, Any]):
    names = {figure.name for figure in search(cluster(), gpt2(changes)).figures}

    assert "memory_by_strategy.fsdp" in names
    assert "memory_by_strategy.hsdp" not in names


def test_one_rank_shares_nothing():
    plan = search(cluster(), gpt2({"resources.nodes": 1, "resources.gpus_per_node": 1}))

    assert (plan.strategy, plan.strategy_reason) == ("ddp", "one rank")


def test_hsdp_with_one_rank_a_node_is_refused_with_a_way_out():
    plan = search(cluster(), gpt2({"train.strategy": "hsdp", "resources.ranks_per_node": 1}))

    assert plan.limits[0].startswith("train.strategy: hsdp shards inside a node, where a single rank runs")
    assert plan.limits[-1] == "nearest that fits: train.strategy: auto"


def test_a_strategy_that_does_not_fit_gives_way_to_one_that_does():
    plan = search(cluster(), of_shape(48, 6400, {"train.strategy": "hsdp"}))

    assert "by hsdp at micro-batch 1" in plan.limits[0]
    assert plan.limits[-1] == "nearest that fits: train.strategy: auto"


def test_each_rank_holds_its_share():
    job = gpt2()
    ranks = place(cluster(), job)
    ddp, zero1, hsdp, fsdp = (memory.of(job, ranks, Spread(name, 32)) for name in ("ddp", "zero1", "hsdp", "fsdp"))

    assert [m.optimizer for m in (ddp, zero1, hsdp, fsdp)] == [ddp.optimizer // n for n in (1, 16, 4, 16)]
    assert zero1.parameters == ddp.parameters
    assert hsdp.parameters - fsdp.parameters == ddp.gradients // 4 - ddp.gradients // 16
    assert ddp.activations == zero1.activations == hsdp.activations == fsdp.activations


def test_gradients_of_several_micro_batches_are_added_whole_where_there_is_room():
    roomy, tight = (
        search(cluster(), of_shape(*shape, {"train.strategy": "fsdp"})) for shape in ((48, 2560), (48, 6400))
    )

    assert roomy.gradient_accumulation > 1 < tight.gradient_accumulation
    assert (roomy.whole_gradients, tight.whole_gradients) == (True, False)
    job = of_shape(48, 6400)
    whole = memory.of(job, place(cluster(), job), Spread("fsdp", tight.micro_batch)).gradients
    assert whole - tight.memory_per_gpu_bytes.gradients == pytest.approx(4 * value(tight, "num_parameters") * 15 / 16)


@pytest.mark.parametrize(
    ("strategy", "micro_batch", "inside_times", "across_times"),
    [("ddp", 8, 1, 1), ("zero1", 8, 1.5, 1.5), ("fsdp", 32, 1, 1), ("fsdp", 8, 2.5, 2.5), ("hsdp", 8, 2.5, 1)],
)
def test_what_ranks_exchange_is_counted_in_all_reduces(
    strategy: str, micro_batch: int, inside_times: float, across_times: float
):
    # FSDP: two gathers of bf16 a micro-batch, a quarter each, and at the end half of one, of fp32.
    plan = search(cluster(), gpt2({"train.strategy": strategy, "train.micro_batch": micro_batch}))

    inside, across = (value(plan, f"communication.{where}_s") for where in ("inside_node", "across_nodes"))
    assert value(plan, "communication_s") == pytest.approx(inside_times * inside + across_times * across)
