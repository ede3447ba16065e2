"""What a QOS, a type of node and its network do to a plan. Run: pytest tests/plan/test_queue.py."""

import pytest
from described import cluster, gpt2

from hpcllm.cluster.user import User
from hpcllm.plan.search import search

QOS = {
    "scheduler.qos": {
        "debug": {"max_time": "30m", "max_nodes": 2},
        "long": {"max_time": "4d", "max_nodes": 64, "overrides_partition": True},
        "big": {"min_nodes": 8},
        "few": {"max_gpus": 8},
    }
}


def figure(plan, name):
    return next(figure for figure in plan.figures if figure.name == name)


def test_a_qos_bounds_the_job_and_one_that_allows_it_is_named():
    plan = search(cluster(QOS), gpt2({"slurm.qos": "debug", "resources.nodes": 2, "resources.time_s": 7200.0}))

    assert "partition gpu with QOS debug ends a job after 30 min" in plan.limits[0]
    assert "--qos long allows 4 d on up to 64 nodes" in plan.limits[0]


def test_the_persons_qos_counts_where_the_job_names_none():
    person = User.model_validate({"clusters": {"somewhere": {"qos": "debug"}}})

    assert search(cluster(QOS), gpt2()).fits
    assert not search(cluster(QOS), gpt2(), user=person).fits
    assert search(cluster(QOS), gpt2({"slurm.qos": "long"}), user=person).fits


@pytest.mark.parametrize(
    ("qos", "reason", "nearest"),
    [
        ("big", "resources.nodes: 4 asked, partition gpu with QOS big begins at 8", "resources.nodes: 8"),
        ("few", "resources.nodes: 16 GPUs in all, partition gpu with QOS few gives at most 8", "resources.nodes: 2"),
    ],
)
def test_too_few_nodes_and_too_many_gpus_are_in_the_way(qos, reason, nearest):
    plan = search(cluster(QOS), gpt2({"slurm.qos": qos}))

    assert reason in plan.limits[0]
    assert f"nearest that fits: {nearest}" in plan.limits[-1]


def test_a_job_goes_to_the_partition_that_takes_its_qos():
    site = cluster({**QOS, "scheduler.partitions.gpu.allow_qos": ["long"]})

    assert search(site, gpt2({"slurm.qos": "big", "resources.nodes": 8})).partition == "short"
    plan = search(site, gpt2({"slurm.qos": "big", "slurm.partition": "gpu", "resources.nodes": 8}))
    assert "slurm.qos: big asked, partition gpu takes long" in plan.limits


def test_a_job_that_the_default_partition_cannot_run_goes_to_another_of_the_same_nodes():
    half_an_hour = {"resources.time_s": 1800.0, "resources.nodes": 32}

    assert search(cluster(), gpt2(half_an_hour)).partition == "short"
    assert search(cluster(), gpt2({**half_an_hour, "resources.nodes": 64})).partition == "short"
    assert search(cluster(), gpt2({**half_an_hour, "resources.nodes": 96})).partition == "gpu"  # small could, on others


def test_what_these_nodes_cost_comes_before_what_nodes_do():
    plan = search(cluster({"nodes.a100.price": {"node_hour": 20.0, "unit": "CHF"}}), gpt2())

    cost = figure(plan, "cost")
    assert (cost.unit, cost.inputs["nodes.a100.price.node_hour"]) == ("CHF", 20.0)
    assert cost.value == pytest.approx(20.0 * 4 * plan.total_s / 3600)


def test_the_most_that_a_job_costs_is_known_where_the_training_is_not():
    plan = search(cluster({"fabric.rate": None}), gpt2({"resources.time_s": 7200.0}))

    assert figure(plan, "cost").value is None
    assert figure(plan, "cost_of_a_job").value == 16 * 2 * 1.5


def test_how_often_these_nodes_fail_comes_before_how_often_nodes_do():
    found = figure(search(cluster({"nodes.a100.mtbf": "100d"}), gpt2()), "job_mtbf_s")

    assert found.value == 100 * 86400 / 4
    assert "nodes.a100.mtbf" in found.inputs


def test_nodes_on_another_network_are_as_fast_as_that_one():
    slower = {"kind": "ethernet", "rails": 1, "rate": "25Gb/s"}
    found = figure(search(cluster({"nodes.a100.fabric": slower}), gpt2()), "communication.across_nodes_s")

    assert found.inputs["nodes.a100.fabric.rate"] == 25e9 / 8
    assert "nodes.a100.fabric.latency is not known" in found.source
    usual = figure(search(cluster(), gpt2()), "communication.across_nodes_s")
    assert found.value > 10 * usual.value


def test_a_rate_that_nobody_knows_is_asked_for_by_its_key():
    plan = search(cluster({"nodes.a100.fabric": {"kind": "slingshot"}}), gpt2())

    assert "unknown: communication: needs nodes.a100.fabric.rate" in "\n".join(plan.limits)


@pytest.mark.parametrize(("nodes", "said"), [(2, False), (4, True)])
def test_a_network_that_narrows_is_noted_where_the_job_is_larger_than_a_switch(nodes, said):
    site = cluster({"fabric.oversubscription": 2, "fabric.switch_nodes": 2})

    source = figure(search(site, gpt2({"resources.nodes": nodes})), "communication.across_nodes_s").source
    assert ("beyond the 2 nodes of a switch 50% of the nodes' rate gets through" in source) == said
