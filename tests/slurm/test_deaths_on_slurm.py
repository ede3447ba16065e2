"""A rank or a node dies in the middle of a torch program on the mpi4py backend: the job ends, and its log names it."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest
from lab_cluster import Lab, said

from hpcllm.launch.submission.submit import submit
from hpcllm.run_directory import Run

pytestmark = [pytest.mark.slurm, pytest.mark.usefixtures("quiet_queue")]
TRAINER = Path(__file__).parents[1] / "mpi/mpi_trainer.py"


def training(lab: Lab, folder: Path, *victim: str) -> Run:
    """Two ranks on two nodes, submitted; they would train for ever, and nothing starts them again."""
    words = [sys.executable, str(TRAINER), str(folder), *victim]
    resources = {"nodes": 2, "ranks_per_node": 1, "time": "3m"}
    run = lab.command(folder / "run", words, resources=resources, slurm={"max_requeues": 0})
    submit(run)
    return run


def test_a_killed_rank_ends_the_job_and_is_named(lab: Lab, tmp_path: Path) -> None:
    run = training(lab, tmp_path, "1")

    found = lab.wait(run, 90)["command"]

    assert found.state == "failed", said(run)
    assert f"rank 1 on {(tmp_path / '1').read_text()}: Killed" in found.reason


@pytest.mark.long
def test_a_lost_node_ends_the_job_and_is_named(lab: Lab, tmp_path: Path) -> None:
    """Slurm sees after SlurmdTimeout (10 s in the lab) that a node does not answer."""
    run = training(lab, tmp_path)
    end_s = time.monotonic() + 90
    while not all((tmp_path / rank).exists() for rank in "01"):
        assert time.monotonic() < end_s, said(run)
        time.sleep(0.2)
    node = (tmp_path / "1").read_text()
    lab.node("kill", node)
    try:
        found = lab.wait(run, 90)["command"]
    finally:
        lab.node("start", node)

    assert found.state == "node failure", said(run)
    assert f"on {node}: Node failure" in found.reason
