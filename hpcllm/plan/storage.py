"""Checkpoints: how large, how long to write, and how often."""

from __future__ import annotations

import math

from hpcllm.cluster.profile import Profile
from hpcllm.job.spec import Job
from hpcllm.plan.plan import Figure
from hpcllm.plan.ranks import Ranks

FALLBACK_S = 1800.0  # between checkpoints where nobody knows how often nodes fail
FALLBACK_SHARE = 0.1  # of the run, likewise


def figures(profile: Profile, job: Job, ranks: Ranks, step: Figure) -> list[Figure]:
    """Everything about checkpoints."""
    size = checkpoint_bytes(job)
    write = write_s(profile, size)
    stall = stall_s(write)
    mtbf = job_mtbf_s(profile, ranks)
    interval = interval_s(stall, mtbf)
    return [size, write, stall, mtbf, interval, every_steps(job, step, interval)]


def checkpoint_bytes(job: Job) -> Figure:
    """What is needed to go on as if nothing had happened."""
    return Figure.of(
        "checkpoint.bytes", "bytes", "12·N: fp32 weights and two fp32 moments",
        {"num_parameters": job.model.parameters(job.data.tokenizer.most_tokens)}, lambda n: 12 * n,
        "a few kB of counters and generators are left out",
    )  # fmt: skip


def write_s(profile: Profile, size: Figure) -> Figure:
    """Time to write one."""
    name = profile.scratch_name()
    inputs = {size.name: size.value, f"filesystems.{name}.write": profile.scratch().write_bytes_per_s}
    return Figure.of("checkpoint.write_s", "s", "bytes / write rate", inputs, lambda count, rate: count / rate)


def stall_s(write: Figure) -> Figure:
    """How long training waits for it."""
    inputs = {write.name: write.value}
    return Figure.of("checkpoint.stall_s", "s", "write_s: training waits until it is written", inputs, lambda s: s)


def job_mtbf_s(profile: Profile, ranks: Ranks) -> Figure:
    """Mean time until one of the job's nodes fails: μ."""
    key, node_mtbf_s = "reliability.node_mtbf", profile.reliability.node_mtbf_s if profile.reliability else None
    if ranks.node.mtbf_s:
        key, node_mtbf_s = ranks.key("mtbf"), ranks.node.mtbf_s
    inputs = {key: node_mtbf_s, "nodes": ranks.nodes}
    source = "nodes fail independently and at a constant rate"
    return Figure.of("job_mtbf_s", "s", "node_mtbf / nodes", inputs, lambda mtbf, nodes: mtbf / nodes, source)


def interval_s(stall: Figure, mtbf: Figure) -> Figure:
    """Computing time between two checkpoints that loses least: τ."""
    note = "Young 1974"
    if stall.value and mtbf.value and stall.value < 2 * mtbf.value:
        note += f"; Daly 2006, the higher order, says {daly_s(stall.value, mtbf.value):.0f} s"
    inputs = {mtbf.name: mtbf.value, stall.name: stall.value}
    return Figure.of("checkpoint.interval_s", "s", "√(2·μ·C)", inputs, lambda mu, cost: math.sqrt(2 * mu * cost), note)


def daly_s(cost_s: float, mtbf_s: float) -> float:
    """τ to a higher order (Daly 2006, eq. 37), for C below 2·μ."""
    ratio = cost_s / (2 * mtbf_s)
    return math.sqrt(2 * cost_s * mtbf_s) * (1 + math.sqrt(ratio) / 3 + ratio / 9) - cost_s


def every_steps(job: Job, step: Figure, interval: Figure) -> Figure:
    """Steps between checkpoints: the job's word, else Young's interval, else a tenth of the run or half an hour."""
    name, steps, asked = "checkpoint_every_steps", job.train.steps, job.train.checkpoint.every_steps
    if asked is not None:
        return Figure(name, asked, "", "train.checkpoint.every_steps", {"train.checkpoint.every_steps": asked})
    if interval.value is not None and step.value is not None:
        inputs = {interval.name: interval.value, step.name: step.value, "train.steps": steps}
        formula = "interval_s / step.total_s, at most train.steps"
        return Figure.of(name, "", formula, inputs, lambda tau, each, most: min(most, max(1, round(tau / each))))
    tenth = math.ceil(FALLBACK_SHARE * steps)
    if step.value is None:
        inputs = {"train.steps": steps}
        return Figure.of(name, "", "a tenth of the run", inputs, lambda _: tenth, "Young's interval is not known")
    inputs = {"train.steps": steps, step.name: step.value, "seconds": FALLBACK_S}
    return Figure.of(
        name, "", "a tenth of the run, at most half an hour", inputs,
        lambda _, each, seconds: max(1, min(tenth, int(seconds / each))), "Young's interval is not known",
    )  # fmt: skip
