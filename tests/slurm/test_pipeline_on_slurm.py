"""The whole pipeline on four nodes of a real Slurm: by `hpcllm submit`, by hand, and what status says meanwhile."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest
import yaml
from lab_cluster import Lab, said

from hpcllm.cluster.profile import shipped_profiles
from hpcllm.launch.tracking.track import look, status
from hpcllm.run_directory import Run, read_json, read_jsonl

pytestmark = [pytest.mark.slurm, pytest.mark.usefixtures("quiet_queue")]

JOB = """
name: tiny
data:
  text: {files: ["stdlib:json/*.py", "stdlib:email/*.py"]}
  split: {validation: 10%, test: 10%}
  tokenizer: {kind: byte}
model: {layers: 1, width: 32, heads: 2, feed_forward: 64, context: 64}
train:
  steps: 6
  global_batch: 8
  precision: fp32
  schedule: {warmup_steps: 2}
  validate_every_steps: 6
  checkpoint: {every_steps: 3}
evaluate: {samples: {prompts: ["def "], new: 8 tokens}}
deploy: {quantize: int8}
resources: {nodes: NODES, ranks_per_node: 1, time: 5m}
"""
ORDER = ["tokenizer", "shard", "train", "evaluate", "compress", "evaluate-compressed", "gather"]


def job_file(folder: Path, nodes: int) -> Path:
    path = folder / "tiny.yaml"
    path.write_text(JOB.replace("NODES", str(nodes)))
    return path


def demo(folder: Path) -> Path:
    """jobs/demo.yaml with less text and fewer steps, on all four nodes."""
    job = yaml.safe_load((shipped_profiles().parent / "jobs" / "demo.yaml").read_text())
    job["data"] |= {"text": {"files": ["stdlib:json/*.py", "stdlib:email/*.py"]}, "split": {"test": "10%"}}
    job["data"]["split"]["validation"] = "10%"
    job["data"]["tokenizer"]["vocabulary"] = 512
    job["train"] |= {"steps": 6, "schedule": {"warmup_steps": 2}, "validate_every_steps": 6}
    job["train"]["checkpoint"]["every_steps"] = 3
    job["evaluate"]["samples"]["new"] = "8 tokens"
    job["resources"] = {"nodes": 4, "ranks_per_node": 1, "time": "5m"}
    path = folder / "demo.yaml"
    path.write_text(yaml.safe_dump(job))
    return path


def assert_complete(run: Run, nodes: int) -> None:
    """Every stage ran where and as it should, and left what the contract says."""
    found = {stage.stage: stage for stage in status(run)}
    assert {name: stage.state for name, stage in found.items()} == dict.fromkeys(ORDER, "done"), said(run)
    assert len(read_json(run.state_json("30-train"))["hosts"]) == nodes
    assert [line["step"] for line in read_jsonl(run.metrics_jsonl("train"))] == list(range(1, 7))
    assert run.result_json("trained", "perplexity").exists()
    assert run.result_json("compressed", "perplexity").exists()
    assert run.report_html.exists()


def test_submit_runs_the_dag_on_four_nodes_and_status_is_right_meanwhile(lab: Lab, tmp_path: Path) -> None:
    run = Run(tmp_path / "run")

    submitted = lab.hpcllm("submit", job_file(tmp_path, 4), "--cluster", "slurm-lab", "--out", run.root)

    assert submitted.returncode == 0, submitted.stderr
    assert list(read_json(run.jobs_json)) == ORDER
    assert_in_order(watched(run))
    assert_complete(run, nodes=4)
    again = lab.hpcllm("submit", run.root)
    assert (again.returncode, list(read_json(run.jobs_json).values())) == (0, list(read_json(run.jobs_json).values()))
    assert all(len(ids) == 1 for ids in read_json(run.jobs_json).values())


def assert_in_order(seen: list[dict[str, str]]) -> None:
    """No stage was ahead of the one before it, and one was seen at work."""
    for states in seen:
        ranks = [("done", "running", "pending", "waiting").index(states[name]) for name in ORDER[:3]]
        assert ranks == sorted(ranks), f"a stage is ahead of the one before it: {states}"
    assert any(states["train"] == "running" and states["gather"] == "waiting" for states in seen)


@pytest.mark.long
def test_without_accounting_the_demo_runs_and_status_is_right_all_the_same(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sacct = tmp_path / "bin" / "sacct"
    sacct.parent.mkdir()
    sacct.write_text("#!/bin/sh\necho 'Slurm accounting storage is disabled' >&2\nexit 1\n")
    sacct.chmod(0o755)
    monkeypatch.setenv("PATH", f"{sacct.parent}:{os.environ['PATH']}")
    run = Run(tmp_path / "run")

    submitted = lab.hpcllm("submit", demo(tmp_path), "--cluster", "slurm-lab", "--out", run.root)

    assert submitted.returncode == 0, submitted.stderr
    assert_in_order(watched(run, 280))
    assert_complete(run, nodes=4)
    assert look(run).silence == ""


@pytest.mark.long
@pytest.mark.timeout(600)
def test_the_demo_outlives_its_controller(lab: Lab, tmp_path: Path) -> None:
    """slurmctld is away while the training runs: status tells what is on disk, and the rest follows when it is back."""
    run = Run(tmp_path / "run")
    submitted = lab.hpcllm("submit", demo(tmp_path), "--cluster", "slurm-lab", "--out", run.root)
    assert submitted.returncode == 0, submitted.stderr
    log, end_s = run.log("30-train", 1), time.monotonic() + 150
    while not (log.exists() and "[train " in log.read_text()):
        assert time.monotonic() < end_s, said(run)
        time.sleep(0.3)

    lab.node("controller", "stop")
    try:
        away = look(run)
    finally:
        lab.node("controller", "start")

    assert away.silence
    states = {stage.stage: stage.state for stage in away.stages}
    assert [states[name] for name in ("tokenizer", "shard")] == ["done", "done"]
    assert states["train"] in ("running", "done")
    assert not {"failed", "cancelled"} & set(states.values())
    watched(run, 300)
    assert_complete(run, nodes=4)
    assert look(run).silence == ""


def watched(run: Run, timeout_s: float = 200) -> list[dict[str, str]]:
    """Every picture that status gave until the end."""
    seen: list[dict[str, str]] = []
    end_s = time.monotonic() + timeout_s
    while time.monotonic() < end_s:
        states: dict[str, str] = {stage.stage: stage.state for stage in status(run)}
        if not seen or states != seen[-1]:
            seen.append(states)
        if not {"waiting", "pending", "running"} & set(states.values()):
            return seen
        time.sleep(0.5)
    raise AssertionError(f"not over: {seen[-1]}\n{said(run)}")


def test_submit_sh_runs_the_same_dag_by_hand(lab: Lab, tmp_path: Path) -> None:
    run = Run(tmp_path / "a run")
    rendered = lab.hpcllm("render", job_file(tmp_path, 1), "--cluster", "slurm-lab", "--out", run.root)
    assert rendered.returncode == 0, rendered.stderr

    by_hand = subprocess.run(["bash", run.submit_sh], capture_output=True, text=True, cwd="/", timeout=60)

    assert by_hand.returncode == 0, by_hand.stderr
    watched(run)
    assert_complete(run, nodes=1)


def test_a_stage_that_fails_stops_what_needs_it_and_a_second_submit_goes_on(lab: Lab, tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    lab.hpcllm("render", job_file(tmp_path, 1), "--cluster", "slurm-lab", "--out", run.root)
    shard = run.script("20-shard")
    good = shard.read_text()
    shard.write_text(good.replace("# ---- launch\n", "# ---- launch\necho 'the disk is full'; exit 1\n", 1))
    lab.hpcllm("submit", run.root)

    states = watched(run)[-1]

    assert states == {"tokenizer": "done", "shard": "failed", **dict.fromkeys(ORDER[2:], "cancelled")}
    shard.write_text(good)
    again = lab.hpcllm("submit", run.root)
    assert "tokenizer" not in again.stdout
    assert len(read_json(run.jobs_json)["shard"]) == 2
