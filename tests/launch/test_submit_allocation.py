"""`hpcllm run` in the shell of salloc: the allocation is the place, whatever the job says of nodes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from shipped_jobs import described

from hpcllm.cluster.profile import Profile, load_profile, shipped_profiles
from hpcllm.errors import UserError
from hpcllm.job.spec import CommandJob
from hpcllm.launch.allocation import Allocation, allocation, check_large_enough, narrowed, resources
from hpcllm.launch.render import render

Fake = Callable[[str, str], Path]
SALLOC = {
    "SLURM_JOB_ID": "12",
    "SLURM_JOB_NUM_NODES": "2",
    "SLURM_JOB_CPUS_PER_NODE": "4(x2)",
    "SLURM_JOB_PARTITION": "batch",
    "SLURM_JOB_ACCOUNT": "research",
    "SLURM_JOB_QOS": "normal",
}


@pytest.fixture
def salloc(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Allocation | None]:
    def make(**more: str) -> Allocation | None:
        for name, value in {**SALLOC, **more}.items():
            monkeypatch.setenv(name, value)
        return allocation()

    return make


def there(found: Allocation | None) -> Allocation:
    assert found is not None
    return found


@pytest.mark.parametrize(
    "more",
    [{"SLURM_STEP_ID": "3"}, {"PMI_RANK": "0"}, {"OMPI_COMM_WORLD_RANK": "1"}],
)
def test_a_process_that_is_one_of_many_ranks_is_in_no_allocation_of_its_own(
    salloc: Callable[..., Allocation | None], more: dict[str, str]
) -> None:
    assert salloc(**more) is None


def test_the_shell_that_salloc_starts_as_a_step_is_in_it(salloc: Callable[..., Allocation | None]) -> None:
    assert there(salloc(SLURM_STEP_ID="4294967290")).nodes == 2


@pytest.mark.parametrize(
    ("more", "ranks", "expected"),
    [
        ({}, None, (2, None)),
        ({"SLURM_NTASKS": "4"}, None, (2, 2)),
        ({"SLURM_NTASKS_PER_NODE": "3"}, None, (2, 3)),
        ({"SLURM_NTASKS": "4"}, 8, (2, 4)),
        ({}, 1, (1, 1)),
    ],
)
def test_ranks_are_those_of_the_command_line_else_of_salloc(
    salloc: Callable[..., Allocation | None], more: dict[str, str], ranks: int | None, expected: tuple[int, int | None]
) -> None:
    found = resources(there(salloc(**more)), described(), ranks, False)

    assert (found["nodes"], found["ranks_per_node"]) == expected
    assert (found["partition"], found["account"], found["qos"]) == ("batch", "research", None)


def test_the_time_is_what_is_left(salloc: Callable[..., Allocation | None], fake_slurm: Fake) -> None:
    fake_slurm("squeue", "echo '  9:58'")

    assert resources(there(salloc()), described(), None, False)["time"] == "598s"


@pytest.mark.parametrize(
    ("ranks", "words"),
    [(3, "--ranks: found 3; allocation 12 has 2 nodes.*ask for 2 or 4"), (16, "found 16;.*4 cores each.*at most 8")],
)
def test_what_the_allocation_cannot_hold_is_an_error(
    salloc: Callable[..., Allocation | None], ranks: int, words: str
) -> None:
    with pytest.raises(UserError, match=words):
        resources(there(salloc()), described(), ranks, False)

    assert resources(there(salloc()), described(), 16, True)["ranks_per_node"] == 8


def test_nodes_have_no_more_than_the_allocation_has_of_them(salloc: Callable[..., Allocation | None]) -> None:
    found = there(salloc(SLURM_JOB_CPUS_PER_NODE="4(x2),2", SLURM_MEM_PER_NODE="1024"))

    node = narrowed(described(), found).nodes["cpu"]

    assert (node.cores, node.memory_bytes) == (2, 2**30)


def gpu_profile(gpu_request: str) -> Profile:
    profile = load_profile(shipped_profiles() / "ib-lustre-a100.yaml")
    return profile.model_copy(update={"scheduler": profile.scheduler.model_copy(update={"gpu_request": gpu_request})})


@pytest.mark.parametrize(("on_node", "request_", "count"), [("1", "gres", 1), ("", "gres", None), ("", "none", 4)])
def test_gpus_are_those_that_slurm_gave(
    salloc: Callable[..., Allocation | None], on_node: str, request_: str, count: int | None
) -> None:
    profile = gpu_profile(request_)
    whole = profile.nodes["a100"]
    given = there(salloc(SLURM_GPUS_ON_NODE=on_node, SLURM_JOB_CPUS_PER_NODE="8", SLURM_JOB_PARTITION="gpu"))

    gpus = narrowed(profile, given).nodes["a100"].gpus

    assert whole.gpus is not None
    assert (gpus.count if gpus else None) == (whole.gpus.count if request_ == "none" else count)
    assert gpus is None or gpus.cpus == ()  # which cores those are, only Slurm knows


def test_a_run_for_more_nodes_goes_on_in_a_larger_allocation_only(
    salloc: Callable[..., Allocation | None], tmp_path: Path
) -> None:
    words: dict[str, Any] = {"name": "mine", "command": ["true"], "resources": {"nodes": 3}}
    run = render(described(), None, CommandJob.model_validate(words), None, None, tmp_path / "run", cwd=tmp_path)

    check_large_enough(there(salloc(SLURM_JOB_NUM_NODES="3")), run)
    with pytest.raises(UserError, match="was rendered for 3 nodes; allocation 12 has 2 nodes: salloc -N3"):
        check_large_enough(there(salloc()), run)
