"""Run directories with tiny data and a tiny model, sharded and ready to train, and the train stage on some ranks."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hpcllm.cluster.detection.here import local_profile
from hpcllm.job.spec import Job, frozen_job
from hpcllm.launch.key import stage_key
from hpcllm.launch.pipeline import find_stage
from hpcllm.parallel.world import World
from hpcllm.plan.search import search
from hpcllm.run_directory import FORMAT, Run, read_json, read_jsonl, write_json
from hpcllm.stages import shard, tokenizer, train
from hpcllm.train import checkpoint

TRAIN_EACH = """
import sys
from hpcllm.cli import main

for run in sys.argv[1:]:
    if code := main(["stage", "train", run]):
        sys.exit(code)
"""
MODEL = {"layers": 2, "width": 16, "heads": 2, "feed_forward": 32, "context": 16}


def tiny_job(folder: Path, architecture: str = "decoder", model: dict[str, Any] | None = None, **train: Any) -> Job:
    """Byte tokens of a few made-up files."""
    data = _text(folder) if architecture == "decoder" else _pairs(folder)
    settings = {
        **{"steps": 12, "global_batch": 4, "precision": "fp32", "validate_every_steps": 6, "log_every_steps": 1},
        **{"optimizer": {"learning_rate": 1e-2}, "schedule": {"warmup_steps": 4}, "checkpoint": {"every_steps": 4}},
    }
    return Job.model_validate(
        {
            "name": "tiny",
            "data": {"tokenizer": {"kind": "byte"}, "split": {"validation": 0.2, "test": 0.2}, **data},
            "model": {**MODEL, "architecture": architecture, **(model or {})},
            "train": {**settings, **train},
        }
    )


def tiny_run(folder: Path, job: Job, world_size: int = 1, micro_batch: int = 4, **planned: Any) -> Run:
    """A run directory of this job for so many ranks, with tokenizer and shards; `planned` is put into its plan."""
    run = Run(folder)
    accumulation = job.train.global_batch // (world_size * micro_batch)
    plan = replace(
        search(local_profile(), job, oversubscribe=True),
        **{"world_size": world_size, "micro_batch": micro_batch, "gradient_accumulation": accumulation},
        **planned,
    )
    write_json(run.resolved_json, {"format": FORMAT, "job": job.model_dump(mode="json", by_alias=True)})
    write_json(run.software_json, {"commit": "0" * 40, "code_sha256": "0" * 64})
    write_json(run.plan_json, plan.to_json())
    for program, name in ((tokenizer, "tokenizer"), (shard, "shard")):
        stage = find_stage(job, name)
        program.main(run, stage, World.alone())
        write_json(run.state_json(stage.id), {"outcome": "done", "key": stage_key(run, stage)})
    return run


def start_training(*runs: Run) -> subprocess.Popen[str]:
    """The train stage of these runs, one after another, on as many ranks as the last one's plan says."""
    beside = Path(sys.executable).with_name("mpirun")
    launcher = str(beside) if beside.exists() else shutil.which("mpirun")
    assert launcher is not None
    ranks = read_json(runs[-1].plan_json)["world_size"]
    command = [launcher, "-n", str(ranks), sys.executable, "-c", TRAIN_EACH, *(str(run.root) for run in runs)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def trained(*runs: Run) -> str:
    """Train them to the end; what was said. Fails the test when the training does."""
    process = start_training(*runs)
    output = ended(process)
    assert process.returncode == 0, output
    return output


def ended(process: subprocess.Popen[str]) -> str:
    """What it said until its end; a training that hangs is ended, and fails the test."""
    try:
        return process.communicate(timeout=120)[0]
    except subprocess.TimeoutExpired:
        process.kill()
        pytest.fail(f"no end after two minutes: {process.communicate()[0]}")


def moved(run: Run, to: Path, after_step: int, world_size: int, strategy: str) -> Run:
    """A copy of a run that has come to this step, to go on from there on so many ranks with another strategy."""
    copy = Run(shutil.copytree(run.root, to))
    copy.state_json("30-train").unlink(missing_ok=True)
    for step in checkpoint.steps(copy):
        if step > after_step:
            shutil.rmtree(copy.checkpoint(step))
    write_json(copy.plan_json, {**read_json(run.plan_json), "world_size": world_size, "strategy": strategy})
    return copy


def train_here(run: Run, attempt: int = 1) -> None:
    """The train stage in this process, on one rank without MPI."""
    stage = find_stage(frozen_job(run), "train")
    write_json(run.state_json(stage.id), {"attempt": attempt})
    train.main(run, stage, World.alone())


def weights(run: Run, step: int) -> bytes:
    """The model's file in a checkpoint, to the bit."""
    return (run.checkpoint(step) / "model.safetensors").read_bytes()


def losses(run: Run) -> list[float]:
    """Of every step, in the order in which they were made."""
    return [line["loss"] for line in read_jsonl(run.metrics_jsonl("train"))]


def latest_losses(run: Run, name: str = "train") -> dict[int, float]:
    """By step, the latest attempt's."""
    return {line["step"]: line["loss"] for line in read_jsonl(run.metrics_jsonl(name))}


def events(run: Run) -> list[str]:
    """The names of what happened, in order."""
    return [line["event"] for line in read_jsonl(run.metrics_jsonl("events"))]


def _text(folder: Path) -> dict[str, Any]:
    corpus = folder / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    for number in range(30):
        (corpus / f"{number}.txt").write_text(" ".join(f"word{number * i % 17}" for i in range(20)))
    return {"text": {"files": [str(corpus / "*.txt")]}}


def _pairs(folder: Path) -> dict[str, Any]:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "source.txt").write_text("\n".join(f"number {n} " + "more " * (n % 3) for n in range(60)))
    (folder / "target.txt").write_text("\n".join(f"nombre {n}" + " plus" * (n % 4) for n in range(60)))
    files = {name: str(folder / f"{name.removesuffix('_file')}.txt") for name in ("source_file", "target_file")}
    return {"pairs": {"target_language": "fr_FR", **files}}
