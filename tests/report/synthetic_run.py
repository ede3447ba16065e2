"""A run directory as a finished run leaves it, written through the real records, for the report to read."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

from hpcllm import source
from hpcllm.cluster.profile import Profile
from hpcllm.job.spec import CommandJob, Job, load_job
from hpcllm.launch.pipeline import stages
from hpcllm.plan.plan import Checkpoint, Figure, Memory, Plan, Step
from hpcllm.run_directory import FORMAT, Run, append_jsonl, write_json

JOBS = Path(__file__).parents[2] / "jobs"
START = 1_770_000_000.0

PROFILE = """
name: laptop
verified: {how: on-site, date: 2026-02-01}
scheduler: {kind: local}
nodes: {here: {count: 1, cores: 2, memory: 8GiB, flops: 200 GFLOP/s}}
fabric: {kind: none}
filesystems: {disk: {kind: local, path: /tmp}}
software: {mpi: {flavour: mpich, launcher: [mpirun]}}
"""

PLAN = Plan(
    fits=True, world_size=2, nodes=1, strategy="ddp", strategy_reason="fits",
    micro_batch=8, gradient_accumulation=1, whole_gradients=True, bucket_bytes=25 << 20,
    activation_checkpointing=False,
    memory_per_gpu_bytes=Memory(17 << 20, 17 << 20, 34 << 20, 230 << 20, 128 << 20, 300 << 20, 726 << 20, 4 << 30),
    step=Step(0.52, 0.021, None, 0.545), tokens_per_s=7515.0, tokens_per_s_per_gpu=None, mfu=0.61,
    checkpoint=Checkpoint(51_000_000, 0.4, 0.4, 110.0), goodput=0.99, chained_jobs=1, gpu_hours=None,
    limits=("compute: 95 % of a step", "memory: 18 % of 4 GiB"), partition=None,
    checkpoint_every_steps=200, total_s=327.0,
    figures=(
        Figure("tokens_per_step", 4096, "tokens", "global_batch × context", {}),
        Figure("step.compute_s", 0.52, "s", "flops_per_token × tokens / flops_per_s", {"tokens": 4096}, "PaLM, app. B"),
        Figure("step.data_s", None, "s", "bytes_of_a_step / read rate", {"bytes_of_a_step": 8192, "rate": None}),
        Figure("rate", None, "B/s", "read rate of the scratch filesystem", {"filesystems.disk.read": None}),
    ),
)  # fmt: skip

SOFTWARE = {
    "version": "0.1.0", "commit": "0a1b2c3", "dirty": True, "code_sha256": "5f" * 32, "python": "3.11.2",
    "pip_freeze": ["numpy==2.4.0", "rich==14.0.0", "torch==2.13.0"],
}  # fmt: skip

STDLIB_TEXT = '(self, size=-1):\n    """Read up to size bytes and return them."""\n    return self.raw.read(size)\n'


def new_run(root: Path, job: Job | CommandJob, profile: str = PROFILE) -> Run:
    """A rendered run that has not started."""
    data, positions = source.parse(profile, "profile.yaml")
    frozen = source.check(data, Profile, "profile.yaml", positions)
    run = Run(root)
    dump = {"mode": "json", "by_alias": True}
    write_json(
        run.resolved_json, {"format": FORMAT, "profile": frozen.model_dump(**dump), "job": job.model_dump(**dump)}
    )
    write_json(run.plan_json, PLAN.to_json())
    write_json(run.software_json, SOFTWARE)
    sizes = {"train": (441, 2_310_000), "validation": (25, 118_400), "test": (24, 117_900)}
    parts = {name: {"documents": documents, "tokens": tokens} for name, (documents, tokens) in sizes.items()}
    write_json(run.index_json, {"format": 1, "parts": parts})
    return run


def write_training(run: Run, steps: int = 600, floor: float = 3.1, interrupted_at: int | None = 260) -> None:
    """Metrics of a training that was killed once, lost sixty steps, and went on from its checkpoint."""
    chance = random.Random(7)
    legs = [(1, 1, interrupted_at), (2, interrupted_at - 59, steps)] if interrupted_at else [(1, 1, steps)]
    now = START + 30
    for attempt, first, last in legs:
        start = (
            {"event": "start", "precision": "bf16", "reason": "measured", "threads": 1}
            if attempt == 1
            else {"event": "resumed", "step": first - 1}
        )
        append_jsonl(run.metrics_jsonl("events"), {"attempt": attempt, "time": now, **start})
        for step in range(first, last + 1):
            now += _write_step(run, attempt, step, steps, floor, now, chance)
        ended = last == steps
        end = {"event": "end", "memory_peak_bytes": 811 << 20} if ended else {"event": "interrupted", "step": last}
        append_jsonl(run.metrics_jsonl("events"), {"attempt": attempt, "time": now, **end})
        now += 40


def _write_step(
    run: Run, attempt: int, step: int, steps: int, floor: float, now: float, chance: random.Random
) -> float:
    seconds = 0.58 + chance.gauss(0, 0.02) + (0.9 if step < 3 else 0) + (0.35 if step % 97 == 0 else 0)
    loss = floor + 5.2 * math.exp(-step / 45) + 0.6 * math.exp(-step / 250) + chance.gauss(0, 0.07)
    line = {
        "attempt": attempt,
        "step": step,
        "loss": loss,
        "targets": 4096,
        "learning_rate": 2e-3,
        "gradient_norm": 0.9,
    }
    times = {"step_s": seconds, "data_s": 0.004, "compute_s": 0.9 * seconds, "communication_s": 0.06 * seconds}
    line |= {**times, "checkpoint_s": 0.0, "tokens_per_s": 4096 / seconds, "time": now + seconds}
    append_jsonl(run.metrics_jsonl("train"), line)
    common = {"attempt": attempt, "step": step, "time": now + seconds}
    if step % 100 == 0 or step == steps:
        append_jsonl(run.metrics_jsonl("validation"), {**common, "loss": loss + 0.14})
    if step % 200 == 0:
        append_jsonl(
            run.metrics_jsonl("events"), {**common, "event": "checkpoint", "bytes": 50_880_000, "write_s": 0.61}
        )
    return seconds


def write_result(run: Run, model: str, task: str, value: float | None, unit: str, **details: Any) -> None:
    """One evaluation."""
    document = {
        "name": f"{model}/{task}", "metric": task, "value": value, "unit": unit,
        "computed_on": "test part, 24 documents",
        "signature": f"{task}|tok:bpe-4096|n:118034|v:0.1.0", "command": "hpcllm stage evaluate RUN",
        "commit": "0a1b2c3", "details": details,
    }  # fmt: skip
    write_json(run.result_json(model, task), document)


def write_states(run: Run, job: Job, upto: str = "gather", last_outcome: str = "done", message: str = "") -> None:
    """States of the stages in order, up to and with `upto`."""
    now = START
    for stage, seconds in zip(stages(job), (6.2, 11.4, 418, 31, 4.4, 33, 1.1), strict=False):
        is_last = stage.name == upto
        outcome = last_outcome if is_last else "done"
        write_json(run.state_json(stage.id), {
            "stage": stage.name, "key": "k", "attempt": 2 if stage.name == "train" else 1, "outcome": outcome,
            "message": message if is_last else "", "exit_code": 0, "job_id": None, "host": "node1", "pid": 1,
            "world_size": 2 if stage.ranks == "all" else 1, "hosts": ["node1"], "start": now,
            "end": None if outcome == "running" else now + seconds,
        })  # fmt: skip
        now += seconds + 1.3
        if is_last:
            return


def write_text_results(run: Run) -> None:
    """What the evaluation of a language model leaves."""
    for model, bits, perplexity in (
        ("trained", 2.134, 24.61),
        ("compressed", 2.141, 24.83),
        ("untrained", 5.52, 4163.0),
    ):
        write_result(run, model, "bits-per-byte", bits, "bits/byte")
        write_result(run, model, "perplexity", perplexity, "")
    write_result(run, "xz", "bits-per-byte", 1.712, "bits/byte")
    for model, size, speed in (("trained", 17_120_000, 412.0), ("compressed", 4_510_000, 388.0)):
        write_result(run, model, "size", size, "bytes")
        write_result(run, model, "decoding-speed", speed, "tokens/s")
        samples = [
            {"prompt": "def read(", "text": STDLIB_TEXT},
            {"prompt": "The following example shows how to", "text": " use the module from the command line. " * 4},
        ]
        write_result(run, model, "samples", None, "", samples=samples)


def write_pair_results(run: Run) -> None:
    """What the evaluation of a translation model leaves."""
    for model, value in (("trained", 14.32), ("compressed", 13.9), ("copied", 5.31), ("untrained", 0.02)):
        write_result(run, model, "bleu", value, "")
    for model, perplexity in (("trained", 31.2), ("compressed", 31.9), ("untrained", 4390.0)):
        write_result(run, model, "perplexity", perplexity, "")
    samples = [
        {"prompt": "Close All Tabs", "text": "关闭所有标签页", "reference": "关闭所有标签页"},
        {"prompt": "Could not find the path to open.", "text": "无法找到要打开的文件。",
         "reference": "找不到要打开的路径。"},
        {"prompt": "Run Selected Cell or Current Line in Console", "text": "在控制台中运行选中的单元格",
         "reference": "在控制台中运行选中的单元格或当前行"},
    ]  # fmt: skip
    write_result(run, "trained", "samples", None, "", samples=samples)
    for model, size, speed in (("trained", 36_400_000, 205.0), ("compressed", 9_500_000, 191.0)):
        write_result(run, model, "size", size, "bytes")
        write_result(run, model, "decoding-speed", speed, "tokens/s")


def demo_run(root: Path) -> Run:
    """jobs/demo.yaml with 600 steps, finished."""
    job = shipped_job("demo.yaml")
    run = new_run(root, job)
    write_training(run)
    write_text_results(run)
    write_states(run, job)
    return run


def translate_run(root: Path) -> Run:
    """jobs/translate.yaml with 600 steps, finished."""
    job = shipped_job("translate.yaml")
    run = new_run(root, job)
    write_json(run.plan_json, replace(PLAN, tokens_per_s=2400.0).to_json())
    write_training(run, floor=3.4, interrupted_at=None)
    write_pair_results(run)
    write_states(run, job)
    return run


def shipped_job(name: str) -> Job:
    """One of jobs/, with 600 steps whatever the example has."""
    job = load_job(JOBS / name)
    return job.model_copy(update={"train": job.train.model_copy(update={"steps": 600})})
