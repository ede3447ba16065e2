"""What holds for every plan: more never hurts, less never helps."""

from typing import Any

from described import cluster, gpt2, translation
from hypothesis import given, settings
from hypothesis import strategies as st

from hpcllm.plan import memory
from hpcllm.plan.plan import Spread
from hpcllm.plan.ranks import place
from hpcllm.plan.search import search
from hpcllm.plan.strategy import choose

partitions = st.sampled_from(["gpu", "small", "cpu"])
rates = st.integers(1, 3200)


@settings(deadline=None, max_examples=50)
@given(partition=partitions, micro_batch=st.integers(1, 500), more=st.integers(1, 500), seq2seq=st.booleans())
def test_a_larger_micro_batch_never_takes_less_memory(partition: str, micro_batch: int, more: int, seq2seq: bool):
    job = (translation if seq2seq else gpt2)({"slurm.partition": partition})
    ranks = place(cluster(), job)

    smaller, larger = (memory.of(job, ranks, Spread("ddp", b)).total for b in (micro_batch, micro_batch + more))

    assert smaller < larger


@settings(deadline=None, max_examples=50)
@given(partition=partitions, slow=rates, faster=rates, key=st.sampled_from(["fabric.rate", "filesystems.scratch.read"]))
def test_more_bandwidth_never_makes_a_step_slower(partition: str, slow: int, faster: int, key: str):
    job = gpt2({"slurm.partition": partition})

    before, after = (step_s(job, {key: f"{rate}Gb/s"}) for rate in (slow, slow + faster))

    assert after <= before


def step_s(job: Any, changes: dict[str, Any]) -> float:
    total_s = search(cluster(changes), job).step.total_s
    assert total_s is not None
    return total_s


@settings(deadline=None, max_examples=50)
@given(partition=partitions, batch=st.integers(1, 64))
def test_the_chosen_micro_batch_divides_and_fits(partition: str, batch: int):
    job = gpt2({"slurm.partition": partition, "train.global_batch": 32 * batch})
    ranks = place(cluster(), job)

    chosen = choose(job, ranks)

    assert job.train.global_batch % (ranks.world_size * chosen.micro_batch) == 0
    assert memory.fits(job, ranks, chosen)
