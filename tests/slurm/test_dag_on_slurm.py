"""The DAG on a real Slurm: programs that know nothing of it (OpenMP, MPI, torchrun, TensorFlow), stages of one's own
among ours, and a sweep of 200 runs."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from lab_cluster import Lab, said

from hpcllm.cluster.profile import shipped_profiles
from hpcllm.launch.sweep import Sweep
from hpcllm.launch.tracking import slurm
from hpcllm.launch.tracking.logs import logs
from hpcllm.launch.tracking.sweep_status import SweepStatus, look_at
from hpcllm.run_directory import Run, read_json

pytestmark = [pytest.mark.slurm, pytest.mark.usefixtures("quiet_queue")]

JOBS = shipped_profiles().parent / "jobs"
OWN_PYTHON = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}:/usr/sbin:/sbin"}
INSTALLATION_S = 400

TRAINING = """\
name: tiny
data:
  text: {files: [corpus/*.txt]}
  split: {validation: 20%, test: 20%}
  tokenizer: {kind: byte}
model: {architecture: decoder, layers: 1, width: 32, heads: 2, feed_forward: 64, context: 32}
train: {steps: 4, global_batch: 4, validate_every_steps: 4}
evaluate: {samples: {count: 1, new: 4 tokens}}
resources: {nodes: 2, ranks_per_node: 1, time: 5m}
"""
FETCH = "mkdir corpus; for i in {1..30}; do echo text number $i, said again and again, {1..20} >corpus/$i.txt; done"
ROWS = f"""\
stages:
  - name: fetch
    command: [bash, -c, '{FETCH}']
    before: [tokenizer]
    nodes: 1
  - name: look
    command: [bash, -c, 'echo "rank $RANK saw $(cat {{run}}/checkpoints/LATEST)"']
    after: [train]
"""


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """The shipped jobs, where their programs may leave what they like."""
    return Path(shutil.copytree(JOBS, tmp_path / "jobs"))


def submitted(lab: Lab, job: Path, out: Path, *words: str | Path) -> Run:
    done = lab.hpcllm(
        "submit", job, "--cluster", "slurm-lab", "--partition", "batch", "--out", out, *words, **OWN_PYTHON
    )
    assert done.returncode == 0, done.stderr
    return Run.open(out)


def lines_of(run: Run, stage_id: str) -> list[str]:
    return run.log(stage_id, 1).read_text().splitlines()


@pytest.mark.skipif(not shutil.which("cc"), reason="an OpenMP program in C needs a compiler (gcc)")
def test_an_openmp_program_is_compiled_and_runs_with_all_threads_of_two_nodes(
    lab: Lab, copied: Path, tmp_path: Path
) -> None:
    run = submitted(lab, copied / "openmp.yaml", tmp_path / "run")

    found = lab.wait(run)

    assert [stage.state for stage in found.values()] == ["done", "done"], said(run)
    told = [line.split("rank ")[1] for line in lines_of(run, "02-pi") if "by 2 threads" in line]
    assert sorted(told) == [f"{rank}: pi 3.141592653590 by 2 threads" for rank in (0, 1)]
    assert len(read_json(run.state_json("02-pi"))["hosts"]) == 2


@pytest.mark.parametrize(
    ("name", "words"),
    [("mpi", r"pi 3\.141592653590 .* by 2 ranks on 2 nodes"), ("torchrun", r"rank 1 of 2: weights (\S+)")],
)
def test_a_plain_program_runs_on_two_nodes(lab: Lab, copied: Path, tmp_path: Path, name: str, words: str) -> None:
    run = submitted(lab, copied / f"{name}.yaml", tmp_path / "run")

    assert lab.wait(run)["command"].state == "done", said(run)
    assert re.search(words, "\n".join(lines_of(run, "30-command")))


@pytest.fixture(scope="session")
def tensorflow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python environment with TensorFlow: HPCLLM_TENSORFLOW_PYTHON names one, else it is made here."""
    given = os.environ.get("HPCLLM_TENSORFLOW_PYTHON")
    if given:
        return Path(given).parents[1]
    folder = tmp_path_factory.mktemp("tensorflow") / "venv"
    subprocess.run([sys.executable, "-m", "venv", folder], check=True, timeout=60)
    pip = [folder / "bin" / "pip", "install", "-q", "--only-binary=:all:", "tensorflow-cpu"]
    try:
        done = subprocess.run(pip, capture_output=True, text=True, timeout=INSTALLATION_S)
    except subprocess.TimeoutExpired:
        pytest.skip(f"tensorflow-cpu could not be installed within {INSTALLATION_S} s")
    if done.returncode:
        pytest.skip(f"tensorflow-cpu cannot be installed: {done.stderr.strip().splitlines()[-1:]}")
    return folder


@pytest.mark.long  # its environment alone takes minutes
def test_tensorflow_workers_of_two_nodes_train_one_model(
    lab: Lab, copied: Path, tmp_path: Path, tensorflow: Path
) -> None:
    run = submitted(lab, copied / "tensorflow.yaml", tmp_path / "run", "--env", tensorflow)

    assert lab.wait(run, 300)["command"].state == "done", said(run)
    told = re.findall(r"worker (\d) of (\d): loss (\S+) -> (\S+), bias (\S+)", "\n".join(lines_of(run, "30-command")))
    assert sorted((rank, workers) for rank, workers, *_ in told) == [("0", "2"), ("1", "2")]
    assert told[0][2:] == told[1][2:]
    assert float(told[0][3]) < float(told[0][2]) / 2


def test_stages_of_ones_own_stand_among_ours_and_are_done_but_once(lab: Lab, tmp_path: Path) -> None:
    job, out = tmp_path / "job.yaml", tmp_path / "run"
    job.write_text(TRAINING + ROWS.replace("{run}", str(out)))
    run = submitted(lab, job, out)

    found = lab.wait(run, 240)

    assert [stage.state for stage in found.values()] == ["done"] * 7, said(run)
    assert list(found)[:5] == ["fetch", "tokenizer", "shard", "train", "look"]
    assert any("rank 1 saw step-4" in line for line in lines_of(run, "31-look"))
    assert lab.hpcllm("submit", out, **OWN_PYTHON).stdout.count("\n") == 1  # how to follow, and no job


def test_arrays_of_shards_and_evaluations_are_one_stage_each_and_only_what_failed_runs_again(
    lab: Lab, tmp_path: Path
) -> None:
    job, out, away = tmp_path / "job.yaml", tmp_path / "run", tmp_path / "away"
    text = TRAINING.replace("corpus/*.txt", "stdlib:json/*.py").replace("nodes: 2", "nodes: 1")
    text = text.replace("{kind: byte}", "{kind: byte}\n  shard_jobs: 2")
    text = text.replace("validate_every_steps: 4", "validate_every_steps: 4, checkpoint: {every_steps: 2}")
    text = text.replace("evaluate: {", "evaluate: {checkpoints: all, ")
    weights = out / "checkpoints" / "step-2" / "model.safetensors"
    harm = f"stages: [{{name: harm, command: [mv, {weights}, {away}], after: [train], before: [evaluate]}}]\n"
    job.write_text(text + harm)
    run = submitted(lab, job, out)

    failed = lab.wait(run, 240)

    assert (failed["shard"].state, failed["shard"].progress) == ("done", "2/2 done"), said(run)
    assert (failed["evaluate"].state, failed["evaluate"].progress) == ("failed", "2/4 done"), said(run)
    assert failed["evaluate"].reason.startswith("element 2 (checkpoint 1, task perplexity): ")
    assert logs(run, "evaluate").startswith(f"==> {run.log('40-evaluate_2', 1)}\n")
    assert failed["gather"].state == "cancelled"

    away.rename(weights)
    again = lab.hpcllm("submit", out, **OWN_PYTHON)
    done = lab.wait(run, 240)

    assert re.findall(r"^(\S+) +\d+$", again.stdout, re.MULTILINE) == ["evaluate", "gather"]
    assert [stage.state for stage in done.values()] == ["done"] * 6, said(run)
    assert done["evaluate"].progress == "4/4 done"
    assert [read_json(run.state_json(f"40-evaluate_{i}"))["attempt"] for i in range(4)] == [1, 1, 2, 2]
    assert run.result_json("trained", "perplexity").exists()
    assert run.result_json("step-2", "perplexity").exists()


def test_a_sweep_of_trainings_shares_its_shards_and_each_run_goes_its_own_way(lab: Lab, tmp_path: Path) -> None:
    job, out = tmp_path / "job.yaml", tmp_path / "sweep"
    text = TRAINING.replace("corpus/*.txt", "stdlib:json/*.py").replace("nodes: 2", "nodes: 1")
    job.write_text(text + "sweep: {train.optimizer.learning_rate: [1e-3, 3e-3], train.seed: [1]}\n")
    done = lab.hpcllm("submit", job, "--cluster", "slurm-lab", "--partition", "batch", "--out", out, **OWN_PYTHON)
    assert done.returncode == 0, done.stderr

    sweep = Sweep.open(out)
    now = until(sweep, lambda now: all(stage.state == "done" for run in now.runs for stage in run.stages), 300)

    assert [len(run.stages) for run in now.runs] == [5, 5]
    first, second = (read_json(run.jobs_json) for run in sweep.runs)
    assert first["shard"] == second["shard"]
    assert first["train"] == [second["train"][0].replace("_1", "_0")]
    losses = [run.metrics_jsonl("validation").read_text().split('"loss": ')[1].split(",")[0] for run in sweep.runs]
    assert losses[0] != losses[1]


def until(sweep: Sweep, over: Callable[[SweepStatus], bool], timeout_s: float) -> SweepStatus:
    """The sweep, when that is so."""
    end_s = time.monotonic() + timeout_s
    while time.monotonic() < end_s:
        now = look_at(sweep)
        if over(now):
            return now
        time.sleep(1)
    raise AssertionError([(run.root.name, said(run)) for run in sweep.runs])


def test_200_runs_are_submitted_by_one_call_and_tracked_by_one_question(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, out = tmp_path / "job.yaml", tmp_path / "sweep"
    values = ", ".join(f"'{i}'" for i in range(200))
    job.write_text(
        "name: many\nresources: {nodes: 1, ranks_per_node: 1, time: 1m}\n"
        "stages: [{name: say, command: [bash, -c, 'echo it is $NUMBER']}]\n"
        f"sweep: {{environment.NUMBER: [{values}]}}\n"
    )
    done = lab.hpcllm("submit", job, "--cluster", "slurm-lab", "--partition", "batch", "--out", out, **OWN_PYTHON)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^say +\d+ +200 runs$", done.stdout, re.MULTILINE)
    sweep, asked, ask = Sweep.open(out), Counter[str](), slurm.slurm
    until(sweep, lambda now: Counter(stage.state for run in now.runs for stage in run.stages)["done"] > 8, 60)

    def counted(command: list[str], *timeout: float) -> subprocess.CompletedProcess[str]:
        asked[command[0]] += 1
        return ask(command, *timeout)

    monkeypatch.setattr(slurm, "slurm", counted)
    now = look_at(sweep)

    states = Counter(stage.state for run in now.runs for stage in run.stages)
    assert sum(states.values()) == 200
    assert set(states) <= {"done", "running", "pending"}
    assert max(asked.values()) == 1
    monkeypatch.undo()
    cancelled = lab.hpcllm("cancel", out)
    assert re.match(r"cancelled \d+ jobs", cancelled.stdout)
    until(sweep, lambda now: {stage.state for run in now.runs for stage in run.stages} == {"done", "cancelled"}, 60)
    assert any("it is 1" in line for line in lines_of(sweep.runs[1], "01-say"))
