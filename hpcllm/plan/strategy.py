"""Which strategy, and which micro-batch: the first that fits, by what the ranks exchange."""

from __future__ import annotations

from collections.abc import Iterator

from hpcllm.job.spec import Job
from hpcllm.plan import memory
from hpcllm.plan.plan import Figure, Spread
from hpcllm.plan.ranks import Ranks
from hpcllm.units import format_bytes

ORDER = ("ddp", "zero1", "hsdp", "fsdp")  # what ranks exchange grows, above all between nodes, and what they hold falls
MOST_TOKENS_OF_A_MICRO_BATCH = 32_768  # larger ones make no matmul faster
PREFIX = "memory_by_strategy."


def choose(job: Job, ranks: Ranks) -> Spread:
    """The first strategy that fits, with the largest micro-batch that does; if none fits, what takes the least."""
    for strategy in possible(job, ranks):
        ways = list(_ways(job, ranks, strategy))
        if memory.fits(job, ranks, ways[-1]):  # it takes the least, so without it none fits
            return next(spread for spread in ways if memory.fits(job, ranks, spread))
    return ways[-1]


def fits(job: Job, ranks: Ranks, micro_batch: int) -> bool:
    """Whether any strategy that the job may take fits with this micro-batch."""
    with_it = job.model_copy(update={"train": job.train.model_copy(update={"micro_batch": micro_batch})})
    return memory.fits(job, ranks, choose(with_it, ranks))


def possible(job: Job, ranks: Ranks) -> list[str]:
    """The job's own, or all that differ on these ranks. HSDP is FSDP on one node, and DDP with one rank a node."""
    if job.train.strategy != "auto":
        return [job.train.strategy]
    if ranks.world_size == 1:
        return ["ddp"]
    if job.train.gradient_compression != "none":
        return ["ddp", "zero1"]
    return [name for name in ORDER if name != "hsdp" or (ranks.nodes > 1 and ranks.per_node > 1)]


def _ways(job: Job, ranks: Ranks, strategy: str) -> Iterator[Spread]:
    """Larger micro-batches first: fewer of them gather the weights fewer times."""
    is_sharded = memory.shards(strategy, ranks) > 1
    for micro_batch in [job.train.micro_batch] if job.train.micro_batch else micro_batches(job, ranks):
        yield Spread(strategy, micro_batch)
        if is_sharded and memory.accumulation(job, ranks, micro_batch) > 1:
            yield Spread(strategy, micro_batch, whole_gradients=False)


def micro_batches(job: Job, ranks: Ranks) -> list[int]:
    """The divisors of a rank's share of the global batch, largest first, up to where larger ones gain nothing."""
    share = max(1, job.train.global_batch // ranks.world_size)
    most = max(1, MOST_TOKENS_OF_A_MICRO_BATCH // job.model.context)
    return [b for b in range(min(share, most), 0, -1) if share % b == 0]


def figures(job: Job, ranks: Ranks) -> list[Figure]:
    """What each strategy that was looked at would take, with the micro-batch that is its best."""
    return [_memory_of(job, ranks, strategy) for strategy in possible(job, ranks)]


def _memory_of(job: Job, ranks: Ranks, strategy: str) -> Figure:
    spread = _best(job, ranks, strategy)
    terms = {
        figure.name.removeprefix(memory.PREFIX): figure.value
        for figure in memory.figures(job, ranks, spread)
        if figure.name.startswith(memory.PREFIX) and not figure.name.endswith(("total", "capacity"))
    }
    return Figure.of(
        PREFIX + strategy, "bytes", " + ".join(terms), terms, lambda *values: sum(values),
        f"at micro-batch {spread.micro_batch}",
    )  # fmt: skip


def _best(job: Job, ranks: Ranks, strategy: str) -> Spread:
    return choose(job.model_copy(update={"train": job.train.model_copy(update={"strategy": strategy})}), ranks)


def reason(job: Job, ranks: Ranks, chosen: Spread) -> str:
    """Why it is this one, in a few words."""
    if job.train.strategy != "auto":
        return "train.strategy"
    if ranks.world_size == 1:
        return "one rank"
    if not memory.fits(job, ranks, chosen):
        return "takes the least memory; none fits"
    passed = [name for name in possible(job, ranks) if ORDER.index(name) < ORDER.index(chosen.strategy)]
    if not passed:
        return "fits, and ranks exchange least"
    needs = [f"{name} takes {format_bytes(memory.of(job, ranks, _best(job, ranks, name)).total)}" for name in passed]
    usable = format_bytes(memory.USABLE_SHARE * ranks.memory_bytes)
    return f"the first that fits: {', '.join(needs)} of {usable} that can be used"
