"""The comparison itself: a difference that nobody explained is found, and so is an explanation without a difference."""

from __future__ import annotations

import pytest
from emulated_site import Site
from published_script import broken_rules, differences, normal, read_script, slurm_seconds

SCRIPT = """\
#!/usr/bin/env bash
#SBATCH --job-name=train            # job.name
#SBATCH --nodes=2                   # job.resources.nodes
#SBATCH --time=01:00:00             # job.resources.time
#SBATCH --mem-per-gpu=61440M        # nodes.g.memory
#SBATCH --constraint="gpu&hbm80g"   # scheduler
#SBATCH --exclusive                 # scheduler.exclusive
export NCCL_NET='AWS Libfabric'  # fabric.kind
export MASTER_ADDR MASTER_PORT
launch=(  # software.mpi.launcher
  srun --mpi=pmix --nodes=2 --ntasks=16
  --cpu-bind=mask_cpu:0xfe,0xfe00 --label
)
signal=USR2
  "${launch[@]}" bash -c 'export RANK=${PMI_RANK:-${SLURM_PROCID:-0}} WORLD_SIZE=16
export NODE_RANK=$((RANK / LOCAL_WORLD_SIZE))
exec "$@"' rank python &
"""
SAME = {
    "directives": {"N": 2, "t": "1:00:00", "mem-per-gpu": "60G", "constraint": "gpu&hbm80g", "exclusive": True},
    "environment": {"NCCL_NET": "AWS Libfabric", "MASTER_ADDR": "$(hostname)"},
    "launcher": {"mpi": "pmix", "cpu-bind": "v,mask_cpu=0x00fe,0xfe00"},
}


def site(**published: object) -> Site:
    return Site.model_validate(
        {
            "system": "S",
            "facts": "none",
            "request": {"nodes": 2, "time": "30m"},
            "lab": {"node": "CPUs=2", "partitions": ["p"]},
            "published": {"what": "a script", **published},
        }
    )


def test_the_same_in_other_writings_is_no_difference() -> None:
    assert differences(site(**SAME), read_script(SCRIPT)) == {}


@pytest.mark.parametrize(
    ("section", "key", "value", "text"),
    [
        ("directives", "mem-per-gpu", "64G", "ours '61440M', published '64G'"),
        ("directives", "network", "disable_rdzv_get", "published alone: 'disable_rdzv_get'"),
        ("environment", "NCCL_NET", "Socket", "ours 'AWS Libfabric', published 'Socket'"),
        (
            "launcher",
            "cpu-bind",
            "mask_cpu:0xfe00,0xfe",
            "ours 'mask_cpu:0xfe,0xfe00', published 'mask_cpu:0xfe00,0xfe'",
        ),
    ],
)
def test_another_value_and_one_that_ours_lacks_are_differences(section: str, key: str, value: str, text: str) -> None:
    published = {**SAME, section: {**SAME[section], key: value}}

    assert differences(site(**published), read_script(SCRIPT)) == {f"{section}.{key}": text}


def test_what_ours_has_alone_is_a_difference_unless_every_script_of_ours_has_it() -> None:
    found = differences(site(), read_script(SCRIPT))

    assert found["environment.NCCL_NET"] == "ours alone: 'AWS Libfabric'"
    assert found["launcher.mpi"] == "ours alone: 'pmix'"
    assert not found.keys() & {"directives.job-name", "environment.RANK", "environment.NODE_RANK", "launcher.label"}


def test_rules_are_held_against_the_right_part_of_the_script() -> None:
    kept = (
        "--mem must not be given: why",
        "srun --mpi=pmix must be given",
        "NCCL_NET must be set",
        "--time must be given",
    )
    broken = (
        "--exclusive must not be given",
        "--mpi must be given",
        "NCCL_NET=Socket must be set",
        "whole nodes, please",
    )

    found = list(broken_rules(site(rules=[*kept, *broken]), read_script(SCRIPT)))

    assert found[:3] == list(broken[:3])
    assert "cannot be checked" in found[3]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 5400), ("90:00", 5400), ("1:30:00", 5400), ("1-0", 86400), ("1-02:30", 95400), ("0-03:00", 10800)],
)
def test_times_as_slurm_writes_them(text: str, seconds: int) -> None:
    assert slurm_seconds(text) == seconds
    assert normal("time", text) == f"{seconds} s"
