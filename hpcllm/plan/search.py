"""The verdict on a job on a cluster. Pure, and done in milliseconds."""

from __future__ import annotations

from typing import Any

from hpcllm.cluster.probe.preferred import preferring_measured
from hpcllm.cluster.profile import Profile
from hpcllm.cluster.user import NOBODY, User
from hpcllm.job.spec import Job
from hpcllm.plan import fit, goodput, memory, ranks, step_time, storage, strategy
from hpcllm.plan.buckets import bucket_figure
from hpcllm.plan.limits import limits
from hpcllm.plan.plan import Checkpoint, Figure, Memory, Plan, Spread, Step
from hpcllm.plan.queue import under_qos
from hpcllm.plan.ranks import Ranks, place


def search(profile: Profile, job: Job, oversubscribe: bool = False, user: User = NOBODY) -> Plan:
    """Does it fit, by which strategy, how fast, and what limits it.

    A job that does not fit has `fits` False, and its `limits` begin with what is in the way and the nearest job that
    fits. The person's QOS counts where the job names none. Raises UserError for a partition that the cluster does not
    have.
    """
    job = under_qos(profile, job, user)
    profile, measured = preferring_measured(profile)
    placed = place(profile, job)
    spread = strategy.choose(job, placed)
    figures = {name: f.renamed(measured) for name, f in _figures(profile, job, placed, spread).items()}
    misfits = fit.misfits(profile, job, oversubscribe)
    nearest = fit.nearest(profile, job, oversubscribe) if misfits else {}
    reason = strategy.reason(job, placed, spread)
    return _plan(placed, spread, reason, not misfits, figures, limits(job, placed, figures, misfits, nearest))


def _figures(profile: Profile, job: Job, placed: Ranks, spread: Spread) -> dict[str, Figure]:
    """Every figure by its name, in reading order."""
    batch = _micro_batch(job, spread.micro_batch)
    accumulation = _gradient_accumulation(job, placed, spread.micro_batch)
    found = {f.name: f for f in [*ranks.figures(job, placed), batch, accumulation]}
    found |= {f.name: f for f in strategy.figures(job, placed)}
    found |= {f.name: f for f in memory.figures(job, placed, spread)}
    found |= {f.name: f for f in step_time.figures(profile, job, placed, spread)}
    buckets = bucket_figure(profile, job, placed, step_time.gradient_bytes(job), step_time.WIRE_SHARE)
    found[buckets.name] = buckets
    found |= {f.name: f for f in storage.figures(profile, job, placed, found["step.total_s"])}
    found |= {f.name: f for f in goodput.figures(profile, job, placed, found)}
    return found


def _micro_batch(job: Job, micro_batch: int) -> Figure:
    asked = job.train.micro_batch is not None
    formula = "train.micro_batch" if asked else "largest divisor of global_batch / world_size that fits"
    most = strategy.MOST_TOKENS_OF_A_MICRO_BATCH
    note = "" if asked else f"at most {most} tokens; memory is filled to {memory.USABLE_SHARE:.0%} (arXiv:2411.06465)"
    inputs = {"train.micro_batch": micro_batch} if asked else {"train.global_batch": job.train.global_batch}
    return Figure("micro_batch", micro_batch, "", formula, inputs, note)


def _gradient_accumulation(job: Job, placed: Ranks, micro_batch: int) -> Figure:
    inputs = {
        "train.global_batch": job.train.global_batch,
        "world_size": placed.world_size,
        "micro_batch": micro_batch,
    }
    formula = "global_batch / (world_size × micro_batch)"
    value = memory.accumulation(job, placed, micro_batch)
    return Figure.of("gradient_accumulation", "", formula, inputs, lambda *_: value)


def _plan(
    placed: Ranks, spread: Spread, reason: str, fits: bool, figures: dict[str, Figure], limits: tuple[str, ...]
) -> Plan:
    def value(name: str) -> Any:
        return figures[name].value

    def section(prefix: str, *fields: str) -> dict[str, Any]:
        return {field: value(f"{prefix}.{field}") for field in fields}

    return Plan(
        fits=fits,
        world_size=placed.world_size,
        nodes=placed.nodes,
        strategy=spread.strategy,
        strategy_reason=reason,
        micro_batch=spread.micro_batch,
        gradient_accumulation=value("gradient_accumulation"),
        whole_gradients=spread.whole_gradients,
        bucket_bytes=value("bucket_bytes"),
        activation_checkpointing=False,
        memory_per_gpu_bytes=Memory(**section("memory_per_gpu_bytes", *Memory.__annotations__)),
        step=Step(**section("step", *Step.__annotations__)),
        tokens_per_s=value("tokens_per_s"),
        tokens_per_s_per_gpu=value("tokens_per_s_per_gpu"),
        mfu=value("mfu"),
        checkpoint=Checkpoint(**section("checkpoint", *Checkpoint.__annotations__)),
        goodput=value("goodput"),
        chained_jobs=value("chained_jobs"),
        gpu_hours=value("gpu_hours"),
        limits=limits,
        partition=placed.partition,
        checkpoint_every_steps=value("checkpoint_every_steps"),
        total_s=value("total_s"),
        figures=tuple(figures.values()),
    )
