"""A job that does not fit: what is in the way, and a nearest job that does fit when it is tried."""

from typing import Any

import pytest
from described import cluster, gpt2, translation
from hypothesis import given, settings
from hypothesis import strategies as st

from hpcllm.plan.fit import changed, nearest
from hpcllm.plan.search import search


@pytest.mark.parametrize(
    ("changes", "reason", "fits_with"),
    [
        (
            {"resources.nodes": 20, "train.global_batch": 640},
            "resources.nodes: 20 nodes asked, partition gpu has 16 for a job; partition short or small or cpu allows",
            "resources.nodes: 16",
        ),
        (
            {"resources.time_s": 48 * 3600.0},
            "resources.time: 2 d asked, partition gpu ends a job after 1 d",
            "resources.time: 24h",
        ),
        (
            {"train.global_batch": 500},
            "train.global_batch: 500 does not divide by 16 ranks; 496 and 512 would; 500 does on 1 or 5 nodes",
            "train.global_batch: 496",
        ),
        (
            {"train.micro_batch": 24},
            "train.micro_batch: 24 does not divide a rank's share of the global batch, 32",
            "train.micro_batch: 16",
        ),
        (
            {"train.micro_batch": 256, "train.global_batch": 4096},
            "memory: ",
            "train.micro_batch: 32",
        ),
        (
            {"resources.gpus_per_node": 8},
            "resources.gpus_per_node: 8 asked; a node has 4 (nodes.a100.gpus)",
            "resources.gpus_per_node: 4",
        ),
        (
            {"slurm.partition": "cpu", "resources.ranks_per_node": 256},
            "resources.ranks_per_node: 256 ranks on a node with 128 cores (--oversubscribe",
            "resources.ranks_per_node: 64",  # 128 would have their cores, and too little memory
        ),
        (
            {"model.layers": 96, "model.width": 12288, "model.feed_forward": 49152, "model.heads": 96},
            "memory: ",
            "model.layers: ",
        ),
    ],
)  # fmt: skip
def test_it_says_what_is_in_the_way_and_what_would_do(changes: dict[str, Any], reason: str, fits_with: str):
    plan = search(cluster(), gpt2(changes))

    assert not plan.fits
    assert plan.limits[0].startswith(reason)
    assert plan.limits[-1].startswith(f"nearest that fits: {fits_with}")


def test_too_large_for_one_gpu_but_not_for_another_names_the_partition():
    # 24 billion parameters take 25 GiB on each of 16 ranks before the first layer is gathered.
    large = gpt2({"model.layers": 48, "model.width": 6400, "model.heads": 50, "model.feed_forward": 25600})

    plan = search(cluster(), changed(large, {"slurm.partition": "small"}))

    assert plan.limits[-1] == "nearest that fits: slurm.partition: gpu"


def test_oversubscribing_is_allowed_when_asked_for():
    job = gpt2({"slurm.partition": "cpu", "resources.ranks_per_node": 256, "resources.nodes": 1, "model.layers": 1})

    assert not search(cluster(), job).fits
    assert search(cluster({"nodes.cpu.memory": "4TiB"}), job, oversubscribe=True).fits


def test_a_node_too_small_for_anything_says_that_nothing_fits():
    plan = search(
        cluster({"nodes.cpu.memory": "100MiB"}), gpt2({"slurm.partition": "cpu", "resources.gpus_per_node": 0})
    )

    assert not plan.fits
    assert plan.limits[-1].startswith("nearest that fits: ")


jobs = st.fixed_dictionaries(
    {
        "resources.nodes": st.integers(1, 300),
        "resources.ranks_per_node": st.none() | st.integers(1, 200),
        "resources.gpus_per_node": st.none() | st.integers(0, 12),
        "resources.time_s": st.sampled_from([60.0, 7200.0, 1e6]),
        "train.global_batch": st.integers(1, 5000),
        "train.micro_batch": st.none() | st.integers(1, 300),
        "model.layers": st.integers(1, 200),
        "model.context": st.sampled_from([1, 100, 1024, 65536]),
        "slurm.partition": st.sampled_from([None, "gpu", "short", "small", "cpu"]),
        "train.strategy": st.sampled_from(["auto", "ddp", "zero1", "hsdp", "fsdp"]),
    }
)


@settings(max_examples=60, deadline=None)
@given(changes=jobs, seq2seq=st.booleans())
def test_the_nearest_that_fits_does_fit_when_it_is_tried(changes: dict[str, Any], seq2seq: bool):
    job = (translation if seq2seq else gpt2)(changes)
    plan = search(cluster(), job)

    if plan.fits:
        assert not any(limit.startswith("nearest") for limit in plan.limits)
    else:
        found = nearest(cluster(), job)
        assert found, plan.limits
        assert search(cluster(), changed(job, found)).fits
