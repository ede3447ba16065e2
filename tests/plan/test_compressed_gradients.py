"""What a plan makes of gradients that travel in bf16."""

import pytest
from described import cluster, gpt2

from hpcllm import source
from hpcllm.errors import SourceError
from hpcllm.job.spec import Train
from hpcllm.plan.search import search

COMPRESSED = {"train.gradient_compression": "bf16-feedback"}


def test_they_take_half_of_the_time_on_the_wire_and_more_memory():
    plain, compressed = (search(cluster({"fabric.latency": "0s"}), gpt2(changes)) for changes in ({}, COMPRESSED))

    across = [
        next(f.value for f in plan.figures if f.name == "communication.across_nodes_s") for plan in (plain, compressed)
    ]
    assert across[1] == pytest.approx(across[0] / 2)
    assert compressed.memory_per_gpu_bytes.gradients == plain.memory_per_gpu_bytes.gradients * 10 // 4


def test_auto_takes_no_strategy_that_cannot_compress():
    small = {"nodes.a100.gpus": {"model": "A100-80GB", "count": 4, "memory": "2GiB"}}

    assert search(cluster(small), gpt2()).strategy not in ("ddp", "zero1")
    assert search(cluster(small), gpt2(COMPRESSED)).strategy in ("ddp", "zero1")


def test_a_sharded_strategy_beside_them_is_a_contradiction():
    asked = {"steps": 1, "global_batch": 1, "strategy": "fsdp", "gradient_compression": "bf16"}

    with pytest.raises(SourceError, match="found bf16 with strategy fsdp; it goes with auto, ddp and zero1"):
        source.check(asked, Train, "job.yaml", {})
