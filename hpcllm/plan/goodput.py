"""How long the whole training takes, what of that time is training, and what it costs."""

from __future__ import annotations

import math

from hpcllm.cluster.profile import Profile
from hpcllm.job.spec import Job
from hpcllm.plan.plan import Figure
from hpcllm.plan.ranks import Ranks

RESTART_S = 120.0  # assumption: requeue, imports, preflight and reading the checkpoint, without waiting in the queue


def figures(profile: Profile, job: Job, ranks: Ranks, known: dict[str, Figure]) -> list[Figure]:
    """Everything about the whole run, from the figures of a step and of a checkpoint."""
    work = work_s(job, known["step.total_s"])
    saving = saving_s(job, known["checkpoint_every_steps"], known["checkpoint.stall_s"])
    failing = failing_share(job, known)
    total = total_s(work, saving, failing)
    hours = gpu_hours(ranks, total)
    found = [work, saving, failing, total, goodput(work, total, failing), chained_jobs(job, ranks, total), hours]
    return [*found, *cost(profile, job, ranks, total)]


def work_s(job: Job, step: Figure) -> Figure:
    """The steps alone."""
    inputs = {"train.steps": job.train.steps, step.name: step.value}
    return Figure.of("work_s", "s", "steps × step.total_s", inputs, lambda steps, each: steps * each)


def saving_s(job: Job, every: Figure, stall: Figure) -> Figure:
    """Waiting for checkpoints; the last step has one too."""
    return Figure.of(
        "saving_s", "s", "⌈steps / checkpoint_every_steps⌉ × stall_s",
        {"train.steps": job.train.steps, every.name: every.value, stall.name: stall.value},
        lambda steps, every, each: math.ceil(steps / every) * each,
    )  # fmt: skip


def failing_share(job: Job, known: dict[str, Figure]) -> Figure:
    """Share of time lost to failures: each loses half an interval and a restart."""
    step, every = known["step.total_s"], known["checkpoint_every_steps"]
    return Figure.of(
        "failing_share", "", "min(1, (checkpoint_every_steps × step.total_s / 2 + restart_s) / job_mtbf_s)",
        {
            every.name: every.value,
            step.name: step.value,
            "restart_s": RESTART_S,
            "job_mtbf_s": known["job_mtbf_s"].value,
        },
        lambda every, each, restart, mtbf: min(1.0, (every * each / 2 + restart) / mtbf),
        "Young 1974, first order; restart_s is an assumption",
    )  # fmt: skip


def total_s(work: Figure, saving: Figure, failing: Figure) -> Figure:
    """The whole training. Unknown where failures come faster than it moves on."""
    terms = [figure for figure in (work, saving) if figure is work or figure.value is not None]
    formula, inputs = " + ".join(figure.name for figure in terms), {figure.name: figure.value for figure in terms}
    note = "" if saving in terms else "without checkpoints, whose write rate is not known"
    if failing.value is None:
        left_out = (
            "without failures: reliability.node_mtbf is not known" if saving in terms else f"{note}, and failures"
        )
        return Figure.of("total_s", "s", formula, inputs, lambda *parts: sum(parts), left_out)
    inputs[failing.name] = failing.value
    formula = f"({formula}) / (1 − failing_share)"
    if failing.value >= 1:
        return Figure("total_s", None, "s", formula, inputs, "it never ends: failures come faster than it moves on")
    return Figure.of("total_s", "s", formula, inputs, lambda *parts: sum(parts[:-1]) / (1 - parts[-1]), note)


def goodput(work: Figure, total: Figure, failing: Figure) -> Figure:
    """Share of the time that moves the training on."""
    inputs = {work.name: work.value, total.name: total.value, failing.name: failing.value}
    if failing.value is not None and failing.value >= 1:
        return Figure("goodput", 0.0, "", "0: failures come faster than it moves on", inputs)
    return Figure.of("goodput", "", "work_s / total_s", inputs, lambda work, total, _: work / total)


def chained_jobs(job: Job, ranks: Ranks, total: Figure) -> Figure:
    """How many jobs of the queue one after another, each as long as was asked for."""
    if ranks.limits is None:
        return Figure("chained_jobs", 1, "", "no scheduler, no limit of time", {})
    inputs = {total.name: total.value, "resources.time": job.resources.time_s}
    if math.isfinite(ranks.limits.max_time_s):
        inputs[f"scheduler.partitions.{ranks.partition}.max_time"] = ranks.limits.max_time_s
    return Figure.of(
        "chained_jobs", "", "⌈total_s / min(resources.time, max_time)⌉", inputs,
        lambda total, *limits: max(1, math.ceil(total / min(limits))), "the queue is not counted",
    )  # fmt: skip


def gpu_hours(ranks: Ranks, total: Figure) -> Figure:
    """GPUs × hours of the training."""
    if not ranks.on_gpus:
        return Figure("gpu_hours", None, "h", "no GPUs", {})
    inputs = {"world_size": ranks.world_size, total.name: total.value}
    return Figure.of("gpu_hours", "h", "world_size × total_s / 3600", inputs, lambda n, seconds: n * seconds / 3600)


def cost(profile: Profile, job: Job, ranks: Ranks, total: Figure) -> list[Figure]:
    """Of the training, and the most that one job of the queue can cost; nothing where the site names no price.

    In the site's unit. What these nodes cost comes before what nodes do.
    """
    price, key = (ranks.node.price, ranks.key("price")) if ranks.node.price else (profile.price, "price")
    if price is None or (price.gpu_hour is None and price.node_hour is None):
        return []
    by_gpu = price.gpu_hour is not None and ranks.on_gpus
    what, count = ("gpu_hour", ranks.world_size) if by_gpu else ("node_hour", ranks.nodes)
    inputs = {f"{key}.{what}": price.gpu_hour if by_gpu else price.node_hour, "count": count}

    def of(name: str, time: str, seconds: float | None) -> Figure:
        formula = f"{what} × count × {time} / 3600"
        return Figure.of(name, price.unit, formula, {**inputs, time: seconds}, lambda each, n, s: each * n * s / 3600)

    return [of("cost", total.name, total.value), of("cost_of_a_job", "resources.time", job.resources.time_s)]
