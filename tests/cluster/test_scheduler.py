"""What a job may ask for in a partition under a QOS. Run: pytest tests/cluster/test_scheduler.py."""

import math

import pytest

from hpcllm.cluster.scheduler import Scheduler

SITE = {
    "kind": "slurm",
    "qos": {
        "debug": {"max_time": "30m", "max_nodes": 2},
        "long": {"max_time": "7d", "overrides_partition": True},
        "wide": {"min_nodes": 65},
    },
    "partitions": {
        "gpu": {"node_type": "gpu", "max_time": "1d", "max_nodes": 64},
        "free": {"node_type": "gpu"},
        "bins": {"node_type": "gpu", "max_time_from_nodes": {1: "2h", 92: "6h", 184: "12h"}},
        "test": {"node_type": "gpu", "qos": "debug"},
    },
}
HOUR_S = 3600


@pytest.mark.parametrize(
    ("partition", "qos", "nodes", "expected"),
    [
        ("gpu", None, 1, (24 * HOUR_S, 64, 1)),
        ("gpu", "debug", 1, (HOUR_S / 2, 2, 1)),
        ("gpu", "long", 1, (7 * 24 * HOUR_S, 64, 1)),
        ("gpu", "wide", 1, (24 * HOUR_S, 64, 65)),
        ("gpu", "one that is not described", 1, (24 * HOUR_S, 64, 1)),
        ("free", None, 1, (math.inf, None, 1)),
        ("bins", None, 91, (2 * HOUR_S, None, 1)),
        ("bins", None, 92, (6 * HOUR_S, None, 1)),
        ("bins", None, 1000, (12 * HOUR_S, None, 1)),
        ("test", None, 1, (HOUR_S / 2, 2, 1)),
    ],
)
def test_the_tighter_limit_holds_unless_the_qos_overrides_it(partition, qos, nodes, expected):
    limits = Scheduler.model_validate(SITE).limits(partition, qos, nodes)

    assert (limits.max_time_s, limits.max_nodes, limits.min_nodes) == expected


@pytest.mark.parametrize(("qos", "expected"), [(None, (4, 2)), ("few", (2, 2)), ("many", (4, 2))])
def test_a_job_may_have_the_fewer_of_the_gpus_that_the_partition_and_the_qos_give(qos, expected):
    site = {
        "kind": "slurm",
        "qos": {"few": {"max_gpus": 2}, "many": {"max_gpus": 32}},
        "partitions": {"gpu": {"node_type": "gpu", "max_gpus": 4, "min_gpus": 2}},
    }

    limits = Scheduler.model_validate(site).limits("gpu", qos, 1)

    assert (limits.max_gpus, limits.min_gpus) == expected
