"""`profile detect` describes a Slurm that nobody has described. Run: pytest tests/slurm/test_detect_on_slurm.py."""

from __future__ import annotations

from pathlib import Path

import pytest
from lab_cluster import Lab, said

from hpcllm.launch.tracking.track import status
from hpcllm.run_directory import Run

pytestmark = pytest.mark.slurm


def test_what_detect_writes_can_be_submitted_to_unedited(lab: Lab, tmp_path: Path, quiet_queue: None):
    found = tmp_path / "profiles" / "found.yaml"
    found.parent.mkdir()
    detected = lab.hpcllm("profile", "detect", "--job", "--out", found, cwd=tmp_path)
    assert (detected.returncode, detected.stderr) == (0, "")

    linted = lab.hpcllm("profile", "lint", found)
    assert linted.returncode == 0, linted.stdout + linted.stderr
    words = ["submit", "--cluster", found, "--nodes", "2", "--time", "2m", "--out", tmp_path / "run", "--", "hostname"]
    submitted = lab.hpcllm(*words, cwd=tmp_path)
    assert submitted.returncode == 0, submitted.stderr

    run = Run.open(tmp_path / "run")
    lab.wait(run)
    assert [stage.state for stage in status(run)] == ["done"], said(run)
    assert {"n1", "n2"} <= set(said(run).split())


def test_detect_by_a_login_node_alone_says_that_it_saw_no_node(lab: Lab, tmp_path: Path):
    detected = lab.hpcllm("profile", "detect", cwd=tmp_path)

    assert "no compute node was looked at" in detected.stdout
    assert "cluster_name: lab" in detected.stdout
