"""Every derived line has a key that is really there. Run: pytest tests/derive/test_settings.py."""

import shlex

import pytest
from example_clusters import CLUSTERS, DEMO, changed, profile_named

from hpcllm.cluster.user import User
from hpcllm.derive.directives import EXCLUSIVE
from hpcllm.derive.layout import layout
from hpcllm.derive.setting import Settings
from hpcllm.derive.settings import settings
from hpcllm.derive.show import derived_text
from hpcllm.job.spec import CommandJob, load_job
from hpcllm.launch.pipeline import stages
from hpcllm.plan.search import search
from hpcllm.units import as_ranges

USER = User.model_validate(
    {"account": "physics", "mail": "me@example.org", "clusters": {"slurm-lab": {"qos": "small"}}}
)


def all_settings(cluster: str, kind: str) -> list[tuple[Settings, dict]]:
    """Each stage's settings, and what keys are looked up in."""
    profile = profile_named(cluster)
    nodes = 1 if cluster == "local" else 2
    if kind == "demo":
        job = changed(load_job(DEMO), resources={"nodes": nodes})
        plan = search(profile, job)
    else:
        job = CommandJob.model_validate({"name": "mine", "command": ["python"], "resources": {"nodes": nodes}})
        plan = None
    roots = {
        **profile.model_dump(by_alias=True),
        "job": job.model_dump(by_alias=True),
        "user": USER.model_dump(by_alias=True),
    }
    return [(settings(profile, job, layout(profile, job, plan, stage), USER), roots) for stage in stages(job)]


def resolve(key: str, roots: dict) -> object:
    found = roots
    for part in key.split("."):
        found = found[part]
    return found


@pytest.mark.parametrize("kind", ["demo", "command"])
@pytest.mark.parametrize("cluster", CLUSTERS)
def test_every_setting_has_a_reason_and_a_key_that_exists(cluster, kind):
    for derived, roots in all_settings(cluster, kind):
        for setting in (*derived.directives, *derived.software, *derived.environment, *derived.prepare):
            assert setting.reason
            assert resolve(setting.key, roots) is not None, setting


@pytest.mark.parametrize("kind", ["demo", "command"])
@pytest.mark.parametrize("cluster", CLUSTERS)
def test_nothing_is_said_twice(cluster, kind):
    for derived, _ in all_settings(cluster, kind):
        options = [setting.name for setting in derived.directives]
        variables = [setting.name for setting in derived.environment]
        assert len(options) == len(set(options))
        assert len(variables) == len(set(variables))
        assert all(len(group & set(options)) <= 1 for group in EXCLUSIVE)


@pytest.mark.parametrize("cluster", CLUSTERS)
def test_the_ranks_of_the_demo_are_the_plans(cluster):
    profile = profile_named(cluster)
    job = load_job(DEMO)
    plan = search(profile, job)

    for stage in stages(job):
        assert layout(profile, job, plan, stage).world_size == (plan.world_size if stage.ranks == "all" else 1)


def test_this_python_is_the_one_that_renders(lab, command):
    shape = layout(lab, command, None, stages(command)[0])

    assert settings(lab, command, shape, python="/opt/python").python == "/opt/python"
    named = changed(lab, software={"python": "/site/python"})
    assert settings(named, command, shape, python="/opt/python").python == "/site/python"


def lines(derived: Settings) -> list[str]:
    return [setting.value for setting in derived.software]


def test_modules_are_loaded_from_a_clean_slate_and_quoted(a100, command):
    odd = changed(a100, software={"modules": ["gcc/13", "a b;c"], "setup": ["source /site/env.sh"]})

    derived = settings(odd, command, layout(odd, command, None, stages(command)[0]), USER)

    assert lines(derived) == ["module purge", "module load gcc/13 'a b;c'", "source /site/env.sh"]
    assert shlex.split(lines(derived)[1])[-1] == "a b;c"


def test_modules_of_a_node_type_come_before_the_others(a100, command):
    node = changed(a100.nodes["a100"], modules=["arch/a100"])
    area = changed(a100, nodes={"a100": node.model_dump(by_alias=True, mode="json")})

    derived = settings(area, command, layout(area, command, None, stages(command)[0]), USER)

    assert lines(derived)[1] == "module load arch/a100 gcc/13 openmpi/4.1"
    assert derived.software[1].key == "nodes.a100.modules"


@pytest.mark.parametrize("cluster", CLUSTERS)
def test_the_shown_derivation_has_a_line_for_each_setting(cluster):
    text = derived_text(profile_named(cluster))

    assert "export OMP_NUM_THREADS=" in text
    assert ("#SBATCH --nodes=2" in text) == (cluster != "local")


def test_what_a_site_wants_to_be_told_stands_in_the_shown_derivation_too(a100):
    site = changed(a100, scheduler={**a100.scheduler.model_dump(by_alias=True, mode="json"), "qos_required": True})

    text = derived_text(site)

    assert "#SBATCH --account=YOUR_ACCOUNT" in text
    assert "#SBATCH --qos=YOUR_QOS" in text


def test_the_shown_derivation_ends_with_what_nobody_knows(a100):
    text = derived_text(changed(a100, fabric={"rate": "unknown", "hcas": []}))

    _, missing = text.split("unknown, and it matters")
    assert "fabric.rate" in missing
    assert "fabric.hcas" in missing
    assert "fabric.interfaces" not in missing


@pytest.mark.parametrize(("max_time", "asked"), [("unlimited", False), (None, True)])
def test_a_time_that_is_said_to_be_unlimited_is_not_unknown(a100, max_time, asked):
    queue = {"gpu": {"node_type": "a100", **({"max_time": max_time} if max_time else {})}}

    text = derived_text(changed(a100, scheduler={"partitions": queue}))

    assert ("scheduler.partitions.gpu.max_time" in text.partition("unknown, and it matters")[2]) is asked


def test_the_shown_binding_is_a_line_for_each_rank(a100):
    text = derived_text(a100)

    assert "rank  GPU  CPUs   NUMA  NIC\n  0     0    0-15   ?     ?\n" in text


def test_the_shown_limits_are_those_of_the_queue_and_of_each_qos(a100):
    partitions = {"gpu": {"node_type": "a100", "max_time": "24h", "max_nodes": 64}}
    qos = {"long": {"max_time": "4d", "max_nodes": 8, "overrides_partition": True}, "test": {"max_time": "30m"}}

    text = derived_text(changed(a100, scheduler={"partitions": partitions, "qos": qos}))

    assert "partition gpu: at most 1 d, 64 nodes" in text
    assert "--qos long: at most 4 d, 8 nodes" in text
    assert "--qos test: at most 30 min, 64 nodes" in text


@pytest.mark.parametrize(
    ("cpus", "ranges"), [((), ""), ((3,), "3"), ((0, 1, 2, 8), "0-2,8"), ((48, 49, 112, 113), "48-49,112-113")]
)
def test_cpus_are_shown_as_ranges(cpus, ranges):
    assert as_ranges(cpus) == ranges
