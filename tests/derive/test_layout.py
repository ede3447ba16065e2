"""How a stage lies on a cluster, and what is said when it does not fit. Run: pytest tests/derive/test_layout.py."""

from dataclasses import replace

import pytest
from example_clusters import changed, profile_named

from hpcllm.cluster.user import User
from hpcllm.derive.layout import layout, warning_s
from hpcllm.errors import DoesNotFit, UserError
from hpcllm.launch.pipeline import COMMAND, find_stage
from hpcllm.plan.search import search


def test_a_command_on_gpus_has_a_rank_for_each(a100, command):
    shape = layout(a100, command, None, COMMAND)

    assert (shape.nodes, shape.ranks_per_node, shape.gpus_per_node, shape.cores_per_rank) == (2, 4, 4, 16)


def test_a_command_on_cpus_has_a_rank_for_each_numa_domain(lab, command):
    two = changed(lab, nodes={"lab": {"count": 4, "cores": 64, "numa_domains": 8, "memory": "100GiB"}})

    shape = layout(two, command, None, COMMAND)

    assert (shape.ranks_per_node, shape.cores_per_rank, shape.gpus_per_node) == (8, 8, 0)


def test_ranks_per_node_are_as_asked(lab, a100, command):
    for profile in (lab, a100):
        shape = layout(profile, changed(command, resources={"ranks_per_node": 2}), None, COMMAND)
        assert shape.ranks_per_node == 2


def test_some_gpus_of_a_shared_node_come_with_their_cores(a100, command):
    shape = layout(a100, changed(command, resources={"gpus_per_node": 1}), None, COMMAND)

    assert (shape.ranks_per_node, shape.cores_per_rank) == (1, 16)


def test_a_stage_of_one_rank_takes_one_node_and_no_gpu(a100, demo):
    job = changed(demo, resources={"nodes": 2})

    shape = layout(a100, job, search(a100, job), find_stage(job, "tokenizer"))

    assert (shape.nodes, shape.ranks_per_node, shape.gpus_per_node, shape.cores_per_rank) == (1, 1, 0, 16)
    assert shape.stage == "tokenizer"


def test_more_ranks_than_cores_is_a_mistake_that_names_them(lab, command):
    job = changed(command, resources={"ranks_per_node": 3})

    with pytest.raises(UserError, match=r"ranks_per_node: found 3 .* 2 cores; .*--oversubscribe") as caught:
        layout(lab, job, None, COMMAND)

    assert caught.value.exit_code == 2
    assert layout(lab, job, None, COMMAND, oversubscribe=True).cores_per_rank == 1


def test_too_many_nodes_names_the_most_there_are(lab, command):
    with pytest.raises(DoesNotFit, match=r"resources.nodes: found 5; partition batch gives at most 4 .*ask for 4"):
        layout(lab, changed(command, resources={"nodes": 5}), None, COMMAND)


def test_too_long_a_time_names_the_longest(lab, command):
    with pytest.raises(DoesNotFit, match=r"resources.time: found 2 h; partition batch allows at most 1 h"):
        layout(lab, changed(command, resources={"time": "2h"}), None, COMMAND)


def test_a_partition_that_could_run_it_is_named(lab, command):
    job = changed(command, slurm={"partition": "short"})

    with pytest.raises(DoesNotFit, match=r"partition short allows at most 2 min.*; batch, urgent can run it"):
        layout(lab, job, None, COMMAND)


def test_a_command_goes_to_the_first_partition_that_can_run_it(a100, command):
    long = changed(command, resources={"time": "30h"})

    assert layout(a100, command, None, COMMAND).partition == "gpu"
    assert layout(a100, long, None, COMMAND).partition == "gpu-preempt"


QOS = {"debug": {"max_time": "30m", "max_nodes": 2}, "long": {"max_time": "4d", "max_nodes": 8}}


