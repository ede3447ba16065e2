"""Nodes that a run leaves out: remembered with their reason, read from srun's words, forgotten after a week."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from shipped_jobs import JOBS

from hpcllm.cli import main as main_of_cli
from hpcllm.errors import ExitCode
from hpcllm.launch.bad_nodes import FORGOTTEN_AFTER_S, bad_nodes, excluded, lost_nodes, main, remember
from hpcllm.run_directory import Run

HOSTS = ["n1", "n2", "n3"]
HUNG = """\
srun: error: n1: task 0: Exited with exit code 1
srun: First task exited 8s ago
srun: StepId=4.0 tasks 2-3: running
srun: StepId=4.0 tasks 0-1,4-5: exited abnormally
srun: Job step aborted: Waiting up to 7 seconds for job step to finish.
"""


@pytest.mark.parametrize(
    ("log", "lost"),
    [
        ("srun: error: Node failure on n2\n", ["n2"]),
        ("srun: error: Task launch for StepId=1.0 failed on node n3: Communication connection failure\n", ["n3"]),
        (HUNG + "srun: error: Timed out waiting for job step to complete\n", ["n2"]),
        (HUNG, []),
        ("srun: error: n2: task 1: Killed\n", []),
        ("0: srun: error: Node failure on n2\n", []),
        ("srun: error: Node failure on other\n", []),
        ("", []),
    ],
)
def test_a_lost_node_is_told_from_a_rank_that_failed(log: str, lost: list[str]) -> None:
    assert lost_nodes(log, HOSTS, ranks_per_node=2) == lost


def test_nodes_are_remembered_once_each_and_forgotten_after_a_week(tmp_path: Path) -> None:
    run = Run(tmp_path)
    remember(run, ["n2", "n5"], "link 25 MB/s", "30-train.1")
    remember(run, ["n2"], "did not\nanswer", "30-train.3")

    assert [(bad.node, bad.why, bad.attempt) for bad in bad_nodes(run)] == [
        ("n2", "did not answer", "30-train.3"),
        ("n5", "link 25 MB/s", "30-train.1"),
    ]
    assert bad_nodes(run, time.time() + FORGOTTEN_AFTER_S + 1) == []


@pytest.mark.parametrize("others", ["", "(null)", "N/A", "n7"])
def test_what_a_job_leaves_out_already_stays_out(tmp_path: Path, others: str) -> None:
    run = Run(tmp_path)
    remember(run, ["n2"], "slow", "30-train.1")

    assert excluded(run, others) == ("n2,n7" if others == "n7" else "n2")


def test_a_script_learns_by_the_exit_code_whether_a_node_was_lost(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "30-train.2.log"
    log.write_text("srun: error: Node failure on n2\n")

    assert main(["lost", str(tmp_path), str(log), "1", *HOSTS]) == 0
    assert main(["exclude", str(tmp_path), "(null)"]) == 0

    assert capsys.readouterr().out.splitlines() == ["lost n2", "n2"]
    assert bad_nodes(Run(tmp_path))[0].attempt == "30-train.2"


def test_the_plan_of_a_run_has_so_many_nodes_fewer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "render",
        str(JOBS / "demo.yaml"),
        "--cluster",
        "slurm-lab",
        "--nodes",
        "4",
        "--out",
        str(tmp_path / "run"),
    ]
    assert main_of_cli(words) == 0
    assert main_of_cli(["plan", str(tmp_path / "run")]) == 0
    remember(Run(tmp_path / "run"), ["n2"], "link 25 MB/s", "30-train.1")
    capsys.readouterr()

    assert main_of_cli(["plan", str(tmp_path / "run")]) == ExitCode.DOES_NOT_FIT
    out = capsys.readouterr().out
    assert out.startswith("without n2: link 25 MB/s\n")
    assert "4 nodes asked, partition batch has 3" in out
    assert main_of_cli(["plan", str(tmp_path / "run"), "--nodes", "2"]) == 0
