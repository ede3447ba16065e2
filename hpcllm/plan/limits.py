"""What bounds a job, in sentences: what is in its way, what is tightest, and what is not known."""

from __future__ import annotations

from typing import Any

from hpcllm.job.spec import Job
from hpcllm.plan.fit import Misfit
from hpcllm.plan.memory import USABLE_SHARE
from hpcllm.plan.plan import Figure
from hpcllm.plan.ranks import Ranks
from hpcllm.units import format_bytes, format_seconds, yaml_key

Figures = dict[str, Figure]

# What cannot be said without an input that nobody gave.
ASKED = {
    "step.compute_s": "computing",
    "communication_s": "communication",
    "step.data_s": "reading",
    "checkpoint.write_s": "checkpoints",
    "job_mtbf_s": "goodput",
}


def limits(
    job: Job, ranks: Ranks, figures: Figures, misfits: list[Misfit], nearest: dict[str, Any] | None
) -> tuple[str, ...]:
    """Misfits and the nearest job that fits; then the bounds, tightest first; then what is unknown, and why."""
    if misfits:
        return (*(misfit.reason for misfit in misfits), nearest_text(nearest))
    bounds = [_memory(ranks, figures), *_step(figures), *_time(job, ranks, figures)]
    return (*(text for _, text in sorted(bounds, reverse=True)), *unknown(figures))


def nearest_text(changes: dict[str, Any] | None) -> str:
    """`nearest that fits: resources.nodes: 4, train.micro_batch: 2`, as the job file says it."""
    if changes is None:
        return "nearest that fits: none on this cluster without another model"
    return "nearest that fits: " + ", ".join(f"{_key(path)}: {_value(path, value)}" for path, value in changes.items())


def unknown(figures: Figures) -> list[str]:
    """A line for each input that nobody gave, naming what waits for it."""
    waiting: dict[str, list[str]] = {}
    for name, what in ASKED.items():
        for key in missing(figures[name], figures):
            waiting.setdefault(key, []).append(what)
    return [f"unknown: {', '.join(what)}: {_needs(key, figures)}" for key, what in waiting.items()]


def missing(figure: Figure, figures: Figures) -> list[str]:
    """The inputs at the bottom of an unknown figure that are not known themselves."""
    if figure.value is not None:
        return []
    found: list[str] = []
    for name, value in figure.inputs.items():
        if value is None:
            found += missing(figures[name], figures) if name in figures else [name]
    return list(dict.fromkeys(found))


def _needs(key: str, figures: Figures) -> str:
    speed = figures["matmul_flops_per_s"]
    if key.endswith("gpus.model") and speed.value is None:
        return f"{key} {speed.source.removeprefix('unknown: ')}"
    return f"needs {key}"


def _memory(ranks: Ranks, figures: Figures) -> tuple[float, str]:
    total = figures["memory_per_gpu_bytes.total"].value or 0
    capacity = figures["memory_per_gpu_bytes.capacity"].value or 1
    share, whose = total / capacity, "GPU" if ranks.on_gpus else "rank"
    text = f"memory: {share:.0%} of {format_bytes(capacity)} a {whose} ({USABLE_SHARE:.0%} can be used)"
    return share / USABLE_SHARE, text


def _step(figures: Figures) -> list[tuple[float, str]]:
    total = figures["step.total_s"].value
    if not total:
        return []
    names = {"compute": "step.compute_s", "communication": "step.exposed_communication_s", "data": "step.data_s"}
    shares = {what: (figures[name].value or 0) / total for what, name in names.items()}
    return [(share, f"{what}: {share:.0%} of a step") for what, share in shares.items() if share >= 0.01]


def _time(job: Job, ranks: Ranks, figures: Figures) -> list[tuple[float, str]]:
    total, chained = figures["total_s"].value, figures["chained_jobs"].value
    if total is None or chained is None or ranks.limits is None:
        return []
    share = total / job.resources.time_s
    jobs = "one job" if chained == 1 else f"{chained:.0f} jobs one after another"
    text = f"time: {format_seconds(total)} of training in {jobs} of {format_seconds(job.resources.time_s)}"
    if chained > job.slurm.max_requeues + 1:
        text += f"; slurm.max_requeues: {job.slurm.max_requeues} is too few for that"
    return [(share, text)]


def _key(path: str) -> str:
    head, _, field = path.rpartition(".")
    return f"{head}.{yaml_key(field)}"


def _value(path: str, value: Any) -> str:
    if not path.endswith("_s"):
        return str(value)
    for seconds, unit in ((3600, "h"), (60, "m")):
        if value % seconds == 0:
            return f"{value // seconds:.0f}{unit}"
    return f"{value!r}s"