def queue(profile, **changes):
    """One partition of a day, whose QOS have limits of their own."""
    partitions = {"gpu": {"node_type": "a100", "max_time": "24h", "max_nodes": 64, **changes}}
    qos = {name: {**rules, "overrides_partition": True} for name, rules in QOS.items()}
    return changed(profile, scheduler={"partitions": partitions, "qos": qos})


def test_a_qos_that_allows_the_job_is_named(a100, command):
    job = changed(command, resources={"time": "2d"})

    with pytest.raises(DoesNotFit, match=r"partition gpu allows at most 1 d; .*--qos long allows 4 d on up to 8 nodes"):
        layout(queue(a100), job, None, COMMAND)
    assert layout(queue(a100), changed(job, slurm={"qos": "long"}), None, COMMAND).time_s == 2 * 86400


def test_the_persons_qos_bounds_the_job_where_it_names_none(a100, command):
    with pytest.raises(DoesNotFit, match=r"partition gpu with QOS debug allows at most 30 min"):
        layout(queue(a100), command, None, COMMAND, User(qos="debug"))


def test_a_qos_that_a_partition_does_not_take_is_refused(a100, command):
    job = changed(command, slurm={"qos": "long"})

    with pytest.raises(DoesNotFit, match=r"slurm.qos: found long; partition gpu takes debug"):
        layout(queue(a100, allow_qos=["debug"]), job, None, COMMAND)


def test_a_stage_without_use_for_a_gpu_asks_for_one_where_it_has_to(a100, demo):
    site, stage = queue(a100, gpu_required=True), find_stage(demo, "tokenizer")

    assert layout(site, demo, search(site, demo), stage).gpus_per_node == 1
    assert layout(queue(a100), demo, search(a100, demo), stage).gpus_per_node == 0


def test_an_unknown_partition_names_the_ones_there_are(lab, command):
    with pytest.raises(UserError, match=r"found 'bach'; slurm-lab has batch, short, urgent; did you mean batch\?"):
        layout(lab, changed(command, slurm={"partition": "bach"}), None, COMMAND)


def test_gpus_that_are_not_there_are_refused(lab, command):
    with pytest.raises(DoesNotFit, match=r"gpus_per_node: found 1; a node of partition batch has 0"):
        layout(lab, changed(command, resources={"gpus_per_node": 1}), None, COMMAND)


def test_this_machine_is_one_node(command):
    with pytest.raises(DoesNotFit, match=r"resources.nodes: found 2; local gives at most 1"):
        layout(profile_named("local"), command, None, COMMAND)


def test_a_plan_that_does_not_fit_has_no_layout(lab, demo):
    plan = search(lab, changed(demo, resources={"nodes": 9}))

    with pytest.raises(DoesNotFit, match="nodes"):
        layout(lab, demo, plan, COMMAND)


def planned(a100, demo, write_s, step_s):
    plan = search(a100, demo)
    return replace(plan, checkpoint=replace(plan.checkpoint, write_s=write_s), step=replace(plan.step, total_s=step_s))


def test_the_warning_leaves_time_for_two_checkpoints_and_a_step(a100, demo):
    assert warning_s(36000.0, planned(a100, demo, 100.0, 5.0)) == 205.0


def test_the_warning_comes_half_a_minute_before_the_end_at_least(a100, demo):
    assert warning_s(3600.0, planned(a100, demo, 0.1, 0.1)) == 30.0


def test_in_a_short_job_the_warning_takes_a_quarter_at_most(a100, demo):
    assert warning_s(60.0, planned(a100, demo, 0.1, 0.1)) == 15.0
    assert warning_s(120.0, None) == 30.0
    assert warning_s(60.0, planned(a100, demo, 10.0, 2.0)) == 22.0


def test_a_time_that_saving_alone_uses_up_is_refused(a100, demo):
    with pytest.raises(DoesNotFit, match=r"two checkpoint writes and a step alone take .* ask for at least 7 min"):
        warning_s(120.0, planned(a100, demo, 100.0, 10.0))
